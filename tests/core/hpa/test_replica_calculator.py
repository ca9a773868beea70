# SPDX-License-Identifier: Apache-2.0
"""What one metric asks for, against values worked out by hand from the controller's source."""

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keda_gpu_scaler.core.hpa.replica_calculator import (
    Recommendation,
    Tolerances,
    ValueType,
    desired_replicas,
    milli,
    resource_replicas,
)

AVERAGE, VALUE = ValueType.AVERAGE_VALUE, ValueType.VALUE


def case(sentence: str, *values: object) -> object:
    return pytest.param(*values, id=sentence)


# --- values as the HPA holds them


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        case("a whole number is a thousand thousandths each", 92.0, 92000),
        case("three decimals survive", 0.57, 570),  # 0.57 * 1000 is 569.9999999999999
        case("half a thousandth as binary holds it exactly goes to the even neighbour", 0.0625, 62),
        case("and up where that is the even one", 0.1875, 188),
        case("0.0005 is a little above the half in binary and becomes one thousandth", 0.0005, 1),
        case("anything below becomes nothing", 0.00049, 0),
        case("a negative value keeps its sign", -1.5, -1500),
    ],
)
def test_milli(value: float, expected: int) -> None:
    assert milli(value) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e16, -1e16])
def test_what_cannot_be_counted_in_thousandths_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^value: Invalid value: .*: must be "):
        milli(value)


# --- one metric


@pytest.mark.parametrize(
    ("value_type", "value", "target", "replicas", "ready", "expected"),
    [
        case("the busiest of eight saturated replicas shrinks the fleet to two", AVERAGE, 92, 80, 8, None, 2),
        case("their total grows it", AVERAGE, 8 * 92, 80, 8, None, 10),
        case("a total at target times replicas changes nothing", AVERAGE, 640, 80, 8, None, 8),
        case("ten per cent above is still near enough", AVERAGE, 704, 80, 8, None, 8),
        case("a thousandth more is not", AVERAGE, 704.001, 80, 8, None, 9),
        case("ten per cent below is still near enough", AVERAGE, 576, 80, 8, None, 8),
        case("a thousandth less is not, and the ceiling may still say eight", AVERAGE, 575.999, 80, 8, None, 8),
        case("the ceiling counts a started replica whole", AVERAGE, 480.001, 80, 8, None, 7),
        case("nothing at all asks for none", AVERAGE, 0, 80, 8, None, 0),
        case("ready pods mean nothing under AverageValue", AVERAGE, 8 * 92, 80, 8, 1, 10),
        case("nor do they for the tolerance", AVERAGE, 700, 80, 8, 1, 8),
        case("no replica yet: the total over the target, and no tolerance", AVERAGE, 81, 80, 0, None, 2),
        case("no replica and no load: none", AVERAGE, 0, 80, 0, None, 0),
        case("Value multiplies the ready pods", VALUE, 92, 80, 8, None, 10),  # 1.15 * 8 = 9.2
        case("only the ready ones", VALUE, 92, 80, 8, 4, 5),  # 1.15 * 4 = 4.6
        case("so that three of eight being ready may shrink while the ratio asks to grow", VALUE, 92, 80, 8, 3, 4),
        case("no ready pod asks for none", VALUE, 92, 80, 8, 0, 0),
        case("Value within tolerance keeps the replicas, not the ready pods", VALUE, 80, 80, 8, 3, 8),
        case("Value at 1.1 is near enough", VALUE, 88, 80, 8, None, 8),
        case("Value at 0.9 is near enough", VALUE, 72, 80, 8, None, 8),
        case("Value a thousandth above is not", VALUE, 88.001, 80, 8, None, 9),
        case("Value a thousandth below is not", VALUE, 71.999, 80, 8, None, 8),
        case("Value of half the target halves", VALUE, 40, 80, 8, None, 4),
        case("no replica yet under Value: the ratio itself", VALUE, 200, 80, 0, 0, 3),
        case("a size no int32 holds is the largest int32", AVERAGE, 9e15, 0.001, 1, None, 2**31 - 1),
        case("under Value as well", VALUE, 9e15, 0.001, 1, None, 2**31 - 1),
    ],
)  # fmt: skip
def test_one_metric(
    value_type: ValueType, value: float, target: float, replicas: int, ready: int | None, expected: int
) -> None:
    recommendation = desired_replicas(value_type, milli(value), milli(target), replicas=replicas, ready_pods=ready)
    assert recommendation.replicas == expected


