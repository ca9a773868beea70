# SPDX-License-Identifier: Apache-2.0
"""Tests of the replica calculator, with values worked out by hand from the controller's source."""

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keda_gpu_scaler.core.hpa.replica_calculator import (
    Recommendation,
    ValueType,
    desired_replicas,
    milli,
    resource_replicas,
)
from keda_gpu_scaler.core.scaling_rules import Tolerances

AVERAGE, VALUE = ValueType.AVERAGE_VALUE, ValueType.VALUE


def case(sentence: str, *values: object) -> object:
    return pytest.param(*values, id=sentence)


# --- values in thousandths


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        case("a whole number is a thousand thousandths each", 92.0, 92000),
        case("three decimals are kept", 0.57, 570),  # 0.57 * 1000 is 569.9999999999999
        case("half a thousandth, exact in binary, is rounded to the even neighbour", 0.0625, 62),
        case("half a thousandth is rounded up where that neighbour is even", 0.1875, 188),
        case("0.0005 is slightly above the half in binary and is rounded up", 0.0005, 1),
        case("a smaller number becomes 0", 0.00049, 0),
        case("a negative value keeps its sign", -1.5, -1500),
    ],
)
def test_a_value_is_rounded_to_whole_thousandths(value: float, expected: int) -> None:
    assert milli(value) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e16, -1e16])
def test_a_value_that_has_no_thousandths_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^value: Invalid value: .*: must be "):
        milli(value)


# --- one metric


@pytest.mark.parametrize(
    ("value_type", "value", "target", "replicas", "ready", "expected"),
    [
        case("the largest of eight saturated replicas as a total scales down to two", AVERAGE, 92, 80, 8, None, 2),
        case("the total of eight saturated replicas scales up", AVERAGE, 8 * 92, 80, 8, None, 10),
        case("a total at target times replicas changes nothing", AVERAGE, 640, 80, 8, None, 8),
        case("ten per cent above is within the tolerance", AVERAGE, 704, 80, 8, None, 8),
        case("a thousandth more is above the tolerance", AVERAGE, 704.001, 80, 8, None, 9),
        case("ten per cent below is within the tolerance", AVERAGE, 576, 80, 8, None, 8),
        case("a thousandth less is below it, and is rounded up to eight", AVERAGE, 575.999, 80, 8, None, 8),
        case("a part of a replica is rounded up", AVERAGE, 480.001, 80, 8, None, 7),
        case("a value of 0 recommends none", AVERAGE, 0, 80, 8, None, 0),
        case("ready pods have no effect under AverageValue", AVERAGE, 8 * 92, 80, 8, 1, 10),
        case("ready pods have no effect on the tolerance", AVERAGE, 700, 80, 8, 1, 8),
        case("no replica: the total divided by the target, without a tolerance", AVERAGE, 81, 80, 0, None, 2),
        case("no replica and no load: none", AVERAGE, 0, 80, 0, None, 0),
        case("Value multiplies by the ready pods", VALUE, 92, 80, 8, None, 10),  # 1.15 * 8 = 9.2
        case("pods that are not ready do not count under Value", VALUE, 92, 80, 8, 4, 5),  # 1.15 * 4 = 4.6
        case("with three of eight ready, the size may fall at a ratio above 1", VALUE, 92, 80, 8, 3, 4),
        case("no ready pod recommends none", VALUE, 92, 80, 8, 0, 0),
        case("Value within tolerance keeps the replicas, not the ready pods", VALUE, 80, 80, 8, 3, 8),
        case("Value at 1.1 is within the tolerance", VALUE, 88, 80, 8, None, 8),
        case("Value at 0.9 is within the tolerance", VALUE, 72, 80, 8, None, 8),
        case("Value a thousandth above is outside the tolerance", VALUE, 88.001, 80, 8, None, 9),
        case("Value a thousandth below is outside the tolerance", VALUE, 71.999, 80, 8, None, 8),
        case("Value of half the target halves", VALUE, 40, 80, 8, None, 4),
        case("no replica under Value: the ratio itself", VALUE, 200, 80, 0, 0, 3),
        case("a size too large for an int32 is the largest int32", AVERAGE, 9e15, 0.001, 1, None, 2**31 - 1),
        case("a size too large for an int32 under Value", VALUE, 9e15, 0.001, 1, None, 2**31 - 1),
    ],
)  # fmt: skip
def test_the_size_that_one_external_metric_recommends(
    value_type: ValueType, value: float, target: float, replicas: int, ready: int | None, expected: int
) -> None:
    recommendation = desired_replicas(value_type, milli(value), milli(target), replicas=replicas, ready_pods=ready)
    assert recommendation.replicas == expected


