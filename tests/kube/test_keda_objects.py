# SPDX-License-Identifier: Apache-2.0
"""Tests the readers of ScaledObjects and ScaledJobs, which users write."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.comparison import ReplicaLimits
from keda_gpu_scaler.core.scaling_rules import Formula, JobRules, JobStrategy, Tolerances
from keda_gpu_scaler.kube.keda_objects import formula, job_rules, scaled_job, scaled_object, tolerances


def behavior(up: object = None, down: object = None) -> dict[str, Any]:
    rules = {"scaleUp": {"tolerance": up}, "scaleDown": {"tolerance": down}}
    return {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": rules}}}


@pytest.mark.parametrize(
    ("spec", "rules"),
    [
        pytest.param({}, JobRules(triggers=0), id="nothing given"),
        pytest.param(
            {
                "minReplicaCount": 2,
                "maxReplicaCount": 9,
                "triggers": [{}, {}],
                "jobTargetRef": {"parallelism": 4, "completions": 3},
                "scalingStrategy": {
                    "strategy": "custom",
                    "customScalingQueueLengthDeduction": 1,
                    "customScalingRunningJobPercentage": "0.5",
                    "pendingPodConditions": ["Ready", "Ready", "PodScheduled"],
                    "multipleScalersCalculation": "sum",
                },
            },
            JobRules(2, 9, JobStrategy.CUSTOM, 1, 0.5, ("Ready", "PodScheduled"), 3, "sum", 2),
            id="everything given",
        ),
        pytest.param(
            {"scalingStrategy": {"strategy": "custom", "customScalingRunningJobPercentage": "half"}},
            JobRules(triggers=0),
            id="KEDA takes the default strategy where it cannot read the percentage",
        ),
        pytest.param({"scalingStrategy": {"strategy": "unknown"}}, JobRules(triggers=0), id="an unknown strategy"),
        pytest.param({"maxReplicaCount": 0}, JobRules(max_jobs=0, triggers=0), id="a maximum of zero is given"),
    ],
)
def test_the_rules_of_jobs(spec: dict[str, Any], rules: JobRules) -> None:
    assert job_rules(spec) == rules
    assert scaled_job({"spec": spec}).jobs == rules


@pytest.mark.parametrize(
    ("given_texts", "read"),
    [
        pytest.param((None, None), Tolerances(), id="nothing given"),
        pytest.param(("0.05", "50m"), Tolerances(0.05, 0.05), id="quantities"),
        pytest.param((0, 0.2), Tolerances(0.0, 0.2), id="numbers"),
        pytest.param(("5e-2", "200000u"), Tolerances(0.05, 0.2), id="other forms of quantities"),
        pytest.param(("-0.1", "much"), Tolerances(), id="what the API server refuses"),
    ],
)
def test_the_tolerances_of_the_hpa(given_texts: tuple[object, object], read: Tolerances) -> None:
    found = tolerances(behavior(*given_texts))
    assert (found.up, found.down) == pytest.approx((read.up, read.down))


@pytest.mark.parametrize(
    ("spec", "limits"),
    [
        pytest.param({}, ReplicaLimits(0, 100), id="KEDA's defaults"),
        pytest.param({"minReplicaCount": 2, "maxReplicaCount": 9}, ReplicaLimits(2, 9), id="both given"),
        pytest.param({"idleReplicaCount": 0, "minReplicaCount": 2}, ReplicaLimits(2, 100, 0), id="a size for inactive"),
        pytest.param({"minReplicaCount": "2", "maxReplicaCount": -1}, ReplicaLimits(0, 0), id="what KEDA refuses"),
    ],
)
def test_the_limits_of_a_scaled_object(spec: dict[str, Any], limits: ReplicaLimits) -> None:
    assert scaled_object({"spec": spec}).limits == limits


def test_a_formula_has_its_own_type_and_target() -> None:
    modifiers = {"formula": "gpu + queue", "target": "2", "activationTarget": 1, "metricType": "Value"}
    spec = {"advanced": {"scalingModifiers": modifiers}}
    assert formula(spec) == Formula("gpu + queue", "2", "1", "Value")
    assert formula({"advanced": {"scalingModifiers": {"target": "2"}}}) is None
    assert scaled_object({"spec": {"advanced": {"scalingModifiers": {"formula": "gpu"}}}}).formula == Formula("gpu")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
KEYS = (
    "minReplicaCount", "maxReplicaCount", "scalingStrategy", "jobTargetRef", "advanced", "triggers", "strategy",
    "customScalingQueueLengthDeduction", "customScalingRunningJobPercentage", "pendingPodConditions", "parallelism",
    "completions", "scalingModifiers", "horizontalPodAutoscalerConfig", "behavior", "scaleUp", "tolerance", "formula",
    "target", "metricType",
)  # fmt: skip


@given(
    st.recursive(
        st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4),
        lambda inner: st.dictionaries(st.sampled_from(KEYS), inner | JSON, max_size=4),
        max_leaves=8,
    )
)
def test_no_object_makes_a_reader_raise(spec: dict[str, Any]) -> None:
    scaled_object({"spec": spec})
    assert scaled_job({"spec": spec}).jobs is not None


@pytest.mark.parametrize(
    ("spec", "cooldown", "idle"),
    [
        pytest.param({}, 300.0, 0, id="KEDA's defaults"),
        pytest.param({"cooldownPeriod": 45, "idleReplicaCount": 1}, 45.0, 1, id="given"),
        pytest.param({"cooldownPeriod": 0}, 0.0, 0, id="no cooldown"),
        pytest.param({"cooldownPeriod": "5m", "idleReplicaCount": -1}, 300.0, 0, id="what the API server refuses"),
    ],
)
def test_the_cooldown_and_the_idle_size(spec: dict[str, object], cooldown: float, idle: int) -> None:
    found = scaled_object({"spec": spec})
    assert (found.cooldown_seconds, found.idle_replicas) == (cooldown, idle)
