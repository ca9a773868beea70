# SPDX-License-Identifier: Apache-2.0
"""Computes the metric ``load`` for every engine of a workload.

Law: engines on one model of device share a calibration; another model of device has its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.evaluate.engine_load import (
    EngineLoad,
    fresh_history,
    requests_now,
    unknown_load,
    unknown_requests,
    unscraped_load,
)
from keda_gpu_scaler.core.evaluate.load.calibration import Calibration, calibrate
from keda_gpu_scaler.core.evaluate.load.span import EngineWork, Span, engine_work
from keda_gpu_scaler.core.evaluate.load.trend import Horizon, LoadForecast, TrackedWork, forecast_load
from keda_gpu_scaler.core.evaluate.load.work_share import WorkShare, work_share
from keda_gpu_scaler.core.evaluate.model_remarks import ensemble_remark
from keda_gpu_scaler.core.evaluate.sample_window import KV_CACHE, RUNNING, WAITING
from keda_gpu_scaler.core.state.scrape import ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.engines import LoadRung

_SHOWN_SHARE = 0.01  # a smaller one does not show in whole per cent
_NO_FORECAST = LoadForecast(1.0, "")


@dataclass(frozen=True, slots=True)
class ScrapedEngine:
    """One engine of a workload: its scrape result, and the model of the devices that it runs on.

    ``scraped`` is None while it was not scraped. ``model`` is empty where it is not known. ``ready_at_seconds`` is when
    the pod became ready, None where that is not known.
    """

    scraped: ScrapeResult | None
    model: str = ""
    ready_at_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class WorkloadLoad:
    """The load of each engine, in the order of the engines, and the sentences about what they share."""

    loads: tuple[EngineLoad, ...]
    sentences: tuple[str, ...]


def workload_load(
    query: EngineQuery,
    engines: Sequence[ScrapedEngine],
    *,
    window_seconds: float,
    stale_after_seconds: float,
    now: float,
    horizon: Horizon | None = None,
) -> WorkloadLoad:
    """Compute the load of every engine in per cent of what one replica should carry.

    Args:
        query: the trigger's parameters of engines.
        engines: all engines of the workload.
        window_seconds: the work is measured over this window.
        stale_after_seconds: an older page is not used.
        now: monotonic seconds on the scraper's clock.
        horizon: how far the load is forecast; None where the trigger requests no forecast.
    """
    histories = [fresh_history(one.scraped, now, stale_after_seconds) for one in engines]
    works = [engine_work(history, window_seconds) if history is not None else None for history in histories]
    groups = _calibrations(query, engines, works)
    forecast = _NO_FORECAST
    if horizon is not None:
        tracked = [
            TrackedWork(work, groups[one.model, work.rung].reference, one.ready_at_seconds)
            for one, work in zip(engines, works, strict=True)
            if work is not None
        ]
        forecast = forecast_load(tracked, query, horizon)
    loads = []
    for one, history, work in zip(engines, histories, works, strict=True):
        if history is None or work is None:
            loads.append(unscraped_load(one.scraped, now))
        else:
            expires = work.sample.at_seconds + stale_after_seconds
            loads.append(_load(query, history, work, groups[one.model, work.rung], forecast, expires))
    sentences = [_describe(model, calibration, query, rung) for (model, rung), calibration in groups.items()]
    return WorkloadLoad(tuple(loads), (*sentences, forecast.sentence) if forecast.sentence else tuple(sentences))


def _calibrations(
    query: EngineQuery, engines: Sequence[ScrapedEngine], works: Sequence[EngineWork | None]
) -> dict[tuple[str, LoadRung], Calibration]:
    groups: dict[tuple[str, LoadRung], list[EngineWork]] = {}
    for one, work in zip(engines, works, strict=True):
        if work is not None:
            groups.setdefault((one.model, work.rung), []).append(work)
    return {key: calibrate(group, query) for key, group in sorted(groups.items(), key=lambda item: item[0][0])}


def _describe(model: str, calibration: Calibration, query: EngineQuery, rung: LoadRung) -> str:
    return (f"{model}: " if model else "") + calibration.describe(query, rung)


def _load(
    query: EngineQuery,
    history: TargetHistory,
    work: EngineWork,
    calibration: Calibration,
    forecast: LoadForecast,
    expires: float,
) -> EngineLoad:
    sample, title = work.sample, work.sample.engine or "page"
    requests = requests_now(sample)
    if not requests and work.current is not None:
        requests = work.current.ended or 0.0
    share = None
    if work.current is not None:
        share = work_share(work, work.current, calibration.reference, query)
    if share is None:
        return unknown_load(sample, history.url, _unknown_reason(work), requests, expires)
    replicas, backlog = query.headroom * share.total * forecast.factor, calibration.backlog_of(work)
    if share.is_least:
        replicas = max(replicas, 1.0)  # how much it works is not known: it counts as at the target
    if work.waiting and calibration.requests_per_second is None:
        backlog = max(0.0, 1 - replicas)  # it is not known how long they wait: the engine counts as at the target
    value = round(100 * (replicas + backlog), 6)
    how = _how(work, share, query, backlog)
    unknown = [it.unknown(sample) for it in (WAITING, RUNNING, KV_CACHE) if it.name in sample.known_parts]
    if work.unknown_reading:
        unknown.append(work.unknown_reading)
    if unknown:
        why = f"{unknown[0]}; the load is at least {value:.3g} % ({how})"
        return unknown_load(sample, history.url, why, requests, expires, value)
    sentence = f"{value:.3g} % by {title} at {history.url} ({how})"
    if work.rung in (LoadRung.SERVICE_TIME, LoadRung.RUNNING):
        sentence += ensemble_remark(sample)
    return EngineLoad(
        value,
        sentence,
        requests,
        expires,
        are_requests_known=sample.running is not None,
        unknown_requests=unknown_requests(sample),
    )


def _unknown_reason(work: EngineWork) -> str:
    if work.current is None:
        return "it has one sample so far, and its work needs two"
    if work.rung is LoadRung.NONE:
        return "exports neither times per token nor running requests"
    return "exports neither times per token nor a KV cache, and no limit of its running requests is known: set maxSeqs"


def _how(work: EngineWork, share: WorkShare, query: EngineQuery, backlog: float) -> str:
    parts = []
    span = work.current
    if share.by_time is not None:
        parts.append(f"time {100 * share.by_time:.0f} %{_token_time(span)}")
    if share.by_seats is not None:
        parts.append(f"seats and cache {100 * share.by_seats:.0f} %")
    if share.prefill >= _SHOWN_SHARE:
        parts.append(f"of it prompts {100 * share.prefill:.0f} %, estimated")
    parts.append(f"headroom {query.headroom:g}")
    if share.is_least:
        parts.append("at least as at the target: requests run, and nothing shows their time per token")
    if backlog:
        parts.append(f"{work.waiting:.0f} waiting {100 * backlog:.0f} %")
    return ", ".join(parts)


def _token_time(span: Span | None) -> str:
    if span is None or not span.token_seconds:
        return ""
    whose = " of requests that ended before" if span.is_time_earlier else ""
    return f", {1000 * span.token_seconds:.3g} ms per token{whose}"
