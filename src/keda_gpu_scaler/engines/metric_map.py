# SPDX-License-Identifier: Apache-2.0
"""The description of an engine's series: the names from which each reading is taken.

Law: a reading is the sum of the engine's own series, or unknown. No series stands in for another reading.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from enum import Enum

from keda_gpu_scaler.core.selectors import SeriesSelector, parse_series
from keda_gpu_scaler.core.types import EngineSample, Histogram
from keda_gpu_scaler.engines.exposition import SamplesByName, SeriesSample, is_known

LARGEST_RATIO = 1.5
"""A share of the KV cache above this number is in per cent. A full cache may be a little above 1."""


class Combine(Enum):
    """How several series of one name (of models, ranks or versions) become one number."""

    SUM = "sum"
    FULLEST = "fullest"
    """The largest, for shares. A sum of shares is not a share, and a mean would hide the rank that is full."""


@dataclass(frozen=True, slots=True)
class SeriesSource:
    """The series that a reading is taken from: a selector, and a factor into the reading's unit.

    ``copied_by`` are labels by which series differ that all report the same quantity. Of such copies, only the
    largest counts. ``stale_by`` are labels by which series differ of which only one is current, and it is not known
    which one; if their values differ, the reading is unknown. ``plus`` are further parts of the sum; each part is added
    where the page has it. The source is not read where the page has the series ``unless``. With ``is_limit``
    a value that is not above 0 says that there is no limit. With ``of`` the reading is divided by that limit.
    """

    selector: SeriesSelector
    factor: float = 1.0
    combine: Combine = Combine.SUM
    copied_by: frozenset[str] = frozenset()
    stale_by: frozenset[str] = frozenset()
    plus: tuple["SeriesSource", ...] = ()
    unless: str = ""
    is_limit: bool = False
    of: "SeriesSource | None" = None

    def read(self, samples: SamplesByName) -> float | None:
        """Return the reading; None where no series matches, or where the value of one is unknown.

        Counts are never negative. A gauge below 0 is the result of a race in its exporter, and counts as 0.
        """
        if self.unless in samples:
            return None
        if self.of is not None:
            used, limit = self._read_own(samples), self.of.read(samples)
            return used / limit if used is not None and limit is not None else None
        if not self.plus:
            return self._read_own(samples)
        parts = [part._read_own(samples) for part in (self, *self.plus) if part.selector.name in samples]
        return added_up([math.nan if part is None else part for part in parts])

    def _read_own(self, samples: SamplesByName) -> float | None:
        selected = samples.get(self.selector.name, ())
        if self.selector.requirements:
            selected = [sample for sample in selected if self.selector.matches(sample.name, sample.labels)]
        if self.is_limit and not all(sample.value > 0 for sample in selected):
            return None
        if self.stale_by and len(selected) > 1 and self._is_ambiguous(selected):
            return None
        if self.combine is Combine.FULLEST:
            values = [sample.value for sample in selected]
            return self.factor * max(values) if values and all(map(is_known, values)) else None
        values = self._without_copies(selected) if self.copied_by else [sample.value for sample in selected]
        total = added_up(values)
        if total is not None and min(values) < 0:
            total = added_up([max(0.0, value) for value in values])
        return None if total is None else self.factor * total

    def _is_ambiguous(self, samples: Iterable[SeriesSample]) -> bool:
        values: dict[frozenset[tuple[str, str]], float] = {}
        for sample in samples:
            original = frozenset((key, value) for key, value in sample.labels.items() if key not in self.stale_by)
            if values.setdefault(original, sample.value) != sample.value:
                return True
        return False

    def _without_copies(self, samples: Iterable[SeriesSample]) -> list[float]:
        largest: dict[frozenset[tuple[str, str]], float] = {}
        for sample in samples:
            if not is_known(sample.value):
                return [sample.value]
            original = frozenset((key, value) for key, value in sample.labels.items() if key not in self.copied_by)
            largest[original] = max(sample.value, largest.get(original, sample.value))
        return list(largest.values())


def added_up(values: Sequence[float]) -> float | None:
    """Return the sum; None where there is no value, a value is unknown, or the sum is too large for a float."""
    if not values or not all(map(is_known, values)):
        return None
    try:
        return math.fsum(values)
    except OverflowError:
        return None


def source(
    text: str,
    factor: float = 1.0,
    *,
    copied_by: frozenset[str] = frozenset(),
    plus: tuple[SeriesSource, ...] = (),
    unless: str = "",
) -> SeriesSource:
    """Describe a source by its selector. Its series are added up; of copies, one counts."""
    return SeriesSource(parse_series(text), factor, copied_by=copied_by, plus=plus, unless=unless)


def limit(text: str) -> SeriesSource:
    """Describe a source whose series are limits; together they are none if one of them is none."""
    return SeriesSource(parse_series(text), is_limit=True)


def share_of(text: str, limit_text: str) -> SeriesSource:
    """Describe a share as a source and its limit, each of which has one series."""
    return SeriesSource(parse_series(text), of=limit(limit_text))


def share(text: str, *, stale_by: frozenset[str] = frozenset()) -> SeriesSource:
    """Describe a source whose series are shares, of which the largest counts."""
    return SeriesSource(parse_series(text), combine=Combine.FULLEST, stale_by=stale_by)


@dataclass(frozen=True, slots=True)
class Observations:
    """The names of the series that add up observed times, that count them, and, if there are any, of their buckets."""

    seconds: str
    count: str
    buckets: str = ""


_NO_OBSERVATIONS = Observations("", "")


def histogram(name: str) -> Observations:
    """Describe the observations of a histogram by its name. Their unit is the second."""
    return Observations(f"{name}_sum", f"{name}_count", f"{name}_bucket")


@dataclass(frozen=True, slots=True)
class MetricMap:
    """The series that one engine exports. If a reading has several sources, the first with a value counts.

    ``identifying_series`` are series names; a page with one of them is recognised as a page of this engine.
    ``families`` are further names of its own. A page that has or declares one of them, and no series that identifies
    another engine, is a page of this engine that does not export its queue yet, or is not configured to.
    ``first_token`` is the name of a histogram. ``token_time`` has the times between two tokens of a request, or, of an
    engine that reports no more, their mean for each request; the first whose sum the page has is read. The other
    fields are named as in ``core.types.EngineSample``.
    """

    identifying_series: tuple[str, ...]
    families: tuple[str, ...] = ()
    waiting: tuple[SeriesSource, ...] = ()
    running: tuple[SeriesSource, ...] = ()
    running_limit: tuple[SeriesSource, ...] = ()
    kv_cache_ratio: tuple[SeriesSource, ...] = ()
    requests_total: tuple[SeriesSource, ...] = ()
    tokens_total: tuple[SeriesSource, ...] = ()
    queue_wait_seconds_total: tuple[SeriesSource, ...] = ()
    queue_waits_total: tuple[SeriesSource, ...] = ()
    first_token: str = ""
    prompt_tokens_total: tuple[SeriesSource, ...] = ()
    token_time: tuple[Observations, ...] = ()
    service_seconds_total: tuple[SeriesSource, ...] = ()
    services_total: tuple[SeriesSource, ...] = ()
    executions_total: tuple[SeriesSource, ...] = ()
    deferred: tuple[SeriesSource, ...] = ()

    def names(self) -> Iterator[str]:
        """Yield the name of every series that is read."""
        yield from self.identifying_series
        yield from self.families
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                for source in value:
                    if isinstance(source, SeriesSource):
                        yield from (
                            it.selector.name for it in (source, *source.plus, *((source.of,) if source.of else ()))
                        )
        if self.first_token:
            yield from (f"{self.first_token}_bucket", f"{self.first_token}_count")
        for times in self.token_time:
            yield from (name for name in (times.seconds, times.count, times.buckets) if name)

    def read(self, samples: SamplesByName, engine: str, at_seconds: float) -> EngineSample:
        """Read a page of this engine.

        Args:
            samples: the samples of the page.
            engine: the engine's name.
            at_seconds: when the page arrived, on the scraper's clock.
        """
        kv_cache_ratio = _first(self.kv_cache_ratio, samples)
        is_kv_percent = kv_cache_ratio is not None and kv_cache_ratio > LARGEST_RATIO
        if kv_cache_ratio is not None and is_kv_percent:
            kv_cache_ratio /= 100
        token_time = next((times for times in self.token_time if times.seconds in samples), _NO_OBSERVATIONS)
        return EngineSample(
            at_seconds=at_seconds,
            engine=engine,
            waiting=_first(self.waiting, samples),
            running=_first(self.running, samples),
            running_limit=_first(self.running_limit, samples),
            kv_cache_ratio=kv_cache_ratio,
            requests_total=_first(self.requests_total, samples),
            tokens_total=_first(self.tokens_total, samples),
            queue_wait_seconds_total=_first(self.queue_wait_seconds_total, samples),
            queue_waits_total=_first(self.queue_waits_total, samples),
            first_token=_histogram(f"{self.first_token}_bucket", samples),
            first_tokens_total=_total(f"{self.first_token}_count", samples),
            prompt_tokens_total=_first(self.prompt_tokens_total, samples),
            token_time=_histogram(token_time.buckets, samples),
            token_time_seconds_total=_total(token_time.seconds, samples),
            token_times_total=_total(token_time.count, samples),
            service_seconds_total=_first(self.service_seconds_total, samples),
            services_total=_first(self.services_total, samples),
            executions_total=_first(self.executions_total, samples),
            deferred=_first(self.deferred, samples),
            is_kv_percent=is_kv_percent,
        )


def _first(sources: Iterable[SeriesSource], samples: SamplesByName) -> float | None:
    return next((value for source in sources if (value := source.read(samples)) is not None), None)


def _total(name: str, samples: SamplesByName) -> float | None:
    return added_up([sample.value for sample in samples.get(name, ())])


def _histogram(name: str, samples: SamplesByName) -> Histogram | None:
    """Add up the buckets of every series; None where there is no bucket, or where the bounds of the series differ."""
    counts: dict[float, float] = {}
    series: set[frozenset[tuple[str, str]]] = set()
    previous: dict[str, str] = {}
    buckets = samples.get(name, ())
    for bucket in buckets:
        bound = _bound(bucket.labels.get("le", ""))
        if bound is None:
            return None
        labels = {**bucket.labels, "le": ""}
        if labels != previous:  # the buckets of a series usually follow one another
            series.add(frozenset(labels.items()))
            previous = labels
        counts[bound] = counts.get(bound, 0.0) + bucket.value
    # If the ranks have different bounds, the sum of their buckets is not a histogram.
    if math.inf not in counts or len(buckets) != len(counts) * len(series) or not all(map(is_known, counts.values())):
        return None
    bounds = _shared(tuple(sorted(counts)))
    return Histogram(bounds, tuple(counts[bound] for bound in bounds))


@functools.lru_cache(maxsize=256)  # the bounds are the same on every page of an engine, and many pages are retained
def _shared(bounds: tuple[float, ...]) -> tuple[float, ...]:
    return bounds


@functools.lru_cache(maxsize=1024)
def _bound(text: str) -> float | None:
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if math.isnan(bound) else bound
