# SPDX-License-Identifier: Apache-2.0
"""Tests of the averages of readings that are taken at a slower pace than snapshots."""

from dataclasses import replace

import pytest

from keda_gpu_scaler.core.evaluate.device_load import DeviceLoad, device_loads, device_loads_by_holder
from keda_gpu_scaler.core.state.fleet import History
from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.core.types import Allocation, PerformanceReadings, ReadingFailure
from tests.fakes import device, sample, snapshots

SM = METRICS["sm_active"]
UUID = device(0).uuid


def taken(at: float, ratio: float | None, seconds: float = 5.0) -> PerformanceReadings:
    return PerformanceReadings(at, seconds, sm_active_ratio=ratio)


def history(*performances: PerformanceReadings | None) -> History:
    """One snapshot a second, the last one at 1000."""
    return History(snapshots(*([sample(0, performance=each)] for each in performances)), 1000.0)


def load(one: History, window_seconds: float) -> DeviceLoad:
    (found,) = device_loads(one, SM, window_seconds)
    return found


EARLIER, FIRST, SECOND, THIRD = taken(981.5, 1.0), taken(986.5, 0.9), taken(991.5, 0.2), taken(996.5, 0.4)
SERVED = history(*[EARLIER] * 5, *[FIRST] * 5, *[SECOND] * 5, *[THIRD] * 4)


@pytest.mark.parametrize(
    ("window_seconds", "expected"),
    [
        pytest.param(0.0, 40.0, id="the newest one without a window"),
        pytest.param(5.0, 40.0, id="one in the window"),
        pytest.param(10.0, 30.0, id="two in the window, each counted once"),
        pytest.param(60.0, 62.5, id="all four"),
    ],
)
def test_a_reading_that_several_snapshots_have_counts_once(window_seconds: float, expected: float) -> None:
    assert load(SERVED, window_seconds) == DeviceLoad(device(0), expected, 3.5)


def test_a_reading_that_is_not_taken_any_more_becomes_stale() -> None:
    gone = history(SECOND, *[None] * 5)
    assert load(gone, 0.0).value is None
    assert load(gone, 10.0) == DeviceLoad(device(0), 20.0, 8.5)
    assert not load(gone, 10.0).is_within(5.0)


def test_an_unknown_activity_names_its_own_reason() -> None:
    failure = ReadingFailure("activity", "no GPM")
    one = History(snapshots([sample(0, performance=taken(1000.0, None), failures=(failure,))]), 1000.0)
    assert load(one, 10.0).failure == failure


@pytest.mark.parametrize(
    ("held_since", "expected"),
    [
        pytest.param(985.0, 30.0, id="both means began while the pod held the device"),
        pytest.param(990.0, 40.0, id="the first mean began before the pod came"),
        pytest.param(991.0, 40.0, id="the newest mean began just after the pod came"),
        pytest.param(994.0, None, id="the newest mean began before the pod came"),
    ],
)
def test_a_mean_that_began_before_the_pod_came_is_not_its_load(held_since: float, expected: float | None) -> None:
    now, before = ((Allocation("ai", pod, "main", "nvidia.com/gpu", UUID),) for pod in ("new", "old"))
    shared = tuple(
        replace(each, allocations=now if each.at_seconds > held_since else before) for each in SERVED.snapshots
    )
    assert device_loads_by_holder(History(shared, 1000.0), SM, 10.0)[UUID].value == expected


def test_readings_of_every_sample_are_averaged_as_before() -> None:
    one = History(snapshots([sample(0, 0.5)], [sample(0, 0.7)]), 1000.0)
    (found,) = device_loads(one, METRICS["gpu_utilization"], 10.0)
    assert found == DeviceLoad(device(0), 60.0, 0.0)
