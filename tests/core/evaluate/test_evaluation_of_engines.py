# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, NoValue, evaluate
from keda_gpu_scaler.core.evaluate.workload_view import ready_pods, scrape_requests
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType, desired_replicas, milli
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.parser import Scope, parse_trigger
from keda_gpu_scaler.core.types import EngineSample, Pod, PodRef, Series, Unavailable, Workload
from tests.fakes import node_history, pod, sample, workload

NOW = 1000.0
EPP = "http://epp:9090/metrics"
WAKING = {"demandEndpoint": EPP, "demandMetric": "queue_size"}
NO_ENGINE = ScrapeResult(failure="nothing of an engine's is exported", is_no_engine=True)
SILENT = ScrapeResult(failure="no answer within 2 s")


def vllm(waiting: float = 0.0, *, running: float = 0.0, kv: float = 0.0, age: float = 0.0) -> ScrapeResult:
    readings = EngineSample(NOW - age, "vllm", waiting=waiting, running=running, kv_cache_ratio=kv)
    return ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics", (readings,)),))


def demand(*sizes: float, every: float = 0.5) -> ScrapeResult:
    told = tuple(
        EngineSample(NOW - every * (len(sizes) - 1 - number), selected={"queue_size": Series(size, is_counter=False)})
        for number, size in enumerate(sizes)
    )
    return ScrapeResult((TargetHistory(EPP, told),))


def server(number: int, *, ready: bool = True, age: float = 3600.0) -> Pod:
    return pod(f"llama-{number}", "gpu-7", ready=ready, age=age, address=f"10.0.0.{number + 1}")


def serving(
    *engines: ScrapeResult | None, starting: int = 0, kind: str = "ScaledObject"
) -> tuple[Workload, dict[Endpoint, ScrapeResult]]:
    """A workload with a ready pod for each engine, and pods that are starting; and what was scraped of them."""
    pods = [server(number) for number in range(len(engines))]
    pods += [server(len(engines) + number, ready=False, age=30.0) for number in range(starting)]
    told = {
        Endpoint(one.ref, one.address): engine for one, engine in zip(pods, engines, strict=False) if engine is not None
    }
    return replace(workload(*pods), kind=kind), told


def judge(
    known: Workload | Unavailable | None,
    told: dict[Endpoint, ScrapeResult],
    *,
    queue: ScrapeResult | None = None,
    metadata: dict[str, str] | None = None,
    fleet: Fleet | None = None,
) -> Evaluation:
    trigger = parse_trigger({"profile": "llm", **(metadata or {})})
    asked = {
        scrape.endpoint for scrape in scrape_requests(trigger, ready_pods(known) if isinstance(known, Workload) else ())
    }
    if queue is not None:
        told = {**told, Endpoint(url=EPP, every_address=True): queue}
    assert set(told) <= asked, "what was scraped is what is asked for"
    with_value = fleet or Fleet(None, 10.0, deviceless=True)
    return evaluate(trigger, replace(with_value, scrape_results=told), NOW, known, metadata or {})


def size(evaluation: Evaluation, known: Workload, target: float = 100.0) -> int:
    """The size the HPA makes of it, under AverageValue."""
    assert evaluation.value is not None
    return desired_replicas(
        ValueType.AVERAGE_VALUE, milli(evaluation.value), milli(target), replicas=known.status_replicas
    ).replicas


def test_each_ready_pods_engine_tells_its_own_value() -> None:
    known, told = serving(vllm(10), vllm(5), vllm(0, kv=0.4, running=3))
    evaluation = judge(known, told)
    assert evaluation.value == pytest.approx(200 + 100 + 50)
    assert size(evaluation, known) == 4
    assert (evaluation.with_value, evaluation.expected, evaluation.active) == (3, 3, True)
    assert any(
        "llama-0: 200 % by vllm at http://10.0.0.1:8000/metrics (queue 200 %" in step for step in evaluation.steps
    )


def test_pods_that_are_loading_keep_the_fleet_from_doubling() -> None:
    known, told = serving(vllm(10), vllm(10), starting=2)
    # Two replicas at twice the target ask for four, and four there are.
    assert size(judge(known, told), known) == 4


def test_pods_that_are_not_ready_are_not_asked_and_do_not_keep_it_awake_for_ever() -> None:
    known, told = serving(vllm(0))
    known = replace(known, pods=(*known.pods, server(1, ready=False, age=3600.0)))
    assert judge(known, told).active is False


@pytest.mark.parametrize(
    ("queue", "active"),
    [
        pytest.param(None, True, id="nobody knows its engine nor any demand"),
        pytest.param(SILENT, True, id="nor does the source of demand tell any"),
        pytest.param(demand(0), False, id="there is no demand, so it is not missed"),
    ],
)
def test_law_1_a_workload_none_of_whose_pods_is_ready_is_not_put_to_sleep_unseen(
    queue: ScrapeResult | None, active: bool
) -> None:
    overloaded = workload(server(0, ready=False, age=3600.0))
    evaluation = judge(overloaded, {}, queue=queue, metadata=WAKING if queue else {})
    assert (evaluation.active, evaluation.known_activity) == (active, None if active else False)