@pytest.mark.parametrize(
    ("ratio", "tolerances", "held"),
    [
        case("1.1 itself is held, though 1.1 - 1 exceeds 0.1 in floating point", 1.1, Tolerances(), True),
        case("0.9 itself is held", 0.9, Tolerances(), True),
        case("the next number above 1.1 is not held", math.nextafter(1.1, 2), Tolerances(), False),
        case("the next number below 0.9 is not held", math.nextafter(0.9, 0), Tolerances(), False),
        case("scaling up has its own tolerance", 1.3, Tolerances(up=0.5), True),
        case("the tolerance for scaling up does not apply to scaling down", 0.7, Tolerances(up=0.5), False),
        case("scaling down has its own tolerance", 0.7, Tolerances(down=0.5), True),
        case("the tolerance for scaling down does not apply to scaling up", 1.3, Tolerances(down=0.5), False),
        case("a tolerance of 0 holds 1", 1.0, Tolerances(0, 0), True),
        case("a tolerance of 0 holds nothing else", 1.001, Tolerances(0, 0), False),
    ],
)
def test_both_bounds_of_the_tolerance_are_inclusive(ratio: float, tolerances: Tolerances, held: bool) -> None:
    assert tolerances.hold(ratio) is held


def test_the_given_tolerances_are_applied() -> None:
    loose = Tolerances(up=0.2)
    assert desired_replicas(AVERAGE, 95_000, 80_000, replicas=1).replicas == 2
    assert desired_replicas(AVERAGE, 95_000, 80_000, replicas=1, tolerances=loose).replicas == 1


@pytest.mark.parametrize(
    ("recommendation", "sentence"),
    [
        case(
            "outside the tolerance",
            desired_replicas(AVERAGE, 92_000, 80_000, replicas=8),
            "92 is 0.144 of 8 * 80, so ceil(92 / 80) = 2",
        ),
        case(
            "within the tolerance",
            desired_replicas(AVERAGE, 640_500, 80_000, replicas=8),
            "640.5 is 1.001 of 8 * 80, within tolerance (0.9 to 1.1): stays at 8",
        ),
        case(
            "Value",
            desired_replicas(VALUE, 92_000, 80_000, replicas=8, ready_pods=4),
            "92 is 1.150 of 80, so ceil(92 / 80 * 4 ready) = 5",
        ),
        case("from zero", desired_replicas(AVERAGE, 92_000, 80_000, replicas=0), "from no replicas: ceil(92 / 80) = 2"),
    ],
)
def test_a_recommendation_shows_its_calculation(recommendation: Recommendation, sentence: str) -> None:
    assert recommendation.sentence == sentence


def test_a_target_that_rounds_to_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^target: Invalid value: 0: must be above 0"):
        desired_replicas(AVERAGE, 1, milli(0.0004), replicas=1)


@pytest.mark.parametrize(("replicas", "ready"), [(-1, None), (1, -2)])
def test_negative_counts_are_refused(replicas: int, ready: int | None) -> None:
    with pytest.raises(ValueError, match=r"^replicas: Invalid value: -\d: must be 0 or more"):
        desired_replicas(AVERAGE, 1, 1, replicas=replicas, ready_pods=ready)


# --- the HPA's resource metrics, at a target of 80


@pytest.mark.parametrize(
    ("values", "missing", "unready", "replicas", "expected"),
    [
        case("three at 92 % need four", [92] * 3, 0, 0, 3, 4),  # 1.15 * 3 = 3.45
        case("1.1 is within the tolerance", [88] * 10, 0, 0, 10, 10),
        case("a thousandth more is above the tolerance", [88.001] * 10, 0, 0, 10, 12),
        case("0.9 is within the tolerance", [72] * 10, 0, 0, 10, 10),
        case("a thousandth less is below it, and is rounded up", [71.999] * 10, 0, 0, 10, 9),
        case("eight idle pods need none", [0] * 8, 0, 0, 8, 0),
        case("the existing pods count, not the wanted replicas", [160] * 3, 0, 0, 8, 6),
        case("within the tolerance the result is the wanted replicas", [80] * 3, 0, 0, 8, 8),
        case("without any value the result is None", [], 2, 2, 4, None),
        # A ready pod without a value.
        case("above the target, a missing pod is idle", [160] * 3, 1, 0, 4, 6),  # 480 / 4 = 120: 1.5 * 4
        case("with a missing pod within the tolerance, the size stays", [110] * 3, 1, 0, 4, 4),  # 330 / 4 = 82.5
        case("with a missing pod below the target, the size stays", [90] * 3, 1, 0, 4, 4),  # 270 / 4 = 67.5
        case("below the target, a missing pod is at the target", [20] * 3, 1, 0, 4, 2),  # 140 / 4 = 35: 1.75
        case("with two missing pods within the tolerance, the size stays", [71] * 3, 2, 0, 5, 5),  # 373 / 5 = 74.6
        case("at exactly the target the size stays, where the controller would scale down", [80] * 3, 1, 0, 4, 4),
        case("a result in the opposite direction keeps the size: more pods than wanted", [60] * 8, 1, 0, 4, 4),
        case("a result in the opposite direction keeps the size: fewer pods than wanted", [160] * 3, 1, 0, 8, 8),
        # A pod that is not ready.
        case("above the target, an unready pod is idle", [160] * 3, 0, 1, 4, 6),
        case("with an unready pod within the tolerance, the size stays", [110] * 3, 0, 1, 4, 4),
        case("with an unready pod below the target, the size stays", [100], 0, 1, 2, 2),
        case("below the target, unready pods are ignored", [40] * 4, 0, 4, 8, 2),
        case("at the target, an unready pod is ignored", [80] * 3, 0, 1, 4, 4),
        # Both.
        case("above the target, both are idle", [300] * 3, 1, 1, 5, 12),  # 900 / 5 = 180: 2.25 * 5
        case("below the target, only unready pods are ignored", [0] * 3, 1, 5, 9, 1),  # 80 / 4 = 20: 1
        # The mean is a whole number of thousandths, cut off.
        case("just above the tolerance, and within it after truncation", [88, 88, 88.002], 0, 0, 3, 3),
    ],
)  # fmt: skip
def test_the_size_by_resource_metrics(
    values: list[float], missing: int, unready: int, replicas: int, expected: int | None
) -> None:
    thousandths = [milli(value) for value in values]
    made = resource_replicas(thousandths, milli(80), missing=missing, unready=unready, replicas=replicas)
    assert made == expected


