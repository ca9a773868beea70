# SPDX-License-Identifier: Apache-2.0
"""How loaded is an engine, by what it told lately, and is there demand?

The law of this module: a value is made of what was told within the window; what was not told is unknown, and a counter
that nobody saw twice has no rate.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from keda_gpu_scaler.core.aggregation import mean
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engine_params import DemandQuery, EngineQuery
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.trigger.metrics import EngineMetric
from keda_gpu_scaler.core.types import EngineSample, Histogram, Pod

_SHORTEST_SECONDS = 1e-3
_DEMAND_GRAIN = 1e-6
RUNNING_TARGET_RATIO = 0.8
"""Of the requests that may run at once, so many are as much as a replica should bear."""


class _Unknown(Exception):  # noqa: N818 - an answer on its way up
    """There is no value, and why."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine's pages come to: a value in the metric's unit, or None, and a sentence either way.

    ``requests`` are those that run or wait now, or where none is known to, those that ended well within the window; a
    metric that is their rate says itself how many of those matter. ``expires_at_seconds`` is when what it rests on grows
    stale. ``is_no_engine`` says that nothing here ever was an engine, or none that tells how busy it is.
    """

    value: float | None
    sentence: str
    requests: float = 0.0
    expires_at_seconds: float = math.inf
    is_no_engine: bool = False


def pod_endpoint(query: EngineQuery, pod: Pod) -> Endpoint:
    """Say where a pod's engine is to be found."""
    is_annotated = query.port is None or query.port == pod.metrics_port
    return Endpoint(
        pod=pod.ref,
        address=pod.address,
        engine=query.engine,
        port=query.port or pod.metrics_port,
        path=query.path or (pod.metrics_path if is_annotated else None),
        scheme=query.scheme or (pod.metrics_scheme if is_annotated else None),
        declared_ports=pod.ports,
    )


def engine_load(
    query: EngineQuery,
    metric: EngineMetric,
    scraped: ScrapeResult | None,
    *,
    window_seconds: float,
    stale_after_seconds: float,
    now: float,
) -> EngineLoad:
    """Work out what one engine tells.

    Args:
        query: what is asked.
        metric: what is read of it.
        scraped: what came of its endpoint, None while it was not scraped yet.
        window_seconds: gauges are averaged, and counters compared, over this much.
        stale_after_seconds: what was told longer ago is unknown.
        now: monotonic seconds on the scraper's clock.
    """
    if scraped is None:
        return EngineLoad(None, "not scraped yet")
    page = next((page for page in scraped.targets if page.is_fresh(now, stale_after_seconds)), None)
    if page is None or page.newest is None:
        return EngineLoad(None, _absence(scraped, now), is_no_engine=scraped.is_no_engine)
    newest, window = page.newest, _Window.of(page, window_seconds)
    requests = (newest.running or 0.0) + (newest.waiting or 0.0)
    if not requests and metric.reading not in _RATES:
        requests = window.ended
    until = newest.at_seconds + stale_after_seconds
    title = newest.engine or "page"
    try:
        value, how = _VALUES[metric.reading](window, query)
    except _Unknown as unknown:
        sentence = f"{title} at {page.url}: {unknown}"
        engine = ENGINES.get(newest.engine)
        return EngineLoad(None, sentence, requests, until, is_no_engine=engine is not None and not engine.reports_queue)
    return EngineLoad(value, f"{value:.6g} {metric.unit}".rstrip() + f" by {title} at {page.url}{how}", requests, until)


def _absence(scraped: ScrapeResult, now: float) -> str:
    failures = dict.fromkeys(page.failure for page in scraped.targets if page.failure)
    why = "; ".join(failures) or scraped.failure or "not scraped yet"
    ages = [now - page.newest.at_seconds for page in scraped.targets if page.newest is not None]
    return f"{why}; it last told something {min(ages):.0f} s ago" if ages else why


@dataclass(frozen=True, slots=True)
class _Growth:
    """How much counters grew, and within which time."""

    counts: tuple[float, ...]
    seconds: float

    @property
    def rate(self) -> float:
        """Growth of the first per second."""
        return self.counts[0] / max(self.seconds, _SHORTEST_SECONDS)


class _Window:
    """One page's readings of the window, newest first."""

    def __init__(self, inside: Sequence[EngineSample], before: Sequence[EngineSample]) -> None:
        self.newest = inside[0]
        self._inside = inside
        # One more, so that what was counted during the window is compared with what was before it.
        self._compared = [*inside, *before]

    @classmethod
    def of(cls, page: TargetHistory, window_seconds: float) -> "_Window":
        """Look at a page that was read."""
        inside = list(page.within(window_seconds))
        return cls(inside, page.samples[-len(inside) - 1 : -len(inside)])

    def gauge(self, read: Callable[[EngineSample], float | None], what: str) -> float:
        """Average a gauge that is still told."""
        if read(self.newest) is None:
            raise _Unknown(f"tells no {what}")
        return mean([value for readings in self._inside if (value := read(readings)) is not None])

    def growth(self, *counted: tuple[Callable[[EngineSample], float | None], str]) -> "_Growth":
        """How much counters grew together, from one reading that tells them all to the next.

        Where one fell, its engine was started anew, or a model was unloaded whose count was a part of the sum: of that
        interval nothing is known, so neither what was counted in it nor its time is a part of the outcome.
        """
        for read, what in counted:
            if read(self.newest) is None:
                raise _Unknown(f"tells no {what}")
        told = []
        for readings in self._compared:
            values = [value for read, _ in counted if (value := read(readings)) is not None]
            if len(values) == len(counted):
                told.append((readings.at_seconds, values))
        what = counted[0][1]
        if len(told) < 2:
            raise _Unknown(f"{what} was read once so far, and grows between two readings")
        grown, seconds = [0.0] * len(counted), 0.0
        for (later_at, later), (earlier_at, earlier) in pairwise(told):
            more = [after - before for after, before in zip(later, earlier, strict=True)]
            if min(more) >= 0:
                grown = [before + one for before, one in zip(grown, more, strict=True)]
                seconds += later_at - earlier_at
        if not seconds:
            raise _Unknown(f"{what} began anew, and grows between two readings")
        return _Growth(tuple(grown), seconds)

    @property
    def ended(self) -> float:
        """How many requests ended well within the window, 0 where that is not known.

        Triton tells of none that runs, and of short ones none may run or wait just when it is asked.
        """
        try:
            return self.growth((lambda it: it.requests_total, "count of requests")).counts[0]
        except _Unknown:
            return 0.0

    def histogram(self, read: Callable[[EngineSample], Histogram | None], what: str) -> Histogram:
        """What a histogram observed during the window."""
        newest = read(self.newest)
        if newest is None:
            raise _Unknown(f"tells no {what}")
        told = [it for readings in self._compared if (it := read(readings)) is not None]
        told = [it for it in told if it.bounds_seconds == newest.bounds_seconds]
        if len(told) < 2:
            raise _Unknown(f"{what} was read once so far, and grows between two readings")
        counts = [0.0] * len(newest.bounds_seconds)
        for later, earlier in pairwise(told):
            if later.counts[-1] >= earlier.counts[-1]:
                grown = (max(0.0, now - then) for now, then in zip(later.counts, earlier.counts, strict=True))
                counts = [count + more for count, more in zip(counts, grown, strict=True)]
        return Histogram(newest.bounds_seconds, tuple(counts))

    @property
    def is_without_waiting(self) -> bool:
        """Whether it is known that no request waited at any time of the window."""
        return all(readings.waiting == 0 for readings in self._compared)

    @property
    def is_idle(self) -> bool:
        """Whether it is known that no request waited or ran at any time of the window."""
        return self.is_without_waiting and all(readings.running == 0 for readings in self._compared)


def _queue_depth(window: _Window, query: EngineQuery) -> tuple[float, str]:
    return window.gauge(lambda it: it.waiting, "waiting requests"), ""


def _running(window: _Window, query: EngineQuery) -> tuple[float, str]:
    return window.gauge(lambda it: it.running, "running requests"), ""


def _kv_cache(window: _Window, query: EngineQuery) -> tuple[float, str]:
    return round(100 * window.gauge(lambda it: it.kv_cache_ratio, "KV cache usage"), 6), ""


def _request_rate(window: _Window, query: EngineQuery) -> tuple[float, str]:
    return window.growth((lambda it: it.requests_total, "count of requests")).rate, ""


def _token_rate(window: _Window, query: EngineQuery) -> tuple[float, str]:
    return window.growth((lambda it: it.tokens_total, "count of tokens")).rate, ""


def _queue_wait(window: _Window, query: EngineQuery) -> tuple[float, str]:
    waits, seconds = window.growth(
        (lambda it: it.queue_waits_total, "count of requests that left the queue"),
        (lambda it: it.queue_wait_seconds_total, "time in the queue"),
    ).counts
    if waits > 0:
        return 1000 * seconds / waits, f" ({waits:.0f} requests)"
    if window.is_without_waiting:
        return 0.0, " (no request waited)"
    raise _Unknown("no request left the queue, and it does not tell that none waits")


def _first_token(window: _Window, query: EngineQuery) -> tuple[float, str]:
    observed = window.histogram(lambda it: it.first_token, "time to first token")
    total = observed.counts[-1]
    if total > 0:
        return 1000 * quantile(observed, query.quantile), f" ({query.quantile:g} quantile of {total:.0f} requests)"
    if window.is_idle:
        return 0.0, " (idle)"
    raise _Unknown("no request got its first token, and it does not tell that none waits for it")


def _selected(window: _Window, query: EngineQuery) -> tuple[float, str]:
    selector = query.selector
    assert selector is not None  # noqa: S101 - the trigger's parser sees to it

    def read(readings: EngineSample) -> float | None:
        found = readings.selected.get(selector.text)
        return found.value if found else None

    newest = window.newest.selected.get(selector.text)
    what = f"series {selector.text}"
    if newest is None:
        raise _Unknown(f"tells no {what}")
    if newest.is_counter:
        return window.growth((read, what)).rate, " (a counter's rate per second)"
    value = window.gauge(read, what)
    if value < 0:
        raise _Unknown(f"{what} is {value:g}, and the HPA has no use for what is below 0")
    return value, ""


def _saturation(window: _Window, query: EngineQuery) -> tuple[float, str]:
    """The fullest part, in per cent of what a replica should bear.

    What this engine tells of itself at all must be known; what it never tells is left out. With one part unknown the
    fullest may be that one.
    """
    told = window.newest
    engine = ENGINES.get(told.engine)
    parts: dict[str, float] = {"queue": window.gauge(lambda it: it.waiting, "waiting requests") / query.queue_target}
    if told.kv_cache_ratio is not None or engine is None or engine.reports_kv_cache:
        parts["KV cache"] = window.gauge(lambda it: it.kv_cache_ratio, "KV cache usage") / query.kv_target
    limit = query.max_seqs or told.running_limit
    if limit:
        running = window.gauge(lambda it: it.running, "running requests")
        parts["running"] = running / (limit * RUNNING_TARGET_RATIO)
    fullest = max(parts, key=lambda part: parts[part])
    listed = ", ".join(f"{part} {100 * ratio:.0f} %" for part, ratio in parts.items())
    return round(100 * parts[fullest], 6), f" ({listed})"


_RATES = frozenset({"request_rate", "token_rate"})

_VALUES: Mapping[str, Callable[[_Window, EngineQuery], tuple[float, str]]] = MappingProxyType(
    {
        "saturation": _saturation,
        "queue_depth": _queue_depth,
        "running_requests": _running,
        "kv_cache_usage": _kv_cache,
        "queue_wait_ms": _queue_wait,
        "request_rate": _request_rate,
        "token_rate": _token_rate,
        "ttft_ms": _first_token,
        "engine": _selected,
    }
)


def quantile(histogram: Histogram, ratio: float) -> float:
    """The value below which this part of the observations lies, in seconds: linear within a bucket, as in Prometheus.

    In the last bucket, which has no upper end, it is that bucket's lower one.
    """
    total = histogram.counts[-1]
    rank = ratio * total
    lower, below = 0.0, 0.0
    for bound, count in zip(histogram.bounds_seconds, histogram.counts, strict=True):
        if count >= rank and count > below:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        if not math.isinf(bound):
            lower, below = bound, count
    return lower


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
    if scraped is None or not scraped.targets:
        why = (scraped.failure if scraped else None) or "not scraped yet"
        return DemandObservation(None, None, f"demand at {demand.url} is unknown: {why}")
    values: list[float] = []
    unknown: list[str] = []
    until = math.inf
    courses = [_course(page, demand.selectors, window_seconds) for page in scraped.targets]
    for page, course in zip(scraped.targets, courses, strict=True):
        if not page.is_fresh(now, stale_after_seconds) or page.newest is None:
            unknown.append(f"{page.url}: {_absence(ScrapeResult((page,)), now)}")
            continue
        until = min(until, page.newest.at_seconds + stale_after_seconds)
        newest = course[-1][1]
        if newest is None:
            unknown.append(f"{page.url}: {_no_demand(page, demand.selectors)}")
        else:
            values.append(newest)
    total = math.fsum(values)
    told = f"demand {total:.6g}" + (f" at {len(values)} of {len(scraped.targets)} addresses" if unknown else "")
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
    for readings in page.samples:
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
            rate = (self._counted - counted) / max(at_seconds - since, _SHORTEST_SECONDS)
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
