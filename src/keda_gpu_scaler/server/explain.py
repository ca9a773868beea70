# SPDX-License-Identifier: Apache-2.0
"""How is a verdict told to people's tools? The message that Explain answers with.

The law of this module: it says what the verdict says, and decides nothing.
"""

import math
from collections.abc import Mapping

from keda_gpu_scaler.core.evaluate.demand import DemandObservation
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.evaluate.observation import DeviceObservation, ObservationState, PodObservation, is_ready
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.effective import effective_settings
from keda_gpu_scaler.core.trigger.metric_type import declared_type
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

MAX_STEPS = 2000
"""So many sentences of a verdict are told; a fleet of thousands of devices has more, and a message its limits."""

MAX_SIGHTS = 1000
"""So many pods or devices are told one by one."""


def explanation(
    trigger: Trigger,
    evaluation: Evaluation,
    workload: Workload | Unavailable | None,
    metadata: Mapping[str, str],
    fleet: Fleet,
    now: float,
) -> evaluation_pb.Evaluation:
    """Put a verdict, and what it rests on, into its message.

    Args:
        trigger: what was asked.
        evaluation: the answer.
        workload: what the verdict rests on.
        metadata: the trigger's, as it was sent.
        fleet: who answers, and how old a reading may be.
        now: monotonic seconds on the clock of the verdict.
    """
    return evaluation_pb.Evaluation(
        metric_name=trigger.metric_name,
        target=round(trigger.target, 3),
        scope=evaluation.scope,
        value=evaluation.value,
        no_value_reason=evaluation.no_value_reason.value if evaluation.no_value_reason else "",
        reason=evaluation.reason,
        active=evaluation.active,
        activity_unknown=evaluation.is_activity_unknown,
        with_value=evaluation.with_value,
        expected=evaluation.expected,
        steps=evaluation.steps[:MAX_STEPS],
        instance=fleet.own_node,
        metric=trigger.metric.name,
        unit=trigger.metric.unit,
        value_type=(declared_type(workload, metadata) or "") if isinstance(workload, Workload) else "",
        settings=[
            evaluation_pb.Setting(key=one.key, value=one.value, origin=one.origin)
            for one in effective_settings(trigger, metadata, evaluation.scope)
        ],
        hints=trigger.hints,
        workload=_told_workload(workload),
        observations=[
            _told_sight(observation, now, fleet.stale_after_seconds)
            for observation in evaluation.observations[:MAX_SIGHTS]
        ],
        observations_omitted=max(0, len(evaluation.observations) - MAX_SIGHTS),
        demand=_told_demand(evaluation.demand),
    )


def _told_workload(workload: Workload | Unavailable | None) -> evaluation_pb.Workload | None:
    if not isinstance(workload, Workload):
        return None
    return evaluation_pb.Workload(
        kind=workload.kind,
        target=workload.target,
        wanted=workload.spec_replicas,
        actual=workload.status_replicas,
        ready=sum(map(is_ready, workload.pods)),
    )


def _told_sight(
    observation: PodObservation | DeviceObservation, now: float, stale_after_seconds: float
) -> evaluation_pb.Observation:
    told = evaluation_pb.Observation(value=observation.value, sentence=observation.sentence)
    if observation.value is not None and math.isfinite(observation.expires_at_seconds):
        # What is believed for so long, and from now on only for so long, is as old as the rest.
        told.age_seconds = max(0.0, stale_after_seconds - (observation.expires_at_seconds - now))
    if isinstance(observation, PodObservation):
        told.pod, told.node = observation.pod.ref.name, observation.pod.node or ""
        told.ready, told.state = is_ready(observation.pod), observation.observation.value
        told.devices.extend(
            evaluation_pb.ObservedDevice(
                index=part.device.index,
                model=part.device.model,
                uuid=part.device.uuid,
                value=part.value,
                sharers=part.sharers,
            )
            for part in observation.device_values
        )
        return told
    told.node, told.ready = observation.node, observation.value is not None
    told.state = (ObservationState.MISSING if observation.value is None else ObservationState.OBSERVED).value
    if observation.device is not None:
        one = observation.device
        told.devices.add(index=one.index, model=one.model, uuid=one.uuid, value=observation.value)
    return told


def _told_demand(demand: DemandObservation | None) -> evaluation_pb.Demand | None:
    if demand is None:
        return None
    return evaluation_pb.Demand(value=demand.value, active=demand.is_active, sentence=demand.sentence)