@pytest.mark.parametrize(
    ("values", "missing", "expected"),
    [
        case("every pod has a value", [88_000] * 10, 0, 11),
        case("one pod has no value", [93_500] * 10, 1, 12),  # 935 / 11 = 85: 1.0625 * 11 = 11.69
    ],
)
def test_resource_metrics_apply_the_tolerances_given(values: list[int], missing: int, expected: int) -> None:
    tight = Tolerances(up=0.05, down=0.05)
    made = resource_replicas(values, 80_000, missing=missing, unready=0, replicas=10 + missing, tolerances=tight)
    assert made == expected


def test_resource_metrics_too_large_for_an_int32_end_at_the_largest() -> None:
    assert resource_replicas([9 * 10**18] * 3, 1, missing=0, unready=0, replicas=3) == 2**31 - 1


# --- properties

types = st.sampled_from(ValueType)
millis = st.integers(0, 10**9)
targets = st.integers(1, 10**7)
sizes = st.integers(1, 200)
some_millis = st.lists(st.integers(0, 300_000), min_size=1, max_size=12)


@given(some_millis, st.integers(0, 6), st.integers(0, 6))
def test_law_1_missing_and_unready_pods_never_cause_a_scale_up(values: list[int], missing: int, unready: int) -> None:
    replicas = len(values) + missing + unready
    with_missing = resource_replicas(values, 80_000, missing=missing, unready=unready, replicas=replicas)
    without_missing = resource_replicas(values, 80_000, missing=0, unready=0, replicas=len(values))
    assert with_missing is not None
    assert without_missing is not None
    assert with_missing <= max(replicas, without_missing)
    if sum(values) // len(values) >= 72_000:  # the observed pods do not need fewer replicas
        assert with_missing >= replicas
    if missing:
        assert with_missing >= missing


@given(some_millis, st.integers(0, 6), st.integers(0, 6), st.randoms())
def test_the_order_of_pods_has_no_effect(
    values: list[int], missing: int, unready: int, shuffler: random.Random
) -> None:
    shuffled = shuffler.sample(values, len(values))
    once = resource_replicas(values, 80_000, missing=missing, unready=unready, replicas=9)
    assert once == resource_replicas(shuffled, 80_000, missing=missing, unready=unready, replicas=9)


@given(types, millis, millis, targets, st.integers(0, 200))
def test_more_load_never_recommends_fewer_replicas(
    value_type: ValueType, one: int, other: int, target: int, replicas: int
) -> None:
    low, high = sorted((one, other))
    smaller = desired_replicas(value_type, low, target, replicas=replicas)
    larger = desired_replicas(value_type, high, target, replicas=replicas)
    assert smaller.replicas <= larger.replicas


@given(types, millis, targets, sizes, sizes)
def test_within_the_tolerance_the_size_stays(
    value_type: ValueType, value: int, target: int, replicas: int, ready: int
) -> None:
    recommendation = desired_replicas(value_type, value, target, replicas=replicas, ready_pods=ready)
    assert recommendation.within_tolerance is Tolerances().hold(recommendation.ratio)
    if recommendation.within_tolerance:
        assert recommendation.replicas == replicas


@given(targets, sizes, st.integers(0, 400))
def test_under_average_value_the_target_times_a_size_leads_to_this_size(
    target: int, replicas: int, wanted: int
) -> None:
    recommendation = desired_replicas(AVERAGE, target * wanted, target, replicas=replicas)
    assume(not recommendation.within_tolerance)
    assert recommendation.replicas == wanted
