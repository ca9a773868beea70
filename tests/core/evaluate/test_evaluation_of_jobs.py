# SPDX-License-Identifier: Apache-2.0
"""Tests the evaluation of ScaledJobs: Jobs of several pods, counted by KEDA's executor over ten polls."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, NoValue, evaluate
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import DeclaredTrigger, Pod, Workload
from keda_gpu_scaler.kube.keda_objects import job_rules
from tests.core.hpa.keda_jobs import KedaJobs
from tests.core.hpa.oracle import UNREADY, resource_metric
from tests.examples_drawn import examples
from tests.fakes import device, node_history, pod, sample, workload

NOW = 1000.0

Jobs = dict[str, list[float | str | None]]
"""Each Job's pods: a utilisation, None without a reading, or a word for a pod that does not run."""


def scene(jobs: Jobs, spec: dict[str, Any] | None = None) -> tuple[Workload, Fleet]:
    """A ScaledJob with these Jobs. Every pod that runs holds a device of one node."""
    pods: list[Pod] = []
    held: dict[str, float | None] = {}
    for job, members in jobs.items():
        for number, value in enumerate(members):
            name = f"{job}-{number}"
            one = pod(name, group=job)
            if value == "pending":
                one = replace(one, node=None, phase="Pending", is_ready=False)
            elif value == "loading":
                one = replace(one, is_ready=False)
            elif value == "done":
                one = replace(one, phase="Succeeded", is_ready=False)
            elif value != "launcher" and not isinstance(value, str):
                held[name] = value
            pods.append(one)
    running = {one.group for one in pods if one.phase in ("Pending", "Running")}
    known = workload(
        *pods, replicas=len(running), kind="ScaledJob", target="ScaledJob llama", jobs=job_rules(spec or {})
    )
    return known, Fleet(None, 10.0, deviceless=True, peers={"gpu-7": node(held)})


def node(held: dict[str, float | None]) -> History:
    samples = [sample(number, None if value is None else value / 100) for number, value in enumerate(held.values())]
    holders = {device(number).uuid: owner for number, owner in enumerate(held)}
    return node_history("gpu-7", *samples, held=holders, at=NOW)


def evaluated(known: Workload, fleet: Fleet, **metadata: str) -> Evaluation:
    return evaluate(parse_trigger(metadata), fleet, NOW, known, metadata)


@pytest.mark.parametrize("target", ["80", "33.3333"])
@pytest.mark.parametrize("parallelism", [1, 4])
@pytest.mark.parametrize("strategy", ["default", "accurate", "eager", "custom"])
@pytest.mark.parametrize(
    ("fields", "jobs"),
    [
        pytest.param({"maxReplicaCount": 20}, 2, id="two jobs"),
        pytest.param({"maxReplicaCount": 20, "minReplicaCount": 2}, 2, id="two jobs, the minimum"),
        pytest.param({"maxReplicaCount": 20}, 8, id="eight jobs"),
    ],
)
def test_with_every_pod_at_its_target_the_jobs_stay(
    fields: dict[str, int], jobs: int, strategy: str, parallelism: int, target: str
) -> None:
    custom = {"customScalingQueueLengthDeduction": 1, "customScalingRunningJobPercentage": "0.5"}
    spec = {**fields, "scalingStrategy": {"strategy": strategy, **custom}, "jobTargetRef": {"parallelism": parallelism}}
    keda, kept = KedaJobs(spec, jobs), float(f"{float(target):.3f}")
    for _ in range(10):
        running: Jobs = {f"job-{number}": [kept] * parallelism for number in range(keda.running)}
        known, fleet = scene(running, spec)
        evaluation = evaluated(known, fleet, targetValue=target)
        assert evaluation.value is not None
        keda.poll(evaluation.value, kept, is_active=evaluation.active)
        keda.start_all()
    assert keda.running == jobs


@pytest.mark.parametrize(
    ("jobs", "metadata", "size"),
    [
        pytest.param({"a": [10, 95], "b": [10, 95]}, {}, 3, id="idle leaders, and busy workers"),
        pytest.param({"a": [10, 95], "b": [10, 95]}, {"aggregation": "avg"}, 2, id="their mean is below the target"),
        pytest.param({"a": [40, 60], "b": [40, 60]}, {"aggregation": "sum"}, 3, id="their sum is above the target"),
        pytest.param({"a": [95, "launcher"], "b": [95]}, {}, 3, id="a launcher without a device is no load"),
        pytest.param({"a": [95, "done"], "b": [95]}, {}, 3, id="a pod that has ended is no load"),
        pytest.param({"a": [120], "b": [120], "c": ["pending"]}, {}, 3, id="a pending job counts as idle"),
        pytest.param({"a": [200], "b": [200], "c": ["pending"]}, {}, 5, id="the load is too much also for it"),
        pytest.param({"a": [120, 120], "b": [120, "loading"]}, {}, 2, id="a job that is loading counts as idle"),
        pytest.param({"a": [300, None], "b": [300]}, {}, 8, id="a pod is unknown, and the job is above the target"),
        pytest.param({"a": [10, None], "b": [120]}, {}, 2, id="a pod is unknown, and the job may be idle"),
        pytest.param({"a": ["pending"], "b": ["pending"]}, {}, 2, id="all pods are pending"),
    ],
)
@pytest.mark.parametrize("strategy", ["default", "accurate", "eager"])
def test_a_job_is_one_replica(jobs: Jobs, metadata: dict[str, str], size: int, strategy: str) -> None:
    spec = {"scalingStrategy": {"strategy": strategy}}
    pending = sum(set(members) <= {"pending"} for members in jobs.values())
    keda = KedaJobs(spec, len(jobs), pending)
    known, fleet = scene(jobs, spec)
    evaluation = evaluated(known, fleet, **{"minCoverage": "0", **metadata})
    assert evaluation.value is not None
    keda.poll(evaluation.value, 80.0)
    assert keda.running == size


