# SPDX-License-Identifier: Apache-2.0
"""Computes the load of an engine from its recent pages.

Law: a value is made of readings within the window. A reading that the engine does not export is unknown, and a counter
with one reading has no rate.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from keda_gpu_scaler.core.evaluate.model_remarks import ensemble_remark, missing_model_remark
from keda_gpu_scaler.core.evaluate.sample_window import (
    DEFERRED,
    KV_CACHE,
    REQUESTS,
    RUNNING,
    WAITING,
    EngineReading,
    PartialReadingError,
    SampleWindow,
    SelectedReading,
    UnknownReadingError,
)
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.trigger.metrics import EngineMetric
from keda_gpu_scaler.core.types import EngineSample, Histogram, Pod

RUNNING_TARGET_RATIO = 0.8
"""The share of the requests that may run at once that a replica should have at most."""


_TOKENS = EngineReading("tokens_total", "count of tokens")
_QUEUE_WAITS = EngineReading("queue_waits_total", "count of requests that left the queue")
_QUEUE_WAIT = EngineReading("queue_wait_seconds_total", "time in the queue")
_FIRST_TOKEN = EngineReading("first_token", "time to first token")


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The load of an engine: a value in the metric's unit, or None, and a sentence in both cases.

    ``requests`` is the number of requests that run or wait now. If none runs or waits, it is the number of requests
    that succeeded during the window. For a rate metric it is then 0, because the activation threshold covers the rate.
    ``are_requests_known`` says that the engine exports the number of requests that run or wait. ``unknown_requests``
    says which of these numbers the newest page has and which is not known, and is empty where there is none.
    ``expires_at_seconds`` is when the newest reading becomes stale. ``is_no_engine`` says that the target never
    exported the page of a known engine, or that the engine exports no queue. ``lower_bound`` is given where
    a part of the value is not known: the value is at least this number. A lower bound above the target may let the
    workload grow; one that is not above it says nothing.
    """

    value: float | None
    sentence: str
    requests: float = 0.0
    expires_at_seconds: float = math.inf
    is_no_engine: bool = False
    are_requests_known: bool = False
    lower_bound: float | None = None
    unknown_requests: str = ""


def pod_endpoint(query: EngineQuery, pod: Pod) -> Endpoint:
    """Return the endpoint of a pod's engines: what the trigger says, and what the pod says."""
    return Endpoint(
        pod=pod.ref,
        address=pod.address,
        engine=query.engine,
        ports=query.ports,
        path=query.path,
        scheme=query.scheme,
        declared_ports=pod.ports,
        other_addresses=pod.other_addresses,
        annotated_port=pod.metrics_port,
        annotated_path=pod.metrics_path,
        annotated_scheme=pod.metrics_scheme,
        models=query.models,
        credentials_namespace=query.credentials_namespace,
    )


