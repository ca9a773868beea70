# SPDX-License-Identifier: Apache-2.0
"""The history of a workload: steps of ten seconds, gaps, bounds, and that reading changes nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.comparison import Comparison, ReplicaLimit, ReplicaLimits
from keda_gpu_scaler.core.instance_status import RecentAnswer
from keda_gpu_scaler.server.workload_history import (
    MAX_HISTORIES,
    MAX_POINTS,
    STEP_SECONDS,
    WorkloadHistories,
    WorkloadHistory,
    WorkloadPoint,
    history_key,
    point_of,
)
from keda_gpu_scaler.server.workload_list import workload_list

FULL = WorkloadPoint(98.5, 75.0, 3, 4, 1, 6, active=True, ready=2)
UNKNOWN = WorkloadPoint(None, 75.0, None, None, None, None)


def recorded(*points: tuple[float, WorkloadPoint]) -> WorkloadHistory:
    history = WorkloadHistory()
    for at, point in points:
        history.record(point, at)
    return history


def test_a_point_is_returned_as_it_was_recorded_with_its_age_in_steps() -> None:
    history = recorded((1000.0, FULL), (1020.0, UNKNOWN))
    assert list(history.points(1031.0)) == [(3, FULL), (1, UNKNOWN)]


def test_the_last_answer_of_a_step_counts() -> None:
    assert list(recorded((1000.0, UNKNOWN), (1009.9, FULL)).points(1009.9)) == [(0, FULL)]


def test_a_step_without_an_answer_has_no_point_and_no_gap_is_bridged() -> None:
    assert [steps for steps, _ in recorded((0.0, FULL), (50.0, FULL)).points(50.0)] == [5, 0]


def test_only_the_newest_steps_are_returned_where_fewer_are_wanted() -> None:
    history = recorded(*((STEP_SECONDS * number, FULL) for number in range(9)))
    assert [steps for steps, _ in history.points(80.0, 3)] == [2, 1, 0]


@given(st.lists(st.floats(0, 900), min_size=1, max_size=60), st.floats(0, 7200))
def test_reading_twice_gives_the_same_and_at_most_an_hour(waits: list[float], later: float) -> None:
    history, now = WorkloadHistory(), 0.0
    for wait in waits:
        now += wait
        history.record(FULL, now)
    first = list(history.points(now + later))
    assert first == list(history.points(now + later))
    assert len(history) <= MAX_POINTS
    assert all(0 <= steps < MAX_POINTS for steps, _ in first)


def test_the_number_of_histories_is_bounded_and_the_oldest_goes_first() -> None:
    histories = WorkloadHistories()
    for number in range(MAX_HISTORIES + 1):
        histories.record(("ai", f"llama-{number}", "m", "gpu_utilization"), FULL, float(number))
    assert histories.of(("ai", "llama-0", "m", "gpu_utilization")) is None
    assert histories.of(("ai", "llama-1", "m", "gpu_utilization")) is not None


def test_reading_a_history_does_not_keep_it() -> None:
    histories = WorkloadHistories()
    histories.record(("ai", "llama", "m", "gpu_utilization"), FULL, 0.0)
    assert histories.of(("ai", "llama", "m", "gpu_utilization")) is not None
    histories.expire_idle(MAX_POINTS * STEP_SECONDS + 1)
    assert histories.of(("ai", "llama", "m", "gpu_utilization")) is None


NUMBERS = Comparison(98.0, 294.0, 294.0, "total", "", 3, 4, ReplicaLimit.NONE, "98 is above 5", 2)
ANSWER = RecentAnswer(
    "ai", "llama", "m", "gpu_utilization", 75.0, 294.0, True, 3, 3, at_seconds=1000.0, comparison=NUMBERS,
    limits=ReplicaLimits(1, 6),
)  # fmt: skip


def test_an_answer_without_a_value_is_a_point_without_one() -> None:
    assert point_of(ANSWER) == WorkloadPoint(98.0, 75.0, 3, 4, 1, 6, active=True, ready=2)
    without = RecentAnswer("ai", "llama", "m", "gpu_utilization", 75.0, None, True, 0, 3, comparison=NUMBERS)
    assert point_of(without).measured is None


@pytest.mark.parametrize(("max_points", "points"), [(0, 0), (1, 1), (10_000, 2)])
def test_the_list_repeats_the_answers_with_as_much_history_as_is_wanted(max_points: int, points: int) -> None:
    histories = WorkloadHistories()
    for at in (980.0, 1000.0):
        histories.record(history_key(ANSWER), point_of(ANSWER), at)
    [shown] = workload_list([ANSWER], [], "gpu-7", 1004.0, histories, max_points).answers
    numbers = shown.comparison
    assert (shown.name, numbers.measured, numbers.reported) == ("llama", 98.0, 294.0)
    assert (numbers.current_replicas, numbers.desired_replicas) == (3, 4)
    assert (shown.age_seconds, len(shown.history.points)) == (4.0, points)


def test_a_size_that_is_not_known_is_absent_and_not_zero() -> None:
    unknown = RecentAnswer("ai", "llama", "m", "gpu_utilization", 75.0, None, True, 0, 3)
    [shown] = workload_list([unknown], [], "", 0.0, WorkloadHistories(), 10).answers
    fields = ("measured", "reported", "current_replicas", "desired_replicas")
    assert not any(shown.comparison.HasField(field) for field in fields)
