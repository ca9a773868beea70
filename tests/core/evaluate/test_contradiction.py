# SPDX-License-Identifier: Apache-2.0
"""Tests that a queue which the value does not answer is named."""

from dataclasses import replace

import pytest

from keda_gpu_scaler.core.evaluate.contradiction import ASSUMED_COLD_START_SECONDS
from keda_gpu_scaler.core.evaluate.engine_load import pod_endpoint
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.evaluate.workload_view import HISTORY_SECONDS
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import MAX_COLD_START_SECONDS, EngineSample, Pod
from tests.fakes import pod, workload

NOW = 1000.0
COLD_START = 60.0
CACHE = {"metricType": "kv_cache_usage"}
URL = "http://vllm-svc/metrics"


def started(number: int = 0, seconds: float | None = COLD_START, *, restarts: int = 0) -> Pod:
    """A pod that was ready so many seconds after its creation."""
    one = pod(f"llama-{number}", address=f"10.0.0.{number + 1}")
    ready_at = None if seconds is None else one.created_at_seconds + seconds
    return replace(one, ready_at_seconds=ready_at, restarts=restarts)


def started_ago(seconds: float) -> Pod:
    """A pod that became ready so many seconds ago."""
    return replace(started(1), created_at_seconds=NOW - seconds - COLD_START, ready_at_seconds=NOW - seconds)


def queueing(
    seconds: float, *, kv: float = 0.3, waiting: float = 10.0, gap: float = 0.0, age: float = 0.0
) -> ScrapeResult:
    """An engine with waiting requests since so many seconds, and none before; ``gap`` seconds ago there was none."""
    times = [float(ago) for ago in range(int(seconds) + 50, -1, -10)]
    samples = tuple(
        EngineSample(
            NOW - age - ago,
            "vllm",
            waiting=waiting if ago <= seconds and (not gap or ago != gap) else 0.0,
            running=4.0,
            kv_cache_ratio=kv,
        )
        for ago in times
    )
    return ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics", samples),))


def evaluated(
    *engines: ScrapeResult, pods: tuple[Pod, ...] = (), replicas: int | None = None, **metadata: str
) -> Evaluation:
    pods = pods or tuple(started(number) for number in range(len(engines)))
    known = workload(*pods, replicas=replicas)
    results = {Endpoint(one.ref, one.address): engine for one, engine in zip(pods, engines, strict=True)}
    if "engineEndpoint" in metadata:
        results = {Endpoint(url=URL): engines[0]}
    metadata = {**CACHE, **metadata}
    return evaluate(parse_trigger(metadata), Fleet(None, 10.0, True, scrape_results=results), NOW, known, metadata)


def test_requests_that_wait_longer_than_a_replica_needs_to_start_contradict_a_value_that_asks_for_none() -> None:
    evaluation = evaluated(queueing(70))
    assert evaluation.contradiction == (
        "contradiction: 10 requests wait, some queue for 70 s, which is longer than a replica needs to start (60 s, "
        "measured), and the value asks for no more than 1 replicas. kv_cache_usage does not show this load: lower "
        "targetValue, or use metricType: load"
    )
    assert evaluation.contradiction in evaluation.steps
    assert evaluation.cold_start_seconds == COLD_START
    assert "a pod was ready 60 s after its creation (median of the pods)" in evaluation.steps


@pytest.mark.parametrize(
    ("engine", "is_named"),
    [
        pytest.param(queueing(60), True, id="as long as a replica needs"),
        pytest.param(queueing(50), False, id="not yet as long"),
        pytest.param(queueing(200, gap=20.0), False, id="the queue was empty meanwhile"),
        pytest.param(queueing(200, waiting=0.0), False, id="no request waits"),
        pytest.param(queueing(200, kv=0.95), False, id="the value asks for more replicas"),
        pytest.param(queueing(200, age=5.0), True, id="the newest page is still fresh"),
    ],
)
def test_a_queue_is_named_only_if_it_is_old_and_unanswered(engine: ScrapeResult, is_named: bool) -> None:
    evaluation = evaluated(engine)
    assert bool(evaluation.contradiction) is is_named
    assert any("contradiction" in step for step in evaluation.steps) is is_named


