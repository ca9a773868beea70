# SPDX-License-Identifier: Apache-2.0
"""Tests of the adapter that connects the product to the simulator of the judge."""

import asyncio
import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest

from benchmarks.judge_adapter import NAME, NAMESPACE, NO_ANSWER, JudgedAnswer, JudgedTrigger, judge
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.parser import TriggerError
from keda_gpu_scaler.core.types import DeclaredTrigger, Pod, PodRef
from keda_gpu_scaler.engines.scrape_parser import parse_page
from keda_gpu_scaler.server.external_scaler import ExternalScaler
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.engines.vllm_pages import vllm_page
from tests.fakes import FakeCluster, FakeEngines, ManualClock, workload
from tests.limits import WAIT_SECONDS

JUDGE = Path(__file__).resolve().parents[3] / "shared" / "judge"
SATURATION = {"metricType": "saturation"}
"""It needs one page, and its value follows from the page at sight."""
DEMAND = {**SATURATION, "demandEndpoint": "http://gateway:9090/metrics", "demandMetric": "queue_size"}


@dataclass(frozen=True, slots=True)
class State:
    """A pod as the simulator describes it."""

    name: str
    node: str | None = "node-0"
    address: str = "10.0.0.1"
    created_at: float = 0.0
    is_running: bool = True
    is_ready: bool = True
    is_deleting: bool = False


ONE, TWO, THREE = (State(f"llama-{number}", address=f"10.0.0.{number}") for number in (1, 2, 3))
STARTING = State("llama-4", node=None, address="", created_at=1000.0, is_running=False, is_ready=False)


def page(waiting: float, **readings: float) -> str:
    return vllm_page(waiting=waiting, **readings).decode()  # type: ignore[arg-type]


def answer(judged: JudgedTrigger, now: float, pods: Sequence[State], demand: float = 0.0) -> JudgedAnswer:
    return judged.answer(now, pods, len(pods), len(pods), demand)


def contract() -> ModuleType:
    file = JUDGE / "adapter_api.py"
    if not file.exists():
        pytest.skip("the simulator's folder ../shared/judge is not there")
    spec = importlib.util.spec_from_file_location("judge_adapter_api", file)
    if spec is None or spec.loader is None:
        raise ImportError(str(file))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_adapter_has_the_shape_of_the_contract() -> None:
    api = contract()
    for name in ("scraped", "answer"):
        expected, own = (inspect.signature(getattr(of, name)) for of in (api.Judged, JudgedTrigger))
        assert list(own.parameters) == list(expected.parameters)
    assert [it.name for it in fields(JudgedAnswer)] == [it.name for it in fields(api.Answer)]
    assert [it.name for it in fields(State)] == [it.name for it in fields(api.PodState)]
    assert list(inspect.signature(judge).parameters) == ["metadata", "metric_type", "max_seqs"]


# ---- what is scraped ----


def test_a_pod_that_does_not_answer_keeps_its_value_until_it_is_stale() -> None:
    judged = judge(SATURATION, "AverageValue", None)
    judged.scraped(0.0, ONE.name, page(10))
    for now in (2.0, 4.0, 6.0, 8.0, 10.0, 12.0):
        judged.scraped(now, ONE.name, None)
    history = judged.histories[ONE.name]
    assert (history.failure, len(history.samples)) == (NO_ANSWER, 1)
    assert answer(judged, 10.0, [ONE]).value == 200.0
    assert answer(judged, 10.1, [ONE]) == JudgedAnswer(None, 100.0, True)


def test_a_page_that_cannot_be_read_is_a_failure_beside_the_samples() -> None:
    judged = judge(SATURATION, "AverageValue", None)
    judged.scraped(0.0, ONE.name, page(10))
    judged.scraped(2.0, ONE.name, "vllm:num_requests_waiting{ 3\n")
    history = judged.histories[ONE.name]
    assert "its metrics cannot be read" in (history.failure or "")
    assert [it.waiting for it in history.samples] == [10.0]
    judged.scraped(4.0, ONE.name, page(20))
    assert judged.histories[ONE.name].failure is None


def test_the_history_is_as_long_as_the_trigger_needs() -> None:
    judged = judge({**SATURATION, "windowSeconds": "30"}, "AverageValue", None)
    for now in range(0, 100, 2):
        judged.scraped(float(now), ONE.name, page(1))
    assert [it.at_seconds for it in judged.histories[ONE.name].samples] == [*range(0, 60, 10), *range(60, 100, 2)]


