# SPDX-License-Identifier: Apache-2.0
"""Measures a workload by its pods, on whichever nodes they run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from keda_gpu_scaler.core.evaluate.activity import decides_by_requests
from keda_gpu_scaler.core.evaluate.compare import measured_per_replica
from keda_gpu_scaler.core.evaluate.contradiction import queue_contradiction
from keda_gpu_scaler.core.evaluate.demand import DemandObservation
from keda_gpu_scaler.core.evaluate.measurement import (
    ActivityEvidence,
    Measurement,
    NoMeasurement,
    ScaledToZero,
    expiries,
    list_reasons,
    misconfigured,
    unavailable,
)
from keda_gpu_scaler.core.evaluate.missing_hold import ShrinkHold, shrink_hold
from keda_gpu_scaler.core.evaluate.observation import ObservationState, PodObservation
from keda_gpu_scaler.core.evaluate.outage import DataSource, activity_hold
from keda_gpu_scaler.core.evaluate.replica_groups import group_values
from keda_gpu_scaler.core.evaluate.report_type import report_type
from keda_gpu_scaler.core.evaluate.workload_view import WorkloadView
from keda_gpu_scaler.core.hpa.plain_value import plain_pods
from keda_gpu_scaler.core.hpa.reported_value import ReportedValue, ReportType, report_pods, report_wanted
from keda_gpu_scaler.core.hpa.scaled_job import wanted_jobs
from keda_gpu_scaler.core.state.scrape import AUTO
from keda_gpu_scaler.core.trigger.metrics import LOAD_OF_DEVICES, EngineMetric
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Pod, Unavailable

_NO_NUMBER = (
    "no ready pod has a value, and the formula of scalingModifiers takes a number: the size stays until one has"
)


def measure_workload(
    view: WorkloadView, demand: DemandObservation | None, metadata: Mapping[str, str]
) -> Measurement | NoMeasurement | ScaledToZero:
    """Measure the pods of a workload.

    Args:
        view: the workload as the trigger selects it.
        demand: the observed demand; None where the trigger names no source of demand.
        metadata: the trigger's metadata as KEDA sent it.
    """
    if view.is_scaled_to_zero:
        return scaled_to_zero(view, demand, metadata, view.steps())
    if falls_back_to_devices(view.trigger) and (reason := view.no_engine_reason):
        return _measure_devices_instead(view, reason, demand, metadata)
    return _measure_pods(view, demand, metadata)


def falls_back_to_devices(trigger: Trigger) -> bool:
    """Whether GPU utilisation is used where no pod has a known engine. An engine that is named is never replaced."""
    metric, query = trigger.metric, trigger.engine
    return isinstance(metric, EngineMetric) and metric.falls_back_to_devices and (query is None or query.engine == AUTO)


def scaled_to_zero(
    view: WorkloadView, demand: DemandObservation | None, metadata: Mapping[str, str], steps: tuple[str, ...]
) -> ScaledToZero:
    """Describe a workload without replicas and pods. Only observed demand activates it."""
    report = report_type(view.trigger, view.workload, metadata)
    reported = None if isinstance(report, Unavailable) else _report_demand(report, view, demand)
    return ScaledToZero(reported, steps)


def _measure_devices_instead(
    view: WorkloadView, reason: str, demand: DemandObservation | None, metadata: Mapping[str, str]
) -> Measurement | NoMeasurement:
    """Measure the load by the pods' devices where no pod has a known engine."""
    by_devices = WorkloadView(
        replace(view.trigger, metric=LOAD_OF_DEVICES, engine=None), view.workload, view.fleet, view.now
    )
    # A pod without a readiness probe is ready as soon as it runs. It may still be loading its model.
    loading = [one.pod for one in by_devices.ready if view.is_within_grace(one.pod)]
    measured = _measure_pods(by_devices, demand, metadata, loading)
    sentence = (
        f"no pod has a known engine ({reason}): {view.trigger.metric.name} is computed from GPU utilisation, of which "
        "80 % counts as 100 %"
    )
    attempts = {one.pod.ref: one.attempts for one in view.observations}
    observations = tuple(
        replace(one, attempts=attempts[one.pod.ref]) if isinstance(one, PodObservation) else one
        for one in measured.observations
    )
    return replace(measured, steps=(sentence, *measured.steps), fallback=sentence, observations=observations)


