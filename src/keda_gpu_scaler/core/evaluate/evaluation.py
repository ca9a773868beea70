# SPDX-License-Identifier: Apache-2.0
"""Evaluates one trigger: the value for the HPA, and whether the workload should run.

Law: unknown is not zero. Missing data moves no value up and scales no workload to zero. Where too little is observed
there is no value, but a reason, and the workload stays active.
"""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from keda_gpu_scaler.core.comparison import NO_COMPARISON, Comparison
from keda_gpu_scaler.core.evaluate.activity import (
    decide_activity,
    decide_activity_at_zero,
    decide_activity_without_value,
)
from keda_gpu_scaler.core.evaluate.by_device import measure_devices
from keda_gpu_scaler.core.evaluate.by_endpoint import measure_endpoint
from keda_gpu_scaler.core.evaluate.by_workload import measure_workload
from keda_gpu_scaler.core.evaluate.compare import compare
from keda_gpu_scaler.core.evaluate.demand import DemandObservation, observe_demand
from keda_gpu_scaler.core.evaluate.measurement import Measurement, NoMeasurement, ScaledToZero, misconfigured
from keda_gpu_scaler.core.evaluate.observation import DeviceObservation, PodObservation, node_labels_unavailable
from keda_gpu_scaler.core.evaluate.report_type import NO_ACCESS, jobs_problem, report_type
from keda_gpu_scaler.core.evaluate.workload_view import WorkloadView
from keda_gpu_scaler.core.hpa.reported_value import ReportedValue
from keda_gpu_scaler.core.hpa.scaled_job import for_jobs
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.parser import Scope, Trigger
from keda_gpu_scaler.core.types import Unavailable, Workload

_ZERO = ReportedValue(0.0, 0, ())  # of a workload that is scaled to zero
_NO_METADATA: Mapping[str, str] = MappingProxyType({})


class NoValue(enum.Enum):
    """Why an evaluation has no value."""

    UNAVAILABLE = "unavailable"
    """The data is missing at the moment. It may come back without a change of the configuration."""

    MISCONFIGURED = "misconfigured"
    """The trigger needs data that does not exist. This needs a change of the configuration."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The answer to one trigger at one instant.

    ``value`` is the reported value in the metric's unit, finite and not negative. It is None where ``no_value_reason``
    and ``reason`` say why. ``steps`` are sentences that describe how the answer was computed, in order. ``with_value``
    of ``expected`` ready pods (or devices) had a value. ``kept_active_by_missing_data`` says that ``active`` is true
    only because data is missing. ``is_activity_unknown`` says that it is not even known whether the workload is scaled
    to zero. ``demand`` is the observed demand, None where the trigger names no source of demand. ``contradiction`` says
    that requests wait and the value asks for no replica for them. ``fallback`` says that the value comes from another
    source than the one that the metric names first, and why. ``cold_start_seconds`` is the median time from the
    creation of a pod until it was ready, None where it is not known. ``observations`` are the observed pods or devices,
    in the order of the steps. ``replicas`` is the size that the HPA computes from the value, without its limits and its
    behaviour; None where it is not known. ``comparison`` has the numbers that every output shows. Until
    ``expires_at_seconds``, on the clock of ``now``, the same arguments give the same evaluation.
    """

    scope: Scope
    value: float | None
    active: bool
    steps: tuple[str, ...]
    no_value_reason: NoValue | None = None
    reason: str = ""
    with_value: int = 0
    expected: int = 0
    kept_active_by_missing_data: bool = False
    is_activity_unknown: bool = False
    demand: DemandObservation | None = None
    contradiction: str = ""
    fallback: str = ""
    cold_start_seconds: float | None = None
    replicas: int | None = None
    comparison: Comparison = NO_COMPARISON
    observations: tuple[PodObservation | DeviceObservation, ...] = field(default=(), compare=False, repr=False)
    expires_at_seconds: float = field(default=-math.inf, compare=False)

    @property
    def known_activity(self) -> bool | None:
        """Whether the workload should run, as far as it was observed; None where missing data would decide."""
        return None if self.kept_active_by_missing_data else self.active


def evaluate(
    trigger: Trigger,
    fleet: Fleet,
    now: float,
    workload: Workload | Unavailable | None = None,
    metadata: Mapping[str, str] = _NO_METADATA,
) -> Evaluation:
    """Evaluate one trigger. The same arguments give the same evaluation.

    Args:
        trigger: the parsed trigger.
        fleet: the snapshots and scrape results, and the age from which they are stale.
        now: monotonic seconds, on the clock of the fleet's histories and of the workload's pods.
        workload: the workload, or why it is not known; None without access to the API server.
        metadata: the trigger's metadata as KEDA sent it. It identifies the trigger in the workload, for its
            ``metricType``.
    """
    scope = trigger.scope or (Scope.FLEET if workload is None else Scope.WORKLOAD)
    demand = _observe_demand(trigger, fleet, now)
    view = WorkloadView(trigger, workload, fleet, now) if isinstance(workload, Workload) else None
    measured: Measurement | NoMeasurement | ScaledToZero
    if labels_unavailable := node_labels_unavailable(trigger, fleet):
        measured = NoMeasurement(labels_unavailable)
    elif problem := jobs_problem(workload, metadata):
        measured = NoMeasurement(problem)
    elif scope is not Scope.WORKLOAD:
        report = report_type(trigger, workload, metadata)
        if scope is Scope.ENDPOINT:
            measured = measure_endpoint(trigger, fleet, now, report, view, demand, metadata)
        else:
            measured = measure_devices(trigger, scope, fleet, now, report, view)
    elif view is not None:
        measured = measure_workload(view, demand, metadata)
    else:
        measured = NoMeasurement(workload if isinstance(workload, Unavailable) else _no_workload(trigger))
    if isinstance(measured, NoMeasurement):
        return _without_value(scope, measured, demand, view)
    if isinstance(measured, ScaledToZero):
        return _at_zero(scope, trigger, measured, demand, view)
    return _with_value(scope, trigger, now, measured, demand, view)


