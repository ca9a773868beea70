# SPDX-License-Identifier: Apache-2.0
"""What a call waits for, and what it does not: workloads, node labels and peers that were not asked about before."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.types import Unavailable
from keda_gpu_scaler.server import evaluator as evaluator_module
from keda_gpu_scaler.server import interest as interest_module
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.fakes import FakeCluster, FakePeers, ManualClock, node_history, pod, sample, workload

WAIT_SECONDS = 20.0
SEEN = node_history("gpu-7", sample(0, 0.92), held={"GPU-0000": "llama-0"})


class Asked:
    """A scaler of a cluster with one workload, whose only GPU does 92 %."""

    def __init__(self, cluster: FakeCluster, peers: FakePeers) -> None:
        self.cluster, self.peers = cluster, peers
        fleet = Fleet(SEEN, 10.0)
        self.clock = ManualClock()
        self.scaler = ExternalScaler(lambda: fleet, self.clock, cluster, peers)
        self.stub: Any = None

    def metrics(self, **metadata: str) -> Any:
        ref = pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=metadata)
        return self.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref))


def on(asked: Asked, talk: Callable[[Asked], Awaitable[None]]) -> None:
    async def run() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((asked.scaler.handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(WAIT_SECONDS):
            asked.stub = pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]
            await talk(asked)
        await server.stop(None)

    asyncio.run(run())


async def asked_of(cluster: FakeCluster) -> None:
    """Return once a question has come through to the cluster."""
    while not cluster.asked:
        await asyncio.sleep(0)


KNOWN = workload(pod("llama-0"))


def test_the_first_question_waits_until_the_workload_was_looked_up() -> None:
    async def talk(asked: Asked) -> None:
        call = asyncio.ensure_future(asked.metrics())
        await asked_of(asked.cluster)
        assert not call.done()
        asked.cluster.tell(KNOWN)
        assert (await call).metricValues[0].metricValueFloat == 92.0

    on(Asked(FakeCluster(), FakePeers()), talk)


def test_the_first_question_with_a_node_selector_waits_for_the_labels_too() -> None:
    cluster = FakeCluster(llama=KNOWN)
    cluster.labels = Unavailable("nodes: not read yet", is_permanent=False)

    async def talk(asked: Asked) -> None:
        call = asyncio.ensure_future(asked.metrics(nodeSelector="pool=a"))
        await asked_of(asked.cluster)
        asked.cluster.labels = {"gpu-7": {"pool": "a"}}
        assert (await call).metricValues[0].metricValueFloat == 92.0

    on(Asked(cluster, FakePeers()), talk)


def test_labels_that_may_not_be_read_are_not_waited_for() -> None:
    cluster = FakeCluster(llama=KNOWN)
    cluster.labels = Unavailable("nodes: forbidden", is_permanent=True)

    async def talk(asked: Asked) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked.metrics(nodeSelector="pool=a")
        assert "nodes: forbidden" in (caught.value.details() or "")

    on(Asked(cluster, FakePeers()), talk)


def test_law_2_a_workload_is_waited_for_no_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest_module, "SYNC_SECONDS", 0.01)

    async def talk(asked: Asked) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked.metrics()
        assert "ai/llama: not read yet" in (caught.value.details() or "")

    on(Asked(FakeCluster(), FakePeers()), talk)


def test_law_2_peers_are_waited_for_no_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest_module, "SYNC_SECONDS", 0.01)

    async def talk(asked: Asked) -> None:
        assert (await asked.metrics()).metricValues[0].metricValueFloat == 92.0

    on(Asked(FakeCluster(llama=KNOWN), FakePeers(is_settled=False)), talk)


def test_peers_hear_how_much_history_is_needed_unless_only_this_node_is_meant() -> None:
    async def talk(asked: Asked) -> None:
        await asked.metrics(windowSeconds="30")
        assert set(asked.peers.asked_windows) == {30.0}
        asked.peers.asked_windows.clear()
        await asked.metrics(scope="node")
        assert asked.peers.asked_windows == []

    on(Asked(FakeCluster(llama=KNOWN), FakePeers()), talk)


class Dear:
    """A fleet that takes a while to look at: each look costs what the test says."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self.clock, self.seconds, self.looks = clock, seconds, 0

    def evaluate(self, *arguments: Any) -> Any:
        self.looks += 1
        self.clock.advance(self.seconds)
        return evaluate(*arguments)


@pytest.mark.parametrize(
    ("cost", "spared"),
    [
        pytest.param(0.0, 0.0, id="what costs nothing is judged by the newest word"),
        pytest.param(0.01, 0.1, id="ten times what it cost"),
        pytest.param(0.15, 1.0, id="a second at most"),
    ],
)
def test_what_is_dear_to_judge_is_not_judged_anew_for_each_word_of_a_thousand_peers(
    cost: float, spared: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(FakeCluster(llama=KNOWN), FakePeers())
    dear = Dear(asked.clock, cost)
    monkeypatch.setattr(evaluator_module, "evaluate", dear.evaluate)

    async def talk(asked: Asked) -> None:
        await asked.metrics()
        began = asked.clock.now - cost
        asked.scaler.note_report()
        await asked.metrics()
        assert dear.looks == (1 if spared else 2)
        asked.clock.now = began + spared
        asked.scaler.note_report()
        await asked.metrics()
        assert dear.looks == (2 if spared else 3)
        await asked.metrics()  # nobody told anything in between
        assert dear.looks == (2 if spared else 3)

    on(asked, talk)