def _measure_pods(
    view: WorkloadView,
    demand: DemandObservation | None,
    metadata: Mapping[str, str],
    loading: Sequence[Pod] = (),
) -> Measurement | NoMeasurement:
    steps, observations = view.steps(), tuple(view.observations)
    if reason := view.no_device_reason:
        return NoMeasurement(misconfigured(reason), steps, observations=observations)
    with_value, expected = len(view.values), len(view.values) + len(view.missing)
    if expected and (not with_value or with_value / expected < view.trigger.min_coverage):
        what = "no fresh reading of" if view.trigger.engine else "no fresh sample for"
        reason = f"{what} {expected - with_value} of {expected} ready pods: {list_reasons(view.missing)}"
        return NoMeasurement(unavailable(reason), steps, with_value, expected, observations)
    report = report_type(view.trigger, view.workload, metadata)
    if isinstance(report, Unavailable):
        return NoMeasurement(report, steps, observations=observations)
    reported_demand = _report_demand(report, view, demand)
    if view.workload.formula is not None and not view.has_value and reported_demand is None:
        return NoMeasurement(unavailable(_NO_NUMBER), steps, observations=observations)
    if view.out_of_scope and view.workload.formula is None:
        steps = (*steps, f"{len(view.out_of_scope)} ready pods are out of scope: they count as at the target")
    hold = shrink_hold(view)
    reported = reported_demand or _report_pods(report, view, hold)
    contradiction = queue_contradiction(view, reported)
    return Measurement(
        reported,
        _evidence(view, demand, loading, hold),
        (*steps, contradiction) if contradiction else steps,
        with_value,
        expected,
        observations,
        contradiction,
        measured=measured_per_replica(view),
        report=report,
    )


def _report_pods(report: ReportType, view: WorkloadView, hold: ShrinkHold | None) -> ReportedValue:
    if view.job_rules is not None:
        return _report_jobs(view)
    if view.is_grouped:
        return _report_groups(report, view, hold)
    if view.workload.formula is not None:
        return plain_pods(report, view.values, unknown=len(view.ready) - len(view.values))
    with_value, out_of_scope = len(view.values), len(view.out_of_scope)
    return report_pods(
        report,
        # Whether a pod out of scope is idle or busy is not known: it counts as at the target, up and down.
        [*view.values, *[view.trigger.target] * out_of_scope],
        missing=len(view.ready) - with_value - out_of_scope,
        unready=len(view.pods) - len(view.ready),
        size=view.size,
        target=view.trigger.target,
        tolerances=view.workload.tolerances,
        shrink_hold=hold.reason if hold is not None else "",
    )


def _report_groups(report: ReportType, view: WorkloadView, hold: ShrinkHold | None) -> ReportedValue:
    """Report the replicas, each of which is a group of pods with one value."""
    values = group_values(view.groups)
    observed, missing = values[ObservationState.OBSERVED], len(values[ObservationState.MISSING])
    out_of_scope = len(values[ObservationState.OUT_OF_SCOPE])
    if view.workload.formula is not None and observed:
        return plain_pods(
            report,
            observed,
            unknown=missing + out_of_scope,
            pods_per_replica=view.pods_per_replica,
            noun="groups",
        )
    return report_pods(
        report,
        [*observed, *[view.trigger.target] * out_of_scope],
        missing=missing,
        unready=len(values[ObservationState.NOT_READY]),
        size=view.size,
        target=view.trigger.target,
        tolerances=view.workload.tolerances,
        shrink_hold=hold.reason if hold is not None else "",
        pods_per_replica=view.pods_per_replica,
        noun="groups",
    )


