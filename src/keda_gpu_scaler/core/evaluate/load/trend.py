# SPDX-License-Identifier: Apache-2.0
"""Forecasts the load of a workload over the time that a new replica needs to become ready.

Law: the forecast goes only as far as the trend is certain, and it never lowers the load.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.aggregation import mean
from keda_gpu_scaler.core.evaluate.load.span import SPAN_SECONDS, EngineWork
from keda_gpu_scaler.core.evaluate.load.work_share import Reference, work_share
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery

TREND_SECONDS = 120.0
"""The line is drawn through this much history."""
HPA_INTERVAL_SECONDS = 15.0
"""The HPA acts up to one interval after the load was computed."""
MAX_FACTOR = 2.0
_MIN_POINTS = 6


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far the load is forecast, and from which history.

    ``cold_start_seconds`` is the time from the creation of a pod until it is ready, None while none was measured.
    ``removed_at_seconds`` is when a replica was last removed, or was not ready any more: its load moved to the other
    replicas, which is no trend.
    """

    cold_start_seconds: float | None
    removed_at_seconds: float = -math.inf


@dataclass(frozen=True, slots=True)
class LoadForecast:
    """The factor by which the load is expected to grow, at least 1, and a sentence about it."""

    factor: float
    sentence: str


@dataclass(frozen=True, slots=True)
class TrackedWork:
    """The work of one engine with what it is compared with.

    ``ready_at_seconds`` is when its pod became ready, None where that is not known. Before that it carried nothing.
    """

    work: EngineWork
    reference: Reference
    ready_at_seconds: float | None = None


def forecast_load(tracked: Sequence[TrackedWork], query: EngineQuery, horizon: Horizon) -> LoadForecast:
    """Forecast the load of all engines together."""
    if horizon.cold_start_seconds is None:
        return LoadForecast(1.0, "no forecast: no cold start of a pod was measured")
    ahead = horizon.cold_start_seconds + HPA_INTERVAL_SECONDS
    points = _totals(tracked, query, horizon)
    if len(points) < _MIN_POINTS:
        needed = _MIN_POINTS * SPAN_SECONDS
        return LoadForecast(1.0, f"no forecast: it needs {needed:.0f} s of history in which no replica left")
    level, slope = _line(points)
    if slope <= 0 or level <= 0:
        return LoadForecast(1.0, "no forecast: the load does not certainly grow")
    now = points[-1][1]
    expected = level + slope * ahead
    factor = min(MAX_FACTOR, max(1.0, expected / max(now, level)))
    return LoadForecast(
        factor,
        f"forecast: the load grows by {6000 * slope:.3g} % of a replica per minute, and a new replica is ready after "
        f"{horizon.cold_start_seconds:.0f} s: the load counts {factor:.3g} times",
    )


def _totals(tracked: Sequence[TrackedWork], query: EngineQuery, horizon: Horizon) -> list[tuple[float, float]]:
    """Return (seconds before the newest span, replicas) for each step of the history that is known of every engine."""
    curves = [_Curve(one, query) for one in tracked if one.work.spans]
    if not curves:
        return []
    end = max(curve.ends[-1] for curve in curves)
    # The load of a removed replica shows in the others within one span and the HPA's interval.
    begin = max(
        end - TREND_SECONDS,
        horizon.removed_at_seconds + SPAN_SECONDS + HPA_INTERVAL_SECONDS,
        *[curve.known_since for curve in curves],
    )
    steps = int((end - begin) // SPAN_SECONDS)
    points: list[tuple[float, float]] = []
    for number in range(steps + 1):
        shares = [curve.at(end - number * SPAN_SECONDS) for curve in curves]
        known = [share for share in shares if share is not None]
        if len(known) < len(shares):
            break
        points.append((-number * SPAN_SECONDS, math.fsum(known)))
    return points[::-1]


class _Curve:
    """The share of one engine over time. It is computed only where it is asked for."""

    def __init__(self, tracked: TrackedWork, query: EngineQuery) -> None:
        self._tracked = tracked
        self._query = query
        spans = tracked.work.spans
        self.ends = [span.end_seconds for span in spans]
        begin, ready = self.ends[0] - spans[0].seconds, tracked.ready_at_seconds
        was_new = ready is not None and begin - ready <= 2 * SPAN_SECONDS
        self.known_since = -math.inf if was_new else self.ends[0]

    def at(self, seconds: float) -> float | None:
        """Return the share in this span, None where it is not known."""
        number = bisect.bisect_left(self.ends, seconds)
        if number == 0 and seconds < self.ends[0] - SPAN_SECONDS:
            return 0.0  # before the engine was ready
        work = self._tracked.work
        share = work_share(work, work.spans[min(number, len(self.ends) - 1)], self._tracked.reference, self._query)
        return None if share is None or share.is_least else share.total


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the level now, and the slope per second less its standard error, of the line through the points."""
    count = len(points)
    mean_x, mean_y = mean([x for x, _ in points]), mean([y for _, y in points])
    spread = math.fsum([(x - mean_x) ** 2 for x, _ in points])
    slope = math.fsum([(x - mean_x) * (y - mean_y) for x, y in points]) / spread
    level = mean_y - slope * mean_x
    residual = math.fsum([(y - level - slope * x) ** 2 for x, y in points]) / (count - 2)
    return level, slope - math.sqrt(residual / spread)
