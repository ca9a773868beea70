# SPDX-License-Identifier: Apache-2.0
"""Rates from counters that grow: the growth between two readings, divided by the time between them.

Law: one reading gives no rate. A counter that fell, or that was not read for long, starts again.
"""

from dataclasses import dataclass

from keda_gpu_scaler.devices.sysfs import UnreadableError

SHORTEST_SECONDS = 0.09
"""Below this the resolution of the counters (1 ms) shows in the rate, so the last rate is returned again."""
LONGEST_SECONDS = 600.0
"""A counter of 32 bits wraps within 91 minutes. The mean of a longer time is no reading of the present either."""


@dataclass(frozen=True, slots=True)
class _Base:
    at_seconds: float
    count: int


class CounterRate:
    """The rate of one counter."""

    def __init__(self) -> None:
        self._base: _Base | None = None
        self._rate: float | None = None

    def forget(self) -> None:
        """Start again: the counter did not count for a time."""
        self._base = self._rate = None

    def update(self, count: int, at_seconds: float) -> float:
        """Take a reading of the counter; return its growth in a second.

        Args:
            count: the counter's reading.
            at_seconds: monotonic seconds at the reading.

        Raises:
            UnreadableError: there is no rate yet, or the counter started again.
        """
        base = self._base
        if base is not None and 0 <= at_seconds - base.at_seconds < SHORTEST_SECONDS and count >= base.count:
            if self._rate is None:
                raise UnreadableError("one reading so far, and its growth needs two")
            return self._rate
        self._base, self._rate = _Base(at_seconds, count), None
        if base is None:
            raise UnreadableError("one reading so far, and its growth needs two")
        if count < base.count or not SHORTEST_SECONDS <= at_seconds - base.at_seconds <= LONGEST_SECONDS:
            raise UnreadableError("the counter started again")
        self._rate = (count - base.count) / (at_seconds - base.at_seconds)
        return self._rate
