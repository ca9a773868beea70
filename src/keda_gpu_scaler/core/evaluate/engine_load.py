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

from keda_gpu_scaler.core.aggregation import mean
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.metrics import ENGINES, EngineMetric
from keda_gpu_scaler.core.types import EngineSample, Histogram, Pod

SHORTEST_SECONDS = 1e-3
RUNNING_TARGET_RATIO = 0.8
"""Of the requests that may run at once, so many are as much as a replica should bear."""


class _Unknown(Exception):  # noqa: N818 - an answer on its way up
    """There is no value, and why."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine's pages come to: a value in the metric's unit, or None, and a sentence either way.

    ``requests`` are those that run or wait now, or where none is known to, those that ended well within the window; a
    metric that is their rate says itself how many of those matter. ``expires_at_seconds`` is when what it rests on
    grows stale. ``is_no_engine`` says that nothing here ever was an engine, or none that tells how busy it is.
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
    page = next((page for page in scraped.pages if page.is_fresh(now, stale_after_seconds)), None)
    if page is None or page.newest is None:
        return EngineLoad(None, missing_scrape_reason(scraped, now), is_no_engine=scraped.is_no_engine)
    newest, window = page.newest, _Window.of(page, window_seconds)
    requests = (newest.running or 0.0) + (newest.waiting or 0.0)
    if not requests and metric.reading not in _RATES:
        requests = window.ended
    until = newest.at_seconds + stale_after_seconds
    title = newest.engine or "page"
    try:
        value, how = _VALUES[metric.reading](window, query)
    except _Unknown as unknown:
        sentence = f"{title} at {page.where}: {unknown}"
        engine = ENGINES.get(newest.engine)
        return EngineLoad(None, sentence, requests, until, is_no_engine=engine is not None and not engine.tells_queue)
    return EngineLoad(
        value, f"{value:.6g} {metric.unit}".rstrip() + f" by {title} at {page.where}{how}", requests, until
    )


def missing_scrape_reason(scraped: ScrapeResult, now: float) -> str:
    failures = dict.fromkeys(page.failure for page in scraped.pages if page.failure)
    why = "; ".join(failures) or scraped.failure or "not scraped yet"
    ages = [now - page.newest.at_seconds for page in scraped.pages if page.newest is not None]
    return f"{why}; it last told something {min(ages):.0f} s ago" if ages else why


@dataclass(frozen=True, slots=True)
class _Growth:
    """How much counters grew, and within which time."""

    counts: tuple[float, ...]
    seconds: float

    @property
    def rate(self) -> float:
        """Growth of the first per second."""
        return self.counts[0] / max(self.seconds, SHORTEST_SECONDS)


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
        return cls(inside, page.readings[-len(inside) - 1 : -len(inside)])

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
    if selector is None:
        raise ValueError("metricType engine needs the selector of a series")

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
    if told.kv_cache_ratio is not None or engine is None or engine.tells_kv_cache:
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
