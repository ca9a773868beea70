# SPDX-License-Identifier: Apache-2.0
"""Whole simulations: a ScaledObject follows its traffic in a cluster with pods and nodes."""

import math
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.trigger.parser import TriggerError
from keda_gpu_scaler.simulate.bounds import clairvoyant, static_peak
from keda_gpu_scaler.simulate.engine_model import EngineModel, ServiceModel, SimulationError
from keda_gpu_scaler.simulate.outcome import RunOutcome, best_of, simulate_spec
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.scenario import Circumstances, Objective, ScalingSpec, TriggerSpec
from keda_gpu_scaler.simulate.simulation import Run, WorkloadSimulation, initial_replicas
from keda_gpu_scaler.simulate.summary import Summary, percentile, summarize
from keda_gpu_scaler.simulate.traffic.assembly import assemble
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.rates import traffic_of_rates

MODEL = EngineModel("small", 0.02, 0.002, 2e-4, 1e-7, kv_tokens=50_000, max_seqs=32, token_budget=2048)
FAST = Circumstances(cold_start_seconds=(20.0, 30.0))
LLM = {"profile": "llm"}
DEMAND = {**LLM, "demandEndpoint": "http://gateway:9090/metrics", "demand": "epp"}


def spec(metadata: dict[str, str], *, is_push: bool = True, **changes: object) -> ScalingSpec:
    trigger = TriggerSpec(metadata, is_push=is_push)
    return replace(ScalingSpec("test", (trigger,), min_replicas=1, max_replicas=20), **changes)  # type: ignore[arg-type]


