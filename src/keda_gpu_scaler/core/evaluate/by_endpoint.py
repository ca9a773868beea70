# SPDX-License-Identifier: Apache-2.0
"""Measures the engine behind one URL, whichever pods answer there."""

from collections.abc import Mapping

from keda_gpu_scaler.core.evaluate.activity import decides_by_requests
from keda_gpu_scaler.core.evaluate.by_device import measure_observations
from keda_gpu_scaler.core.evaluate.by_workload import scaled_to_zero
from keda_gpu_scaler.core.evaluate.demand import DemandObservation
from keda_gpu_scaler.core.evaluate.engine_observation import observe_endpoint
from keda_gpu_scaler.core.evaluate.measurement import Measurement, NoMeasurement, ScaledToZero, unavailable
from keda_gpu_scaler.core.evaluate.observation import describe_window
from keda_gpu_scaler.core.evaluate.workload_view import WorkloadView
from keda_gpu_scaler.core.hpa.reported_value import ReportType
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Unavailable


def measure_endpoint(
    trigger: Trigger,
    fleet: Fleet,
    now: float,
    report: ReportType | Unavailable,
    view: WorkloadView | None,
    demand: DemandObservation | None,
    metadata: Mapping[str, str],
) -> Measurement | NoMeasurement | ScaledToZero:
    """Measure one URL.

    Args:
        trigger: the parsed trigger.
        fleet: the scrape results.
        now: monotonic seconds.
        report: what the HPA expects, or why that is not known.
        view: the workload; None where it is not known.
        demand: the observed demand; None where the trigger names no source of demand.
        metadata: the trigger's metadata as KEDA sent it.
    """
    if view is not None and view.is_scaled_to_zero:  # no pod is left that could answer
        return scaled_to_zero(view, demand, metadata, ())
    observed = observe_endpoint(trigger, fleet, now)
    observation, load = observed.observation, observed.load
    heading = f"{trigger.metric.name} at {observation.node} ({describe_window(trigger)})"
    steps = (heading, *observed.sentences, observation.sentence)
    if observation.value is None:
        reason = f"no fresh reading of {observation.node}: {observation.sentence}"
        return NoMeasurement(unavailable(reason), steps, expected=1, observations=(observation,))
    by_requests = decides_by_requests(trigger, load.are_requests_known)
    return measure_observations(
        trigger,
        [observation],
        report,
        view,
        steps,
        requests=load.requests,
        has_threshold=not by_requests,
        unknown_requests=load.unknown_requests,
    )
