# SPDX-License-Identifier: Apache-2.0
"""Measures the devices of one node or of the whole fleet, whichever pods hold them."""

import math
from collections.abc import Sequence

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.evaluate.measurement import (
    ActivityEvidence,
    Measurement,
    NoMeasurement,
    expiries,
    list_reasons,
    misconfigured,
    unavailable,
)
from keda_gpu_scaler.core.evaluate.observation import (
    DeviceObservation,
    describe_window,
    observe_devices,
    observe_missing_nodes,
)
from keda_gpu_scaler.core.evaluate.outage import DataSource, activity_hold
from keda_gpu_scaler.core.evaluate.workload_view import WorkloadView
from keda_gpu_scaler.core.hpa.plain_value import plain_devices
from keda_gpu_scaler.core.hpa.reported_value import ReportedValue, ReportType, report_devices
from keda_gpu_scaler.core.scaling_rules import DEFAULT_TOLERANCES
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, Fleet, History
from keda_gpu_scaler.core.trigger.parser import Scope, Trigger
from keda_gpu_scaler.core.types import Unavailable

_MAX_MODELS = 3  # this many models are listed where none of them fits


def measure_devices(
    trigger: Trigger,
    scope: Scope,
    fleet: Fleet,
    now: float,
    report: ReportType | Unavailable,
    view: WorkloadView | None,
) -> Measurement | NoMeasurement:
    """Measure the devices of this node (scope node) or of all nodes (scope fleet).

    Args:
        trigger: the parsed trigger.
        scope: NODE or FLEET.
        fleet: the snapshots of the nodes.
        now: monotonic seconds.
        report: what the HPA expects, or why that is not known.
        view: the workload, for its size and starting pods; None where it is not known.
    """
    if why := _no_snapshot(scope, fleet, now):
        return NoMeasurement(why)
    nodes = _nodes(scope, fleet)
    observations = observe_devices(trigger, nodes, fleet, now)
    if scope is Scope.FLEET:
        observations += observe_missing_nodes(trigger, fleet, observations)
    if not observations:
        return NoMeasurement(misconfigured(_no_device_reason(trigger, nodes)))
    steps = _steps(trigger, scope, nodes, observations)
    with_value = sum([observation.value is not None for observation in observations])
    if not with_value or with_value / len(observations) < trigger.min_coverage:
        reason = _missing_reason(trigger, observations)
        return NoMeasurement(unavailable(reason), steps, with_value, len(observations), tuple(observations))
    return measure_observations(trigger, observations, report, view, steps)


def measure_observations(
    trigger: Trigger,
    observations: Sequence[DeviceObservation],
    report: ReportType | Unavailable,
    view: WorkloadView | None,
    steps: tuple[str, ...],
    *,
    requests: float = 0.0,
    has_threshold: bool = True,
    unknown_requests: str = "",
) -> Measurement | NoMeasurement:
    """Aggregate observations of devices (or of one URL), at least one of which has a value.

    Without the workload's size there is no total while a device is missing: the total of the others would be too low,
    and the HPA would take it for the load of the whole workload. ``requests`` is the number of requests of the engine,
    and without ``has_threshold`` it alone says whether the workload has work. ``unknown_requests`` says which number
    of requests is not known, and is empty where there is none.
    """
    if isinstance(report, Unavailable):
        return NoMeasurement(report, steps, observations=tuple(observations))
    known = [observation.value for observation in observations if observation.value is not None]
    missing = [observation.sentence for observation in observations if observation.value is None]
    if view is None and report is ReportType.TOTAL and missing:
        reason = _missing_reason(trigger, observations)
        return NoMeasurement(unavailable(reason), steps, len(known), len(observations), tuple(observations))
    reported = _reported(trigger, report, known, len(missing), view)
    evidence = ActivityEvidence(
        busiest=AGGREGATIONS[trigger.aggregation](known) if has_threshold else None,
        requests=requests,
        starting=tuple(view.starting) if view else (),
        # A workload without a replica has no work on a missing device.
        missing_reasons=() if view and view.is_scaled_to_zero else (*missing, *filter(None, [unknown_requests])),
        expires_at_seconds=expiries(observations),
        hold=activity_hold(view.workload, _sources(observations), trigger.min_coverage, view.now) if view else None,
    )
    return Measurement(
        reported,
        evidence,
        steps,
        len(known),
        len(observations),
        tuple(observations),
        measured=_measured(trigger, report, known, view),
        report=report,
    )