def steps(*rates: float, minutes: int = 6) -> RequestTraffic:
    """Some minutes of each rate, in requests per second."""
    rows = [(float(number), 60 * rates[number // minutes]) for number in range(minutes * len(rates))]
    return traffic_of_rates("steps", rows, Lengths(200, 50, 0.3))


def run(scaling: ScalingSpec, traffic: RequestTraffic, initial: int = 1, circumstances: Circumstances = FAST) -> Run:
    return WorkloadSimulation(traffic, MODEL, circumstances, initial).scaled_by(scaling)


def test_the_size_follows_the_traffic_up_and_down() -> None:
    result = run(spec(LLM), steps(1, 12, 1), initial=1)
    ready = [moment.ready for moment in result.moments]
    assert max(ready) >= 4
    assert ready[-1] < max(ready)
    assert not math.isinf(max(result.log.ended_at))


def test_the_same_arguments_give_the_same_result() -> None:
    first, second = (run(spec(LLM), steps(1, 6), initial=1) for _ in range(2))
    assert (first.moves, first.moments) == (second.moves, second.moments)
    assert first.log.ended_at == second.log.ended_at


def test_another_seed_gives_other_cold_starts() -> None:
    pods = [run(spec(LLM), steps(1, 6), circumstances=replace(FAST, seed=seed)).pods for seed in (1, 2)]
    assert [pod.ready_at for pod in pods[0]] != [pod.ready_at for pod in pods[1]]


def test_demand_activates_a_workload_at_zero_and_its_end_lets_it_go_back() -> None:
    traffic = steps(0, 2, 0, 0, 0, minutes=4)
    result = run(spec(DEMAND, min_replicas=0, cooldown_seconds=120.0), traffic, initial=0)
    first = min(traffic.arrivals)
    activated = next(move for move in result.moves if move.by == "KEDA")
    assert 0 <= activated.at_seconds - first <= 3
    assert result.moves[-1].after == 0
    assert not math.isinf(max(result.log.ended_at))


def test_without_a_push_the_activation_waits_for_a_poll() -> None:
    traffic = steps(0, 2, minutes=4)
    result = run(spec(DEMAND, is_push=False, min_replicas=0, polling_seconds=60.0), traffic, initial=0)
    activated = next(move for move in result.moves if move.by == "KEDA")
    assert (activated.at_seconds - FAST.keda_phase_seconds) % 60 == 0


def test_the_time_at_the_maximum_is_counted() -> None:
    result = run(spec(LLM, max_replicas=2), steps(12), initial=1)
    assert result.max_seconds > 60
    assert max(moment.active for moment in result.moments) == 2


@pytest.mark.parametrize(
    "metadata",
    [
        {"metricType": "gpu_utilization", "targetValue": "60"},
        {"metricType": "queue_depth", "targetValue": "2"},
        {"metricType": "running_requests", "targetValue": "8"},
        {"metricType": "saturation", "targetValue": "60"},
        {"profile": "sglang"},
        {"profile": "tgi"},
        {"profile": "llm", "forecast": "trend"},
    ],
    ids=lambda metadata: " ".join(metadata.values()),
)
def test_other_triggers_scale_up_under_load(metadata: dict[str, str]) -> None:
    result = run(spec(metadata), steps(12), initial=1)
    assert max(moment.ready for moment in result.moments) > 1
    assert result.without_value < result.syncs / 4


def test_a_server_of_whole_requests_scales_by_its_load() -> None:
    model = ServiceModel("triton", 0.2)
    traffic = steps(12)
    result = WorkloadSimulation(traffic, model, FAST, 1).scaled_by(spec({"profile": "llm", "engine": "triton"}))
    assert max(moment.ready for moment in result.moments) >= 3


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        pytest.param({"metricType": "power_draw", "targetValue": "300"}, "a simulated GPU has", id="power"),
        pytest.param({**LLM, "engineEndpoint": "http://router/metrics"}, "no URL of all of them", id="a URL"),
        pytest.param(
            {"engineMetric": "custom_series", "targetValue": "3"}, "metadata.engineMetric", id="a series of its own"
        ),
        pytest.param(
            {"metricType": "gpu_utilization", "scope": "node"}, "no instance on a node", id="one node's devices"
        ),
        pytest.param({"metricType": "gpu_utilization", "gpuIndex": "1"}, "remove them", id="one device of several"),
    ],
)
def test_a_trigger_that_needs_what_a_simulation_has_not_is_refused(metadata: dict[str, str], words: str) -> None:
    with pytest.raises(SimulationError, match=words):
        run(spec(metadata), steps(1))


def test_metadata_that_cannot_be_used_is_the_error_of_the_parser() -> None:
    with pytest.raises(TriggerError, match=r"metadata\.targetValue"):
        run(spec({"targetValue": "eighty"}), steps(1))


def test_a_pod_that_ends_serves_what_it_has() -> None:
    traffic = assemble("long", [(float(number), 100, 400) for number in range(20)], seconds=120.0)
    simulation = WorkloadSimulation(traffic, MODEL, FAST, 2)
    result = simulation.sized_by(lambda now: 1 if now >= 10 else 2)
    ended = next(pod for pod in result.pods if not math.isinf(pod.deleting_at))
    assert ended.deleting_at < ended.gone_at < ended.ends_at
    assert not math.isinf(max(result.log.ended_at))


def test_a_new_node_takes_its_time() -> None:
    circumstances = replace(FAST, node_start_seconds=300.0)
    sizes = {0: 2, 1: 1, 2: 2}
    simulation = WorkloadSimulation(steps(1, minutes=24), MODEL, circumstances, 1)
    result = simulation.sized_by(lambda now: sizes[min(2, int(now // 480))])
    starts = [pod.ready_at - pod.created_at for pod in result.pods]
    assert starts[1] >= 320
    assert starts[2] <= 30, "the node of the pod that ended is there"


def test_the_bounds_reach_the_goal_and_the_schedule_costs_no_more() -> None:
    traffic = steps(1, 8, 1)
    static = static_peak(traffic, MODEL, FAST, 99.0).summary
    schedule = clairvoyant(traffic, MODEL, FAST, 99.0).summary
    assert static is not None
    assert schedule is not None
    assert min(static.within_percent, schedule.within_percent) >= 99
    assert schedule.gpu_hours < static.gpu_hours
    fewer = WorkloadSimulation(traffic, MODEL, FAST, static.most_replicas - 1).sized_by(
        lambda now: static.most_replicas - 1
    )
    assert summarize("fewer", fewer, FAST.objective, 1).within_percent < 99


def test_no_bound_reaches_an_objective_that_no_replica_can_keep() -> None:
    impossible = replace(FAST, objective=Objective(0.001, 0.001))
    bound = clairvoyant(steps(1), MODEL, impossible, 99.0)
    assert bound.summary is None
    assert "no schedule" in bound.sentence


def test_gpu_hours_are_those_of_the_pods_within_the_traffic() -> None:
    result = WorkloadSimulation(steps(1, minutes=30), MODEL, FAST, 2).sized_by(lambda now: 2)
    assert summarize("two", result, FAST.objective, 4).gpu_hours == pytest.approx(4.0)


def test_the_initial_size_serves_the_first_minutes() -> None:
    assert initial_replicas(steps(1), MODEL) == 1
    assert initial_replicas(steps(20), MODEL) > initial_replicas(steps(5), MODEL) > 1


def outcome(title: str, within: float, hours: float) -> RunOutcome:
    figures = dict.fromkeys(Summary.__dataclass_fields__, 0) | {
        "title": title,
        "within_percent": within,
        "gpu_hours": hours,
    }
    return RunOutcome(title, Summary(**figures))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "best", "words"),
    [
        pytest.param(
            [("a", 99.5, 9), ("b", 99.1, 7), ("c", 90, 2)], "b", "the fewest GPU-hours", id="the cheapest good"
        ),
        pytest.param([("a", 80, 9), ("b", 95, 7), ("c", 90, 2)], "b", "comes nearest", id="the nearest where none is"),
    ],
)
def test_the_best_row_and_why(rows: list[tuple[str, float, float]], best: str, words: str) -> None:
    outcomes = [outcome(*row) for row in rows]
    found = best_of(outcomes, 99.0)
    assert found is not None
    assert outcomes[found.number].title == best
    assert words in found.sentence


def test_a_row_can_be_simulated_with_its_timelines() -> None:
    result = simulate_spec(spec(LLM), steps(2), MODEL, FAST, 1)
    assert result.summary is not None
    assert result.summary.within_percent > 90
    assert len(result.latencies) == 6
    assert result.moments[-1].target == 100


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        pytest.param([], 50, 0.0, id="of nothing"),
        pytest.param([1.0, 2.0, 3.0], 50, 2.0, id="a value"),
        pytest.param([1.0, 2.0], 50, 1.5, id="between two"),
        pytest.param([1.0, math.inf], 99, math.inf, id="between a number and never"),
    ],
)
def test_percentiles(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected
