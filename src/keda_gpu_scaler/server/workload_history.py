# SPDX-License-Identifier: Apache-2.0
"""The last hour of every declared workload: measured value, target and sizes in steps of ten seconds.

Law: the history records what an answer to KEDA already computed, and adds no evaluation. Reading it changes nothing,
so that two reads return the same. A step without an answer is a gap, and an answer without a value is a point without
one: no gap is bridged.

The memory is bounded: ``MAX_HISTORIES`` triggers, ``MAX_POINTS`` points of 33 bytes each: about 12 KB for one trigger.
"""

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from keda_gpu_scaler.core.instance_status import RecentAnswer
from keda_gpu_scaler.server.bounded_cache import BoundedCache

STEP_SECONDS = 10.0
"""The time that one point stands for. The last answer within it counts."""
MAX_POINTS = 360
"""The number of steps that are kept: an hour."""
MAX_HISTORIES = 256
"""The number of triggers with a history. One more replaces the one that was not answered for the longest time."""

HistoryKey = tuple[str, str, str, str]
"""The namespace and the name of a ScaledObject, and the metric name and the metric of one of its triggers."""

_COUNTS = 5
_UNKNOWN_COUNT = -1
_LARGEST_COUNT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class WorkloadPoint:
    """One answer to KEDA.

    ``measured`` is the mean of the replicas in the metric's unit, None where it is not known. ``replicas`` is the size,
    ``ready`` how many of them are ready, and ``wanted`` the size that the value leads to within ``min_replicas`` and
    ``max_replicas``. Each of the five is None where it is not known. A history keeps seven digits of a measured
    value and of a target.
    """

    measured: float | None
    target: float
    replicas: int | None = None
    wanted: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    active: bool = False
    ready: int | None = None


def history_key(answer: RecentAnswer) -> HistoryKey:
    """Return the key of the history that an answer belongs to."""
    return answer.namespace, answer.name, answer.metric_name, answer.metric


def point_of(answer: RecentAnswer) -> WorkloadPoint:
    """Return the point that records an answer."""
    numbers, limits = answer.comparison, answer.limits
    return WorkloadPoint(
        numbers.measured if answer.value is not None else None,
        answer.target,
        numbers.current_replicas,
        numbers.desired_replicas,
        limits.min_replicas if limits is not None else None,
        limits.max_replicas if limits is not None else None,
        answer.active,
        numbers.ready_replicas,
    )


class WorkloadHistory:
    """The points of one trigger, one for each step in which it was answered."""

    def __init__(self) -> None:
        self._steps = array("i")
        self._values = array("f")  # measured and target, in turn
        self._counts = array("i")  # replicas, wanted, minimum, maximum and ready, in turn
        self._active = array("b")

    def __len__(self) -> int:
        return len(self._steps)

    def record(self, point: WorkloadPoint, now: float) -> None:
        """Add a point, or replace that of the same step; drop what is older than an hour.

        Args:
            point: what was answered.
            now: monotonic seconds; never less than at an earlier call.
        """
        step = _step(now)
        if self._steps and self._steps[-1] == step:
            self._drop(len(self) - 1, len(self))
        self._steps.append(step)
        self._values.extend((_float(point.measured), point.target))
        sizes = (point.replicas, point.wanted, point.min_replicas, point.max_replicas, point.ready)
        self._counts.extend(_count(size) for size in sizes)
        self._active.append(point.active)
        old = 0
        while self._steps[old] <= step - MAX_POINTS:
            old += 1
        self._drop(0, old)

    def points(self, now: float, max_points: int = MAX_POINTS) -> Iterator[tuple[int, WorkloadPoint]]:
        """Yield the points of the newest ``max_points`` steps, the oldest first, each with how many steps ago it was.

        Args:
            now: monotonic seconds; the current step is 0 steps ago.
            max_points: the number of steps.
        """
        step = _step(now)
        for number, at in enumerate(self._steps):
            if step - at < min(max_points, MAX_POINTS):
                yield step - at, self._point(number)

    def measured(self, now: float) -> Iterator[tuple[int, float | None]]:
        """Yield the measured value of each point, as ``points`` does."""
        step = _step(now)
        for at, value in zip(self._steps, self._values[::2], strict=True):
            if step - at < MAX_POINTS:
                yield step - at, None if math.isnan(value) else value

    def _point(self, number: int) -> WorkloadPoint:
        measured, target = self._values[2 * number : 2 * number + 2]
        counts = self._counts[_COUNTS * number : _COUNTS * (number + 1)]
        replicas, wanted, lowest, highest, ready = [None if size == _UNKNOWN_COUNT else size for size in counts]
        known = None if math.isnan(measured) else measured
        return WorkloadPoint(known, target, replicas, wanted, lowest, highest, bool(self._active[number]), ready)

    def _drop(self, begin: int, end: int) -> None:
        if begin < end:
            del self._steps[begin:end], self._active[begin:end]
            del self._values[2 * begin : 2 * end], self._counts[_COUNTS * begin : _COUNTS * end]


class WorkloadHistories:
    """The histories of the triggers that ScaledObjects declare."""

    def __init__(self) -> None:
        self._histories: BoundedCache[HistoryKey, WorkloadHistory] = BoundedCache(
            MAX_HISTORIES, MAX_POINTS * STEP_SECONDS
        )

    def record(self, key: HistoryKey, point: WorkloadPoint, now: float) -> None:
        """Record an answer that was given now to a declared trigger."""
        history = self._histories.get(key, now)
        if history is None:
            history = WorkloadHistory()
            self._histories.put(key, history, now)
        history.record(point, now)

    def of(self, key: HistoryKey) -> WorkloadHistory | None:
        """Return the history of a trigger; None where it was not answered within the hour."""
        return self._histories.peek(key)

    def expire_idle(self, now: float) -> None:
        """Release the histories of triggers that were not answered for an hour."""
        self._histories.expire(now)


def _step(now: float) -> int:
    return math.floor(now / STEP_SECONDS)


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _count(size: int | None) -> int:
    return _UNKNOWN_COUNT if size is None else min(max(size, 0), _LARGEST_COUNT)
