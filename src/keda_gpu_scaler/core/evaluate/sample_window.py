# SPDX-License-Identifier: Apache-2.0
"""Reads the samples of one target within a window: means of gauges, and growth of counters.

Law: a reading that the engine does not export is unknown, and a counter with one reading has no rate.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from keda_gpu_scaler.core.aggregation import mean
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.types import EngineSample, Histogram

SHORTEST_SECONDS = 1e-3


class UnknownReadingError(Exception):
    """A value is not known. The message says why."""


class PartialReadingError(UnknownReadingError):
    """A part of a value is not known. ``lower_bound`` is the value of the known parts, in the metric's unit."""

    def __init__(self, message: str, lower_bound: float) -> None:
        super().__init__(message)
        self.lower_bound = lower_bound


class Reading(Protocol):
    """A reading of a sample."""

    @property
    def title(self) -> str:
        """The name of the reading in a sentence."""

    def of(self, sample: EngineSample) -> Any:
        """Return the reading; None where it is not known."""

    def unknown(self, sample: EngineSample) -> str:
        """Say why the reading is not known."""


@dataclass(frozen=True, slots=True)
class EngineReading:
    """A reading by the name of its field in ``EngineSample``."""

    name: str
    title: str

    def of(self, sample: EngineSample) -> Any:
        """Return the reading, a number or a histogram; None where it is not known."""
        return getattr(sample, self.name)

    def unknown(self, sample: EngineSample) -> str:
        """Say why the reading is not known."""
        if self.name in sample.known_parts:
            return f"its {self.title} is not known: a value of it is not a number, or differs from its copy"
        return f"exports no {self.title}"

    def known_part(self, sample: EngineSample) -> float:
        """Return what the reading is at least; 0 where nothing of it is known."""
        value: float | None = getattr(sample, self.name)
        return sample.known_parts.get(self.name, 0.0) if value is None else value


@dataclass(frozen=True, slots=True)
class SelectedReading:
    """The reading of a selector of the trigger."""

    selector: SeriesSelector

    @property
    def title(self) -> str:
        """The name of the reading in a sentence."""
        return f"series {self.selector.text}"

    def of(self, sample: EngineSample) -> float | None:
        """Return the reading; None where it is not known."""
        series = sample.selected.get(self.selector.text)
        return series.value if series is not None and not (series.is_absent or series.is_partial) else None

    def unknown(self, sample: EngineSample) -> str:
        """Say why the reading is not known."""
        if (reason := sample.unread.get(self.selector.text)) is not None:
            return f"{self.title} is not read: {reason}"
        series = sample.selected.get(self.selector.text)
        if series is not None and series.is_partial:
            return f"{self.title} is not known: a value of it is not a number"
        return f"exports no {self.title}"


WAITING = EngineReading("waiting", "number of waiting requests")
DEFERRED = EngineReading("deferred", "number of deferred requests")
RUNNING = EngineReading("running", "number of running requests")
KV_CACHE = EngineReading("kv_cache_ratio", "KV cache usage")
REQUESTS = EngineReading("requests_total", "count of requests")


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

    def gauge(self, reading: Reading) -> float:
        """Average a gauge that the newest page still exports.

        Raises:
            PartialReadingError: the newest page has a value of the gauge that is not a number.
            UnknownReadingError: the newest page does not have the gauge.
        """
        if reading.of(self.newest) is not None:
            return mean([value for sample in self._inside if (value := reading.of(sample)) is not None])
        why = reading.unknown(self.newest)
        if isinstance(reading, EngineReading) and reading.name in self.newest.known_parts:
            raise PartialReadingError(why, mean([reading.known_part(sample) for sample in self._inside]))
        raise UnknownReadingError(why)

    def growth(self, *counters: Reading) -> Growth:
        """Return how much counters grew together, between readings that have all of them.

        Where a counter fell, its engine was restarted, or a model whose count was a part of the sum was unloaded. The
        growth in that interval is not known. Neither the counts nor the time of the interval are a part of the result.
        """
        for counter in counters:
            if counter.of(self.newest) is None:
                raise UnknownReadingError(counter.unknown(self.newest))
        complete = []
        for sample in self._compared:
            values = [value for counter in counters if (value := counter.of(sample)) is not None]
            if len(values) == len(counters):
                complete.append((sample.at_seconds, values))
        name = counters[0].title
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
            return self.growth(REQUESTS).counts[0]
        except UnknownReadingError:
            return 0.0

    def histogram(self, reading: EngineReading) -> Histogram:
        """Return the observations that a histogram counted within the window."""
        newest: Histogram | None = reading.of(self.newest)
        if newest is None:
            raise UnknownReadingError(reading.unknown(self.newest))
        histograms = [it for sample in self._compared if (it := reading.of(sample)) is not None]
        histograms = [it for it in histograms if it.bounds_seconds == newest.bounds_seconds]
        if len(histograms) < 2:
            raise UnknownReadingError(f"{reading.title} has one reading so far, and its growth needs two")
        counts = [0.0] * len(newest.bounds_seconds)
        for later, earlier in pairwise(histograms):
            if later.counts[-1] >= earlier.counts[-1]:
                increases = [max(0.0, one - other) for one, other in zip(later.counts, earlier.counts, strict=True)]
                counts = [total + increase for total, increase in zip(counts, increases, strict=True)]
        return Histogram(newest.bounds_seconds, tuple(counts))

    @property
    def is_without_waiting(self) -> bool:
        """Whether every reading says that no request waits, for capacity or for something else."""
        return all(
            sample.waiting == 0 and not sample.deferred and DEFERRED.name not in sample.known_parts
            for sample in self._compared
        )

    @property
    def is_idle(self) -> bool:
        """Whether every reading says that no request waits or runs."""
        return self.is_without_waiting and all(sample.running == 0 for sample in self._compared)
