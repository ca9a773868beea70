# SPDX-License-Identifier: Apache-2.0
"""Tests that invented names take nothing from real ones."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.interfaces import Cluster, Engines
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.types import DeclaredTrigger, Unavailable, Workload
from keda_gpu_scaler.scrape.address_policy import AddressPolicy
from keda_gpu_scaler.scrape.credentials import Credentials
from keda_gpu_scaler.scrape.http_client import HttpClient
from keda_gpu_scaler.scrape.manager import ScrapeManager
from keda_gpu_scaler.server import evaluator as evaluator_module
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.server.preparation import MAX_UNDECLARED_WAITING
from keda_gpu_scaler.server.streams import MAX_STREAMS_PER_TRIGGER, MAX_UNDECLARED_STREAMS
from keda_gpu_scaler.server.transition_log import UNDECLARED_BURST
from keda_gpu_scaler.server.undeclared_scrapes import MAX_TRIGGERS
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.fakes import FakeCluster, FakeEngines, ManualClock, node_history, pod, sample, workload
from tests.limits import WAIT_SECONDS
from tests.scrape.servers import Server, page, responds
from tests.scrape.test_credentials import mount

INVENTED = 2_100
REAL = {"targetValue": "50", "metricName": "gpu"}
ENGINE = {"metricType": "queue_depth", "targetValue": "5", "engineEndpoint": "http://router.ai.svc/metrics"}
ABSENT = Unavailable("there is no ScaledObject of this name", is_permanent=True, triggers=())
FORBIDDEN = Unavailable("forbidden", is_permanent=True)
LOGGER = "keda_gpu_scaler.server.transition_log"


def declaring(*triggers: Mapping[str, str]) -> Workload:
    return workload(
        replace(pod("llama-0"), address="10.0.0.5"),
        triggers=tuple(DeclaredTrigger(it, "AverageValue") for it in triggers),
    )


class OneWorkload(FakeCluster):
    """A cluster with the ScaledObject ai/llama. Every other name has none."""

    def __init__(self, known: Workload | Unavailable) -> None:
        super().__init__(llama=known)

    def workload(self, namespace: str, name: str, proposed_spec: str = "") -> Workload | Unavailable:
        return self.workloads.get((namespace, name), ABSENT)


class RefusedError(Exception):
    """What a call was answered with instead of a message."""


class Context:
    """The context of a call from one client."""

    def __init__(self, client: str = "ipv4:10.0.0.1:5000") -> None:
        self._client = client

    def peer(self) -> str:
        return self._client

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise RefusedError(f"{code.name}: {details}")

    async def send_initial_metadata(self, metadata: object) -> None:
        return None


class Asked:
    """A scaler that is called without a network."""

    def __init__(
        self, cluster: Cluster | None, engines: Engines | None = None, *, has_credentials: bool = False
    ) -> None:
        fleet = Fleet(node_history("gpu-7", sample(0, 0.92), held={"GPU-0000": "llama-0"}), 10.0)
        self.clock = ManualClock()
        self.scaler = ExternalScaler(
            lambda: fleet, self.clock, cluster, engines=engines, has_credentials=has_credentials
        )

    async def ask(self, metadata: Mapping[str, str], name: str = "llama", namespace: str = "ai") -> str:
        """Return why there is no value, empty where there is one."""
        ref = pb.ScaledObjectRef(name=name, namespace=namespace, scalerMetadata=metadata)
        request = pb.GetMetricsRequest(scaledObjectRef=ref).SerializeToString()
        try:
            await self.scaler._counted("GetMetrics", self.scaler._get_metrics)(request, Context())
        except RefusedError as error:
            return str(error)
        return ""

    @contextlib.asynccontextmanager
    async def streaming(
        self, metadata: Mapping[str, str], name: str = "llama", client: str = "ipv4:10.0.0.1:5000"
    ) -> AsyncIterator[None]:
        """Open a stream for the block; raises RefusedError."""
        request = pb.ScaledObjectRef(name=name, namespace="ai", scalerMetadata=metadata).SerializeToString()
        before = len(self.scaler._streams)
        states = self.scaler._stream_is_active(request, Context(client))
        reading = asyncio.ensure_future(anext(aiter(states)))
        while len(self.scaler._streams) == before and not reading.done():
            await asyncio.sleep(0)
        if reading.done():
            reading.result()
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await states.aclose()  # type: ignore[attr-defined]


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await test

    asyncio.run(bounded())


# ---- credentials ----


@pytest.mark.parametrize(
    ("cluster", "metadata", "expected"),
    [
        pytest.param(OneWorkload(declaring(ENGINE)), ENGINE, "ai", id="a declared trigger"),
        pytest.param(OneWorkload(declaring({"scope": "fleet"})), ENGINE, None, id="another trigger is declared"),
        pytest.param(OneWorkload(ABSENT), ENGINE, None, id="no such ScaledObject"),
        pytest.param(OneWorkload(FORBIDDEN), ENGINE, "", id="ScaledObjects may not be read"),
        pytest.param(None, ENGINE, "", id="no access to the API server"),
        pytest.param(OneWorkload(declaring({"metricType": "load"})), {"metricType": "load"}, "ai", id="pods"),
        pytest.param(OneWorkload(declaring({})), {"metricType": "load"}, None, id="pods of another's trigger"),
    ],
)
def test_credentials_are_those_of_the_namespace_whose_scaled_object_declares_the_trigger(
    cluster: Cluster | None, metadata: Mapping[str, str], expected: str | None
) -> None:
    for has_credentials in (True, False):
        engines = FakeEngines()
        asked = Asked(cluster, engines, has_credentials=has_credentials)
        asyncio.run(_registered(asked, metadata))
        found = {endpoint.credentials_namespace for endpoint in engines.asked}
        assert found == ({expected} if has_credentials else {None})


async def _registered(asked: Asked, metadata: Mapping[str, str]) -> None:
    ref = pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=metadata).SerializeToString()
    await asked.scaler._get_metric_spec(ref, Context(), asked.clock())


def test_a_token_is_not_sent_for_a_question_that_claims_another_namespace(tmp_path: Path) -> None:
    async def test() -> None:
        async with Server(responds(page(b"vllm:num_requests_waiting 3\n"))) as server:
            metadata = {**ENGINE, "engineEndpoint": f"http://127.0.0.1:{server.port}/metrics"}
            bound = {"hosts": "127.0.0.1", "ports": str(server.port), "namespaces": "ai"}
            mount(tmp_path, "one", {**bound, "token": "word", "insecure-token": ""})
            client = HttpClient(AddressPolicy("127.0.0.0/8"), Credentials(str(tmp_path)))
            manager = ScrapeManager(client, interval_seconds=60.0)
            try:
                asked = Asked(OneWorkload(declaring(metadata)), manager, has_credentials=True)
                for claimed in ({**metadata, "targetValue": "6"}, metadata):
                    await asked.ask(claimed)
                await asked.ask(metadata, name="invented")
                await asked.ask(metadata, namespace="evil")
            finally:
                await manager.close()
            sent = [request.headers.get("authorization") for request in server.requests]
        assert sent.count("Bearer word") == 1
        assert set(sent) == {"Bearer word", None}

    run(test())


def test_a_trigger_whose_workload_is_not_read_yet_is_not_scraped_without_its_credentials() -> None:
    async def test() -> None:
        cluster, engines = FakeCluster(), FakeEngines()
        asked = Asked(cluster, engines, has_credentials=True)
        asking = asyncio.ensure_future(asked.ask(ENGINE))
        while not cluster.asked:
            await asyncio.sleep(0)
        assert engines.asked == {}
        cluster.report(declaring(ENGINE))
        while not engines.asked:
            await asyncio.sleep(0)
        assert {endpoint.credentials_namespace for endpoint in engines.asked} == {"ai"}
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    run(test())


# ---- places ----


def test_invented_names_evict_no_declared_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = []

    def counting(*arguments: Any) -> Any:
        evaluated.append(arguments[0])
        return evaluate(*arguments)

    async def flood(asked: Asked) -> None:
        assert await asked.ask(REAL) == ""
        known = len(evaluated)
        for number in range(INVENTED):
            await asked.ask({**REAL, "metricName": f"evil{number}"}, name=f"invented-{number}")
            await asked.ask({"targetValue": str(number + 100), "scope": "fleet"})
        evaluated[:] = evaluated[:known]
        assert await asked.ask(REAL) == ""
        assert len(evaluated) == known

    monkeypatch.setattr(evaluator_module, "evaluate", counting)
    asked = Asked(OneWorkload(declaring(REAL)))
    asyncio.run(flood(asked))
    scaler = asked.scaler
    kept = (scaler._requests_seen, scaler._resolver._triggers, scaler._evaluator._evaluations)
    assert all(len(cache) < INVENTED for cache in (*kept, scaler._preparation._registrations))


def test_without_the_api_server_every_trigger_has_a_place() -> None:
    async def test() -> None:
        asked = Asked(None)
        for number in range(500):
            metadata = {"scope": "fleet", "report": "average", "targetValue": str(number + 1)}
            await asked.ask(metadata, name=f"llama-{number}")
        assert len(asked.scaler.answers()) == 500
        assert len(asked.scaler._evaluator._evaluations) == 500

    run(test())


def test_invented_names_do_not_wait_in_any_number() -> None:
    async def test() -> None:
        asked = Asked(FakeCluster())  # nothing is read yet
        waiting = [asyncio.ensure_future(asked.ask(REAL, name=f"n{n}")) for n in range(MAX_UNDECLARED_WAITING)]
        await asyncio.sleep(0)
        assert "not read yet" in await asked.ask(REAL, name="one-more")
        assert not any(one.done() for one in waiting)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(test())


# ---- streams ----


def test_invented_names_have_few_streams_and_a_declared_trigger_has_one_always() -> None:
    async def test() -> None:
        asked = Asked(OneWorkload(declaring(REAL)))
        async with contextlib.AsyncExitStack() as stack:
            for number in range(MAX_UNDECLARED_STREAMS):
                await stack.enter_async_context(asked.streaming(REAL, name=f"invented-{number}"))
            with pytest.raises(RefusedError, match="UNAVAILABLE: 64 streams of triggers that no ScaledObject declares"):
                await stack.enter_async_context(asked.streaming(REAL, name="one-more"))
            await stack.enter_async_context(asked.streaming(REAL))
            assert len(asked.scaler._streams) == MAX_UNDECLARED_STREAMS + 1
        assert len(asked.scaler._streams) == 0

    run(test())


def test_one_client_cannot_take_the_streams_of_a_trigger_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keda_gpu_scaler.server.streams.MAX_STREAMS", MAX_STREAMS_PER_TRIGGER)

    async def test() -> None:
        asked = Asked(OneWorkload(declaring(REAL)))
        async with contextlib.AsyncExitStack() as stack:
            for number in range(MAX_STREAMS_PER_TRIGGER):
                await stack.enter_async_context(asked.streaming(REAL, client=f"ipv4:10.6.6.6:{number}"))
            with pytest.raises(RefusedError, match="this client has 8 streams of this trigger open"):
                await stack.enter_async_context(asked.streaming(REAL, client="ipv4:10.6.6.6:9999"))
            await stack.enter_async_context(asked.streaming(REAL, client="ipv4:10.0.0.1:5000"))

    run(test())


async def open_the_most_undeclared(asked: Asked, stack: contextlib.AsyncExitStack) -> None:
    """Open as many streams of undeclared triggers as there may be, one of them under the real name."""
    await stack.enter_async_context(asked.streaming(REAL))
    for number in range(MAX_UNDECLARED_STREAMS - 1):
        await stack.enter_async_context(asked.streaming(REAL, name=f"invented-{number}"))


def test_a_stream_whose_scaled_object_appears_leaves_the_places_of_the_others() -> None:
    async def test() -> None:
        cluster = OneWorkload(ABSENT)
        asked = Asked(cluster)
        async with contextlib.AsyncExitStack() as stack:
            await open_the_most_undeclared(asked, stack)
            cluster.report(declaring(REAL))
            await stack.enter_async_context(asked.streaming(REAL, name="one-more"))

    run(test())


def test_at_the_limit_a_refused_stream_compares_the_others_once_a_second() -> None:
    async def test() -> None:
        cluster = OneWorkload(ABSENT)
        asked = Asked(cluster)
        async with contextlib.AsyncExitStack() as stack:
            await open_the_most_undeclared(asked, stack)
            with pytest.raises(RefusedError, match="64 streams of triggers"):
                await stack.enter_async_context(asked.streaming(REAL, name="one-more"))
            cluster.report(declaring(REAL))
            with pytest.raises(RefusedError, match="64 streams of triggers"):
                await stack.enter_async_context(asked.streaming(REAL, name="one-more"))
            asked.clock.advance(1.0)
            await stack.enter_async_context(asked.streaming(REAL, name="one-more"))

    run(test())


# ---- scrapes ----


def test_invented_names_cause_few_scrapes_and_a_declared_trigger_is_scraped_always() -> None:
    async def test() -> None:
        engines = FakeEngines()
        asked = Asked(OneWorkload(declaring(ENGINE)), engines)
        for number in range(INVENTED):
            invented = {**ENGINE, "engineEndpoint": f"http://router.ai.svc:{number + 1}/metrics"}
            await _registered_under(asked, invented, f"invented-{number}")
        assert len(engines.asked) == MAX_TRIGGERS
        await _registered_under(asked, ENGINE, "llama")
        assert len(engines.asked) == MAX_TRIGGERS + 1

    run(test())


async def _registered_under(asked: Asked, metadata: Mapping[str, str], name: str) -> None:
    ref = pb.ScaledObjectRef(name=name, namespace="ai", scalerMetadata=metadata).SerializeToString()
    await asked.scaler._get_metric_spec(ref, Context(), asked.clock())


# ---- log ----


def test_invented_names_write_few_lines_and_repeat_none_of_a_declared_trigger(
    caplog: pytest.LogCaptureFixture,
) -> None:
    without_value = {"metricType": "queue_depth", "targetValue": "5"}

    async def test() -> None:
        asked = Asked(OneWorkload(declaring(without_value)), FakeEngines({}))
        asked.scaler._preparation._engines = None  # nothing is scraped, so there is no value
        await asked.ask(without_value)
        for number in range(INVENTED):
            await asked.ask({**REAL, "metricName": f"evil{number}"}, name=f"invented-{number}")
            await asked.ask({"targetValue": f"evil{number}"})
            await asked.ask({**without_value, "metricName": f"evil{number}"})
        await asked.ask(without_value)

    with caplog.at_level(logging.INFO, LOGGER):
        run(test())
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len([line for line in lines if "evil" in line]) == UNDECLARED_BURST
    [real] = [line for line in lines if "evil" not in line]
    assert real.startswith("ai/llama: ")
    attributed = [line for line in lines if "has no value" in line and "evil" in line]
    assert all("(no ScaledObject declares this trigger)" in line for line in attributed)


def test_the_log_says_how_many_lines_were_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        asked = Asked(OneWorkload(ABSENT))
        for number in range(UNDECLARED_BURST + 5):
            await asked.ask(REAL, name=f"invented-{number}")
        asked.clock.advance(60)
        await asked.ask(REAL, name="later")

    with caplog.at_level(logging.INFO, LOGGER):
        run(test())
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(lines) == UNDECLARED_BURST + 1
    assert lines[-1].startswith("ai/later ")
    assert lines[-1].endswith(" (5 more lines of this kind are left out)")
