# SPDX-License-Identifier: Apache-2.0
"""Observes the demand of a workload, which exists also without a pod.

Law: demand that is not known neither activates a workload nor lets it scale to zero. A counter with one reading has no
rate.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from keda_gpu_scaler.core.evaluate.engine_load import SHORTEST_SECONDS, missing_scrape_reason
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engine_params import DemandQuery

_DEMAND_GRAIN = 1e-6
"""Demand is added in whole multiples of this, so that a value that comes and goes leaves no rounding error."""


@dataclass(frozen=True, slots=True)
class DemandObservation:
    """What is seen of the demand: its value now, or None.

    ``is_active`` says whether it is above the threshold, or was during the hold; None where nobody can tell.
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
    """Add up what every address of a demand source tells.

    What some of them tell may be enough to wake; only what all of them tell lets sleep.
    """
    if scraped is None or not scraped.pages:
        why = (scraped.failure if scraped else None) or "not scraped yet"
        return DemandObservation(None, None, f"demand at {demand.url} is unknown: {why}")
    values: list[float] = []
    unknown: list[str] = []
    until = math.inf
    courses = [_course(page, demand.selectors, window_seconds) for page in scraped.pages]
    for page, course in zip(scraped.pages, courses, strict=True):
        if not page.is_fresh(now, stale_after_seconds) or page.newest is None:
            unknown.append(f"{page.where}: {missing_scrape_reason(ScrapeResult((page,)), now)}")
            continue
        until = min(until, page.newest.at_seconds + stale_after_seconds)
        newest = course[-1][1]
        if newest is None:
            unknown.append(f"{page.where}: {_no_demand(page, demand.selectors)}")
        else:
            values.append(newest)
    total = math.fsum(values)
    told = f"demand {total:.6g}" + (f" at {len(values)} of {len(scraped.pages)} addresses" if unknown else "")
    if total > demand.threshold:
        return DemandObservation(total, True, f"{told} is above demandThreshold {demand.threshold:g}", until)
    above_at = _last_above(courses, demand.threshold, stale_after_seconds)
    age = max(0.0, now - above_at)
    if age <= demand.hold_seconds:
        held = f"demand was above demandThreshold {demand.threshold:g} {age:.0f} s ago"
        until = min(until, above_at + demand.hold_seconds)
        value = None if unknown else total
        return DemandObservation(value, True, f"{held} (demandHoldSeconds {demand.hold_seconds:g})", until)
    if unknown:
        return DemandObservation(None, None, f"demand at {demand.url} is unknown: {unknown[0]}", until)
    return DemandObservation(total, False, f"{told} is not above demandThreshold {demand.threshold:g}", until)


def _no_demand(page: TargetHistory, selectors: Sequence[SeriesSelector]) -> str:
    if page.newest is not None and any(page.newest.selected.get(it.text) for it in selectors):
        return "its count was read once so far, and grows between two readings"
    return "tells no series " + " or ".join(it.text for it in selectors)


_Course = list[tuple[float, float | None]]
"""When demand was looked at, and what it was then, None where it was not told."""


def _course(page: TargetHistory, selectors: Sequence[SeriesSelector], window_seconds: float) -> _Course:
    """What a page's demand was at each of its readings: a gauge as it is, so that the first request wakes."""
    counting = _Counting(window_seconds)
    texts = [it.text for it in selectors]
    course: _Course = []
    for readings in page.readings:
        told = readings.selected
        text, found = next(((it, found) for it in texts if (found := told.get(it))), ("", None))
        if found is not None and not found.is_counter:
            value: float | None = max(0.0, found.value)
        elif not told.keys().isdisjoint(texts):
            value = counting.rate(readings.at_seconds, text, found.value if found else None)
        else:
            value = None  # while nobody asked for it, it was not read: that is no sign that it was not there
        course.append((readings.at_seconds, value))
    return course


class _Counting:
    """A counter of demand, reading after reading: its rate over the window that ends there.

    It counts from 0 where it fell and where it was not told before, so that the first request of all is heard.
    """

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._counted = 0.0
        self._last: dict[str, float] = {}
        self._before: deque[tuple[float, float]] = deque()

    def rate(self, at_seconds: float, text: str, count: float | None) -> float | None:
        """Hear one reading; return the rate, None where the counter is not there, or was not looked for before."""
        before = self._before
        if count is not None:
            last = self._last.get(text, 0.0 if before else count)
            self._counted += count - last if count >= last else count
            self._last[text] = count
        while len(before) > 1 and before[1][0] <= at_seconds - self._window_seconds:
            before.popleft()
        rate = None
        if before and count is not None:
            since, counted = before[0]
            rate = (self._counted - counted) / max(at_seconds - since, SHORTEST_SECONDS)
        before.append((at_seconds, self._counted))
        return rate


def _last_above(courses: Sequence[_Course], threshold: float, stale_after_seconds: float) -> float:
    """When all addresses together last told more than the threshold; long ago where they never did.

    What an address told counts until it tells something else, or until it would be stale.
    """
    changes: list[tuple[float, int, int]] = []
    for number, course in enumerate(courses):
        before = 0
        for (at_seconds, value), (later_at, _) in pairwise([*course, (math.inf, None)]):
            grains = round(value / _DEMAND_GRAIN) if value else 0
            if grains or before:
                changes.append((at_seconds, number, grains))
            if grains and later_at - at_seconds > stale_after_seconds:
                changes.append((at_seconds + stale_after_seconds, number, 0))
            before = grains
    told, total, above_at = [0] * len(courses), 0, -math.inf
    for at_seconds, number, grains in sorted(changes):
        total += grains - told[number]  # whole numbers: what comes and goes leaves nothing behind
        told[number] = grains
        if total > round(threshold / _DEMAND_GRAIN):
            above_at = at_seconds
    return above_at