def url_endpoint(query: EngineQuery) -> Endpoint:
    """Return the endpoint of the trigger's URL."""
    return Endpoint(
        engine=query.engine,
        url=query.url,
        models=query.models,
        namespace=query.namespace,
        credentials_namespace=query.credentials_namespace,
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
    """Compute the load of one engine.

    Args:
        query: the trigger's parameters of engines.
        metric: the metric that is computed.
        scraped: the result of the engine's endpoint; None while it was not scraped yet.
        window_seconds: gauges are averaged, and counters compared, over this window.
        stale_after_seconds: an older page is not used.
        now: monotonic seconds on the scraper's clock.
    """
    page = fresh_history(scraped, now, stale_after_seconds)
    if page is None or page.newest is None:
        return unscraped_load(scraped, now)
    newest, window = page.newest, SampleWindow(page, page.newest, window_seconds)
    requests = requests_now(newest)
    if not requests and metric.reading not in _RATES:
        requests = window.ended
    expires = newest.at_seconds + stale_after_seconds
    title = newest.engine or "page"
    try:
        value, how = _VALUES[metric.reading](window, query)
    except UnknownReadingError as unknown:
        bound = unknown.lower_bound if isinstance(unknown, PartialReadingError) else None
        return unknown_load(newest, page.url, str(unknown), requests, expires, bound)
    remark = ensemble_remark(newest) if metric.reading in _COUNTED_TWICE else ""
    return EngineLoad(
        value,
        f"{value:.6g} {metric.unit}".rstrip() + f" by {title} at {page.url}{how}{remark}",
        requests,
        expires,
        are_requests_known=newest.running is not None,
        unknown_requests=unknown_requests(newest),
    )


def requests_now(sample: EngineSample) -> float:
    """Return the number of requests that the engine has: those that run, and those that wait for whatever reason.

    A number of which a part is known counts with that part.
    """
    return math.fsum([reading.known_part(sample) for reading in _REQUESTS_NOW])


def unknown_requests(sample: EngineSample) -> str:
    """Say which number of requests the page has and which is not known; empty where there is none."""
    unknown = [reading for reading in _REQUESTS_NOW if reading.name in sample.known_parts]
    return unknown[0].unknown(sample) if unknown else ""


def unknown_load(
    sample: EngineSample, url: str, why: str, requests: float, expires: float, lower_bound: float | None = None
) -> EngineLoad:
    """Return the unknown load of an engine whose page misses a reading.

    Args:
        sample: the newest page.
        url: where it was read.
        why: which reading is missing.
        requests: as in ``EngineLoad``.
        expires: when the page becomes stale, in monotonic seconds.
        lower_bound: as in ``EngineLoad``.
    """
    engine = ENGINES.get(sample.engine)
    known = sample.known_parts
    sentence = f"{sample.engine or 'page'} at {url}: {why}{missing_model_remark(sample)}"
    if engine is not None and engine.no_queue_hint and sample.waiting is None and WAITING.name not in known:
        sentence += f"; {engine.no_queue_hint}"
    is_no_engine = engine is not None and not engine.reports_queue and sample.has_model
    return EngineLoad(
        None,
        sentence,
        requests,
        expires,
        is_no_engine=is_no_engine,
        lower_bound=lower_bound,
        unknown_requests=unknown_requests(sample),
    )


def unscraped_load(scraped: ScrapeResult | None, now: float) -> EngineLoad:
    """Return the unknown load of an engine that has no fresh page, with the reason."""
    if scraped is None:
        return EngineLoad(None, "not scraped yet")
    return EngineLoad(None, missing_scrape_reason(scraped, now), is_no_engine=scraped.is_no_engine)


def fresh_history(scraped: ScrapeResult | None, now: float, stale_after_seconds: float) -> TargetHistory | None:
    """Return the history of the target that has a fresh sample, None where there is none."""
    targets = scraped.targets if scraped is not None else ()
    return next((target for target in targets if target.is_fresh(now, stale_after_seconds)), None)


def missing_scrape_reason(scraped: ScrapeResult, now: float) -> str:
    """Say why an endpoint has no fresh page."""
    failures = dict.fromkeys(page.failure for page in scraped.targets if page.failure)
    why = "; ".join(failures) or scraped.failure or "not scraped yet"
    ages = [now - page.newest.at_seconds for page in scraped.targets if page.newest is not None]
    return f"{why}; its last page came {min(ages):.0f} s ago" if ages else why


def _queue_depth(window: SampleWindow, query: EngineQuery) -> tuple[float, str]:
    return window.gauge(WAITING), ""


def _running(window: SampleWindow, query: EngineQuery) -> tuple[float, str]:
    return window.gauge(RUNNING), ""


def _kv_cache(window: SampleWindow, query: EngineQuery) -> tuple[float, str]:
    try:
        ratio, how = _kv_ratio(window)
    except PartialReadingError as partial:
        raise PartialReadingError(str(partial), round(100 * partial.lower_bound, 6)) from None
    return round(100 * ratio, 6), f" ({how})" if how else ""


def _kv_ratio(window: SampleWindow) -> tuple[float, str]:
    """Return the mean KV cache usage, a ratio, and a remark."""
    remark = "the engine reports its KV cache usage in per cent" if window.newest.is_kv_percent else ""
    return window.gauge(KV_CACHE), remark


def _request_rate(window: SampleWindow, query: EngineQuery) -> tuple[float, str]:
    return window.growth(REQUESTS).rate, ""


def _token_rate(window: SampleWindow, query: EngineQuery) -> tuple[float, str]:
    return window.growth(_TOKENS).rate, ""


def _queue_wait(window: SampleWindow, query: EngineQuery) -> tuple[float, str]:
    waits, seconds = window.growth(_QUEUE_WAITS, _QUEUE_WAIT).counts
    if waits > 0:
        return 1000 * seconds / waits, f" ({waits:.0f} requests)"
    if window.is_without_waiting:
        return 0.0, " (no request waited)"
    raise UnknownReadingError("no request left the queue, and it is not known whether a request waits")


def _first_token(window: SampleWindow, query: EngineQuery) -> tuple[float, str]:
    observed = window.histogram(_FIRST_TOKEN)
    total = observed.counts[-1]
    if total > 0:
        return 1000 * quantile(observed, query.quantile), f" ({query.quantile:g} quantile of {total:.0f} requests)"
    if window.is_idle:
        return 0.0, " (idle)"
    raise UnknownReadingError("no request got its first token, and it is not known whether a request waits for it")


def _selected(window: SampleWindow, query: EngineQuery) -> tuple[float, str]:
    selector = query.selector
    if selector is None:
        raise ValueError("metricType engine needs the selector of a series")
    reading, newest = SelectedReading(selector), window.newest.selected.get(selector.text)
    if newest is not None and newest.is_counter:
        return window.growth(reading).rate, " (a counter's rate per second)"
    value = window.gauge(reading)
    if value < 0:
        raise UnknownReadingError(f"{reading.title} is {value:g}, and the HPA accepts no value below 0")
    return value, ""


def _saturation(window: SampleWindow, query: EngineQuery) -> tuple[float, str]:
    """Return the fullest of queue, KV cache and running requests, in per cent of what a replica should have at most.

    Every part that this engine is known to export must have a value, because a missing part may be the fullest. The
    known parts are then a lower bound, and so is what is known of a part. A part that the engine never exports is left
    out.

    Raises:
        PartialReadingError: a part has no value, and something is known of it or of another one.
        UnknownReadingError: nothing is known of any part.
    """
    parts: dict[str, float] = {}
    at_least: dict[str, float] = {}
    missing: list[UnknownReadingError] = []
    remarks: list[str] = []
    for name, (read, full) in _saturation_parts(window, query).items():
        try:
            ratio, remark = read()
        except UnknownReadingError as unknown:
            missing.append(unknown)
            if isinstance(unknown, PartialReadingError) and unknown.lower_bound > 0:
                at_least[name] = unknown.lower_bound / full
        else:
            parts[name] = ratio / full
            remarks += [remark] if remark else []
    if not parts and not at_least:
        raise missing[0]
    value = round(100 * max([*parts.values(), *at_least.values()]), 6)
    listed = ", ".join(
        [
            *(f"{part} {100 * ratio:.0f} %" for part, ratio in parts.items()),
            *(f"{part} at least {100 * ratio:.0f} %" for part, ratio in at_least.items()),
            *remarks,
        ]
    )
    if missing:
        raise PartialReadingError(f"{missing[0]}; the saturation is at least {value:.6g} % ({listed})", value)
    return value, f" ({listed})"


def _saturation_parts(
    window: SampleWindow, query: EngineQuery
) -> dict[str, tuple[Callable[[], tuple[float, str]], float]]:
    """Return how each part of the saturation is read, with a remark, and the number at which it is full."""
    newest = window.newest
    engine = ENGINES.get(newest.engine)
    parts: dict[str, tuple[Callable[[], tuple[float, str]], float]] = {
        "queue": (lambda: (window.gauge(WAITING), ""), query.queue_target)
    }
    is_exported = newest.kv_cache_ratio is not None or KV_CACHE.name in newest.known_parts
    if is_exported or engine is None or engine.reports_kv_cache:
        parts["KV cache"] = (lambda: _kv_ratio(window), query.kv_target)
    if limit := query.max_seqs or newest.running_limit:
        parts["running"] = (lambda: (window.gauge(RUNNING), ""), limit * RUNNING_TARGET_RATIO)
    return parts


_REQUESTS_NOW = (RUNNING, WAITING, DEFERRED)
_RATES = frozenset({"request_rate", "token_rate"})
_COUNTED_TWICE = frozenset({"request_rate", "queue_wait_ms", "running_requests"})
"""The readings in which an ensemble counts once more what its steps count. An ensemble itself has no queue."""

_VALUES: Mapping[str, Callable[[SampleWindow, EngineQuery], tuple[float, str]]] = MappingProxyType(
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
    """Return the value in seconds below which this share of the observations lies.

    It is linear within a bucket, as in Prometheus. The last bucket has no upper bound: there it is the lower bound.
    """
    total = histogram.counts[-1]
    rank = ratio * total
    lower, below = 0.0, 0.0
    for bound, count in zip(histogram.bounds_seconds, histogram.counts, strict=True):
        if count >= rank and count > below:
            if math.isinf(bound):
                return lower
            return min(bound, lower + (bound - lower) * (rank - below) / (count - below))  # a sum may round up
        if not math.isinf(bound):
            lower, below = bound, count
    return lower