@pytest.mark.parametrize(
    ("ratio", "tolerances", "held"),
    [
        case("1.1 itself is held, though 1.1 - 1 exceeds 0.1 in floating point", 1.1, Tolerances(), True),
        case("0.9 itself is held", 0.9, Tolerances(), True),
        case("the next number above is not", math.nextafter(1.1, 2), Tolerances(), False),
        case("the next number below is not", math.nextafter(0.9, 0), Tolerances(), False),
        case("growing has its own tolerance", 1.3, Tolerances(up=0.5), True),
        case("which says nothing about shrinking", 0.7, Tolerances(up=0.5), False),
        case("shrinking has its own", 0.7, Tolerances(down=0.5), True),
        case("which says nothing about growing", 1.3, Tolerances(down=0.5), False),
        case("no tolerance holds only 1", 1.0, Tolerances(0, 0), True),
        case("and nothing else", 1.001, Tolerances(0, 0), False),
    ],
)
def test_both_ends_belong_to_the_tolerance(ratio: float, tolerances: Tolerances, held: bool) -> None:
    assert tolerances.hold(ratio) is held


def test_the_tolerances_given_are_the_ones_applied() -> None:
    loose = Tolerances(up=0.2)
    assert desired_replicas(AVERAGE, 95_000, 80_000, replicas=1).replicas == 2
    assert desired_replicas(AVERAGE, 95_000, 80_000, replicas=1, tolerances=loose).replicas == 1