def test_the_history_of_a_pod_ends_with_the_pod() -> None:
    judged = judge(SATURATION, "AverageValue", None)
    for one in (ONE, TWO):
        judged.scraped(0.0, one.name, page(1))
    answer(judged, 1.0, [ONE])
    assert list(judged.histories) == [ONE.name]


def test_a_restart_is_a_new_object_that_remembers_nothing() -> None:
    before = judge(SATURATION, "AverageValue", None)
    before.scraped(0.0, ONE.name, page(10))
    after = judge(SATURATION, "AverageValue", None)
    assert answer(before, 1.0, [ONE]).value == 200.0
    assert answer(after, 1.0, [ONE]).value is None


# ---- what is answered ----


@pytest.mark.parametrize(
    ("metadata", "metric_type", "max_seqs"),
    [
        pytest.param(SATURATION, "AverageValue", None, id="saturation as a total"),
        pytest.param(SATURATION, "Value", None, id="saturation as an average"),
        pytest.param(SATURATION, "AverageValue", 8, id="with the number of requests that run at once"),
        pytest.param({"metricType": "request_rate", "targetValue": "7.12345"}, "AverageValue", None, id="a rate"),
        pytest.param({"metricType": "ttft_ms", "targetValue": "500"}, "Value", None, id="a value that is not known"),
        pytest.param({**SATURATION, "minCoverage": "1"}, "AverageValue", None, id="with less coverage than needed"),
    ],
)
def test_the_answers_are_those_of_the_server(metadata: dict[str, str], metric_type: str, max_seqs: int | None) -> None:
    ending = replace(THREE, is_deleting=True)
    unanswered = State("llama-5", address="10.0.0.5")
    pods = [ONE, TWO, ending, STARTING, unanswered]
    judged = judge(metadata, metric_type, max_seqs)
    pages = [(998.0, page(3, running=7, kv=0.31, requests=40)), (1000.0, page(4, running=6, kv=0.4, requests=47))]
    for at, text in pages:
        for one in (ONE, TWO, ending):
            judged.scraped(at, one.name, text)
        judged.scraped(at, unanswered.name, None)
    sent = metadata if max_seqs is None else {**metadata, "maxSeqs": str(max_seqs)}
    own = judged.answer(1001.0, pods, 6, 5, 0.0)
    assert own == asyncio.run(served(sent, metric_type, pods, pages, replicas=(6, 5)))


@pytest.mark.parametrize(
    ("pods", "waiting", "replicas"),
    [
        pytest.param([ONE, TWO], 5.4, (2, 3), id="more replicas than wanted"),
        pytest.param([ONE, TWO], 4.6, (3, 2), id="fewer replicas than wanted"),
        pytest.param([ONE, STARTING], 0, (2, 2), id="idle, and a pod that starts"),
        pytest.param([ONE, replace(STARTING, created_at=0.0)], 0, (2, 2), id="idle, and a pod that never starts"),
    ],
)
def test_the_size_and_the_age_of_pods_count_as_in_the_server(
    pods: list[State], waiting: float, replicas: tuple[int, int]
) -> None:
    judged = judge(SATURATION, "AverageValue", None)
    pages = [(998.0, page(waiting)), (1000.0, page(waiting))]
    for at, text in pages:
        for one in (ONE, TWO):
            judged.scraped(at, one.name, text)
    own = judged.answer(1001.0, pods, *replicas, 0.0)
    assert own == asyncio.run(served(SATURATION, "AverageValue", pods, pages, replicas=replicas))