@pytest.mark.parametrize(("age", "active"), [(30.0, True), (3600.0, False)])
def test_a_pending_pod_without_a_node_keeps_active_only_within_its_grace(age: float, active: bool) -> None:
    pending = workload(pod("llama-0", None, ready=False, age=age))
    evaluation = judge(pending, {})
    assert (evaluation.active, evaluation.known_activity) == (active, active)
    assert (evaluation.with_value, evaluation.expected) == (0, 0)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_law_1_an_engine_that_is_silent_neither_grows_nor_shrinks_the_workload(count: int) -> None:
    busy, told = serving(*[vllm(20)] * 2, *[SILENT] * count)
    known_alone, told_alone = serving(*[vllm(20)] * 2)
    if 2 / (2 + count) >= 0.5:
        assert size(judge(busy, told), busy) <= size(judge(known_alone, told_alone), known_alone) + count
    else:
        evaluation = judge(busy, told)
        assert (evaluation.value, evaluation.no_value_reason, evaluation.active) == (None, NoValue.UNAVAILABLE, True)
        assert "no fresh reading of 4 of 6 ready pods: no answer within 2 s" in evaluation.reason
    idle, told = serving(vllm(0), SILENT)
    assert size(judge(idle, told), idle) == 1
    assert judge(idle, told).known_activity is None


def test_a_workload_that_serves_is_awake_whatever_its_value() -> None:
    known, told = serving(vllm(0, running=2))
    awake = judge(known, told, metadata={"activationThreshold": "5"})
    assert (awake.value, awake.active) == (0.0, True)
    assert awake.steps[-1] == "active: 2 requests run, wait or just ended"
    idle, told = serving(vllm(0))
    assert judge(idle, told, metadata={"activationThreshold": "5"}).active is False


def test_a_workload_whose_requests_are_over_before_anybody_looks_is_awake_all_the_same() -> None:
    def triton(*ended: float) -> ScrapeResult:
        told = (
            EngineSample(NOW - 2 * at, "triton", waiting=0.0, requests_total=n) for at, n in enumerate(reversed(ended))
        )
        return ScrapeResult((TargetHistory("http://10.0.0.1:8002/metrics", tuple(reversed([*told]))),))

    known, told = serving(triton(100, 104))
    awake = judge(known, told)
    assert (awake.value, awake.active) == (0.0, True)
    assert awake.steps[-1] == "active: 4 requests run, wait or just ended"
    # Of a rate the threshold says how much of it is work.
    rate = {"metricType": "request_rate", "targetValue": "50", "activationThreshold": "5"}
    assert judge(known, told, metadata=rate).active is False
    idle, told = serving(triton(104, 104))
    assert judge(idle, told).active is False


def test_without_an_engine_saturation_is_gpu_utilisation_and_it_says_so() -> None:
    known, told = serving(NO_ENGINE, NO_ENGINE)
    held = {"GPU-0000": "llama-0", "GPU-0001": "llama-1"}
    history = node_history("gpu-7", sample(0, 0.8), sample(1, 0.4), held=held)
    evaluation = judge(known, told, fleet=Fleet(history, 10.0))
    assert evaluation.value == pytest.approx(100 + 50)
    assert evaluation.steps[0] == (
        "no engine tells of itself (llama-0: nothing of an engine's is exported): GPU utilisation instead, of which "
        "80 % counts as saturation 100 %"
    )


@pytest.mark.parametrize(("age", "active"), [(300.0, True), (900.0, False)])
def test_a_pod_that_is_ready_before_its_engine_listens_is_not_put_to_sleep(age: float, active: bool) -> None:
    known = workload(server(0, age=age))
    told = {Endpoint(PodRef("ai", "llama-0"), "10.0.0.1"): NO_ENGINE}
    history = node_history("gpu-7", sample(0, 0.0), held={"GPU-0000": "llama-0"})
    evaluation = judge(known, told, fleet=Fleet(history, 10.0))
    assert (evaluation.value, evaluation.active) == (0.0, active)


def test_one_engine_among_the_pods_is_enough_to_believe_in_engines() -> None:
    known, told = serving(vllm(5), NO_ENGINE)
    held = {"GPU-0000": "llama-0", "GPU-0001": "llama-1"}
    history = node_history("gpu-7", sample(0, 0.8), sample(1, 0.4), held=held)
    evaluation = judge(known, told, fleet=Fleet(history, 10.0))
    assert (evaluation.with_value, evaluation.expected) == (1, 2)


