# SPDX-License-Identifier: Apache-2.0
"""Tests of the aggregations: tables and properties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.aggregation import AGGREGATIONS, mean, nearest_rank

readings = st.lists(st.floats(0, 1e12, allow_nan=False), min_size=1, max_size=40)
names = st.sampled_from(sorted(AGGREGATIONS))


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        pytest.param("max", [10, 92, 40], 92, id="max is the busiest device"),
        pytest.param("min", [10, 92, 40], 10, id="min is the idlest device"),
        pytest.param("avg", [10, 20, 60], 30, id="avg is the arithmetic mean"),
        pytest.param("sum", [10, 20, 60], 90, id="sum is the total"),
        pytest.param("p95", list(range(1, 101)), 95, id="p95 of 1 to 100 is 95 by nearest rank"),
        pytest.param("p99", list(range(1, 101)), 99, id="p99 of 1 to 100 is 99 by nearest rank"),
        pytest.param("p95", [*[10] * 19, 100], 10, id="p95 of twenty leaves one outlier out"),
        pytest.param("p95", [*[10] * 7, 100], 100, id="p95 of eight is the largest"),
        pytest.param("p99", [5], 5, id="a single value is every percentile"),
    ],
)
def test_each_aggregation_computes_its_definition(name: str, values: list[float], expected: float) -> None:
    assert AGGREGATIONS[name](values) == expected


def test_the_mean_of_no_values_is_refused_and_is_not_zero() -> None:
    with pytest.raises(ValueError, match="unknown"):
        mean([])


def test_the_mean_of_equal_values_is_that_value() -> None:
    assert mean([0.1, 0.1, 0.1]) == 0.1


@given(names, readings)
def test_every_aggregate_but_the_sum_lies_within_its_inputs(name: str, values: list[float]) -> None:
    result = AGGREGATIONS[name](values)
    assert math.isfinite(result)
    if name != "sum":
        assert min(values) <= result <= max(values)


@given(names, readings, st.randoms())
def test_no_aggregate_depends_on_the_order(name: str, values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert AGGREGATIONS[name](shuffled) == AGGREGATIONS[name](values)


@given(names, readings, st.data())
def test_every_aggregate_is_monotonic_in_every_input(name: str, values: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    raised = list(values)
    raised[place] = data.draw(st.floats(values[place], 1e12))
    assert AGGREGATIONS[name](raised) >= AGGREGATIONS[name](values)


@given(readings, st.integers(1, 100))
def test_a_percentile_is_one_of_its_inputs_and_enough_lie_below(values: list[float], percent: int) -> None:
    result = nearest_rank(values, percent)
    assert result in values
    assert sum(value <= result for value in values) * 100 >= percent * len(values)
