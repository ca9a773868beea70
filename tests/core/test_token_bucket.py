# SPDX-License-Identifier: Apache-2.0
"""Tests of the token bucket."""

from keda_gpu_scaler.core.token_bucket import TokenBucket


def test_units_are_saved_up_to_the_limit_and_a_refused_take_costs_nothing() -> None:
    bucket = TokenBucket(4, 0.5, 0.0, first=3)
    assert [bucket.take(1, 0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(3, 1.0)
    assert bucket.take(2, 1.0)
    assert [bucket.take(1, 1000.0) for _ in range(5)] == [True, True, True, True, False]


def test_more_than_is_ever_saved_needs_a_full_bucket_and_the_rest_is_owed() -> None:
    bucket = TokenBucket(4, 1.0, 0.0)
    assert not bucket.take(6, 0.0)
    assert bucket.take_or_owe(6, 0.0)
    assert not bucket.take(1, 2.0)
    assert bucket.take(1, 3.0)
