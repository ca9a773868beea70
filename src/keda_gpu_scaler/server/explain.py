# SPDX-License-Identifier: Apache-2.0
"""How is a verdict told to people's tools? The message that Explain answers with.

The law of this module: it says what the verdict says, and decides nothing.
"""

import math
from collections.abc import Mapping

from keda_gpu_scaler.core.evaluate.engine_load import DemandObservation
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.evaluate.observation import DeviceObservation, ObservationState, PodObservation, is_ready
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.effective import effective_settings
from keda_gpu_scaler.core.trigger.metric_type import declared_type
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.wire import verdict_pb2 as verdict_pb

MAX_STEPS = 2000
"""So many sentences of a verdict are told; a fleet of thousands of devices has more, and a message its limits."""

MAX_SIGHTS = 1000
"""So many pods or devices are told one by one."""


def explanation(
    trigger: Trigger,
    verdict: Evaluation,
    workload: Workload | Unavailable | None,
    metadata: Mapping[str, str],
    fleet: Fleet,
    now: float,
) -> verdict_pb.Verdict:
    """Put a verdict, and what it rests on, into its message.

    Args:
        trigger: what was asked.
        verdict: the answer.
        workload: what the verdict rests on.
        metadata: the trigger's, as it was sent.
        fleet: who answers, and how old a reading may be.
        now: monotonic seconds on the clock of the verdict.
    """
    return verdict_pb.Verdict(
        metric_name=trigger.metric_name,
        target=round(trigger.target, 3),
        scope=verdict.scope,
        value=verdict.value,
        lack=verdict.lack.value if verdict.lack else "",
        reason=verdict.reason,
        active=verdict.active,
        undecided=verdict.is_undecided,
        seen=verdict.seen,
        expected=verdict.expected,
        steps=verdict.steps[:MAX_STEPS],
        instance=fleet.own_node,
        metric=trigger.metric.name,
        unit=trigger.metric.unit,
        value_type=(declared_type(workload, metadata) or "") if isinstance(workload, Workload) else "",
        settings=[
            verdict_pb.Setting(key=one.key, value=one.value, origin=one.origin)
            for one in effective_settings(trigger, metadata, verdict.scope)
        ],
        hints=trigger.hints,
        workload=_told_workload(workload),
        sights=[_told_sight(sight, now, fleet.stale_after_seconds) for sight in verdict.sights[:MAX_SIGHTS]],
        sights_left_out=max(0, len(verdict.sights) - MAX_SIGHTS),
        demand=_told_demand(verdict.demand),
    )


def _told_workload(workload: Workload | Unavailable | None) -> verdict_pb.Workload | None:
    if not isinstance(workload, Workload):
        return None
    return verdict_pb.Workload(
        kind=workload.kind,
        target=workload.target,
        wanted=workload.spec_replicas,
        actual=workload.status_replicas,
        ready=sum(map(is_ready, workload.pods)),
    )


def _told_sight(sight: PodObservation | DeviceObservation, now: float, stale_after_seconds: float) -> verdict_pb.Sight:
    told = verdict_pb.Sight(value=sight.value, sentence=sight.sentence)
    if sight.value is not None and math.isfinite(sight.until_seconds):
        # What is believed for so long, and from now on only for so long, is as old as the rest.
        told.age_seconds = max(0.0, stale_after_seconds - (sight.until_seconds - now))
    if isinstance(sight, PodObservation):
        told.pod, told.node = sight.pod.ref.name, sight.pod.node or ""
        told.ready, told.state = is_ready(sight.pod), sight.sight.value
        told.devices.extend(
            verdict_pb.Device(
                index=part.device.index,
                model=part.device.model,
                uuid=part.device.uuid,
                value=part.value,
                sharers=part.sharers,
            )
            for part in sight.parts
        )
        return told
    told.node, told.ready = sight.node, sight.value is not None
    told.state = (ObservationState.UNSEEN if sight.value is None else ObservationState.SEEN).value
    if sight.device is not None:
        one = sight.device
        told.devices.add(index=one.index, model=one.model, uuid=one.uuid, value=sight.value)
    return told


def _told_demand(demand: DemandObservation | None) -> verdict_pb.Demand | None:
    if demand is None:
        return None
    return verdict_pb.Demand(value=demand.value, wakes=demand.wakes, sentence=demand.sentence)