@pytest.mark.parametrize(
    ("newest", "replicas", "is_named"),
    [
        pytest.param(started(1), 2, True, id="every replica has been ready for long"),
        pytest.param(pod("llama-1", age=30.0, ready=False), 2, False, id="the replica that was asked for is starting"),
        pytest.param(pod("llama-1", age=3600.0, ready=False), 2, False, id="the replica never became ready"),
        pytest.param(pod("llama-1", age=30.0, ready=False), 1, True, id="a replacement starts, and nothing more"),
        pytest.param(started_ago(59.0), 2, False, id="the new replica has been ready for less than a start"),
        pytest.param(started_ago(60.0), 2, True, id="the new replica has been ready for as long as a start"),
    ],
)
def test_a_replica_that_was_asked_for_is_an_answer(newest: Pod, replicas: int, is_named: bool) -> None:
    engines = [queueing(200), *([queueing(0, waiting=0.0)] if newest.is_ready else [])]
    known, known_pods = {**CACHE, "targetValue": "30"}, (started(), newest)
    results = {Endpoint(one.ref, one.address): engine for one, engine in zip(known_pods, engines, strict=False)}
    evaluation = evaluate(
        parse_trigger(known),
        Fleet(None, 10.0, True, scrape_results=results),
        NOW,
        workload(*known_pods, replicas=replicas),
        known,
    )
    assert bool(evaluation.contradiction) is is_named, evaluation.steps


def test_the_remedy_does_not_name_the_metric_that_is_used() -> None:
    """The value contains the queue, but one pod has all of it and the others are idle."""
    evaluation = evaluated(queueing(200), *[queueing(0, waiting=0.0)] * 3, metricType="load", maxSeqs="100")
    assert evaluation.contradiction.endswith(
        "replicas. load shows less than one more replica: check that the router gives no pod more than its part, or "
        "raise headroom"
    )


@pytest.mark.parametrize(
    ("seconds", "pods", "is_named"),
    [
        pytest.param(ASSUMED_COLD_START_SECONDS, (started(seconds=None),), True, id="assumed, where none was measured"),
        pytest.param(ASSUMED_COLD_START_SECONDS - 10, (started(seconds=None),), False, id="not before the assumed one"),
        pytest.param(70.0, (started(restarts=1),), False, id="a restarted container says nothing about the start"),
        pytest.param(HISTORY_SECONDS, (started(seconds=1800.0),), True, id="as long as the history shows at most"),
    ],
)
def test_the_limit_is_the_cold_start_where_it_is_known(seconds: float, pods: tuple[Pod, ...], is_named: bool) -> None:
    contradiction = evaluated(queueing(seconds), pods=pods).contradiction
    assert bool(contradiction) is is_named
    assert ("assumed" in contradiction) is (is_named and pods[0].cold_start_seconds is None)


def test_the_waiting_requests_of_all_engines_are_added_up() -> None:
    evaluation = evaluated(queueing(70, waiting=3.0), queueing(90, waiting=4.0), queueing(0, waiting=0.0))
    assert evaluation.contradiction.startswith("contradiction: 7 requests wait, some queue for 90 s")


def test_every_engine_of_a_pod_with_several_named_ports_counts() -> None:
    one = started()
    first, second = queueing(0, waiting=0.0).targets[0], queueing(90, waiting=4.0).targets[0]
    targets = (first, replace(second, url="http://10.0.0.1:8001/metrics"))
    metadata = {**CACHE, "enginePort": "8000-8001"}
    trigger = parse_trigger(metadata)
    assert trigger.engine is not None
    results = {pod_endpoint(trigger.engine, one): ScrapeResult(targets)}
    fleet = Fleet(None, 10.0, True, scrape_results=results)
    evaluation = evaluate(trigger, fleet, NOW, workload(one), metadata)
    assert evaluation.contradiction.startswith("contradiction: 4 requests wait, some queue for 90 s")


def test_law_1_a_stale_page_and_a_single_url_contradict_nothing() -> None:
    assert evaluated(queueing(200), queueing(200, age=11.0)).contradiction.startswith("contradiction: 10 requests")
    assert evaluated(queueing(200), engineEndpoint=URL).contradiction == ""


def test_the_cold_start_of_a_workload_is_the_median_of_its_pods() -> None:
    assert workload(started(0, 50.0), started(1, 90.0), started(2, 70.0)).cold_start_seconds == 70.0
    assert workload(started(0, None), started(1, 90.0, restarts=2)).cold_start_seconds is None
    assert started(0, -5.0).cold_start_seconds == 0.0


def test_a_pod_that_became_ready_again_hours_later_does_not_show_its_cold_start() -> None:
    """An overloaded pod fails its readiness probe; the API server keeps only the last time at which it became ready."""
    again = [started(number, MAX_COLD_START_SECONDS + 1) for number in (0, 1)]
    assert workload(*again).cold_start_seconds is None
    assert workload(*again, started(2, 90.0)).cold_start_seconds == 90.0
    assert started(0, MAX_COLD_START_SECONDS).cold_start_seconds == MAX_COLD_START_SECONDS