def _observe_demand(trigger: Trigger, fleet: Fleet, now: float) -> DemandObservation | None:
    if trigger.demand is None:
        return None
    return observe_demand(
        trigger.demand,
        fleet.scrape_results.get(trigger.demand.endpoint),
        window_seconds=trigger.window_seconds,
        stale_after_seconds=fleet.stale_after_seconds,
        now=now,
    )


def _no_workload(trigger: Trigger) -> Unavailable:
    other = "name one endpoint: engineEndpoint" if trigger.engine else "set scope: fleet or node"
    return misconfigured(f"metadata.scope: {NO_ACCESS}, or {other}")


def _with_value(
    scope: Scope,
    trigger: Trigger,
    now: float,
    measured: Measurement,
    demand: DemandObservation | None,
    view: WorkloadView | None,
) -> Evaluation:
    reported = _for_jobs(measured.reported, trigger, view)
    activity = decide_activity(trigger, measured.evidence, demand, now)
    expires = [
        *measured.evidence.expires_at_seconds,
        *[pod.created_at_seconds + trigger.startup_grace_seconds for pod in measured.evidence.starting],
    ]
    if (hold := measured.evidence.hold) is not None:
        expires.append(hold.until_seconds)
    if demand is not None:
        expires.append(demand.expires_at_seconds)
    return Evaluation(
        scope=scope,
        value=reported.value,
        active=activity.active,
        steps=(*measured.steps, *reported.steps, activity.describe()),
        with_value=measured.with_value,
        expected=measured.expected,
        kept_active_by_missing_data=activity.is_kept_by_missing_data,
        # Without the workload it is not known whether it is scaled to zero. Then even "no change" would be a guess.
        is_activity_unknown=activity.is_kept_by_missing_data and _needs_demand(demand, view),
        demand=demand,
        contradiction=measured.contradiction,
        fallback=measured.fallback,
        cold_start_seconds=view.cold_start_seconds if view is not None else None,
        replicas=reported.replicas,
        comparison=compare(measured, reported, activity, view),
        observations=measured.observations,
        expires_at_seconds=min(expires, default=-math.inf),
    )


def _at_zero(
    scope: Scope,
    trigger: Trigger,
    measured: ScaledToZero,
    demand: DemandObservation | None,
    view: WorkloadView | None,
) -> Evaluation:
    reported = _for_jobs(measured.reported, trigger, view) if measured.reported else None
    activity = decide_activity_at_zero(demand)
    return Evaluation(
        scope=scope,
        value=reported.value if reported else 0.0,
        active=activity.active,
        steps=(
            *measured.steps,
            *(reported.steps if reported else ("0: the workload has no replica",)),
            activity.describe(),
        ),
        kept_active_by_missing_data=activity.is_kept_by_missing_data,
        demand=demand,
        comparison=compare(None, reported or _ZERO, activity, view),
        expires_at_seconds=demand.expires_at_seconds if demand else math.inf,
    )


def _without_value(
    scope: Scope, measured: NoMeasurement, demand: DemandObservation | None, view: WorkloadView | None
) -> Evaluation:
    why, activity = measured.why, decide_activity_without_value(demand)
    return Evaluation(
        scope=scope,
        value=None,
        active=activity.active,
        steps=(*measured.steps, why.reason, activity.describe()),
        no_value_reason=NoValue.MISCONFIGURED if why.is_permanent else NoValue.UNAVAILABLE,
        reason=measured.reason,
        with_value=measured.with_value,
        expected=measured.expected,
        kept_active_by_missing_data=activity.is_kept_by_missing_data,
        is_activity_unknown=_needs_demand(demand, view),
        demand=demand,
        fallback=measured.fallback,
        comparison=compare(None, None, activity, view),
        observations=measured.observations,
    )


def _for_jobs(reported: ReportedValue, trigger: Trigger, view: WorkloadView | None) -> ReportedValue:
    """Return the value in KEDA's arithmetic for Jobs where the workload is a ScaledJob, else unchanged."""
    if view is None or view.job_rules is None:
        return reported
    return for_jobs(reported, trigger.target, view.job_rules, view.job_counts)


def _needs_demand(demand: DemandObservation | None, view: WorkloadView | None) -> bool:
    """Whether only demand could say that the workload should run, and does not say so."""
    return demand is not None and not demand.is_active and view is None