def test_without_engine_and_devices_it_is_said_that_neither_tells() -> None:
    known, told = serving(NO_ENGINE)
    evaluation = judge(known, told)
    assert evaluation.no_value_reason is NoValue.UNAVAILABLE
    assert "node gpu-7 has told nothing" in evaluation.reason
    assert "no engine tells of itself" in evaluation.reason


def test_a_url_counts_as_every_replicas_value() -> None:
    known, _ = serving(None, None, None)
    told = {Endpoint(engine="vllm", url="http://vllm-svc/metrics"): vllm(10)}
    evaluation = judge(known, told, metadata={"vllmEndpoint": "http://vllm-svc/metrics"})
    assert evaluation.scope is Scope.ENDPOINT
    assert evaluation.value == 600.0
    total = judge(known, told, metadata={"vllmEndpoint": "http://vllm-svc/metrics", "aggregation": "sum"})
    assert total.value == 200.0


def test_a_url_without_anybody_behind_it_does_not_wake_what_sleeps() -> None:
    asleep, _ = serving()
    url = Endpoint(engine="vllm", url="http://vllm-svc/metrics")
    metadata = {"vllmEndpoint": "http://vllm-svc/metrics"}
    assert judge(asleep, {url: SILENT}, metadata=metadata).active is False
    awake, _ = serving(None)
    evaluation = judge(awake, {url: SILENT}, metadata=metadata)
    assert (evaluation.no_value_reason, evaluation.active, evaluation.known_activity) == (
        NoValue.UNAVAILABLE,
        True,
        None,
    )


def test_without_the_api_server_engines_of_pods_cannot_be_asked() -> None:
    evaluation = judge(None, {})
    assert evaluation.no_value_reason is NoValue.MISCONFIGURED
    assert evaluation.reason == (
        "metadata.scope: give this instance access to the API server (chart: rbac.create), or name one endpoint: "
        "engineEndpoint"
    )


# ---- demand ----


@pytest.mark.parametrize(
    ("queue", "active", "known"),
    [
        pytest.param(demand(0, 1), True, True, id="the first request wakes it"),
        pytest.param(demand(0, 0), False, False, id="no request, no waking"),
        pytest.param(demand(3, 0), True, True, id="a request of just now"),
        pytest.param(SILENT, False, None, id="law 1: what is unknown does not wake"),
        pytest.param(None, False, None, id="law 1: what was not asked yet does not wake"),
    ],
)
def test_demand_alone_wakes_what_sleeps(queue: ScrapeResult | None, active: bool, known: bool | None) -> None:
    asleep, _ = serving()
    evaluation = judge(asleep, {}, queue=queue, metadata=WAKING)
    assert (evaluation.value, evaluation.active, evaluation.known_activity) == (0.0, active, known)


@pytest.mark.parametrize(
    ("queue", "active", "known"),
    [
        pytest.param(demand(0, 1), True, True, id="demand keeps it awake"),
        pytest.param(demand(1, 0, every=59), True, True, id="and for a minute after it"),
        pytest.param(demand(1, 0, every=61), False, False, id="and no longer"),
        pytest.param(SILENT, True, None, id="law 1: what is unknown does not put to sleep"),
    ],
)
def test_demand_keeps_an_idle_workload_awake(queue: ScrapeResult, active: bool, known: bool | None) -> None:
    idle, told = serving(vllm(0))
    evaluation = judge(idle, told, queue=queue, metadata=WAKING)
    assert (evaluation.value, evaluation.active, evaluation.known_activity) == (0.0, active, known)


@pytest.mark.parametrize(
    ("known", "is_activity_unknown"),
    [
        pytest.param(None, True, id="nobody knows whether it sleeps"),
        pytest.param(Unavailable("the API server is away", is_permanent=False), True, id="nobody can tell just now"),
    ],
)
def test_law_1_unknown_demand_decides_nothing_where_it_is_not_known_whether_it_sleeps(
    known: Unavailable | None, is_activity_unknown: bool
) -> None:
    metadata = {**WAKING, "engineEndpoint": "http://vllm-svc/metrics", "report": "average"}
    url = Endpoint(url="http://vllm-svc/metrics")
    evaluation = judge(known, {url: vllm(0)}, queue=SILENT, metadata=metadata)
    assert (evaluation.is_activity_unknown, evaluation.known_activity) == (is_activity_unknown, None)
    with_value = judge(known, {url: vllm(0)}, queue=demand(1), metadata=metadata)
    assert (with_value.is_activity_unknown, with_value.known_activity) == (False, True)


