# SPDX-License-Identifier: Apache-2.0
"""The description of an engine's series: the names from which each reading is taken.

Law: a reading is the sum of the engine's own series, or unknown. No series stands in for another reading.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum

from keda_gpu_scaler.core.selectors import SeriesSelector, parse_series
from keda_gpu_scaler.engines.bound_readings import (
    BoundMetricMap,
    BoundSource,
    NumberedSeries,
    SeriesByName,
    bind_histogram,
    in_steps,
    positions_of,
)
from keda_gpu_scaler.engines.series_text import series_labels
from keda_gpu_scaler.engines.steps import Steps


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
    where the page has it. A source or part is not read where the page has the series ``unless``. A part is read only
    where the page has the series ``beside``, if it names one. With ``is_limit`` a value that is not above 0 says that
    there is no limit. With ``of`` the reading is divided by that limit. With ``appears_with_use`` a series exists from
    its first request on: where the page has other series of the same name, and none that is selected, the reading is 0.
    """

    selector: SeriesSelector
    factor: float = 1.0
    combine: Combine = Combine.SUM
    copied_by: frozenset[str] = frozenset()
    stale_by: frozenset[str] = frozenset()
    plus: tuple["SeriesSource", ...] = ()
    unless: str = ""
    beside: str = ""
    is_limit: bool = False
    of: "SeriesSource | None" = None
    appears_with_use: bool = False

    def bind(self, series: SeriesByName) -> Steps[BoundSource | None]:
        """Find the series of a page that the source is read from; None where the source is not read from this page."""
        if self.unless in series:
            return None
        if self.of is not None:
            used, limit = (yield from self._bind_own(series)), (yield from self.of.bind(series))
            return replace(used, of=limit) if used is not None and limit is not None else None
        if not self.plus:
            return (yield from self._bind_own(series))
        parts: list[BoundSource | None] = []
        for part in (self, *self.plus):
            if part._is_part_of(series):
                parts += ((yield from part._bind_own(series)),)
        known = tuple(part for part in parts if part is not None)
        return BoundSource((), parts=known) if known and len(known) == len(parts) else None

    def _bind_own(self, series: SeriesByName) -> Steps[BoundSource | None]:
        selected = series.get(self.selector.name, ())
        if self.selector.requirements:
            selected = yield from in_steps(selected, lambda it: it if self._matches(it) else None)
        labels = self.copied_by if self.combine is Combine.SUM else self.stale_by
        originals: list[int] = []
        if labels and len(selected) > 1:
            numbers: dict[Hashable, int] = {}
            originals = yield from in_steps(
                selected, lambda it: numbers.setdefault(_without(series_labels(it[1]), labels), len(numbers))
            )
        positions = tuple(position for position, _ in selected)
        is_largest = self.combine is Combine.FULLEST
        if not positions and not (self.appears_with_use and self.selector.name in series):
            return None
        return BoundSource(positions, self.factor, tuple(originals), is_largest=is_largest, is_limit=self.is_limit)

    def _is_part_of(self, series: SeriesByName) -> bool:
        has_other = not self.beside or self.beside in series
        return has_other and self.selector.name in series and self.unless not in series

    def _matches(self, series: NumberedSeries) -> bool:
        return self.selector.matches(self.selector.name, series_labels(series[1]))


def _without(labels: Mapping[str, str], names: frozenset[str]) -> Hashable:
    return frozenset((name, value) for name, value in labels.items() if name not in names)


def source(
    text: str,
    factor: float = 1.0,
    *,
    copied_by: frozenset[str] = frozenset(),
    plus: tuple[SeriesSource, ...] = (),
    unless: str = "",
    beside: str = "",
    appears_with_use: bool = False,
) -> SeriesSource:
    """Describe a source by its selector. Its series are added up; of copies, one counts."""
    return SeriesSource(
        parse_series(text),
        factor,
        copied_by=copied_by,
        plus=plus,
        unless=unless,
        beside=beside,
        appears_with_use=appears_with_use,
    )


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

    def bind(self, series: SeriesByName, engine: str) -> Steps[BoundMetricMap]:
        """Find the series of a page of this engine from which each reading is taken.

        Args:
            series: the series of the page.
            engine: the engine's name.
        """
        sources: dict[str, tuple[BoundSource, ...]] = {}
        for field in fields(self):
            described = getattr(self, field.name)
            found: list[BoundSource | None] = []
            for source in described if isinstance(described, tuple) else ():
                found += ((yield from source.bind(series)),) if isinstance(source, SeriesSource) else ()
            if bound := tuple(it for it in found if it is not None):
                sources[field.name] = bound
        yield
        times = next((times for times in self.token_time if times.seconds in series), _NO_OBSERVATIONS)
        first_token = yield from bind_histogram(f"{self.first_token}_bucket", series)
        token_time = yield from bind_histogram(times.buckets, series)
        totals = {
            "first_tokens_total": positions_of(f"{self.first_token}_count", series),
            "token_time_seconds_total": positions_of(times.seconds, series),
            "token_times_total": positions_of(times.count, series),
        }
        return BoundMetricMap(engine, sources, totals, {"first_token": first_token, "token_time": token_time})
