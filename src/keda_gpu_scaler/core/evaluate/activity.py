# SPDX-License-Identifier: Apache-2.0
"""Decides whether a workload should run.

Law: unknown is not zero. Missing data keeps a running workload active, and activates no workload that is scaled to
zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.evaluate.demand import DemandObservation
from keda_gpu_scaler.core.evaluate.measurement import ActivityEvidence
from keda_gpu_scaler.core.trigger.metrics import EngineMetric
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Pod


@dataclass(frozen=True, slots=True)
class Activity:
    """Whether the workload should run, and why. ``is_kept_by_missing_data`` says that only missing data keeps it."""

    active: bool
    why: str
    is_kept_by_missing_data: bool = False

    def describe(self) -> str:
        """Return the step that describes it."""
        return f"{'active' if self.active else 'inactive'}: {self.why}"


def decides_by_requests(trigger: Trigger, are_requests_known: bool) -> bool:
    """Whether requests alone say whether an engine has work.

    A KV cache may be in use without any request: it holds prefixes, and a vLLM before 0.11 counts a block that is never
    used. A threshold that the trigger itself sets is applied nevertheless.
    """
    metric = trigger.metric
    is_occupancy = isinstance(metric, EngineMetric) and metric.is_occupancy
    return is_occupancy and are_requests_known and not trigger.is_activation_given


def decide_activity(
    trigger: Trigger, evidence: ActivityEvidence, demand: DemandObservation | None, now: float
) -> Activity:
    """Decide by what was measured. The first reason to be active is the one that is reported."""
    threshold = f"activationThreshold {trigger.activation:g}"
    if evidence.busiest is not None and evidence.busiest > trigger.activation:
        return Activity(True, f"{evidence.busiest:.6g} is above {threshold}")
    if evidence.requests > 0:
        return Activity(True, f"{evidence.requests:.6g} requests are running, are waiting or ended within the window")
    if demand is not None and demand.is_active:
        return Activity(True, demand.sentence)
    if evidence.starting:
        return Activity(True, _describe_starting(evidence.starting, now))
    missing = list(evidence.missing_reasons)
    if demand is not None and demand.is_active is None:
        missing.append(demand.sentence)
    if missing:
        return Activity(
            True, f"it is not known whether the workload is idle: {missing[0]}", is_kept_by_missing_data=True
        )
    if evidence.hold is not None:
        return Activity(True, evidence.hold.reason, is_kept_by_missing_data=True)
    no_demand = f", and {demand.sentence}" if demand else ""
    if evidence.busiest is None:
        return Activity(
            False,
            f"no request is running, is waiting or ended within the window; {trigger.metric.name} shows how full the "
            f"engines are and does not decide{no_demand}",
        )
    return Activity(False, f"{evidence.busiest:.6g} is not above {threshold}{no_demand}")


def decide_activity_at_zero(demand: DemandObservation | None) -> Activity:
    """Decide for a workload that is scaled to zero. Only observed demand activates it."""
    if demand is None:
        return Activity(False, "it is scaled to zero")
    return Activity(demand.is_active is True, demand.sentence, is_kept_by_missing_data=demand.is_active is None)


def decide_activity_without_value(demand: DemandObservation | None) -> Activity:
    """Decide where there is no value: the workload stays active."""
    if demand is not None and demand.is_active:
        return Activity(True, demand.sentence)
    return Activity(True, "it is not known whether the workload is idle", is_kept_by_missing_data=True)


def _describe_starting(pods: Sequence[Pod], now: float) -> str:
    return f"{pods[0].ref.name} is starting, {now - pods[0].created_at_seconds:.0f} s old"