async def served(
    metadata: dict[str, str],
    metric_type: str,
    pods: Sequence[State],
    pages: Sequence[tuple[float, str]],
    *,
    replicas: tuple[int, int],
) -> JudgedAnswer:
    """Return what the real server answers over gRPC for these pods; the one without a page is llama-5."""
    # The adapter takes the time of a pod's first scrape for the time when it became ready.
    known = [replace(one, ready_at_seconds=pages[0][0]) for one in map(_pod, pods)]
    samples = tuple(parse_page(text.encode(), "text/plain", at_seconds=at) for at, text in pages)
    scraped = {
        Endpoint(one.ref, one.address): ScrapeResult(
            (TargetHistory(one.address, () if one.ref.name == "llama-5" else samples, None),)
        )
        for one in known
    }
    triggers = (DeclaredTrigger(metadata, metric_type),)
    scale_target = workload(*known, triggers=triggers, namespace=NAMESPACE, replicas=replicas[0])
    scale_target = replace(scale_target, status_replicas=replicas[1])
    cluster, engines, clock = FakeCluster(), FakeEngines(scraped), ManualClock(1001.0)
    cluster.report(scale_target, NAMESPACE, NAME)
    scaler = ExternalScaler(
        lambda: Fleet(None, 10.0, deviceless=True, scrape_results=engines.scrape_results()),
        clock,
        cluster,
        None,
        engines,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((scaler.handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(WAIT_SECONDS):
            return await _asked(pb_grpc.ExternalScalerStub(channel), metadata)  # type: ignore[no-untyped-call]
    finally:
        scaler.stop()
        await server.stop(None)


async def _asked(stub: Any, metadata: dict[str, str]) -> JudgedAnswer:
    ref = pb.ScaledObjectRef(name=NAME, namespace=NAMESPACE, scalerMetadata=metadata)
    spec = await stub.GetMetricSpec(ref)
    try:
        metrics = await stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref))
        value: float | None = metrics.metricValues[0].metricValueFloat
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - the value is compared, too
        value = None
    is_active = (await stub.IsActive(ref)).result
    return JudgedAnswer(value, spec.metricSpecs[0].targetSizeFloat, is_active)


def _pod(one: State) -> Pod:
    return Pod(
        ref=PodRef(NAMESPACE, one.name),
        node=one.node,
        phase="Running" if one.is_running else "Pending",
        is_ready=one.is_ready,
        is_deleting=one.is_deleting,
        created_at_seconds=one.created_at,
        address=one.address,
    )


# ---- demand ----


@pytest.mark.parametrize("pods", [pytest.param([ONE], id="with a replica"), pytest.param([], id="at zero")])
def test_a_trigger_without_a_source_of_demand_has_nothing_of_it(pods: list[State]) -> None:
    answers = set()
    for demand in (0.0, 500.0):
        judged = judge(SATURATION, "AverageValue", None)
        judged.scraped(0.0, ONE.name, page(0))
        answers.add(answer(judged, 1.0, pods, demand))
    assert len(answers) == 1


@pytest.mark.parametrize("keys", [pytest.param({}, id="any series"), pytest.param({"demand": "epp"}, id="a preset")])
def test_demand_activates_where_the_trigger_names_its_source(keys: dict[str, str]) -> None:
    metadata = {**DEMAND, **keys, "demandPerReplica": "100"}
    if keys:
        del metadata["demandMetric"]
    idle, busy = judge(metadata, "AverageValue", None), judge(metadata, "AverageValue", None)
    assert not answer(idle, 1.0, [], 0.0).active
    assert answer(busy, 1.0, [], 300.0) == JudgedAnswer(300.0, 100.0, True)


def test_demand_that_is_over_counts_for_its_hold() -> None:
    judged = judge({**DEMAND, "demandHoldSeconds": "60"}, "AverageValue", None)
    activity = {now: answer(judged, now, [], demand).active for now, demand in ((0.0, 1.0), (59.0, 0.0), (61.0, 0.0))}
    assert activity == {0.0: True, 59.0: True, 61.0: False}


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        pytest.param({"profile": "vllm-inference"}, "is reported by devices", id="devices"),
        pytest.param(
            {**SATURATION, "engineEndpoint": "http://llama:8000/metrics"}, "no URL of all replicas", id="a URL"
        ),
        pytest.param(
            {**SATURATION, "demandEndpoint": "http://router/metrics", "demand": "vllm-router"},
            "only the requests that wait at the gateway",
            id="demand that is a rate",
        ),
        pytest.param(
            {**SATURATION, "demandEndpoint": "http://interceptor/queue", "demand": "http-add-on"},
            "only the requests that wait at the gateway",
            id="demand that counts running requests",
        ),
    ],
)
def test_what_the_simulator_does_not_have_is_refused(metadata: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        judge(metadata, "AverageValue", None)


def test_metadata_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(TriggerError, match="did you mean"):
        judge({"profile": "lllm"}, "AverageValue", None)
