# SPDX-License-Identifier: Apache-2.0
"""What KEDA is told of engines and demand, and what is asked of them for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.types import EngineSample, Series, Workload
from keda_gpu_scaler.server import interest as interest_module
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.fakes import FakeCluster, FakeEngines, FakePeers, ManualClock, pod, workload

WAIT_SECONDS = 20.0
POD = pod("llama-0", address="10.0.0.1", ports=(8000,))
ENGINE = Endpoint(POD.ref, "10.0.0.1", declared_ports=(8000,))
EPP = Endpoint(url="http://epp:9090/metrics", every_address=True)
WAKING = {"demandEndpoint": EPP.url, "demandMetric": "queue_size"}
NO_ENGINE = ScrapeResult(failure="nothing of an engine's is exported", is_no_engine=True)
AWAKE, ASLEEP = workload(POD), workload()


def engine(waiting: float, at: float = 1000.0) -> ScrapeResult:
    told = EngineSample(at, "vllm", waiting=waiting, running=0.0, kv_cache_ratio=0.0)
    return ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics", (told,)),))


def queue(size: float, at: float = 1000.0) -> ScrapeResult:
    return ScrapeResult(
        (TargetHistory(EPP.url, (EngineSample(at, selected={"queue_size": Series(size, is_counter=False)}),)),)
    )


class Asked:
    """A scaler without a device, of a cluster with one workload."""

    def __init__(self, known: Workload, engines: FakeEngines) -> None:
        self.cluster, self.engines, self.peers = FakeCluster(llama=known), engines, FakePeers()
        self.clock = ManualClock()
        self.scaler = ExternalScaler(self.fleet, self.clock, self.cluster, self.peers, engines)
        self.stub: Any = None

    def fleet(self) -> Fleet:
        return Fleet(None, 10.0, deviceless=True, scrape_results=self.engines.scrape_results())

    def ref(self, **metadata: str) -> pb.ScaledObjectRef:
        return pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata={"profile": "llm", **metadata})

    async def value(self, **metadata: str) -> float:
        answer = await self.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=self.ref(**metadata)))
        return float(answer.metricValues[0].metricValueFloat)

    async def active(self, **metadata: str) -> bool:
        return bool((await self.stub.IsActive(self.ref(**metadata))).result)


def on(asked: Asked, talk: Callable[[Asked], Awaitable[None]]) -> None:
    async def run() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((asked.scaler.handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(WAIT_SECONDS):
            asked.stub = pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]
            await talk(asked)
        asked.scaler.stop()
        await server.stop(None)

    asyncio.run(run())


def test_the_first_question_waits_until_the_engine_was_scraped() -> None:
    async def talk(asked: Asked) -> None:
        call = asyncio.ensure_future(asked.value())
        while ENGINE not in asked.engines.asked:
            await asyncio.sleep(0)
        assert not call.done()
        asked.engines.tell(ENGINE, engine(10))
        assert await call == 200.0

    on(Asked(AWAKE, FakeEngines()), talk)


def test_law_2_an_engine_is_waited_for_no_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest_module, "SYNC_SECONDS", 0.01)

    async def talk(asked: Asked) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked.value()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "no fresh reading of 1 of 1 ready pods: not scraped yet" in (caught.value.details() or "")

    on(Asked(AWAKE, FakeEngines()), talk)


def test_engines_are_asked_for_just_what_the_trigger_needs() -> None:
    async def talk(asked: Asked) -> None:
        await asked.value(windowSeconds="30", demandHoldSeconds="90", **WAKING)
        assert asked.engines.asked == {
            ENGINE: (30.0, (), False),
            EPP: (120.0, (SeriesSelector("queue_size"),), True),
        }

    on(Asked(AWAKE, FakeEngines({ENGINE: engine(1), EPP: queue(0)})), talk)


def test_a_pod_that_comes_is_asked_at_once() -> None:
    late = pod("llama-1", address="10.0.0.2")

    async def talk(asked: Asked) -> None:
        await asked.value()
        asked.cluster.tell(workload(POD, late))
        asked.engines.tell(Endpoint(late.ref, "10.0.0.2"), engine(5))
        assert await asked.value() == 300.0

    on(Asked(AWAKE, FakeEngines({ENGINE: engine(10)})), talk)


def test_peers_are_not_followed_for_what_engines_tell() -> None:
    async def talk(asked: Asked) -> None:
        await asked.value()
        assert asked.peers.asked_windows == []

    on(Asked(AWAKE, FakeEngines({ENGINE: engine(10)})), talk)


def test_peers_are_followed_where_no_engine_tells() -> None:
    async def talk(asked: Asked) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked.value()
        assert "no engine tells of itself" in (caught.value.details() or "")
        assert asked.peers.asked_windows

    on(Asked(AWAKE, FakeEngines({ENGINE: NO_ENGINE})), talk)


def test_a_queue_that_fills_is_pushed_to_a_workload_that_sleeps() -> None:
    async def talk(asked: Asked) -> None:
        stream = asked.stub.StreamIsActive(asked.ref(**WAKING))
        assert (await stream.read()).result is False
        asked.clock.advance(0.5)
        asked.engines.tell(EPP, queue(1, at=1000.5))
        asked.scaler.note_report()
        await asked.scaler.wake_streams()
        assert (await stream.read()).result is True
        assert await asked.active(**WAKING) is True
        stream.cancel()

    on(Asked(ASLEEP, FakeEngines({EPP: queue(0)})), talk)


def test_law_1_demand_that_is_unknown_is_not_pushed_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def talk(asked: Asked) -> None:
        assert await asked.active(**WAKING) is False
        for _ in range(3):
            assert await asked.value(**WAKING) == 0.0
        asked.engines.tell(EPP, queue(0))
        asked.scaler.note_report()
        await asked.value(**WAKING)

    unavailable = ScrapeResult((TargetHistory(EPP.url, failure="no answer within 2 s"),))
    with caplog.at_level("INFO", logger="keda_gpu_scaler.server.recent_answers"):
        on(Asked(ASLEEP, FakeEngines({EPP: unavailable})), talk)
    said = [record.message for record in caplog.records if record.name == "keda_gpu_scaler.server.recent_answers"]
    assert said == [
        "ai/llama (demand): demand at http://epp:9090/metrics is unknown: http://epp:9090/metrics: no answer within "
        "2 s; the workload is neither activated nor scaled to zero",
        "ai/llama (demand): it is known again: demand 0 is not above demandThreshold 0",
    ]


def test_what_demand_cannot_decide_is_an_error_and_no_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    url = Endpoint(url="http://vllm/metrics")

    async def talk(asked: Asked) -> None:
        del asked.cluster.workloads["ai", "llama"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked.active(engineEndpoint=url.url, report="average", **WAKING)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "it is not known whether the workload should run" in (caught.value.details() or "")

    monkeypatch.setattr(interest_module, "SYNC_SECONDS", 0.01)
    on(Asked(AWAKE, FakeEngines({url: engine(0), EPP: ScrapeResult(failure="no address of epp")})), talk)


def test_demand_is_told_beside_the_answer() -> None:
    async def talk(asked: Asked) -> None:
        await asked.value(**WAKING)
        [answer] = asked.scaler.answers()
        assert (answer.demand, answer.is_demand_known) == (3.0, True)
        asked.engines.tell(EPP, ScrapeResult(failure="no address of epp"))
        asked.scaler.note_report()
        await asked.value(**WAKING)
        [answer] = asked.scaler.answers()
        assert (answer.demand, answer.is_demand_known) == (None, False)

    on(Asked(AWAKE, FakeEngines({ENGINE: engine(1), EPP: queue(3)})), talk)
