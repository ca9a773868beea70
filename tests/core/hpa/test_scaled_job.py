# SPDX-License-Identifier: Apache-2.0
"""Tests the value for ScaledJobs against an executor of KEDA's (keda_jobs.py), over ten polls."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.hpa.reported_value import ReportedValue
from keda_gpu_scaler.core.hpa.scaled_job import JobCounts, JobMetric, for_jobs, new_jobs_of_triggers, wanted_jobs
from keda_gpu_scaler.core.trigger.metadata import MAX_NUMBER
from keda_gpu_scaler.core.trigger.parser import MIN_TARGET
from keda_gpu_scaler.kube.keda_objects import job_rules
from tests.core.hpa.keda_jobs import KedaJobs
from tests.examples_drawn import examples

CUSTOM = {"strategy": "custom", "customScalingQueueLengthDeduction": 2, "customScalingRunningJobPercentage": "0.5"}
NO_DEDUCTION = {**CUSTOM, "customScalingQueueLengthDeduction": 0, "customScalingRunningJobPercentage": "0"}
STRATEGIES: dict[str, dict[str, Any]] = {
    "default": {},
    "accurate": {"strategy": "accurate"},
    "eager": {"strategy": "eager"},
    "custom": CUSTOM,
    "custom without deductions": NO_DEDUCTION,
    "custom without a percentage": {"strategy": "custom"},
}


def polls(spec: dict[str, Any], jobs: int, target: float, load: Callable[[int], float]) -> list[int]:
    """Return the number of Jobs after each of ten polls. ``load`` gives each Job's value, by the number of Jobs.

    The pods of new Jobs are pending at the next poll, and run at the one after it.
    """
    keda, rules, sizes = KedaJobs(spec, jobs), job_rules(spec), []
    for _ in range(10):
        ready, pending = keda.running - keda.starting, keda.starting
        value = load(keda.running)
        wanted = wanted_jobs([value] * ready, missing=0, unready=pending, running=keda.running, target=target)
        reported = for_jobs(wanted, target, rules, JobCounts(keda.running, pending))
        keda.start_all()
        keda.starting = pending
        keda.poll(reported.value, target)
        assert keda.running == reported.replicas
        keda.starting -= pending
        sizes.append(keda.running)
    return sizes


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize(
    ("fields", "jobs", "target"),
    [
        pytest.param({}, 2, 80.0, id="two jobs"),
        pytest.param({"minReplicaCount": 2}, 2, 80.0, id="as many as the minimum"),
        pytest.param({"minReplicaCount": 2, "maxReplicaCount": 20}, 5, 80.0, id="more than the minimum"),
        pytest.param({"maxReplicaCount": 20}, 20, 80.0, id="as many as the maximum"),
        pytest.param({}, 8, 33.333, id="a target with three decimals"),
        pytest.param({"minReplicaCount": 3}, 7, 0.7, id="a target below 1"),
    ],
)
def test_jobs_exactly_at_the_target_stay(
    strategy: dict[str, Any], fields: dict[str, Any], jobs: int, target: float
) -> None:
    sizes = polls({**fields, "scalingStrategy": strategy}, jobs, target, lambda _: target)
    assert set(sizes) == {jobs}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize(
    ("fields", "jobs", "total", "last"),
    [
        pytest.param({}, 3, 3 * 92.0, 4, id="three at 92 % become four"),
        pytest.param({"minReplicaCount": 2}, 3, 3 * 92.0, 4, id="the same with a minimum"),
        pytest.param({"maxReplicaCount": 10}, 2, 700.0, 9, id="a load of 700 %"),
        pytest.param({"minReplicaCount": 4, "maxReplicaCount": 10}, 4, 1600.0, 10, id="more than the maximum"),
        pytest.param({"minReplicaCount": 5}, 2, 2 * 80.0, 5, id="fewer than the minimum"),
        pytest.param({}, 8, 8 * 40.0, 8, id="running jobs are never removed"),
    ],
)
def test_jobs_above_the_target_grow_to_the_size_that_the_load_needs(
    strategy: dict[str, Any], fields: dict[str, Any], jobs: int, total: float, last: int
) -> None:
    sizes = polls({**fields, "scalingStrategy": strategy}, jobs, 80.0, lambda running: total / running)
    assert sizes[-1] == last
    assert max(sizes) == last


def test_a_job_that_ends_between_two_polls_is_replaced_once() -> None:
    """With the strategy default the value asks for the wanted number, whatever KEDA finds when it polls."""
    rules, keda = job_rules({}), KedaJobs({}, 7)
    reported = for_jobs(ReportedValue(0.0, 8, ()), 80.0, rules, JobCounts(8))
    assert [keda.poll(reported.value, 80.0) for _ in range(3)] == [1, 0, 0]


def test_without_a_value_the_jobs_stay() -> None:
    wanted = wanted_jobs([], missing=1, unready=2, running=3, target=80.0)
    assert wanted.replicas == 3
    assert wanted.steps == ("no ready job has a value (0 ready with a value, 1 without, 2 not ready): 3 jobs stay",)


def test_the_steps_name_the_strategy_and_the_new_jobs() -> None:
    rules = job_rules({"minReplicaCount": 2, "scalingStrategy": {"strategy": "accurate"}})
    reported = for_jobs(ReportedValue(0.0, 6, ()), 80.0, rules, JobCounts(5, 1))
    assert reported.steps == (
        "KEDA has 5 jobs, 1 of them pending (strategy accurate, minReplicaCount 2): with 160 it starts 1 at this poll",
    )


SPECS = st.fixed_dictionaries(
    {"scalingStrategy": st.sampled_from(list(STRATEGIES.values()))},
    optional={"minReplicaCount": st.integers(0, 30), "maxReplicaCount": st.integers(1, 40)},
)


@settings(max_examples=examples(500))
@given(
    SPECS,
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 60),
    st.sampled_from([0.001, 0.7, 1.0, 33.333, 80.0]) | st.floats(1, 1e5).map(lambda value: round(value, 3)),
)
@example({"scalingStrategy": {"strategy": "accurate"}, "maxReplicaCount": 10}, 6, 3, 8, 80.0)
def test_the_value_leads_to_the_wanted_jobs_or_to_the_nearest_reachable_number(
    spec: dict[str, Any], running: int, pending: int, wanted: int, target: float
) -> None:
    pending = min(running, pending)
    rules = job_rules(spec)
    reported = for_jobs(ReportedValue(0.0, wanted, ()), target, rules, JobCounts(running, pending))
    keda = KedaJobs(spec, running, pending)
    keda.poll(reported.value, target)
    assert keda.running == reported.replicas
    most = spec.get("maxReplicaCount", max(100, spec.get("minReplicaCount", 0)))
    right = max(running, keda.min_replica_count, min(wanted, most))
    assert keda.running <= right
    if keda.running < right and running >= keda.min_replica_count and target >= 1:
        # No value leads nearer without going past it.
        def reached(asked: int) -> int:
            other = KedaJobs(spec, running, pending)
            other.poll(asked * target, target)
            return other.running

        assert not any(keda.running < reached(asked) <= right for asked in range(150))


@given(st.floats(MIN_TARGET, MAX_NUMBER), st.integers(0, 5000))
@example(28013035103.277794, 157)
def test_jobs_are_never_more_than_the_size_and_rarely_one_fewer(target: float, jobs: int) -> None:
    target = round(target, 3)
    rules = job_rules({"maxReplicaCount": 5000})
    value = for_jobs(ReportedValue(1.0, jobs, ()), target, rules, JobCounts(0)).value
    made = math.ceil(round(value, 3) / target)
    assert made == jobs or (target < 0.01 and made == jobs - 1)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        pytest.param(
            {"scalingStrategy": {"strategy": "custom", "customScalingRunningJobPercentage": "0.5"}},
            "spec.scalingStrategy.customScalingQueueLengthDeduction: Required value: KEDA fails without it: set it "
            "to 0",
            id="no deduction",
        ),
        pytest.param(
            {"scalingStrategy": {**CUSTOM, "customScalingQueueLengthDeduction": -1}},
            "spec.scalingStrategy.customScalingQueueLengthDeduction: Invalid value: -1: KEDA then starts Jobs at any "
            "value: must be 0 or more",
            id="a negative deduction",
        ),
        pytest.param(
            {"scalingStrategy": {**CUSTOM, "customScalingRunningJobPercentage": "-0.5"}},
            "spec.scalingStrategy.customScalingRunningJobPercentage: Invalid value: -0.5: KEDA then starts Jobs at "
            "any value, or never: must be 0 or more",
            id="a negative percentage",
        ),
        pytest.param(
            {"scalingStrategy": {**CUSTOM, "customScalingRunningJobPercentage": "NaN"}},
            "spec.scalingStrategy.customScalingRunningJobPercentage: Invalid value: inf: KEDA then starts Jobs at "
            "any value, or never: must be 0 or more",
            id="a percentage that is no number",
        ),
        pytest.param(
            {"scalingStrategy": {"multipleScalersCalculation": "sum"}, "triggers": [{}, {}]},
            "spec.scalingStrategy.multipleScalersCalculation: Invalid value: sum: KEDA combines the Jobs that the "
            "triggers ask for, so that none of them can keep a number of Jobs: use max, or one trigger",
            id="a sum of two triggers",
        ),
        pytest.param(
            {"jobTargetRef": {"parallelism": 0}},
            "spec.jobTargetRef: Invalid value: 0: its Jobs start no pod: set parallelism and completions above 0",
            id="jobs without pods",
        ),
        pytest.param(
            {"scalingStrategy": {"multipleScalersCalculation": "sum"}, "triggers": [{}]}, "", id="one trigger"
        ),
        pytest.param({"scalingStrategy": {"strategy": "custom"}}, "", id="custom without its fields is default"),
        pytest.param(
            {"scalingStrategy": CUSTOM, "jobTargetRef": {"parallelism": 4}}, "", id="a usable custom strategy"
        ),
    ],
)
def test_what_has_no_inverse_is_refused_with_the_remedy(spec: dict[str, Any], problem: str) -> None:
    assert job_rules(spec).problem() == problem


@pytest.mark.parametrize("calculation", ["max", "min", "avg", "sum"])
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@settings(max_examples=40)
@given(
    metrics=st.lists(st.tuples(st.integers(0, 400), st.sampled_from([1, 2, 5, 80]), st.booleans()), max_size=3),
    running=st.integers(0, 30),
    pending=st.integers(0, 30),
    least=st.integers(0, 5),
    most=st.one_of(st.none(), st.integers(1, 40)),
)
def test_several_triggers_start_as_many_jobs_as_keda_does(
    strategy: dict[str, Any],
    calculation: str,
    metrics: list[tuple[int, int, bool]],
    running: int,
    pending: int,
    least: int,
    most: int | None,
) -> None:
    spec: dict[str, Any] = {"scalingStrategy": {**strategy, "multipleScalersCalculation": calculation}}
    spec |= {"minReplicaCount": least} | ({} if most is None else {"maxReplicaCount": most})
    keda = KedaJobs(spec, running, min(pending, running))
    given_metrics = [JobMetric(1000 * value, 1000 * target, is_active) for value, target, is_active in metrics]
    started = new_jobs_of_triggers(job_rules(spec), JobCounts(running, min(pending, running)), given_metrics)
    assert started == keda.poll_several([(float(value), float(target), active) for value, target, active in metrics])


def test_a_trigger_of_the_type_value_asks_for_no_job() -> None:
    assert new_jobs_of_triggers(job_rules({}), JobCounts(0), [JobMetric(50_000, 0)]) == 0
