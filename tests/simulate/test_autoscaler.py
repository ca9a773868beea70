# SPDX-License-Identifier: Apache-2.0
"""KEDA and the HPA in a simulation decide as their documented formulas and ``core.hpa`` do."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.hpa.controller import (
    DEFAULT_UP,
    Behavior,
    ControllerState,
    Policy,
    PolicyType,
    ScalingRules,
    reconcile,
)
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType, desired_replicas, milli
from keda_gpu_scaler.core.scaling_rules import Formula
from keda_gpu_scaler.core.trigger.parser import Scope
from keda_gpu_scaler.simulate.autoscaler import Autoscaler, Sizes, TriggerAnswer
from keda_gpu_scaler.simulate.scenario import FallbackSpec, ScalingSpec, TriggerSpec

GENTLE = Behavior(DEFAULT_UP, ScalingRules((Policy(PolicyType.PODS, 1, 60),), 120.0))


def answer(
    value: float | None,
    *,
    active: bool = True,
    target: float = 100.0,
    metric_type: str = "AverageValue",
    is_push: bool = False,
    is_unknown: bool = False,
    name: str = "",
) -> TriggerAnswer:
    evaluation = Evaluation(Scope.WORKLOAD, value, active, (), is_activity_unknown=is_unknown)
    return TriggerAnswer(TriggerSpec({}, metric_type, name, is_push), target, evaluation)


def spec(**changes: object) -> ScalingSpec:
    return ScalingSpec("test", (TriggerSpec({}),), **changes)  # type: ignore[arg-type]


def even(size: int) -> Sizes:
    return Sizes(size, size, size)


values = st.lists(st.one_of(st.none(), st.floats(0, 5000)), min_size=1, max_size=40)


@pytest.mark.parametrize(
    "behavior", [None, Behavior(), GENTLE], ids=["no behavior", "the defaults", "one pod a minute"]
)
@pytest.mark.parametrize("metric_type", ["AverageValue", "Value"])
@given(values=values)
def test_every_size_is_the_one_that_core_hpa_computes(
    behavior: Behavior | None, metric_type: str, values: Sequence[float | None]
) -> None:
    autoscaler = Autoscaler(spec(min_replicas=1, max_replicas=30, behavior=behavior))
    state, size = ControllerState(), 3
    for number, value in enumerate(values):
        decision = autoscaler.sync([answer(value, metric_type=metric_type)], even(size), 15.0 * number)
        recommendation = None
        if value is not None:
            kind = ValueType(metric_type)
            recommendation = desired_replicas(kind, milli(round(value, 3)), 100_000, replicas=size, ready_pods=size)
        state, expected = reconcile(
            state, 15.0 * number, size, recommendation, min_replicas=1, max_replicas=30, behavior=behavior
        )
        assert decision == expected
        size = decision.replicas


@given(value=st.floats(0, 5000), size=st.integers(1, 40))
def test_the_first_size_is_the_quotient_within_tolerance_and_limits(value: float, size: int) -> None:
    decision = Autoscaler(spec(min_replicas=1, max_replicas=20)).sync([answer(value)], even(size), 0.0)
    kept = milli(round(value, 3)) / 1000
    if size > 20:
        assert decision.replicas == 20
        return
    wanted = size if 0.9 <= kept / (100 * size) <= 1.1 else math.ceil(kept / 100)
    expected = min(20, max(1, max(wanted, size)))  # the first sync remembers the present size
    assert decision.replicas == min(expected, max(2 * size, 4)) if expected > size else expected


@pytest.mark.parametrize(
    ("given_spec", "answers", "size", "expected"),
    [
        pytest.param({}, [answer(0.0, active=True)], 0, 1, id="an active trigger activates the workload"),
        pytest.param({"min_replicas": 3}, [answer(0.0)], 0, 3, id="to the minimum, where there is one"),
        pytest.param({}, [answer(0.0, active=False)], 0, 0, id="an inactive one leaves it at zero"),
        pytest.param(
            {"idle_replicas": 1, "min_replicas": 3}, [answer(0.0)], 1, 3, id="from the idle size to the minimum"
        ),
        pytest.param({"min_replicas": 2}, [answer(0.0, active=False)], 1, 2, id="never below the minimum"),
        pytest.param({}, [answer(None, active=False)], 4, 4, id="an error without a fallback changes nothing"),
        pytest.param(
            {"fallback": FallbackSpec(3, 6)}, [answer(None, active=False)], 4, 6, id="an error with a fallback sets it"
        ),
        pytest.param({}, [answer(5.0, active=True, is_unknown=True)], 0, 0, id="an unknown activity activates nothing"),
        pytest.param({}, [answer(0.0, active=False), answer(0.0)], 0, 1, id="one active trigger of several is enough"),
    ],
)
def test_a_poll_of_keda(given_spec: dict[str, object], answers: list[TriggerAnswer], size: int, expected: int) -> None:
    assert Autoscaler(spec(**given_spec)).poll(answers, even(size), 1000.0) == expected


def test_keda_scales_to_zero_after_the_cooldown_and_not_before() -> None:
    autoscaler = Autoscaler(spec(cooldown_seconds=300.0))
    autoscaler.poll([answer(50.0)], even(2), 0.0)
    inactive = [answer(0.0, active=False)]
    sizes = [autoscaler.poll(inactive, even(2), now) for now in (30.0, 270.0, 299.0, 300.0)]
    assert sizes == [2, 2, 2, 0]


def test_a_push_activates_at_once_and_a_polled_trigger_waits_for_the_poll() -> None:
    assert Autoscaler(spec()).push([answer(0.0, is_push=True)], even(0), 5.0) == 1
    assert Autoscaler(spec()).push([answer(0.0)], even(0), 5.0) == 0
    assert Autoscaler(spec()).push([answer(0.0, active=False, is_push=True)], even(0), 5.0) == 0


@pytest.mark.parametrize(
    ("behavior", "expected"),
    [
        pytest.param("static", 7, id="static"),
        pytest.param("currentReplicas", 4, id="the present size"),
        pytest.param("currentReplicasIfHigher", 7, id="at least"),
        pytest.param("currentReplicasIfLower", 4, id="at most"),
    ],
)
def test_the_fallback_counts_after_more_errors_than_its_threshold(behavior: str, expected: int) -> None:
    autoscaler = Autoscaler(spec(min_replicas=1, fallback=FallbackSpec(2, 7, behavior)))
    sizes = [autoscaler.sync([answer(None)], even(4), 15.0 * number).replicas for number in range(3)]
    assert sizes == [4, 4, expected]


def test_with_a_formula_its_result_and_its_target_count() -> None:
    formula = Formula("a + b", "10", "5", "AverageValue")
    autoscaler = Autoscaler(spec(min_replicas=1, formula=formula), lambda text, values: values["a"] + values["b"])
    answers = [answer(20.0, name="a", active=False), answer(15.0, name="b", active=False)]
    assert autoscaler.sync(answers, even(2), 0.0).replicas == 4
    assert autoscaler.poll(answers, even(0), 0.0) == 1
    assert autoscaler.sync([answer(20.0, name="a"), answer(None, name="b")], even(2), 15.0).replicas == 2