@pytest.mark.parametrize(
    ("conditions", "pending"),
    [
        pytest.param((), 3, id="no job has the conditions"),
        pytest.param(("PodScheduled",), 3, id="every job has one of them"),
        pytest.param(("PodScheduled", "Ready"), 0, id="every job has both"),
    ],
)
def test_pending_pod_conditions_say_which_jobs_are_pending(conditions: tuple[str, ...], pending: int) -> None:
    """The strategy accurate subtracts pending Jobs, so the value adds them."""
    spec = {"scalingStrategy": {"strategy": "accurate", "pendingPodConditions": ["Ready", "PodScheduled"]}}
    known, fleet = scene({"a": [200], "b": [200], "c": [200]}, spec)
    known = replace(known, pods=tuple(replace(one, conditions=conditions) for one in known.pods))
    evaluation = evaluated(known, fleet)
    assert evaluation.value == 80.0 * (8 - 3 + pending)


def test_a_job_whose_pods_end_one_after_the_other_is_not_pending() -> None:
    spec = {"scalingStrategy": {"strategy": "accurate"}, "jobTargetRef": {"parallelism": 1, "completions": 3}}
    known, fleet = scene({"a": [200], "b": ["done", "pending"]}, spec)
    assert "1 of them pending" not in " ".join(evaluated(known, fleet).steps)
    known, fleet = scene({"a": [200], "b": ["pending"]}, spec)
    assert "1 of them pending" in " ".join(evaluated(known, fleet).steps)


def test_the_steps_describe_each_job_of_several_pods() -> None:
    steps = evaluated(*scene({"a": [10, 95], "b": [95]})).steps
    assert "replica a: 2 pods: 95" in steps
    assert not any(step.startswith("replica b") for step in steps)


def test_a_scaled_job_without_an_inverse_has_no_value_but_the_remedy() -> None:
    spec = {"scalingStrategy": {"strategy": "custom", "customScalingRunningJobPercentage": "1"}}
    evaluation = evaluated(*scene({"a": [95]}, spec))
    assert (evaluation.value, evaluation.no_value_reason) == (None, NoValue.MISCONFIGURED)
    assert evaluation.reason.endswith("Required value: KEDA fails without it: set it to 0")


def test_keda_starts_no_job_for_a_trigger_of_type_value() -> None:
    known, fleet = scene({"a": [95]})
    evaluation = evaluated(replace(known, triggers=(DeclaredTrigger({}, "Value"),)), fleet)
    assert evaluation.no_value_reason is NoValue.MISCONFIGURED
    assert evaluation.reason == (
        "metricType: Invalid value: Value: KEDA starts no job of a ScaledJob for a trigger of this type: remove "
        "metricType"
    )
    other = DeclaredTrigger({"targetValue": "70"}, "Value")
    assert evaluated(replace(known, triggers=(other, DeclaredTrigger({}, "AverageValue"))), fleet).value is not None


@pytest.mark.parametrize("scope", ["fleet", "workload"])
def test_devices_without_regard_to_pods_lead_to_the_same_jobs(scope: str) -> None:
    known, fleet = scene({"a": [95], "b": [95]}, {"minReplicaCount": 1})
    evaluation = evaluated(known, fleet, scope=scope)
    assert evaluation.value == 80.0 * (math.ceil(190 / 80) - 1)


LOADS = st.integers(0, 200) | st.just(80) | st.none()
JOBS = st.lists(
    st.lists(LOADS | st.just("loading"), min_size=1, max_size=4) | st.just(["pending"]), min_size=1, max_size=12
)


def as_replica(members: list[float | str | None]) -> int | str | None:
    """A Job in the words of the oracle: thousandths, UNREADY, or None without a value."""
    if any(isinstance(one, str) for one in members):
        return UNREADY
    known = [one for one in members if isinstance(one, int | float)]
    if len(known) < len(members) and max(known, default=0) < 80:
        return None
    return int(max(known) * 1000)


@settings(max_examples=examples(300))
@given(
    JOBS,
    st.sampled_from(["default", "accurate", "eager", "custom"]),
    st.fixed_dictionaries({}, optional={"minReplicaCount": st.integers(0, 4), "maxReplicaCount": st.integers(4, 30)}),
)
def test_keda_reaches_the_size_of_the_resource_rules_or_the_nearest_one(
    members: list[list[float | str | None]], strategy: str, fields: dict[str, int]
) -> None:
    custom = {"customScalingQueueLengthDeduction": 1, "customScalingRunningJobPercentage": "0.5"}
    spec = {**fields, "scalingStrategy": {"strategy": strategy, **custom}}
    known, fleet = scene({f"job-{number:02}": one for number, one in enumerate(members)}, spec)
    evaluation = evaluated(known, fleet, minCoverage="0")
    running, pending = len(members), sum(one == ["pending"] for one in members)
    if evaluation.value is None:  # no ready pod has a value
        assert not evaluation.with_value
        return
    wanted = resource_metric([as_replica(one) for one in members], 80_000, running)
    keda = KedaJobs(spec, running, pending)
    keda.poll(evaluation.value, 80.0)
    right = max(
        running, keda.min_replica_count, min(running if wanted is None else wanted, fields.get("maxReplicaCount", 100))
    )
    if keda.running != right:
        assert running <= keda.running < right
        # KEDA first starts the Jobs up to the minimum alone. Otherwise pending Jobs, or what the strategy custom
        # subtracts, leave too little below KEDA's maximum.
        is_below_minimum = running < keda.min_replica_count
        assert is_below_minimum or right + pending + running > keda.max_replica_count
