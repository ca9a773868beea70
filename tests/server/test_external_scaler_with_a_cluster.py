# SPDX-License-Identifier: Apache-2.0
"""The first sync that a call waits for: workloads, node labels and peers."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.evaluate.observation import ObservationState, PodObservation
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.reading_interest import ReadingInterest
from keda_gpu_scaler.core.types import Unavailable
from keda_gpu_scaler.server import evaluator as evaluator_module
from keda_gpu_scaler.server import preparation as interest_module
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.fakes import FakeCluster, FakePeers, ManualClock, node_history, pod, sample, workload
from tests.limits import WAIT_SECONDS

OBSERVED = node_history("gpu-7", sample(0, 0.92), held={"GPU-0000": "llama-0"})


class Bench:
    """A scaler in a cluster with one workload, whose only GPU is at 92 %."""

    def __init__(self, cluster: FakeCluster, peers: FakePeers) -> None:
        self.cluster, self.peers = cluster, peers
        fleet = Fleet(OBSERVED, 10.0)
        self.clock = ManualClock()
        self.performance = ReadingInterest()
        self.scaler = ExternalScaler(lambda: fleet, self.clock, cluster, peers, performance=self.performance)
        self.stub: Any = None

    def metrics(self, **metadata: str) -> Any:
        ref = pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=metadata)
        return self.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref))


def on(bench: Bench, talk: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((bench.scaler.handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(WAIT_SECONDS):
            bench.stub = pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]
            await talk(bench)
        await server.stop(None)

    asyncio.run(run())


async def reached(cluster: FakeCluster) -> None:
    """Return once a call has reached the cluster."""
    while not cluster.asked:
        await asyncio.sleep(0)


KNOWN = workload(pod("llama-0"))


def test_the_first_call_waits_until_the_workload_was_read() -> None:
    async def talk(bench: Bench) -> None:
        call = asyncio.ensure_future(bench.metrics())
        await reached(bench.cluster)
        assert not call.done()
        bench.cluster.report(KNOWN)
        assert (await call).metricValues[0].metricValueFloat == 92.0

    on(Bench(FakeCluster(), FakePeers()), talk)


def test_the_first_call_with_a_node_selector_waits_for_the_labels() -> None:
    cluster = FakeCluster(llama=KNOWN)
    cluster.labels = Unavailable("nodes: not read yet", is_permanent=False)

    async def talk(bench: Bench) -> None:
        call = asyncio.ensure_future(bench.metrics(nodeSelector="pool=a"))
        await reached(bench.cluster)
        bench.cluster.labels = {"gpu-7": {"pool": "a"}}
        assert (await call).metricValues[0].metricValueFloat == 92.0

    on(Bench(cluster, FakePeers()), talk)


def test_a_call_does_not_wait_for_labels_that_are_forbidden() -> None:
    cluster = FakeCluster(llama=KNOWN)
    cluster.labels = Unavailable("nodes: forbidden", is_permanent=True)

    async def talk(bench: Bench) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bench.metrics(nodeSelector="pool=a")
        assert "nodes: forbidden" in (caught.value.details() or "")

    on(Bench(cluster, FakePeers()), talk)


def test_law_2_a_call_waits_at_most_a_second_for_a_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest_module, "SYNC_SECONDS", 0.01)

    async def talk(bench: Bench) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bench.metrics()
        assert "ai/llama: not read yet" in (caught.value.details() or "")

    on(Bench(FakeCluster(), FakePeers()), talk)


def test_law_2_a_call_waits_at_most_a_second_for_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest_module, "SYNC_SECONDS", 0.01)

    async def talk(bench: Bench) -> None:
        assert (await bench.metrics()).metricValues[0].metricValueFloat == 92.0

    on(Bench(FakeCluster(llama=KNOWN), FakePeers(is_settled=False)), talk)


def test_interest_in_peers_names_the_window_and_scope_node_registers_none() -> None:
    async def talk(bench: Bench) -> None:
        await bench.metrics(windowSeconds="30")
        assert set(bench.peers.asked_windows) == {30.0}
        bench.peers.asked_windows.clear()
        await bench.metrics(scope="node")
        assert bench.peers.asked_windows == []

    on(Bench(FakeCluster(llama=KNOWN), FakePeers()), talk)


class SlowEvaluation:
    """An evaluation that takes the time that the test sets."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self.clock, self.seconds, self.runs = clock, seconds, 0

    def evaluate(self, *arguments: Any) -> Any:
        self.runs += 1
        self.clock.advance(self.seconds)
        return evaluate(*arguments)