def test_law_1_what_cannot_be_seen_does_not_wake_what_may_sleep_without_demand() -> None:
    metadata = {**WAKING, "engineEndpoint": "http://vllm-svc/metrics", "report": "average"}
    away = Unavailable("the API server is away", is_permanent=False)
    missing = judge(away, {Endpoint(url="http://vllm-svc/metrics"): SILENT}, queue=demand(0), metadata=metadata)
    assert (missing.is_activity_unknown, missing.known_activity) == (True, None)
    idle = judge(away, {Endpoint(url="http://vllm-svc/metrics"): vllm(0)}, queue=demand(0), metadata=metadata)
    assert (idle.is_activity_unknown, idle.known_activity) == (False, False)


def test_demand_is_pushed_while_nothing_else_is_known() -> None:
    away = Unavailable("the API server is away", is_permanent=False)
    evaluation = judge(away, {}, queue=demand(1), metadata=WAKING)
    assert (evaluation.value, evaluation.active, evaluation.known_activity) == (None, True, True)


@pytest.mark.parametrize(
    ("starting", "queued", "expected"),
    [
        pytest.param(1, 40, 5, id="a burst starts several while the first one loads"),
        pytest.param(4, 8, 4, id="never fewer than there are"),
        pytest.param(1, 8, 1, id="as many as it needs"),
    ],
)
def test_demand_sizes_the_workload_while_no_pod_is_ready(starting: int, queued: float, expected: int) -> None:
    known, told = serving(starting=starting)
    evaluation = judge(known, told, queue=demand(queued), metadata={**WAKING, "demandPerReplica": "8"})
    assert size(evaluation, known) == expected


def test_demand_sizes_nothing_once_a_pod_is_ready() -> None:
    known, told = serving(vllm(5), starting=1)
    with_demand = judge(known, told, queue=demand(80), metadata={**WAKING, "demandPerReplica": "8"})
    assert with_demand.value == judge(known, told).value


def test_demand_starts_jobs_from_nothing() -> None:
    jobs, _ = serving(kind="ScaledJob")
    evaluation = judge(jobs, {}, queue=demand(20), metadata={**WAKING, "demandPerReplica": "8"})
    assert evaluation.value is not None
    assert math.ceil(evaluation.value / 100) == 3


@pytest.mark.parametrize("wanted", range(1, 30))
def test_demand_starts_just_so_many_jobs_whatever_the_target_is_in_floating_point(wanted: int) -> None:
    jobs, _ = serving(kind="ScaledJob")
    metadata = {**WAKING, "demandPerReplica": "1", "targetValue": "0.7"}
    evaluation = judge(jobs, {}, queue=demand(wanted), metadata=metadata)
    assert evaluation.value is not None
    assert math.ceil(evaluation.value / 0.7) == wanted


def test_demand_that_wakes_starts_a_job_which_being_active_does_not() -> None:
    jobs, _ = serving(kind="ScaledJob")
    assert judge(jobs, {}, queue=demand(20), metadata=WAKING).value == 100.0
    # One that has done all there was is not started again while demand is held.
    assert judge(jobs, {}, queue=demand(20, 0), metadata=WAKING).value == 0.0


def test_demand_that_wakes_nothing_sizes_nothing() -> None:
    asleep, _ = serving()
    metadata = {**WAKING, "demandPerReplica": "8", "demandThreshold": "30"}
    evaluation = judge(asleep, {}, queue=demand(20), metadata=metadata)
    assert (evaluation.value, evaluation.active) == (0.0, False)


def test_of_demand_so_much_is_kept_that_a_rate_can_be_held() -> None:
    metadata = {"profile": "llm", **WAKING, "windowSeconds": "20", "demandHoldSeconds": "60"}
    (scrape,) = scrape_requests(parse_trigger(metadata), ())
    assert (scrape.is_demand, scrape.window_seconds) == (True, 80.0)


def test_demand_for_devices_wakes_as_well() -> None:
    asleep, _ = serving()
    trigger = parse_trigger(WAKING)
    with_value = Fleet(None, 10.0, deviceless=True, scrape_results={Endpoint(url=EPP, every_address=True): demand(1)})
    assert evaluate(trigger, with_value, NOW, asleep, WAKING).known_activity is True


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 50)), min_size=1, max_size=6),
    st.integers(0, 3),
)
def test_law_1_what_is_unknown_never_moves_the_size_up(waiting: list[float | None], starting: int) -> None:
    known, told = serving(*(SILENT if one is None else vllm(one) for one in waiting), starting=starting)
    evaluation = judge(known, told)
    if evaluation.value is None:
        return
    # With every unknown queue full the HPA would want at least as much.
    full, told_full = serving(*(vllm(50 if one is None else one) for one in waiting), starting=starting)
    assert size(evaluation, known) <= max(size(judge(full, told_full), full), known.spec_replicas)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=6))
def test_law_3_asking_twice_gives_the_same_answer(waiting: list[float]) -> None:
    known, told = serving(*map(vllm, waiting))
    assert judge(known, told) == judge(known, told)
