# SPDX-License-Identifier: Apache-2.0
"""Observes the pods and endpoints whose engines a trigger selects.

Law: a pod without a value is counted as missing, with the reason. A known part of a value counts only where it can only
prevent a smaller size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.evaluate.device_load import devices_by_pod
from keda_gpu_scaler.core.evaluate.engine_load import EngineLoad, engine_load, pod_endpoint, url_endpoint
from keda_gpu_scaler.core.evaluate.load.trend import Horizon
from keda_gpu_scaler.core.evaluate.load.workload_load import ScrapedEngine, WorkloadLoad, workload_load
from keda_gpu_scaler.core.evaluate.observation import (
    DeviceObservation,
    ObservationState,
    ObservedPods,
    PodObservation,
    is_ready,
)
from keda_gpu_scaler.core.evaluate.ranks import are_named, combine_ranks, ranks_of
from keda_gpu_scaler.core.state.data_run import DataRun
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import NO_ATTEMPTS, ScrapeResult
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.metrics import EngineMetric
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Pod, PodRef


def observe_engines(
    trigger: Trigger, metric: EngineMetric, pods: Sequence[Pod], fleet: Fleet, now: float, horizon: Horizon | None
) -> ObservedPods:
    """Observe every pod by its engines.

    Args:
        trigger: the parsed trigger.
        metric: its metric.
        pods: the pods of the workload.
        fleet: the scrape results, and the snapshots that show the model of each pod's devices.
        now: monotonic seconds.
        horizon: how far ``load`` is forecast; None where the trigger requests no forecast.
    """
    query = _engine_query(trigger)
    scraped = [pod for pod in pods if is_ready(pod) and pod.address and not pod.is_worker]
    results = {pod.ref: fleet.scrape_results.get(pod_endpoint(query, pod)) for pod in scraped}
    ranks = [(pod, rank) for pod in scraped for rank in ranks_of(query, results[pod.ref])]
    sentences: tuple[str, ...] = ()
    if metric.reading == "load":
        engines = [ScrapedEngine(rank, _device_model(pod, fleet), pod.ready_at_seconds) for pod, rank in ranks]
        measured = _workload_load(trigger, query, engines, fleet, now, horizon)
        loads, sentences = measured.loads, measured.sentences
    else:
        loads = tuple([_load(trigger, metric, query, rank, fleet, now) for _, rank in ranks])
    by_ref: dict[PodRef, list[EngineLoad]] = {}
    for (pod, _), load in zip(ranks, loads, strict=True):
        by_ref.setdefault(pod.ref, []).append(load)
    observations = []
    for pod in pods:
        of_pod = by_ref.get(pod.ref)
        load_of_pod = combine_ranks(metric, of_pod, are_named=are_named(query)) if of_pod else None
        scraped_pod = results.get(pod.ref)
        pages = _pages(scraped_pod, fleet, now)
        observations.append(_engine_observation(pod, load_of_pod, scraped_pod, trigger.target, pages))
    return ObservedPods(observations, sentences)


@dataclass(frozen=True, slots=True)
class ObservedEndpoint:
    """The engine behind a URL: its observation, the load behind it, and how the load was computed."""

    observation: DeviceObservation
    load: EngineLoad
    sentences: tuple[str, ...] = ()


def observe_endpoint(trigger: Trigger, fleet: Fleet, now: float) -> ObservedEndpoint:
    """Observe the engine behind the trigger's URL."""
    if not isinstance(trigger.metric, EngineMetric):
        raise TypeError(f"{trigger.metric.name} is no metric of an engine")
    query = _engine_query(trigger)
    scraped = fleet.scrape_results.get(url_endpoint(query))
    sentences: tuple[str, ...] = ()
    if trigger.metric.reading == "load":
        measured = _workload_load(trigger, query, [ScrapedEngine(scraped)], fleet, now, None)
        load, sentences = measured.loads[0], measured.sentences
    else:
        load = _load(trigger, trigger.metric, query, scraped, fleet, now)
    attempts = scraped.shown_attempts if scraped is not None else NO_ATTEMPTS
    run = _pages(scraped, fleet, now).run
    value, sentence = _known_value(load, trigger.target)
    observation = DeviceObservation(query.url, None, value, sentence, load.expires_at_seconds, run, attempts)
    return ObservedEndpoint(observation, load, sentences)


