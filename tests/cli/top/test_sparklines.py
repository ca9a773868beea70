# SPDX-License-Identifier: Apache-2.0
"""Tests the sparklines of ``top``."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.top.sparklines import BARS, GAP, MAX_STEPS, STEP_SECONDS, Sparklines
from tests.cli.top.fleets import BASE


def drawn(
    *values: float | None, length: int = 6, at: Callable[[int], float] = lambda number: number * STEP_SECONDS
) -> str:
    """Record one value at each time, and draw the sparkline at the last time."""
    sparklines = Sparklines()
    for number, value in enumerate(values):
        sparklines.record([replace(BASE, gpu_utilization_percent=value)], at(number))
    return sparklines.draw(BASE.device_keys, at(len(values) - 1), length)


def test_the_newest_step_is_on_the_right_and_the_time_before_the_first_is_blank() -> None:
    assert drawn(0.0, 50.0, 100.0) == f"   {BARS[0]}{BARS[4]}{BARS[-1]}"


def test_an_unknown_value_is_a_gap() -> None:
    assert drawn(10.0, None, 10.0) == f"   {BARS[0]}{GAP}{BARS[0]}"


def test_a_time_without_a_record_is_a_gap() -> None:
    assert drawn(10.0, 10.0, at=lambda number: number * 3 * STEP_SECONDS) == f"  {BARS[0]}{GAP}{GAP}{BARS[0]}"


def test_a_character_is_the_mean_of_its_step() -> None:
    assert drawn(0.0, 100.0, length=1, at=lambda number: number * STEP_SECONDS / 2) == BARS[4]


def test_several_devices_share_a_sparkline_of_their_mean() -> None:
    sparklines = Sparklines()
    other = replace(BASE, uuid="GPU-0001", device_keys=(("a", "GPU-0001"),), gpu_utilization_percent=100.0)
    sparklines.record([replace(BASE, gpu_utilization_percent=0.0), other], 0.0)
    assert sparklines.draw((*BASE.device_keys, *other.device_keys), 0.0, 1) == BARS[4]


def test_a_device_without_recent_rows_is_forgotten() -> None:
    sparklines = Sparklines()
    sparklines.record([BASE], 0.0)
    sparklines.record([], (MAX_STEPS + 1) * STEP_SECONDS)
    assert sparklines.draw(BASE.device_keys, 0.0, 1) == " "


@given(st.lists(st.none() | st.floats(-10, 200), min_size=1, max_size=100), st.integers(0, 80))
def test_a_sparkline_has_the_requested_length(values: list[float | None], length: int) -> None:
    assert len(drawn(*values, length=length)) == length
