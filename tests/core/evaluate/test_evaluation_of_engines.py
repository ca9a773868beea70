# SPDX-License-Identifier: Apache-2.0
"""Tests of evaluations of engines and of demand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, NoValue, evaluate
from keda_gpu_scaler.core.evaluate.workload_view import ready_pods, scrape_requests
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType, desired_replicas, milli
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeAttempt, ScrapeAttempts, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.parser import Scope, parse_trigger
from keda_gpu_scaler.core.types import EngineSample, Pod, PodRef, Series, Unavailable, Workload
from tests.fakes import node_history, pod, sample, workload

NOW = 1000.0
EPP = "http://epp:9090/metrics"
DEMAND = {"demandEndpoint": EPP, "demandMetric": "queue_size"}
NO_ENGINE = ScrapeResult(failure="nothing of an engine's is exported", is_no_engine=True)
NO_ANSWER = ScrapeResult(failure="no answer within 2 s")


def vllm(waiting: float = 0.0, *, running: float = 0.0, kv: float = 0.0, age: float = 0.0) -> ScrapeResult:
    readings = EngineSample(NOW - age, "vllm", waiting=waiting, running=running, kv_cache_ratio=kv)
    return ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics", (readings,)),))


def demand(*sizes: float, every: float = 0.5) -> ScrapeResult:
    results = tuple(
        EngineSample(NOW - every * (len(sizes) - 1 - number), selected={"queue_size": Series(size, is_counter=False)})
        for number, size in enumerate(sizes)
    )
    return ScrapeResult((TargetHistory(EPP, results),))


def server(number: int, *, ready: bool = True, age: float = 3600.0) -> Pod:
    return pod(f"llama-{number}", "gpu-7", ready=ready, age=age, address=f"10.0.0.{number + 1}")


def serving(
    *engines: ScrapeResult | None, starting: int = 0, kind: str = "ScaledObject"
) -> tuple[Workload, dict[Endpoint, ScrapeResult]]:
    """Return a workload with a ready pod for each engine and with starting pods, and the scrape results."""
    pods = [server(number) for number in range(len(engines))]
    pods += [server(len(engines) + number, ready=False, age=30.0) for number in range(starting)]
    results = {
        Endpoint(one.ref, one.address): engine for one, engine in zip(pods, engines, strict=False) if engine is not None
    }
    return replace(workload(*pods), kind=kind), results


def evaluated(
    known: Workload | Unavailable | None,
    results: dict[Endpoint, ScrapeResult],
    *,
    queue: ScrapeResult | None = None,
    metadata: dict[str, str] | None = None,
    fleet: Fleet | None = None,
) -> Evaluation:
    trigger = parse_trigger({"metricType": "saturation", **(metadata or {})})
    asked = {
        scrape.endpoint for scrape in scrape_requests(trigger, ready_pods(known) if isinstance(known, Workload) else ())
    }
    if queue is not None:
        results = {**results, Endpoint(url=EPP, every_address=True): queue}
    assert set(results) <= asked, "every result belongs to a requested scrape"
    with_value = fleet or Fleet(None, 10.0, deviceless=True)
    return evaluate(trigger, replace(with_value, scrape_results=results), NOW, known, metadata or {})


def size(evaluation: Evaluation, known: Workload, target: float = 100.0) -> int:
    """Return the size that the HPA computes under AverageValue."""
    assert evaluation.value is not None
    return desired_replicas(
        ValueType.AVERAGE_VALUE, milli(evaluation.value), milli(target), replicas=known.status_replicas
    ).replicas


def test_a_known_part_above_the_target_counts_and_one_below_it_does_not() -> None:
    unknown_cache = EngineSample(NOW, "vllm", waiting=10.0, running=1.0)
    partial = ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics", (unknown_cache,)),))
    known, results = serving(partial, vllm(5), vllm(5))
    evaluation = evaluated(known, results)
    assert evaluation.value == pytest.approx(200 + 100 + 100)
    assert evaluation.with_value == 3
    assert any("at least 200: vllm at " in step for step in evaluation.steps)
    below = replace(unknown_cache, waiting=4.0)
    partial = ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics", (below,)),))
    known, results = serving(partial, vllm(5), vllm(5))
    assert evaluated(known, results).with_value == 2


def test_each_ready_pod_has_the_value_of_its_engine() -> None:
    known, results = serving(vllm(10), vllm(5), vllm(0, kv=0.4, running=3))
    evaluation = evaluated(known, results)
    assert evaluation.value == pytest.approx(200 + 100 + 50)
    assert size(evaluation, known) == 4
    assert (evaluation.with_value, evaluation.expected, evaluation.active) == (3, 3, True)
    assert any(
        "llama-0: 200 % by vllm at http://10.0.0.1:8000/metrics (queue 200 %" in step for step in evaluation.steps
    )


def test_pods_that_are_loading_keep_the_workload_from_doubling() -> None:
    known, results = serving(vllm(10), vllm(10), starting=2)
    # Two replicas at twice the target need four, and there are four.
    assert size(evaluated(known, results), known) == 4


def test_pods_that_are_not_ready_are_not_scraped_and_keep_nothing_active_beyond_their_grace() -> None:
    known, results = serving(vllm(0))
    known = replace(known, pods=(*known.pods, server(1, ready=False, age=3600.0)))
    assert evaluated(known, results).active is False


@pytest.mark.parametrize(
    ("queue", "active"),
    [
        pytest.param(None, True, id="neither its engine nor its demand is known"),
        pytest.param(NO_ANSWER, True, id="the source of demand does not answer"),
        pytest.param(demand(0), False, id="there is no demand"),
    ],
)
def test_law_1_a_workload_without_a_ready_pod_stays_active_while_its_work_is_not_known(
    queue: ScrapeResult | None, active: bool
) -> None:
    overloaded = workload(server(0, ready=False, age=3600.0))
    evaluation = evaluated(overloaded, {}, queue=queue, metadata=DEMAND if queue else {})
    assert (evaluation.active, evaluation.known_activity) == (active, None if active else False)


@pytest.mark.parametrize(("age", "active"), [(30.0, True), (3600.0, False)])
def test_a_pending_pod_without_a_node_keeps_active_only_within_its_grace(age: float, active: bool) -> None:
    pending = workload(pod("llama-0", None, ready=False, age=age))
    evaluation = evaluated(pending, {})
    assert (evaluation.active, evaluation.known_activity) == (active, active)
    assert (evaluation.with_value, evaluation.expected) == (0, 0)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_law_1_an_engine_that_does_not_answer_scales_nothing_up_or_down(count: int) -> None:
    busy, results = serving(*[vllm(20)] * 2, *[NO_ANSWER] * count)
    known_alone, results_alone = serving(*[vllm(20)] * 2)
    if 2 / (2 + count) >= 0.5:
        assert size(evaluated(busy, results), busy) <= size(evaluated(known_alone, results_alone), known_alone) + count
    else:
        evaluation = evaluated(busy, results)
        assert (evaluation.value, evaluation.no_value_reason, evaluation.active) == (None, NoValue.UNAVAILABLE, True)
        assert "no fresh reading of 4 of 6 ready pods: no answer within 2 s" in evaluation.reason
    idle, results = serving(vllm(0), NO_ANSWER)
    assert size(evaluated(idle, results), idle) == 1
    assert evaluated(idle, results).known_activity is None


def test_a_workload_with_requests_is_active_also_at_value_0() -> None:
    known, results = serving(vllm(0, running=2))
    active_one = evaluated(known, results, metadata={"activationThreshold": "5"})
    assert (active_one.value, active_one.active) == (0.0, True)
    assert active_one.steps[-1] == "active: 2 requests are running, are waiting or ended within the window"
    idle, results = serving(vllm(0))
    assert evaluated(idle, results, metadata={"activationThreshold": "5"}).active is False


def test_a_workload_whose_requests_end_before_a_scrape_is_active() -> None:
    def triton(*ended: float) -> ScrapeResult:
        results = (
            EngineSample(NOW - 2 * at, "triton", waiting=0.0, requests_total=n) for at, n in enumerate(reversed(ended))
        )
        return ScrapeResult((TargetHistory("http://10.0.0.1:8002/metrics", tuple(reversed([*results]))),))

    known, results = serving(triton(100, 104))
    active_one = evaluated(known, results)
    assert (active_one.value, active_one.active) == (0.0, True)
    assert active_one.steps[-1] == "active: 4 requests are running, are waiting or ended within the window"
    # The threshold of a rate says which rate counts as work.
    rate = {"metricType": "request_rate", "targetValue": "50", "activationThreshold": "5"}
    assert evaluated(known, results, metadata=rate).active is False
    idle, results = serving(triton(104, 104))
    assert evaluated(idle, results).active is False


def test_without_an_engine_saturation_is_gpu_utilisation_and_the_steps_say_so() -> None:
    known, results = serving(NO_ENGINE, NO_ENGINE)
    held = {"GPU-0000": "llama-0", "GPU-0001": "llama-1"}
    history = node_history("gpu-7", sample(0, 0.8), sample(1, 0.4), held=held)
    evaluation = evaluated(known, results, fleet=Fleet(history, 10.0))
    assert evaluation.value == pytest.approx(100 + 50)
    assert evaluation.steps[0] == (
        "no pod has a known engine (llama-0: nothing of an engine's is exported): saturation is computed from GPU "
        "utilisation, of which 80 % counts as 100 %"
    )


@pytest.mark.parametrize("metric", ["saturation", "load"])
def test_a_named_engine_is_never_replaced_by_gpu_utilisation(metric: str) -> None:
    known, results = serving(NO_ENGINE, NO_ENGINE)
    results = {replace(endpoint, engine="vllm"): result for endpoint, result in results.items()}
    history = node_history(
        "gpu-7", sample(0, 0.98), sample(1, 0.98), held={"GPU-0000": "llama-0", "GPU-0001": "llama-1"}
    )
    metadata = {"metricType": metric, "engine": "vllm"}
    evaluation = evaluated(known, results, fleet=Fleet(history, 10.0), metadata=metadata)
    assert (evaluation.value, evaluation.no_value_reason, evaluation.fallback) == (None, NoValue.UNAVAILABLE, "")
    assert evaluation.reason == "no fresh reading of 2 of 2 ready pods: nothing of an engine's is exported"
    assert evaluation.active is True


@pytest.mark.parametrize(
    ("second", "falls_back"),
    [
        pytest.param(NO_ENGINE, True, id="each candidate of each pod answered and is no engine"),
        pytest.param(NO_ANSWER, False, id="a candidate of one pod did not answer"),
        pytest.param(None, False, id="one pod was not searched yet"),
    ],
)
def test_an_engine_that_may_be_there_is_not_replaced(second: ScrapeResult | None, falls_back: bool) -> None:
    known, results = serving(NO_ENGINE, second)
    history = node_history(
        "gpu-7", sample(0, 0.98), sample(1, 0.98), held={"GPU-0000": "llama-0", "GPU-0001": "llama-1"}
    )
    evaluation = evaluated(known, results, fleet=Fleet(history, 10.0))
    assert bool(evaluation.fallback) is falls_back
    assert (evaluation.value is not None) is falls_back


REFUSED = ScrapeAttempt("http://10.0.0.1:9000/metrics", None, "the connection is refused")
ANSWERED = ScrapeAttempt("http://10.0.0.1:8000/metrics", 200, answer_seconds=0.003, at_seconds=NOW - 1)


def test_a_pod_shows_which_urls_were_asked_and_what_they_answered() -> None:
    [target] = vllm(10).targets
    known, results = serving(ScrapeResult((replace(target, attempt=ANSWERED),), attempts=(REFUSED,)))
    [observation] = evaluated(known, results).observations
    assert observation.attempts == ScrapeAttempts((ANSWERED,), (REFUSED,))


def test_a_page_that_does_not_count_shows_the_reason() -> None:
    mismatch = TargetHistory(ANSWERED.url, failure="the page is of sglang", attempt=ANSWERED)
    known, results = serving(
        ScrapeResult((mismatch,), attempts=(replace(ANSWERED, failure="an earlier search"), REFUSED))
    )
    [observation] = evaluated(known, results).observations
    assert observation.attempts == ScrapeAttempts((replace(ANSWERED, failure="the page is of sglang"),), (REFUSED,))


def test_the_urls_are_shown_also_where_gpu_utilisation_is_used() -> None:
    known, results = serving(replace(NO_ENGINE, attempts=(REFUSED,)))
    history = node_history("gpu-7", sample(0, 0.8), held={"GPU-0000": "llama-0"})
    evaluation = evaluated(known, results, fleet=Fleet(history, 10.0))
    [observation] = evaluation.observations
    assert (evaluation.value, observation.attempts.rejected) == (100.0, (REFUSED,))
    assert evaluation.fallback == evaluation.steps[0]


def test_a_url_of_the_trigger_shows_what_it_answered() -> None:
    known, _ = serving(None)
    failed = TargetHistory(ANSWERED.url, failure=REFUSED.failure, attempt=REFUSED)
    url = Endpoint(engine="vllm", url="http://vllm-svc/metrics")
    [observation] = evaluated(known, {url: ScrapeResult((failed,))}, metadata={"vllmEndpoint": url.url}).observations
    assert observation.attempts == ScrapeAttempts((REFUSED,))


@pytest.mark.parametrize(("age", "active"), [(300.0, True), (900.0, False)])
def test_a_pod_that_is_ready_before_its_engine_listens_keeps_active_within_its_grace(age: float, active: bool) -> None:
    known = workload(server(0, age=age))
    results = {Endpoint(PodRef("ai", "llama-0"), "10.0.0.1"): NO_ENGINE}
    history = node_history("gpu-7", sample(0, 0.0), held={"GPU-0000": "llama-0"})
    evaluation = evaluated(known, results, fleet=Fleet(history, 10.0))
    assert (evaluation.value, evaluation.active) == (0.0, active)


def test_one_known_engine_is_enough_to_expect_engines_in_all_pods() -> None:
    known, results = serving(vllm(5), NO_ENGINE)
    held = {"GPU-0000": "llama-0", "GPU-0001": "llama-1"}
    history = node_history("gpu-7", sample(0, 0.8), sample(1, 0.4), held=held)
    evaluation = evaluated(known, results, fleet=Fleet(history, 10.0))
    assert (evaluation.with_value, evaluation.expected) == (1, 2)


def test_without_engines_and_devices_the_reason_names_both() -> None:
    known, results = serving(NO_ENGINE)
    evaluation = evaluated(known, results)
    assert evaluation.no_value_reason is NoValue.UNAVAILABLE
    assert "node gpu-7 has no snapshot" in evaluation.reason
    assert "no pod has a known engine" in evaluation.reason


def test_the_value_of_a_url_counts_for_every_replica() -> None:
    known, _ = serving(None, None, None)
    results = {Endpoint(engine="vllm", url="http://vllm-svc/metrics"): vllm(10)}
    evaluation = evaluated(known, results, metadata={"vllmEndpoint": "http://vllm-svc/metrics"})
    assert evaluation.scope is Scope.ENDPOINT
    assert evaluation.value == 600.0
    total = evaluated(known, results, metadata={"vllmEndpoint": "http://vllm-svc/metrics", "aggregation": "sum"})
    assert total.value == 200.0


def test_a_url_without_an_answer_does_not_activate_a_workload_scaled_to_zero() -> None:
    at_zero, _ = serving()
    url = Endpoint(engine="vllm", url="http://vllm-svc/metrics")
    metadata = {"vllmEndpoint": "http://vllm-svc/metrics"}
    assert evaluated(at_zero, {url: NO_ANSWER}, metadata=metadata).active is False
    active_one, _ = serving(None)
    evaluation = evaluated(active_one, {url: NO_ANSWER}, metadata=metadata)
    assert (evaluation.no_value_reason, evaluation.active, evaluation.known_activity) == (
        NoValue.UNAVAILABLE,
        True,
        None,
    )


def test_without_the_api_server_the_engines_of_pods_cannot_be_scraped() -> None:
    evaluation = evaluated(None, {})
    assert evaluation.no_value_reason is NoValue.MISCONFIGURED
    assert evaluation.reason == (
        "metadata.scope: give this instance access to the API server (chart: rbac.create), or name one endpoint: "
        "engineEndpoint"
    )


# ---- demand ----


@pytest.mark.parametrize(
    ("queue", "active", "known"),
    [
        pytest.param(demand(0, 1), True, True, id="the first request activates it"),
        pytest.param(demand(0, 0), False, False, id="no request"),
        pytest.param(demand(3, 0), True, True, id="a request half a second ago"),
        pytest.param(NO_ANSWER, False, None, id="law 1: unknown demand does not activate"),
        pytest.param(None, False, None, id="law 1: demand without a scrape does not activate"),
    ],
)
def test_only_demand_activates_a_workload_scaled_to_zero(
    queue: ScrapeResult | None, active: bool, known: bool | None
) -> None:
    at_zero, _ = serving()
    evaluation = evaluated(at_zero, {}, queue=queue, metadata=DEMAND)
    assert (evaluation.value, evaluation.active, evaluation.known_activity) == (0.0, active, known)


@pytest.mark.parametrize(
    ("queue", "active", "known"),
    [
        pytest.param(demand(0, 1), True, True, id="demand keeps it active"),
        pytest.param(demand(1, 0, every=59), True, True, id="demand a minute ago keeps it active"),
        pytest.param(demand(1, 0, every=61), False, False, id="older demand does not"),
        pytest.param(NO_ANSWER, True, None, id="law 1: unknown demand does not let it scale to zero"),
    ],
)
def test_demand_keeps_an_idle_workload_active(queue: ScrapeResult, active: bool, known: bool | None) -> None:
    idle, results = serving(vllm(0))
    evaluation = evaluated(idle, results, queue=queue, metadata=DEMAND)
    assert (evaluation.value, evaluation.active, evaluation.known_activity) == (0.0, active, known)


@pytest.mark.parametrize(
    ("known", "is_activity_unknown"),
    [
        pytest.param(None, True, id="without access to the API server"),
        pytest.param(
            Unavailable("the API server is away", is_permanent=False), True, id="while the API server does not answer"
        ),
    ],
)
def test_law_1_unknown_demand_decides_nothing_where_the_workload_is_not_known(
    known: Unavailable | None, is_activity_unknown: bool
) -> None:
    metadata = {**DEMAND, "engineEndpoint": "http://vllm-svc/metrics", "report": "average"}
    url = Endpoint(url="http://vllm-svc/metrics")
    evaluation = evaluated(known, {url: vllm(0)}, queue=NO_ANSWER, metadata=metadata)
    assert (evaluation.is_activity_unknown, evaluation.known_activity) == (is_activity_unknown, None)
    with_value = evaluated(known, {url: vllm(0)}, queue=demand(1), metadata=metadata)
    assert (with_value.is_activity_unknown, with_value.known_activity) == (False, True)


def test_law_1_missing_data_activates_nothing_that_may_be_scaled_to_zero() -> None:
    metadata = {**DEMAND, "engineEndpoint": "http://vllm-svc/metrics", "report": "average"}
    away = Unavailable("the API server is away", is_permanent=False)
    missing = evaluated(away, {Endpoint(url="http://vllm-svc/metrics"): NO_ANSWER}, queue=demand(0), metadata=metadata)
    assert (missing.is_activity_unknown, missing.known_activity) == (True, None)
    idle = evaluated(away, {Endpoint(url="http://vllm-svc/metrics"): vllm(0)}, queue=demand(0), metadata=metadata)
    assert (idle.is_activity_unknown, idle.known_activity) == (False, False)


def test_demand_activates_while_nothing_else_is_known() -> None:
    away = Unavailable("the API server is away", is_permanent=False)
    evaluation = evaluated(away, {}, queue=demand(1), metadata=DEMAND)
    assert (evaluation.value, evaluation.active, evaluation.known_activity) == (None, True, True)


@pytest.mark.parametrize(
    ("starting", "queued", "expected"),
    [
        pytest.param(1, 40, 5, id="a burst starts several pods while the first one loads"),
        pytest.param(4, 8, 4, id="never fewer than there are"),
        pytest.param(1, 8, 1, id="as many as it needs"),
    ],
)
def test_demand_sizes_the_workload_while_no_pod_is_ready(starting: int, queued: float, expected: int) -> None:
    known, results = serving(starting=starting)
    evaluation = evaluated(known, results, queue=demand(queued), metadata={**DEMAND, "demandPerReplica": "8"})
    assert size(evaluation, known) == expected


def test_demand_sizes_nothing_once_a_pod_is_ready() -> None:
    known, results = serving(vllm(5), starting=1)
    with_demand = evaluated(known, results, queue=demand(80), metadata={**DEMAND, "demandPerReplica": "8"})
    assert with_demand.value == evaluated(known, results).value


def test_demand_starts_jobs_from_nothing() -> None:
    jobs, _ = serving(kind="ScaledJob")
    evaluation = evaluated(jobs, {}, queue=demand(20), metadata={**DEMAND, "demandPerReplica": "8"})
    assert evaluation.value is not None
    assert math.ceil(evaluation.value / 100) == 3


@pytest.mark.parametrize("wanted", range(1, 30))
def test_demand_starts_exactly_as_many_jobs_as_needed_despite_floating_point(wanted: int) -> None:
    jobs, _ = serving(kind="ScaledJob")
    metadata = {**DEMAND, "demandPerReplica": "1", "targetValue": "0.7"}
    evaluation = evaluated(jobs, {}, queue=demand(wanted), metadata=metadata)
    assert evaluation.value is not None
    assert math.ceil(evaluation.value / 0.7) == wanted


def test_active_demand_starts_one_job() -> None:
    jobs, _ = serving(kind="ScaledJob")
    assert evaluated(jobs, {}, queue=demand(20), metadata=DEMAND).value == 100.0
    # No job is started again while demand is only held.
    assert evaluated(jobs, {}, queue=demand(20, 0), metadata=DEMAND).value == 0.0


def test_demand_below_its_threshold_sizes_nothing() -> None:
    at_zero, _ = serving()
    metadata = {**DEMAND, "demandPerReplica": "8", "demandThreshold": "30"}
    evaluation = evaluated(at_zero, {}, queue=demand(20), metadata=metadata)
    assert (evaluation.value, evaluation.active) == (0.0, False)


def test_the_history_of_demand_covers_the_window_and_the_hold() -> None:
    metadata = {"metricType": "saturation", **DEMAND, "windowSeconds": "20", "demandHoldSeconds": "60"}
    (scrape,) = scrape_requests(parse_trigger(metadata), ())
    assert (scrape.is_demand, scrape.window_seconds) == (True, 80.0)


def test_demand_activates_also_where_the_metric_is_of_devices() -> None:
    at_zero, _ = serving()
    trigger = parse_trigger(DEMAND)
    with_value = Fleet(None, 10.0, deviceless=True, scrape_results={Endpoint(url=EPP, every_address=True): demand(1)})
    assert evaluate(trigger, with_value, NOW, at_zero, DEMAND).known_activity is True


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 50)), min_size=1, max_size=6),
    st.integers(0, 3),
)
def test_law_1_unknown_data_never_moves_the_size_up(waiting: list[float | None], starting: int) -> None:
    known, results = serving(*(NO_ANSWER if one is None else vllm(one) for one in waiting), starting=starting)
    evaluation = evaluated(known, results)
    if evaluation.value is None:
        return
    # With every unknown queue full the HPA would want at least as much.
    full, results_full = serving(*(vllm(50 if one is None else one) for one in waiting), starting=starting)
    assert size(evaluation, known) <= max(size(evaluated(full, results_full), full), known.spec_replicas)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=6))
def test_law_3_asking_twice_gives_the_same_answer(waiting: list[float]) -> None:
    known, results = serving(*map(vllm, waiting))
    assert evaluated(known, results) == evaluated(known, results)
