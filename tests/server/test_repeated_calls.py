# SPDX-License-Identifier: Apache-2.0
"""Tests that a repeated call costs little and gets the answer of a scaler without a cache."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.instance_status import RecentAnswer, RequestCounts
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.types import EngineSample, Unavailable, Workload
from keda_gpu_scaler.server.external_scaler import SERVICE, ExternalScaler
from keda_gpu_scaler.server.preparation import REGISTER_AGAIN_SECONDS
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.fakes import FakeCluster, FakeEngines, FakePeers, ManualClock, node_history, pod, sample, workload

POD = pod("llama-0", address="10.0.0.1", ports=(8000,))
KNOWN = workload(POD)


class Refused(Exception):  # noqa: N818 - the call's status, as the client sees it
    """A call that was answered with an error."""


class Context:
    """The part of a gRPC context that a unary call uses."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Refused(code, details)


class CountingClock(ManualClock):
    """A manual clock that counts its readings."""

    readings = 0

    def __call__(self) -> float:
        self.readings += 1
        return self.now


class CountingCluster(FakeCluster):
    """A cluster that counts requests."""

    def workload(self, namespace: str, name: str, proposed_spec: str = "") -> Workload | Unavailable:
        self.asked.append((namespace, name))
        return self.workloads[namespace, name]


class CountingEngines(FakeEngines):
    """Engines that count the registrations of interest, by endpoint."""

    def __init__(self, results: Mapping[Endpoint, ScrapeResult] | None = None) -> None:
        super().__init__(results)
        self.registered: Counter[Endpoint] = Counter()

    def register_interest(
        self,
        endpoint: Endpoint,
        *,
        window_seconds: float,
        history_seconds: float = 0.0,
        selectors: tuple[SeriesSelector, ...] = (),
        demand: bool = False,
    ) -> None:
        self.registered[endpoint] += 1
        super().register_interest(
            endpoint,
            window_seconds=window_seconds,
            history_seconds=history_seconds,
            selectors=selectors,
            demand=demand,
        )

    async def wait_for_sync(self, endpoints: Collection[Endpoint]) -> None:
        assert self.known.keys() >= set(endpoints)


def history(utilization: float, at: float) -> History:
    return node_history("gpu-7", sample(0, utilization), held={"GPU-0000": "llama-0"}, at=at)


def engine(waiting: float, at: float) -> ScrapeResult:
    """Two samples: a load needs them."""
    readings = tuple(
        EngineSample(at - ago, "vllm", waiting=waiting, running=waiting, kv_cache_ratio=0.0, running_limit=256.0)
        for ago in (2.0, 0.0)
    )
    return ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics", readings),))


class Bench:
    """A scaler that is called without a network; ``remembers`` is False for one that is replaced before each call."""

    def __init__(self, *, remembers: bool = True) -> None:
        self.clock = CountingClock()
        self.cluster, self.peers = CountingCluster(llama=KNOWN), FakePeers()
        self.engines = CountingEngines()
        self.fleet = Fleet(history(0.92, 1000.0), 10.0)
        self.remembers = remembers
        self.noted: list[RecentAnswer] = []
        self.scaler = self.new_scaler()

    def new_scaler(self) -> ExternalScaler:
        return ExternalScaler(
            lambda: replace(self.fleet, scrape_results=self.engines.scrape_results()),
            self.clock,
            self.cluster,
            self.peers,
            self.engines,
            on_answer=self.noted.append,
        )

    def call(self, method: str, metadata: Mapping[str, str], metric_name: str = "") -> Any:
        """Return the response's bytes, or the status of the error."""
        ref = pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=dict(metadata))
        request = pb.GetMetricsRequest(scaledObjectRef=ref, metricName=metric_name) if method == "GetMetrics" else ref
        return self.send(method, request.SerializeToString(deterministic=True))

    def send(self, method: str, request: bytes) -> Any:
        if not self.remembers:
            self.scaler = self.new_scaler()
        handlers: Any = self.scaler.handlers()
        handler = handlers.service(_Details(f"/{SERVICE}/{method}", None)).unary_unary
        try:
            return asyncio.run(handler(request, Context()))
        except Refused as refusal:
            return refusal.args


