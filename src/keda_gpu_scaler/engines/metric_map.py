# SPDX-License-Identifier: Apache-2.0
"""What does an engine export, by which names? The words in which each engine's file says so.

The law of this module: a reading is what the engine's own series say, added up, or unknown; no series stands in for
another one.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from enum import Enum

from keda_gpu_scaler.core.selectors import SeriesSelector, parse_series
from keda_gpu_scaler.core.types import EngineSample, Histogram
from keda_gpu_scaler.engines.prometheus_text import Exposition, SeriesSample, is_known


class Combine(Enum):
    """What several series of one name come to: models, ranks, versions."""

    SUM = "sum"
    FULLEST = "fullest"
    """Of shares of something: adding them up would mean nothing, and a mean would hide the rank that is full."""


@dataclass(frozen=True, slots=True)
class SeriesSource:
    """Where a reading comes from: a selector, times a factor into the reading's unit.

    ``copied_by`` are labels by which series differ that all tell the same thing; of such copies the largest counts.
    """

    selector: SeriesSelector
    factor: float = 1.0
    together: Combine = Combine.SUM
    copied_by: frozenset[str] = frozenset()

    def read(self, samples: Sequence[SeriesSample]) -> float | None:
        """Return the reading; None where there is no such series, or one that tells nothing."""
        meant = [it for it in samples if self.selector.matches(it.name, it.labels)]
        if self.together is Combine.FULLEST:
            values = [it.value for it in meant]
            return self.factor * max(values) if values and all(map(is_known, values)) else None
        total = added_up(self._originals(meant) if self.copied_by else [it.value for it in meant])
        return None if total is None else self.factor * total

    def _originals(self, samples: Iterable[SeriesSample]) -> list[float]:
        largest: dict[frozenset[tuple[str, str]], float] = {}
        for it in samples:
            if not is_known(it.value):
                return [it.value]
            original = frozenset((key, value) for key, value in it.labels.items() if key not in self.copied_by)
            largest[original] = max(it.value, largest.get(original, it.value))
        return list(largest.values())


def added_up(values: Sequence[float]) -> float | None:
    """Return the sum; None where there is nothing to add up, something tells nothing, or no float holds it."""
    if not values or not all(map(is_known, values)):
        return None
    try:
        return math.fsum(values)
    except OverflowError:
        return None


def source(text: str, factor: float = 1.0, *, copied_by: frozenset[str] = frozenset()) -> SeriesSource:
    """Name a source by its selector; what several series tell is added up, of copies one."""
    return SeriesSource(parse_series(text), factor, copied_by=copied_by)


def share(text: str) -> SeriesSource:
    """Name a source of shares, of which the fullest counts."""
    return SeriesSource(parse_series(text), together=Combine.FULLEST)


@dataclass(frozen=True, slots=True)
class MetricMap:
    """What one engine exports. Of several sources of a reading the first that is there counts.

    ``signs`` are names by one of which its pages are known; ``first_token`` is a histogram's name. The other names are
    those of ``core.model.EngineSample``.
    """

    engine: str
    signs: tuple[str, ...]
    waiting: tuple[SeriesSource, ...] = ()
    running: tuple[SeriesSource, ...] = ()
    running_limit: tuple[SeriesSource, ...] = ()
    kv_cache_ratio: tuple[SeriesSource, ...] = ()
    requests_total: tuple[SeriesSource, ...] = ()
    tokens_total: tuple[SeriesSource, ...] = ()
    queue_wait_seconds_total: tuple[SeriesSource, ...] = ()
    queue_waits_total: tuple[SeriesSource, ...] = ()
    first_token: str = ""

    def names(self) -> Iterator[str]:
        """Yield the name of every series that is read."""
        yield from self.signs
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, tuple):
                yield from (it.selector.name for it in value if isinstance(it, SeriesSource))
        if self.first_token:
            yield f"{self.first_token}_bucket"

    def read(self, page: Exposition, at_seconds: float) -> EngineSample:
        """Read a page of this engine's."""
        samples = page.samples
        return EngineSample(
            at_seconds=at_seconds,
            engine=self.engine,
            waiting=_first(self.waiting, samples),
            running=_first(self.running, samples),
            running_limit=_first(self.running_limit, samples),
            kv_cache_ratio=_first(self.kv_cache_ratio, samples),
            requests_total=_first(self.requests_total, samples),
            tokens_total=_first(self.tokens_total, samples),
            queue_wait_seconds_total=_first(self.queue_wait_seconds_total, samples),
            queue_waits_total=_first(self.queue_waits_total, samples),
            first_token=_histogram(self.first_token, samples) if self.first_token else None,
        )


def _first(sources: Iterable[SeriesSource], samples: Sequence[SeriesSample]) -> float | None:
    return next((value for it in sources if (value := it.read(samples)) is not None), None)


def _histogram(name: str, samples: Sequence[SeriesSample]) -> Histogram | None:
    """Add up the buckets of every series; None where there are none, or where they do not fit together."""
    counts: dict[float, float] = {}
    series: set[frozenset[tuple[str, str]]] = set()
    buckets = [it for it in samples if it.name == f"{name}_bucket"]
    for it in buckets:
        bound = _bound(it.labels.get("le", ""))
        if bound is None:
            return None
        series.add(frozenset((key, value) for key, value in it.labels.items() if key != "le"))
        counts[bound] = counts.get(bound, 0.0) + it.value
    # Where ranks have different bounds, what they add up to is no histogram.
    if math.inf not in counts or len(buckets) != len(counts) * len(series) or not all(map(is_known, counts.values())):
        return None
    bounds = tuple(sorted(counts))
    return Histogram(bounds, tuple(counts[bound] for bound in bounds))


@functools.lru_cache(maxsize=1024)
def _bound(text: str) -> float | None:
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if math.isnan(bound) else bound
