# SPDX-License-Identifier: Apache-2.0
"""Reads the samples of one target within a window: means of gauges, and growth of counters.

Law: a reading that the engine does not export is unknown, and a counter with one reading has no rate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from keda_gpu_scaler.core.aggregation import mean
from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.types import EngineSample, Histogram

SHORTEST_SECONDS = 1e-3


class UnknownReadingError(Exception):
    """A value is not known. The message says why."""


@dataclass(frozen=True, slots=True)
class Growth:
    """The growth of counters, and the time in which they grew."""

    counts: tuple[float, ...]
    seconds: float

    @property
    def rate(self) -> float:
        """Growth of the first counter per second."""
        return self.counts[0] / max(self.seconds, SHORTEST_SECONDS)


class SampleWindow:
    """The readings of one page within the window, newest first."""

    def __init__(self, page: TargetHistory, newest: EngineSample, window_seconds: float) -> None:
        self.newest = newest
        self._inside = list(page.within(window_seconds))
        # The reading before the window is compared too, so that everything counted within the window has a start.
        self._compared = page.window(window_seconds)[::-1]

    def gauge(self, read: Callable[[EngineSample], float | None], name: str) -> float:
        """Average a gauge that the newest page still exports."""
        if read(self.newest) is None:
            raise UnknownReadingError(f"exports no {name}")
        return mean([value for reading in self._inside if (value := read(reading)) is not None])

    def growth(self, *counters: tuple[Callable[[EngineSample], float | None], str]) -> Growth:
        """Return how much counters grew together, between readings that have all of them.

        Where a counter fell, its engine was restarted, or a model whose count was a part of the sum was unloaded. The
        growth in that interval is not known. Neither the counts nor the time of the interval are a part of the result.
        """
        for read, name in counters:
            if read(self.newest) is None:
                raise UnknownReadingError(f"exports no {name}")
        complete = []
        for reading in self._compared:
            values = [value for read, _ in counters if (value := read(reading)) is not None]
            if len(values) == len(counters):
                complete.append((reading.at_seconds, values))
        name = counters[0][1]
        if len(complete) < 2:
            raise UnknownReadingError(f"{name} has one reading so far, and its growth needs two")
        grown, seconds = [0.0] * len(counters), 0.0
        for (later_at, later), (earlier_at, earlier) in pairwise(complete):
            increases = [after - before for after, before in zip(later, earlier, strict=True)]
            if min(increases) >= 0:
                grown = [total + increase for total, increase in zip(grown, increases, strict=True)]
                seconds += later_at - earlier_at
        if not seconds:
            raise UnknownReadingError(f"{name} was reset, and its growth needs two readings after that")
        return Growth(tuple(grown), seconds)

    @property
    def ended(self) -> float:
        """The number of requests that ended well within the window, 0 where that is not known.

        It is the only sign of work where an engine exports no running requests (Triton), or where requests are so short
        that none runs or waits at the time of a scrape.
        """
        try:
            return self.growth((lambda it: it.requests_total, "count of requests")).counts[0]
        except UnknownReadingError:
            return 0.0

    def histogram(self, read: Callable[[EngineSample], Histogram | None], name: str) -> Histogram:
        """Return the observations that a histogram counted within the window."""
        newest = read(self.newest)
        if newest is None:
            raise UnknownReadingError(f"exports no {name}")
        histograms = [it for reading in self._compared if (it := read(reading)) is not None]
        histograms = [it for it in histograms if it.bounds_seconds == newest.bounds_seconds]
        if len(histograms) < 2:
            raise UnknownReadingError(f"{name} has one reading so far, and its growth needs two")
        counts = [0.0] * len(newest.bounds_seconds)
        for later, earlier in pairwise(histograms):
            if later.counts[-1] >= earlier.counts[-1]:
                increases = [max(0.0, one - other) for one, other in zip(later.counts, earlier.counts, strict=True)]
                counts = [total + increase for total, increase in zip(counts, increases, strict=True)]
        return Histogram(newest.bounds_seconds, tuple(counts))

    @property
    def is_without_waiting(self) -> bool:
        """Whether every reading says that no request waits, for capacity or for something else."""
        return all(reading.waiting == 0 and not reading.deferred for reading in self._compared)

    @property
    def is_idle(self) -> bool:
        """Whether every reading says that no request waits or runs."""
        return self.is_without_waiting and all(reading.running == 0 for reading in self._compared)