@pytest.mark.parametrize(
    ("recommendation", "sentence"),
    [
        case(
            "outside",
            desired_replicas(AVERAGE, 92_000, 80_000, replicas=8),
            "92 is 0.144 of 8 * 80, so ceil(92 / 80) = 2",
        ),
        case(
            "within",
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
def test_a_recommendation_shows_its_sum(recommendation: Recommendation, sentence: str) -> None:
    assert recommendation.sentence == sentence


def test_a_target_that_rounds_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^target: Invalid value: 0: must be above 0"):
        desired_replicas(AVERAGE, 1, milli(0.0004), replicas=1)


@pytest.mark.parametrize(("replicas", "ready"), [(-1, None), (1, -2)])
def test_negative_counts_are_refused(replicas: int, ready: int | None) -> None:
    with pytest.raises(ValueError, match=r"^replicas: Invalid value: -\d: must be 0 or more"):
        desired_replicas(AVERAGE, 1, 1, replicas=replicas, ready_pods=ready)


# --- the HPA's own metrics, for comparison: at a target of 80


@pytest.mark.parametrize(
    ("values", "missing", "unready", "replicas", "expected"),
    [
        case("three at 92 % are four", [92] * 3, 0, 0, 3, 4),  # 1.15 * 3 = 3.45
        case("1.1 is near enough", [88] * 10, 0, 0, 10, 10),
        case("a thousandth more is not", [88.001] * 10, 0, 0, 10, 12),
        case("0.9 is near enough", [72] * 10, 0, 0, 10, 10),
        case("a thousandth less is not, and the ceiling counts a started replica whole", [71.999] * 10, 0, 0, 10, 9),
        case("eight idle ones ask for none", [0] * 8, 0, 0, 8, 0),
        case("pods that are there count, not those that are wanted", [160] * 3, 0, 0, 8, 6),
        case("within tolerance it is those that are wanted", [80] * 3, 0, 0, 8, 8),
        case("no value, no answer", [], 2, 2, 4, None),
        # A ready pod without a value.
        case("growing, it is idle", [160] * 3, 1, 0, 4, 6),  # 480 / 4 = 120: 1.5 * 4
        case("and if that comes near the target, nothing moves", [110] * 3, 1, 0, 4, 4),  # 330 / 4 = 82.5
        case("nor if it falls below", [90] * 3, 1, 0, 4, 4),  # 270 / 4 = 67.5
        case("shrinking, it is at the target", [20] * 3, 1, 0, 4, 2),  # 140 / 4 = 35: 1.75
        case("and if that comes near the target, nothing moves", [71] * 3, 2, 0, 5, 5),  # 373 / 5 = 74.6
        case("at exactly the target nothing moves, where the controller would shrink", [80] * 3, 1, 0, 4, 4),
        case("a result on the other side of the size moves nothing: more pods than wanted", [60] * 8, 1, 0, 4, 4),
        case("a result on the other side of the size moves nothing: fewer pods than wanted", [160] * 3, 1, 0, 8, 8),
        # A pod that is not ready.
        case("growing, it is idle", [160] * 3, 0, 1, 4, 6),
        case("and if that comes near the target, nothing moves", [110] * 3, 0, 1, 4, 4),
        case("nor if it falls below", [100], 0, 1, 2, 2),
        case("shrinking, it is left out", [40] * 4, 0, 4, 8, 2),
        case("at the target it is left out", [80] * 3, 0, 1, 4, 4),
        # Both.
        case("growing, both are idle", [300] * 3, 1, 1, 5, 12),  # 900 / 5 = 180: 2.25 * 5
        case("shrinking, one is at the target and the other left out", [0] * 3, 1, 5, 9, 1),  # 80 / 4 = 20: 1
        # The mean is a whole number of thousandths, cut off.
        case("just above the tolerance, but for what is cut off", [88, 88, 88.002], 0, 0, 3, 3),
    ],
)  # fmt: skip
def test_resource_metrics(values: list[float], missing: int, unready: int, replicas: int, expected: int | None) -> None:
    thousandths = [milli(value) for value in values]
    made = resource_replicas(thousandths, milli(80), missing=missing, unready=unready, replicas=replicas)
    assert made == expected


@pytest.mark.parametrize(
    ("values", "missing", "expected"),
    [
        case("with every pod seen", [88_000] * 10, 0, 11),
        case("and where one is not", [93_500] * 10, 1, 12),  # 935 / 11 = 85: 1.0625 * 11 = 11.69
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
def test_law_1_who_is_missing_or_not_ready_never_makes_it_grow(values: list[int], missing: int, unready: int) -> None:
    replicas = len(values) + missing + unready
    blind = resource_replicas(values, 80_000, missing=missing, unready=unready, replicas=replicas)
    alone = resource_replicas(values, 80_000, missing=0, unready=0, replicas=len(values))
    assert blind is not None
    assert alone is not None
    assert blind <= max(replicas, alone)
    if sum(values) // len(values) >= 72_000:  # what was seen does not ask to shrink
        assert blind >= replicas
    if missing:
        assert blind >= missing


@given(some_millis, st.integers(0, 6), st.integers(0, 6), st.randoms())
def test_the_order_of_pods_means_nothing(
    values: list[int], missing: int, unready: int, shuffler: random.Random
) -> None:
    shuffled = shuffler.sample(values, len(values))
    once = resource_replicas(values, 80_000, missing=missing, unready=unready, replicas=9)
    assert once == resource_replicas(shuffled, 80_000, missing=missing, unready=unready, replicas=9)


@given(types, millis, millis, targets, st.integers(0, 200))
def test_more_load_never_asks_for_less(value_type: ValueType, one: int, other: int, target: int, replicas: int) -> None:
    low, high = sorted((one, other))
    smaller = desired_replicas(value_type, low, target, replicas=replicas)
    larger = desired_replicas(value_type, high, target, replicas=replicas)
    assert smaller.replicas <= larger.replicas


@given(types, millis, targets, sizes, sizes)
def test_within_tolerance_nothing_moves(
    value_type: ValueType, value: int, target: int, replicas: int, ready: int
) -> None:
    recommendation = desired_replicas(value_type, value, target, replicas=replicas, ready_pods=ready)
    assert recommendation.within_tolerance is Tolerances().hold(recommendation.ratio)
    if recommendation.within_tolerance:
        assert recommendation.replicas == replicas


@given(targets, sizes, st.integers(0, 400))
def test_under_average_value_target_times_d_leads_to_d(target: int, replicas: int, wanted: int) -> None:
    recommendation = desired_replicas(AVERAGE, target * wanted, target, replicas=replicas)
    assume(not recommendation.within_tolerance)
    assert recommendation.replicas == wanted