def _report_jobs(view: WorkloadView) -> ReportedValue:
    """Report the number of Jobs that the resource-metric rules want. One Job is one replica, whatever its pods."""
    values = group_values(view.groups)
    out_of_scope = len(values[ObservationState.OUT_OF_SCOPE])
    return wanted_jobs(
        [*values[ObservationState.OBSERVED], *[view.trigger.target] * out_of_scope],
        missing=len(values[ObservationState.MISSING]),
        unready=len(values[ObservationState.NOT_READY]),
        running=view.job_counts.running,
        target=view.trigger.target,
    )


def _evidence(
    view: WorkloadView, demand: DemandObservation | None, loading: Sequence[Pod], hold: ShrinkHold | None
) -> ActivityEvidence:
    """Collect what says whether the workload has work. All of its pods count, whichever of them the trigger selects."""
    unnarrowed = view.unnarrowed_observations
    observed = view.observations if unnarrowed is view.observations else [*view.observations, *unnarrowed]
    return ActivityEvidence(
        busiest=_busiest(view, unnarrowed),
        requests=math.fsum([one.requests for one in view.observations]),
        starting=(*view.starting, *loading),
        missing_reasons=(*view.missing_reasons, *_unknown_requests(view), *_not_scraped(view, demand)),
        expires_at_seconds=(*expiries(observed), *([hold.until_seconds] if hold is not None else [])),
        hold=activity_hold(view.workload, _sources(view), view.trigger.min_coverage, view.now),
    )


def _sources(view: WorkloadView) -> list[DataSource]:
    return [
        DataSource(one.run, one.pod.serving_since_seconds)
        for one in view.ready
        if one.value is not None and one.run is not None
    ]


def _busiest(view: WorkloadView, observations: Sequence[PodObservation]) -> float | None:
    """Return the largest value; None where it shows how full the engines are and their requests are known."""
    observed = [one for one in observations if one.value is not None]
    if observed and all(decides_by_requests(view.trigger, one.are_requests_known) for one in observed):
        return None
    groups = [group.value or 0.0 for group in view.groups] if view.is_grouped else []
    return max([*[one.value or 0.0 for one in observed], *groups], default=0.0)


def _unknown_requests(view: WorkloadView) -> list[str]:
    """Return the pods that have a value, and whose number of requests is not known although it is exported."""
    return [
        f"{one.pod.ref.name}: {one.unknown_requests}"
        for one in view.unnarrowed_observations
        if one.state is ObservationState.OBSERVED and one.unknown_requests
    ]


def _not_scraped(view: WorkloadView, demand: DemandObservation | None) -> list[str]:
    """Return the pods whose work is not known, because no engine is scraped and no demand is known either.

    A pod that is overloaded, or that restarts its engine, is not ready. It may be the only pod.
    """
    is_demand_known = demand is not None and demand.is_active is not None
    if view.asked or is_demand_known:
        return []
    return [
        f"{one.pod.ref.name}: {one.sentence}"
        for one in view.observations
        if one.state is ObservationState.NOT_READY and one.pod.node is not None
    ]


def _report_demand(report: ReportType, view: WorkloadView, demand: DemandObservation | None) -> ReportedValue | None:
    """Report the size that demand needs while no pod is ready; None where the trigger does not request that."""
    query, is_plain = view.trigger.demand, view.job_rules is not None or view.workload.formula is not None
    if query is None or demand is None or not (demand.is_active and demand.value) or view.has_ready_replica:
        return None
    if query.per_replica is not None:
        wanted = math.ceil(demand.value / query.per_replica)
        sentence = f"demand {demand.value:.6g}, {query.per_replica:g} for each replica (demandPerReplica)"
    elif is_plain:  # KEDA starts as many jobs as the value says, and a formula activates by the value; not by activity
        wanted, sentence = 1, demand.sentence
    else:
        return None
    return report_wanted(
        report,
        wanted,
        sentence,
        size=view.size,
        target=view.trigger.target,
        is_plain=is_plain,
        tolerances=view.workload.tolerances,
    )
