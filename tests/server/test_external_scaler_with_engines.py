# SPDX-License-Identifier: Apache-2.0
"""Answers from engines and demand, and the interest that is registered for them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.evaluate.workload_view import HISTORY_SECONDS
from keda_gpu_scaler.core.instance_status import RecentAnswer
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.types import DeclaredTrigger, EngineSample, Series, Workload
from keda_gpu_scaler.server import preparation as interest_module
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.fakes import FakeCluster, FakeEngines, FakePeers, ManualClock, pod, workload
from tests.limits import WAIT_SECONDS

POD = pod("llama-0", address="10.0.0.1", ports=(8000,))
ENGINE = Endpoint(POD.ref, "10.0.0.1", declared_ports=(8000,))
EPP = Endpoint(url="http://epp:9090/metrics", every_address=True, namespace="ai")
DEMAND = {"demandEndpoint": EPP.url, "demandMetric": "queue_size"}
NO_ENGINE = ScrapeResult(failure="nothing of an engine's is exported", is_no_engine=True)
RUNNING, AT_ZERO = workload(POD), workload()


def engine(waiting: float, at: float = 1000.0) -> ScrapeResult:
    sample = EngineSample(at, "vllm", waiting=waiting, running=0.0, kv_cache_ratio=0.0)
    return ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics", (sample,)),))


def queue(size: float, at: float = 1000.0) -> ScrapeResult:
    return ScrapeResult(
        (TargetHistory(EPP.url, (EngineSample(at, selected={"queue_size": Series(size, is_counter=False)}),)),)
    )


class Bench:
    """A scaler without a device, of a cluster with one workload."""

    def __init__(self, known: Workload, engines: FakeEngines) -> None:
        self.cluster, self.engines, self.peers = FakeCluster(llama=known), engines, FakePeers()
        self.clock = ManualClock()
        self.scaler = ExternalScaler(self.fleet, self.clock, self.cluster, self.peers, engines)
        self.stub: Any = None

    def fleet(self) -> Fleet:
        return Fleet(None, 10.0, deviceless=True, scrape_results=self.engines.scrape_results())

    def ref(self, **metadata: str) -> pb.ScaledObjectRef:
        metadata = metadata if "profile" in metadata else {"metricType": "saturation", **metadata}
        return pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=metadata)

    async def value(self, **metadata: str) -> float:
        answer = await self.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=self.ref(**metadata)))
        return float(answer.metricValues[0].metricValueFloat)

    async def active(self, **metadata: str) -> bool:
        return bool((await self.stub.IsActive(self.ref(**metadata))).result)


def on(bench: Bench, talk: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((bench.scaler.handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(WAIT_SECONDS):
            bench.stub = pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]
            await talk(bench)
        bench.scaler.stop()
        await server.stop(None)

    asyncio.run(run())


def test_the_first_call_waits_until_the_engine_was_scraped() -> None:
    async def talk(bench: Bench) -> None:
        call = asyncio.ensure_future(bench.value())
        while ENGINE not in bench.engines.asked:
            await asyncio.sleep(0)
        assert not call.done()
        bench.engines.report(ENGINE, engine(10))
        assert await call == 200.0

    on(Bench(RUNNING, FakeEngines()), talk)


def test_law_2_a_call_waits_at_most_a_second_for_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest_module, "SYNC_SECONDS", 0.01)

    async def talk(bench: Bench) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bench.value()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "no fresh reading of 1 of 1 ready pods: not scraped yet" in (caught.value.details() or "")

    on(Bench(RUNNING, FakeEngines()), talk)


def test_interest_in_engines_is_exactly_what_the_trigger_needs() -> None:
    async def talk(bench: Bench) -> None:
        await bench.value(windowSeconds="30", demandHoldSeconds="90", **DEMAND)
        assert bench.engines.asked == {
            ENGINE: (30.0, (), False),
            EPP: (120.0, (SeriesSelector("queue_size"),), True),
        }
        assert bench.engines.asked_histories == {ENGINE: HISTORY_SECONDS, EPP: 0.0}

    on(Bench(RUNNING, FakeEngines({ENGINE: engine(1), EPP: queue(0)})), talk)


def test_a_new_pod_is_scraped_at_once() -> None:
    late = pod("llama-1", address="10.0.0.2")

    async def talk(bench: Bench) -> None:
        await bench.value()
        bench.cluster.report(workload(POD, late))
        bench.engines.report(Endpoint(late.ref, "10.0.0.2"), engine(5))
        assert await bench.value() == 300.0

    on(Bench(RUNNING, FakeEngines({ENGINE: engine(10)})), talk)


def test_peers_are_not_followed_where_engines_export_the_value() -> None:
    async def talk(bench: Bench) -> None:
        await bench.value()
        assert bench.peers.asked_windows == []

    on(Bench(RUNNING, FakeEngines({ENGINE: engine(10)})), talk)


def test_peers_are_followed_for_a_load_because_it_depends_on_the_model_of_the_devices() -> None:
    async def talk(bench: Bench) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bench.value(profile="llm")
        assert "it has one sample so far, and its work needs two" in (caught.value.details() or "")
        assert set(bench.peers.asked_windows) == {30.0}

    on(Bench(RUNNING, FakeEngines({ENGINE: engine(10)})), talk)


def test_peers_are_followed_where_no_pod_has_an_engine() -> None:
    async def talk(bench: Bench) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bench.value()
        assert "no pod has a known engine" in (caught.value.details() or "")
        assert bench.peers.asked_windows

    on(Bench(RUNNING, FakeEngines({ENGINE: NO_ENGINE})), talk)


def test_a_queue_that_fills_activates_a_workload_at_zero() -> None:
    async def talk(bench: Bench) -> None:
        stream = bench.stub.StreamIsActive(bench.ref(**DEMAND))
        assert (await stream.read()).result is False
        bench.clock.advance(0.5)
        bench.engines.report(EPP, queue(1, at=1000.5))
        await bench.scaler.wake_streams()
        assert (await stream.read()).result is True
        assert await bench.active(**DEMAND) is True
        stream.cancel()

    on(Bench(AT_ZERO, FakeEngines({EPP: queue(0)})), talk)


def test_law_1_unknown_demand_activates_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def talk(bench: Bench) -> None:
        assert await bench.active(**DEMAND) is False
        for _ in range(3):
            assert await bench.value(**DEMAND) == 0.0
        bench.engines.report(EPP, queue(0))
        await bench.value(**DEMAND)

    unavailable = ScrapeResult((TargetHistory(EPP.url, failure="no answer within 2 s"),))
    with caplog.at_level("INFO", logger="keda_gpu_scaler.server.transition_log"):
        metadata = {"metricType": "saturation", **DEMAND}
        declared = replace(AT_ZERO, triggers=(DeclaredTrigger(metadata, "AverageValue"),))
        on(Bench(declared, FakeEngines({EPP: unavailable})), talk)
    said = [record.message for record in caplog.records if record.name == "keda_gpu_scaler.server.transition_log"]
    assert said == [
        "ai/llama (demand): demand at http://epp:9090/metrics is unknown: http://epp:9090/metrics: no answer within "
        "2 s; the workload is neither activated nor scaled to zero",
        "ai/llama (demand): it is known again: demand 0 is not above demandThreshold 0",
    ]


def test_a_queue_that_the_value_does_not_answer_is_logged_once_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def cache(*waiting: float) -> ScrapeResult:
        samples = tuple(
            EngineSample(940.0 + 20 * number, "vllm", waiting=size, running=4.0, kv_cache_ratio=0.3)
            for number, size in enumerate(waiting)
        )
        return ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics", samples),))

    async def talk(bench: Bench) -> None:
        for answer in (cache(9, 9, 9, 9), ScrapeResult(failure="no answer within 2 s"), cache(9, 9, 9, 0)):
            bench.engines.report(ENGINE, answer)
            for _ in range(3):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await bench.value(metricType="kv_cache_usage")
            noted.append(bench.scaler.answers()[-1])

    noted: list[RecentAnswer] = []
    started = replace(POD, ready_at_seconds=POD.created_at_seconds + 45.0)
    with caplog.at_level("INFO", logger="keda_gpu_scaler.server.transition_log"):
        declared = workload(started, triggers=(DeclaredTrigger({"metricType": "kv_cache_usage"}, "AverageValue"),))
        on(Bench(declared, FakeEngines({ENGINE: cache(9)})), talk)
    said = [record.message for record in caplog.records if record.name == "keda_gpu_scaler.server.transition_log"]
    assert said == [
        "ai/llama: keda_gpu_metric: contradiction: 9 requests wait, some queue for 60 s, which is longer than a "
        "replica needs to start (45 s, measured), and the value asks for no more than 1 replicas. kv_cache_usage does "
        "not show this load: lower targetValue, or use metricType: load",
        "ai/llama: keda_gpu_metric has no value: no fresh reading of 1 of 1 ready pods: no answer within 2 s",
        "ai/llama: keda_gpu_metric has a value again",
        "ai/llama: keda_gpu_metric: the queue no longer contradicts the value",
    ]
    assert [(one.has_queue_contradiction, one.cold_start_seconds) for one in noted] == [
        (True, 45.0),
        (False, None),
        (False, 45.0),
    ]


def test_an_activity_that_demand_cannot_decide_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    url = Endpoint(url="http://vllm/metrics", namespace="ai")

    async def talk(bench: Bench) -> None:
        del bench.cluster.workloads["ai", "llama"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bench.active(engineEndpoint=url.url, report="average", **DEMAND)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "it is not known whether the workload should run" in (caught.value.details() or "")

    monkeypatch.setattr(interest_module, "SYNC_SECONDS", 0.01)
    on(Bench(RUNNING, FakeEngines({url: engine(0), EPP: ScrapeResult(failure="no address of epp")})), talk)


def test_a_recent_answer_holds_the_demand() -> None:
    async def talk(bench: Bench) -> None:
        await bench.value(**DEMAND)
        [answer] = bench.scaler.answers()
        assert (answer.demand, answer.is_demand_known) == (3.0, True)
        bench.engines.report(EPP, ScrapeResult(failure="no address of epp"))
        await bench.value(**DEMAND)
        [answer] = bench.scaler.answers()
        assert (answer.demand, answer.is_demand_known) == (None, False)

    declared = replace(RUNNING, triggers=(DeclaredTrigger({"metricType": "saturation", **DEMAND}, "AverageValue"),))
    on(Bench(declared, FakeEngines({ENGINE: engine(1), EPP: queue(3)})), talk)
