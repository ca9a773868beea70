# SPDX-License-Identifier: Apache-2.0
"""Tests of the interest in the expensive readings."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.state.reading_interest import INTEREST_SECONDS, ReadingInterest


def test_without_interest_nothing_is_wanted() -> None:
    assert not ReadingInterest().is_live(0.0)
    assert ReadingInterest().remaining_seconds(0.0) == 0.0


def test_interest_ends_when_it_is_not_renewed() -> None:
    interest = ReadingInterest()
    interest.register(100.0)
    assert interest.is_live(100.0)
    assert interest.remaining_seconds(150.0) == INTEREST_SECONDS - 50
    assert interest.is_live(99.0 + INTEREST_SECONDS)
    assert not interest.is_live(100.0 + INTEREST_SECONDS)
    interest.register(100.0 + INTEREST_SECONDS)
    assert interest.is_live(101.0 + INTEREST_SECONDS)


def test_a_shorter_time_ends_no_longer_one() -> None:
    interest = ReadingInterest()
    interest.register(0.0, 60.0)
    interest.register(0.0, 1.0)
    assert interest.remaining_seconds(0.0) == 60.0


@pytest.mark.parametrize(
    ("seconds", "expected"), [(math.nan, 0.0), (-5.0, 0.0), (math.inf, INTEREST_SECONDS), (1e12, INTEREST_SECONDS)]
)
def test_a_time_from_another_instance_is_limited(seconds: float, expected: float) -> None:
    interest = ReadingInterest()
    interest.register(100.0, seconds)
    assert interest.remaining_seconds(100.0) == expected


@given(st.floats(0, 1e9), st.lists(st.floats(allow_nan=True)))
def test_interest_never_lasts_longer_than_its_limit(now: float, requests: list[float]) -> None:
    interest = ReadingInterest()
    for seconds in requests:
        interest.register(now, seconds)
    assert 0 <= interest.remaining_seconds(now) <= INTEREST_SECONDS + 1e-6