@dataclass(frozen=True, slots=True)
class _Details:
    method: str
    invocation_metadata: Any


LLM = {"profile": "llm"}
SATURATION = {"metricType": "saturation"}
ENGINE = Endpoint(POD.ref, "10.0.0.1", declared_ports=(8000,))


def test_a_warm_call_does_each_step_once() -> None:
    bench = Bench()
    first = bench.call("GetMetrics", {})
    bench.cluster.asked.clear()
    bench.peers.asked_windows.clear()
    bench.clock.readings = 0
    assert bench.call("GetMetrics", {}) == first
    assert bench.cluster.asked == [("ai", "llama")]
    assert len(bench.peers.asked_windows) <= 1
    assert bench.clock.readings <= 3


def test_interest_in_engines_is_registered_once_a_second() -> None:
    bench = Bench()
    bench.engines.report(ENGINE, engine(1, 1000.0))
    for _ in range(5):
        bench.call("GetMetrics", LLM)
    assert bench.engines.registered == {ENGINE: 1}
    bench.clock.advance(REGISTER_AGAIN_SECONDS)
    for _ in range(5):
        bench.call("IsActive", LLM)
    assert bench.engines.registered == {ENGINE: 2}


def test_interest_stays_registered_while_calls_are_answered_from_memory() -> None:
    bench = Bench()
    bench.fleet = Fleet(history(0.92, 1000.0), 3600.0)
    answers = set()
    for _ in range(50):
        answers.add(bench.call("GetMetrics", {}))
        bench.clock.advance(20.0)
    assert len(answers) == 1
    # The first call also reads the workload after its wait.
    assert (len(bench.cluster.asked), len(bench.peers.asked_windows)) == (51, 50)


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        pytest.param({}, "last answered 10 s ago (limit 10 s)", id="a sampler that hangs"),
        pytest.param(LLM, "no fresh reading of 1 of 1 ready pods", id="an engine that hangs"),
    ],
)
def test_law_1_data_that_becomes_stale_is_an_error_at_the_same_instant(metadata: dict[str, str], sentence: str) -> None:
    for bench in (Bench(), Bench(remembers=False)):
        bench.engines.report(ENGINE, engine(1, 1000.0))
        for now in (1000.0, 1005.0, 1010.0):
            bench.clock.now = now
            assert isinstance(bench.call("GetMetrics", metadata), bytes)
        bench.clock.now = 1010.001
        code, details = bench.call("GetMetrics", metadata)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert sentence in details


def test_a_workload_that_cannot_be_read_any_more_is_an_error_at_once() -> None:
    bench = Bench()
    assert isinstance(bench.call("GetMetrics", {}), bytes)
    bench.cluster.report(Unavailable("pods: the API server does not answer", is_permanent=True))
    code, _ = bench.call("GetMetrics", {})
    assert code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_message_that_cannot_be_read_is_an_error_each_time() -> None:
    bench = Bench()
    for method in ("GetMetrics", "IsActive", "GetMetricSpec"):
        for _ in range(2):
            assert bench.send(method, b"\xff\xff")[0] is grpc.StatusCode.INVALID_ARGUMENT
    counts = bench.scaler.counts()
    assert [(counts[it].requests, counts[it].errors) for it in ("GetMetrics", "IsActive")] == [(2, 2), (2, 2)]


def test_two_forms_of_one_request_are_one_evaluation() -> None:
    bench = Bench()
    ref = pb.ScaledObjectRef(name="llama", namespace="ai")
    one, other = {"targetValue": "50", "windowSeconds": "30"}, {"windowSeconds": "30", "targetValue": "50"}
    entry = [pb.ScaledObjectRef(scalerMetadata={key: value}).SerializeToString() for key, value in one.items()]
    forms = [ref.SerializeToString() + entry[0] + entry[1], ref.SerializeToString() + entry[1] + entry[0]]
    assert pb.ScaledObjectRef.FromString(forms[0]).scalerMetadata == other
    assert bench.send("IsActive", forms[0]) == bench.send("IsActive", forms[1])
    assert len(bench.scaler._evaluator._evaluations) == 1


