# SPDX-License-Identifier: Apache-2.0
"""Observes the demand of a workload, which exists also without a pod.

Law: demand that is not known neither activates a workload nor lets it scale to zero. The known part of a demand may
activate a workload, and does not let it scale to zero. A counter with one reading has no rate. A page of the source
without the series says that there is no demand, because many sources delete the series of what is idle. A page without
any family of the source says nothing.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from keda_gpu_scaler.core.evaluate.engine_load import missing_scrape_reason
from keda_gpu_scaler.core.evaluate.sample_window import SHORTEST_SECONDS
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.demand_params import DemandQuery
from keda_gpu_scaler.core.trigger.demand_presets import counts_its_scrape
from keda_gpu_scaler.core.types import EngineSample, Series

_DEMAND_GRAIN = 1e-6
"""Demand is added in whole multiples of this number, so that adding and subtracting leaves no rounding error."""


@dataclass(frozen=True, slots=True)
class DemandObservation:
    """The observed demand: its value now, or None where that is not known.

    ``is_active`` says whether the demand is above the threshold, or was above it during the hold; None where that is
    not known. ``expires_at_seconds`` is when the observation becomes stale.
    """

    value: float | None
    is_active: bool | None
    sentence: str
    expires_at_seconds: float = math.inf


def observe_demand(
    demand: DemandQuery,
    scraped: ScrapeResult | None,
    *,
    window_seconds: float,
    stale_after_seconds: float,
    now: float,
) -> DemandObservation:
    """Add up the demand of every address of a source.

    The demand of some addresses, or a part of it, may be enough to activate the workload. The whole demand of all
    addresses is needed to let it scale to zero.

    Args:
        demand: the source of demand.
        scraped: the result of its endpoint; None while it was not scraped yet.
        window_seconds: the rate of a counter is over this window.
        stale_after_seconds: an older page is not used.
        now: monotonic seconds on the scraper's clock.
    """
    if scraped is None or not scraped.targets:
        why = (scraped.failure if scraped else None) or "not scraped yet"
        return DemandObservation(None, None, f"demand at {demand.url} is unknown: {why}")
    timelines = [_timeline(page, demand, window_seconds) for page in scraped.targets]
    values: list[float] = []
    unknown: list[str] = []
    expires = math.inf
    for page, timeline in zip(scraped.targets, timelines, strict=True):
        if not page.is_fresh(now, stale_after_seconds) or page.newest is None:
            unknown.append(f"{page.url}: {missing_scrape_reason(ScrapeResult((page,)), now)}")
            continue
        expires = min(expires, page.newest.at_seconds + stale_after_seconds)
        read = timeline[-1]
        if not read.is_complete:
            unknown.append(f"{page.url}: {_no_value_reason(page, demand)}")
        if read.value is not None:
            values.append(read.value)
    last_above_at = _last_above(timelines, demand.threshold, stale_after_seconds)
    return _decide(demand, values, unknown, last_above_at, expires, now)


def _decide(
    demand: DemandQuery,
    values: Sequence[float],
    unknown: Sequence[str],
    last_above_at: float,
    expires: float,
    now: float,
) -> DemandObservation:
    total = math.fsum(values)
    described = f"demand at least {total:.6g} ({unknown[0]})" if unknown else f"demand {total:.6g}"
    if total > demand.threshold:
        return DemandObservation(total, True, f"{described} is above demandThreshold {demand.threshold:g}", expires)
    age = max(0.0, now - last_above_at)
    if age <= demand.hold_seconds:
        sentence = f"demand was above demandThreshold {demand.threshold:g} {age:.0f} s ago"
        sentence += f" (demandHoldSeconds {demand.hold_seconds:g})"
        expires = min(expires, last_above_at + demand.hold_seconds)
        return DemandObservation(None if unknown else total, True, sentence, expires)
    if unknown:
        return DemandObservation(None, None, f"demand at {demand.url} is unknown: {unknown[0]}", expires)
    return DemandObservation(total, False, f"{described} is not above demandThreshold {demand.threshold:g}", expires)


def _no_value_reason(page: TargetHistory, demand: DemandQuery) -> str:
    newest = page.newest
    if newest is not None:
        series = {selector.text: newest.selected.get(selector.text) for selector in demand.every_selector}
        if partial := [text for text, it in series.items() if it is not None and it.is_partial]:
            return f"series {partial[0]} is not known: a value of it is not a number"
        if any(it is not None and it.is_counter and not it.is_absent for it in series.values()):
            return "its counter has one reading so far, and a rate needs two"
        if unread := [it for one in demand.selectors if (it := newest.unread.get(one.text))]:
            return unread[0]
    return "exports no series " + " or ".join(selector.text for selector in demand.selectors)


class _ReadDemand(NamedTuple):
    """The demand that one page showed: what is known of it, None where nothing is, and whether this is the whole."""

    at_seconds: float
    value: float | None
    is_complete: bool


_Timeline = list[_ReadDemand]


def _timeline(page: TargetHistory, demand: DemandQuery, window_seconds: float) -> _Timeline:
    """Return the demand of a page at each of its readings."""
    main = _SelectedDemand(demand.selectors, window_seconds, is_always_exported=demand.is_always_exported)
    plus = [
        _SelectedDemand((selector,), window_seconds, is_always_exported=demand.is_always_exported)
        for selector in demand.plus
    ]
    timeline: _Timeline = []
    for reading in page.samples:
        values = [one.add(reading) for one in (main, *plus)]
        parts = [main, *plus] if main.is_first else [main]
        known = [value for value in values[: len(parts)] if value is not None]
        is_complete = len(known) == len(parts) and all(part.is_complete for part in parts)
        timeline.append(_ReadDemand(reading.at_seconds, math.fsum(known) if known else None, is_complete))
    return timeline


class _SelectedDemand:
    """The demand that alternative selectors select, reading by reading.

    A gauge is not averaged over the window, so that the first request activates the workload.

    ``is_first`` says that the first alternative counted in the last reading, ``is_complete`` that the demand that was
    returned for it is the whole demand.
    """

    def __init__(self, selectors: Sequence[SeriesSelector], window_seconds: float, *, is_always_exported: bool) -> None:
        self._names = {selector.text: selector.name for selector in selectors}
        self._texts = [*self._names]
        self._counter = _CounterRate(window_seconds)
        self._is_always_exported = is_always_exported
        self.is_first, self.is_complete = False, True

    def add(self, reading: EngineSample) -> float | None:
        """Return the demand in the next reading of the page, None where it is not known."""
        selected, counter = reading.selected, self._counter
        text, series = _first_series(selected, self._texts)
        self.is_first = text == self._texts[0]
        self.is_complete = series is None or not series.is_partial
        if series is not None and series.is_absent and self._is_always_exported:
            return None
        if series is not None and not series.is_counter:
            value = max(0.0, series.value if series.above_zero is None else series.above_zero)
            return max(0.0, value - 1) if counts_its_scrape(self._names[text]) else value
        if series is not None and series.is_absent:
            return counter.add(reading.at_seconds, text, counter.last(text))
        if not selected.keys().isdisjoint(self._texts):
            count = series.value if series is not None and self.is_complete else None
            return counter.add(reading.at_seconds, text, count)
        return None  # this scrape did not select the series: it does not say that the series was missing


def _first_series(selected: Mapping[str, Series | None], texts: Sequence[str]) -> tuple[str, Series | None]:
    """Return the first series that the page has, or the first of all if each of them is absent."""
    found = [(text, series) for text in texts if (series := selected.get(text)) is not None]
    for text, series in found:
        if not series.is_absent:
            return text, series
    return found[0] if found and len(found) == len(texts) else ("", None)


class _CounterRate:
    """The rate of a demand counter over the window that ends at each reading.

    A counter that fell was reset, and counts from 0. A counter that was missing before also counts from 0, so that its
    very first request is counted.
    """

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._total = 0.0
        self._last_counts: dict[str, float] = {}
        self._earlier: deque[tuple[float, float]] = deque()

    def last(self, text: str) -> float:
        """Return the last count of a series, 0 where it was never there."""
        return self._last_counts.get(text, 0.0)

    def add(self, at_seconds: float, text: str, count: float | None) -> float | None:
        """Add one reading; return the rate, None where the counter is missing or has no earlier reading."""
        earlier = self._earlier
        if count is not None:
            last = self._last_counts.get(text, 0.0 if earlier else count)
            self._total += count - last if count >= last else count
            self._last_counts[text] = count
        while len(earlier) > 1 and earlier[1][0] <= at_seconds - self._window_seconds:
            earlier.popleft()
        rate = None
        if earlier and count is not None:
            since, total = earlier[0]
            rate = (self._total - total) / max(at_seconds - since, SHORTEST_SECONDS)
        earlier.append((at_seconds, self._total))
        return rate


def _last_above(timelines: Sequence[_Timeline], threshold: float, stale_after_seconds: float) -> float:
    """Return when the demand of all addresses together was last above the threshold; -inf where it never was.

    The demand of an address counts until its next reading, or until it is stale.
    """
    changes: list[tuple[float, int, int]] = []
    for number, timeline in enumerate(timelines):
        before = 0
        for (at_seconds, value, _), (next_at, _, _) in pairwise([*timeline, _ReadDemand(math.inf, None, False)]):
            grains = round(value / _DEMAND_GRAIN) if value else 0
            if grains or before:
                changes.append((at_seconds, number, grains))
            if grains and next_at - at_seconds > stale_after_seconds:
                changes.append((at_seconds + stale_after_seconds, number, 0))
            before = grains
    current, total, above_at = [0] * len(timelines), 0, -math.inf
    for at_seconds, number, grains in sorted(changes):
        total += grains - current[number]
        current[number] = grains
        if total > round(threshold / _DEMAND_GRAIN):
            above_at = at_seconds
    return above_at
