# SPDX-License-Identifier: Apache-2.0
"""The service of the commands: an evaluation with everything that led to it, and the workloads.

Law: the message repeats the evaluation that KEDA is answered with, and adds no decision of its own.
"""

import math
import time
from collections.abc import Callable, Mapping

from grpc.aio import ServicerContext

from keda_gpu_scaler.core.evaluate.demand import DemandObservation
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.evaluate.missing_cause import MissingCause, missing_cause
from keda_gpu_scaler.core.evaluate.observation import DeviceObservation, ObservationState, PodObservation, is_ready
from keda_gpu_scaler.core.evaluate.workload_view import job_counts
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import ScrapeAttempt
from keda_gpu_scaler.core.trigger.effective import effective_settings
from keda_gpu_scaler.core.trigger.metric_type import declared_type
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.server.external_scaler import Answer, ExternalScaler
from keda_gpu_scaler.server.node_clocks import clock_differences
from keda_gpu_scaler.server.workload_list import comparison_message, workload_list
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb
from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb

MAX_STEPS = 2000
"""The number of steps that are sent; a fleet of thousands of devices has more, and a message is limited."""

MAX_OBSERVATIONS = 1000
"""The number of pods or devices that are sent one by one."""
MAX_ENGINES = 16
"""The number of engines of one pod whose URLs are sent."""
MAX_ATTEMPTS = 2000
"""The number of asked URLs that are sent: half a megabyte, of the four that a client accepts."""

_PENDING = MissingCause.PENDING.value


class EvaluationService(evaluation_pb_grpc.EvaluationsServicer):
    """Explains the scaler's answers to the commands.

    Args:
        scaler: answers KEDA.
        unix_clock: seconds since 1970, with which the clocks of the nodes are compared for display.
    """

    def __init__(self, scaler: ExternalScaler, unix_clock: Callable[[], float] = time.time) -> None:
        self._scaler = scaler
        self._unix_clock = unix_clock

    async def Explain(self, request: pb.ScaledObjectRef, context: ServicerContext) -> evaluation_pb.Evaluation:  # noqa: N802
        """Answer with the evaluation that GetMetrics and IsActive answer with, and its steps."""
        answer = await self._scaler.explain(request, context)
        return self._explanation(answer, dict(request.scalerMetadata))

    async def Preview(  # noqa: N802
        self, request: evaluation_pb.PreviewRequest, context: ServicerContext
    ) -> evaluation_pb.Evaluation:
        """Answer with the evaluation that a ScaledObject would have; it is not remembered."""
        ref = request.scaled_object
        answer = await self._scaler.explain(ref, context, request.spec)
        return self._explanation(answer, dict(ref.scalerMetadata))

    def _explanation(self, answer: Answer, metadata: Mapping[str, str]) -> evaluation_pb.Evaluation:
        message = explanation(
            answer.resolved.trigger, answer.evaluation, answer.workload, metadata, answer.fleet, answer.at_seconds
        )
        causes = {observation.cause for observation in message.observations}
        message.pending = not answer.is_synced or (not message.HasField("value") and _PENDING in causes)
        nodes = [observation.node for observation in message.observations if observation.node]
        differences = clock_differences(answer.fleet, nodes, answer.at_seconds, self._unix_clock())
        message.clocks.extend(
            evaluation_pb.ClockDifference(node=node, ahead_seconds=ahead) for node, ahead in differences.items()
        )
        return message

    async def ListWorkloads(  # noqa: N802
        self, request: evaluation_pb.ListWorkloadsRequest, context: ServicerContext
    ) -> evaluation_pb.WorkloadList:
        """Answer with the last answers to KEDA and the refused triggers. Nothing is evaluated or watched for it."""
        answers, refused, instance, now = self._scaler.workloads()
        return workload_list(answers, refused, instance, now, self._scaler.histories, request.max_points)


