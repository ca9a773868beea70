# SPDX-License-Identifier: Apache-2.0
"""How loaded is an engine, by what it told lately, and is there demand?

The law of this module: a value is made of what was told within the window; what was not told is unknown, and a counter
that nobody saw twice has no rate.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from keda_gpu_scaler.core.aggregate import mean
from keda_gpu_scaler.core.catalog import EngineMetric
from keda_gpu_scaler.core.model import Histogram, Pod, Readings
from keda_gpu_scaler.core.scrapes import Endpoint, Page, Scraped
from keda_gpu_scaler.core.selector import SeriesSelector
from keda_gpu_scaler.core.serving import Demand, EngineQuery

_SHORTEST_SECONDS = 1e-3
RUNNING_TARGET_RATIO = 0.8
"""Of the requests that may run at once, so many are as much as a replica should bear."""


class _Unknown(Exception):  # noqa: N818 - an answer on its way up
    """There is no value, and why."""


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine's pages come to: a value in the metric's unit, or None, and a sentence either way.

    ``requests`` are those that run or wait now, 0 where that is not known. ``until_seconds`` is when what it rests on
    grows stale. ``is_no_engine`` says that nothing here ever was an engine, or none that tells how busy it is.
    """

    value: float | None
    sentence: str
    requests: float = 0.0
    until_seconds: float = math.inf
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
    scraped: Scraped | None,
    *,
    window_seconds: float,
    stale_after_seconds: float,
    now: float,
) -> Load:
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
        return Load(None, "not scraped yet")
    page = next((page for page in scraped.pages if page.is_fresh(now, stale_after_seconds)), None)
    if page is None or page.newest is None:
        return Load(None, _absence(scraped, now), is_no_engine=scraped.is_no_engine)
    newest = page.newest
    requests = (newest.running or 0.0) + (newest.waiting or 0.0)
    until = newest.at_seconds + stale_after_seconds
    title = newest.engine or "page"
    try:
        value, how = _VALUES[metric.reading](_Window.of(page, window_seconds), query)
    except _Unknown as unknown:
        sentence = f"{title} at {page.where}: {unknown}"
        return Load(None, sentence, requests, until, is_no_engine=newest.engine in WITHOUT_QUEUE)
    return Load(value, f"{value:.6g} {metric.unit}".rstrip() + f" by {title} at {page.where}{how}", requests, until)


def _absence(scraped: Scraped, now: float) -> str:
    failures = dict.fromkeys(page.failure for page in scraped.pages if page.failure)
    why = "; ".join(failures) or scraped.failure or "not scraped yet"
    ages = [now - page.newest.at_seconds for page in scraped.pages if page.newest is not None]
    return f"{why}; it last told something {min(ages):.0f} s ago" if ages else why


@dataclass(frozen=True, slots=True)
class _Growth:
    """How much a counter grew, and within which time."""

    count: float
    seconds: float

    @property
    def rate(self) -> float:
        """Growth per second."""
        return self.count / max(self.seconds, _SHORTEST_SECONDS)


class _Window:
    """One page's readings of the window, newest first."""

    def __init__(self, inside: Sequence[Readings], before: Sequence[Readings]) -> None:
        self.newest = inside[0]
        self._inside = inside
        # One more, so that what was counted during the window is compared with what was before it.
        self._compared = [*inside, *before]

    @classmethod
    def of(cls, page: Page, window_seconds: float) -> "_Window":
        """Look at a page that was read."""
        inside = list(page.within(window_seconds))
        return cls(inside, page.readings[-len(inside) - 1 : -len(inside)])

    def narrowed(self, is_meant: Callable[[Readings], bool]) -> "_Window | None":
        """Leave out readings; None where none is left."""
        inside = [readings for readings in self._inside if is_meant(readings)]
        before = [readings for readings in self._compared[len(self._inside) :] if is_meant(readings)]
        return _Window(inside, before) if inside else None

    def gauge(self, read: Callable[[Readings], float | None], what: str) -> float:
        """Average a gauge that is still told."""
        if read(self.newest) is None:
            raise _Unknown(f"tells no {what}")
        return mean([value for readings in self._inside if (value := read(readings)) is not None])

    def growth(self, read: Callable[[Readings], float | None], what: str, *, from_nothing: bool = False) -> "_Growth":
        """How much a counter grew, from one reading that tells it to the next.

        Where it fell, its engine was started anew, or a model was unloaded whose count was a part of the sum: of that
        interval nothing is known, and nothing is counted. With ``from_nothing``, for demand, it counts from 0 there and
        where it was not told before, so that the first request of all is heard.
        """
        if read(self.newest) is None:
            raise _Unknown(f"tells no {what}")
        told = [(readings.at_seconds, value) for readings in self._compared if (value := read(readings)) is not None]
        oldest = self._compared[-1]
        if from_nothing and read(oldest) is None:
            told.append((oldest.at_seconds, 0.0))
        if len(told) < 2:
            raise _Unknown(f"{what} was read once so far, and grows between two readings")
        restart = 1.0 if from_nothing else 0.0
        grown = sum(
            later - earlier if later >= earlier else restart * later for (_, later), (_, earlier) in pairwise(told)
        )
        return _Growth(grown, told[0][0] - told[-1][0])

    def histogram(self, read: Callable[[Readings], Histogram | None], what: str) -> Histogram:
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


def _grown(earlier: float, later: float) -> float:
    return later - earlier if later >= earlier else later


def _queue_depth(window: _Window, query: EngineQuery) -> tuple[float, str]:
    return window.gauge(lambda it: it.waiting, "waiting requests"), ""


def _running(window: _Window, query: EngineQuery) -> tuple[float, str]:
    return window.gauge(lambda it: it.running, "running requests"), ""


def _kv_cache(window: _Window, query: EngineQuery) -> tuple[float, str]:
    return round(100 * window.gauge(lambda it: it.kv_cache_ratio, "KV cache usage"), 6), ""


def _request_rate(window: _Window, query: EngineQuery) -> tuple[float, str]:
    return window.growth(lambda it: it.requests_total, "count of requests").rate, ""


def _token_rate(window: _Window, query: EngineQuery) -> tuple[float, str]:
    return window.growth(lambda it: it.tokens_total, "count of tokens").rate, ""


def _queue_wait(window: _Window, query: EngineQuery) -> tuple[float, str]:
    waits = window.growth(lambda it: it.queue_waits_total, "count of requests that left the queue").count
    seconds = window.growth(lambda it: it.queue_wait_seconds_total, "time in the queue").count
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
    assert query.selector is not None  # noqa: S101 - the trigger's parser sees to it
    return _series_value(window, query.selector)


def _series_value(window: _Window, selector: SeriesSelector, *, from_nothing: bool = False) -> tuple[float, str]:
    """What a selected series is worth: a gauge's mean, or a counter's rate."""

    def read(readings: Readings) -> float | None:
        found = readings.selected.get(selector.text)
        return found.value if found else None

    # While nobody asked for it, it was not read: that is no sign that it was not there.
    asked = window.narrowed(lambda readings: selector.text in readings.selected)
    newest = window.newest.selected.get(selector.text)
    what = f"series {selector.text}"
    if asked is None or newest is None:
        raise _Unknown(f"tells no {what}")
    if newest.is_counter:
        return asked.growth(read, what, from_nothing=from_nothing).rate, " (a counter's rate per second)"
    value = asked.gauge(read, what)
    if value < 0:
        raise _Unknown(f"{what} is {value:g}, and the HPA has no use for what is below 0")
    return value, ""


def _saturation(window: _Window, query: EngineQuery) -> tuple[float, str]:
    """The fullest part, in per cent of what a replica should bear.

    What this engine tells of itself at all must be known; what it never tells is left out. With one part unknown the
    fullest may be that one.
    """
    told = window.newest
    parts: dict[str, float] = {"queue": window.gauge(lambda it: it.waiting, "waiting requests") / query.queue_target}
    if told.kv_cache_ratio is not None or told.engine not in WITHOUT_KV_CACHE:
        parts["KV cache"] = window.gauge(lambda it: it.kv_cache_ratio, "KV cache usage") / query.kv_target
    limit = query.max_seqs or told.running_limit
    if limit:
        running = window.gauge(lambda it: it.running, "running requests")
        parts["running"] = running / (limit * RUNNING_TARGET_RATIO)
    fullest = max(parts, key=lambda part: parts[part])
    listed = ", ".join(f"{part} {100 * ratio:.0f} %" for part, ratio in parts.items())
    return round(100 * parts[fullest], 6), f" ({listed})"


WITHOUT_QUEUE = frozenset({"ollama"})
"""Engines that tell nothing of how busy they are."""
WITHOUT_KV_CACHE = frozenset({"tgi", "llama.cpp", "triton"})
"""Engines that tell, or may rightly tell, nothing of a KV cache; where Triton serves an LLM it does."""

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
class DemandSight:
    """What is seen of the demand: its value now, or None.

    ``wakes`` says whether it is above the threshold, or was during the hold; None where nobody can tell.
    """

    value: float | None
    wakes: bool | None
    sentence: str
    until_seconds: float = math.inf


def look_at_demand(
    demand: Demand,
    scraped: Scraped | None,
    *,
    window_seconds: float,
    stale_after_seconds: float,
    now: float,
) -> DemandSight:
    """Add up what every address of a demand source tells.

    What some of them tell may be enough to wake; only what all of them tell lets sleep.
    """
    if scraped is None or not scraped.pages:
        why = (scraped.failure if scraped else None) or "not scraped yet"
        return DemandSight(None, None, f"demand at {demand.url} is unknown: {why}")
    values: list[float] = []
    unknown: list[str] = []
    until = math.inf
    for page in scraped.pages:
        if not page.is_fresh(now, stale_after_seconds) or page.newest is None:
            unknown.append(f"{page.where}: {_absence(Scraped((page,)), now)}")
            continue
        until = min(until, page.newest.at_seconds + stale_after_seconds)
        try:
            values.append(_demand_now(page, demand.selectors, window_seconds))
        except _Unknown as why_not:
            unknown.append(f"{page.where}: {why_not}")
    total = math.fsum(values)
    told = f"demand {total:.6g}" + (f" at {len(values)} of {len(scraped.pages)} addresses" if unknown else "")
    if total > demand.threshold:
        return DemandSight(total, True, f"{told} is above demandThreshold {demand.threshold:g}", until)
    ages = [age for page in scraped.pages if (age := _last_above(page, demand, now)) is not None]
    if ages and min(ages) <= demand.hold_seconds:
        held = f"demand was above demandThreshold {demand.threshold:g} {min(ages):.0f} s ago"
        until = min(until, now - min(ages) + demand.hold_seconds)
        value = None if unknown else total
        return DemandSight(value, True, f"{held} (demandHoldSeconds {demand.hold_seconds:g})", until)
    if unknown:
        return DemandSight(None, None, f"demand at {demand.url} is unknown: {unknown[0]}", until)
    return DemandSight(total, False, f"{told} is not above demandThreshold {demand.threshold:g}", until)


def _demand_now(page: Page, selectors: Sequence[SeriesSelector], window_seconds: float) -> float:
    """The newest value of a gauge, so that the first request wakes; of a counter the rate over the window."""
    newest = page.readings[-1]
    for selector in selectors:
        if found := newest.selected.get(selector.text):
            if found.is_counter:
                return _series_value(_Window.of(page, window_seconds), selector, from_nothing=True)[0]
            return max(0.0, found.value)
    raise _Unknown("tells no series " + " or ".join(it.text for it in selectors))


def _last_above(page: Page, demand: Demand, now: float) -> float | None:
    """How long ago this page alone told more than the threshold, in seconds, within the hold."""
    recent = [it for it in reversed(page.readings) if now - it.at_seconds <= demand.hold_seconds]
    for later, earlier in pairwise([*recent, None]):
        if later is not None and _was_above(later, earlier, demand):
            return max(0.0, now - later.at_seconds)
    return None


def _was_above(later: Readings, earlier: Readings | None, demand: Demand) -> bool:
    for selector in demand.selectors:
        found = later.selected.get(selector.text)
        if found is None:
            continue
        if not found.is_counter:
            return found.value > demand.threshold
        if earlier is None or selector.text not in earlier.selected:
            return False
        before = earlier.selected.get(selector.text)
        grown = _grown(before.value if before else 0.0, found.value)
        return grown / max(later.at_seconds - earlier.at_seconds, _SHORTEST_SECONDS) > demand.threshold
    return False