@pytest.mark.parametrize(
    ("cost", "hold"),
    [
        pytest.param(0.0, 0.0, id="a fast evaluation is repeated for every report"),
        pytest.param(0.01, 0.1, id="ten times its duration"),
        pytest.param(0.15, 1.0, id="a second at most"),
    ],
)
def test_a_slow_evaluation_is_not_repeated_for_each_report_of_a_thousand_peers(
    cost: float, hold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(FakeCluster(llama=KNOWN), FakePeers())
    slow = SlowEvaluation(bench.clock, cost)
    monkeypatch.setattr(evaluator_module, "evaluate", slow.evaluate)

    async def talk(bench: Bench) -> None:
        await bench.metrics()
        began = bench.clock.now - cost
        bench.scaler.note_report()
        await bench.metrics()
        assert slow.runs == (1 if hold else 2)
        bench.clock.now = began + hold
        bench.scaler.note_report()
        await bench.metrics()
        assert slow.runs == (2 if hold else 3)
        await bench.metrics()  # there was no report in between
        assert slow.runs == (2 if hold else 3)

    on(bench, talk)


@pytest.mark.parametrize(
    ("metadata", "is_wanted"),
    [
        pytest.param({"metricType": "gpu_utilization"}, False, id="a reading of every sample"),
        pytest.param({"metricType": "queue_depth"}, False, id="a reading of engines"),
        pytest.param({"metricType": "sm_active"}, True, id="activity"),
        pytest.param({"profile": "distributed-training"}, True, id="traffic"),
        pytest.param({"metricType": "pcie_throughput", "scope": "node"}, True, id="traffic of this node"),
    ],
)
def test_a_trigger_registers_interest_in_the_expensive_readings_if_it_needs_them(
    metadata: dict[str, str], is_wanted: bool
) -> None:
    bench = Bench(FakeCluster(llama=KNOWN), FakePeers())

    async def talk(bench: Bench) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):  # there is no value yet
            await bench.metrics(**metadata)
        assert bench.performance.is_live(bench.clock()) is is_wanted
        assert bench.peers.is_performance_wanted is (is_wanted and "scope" not in metadata)

    on(bench, talk)


def test_an_error_names_its_object_once() -> None:
    reason = "ai/llama: its scale target Deployment llama does not exist"
    bench = Bench(FakeCluster(llama=Unavailable(reason, is_permanent=True)), FakePeers())

    async def talk(bench: Bench) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bench.metrics()
        assert caught.value.details() == reason

    on(bench, talk)


@pytest.mark.parametrize(
    ("name", "node", "state"),
    [
        pytest.param("llama-7", "gpu-7", ObservationState.NO_DEVICE, id="no pod holds a device"),
        pytest.param("llama-8", "gpu-8", ObservationState.MISSING, id="no pod has a value"),
    ],
)
def test_the_pods_of_an_error_are_kept_for_the_status_page(name: str, node: str, state: ObservationState) -> None:
    bench = Bench(FakeCluster(llama=workload(pod(name, node))), FakePeers())

    async def talk(bench: Bench) -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await bench.metrics()
        [answer] = bench.scaler.answers()
        evaluation = bench.scaler.last_evaluation(answer)
        assert evaluation is not None
        [observation] = evaluation.observations
        assert isinstance(observation, PodObservation)
        assert observation.state is state

    on(bench, talk)
