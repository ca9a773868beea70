# SPDX-License-Identifier: Apache-2.0
"""Tests of the numbers that every output shows: significant digits, and the limits of a ScaledObject."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.comparison import Comparison, ReplicaLimit, ReplicaLimits, significant


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"), (98.437, "98.4"), (98.0, "98"), (100.0, "100"), (99.96, "100"), (999.6, "1,000"),
        (12345.0, "12,300"),
        (0.012345, "0.0123"), (0.5, "0.5"), (1e12, "1,000,000,000,000"), (-98.437, "-98.4"), (1.005, "1"),
        (0.0004, "0.0004"), (math.inf, "inf"), (1.796e308, "1.796e+308"), (math.nan, "nan"),
    ],
)  # fmt: skip
def test_a_number_has_three_significant_digits(value: float, shown: str) -> None:
    assert significant(value) == shown


@given(st.floats(min_value=1e-6, max_value=1e15))
def test_the_shown_number_is_near_the_number(value: float) -> None:
    shown = significant(value)
    assert "e" not in shown
    assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.00501)
    assert len(shown.replace(",", "").replace(".", "").strip("0")) <= 3


@pytest.mark.parametrize(
    ("limits", "replicas", "active", "expected"),
    [
        pytest.param(ReplicaLimits(1, 8), 4, True, (4, ReplicaLimit.NONE), id="within the limits"),
        pytest.param(ReplicaLimits(1, 8), 9, True, (8, ReplicaLimit.MAX), id="above the maximum"),
        pytest.param(ReplicaLimits(1, 8), 8, True, (8, ReplicaLimit.NONE), id="at the maximum"),
        pytest.param(ReplicaLimits(3, 8), 2, True, (3, ReplicaLimit.MIN), id="below the minimum"),
        pytest.param(ReplicaLimits(0, 8), 0, True, (1, ReplicaLimit.MIN), id="KEDA gives the HPA a minimum of 1"),
        pytest.param(ReplicaLimits(0, 8), 2, False, (0, ReplicaLimit.INACTIVE), id="inactive, and zero is allowed"),
        pytest.param(ReplicaLimits(1, 8), 0, False, (1, ReplicaLimit.MIN), id="inactive, and zero is not allowed"),
        pytest.param(ReplicaLimits(3, 8, 1), 5, False, (1, ReplicaLimit.INACTIVE), id="inactive, with a size for it"),
        pytest.param(ReplicaLimits(3, 8, 1), 5, True, (5, ReplicaLimit.NONE), id="active, with a size for inactive"),
        pytest.param(ReplicaLimits(), 101, True, (100, ReplicaLimit.MAX), id="KEDA's default maximum"),
    ],
)
def test_the_desired_size_is_within_the_limits_of_the_scaled_object(
    limits: ReplicaLimits, replicas: int, active: bool, expected: tuple[int, ReplicaLimit]
) -> None:
    assert limits.limited(replicas, active=active) == expected


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 200), st.booleans())
def test_a_limit_is_named_exactly_when_it_changes_the_size(least: int, more: int, replicas: int, active: bool) -> None:
    limits = ReplicaLimits(least, least + more)
    desired, limit = limits.limited(replicas, active=active)
    if limit is not ReplicaLimit.INACTIVE:
        assert (desired == replicas) == (limit is ReplicaLimit.NONE)
        assert max(1, least) <= desired <= max(1, least + more)


def test_a_value_without_a_reason_is_not_adjusted() -> None:
    assert not Comparison(measured=92.0, plain=276.0, reported=276.0).is_adjusted
    assert Comparison(measured=92.0, plain=276.0, reported=240.0, adjustment="a pod is starting").is_adjusted