def _engine_query(trigger: Trigger) -> EngineQuery:
    if trigger.engine is None:
        raise ValueError(f"{trigger.metric.name} is a metric of an engine, and the trigger has no engine query")
    return trigger.engine


@dataclass(frozen=True, slots=True)
class _Pages:
    """When the pages of an endpoint came: ``run`` as in an observation, ``until_seconds`` where no page is fresh."""

    run: DataRun | None = None
    until_seconds: float | None = None


def _pages(scraped: ScrapeResult | None, fleet: Fleet, now: float) -> _Pages:
    targets = [target for target in scraped.targets if target.newest is not None] if scraped is not None else []
    if not targets:
        return _Pages()
    # Of several ranks the last one that answered again ended the gap, and the first one without an answer began it.
    runs = [target.run for target in targets if target.run is not None]
    stale = [target for target in targets if not target.is_fresh(now, fleet.stale_after_seconds)]
    return _Pages(
        max(runs, key=lambda run: run.since_seconds, default=None),
        min([target.samples[-1].at_seconds for target in stale], default=None),
    )


def _engine_observation(
    pod: Pod, load: EngineLoad | None, scraped: ScrapeResult | None, target: float, pages: _Pages
) -> PodObservation:
    if not is_ready(pod):
        return PodObservation(pod, ObservationState.NOT_READY, None, "its engine is not scraped while it is not ready")
    if pod.is_worker:
        return PodObservation(pod, ObservationState.WORKER, None, "the leader of its replica answers for it")
    if load is None:
        return PodObservation(pod, ObservationState.MISSING, None, "has no address yet")
    value, sentence = _known_value(load, target)
    return PodObservation(
        pod,
        ObservationState.MISSING if value is None else ObservationState.OBSERVED,
        value,
        sentence,
        load.expires_at_seconds,
        load.requests,
        load.is_no_engine,
        are_requests_known=load.are_requests_known,
        run=pages.run,
        known_until_seconds=pages.until_seconds if value is None else None,
        attempts=scraped.shown_attempts if scraped is not None else NO_ATTEMPTS,
        unknown_requests=load.unknown_requests,
    )


def _known_value(load: EngineLoad, target: float) -> tuple[float | None, str]:
    """Return the value that counts, and its sentence.

    A lower bound above the target counts. It is more than a missing pod counts, so it can only prevent a smaller size.
    """
    if load.value is not None or load.lower_bound is None or load.lower_bound <= target:
        return load.value, load.sentence
    return load.lower_bound, f"at least {load.lower_bound:.6g}: {load.sentence}"


def _load(
    trigger: Trigger,
    metric: EngineMetric,
    query: EngineQuery,
    scraped: ScrapeResult | None,
    fleet: Fleet,
    now: float,
) -> EngineLoad:
    return engine_load(
        query,
        metric,
        scraped,
        window_seconds=trigger.window_seconds,
        stale_after_seconds=fleet.stale_after_seconds,
        now=now,
    )


def _workload_load(
    trigger: Trigger,
    query: EngineQuery,
    engines: Sequence[ScrapedEngine],
    fleet: Fleet,
    now: float,
    horizon: Horizon | None,
) -> WorkloadLoad:
    return workload_load(
        query,
        engines,
        window_seconds=trigger.window_seconds,
        stale_after_seconds=fleet.stale_after_seconds,
        now=now,
        horizon=horizon,
    )


def _device_model(pod: Pod, fleet: Fleet) -> str:
    """Return the model of a pod's devices, empty where it is not known. It is known also from an old snapshot."""
    history = fleet.node(pod.node or "")
    by_pod = devices_by_pod(history, fleet.assignments) if history is not None else None
    devices = by_pod.get(pod.ref) if by_pod is not None else None
    return devices.shares[0].device.model if devices is not None and devices.shares else ""
