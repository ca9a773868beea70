# SPDX-License-Identifier: Apache-2.0
"""Tests of rates from counters that wrap and start again."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keda_gpu_scaler.devices.rates import (
    IMPOSSIBLE_LINK_BYTES_PER_SECOND,
    IMPOSSIBLE_PCIE_BYTES_PER_SECOND,
    LONGEST_SECONDS,
    Count,
    NarrowCounterError,
    RateMeter,
    UnknownRateError,
    bytes_per_second,
)


@given(
    st.sampled_from([32, 40, 64]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**50),
    st.floats(0.1, LONGEST_SECONDS),
    st.sampled_from([1, 1024]),
)
def test_a_rate_is_the_true_growth_or_unknown_wherever_the_counter_wraps(
    bits: int, start: int, growth: int, seconds: float, unit: int
) -> None:
    assume(growth * unit / seconds < IMPOSSIBLE_LINK_BYTES_PER_SECOND)
    before, after = Count(start % 2**bits, bits), Count((start + growth) % 2**bits, bits)
    try:
        rate = bytes_per_second(
            before, after, unit_bytes=unit, seconds=seconds, impossible=IMPOSSIBLE_LINK_BYTES_PER_SECOND
        )
    except NarrowCounterError:
        assert 2**bits * unit <= IMPOSSIBLE_LINK_BYTES_PER_SECOND * seconds
    else:
        assert rate == pytest.approx(growth * unit / seconds)


@given(st.integers(1, 2**63), st.floats(0.1, LONGEST_SECONDS))
def test_a_counter_of_64_bits_that_fell_started_again(fall: int, seconds: float) -> None:
    with pytest.raises(UnknownRateError, match="the counter started again"):
        bytes_per_second(
            Count(fall), Count(0), unit_bytes=1, seconds=seconds, impossible=IMPOSSIBLE_PCIE_BYTES_PER_SECOND
        )


def meter() -> RateMeter[str]:
    return RateMeter(1, IMPOSSIBLE_PCIE_BYTES_PER_SECOND)


def test_one_reading_gives_no_rate_and_the_rates_of_several_counters_are_added_up() -> None:
    one = meter()
    assert one.update({"a": Count(0), "b": Count(100)}, 10.0) is None
    assert one.update({"a": Count(50), "b": Count(110)}, 20.0) == 6.0


@pytest.mark.parametrize(
    ("counts", "at_seconds"),
    [
        pytest.param({"a": Count(50)}, 20.0, id="a counter fewer"),
        pytest.param({"a": Count(50), "b": Count(1), "c": Count(0)}, 20.0, id="a counter more"),
        pytest.param({"a": Count(50), "b": Count(1)}, 10.05, id="too early"),
        pytest.param({"a": Count(50), "b": Count(1)}, 10.0 + LONGEST_SECONDS + 1, id="too late"),
        pytest.param({"a": Count(50), "b": Count(1)}, 9.0, id="a clock that went back"),
    ],
)
def test_readings_that_do_not_belong_together_have_no_rate(counts: dict[str, Count], at_seconds: float) -> None:
    one = meter()
    one.update({"a": Count(0), "b": Count(0)}, 10.0)
    assert one.update(counts, at_seconds) is None
    assert one.update({name: Count(count.value + 10) for name, count in counts.items()}, at_seconds + 10) == len(counts)


def test_a_counter_that_changes_its_width_has_no_rate() -> None:
    one = meter()
    one.update({"a": Count(0, 64)}, 10.0)
    with pytest.raises(UnknownRateError, match="changed its width"):
        one.update({"a": Count(1, 40)}, 10.5)


def test_what_was_counted_before_it_was_forgotten_is_in_no_rate() -> None:
    one = meter()
    one.update({"a": Count(0)}, 10.0)
    one.forget()
    assert one.update({"a": Count(5000)}, 20.0) is None
    assert one.update({"a": Count(5010)}, 30.0) == 1.0