def test_a_very_long_request_is_answered_and_not_kept() -> None:
    # Protobuf skips fields that it does not know, so that a caller can make any request as long as it likes.
    bench = Bench()
    request = pb.ScaledObjectRef(name="llama", namespace="ai").SerializeToString()
    padding = b"\xfa\x01\xa0\x1f" + 4000 * b"x"
    assert bench.send("IsActive", request + padding) == bench.send("IsActive", request)
    assert len(bench.scaler._requests_seen) == 1


CALLS = st.sampled_from(
    [
        ("GetMetrics", {}, ""),
        ("GetMetrics", {"targetValue": "50"}, "keda_gpu_metric"),
        ("GetMetrics", {"targetValue": "50"}, "another_metric"),
        ("GetMetrics", {"targetValue": "x"}, ""),
        ("GetMetrics", {"nodeSelector": "pool=a"}, ""),
        ("GetMetrics", LLM, ""),
        ("GetMetrics", SATURATION, ""),
        ("IsActive", {"activationThreshold": "60"}, ""),
        ("IsActive", LLM, ""),
        ("GetMetricSpec", {"targetValue": "50"}, ""),
    ]
)
CHANGES = st.one_of(
    st.tuples(st.just("time"), st.sampled_from([0.1, 0.5, 1.0, 5.0, 9.9, 61.0])),
    st.tuples(st.just("sample"), st.sampled_from([0.1, 0.5, 0.92])),
    st.tuples(st.just("scrape"), st.sampled_from([0.0, 3.0])),
    st.tuples(st.just("replicas"), st.sampled_from([1.0, 3.0])),
    st.tuples(st.just("labels"), st.sampled_from([0.0, 1.0])),
    st.tuples(st.just("gone"), st.just(0.0)),
)


def change(bench: Bench, kind: str, number: float) -> None:
    now = bench.clock.now
    if kind == "time":
        bench.clock.advance(number)
    elif kind == "sample":
        bench.fleet = replace(bench.fleet, history=history(number, now))
    elif kind == "scrape":
        bench.engines.report(ENGINE, engine(number, now))
    elif kind == "replicas":
        bench.cluster.report(replace(KNOWN, spec_replicas=int(number), status_replicas=int(number)))
    elif kind == "labels":
        bench.cluster.labels = {"gpu-7": {"pool": "ab"[int(number)]}}
    else:
        bench.cluster.report(Unavailable("ai/llama: there is no ScaledObject of this name", is_permanent=True))


def counted(counts: RequestCounts) -> tuple[int, int, int]:
    return counts.requests, counts.errors, sum(counts.duration_buckets)


@given(st.lists(st.one_of(CALLS, CHANGES), min_size=1, max_size=25))
def test_law_3_a_scaler_that_remembers_answers_as_one_that_does_not(steps: list[Any]) -> None:
    remembering, forgetful = Bench(), Bench(remembers=False)
    calls: Counter[str] = Counter()
    for bench in (remembering, forgetful):
        bench.engines.report(ENGINE, engine(1, 1000.0))
    for step in steps:
        if len(step) == 2:
            change(remembering, *step)
            change(forgetful, *step)
            continue
        calls[step[0]] += 1
        for _ in range(2):  # the second one is the repetition
            assert remembering.call(*step) == forgetful.call(*step)
        if remembering.noted:
            assert replace(remembering.noted[-1], at_seconds=0) == replace(forgetful.noted[-1], at_seconds=0)
            newest = remembering.scaler.answers()[-1:]
            assert not forgetful.scaler.answers() or newest == forgetful.scaler.answers()[-1:]
    assert len(remembering.noted) == len(forgetful.noted)
    for method, counts in remembering.scaler.counts().items():
        requests, _, durations = counted(counts)
        assert (requests, durations) == (2 * calls[method], 2 * calls[method])