def _measured(trigger: Trigger, report: ReportType, known: Sequence[float], view: WorkloadView | None) -> float | None:
    """Return what one replica is compared by: the aggregate, or its part of a sum over all devices."""
    value = AGGREGATIONS[trigger.aggregation](known)
    if trigger.aggregation != "sum" or report is ReportType.AVERAGE:
        return value
    replicas = view.workload.spec_replicas if view is not None else 0
    return value / replicas if replicas else None


def _sources(observations: Sequence[DeviceObservation]) -> list[DataSource]:
    known = [one.run for one in observations if one.value is not None and one.run is not None]
    return [DataSource(run, -math.inf) for run in known]


def _reported(
    trigger: Trigger, report: ReportType, known: Sequence[float], missing: int, view: WorkloadView | None
) -> ReportedValue:
    if view is not None and view.workload.formula is not None:
        return plain_devices(report, trigger.aggregation, known, missing=missing, replicas=view.workload.spec_replicas)
    return report_devices(
        report,
        trigger.aggregation,
        known,
        missing=missing,
        size=view.size if view else None,
        target=trigger.target,
        tolerances=view.workload.tolerances if view else DEFAULT_TOLERANCES,
    )


def _nodes(scope: Scope, fleet: Fleet) -> list[tuple[str, History]]:
    if scope is Scope.FLEET:
        return fleet.nodes()
    own = fleet.history
    return [(own.newest.node, own)] if own is not None else []


def _no_snapshot(scope: Scope, fleet: Fleet, now: float) -> Unavailable | None:
    """Return why no device of the scope can be observed; None where one may be."""
    is_alone = scope is Scope.NODE or not (fleet.peers or fleet.unavailable)
    if scope is Scope.FLEET and (unlisted := fleet.unavailable.get(PEERS_UNKNOWN)):
        return unavailable(f"the nodes of the fleet are not known yet: {unlisted}")
    if fleet.deviceless and is_alone:
        if scope is Scope.NODE:
            return misconfigured("this instance has no device by design (--backend none); call one on a GPU node")
        return misconfigured(
            "this instance has no device by design (--backend none), and knows no peer with a device; call one on a "
            "GPU node, or name the peers with --peers"
        )
    if is_alone and not fleet.is_fresh(now):
        return unavailable(fleet.own_missing_reason(now))
    return None


def _no_device_reason(trigger: Trigger, nodes: Sequence[tuple[str, History]]) -> str:
    """Say why the trigger selects no device of these nodes."""
    if len(nodes) == 1 and trigger.gpu_index is not None and trigger.gpu_model is None:
        node, history = nodes[0]
        indices = sorted({sample.device.index for sample in history.newest.samples})
        if indices:
            listed = ", ".join(map(str, indices))
            return f"metadata.gpuIndex: node {node} has no device {trigger.gpu_index}: it has {listed}; -1 means all"
    models = sorted({sample.device.model for _, history in nodes for sample in history.newest.samples})
    if models:
        return (
            "no device matches nodeSelector, gpuModel and gpuIndex together; the nodes have these models: "
            + ", ".join(models[:_MAX_MODELS])
        )
    if len(nodes) == 1:
        return f"node {nodes[0][0]} has no device; run the scaler on GPU nodes only"
    return "no node of the fleet has a device; run the scaler on GPU nodes"


def _missing_reason(trigger: Trigger, observations: Sequence[DeviceObservation]) -> str:
    missing = [observation for observation in observations if observation.value is None]
    return (
        f"{trigger.metric.name} is unknown for {len(missing)} of {len(observations)} devices: {list_reasons(missing)}; "
        "there is no value until they have a reading. Repair them, use another metricType, or narrow the trigger"
    )


def _steps(
    trigger: Trigger,
    scope: Scope,
    nodes: Sequence[tuple[str, History]],
    observations: Sequence[DeviceObservation],
) -> tuple[str, ...]:
    names = {observation.node for observation in observations}
    where = f"node {next(iter(names))}" if len(names) == 1 else f"{len(names)} nodes"
    sources = sorted({history.newest.source for node, history in nodes if node in names})
    return (
        f"scope {scope}: {trigger.metric.name} of {len(observations)} device(s) of {where} "
        f"({describe_window(trigger)}; {', '.join(sources)})",
        *dict.fromkeys([observation.sentence for observation in observations]),
    )
