# SPDX-License-Identifier: Apache-2.0
"""The readings of one page by the positions of its series: they need only the values.

Law: a reading is the sum of the engine's own series, or unknown. No series stands in for another reading.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from keda_gpu_scaler.core.types import EngineSample, Histogram
from keda_gpu_scaler.engines.exposition import is_known
from keda_gpu_scaler.engines.series_text import series_labels
from keda_gpu_scaler.engines.steps import Steps

LARGEST_RATIO = 1.5
"""A share of the KV cache above this number is in per cent. A full cache may be a little above 1."""
MAX_BUCKETS = 128
"""A histogram with more is not read, because each sample of a history has all of its counts. vLLM's have 20."""
_SERIES_PER_STEP = 200
Made = TypeVar("Made")

NumberedSeries = tuple[int, bytes]
"""The position of a series on its page, and its ``SeriesText.identity``."""
SeriesByName = Mapping[str, Sequence[NumberedSeries]]
"""The series of a page by their name."""


def in_steps(series: Sequence[NumberedSeries], make: Callable[[NumberedSeries], Made | None]) -> Steps[list[Made]]:
    """Make something of each series, without those of which None is made."""
    made: list[Made] = []
    for start in range(0, len(series), _SERIES_PER_STEP):
        made += [it for it in map(make, series[start : start + _SERIES_PER_STEP]) if it is not None]
        if start:
            yield
    return made


@dataclass(frozen=True, slots=True)
class BoundSource:
    """A source as it is read from one page, by the positions of its series.

    ``originals`` has for each series a number that its copies have too, where copies are possible. ``is_largest``
    says that the largest value counts, and not the sum. A sum of several sources has ``parts`` instead. With
    ``is_limit`` a value that is not above 0 says that there is no limit. With ``of`` the reading is divided by that
    limit. Without positions and parts the reading is 0.
    """

    positions: tuple[int, ...]
    factor: float = 1.0
    originals: tuple[int, ...] = ()
    parts: tuple["BoundSource", ...] = ()
    is_largest: bool = False
    is_limit: bool = False
    of: "BoundSource | None" = None

    def read(self, values: Sequence[float]) -> float | None:
        """Return the reading; None where the value of a series is unknown.

        Counts and shares are never negative. A gauge below 0 is the result of a race in its exporter, or says that
        there is nothing, and counts as 0.
        """
        if self.of is not None:
            used, limit = self._read_own(values), self.of.read(values)
            return _share(used, limit) if used is not None and limit is not None else None
        return self._read_own(values)

    def _read_own(self, values: Sequence[float]) -> float | None:
        if self.parts:
            read = [part.read(values) for part in self.parts]
            return added_up([math.nan if part is None else part for part in read])
        if not self.positions:
            return 0.0
        if len(self.positions) == 1:
            value = values[self.positions[0]]
            if not is_known(value) or (self.is_limit and value <= 0):
                return None
            return self.factor * max(0.0, value)
        return self._read_several([values[position] for position in self.positions])

    def _read_several(self, values: list[float]) -> float | None:
        if not all(map(is_known, values)) or (self.is_limit and min(values) <= 0):
            return None
        if self.is_largest:
            is_ambiguous = bool(self.originals) and len(set(zip(self.originals, values, strict=True))) > len(
                set(self.originals)
            )
            return None if is_ambiguous else self.factor * max(0.0, *values)
        if self.originals:
            largest: dict[int, float] = {}
            for original, value in zip(self.originals, values, strict=True):
                largest[original] = max(value, largest.get(original, value))
            values = list(largest.values())
        total = added_up(values)
        if total is not None and min(values) < 0:
            total = added_up([max(0.0, value) for value in values])
        return None if total is None else self.factor * total

    def known_part(self, values: Sequence[float]) -> float | None:
        """Return what the reading is at least, by the series whose values are known.

        An unknown value counts as 0. Of copies of which only one is current, the least counts. Without its limit, a
        share has no known part.
        """
        if self.of is None:
            return self._known_part(values)
        limit = self.of.read(values)
        return (_share(self._known_part(values), limit) or 0.0) if limit is not None else None

    def _known_part(self, values: Sequence[float]) -> float:
        if self.parts:  # shares are no parts of a sum
            return added_up([part._known_part(values) for part in self.parts]) or 0.0
        known = [max(0.0, it) if is_known(it := values[position]) else 0.0 for position in self.positions]
        if self.originals:
            copies: dict[int, list[float]] = {}
            for original, value in zip(self.originals, known, strict=True):
                copies.setdefault(original, []).append(value)
            known = [min(group) if self.is_largest else max(group) for group in copies.values()]
        return self.factor * ((max(known, default=0.0) if self.is_largest else added_up(known)) or 0.0)


def _share(used: float, limit: float) -> float | None:
    share = used / limit
    return share if is_known(share) else None