def explanation(
    trigger: Trigger,
    evaluation: Evaluation,
    workload: Workload | Unavailable | None,
    metadata: Mapping[str, str],
    fleet: Fleet,
    now: float,
) -> evaluation_pb.Evaluation:
    """Put an evaluation, and what it rests on, into its message.

    Args:
        trigger: the evaluated trigger.
        evaluation: its evaluation.
        workload: the workload that the evaluation rests on.
        metadata: the trigger's metadata, as it was sent.
        fleet: the instance that answers, and the age from which a reading is stale.
        now: monotonic seconds on the clock of the evaluation.
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
        workload=_workload_message(workload),
        observations=_observation_messages(trigger, evaluation, fleet, now),
        observations_omitted=max(0, len(evaluation.observations) - MAX_OBSERVATIONS),
        demand=_demand_message(evaluation.demand),
        fallback=evaluation.fallback,
        comparison=comparison_message(evaluation.comparison),
    )


def _workload_message(workload: Workload | Unavailable | None) -> evaluation_pb.Workload | None:
    if not isinstance(workload, Workload):
        return None
    return evaluation_pb.Workload(
        kind=workload.kind,
        target=workload.target,
        wanted=workload.spec_replicas,
        actual=workload.status_replicas,
        ready=workload.hpa_ready_pods,
        pending=job_counts(workload).pending if workload.kind == "ScaledJob" else 0,
    )


def _observation_messages(
    trigger: Trigger, evaluation: Evaluation, fleet: Fleet, now: float
) -> list[evaluation_pb.Observation]:
    """Return the messages of the observations: the engines of each pod, and as many of the other URLs as fit."""
    observations = evaluation.observations[:MAX_OBSERVATIONS]
    most = min(MAX_ENGINES, MAX_ATTEMPTS // max(1, len(observations)))
    left = MAX_ATTEMPTS - sum(min(len(one.attempts.engines), most) for one in observations)
    messages = []
    for observation in observations:
        message = _observation_message(observation, now, fleet.stale_after_seconds)
        cause = missing_cause(observation, trigger, evaluation, fleet, now)
        message.cause = cause.value if cause is not None else ""
        asked = observation.attempts
        engines, rejected = asked.engines[:most], asked.rejected[: max(0, left)]
        left -= len(rejected)
        message.attempts.extend(
            _attempt_message(attempt, now, is_engine=is_engine)
            for attempts, is_engine in ((engines, True), (rejected, False))
            for attempt in attempts
        )
        message.attempts_omitted = len(asked.engines) + len(asked.rejected) - len(message.attempts)
        messages.append(message)
    return messages


def _attempt_message(attempt: ScrapeAttempt, now: float, *, is_engine: bool) -> evaluation_pb.ScrapeAttempt:
    return evaluation_pb.ScrapeAttempt(
        url=attempt.url,
        engine=is_engine,
        status=attempt.status,
        failure=attempt.failure or "",
        age_seconds=max(0.0, now - attempt.at_seconds),
        answer_seconds=attempt.answer_seconds,
        remarks=attempt.remarks,
    )


def _observation_message(
    observation: PodObservation | DeviceObservation, now: float, stale_after_seconds: float
) -> evaluation_pb.Observation:
    message = evaluation_pb.Observation(value=observation.value, sentence=observation.sentence)
    if observation.value is not None and math.isfinite(observation.expires_at_seconds):
        # A reading is fresh for stale_after_seconds; the rest of this time is the time that has passed.
        message.age_seconds = max(0.0, stale_after_seconds - (observation.expires_at_seconds - now))
    if isinstance(observation, PodObservation):
        _add_pod(message, observation)
    else:
        _add_device(message, observation)
    return message


def _add_pod(message: evaluation_pb.Observation, observation: PodObservation) -> None:
    message.pod, message.node = observation.pod.ref.name, observation.pod.node or ""
    message.ready, message.state = is_ready(observation.pod), observation.state.value
    message.devices.extend(
        evaluation_pb.ObservedDevice(
            index=part.device.index,
            model=part.device.model,
            uuid=part.device.uuid,
            value=part.value,
            sharers=part.sharers,
        )
        for part in observation.device_values
    )


def _add_device(message: evaluation_pb.Observation, observation: DeviceObservation) -> None:
    message.node, message.ready = observation.node, observation.value is not None
    message.state = (ObservationState.MISSING if observation.value is None else ObservationState.OBSERVED).value
    if observation.device is not None:
        device = observation.device
        message.devices.add(index=device.index, model=device.model, uuid=device.uuid, value=observation.value)


def _demand_message(demand: DemandObservation | None) -> evaluation_pb.Demand | None:
    if demand is None:
        return None
    return evaluation_pb.Demand(value=demand.value, active=demand.is_active, sentence=demand.sentence)