def added_up(values: Sequence[float]) -> float | None:
    """Return the sum; None where there is no value, a value is unknown, or the sum is too large for a float."""
    if not values or not all(map(is_known, values)):
        return None
    try:
        return math.fsum(values)
    except OverflowError:
        return None


@dataclass(frozen=True, slots=True)
class BoundHistogram:
    """A histogram as it is read from one page: for each bound, the positions of its buckets."""

    bounds_seconds: tuple[float, ...]
    positions: tuple[tuple[int, ...], ...]
    is_one_series: bool

    def read(self, values: Sequence[float]) -> Histogram | None:
        """Add up the buckets of every series; None where a value is unknown."""
        if self.is_one_series:
            counts = tuple([values[it] for (it,) in self.positions])
        else:
            counts = tuple([sum([values[it] for it in positions]) for positions in self.positions])
        return Histogram(self.bounds_seconds, counts) if all(map(is_known, counts)) else None


def bind_histogram(name: str, series: SeriesByName) -> Steps[BoundHistogram | None]:
    """Find the buckets of a histogram; None where there is none, or too many, or the bounds of its series differ."""
    by_bound: dict[float, list[int]] = {}
    owners: set[frozenset[tuple[str, str]]] = set()
    previous: dict[str, str] = {}
    buckets = series.get(name, ())
    for number, (position, identity) in enumerate(buckets):
        if number % _SERIES_PER_STEP == _SERIES_PER_STEP - 1:
            yield
        labels = series_labels(identity)
        bound = _bound(labels.get("le", ""))
        if bound is None or (len(by_bound) == MAX_BUCKETS and bound not in by_bound):
            return None
        owner = {**labels, "le": ""}
        if owner != previous:  # the buckets of a series usually follow one another
            owners.add(frozenset(owner.items()))
            previous = owner
        by_bound.setdefault(bound, []).append(position)
    # If the ranks have different bounds, the sum of their buckets is not a histogram.
    if math.inf not in by_bound or len(buckets) != len(by_bound) * len(owners):
        return None
    bounds = _shared(tuple(sorted(by_bound)))
    return BoundHistogram(bounds, tuple(tuple(by_bound[it]) for it in bounds), is_one_series=len(owners) == 1)


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


@dataclass(frozen=True, slots=True)
class BoundMetricMap:
    """The readings of one engine and, for each of them, the series of one page that it is taken from.

    ``sources``, ``totals`` and ``histograms`` are by the names of the readings. ``served`` has, for each series that
    counts requests of a model, its position and the model, where the models that served requests are counted.
    ``has_model`` is false where models are selected and the page has no series of them.
    """

    engine: str
    sources: Mapping[str, tuple[BoundSource, ...]]
    totals: Mapping[str, tuple[int, ...]]
    histograms: Mapping[str, BoundHistogram | None]
    served: tuple[tuple[int, str], ...] = ()
    has_model: bool = True

    def read(self, values: Sequence[float], at_seconds: float) -> EngineSample:
        """Read the page.

        Args:
            values: the values of its series.
            at_seconds: when the page arrived, on the scraper's clock.
        """
        readings: dict[str, Any] = {name: _first(sources, values) for name, sources in self.sources.items()}
        for name, positions in self.totals.items():
            readings[name] = added_up([values[position] for position in positions])
        for name, histogram in self.histograms.items():
            readings[name] = histogram.read(values) if histogram is not None else None
        known_parts = self._known_parts(readings, values)
        for kv_cache in (readings, known_parts):
            if (kv_cache.get("kv_cache_ratio") or 0.0) > LARGEST_RATIO:
                kv_cache["kv_cache_ratio"] /= 100
                readings["is_kv_percent"] = True
        if known_parts:
            readings["known_parts"] = known_parts
        if self.served:
            models = {model for position, model in self.served if values[position] > 0}
            readings["summed_models"] = len(models) if len(models) > 1 else 0
        return EngineSample(at_seconds, self.engine, **readings, has_model=self.has_model)

    def _known_parts(self, readings: Mapping[str, Any], values: Sequence[float]) -> dict[str, float]:
        """Return the unknown readings that the page has, with the sum of what is known of each.

        A limit that is not known is no limit, and has no known part.
        """
        parts: dict[str, float] = {}
        for name, value in readings.items():
            if value is not None:
                continue
            source = next(iter(self.sources.get(name, ())), None)
            if source is None:
                known = self.totals.get(name) or self.histograms.get(name)
                parts |= {name: 0.0} if known else {}
            elif not source.is_limit and (part := source.known_part(values)) is not None:
                parts[name] = part
        return parts


def _first(sources: Iterable[BoundSource], values: Sequence[float]) -> float | None:
    for source in sources:
        if (value := source.read(values)) is not None:
            return value
    return None


def positions_of(name: str, series: SeriesByName) -> tuple[int, ...]:
    """Return the positions of the series of a name."""
    return tuple(position for position, _ in series.get(name, ()))
