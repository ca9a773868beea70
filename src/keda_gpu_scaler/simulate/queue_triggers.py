# SPDX-License-Identifier: Apache-2.0
"""Triggers of KEDA's own scalers whose value is the length of a queue.

Law: the value is the number of items in the one simulated queue. What a scaler counts of it is that scaler's own: some
count an item until it is done, and others only until it is taken.

Facts are from KEDA 2.20 (pkg/scalers): activemq_scaler.go, artemis_scaler.go, aws_sqs_queue_scaler.go (messages in
flight count unless ``scaleOnInFlight`` is false), azure_queue_scaler.go (``queueLengthStrategy``),
azure_servicebus_scaler.go, beanstalkd_scaler.go (ready and reserved), gcp_pubsub_scaler.go (undelivered messages are
those without an acknowledgement), ibmmq_scaler.go, kafka_scaler.go (the lag of committed offsets),
nats_jetstream_scaler.go (pending and not acknowledged), rabbitmq_scaler.go (over AMQP the messages that are ready, over
HTTP also the others unless ``excludeUnacknowledged``), redis_scaler.go (a popped element is gone). The limit that
Kafka's partitions set is not applied.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.parser import Scope
from keda_gpu_scaler.simulate.autoscaler import TriggerAnswer
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.scaler import GatewayCounts
from keda_gpu_scaler.simulate.scenario import QueueTrigger, TriggerSpec


@dataclass(frozen=True, slots=True)
class QueueScaler:
    """A scaler of KEDA: the keys of its target and of its activation, and KEDA's default for the target.

    ``default`` is None where the target is required. ``counts_unfinished`` says that items count until they are done.
    """

    target_keys: tuple[str, ...]
    activation_key: str
    default: float | None
    counts_unfinished: bool


_REDIS = QueueScaler(("listLength",), "activationListLength", 5, counts_unfinished=False)
QUEUE_SCALERS: MappingProxyType[str, QueueScaler] = MappingProxyType(
    {
        "activemq": QueueScaler(("targetQueueSize",), "activationTargetQueueSize", 10, counts_unfinished=True),
        "artemis-queue": QueueScaler(("queueLength",), "activationQueueLength", 10, counts_unfinished=True),
        "aws-sqs-queue": QueueScaler(("queueLength",), "activationQueueLength", 5, counts_unfinished=True),
        "azure-queue": QueueScaler(("queueLength",), "activationQueueLength", 5, counts_unfinished=True),
        "azure-servicebus": QueueScaler(("messageCount",), "activationMessageCount", 5, counts_unfinished=True),
        "beanstalkd": QueueScaler(("value",), "activationValue", None, counts_unfinished=True),
        "gcp-pubsub": QueueScaler(("value", "subscriptionSize"), "activationValue", 10, counts_unfinished=True),
        "ibmmq": QueueScaler(("queueDepth",), "activationQueueDepth", 20, counts_unfinished=False),
        "kafka": QueueScaler(("lagThreshold",), "activationLagThreshold", 10, counts_unfinished=True),
        "nats-jetstream": QueueScaler(("lagThreshold",), "activationLagThreshold", 10, counts_unfinished=True),
        "rabbitmq": QueueScaler(("value", "queueLength"), "activationValue", None, counts_unfinished=False),
        "redis": _REDIS,
        "redis-cluster": _REDIS,
        "redis-sentinel": _REDIS,
    }
)
"""Every scaler of KEDA that counts a queue, by the type of its triggers."""

_MODES_OF_LENGTH = ("", "QueueLength", "SubscriptionSize", "NumUndeliveredMessages")


def is_queue_trigger(kind: str, metadata: Mapping[str, str]) -> bool:
    """Whether the value of a trigger is the length of a queue: some scalers also have modes of rates or ages."""
    return kind in QUEUE_SCALERS and metadata.get("mode", "") in _MODES_OF_LENGTH


def queue_trigger(
    kind: str,
    metadata: Mapping[str, str],
    *,
    metric_type: str = "AverageValue",
    name: str = "",
    counts_unfinished: bool | None = None,
) -> QueueTrigger:
    """Read a trigger on the length of a queue.

    Args:
        kind: its type, one of ``QUEUE_SCALERS``.
        metadata: as KEDA reads it.
        metric_type: KEDA's ``metricType``.
        name: in a formula.
        counts_unfinished: whether items count until they are done; None for what the scaler counts.

    Raises:
        SimulationError: the target is missing, or is no number above 0.
    """
    scaler = QUEUE_SCALERS[kind]
    key = next((key for key in scaler.target_keys if key in metadata), scaler.target_keys[0])
    if key not in metadata and scaler.default is None:
        raise SimulationError(
            f"triggers: {kind}: metadata.{key}: Required value: set the items that one replica may have"
        )
    target = _number(kind, key, metadata.get(key), scaler.default or 0.0)
    if target <= 0:
        raise SimulationError(f"triggers: {kind}: metadata.{key}: Invalid value: {target:g}: must be above 0")
    activation = _number(kind, scaler.activation_key, metadata.get(scaler.activation_key), 0.0)
    counted = _counts_unfinished(kind, metadata) if counts_unfinished is None else counts_unfinished
    return QueueTrigger(kind, target, activation, metric_type, name, counted)


def queue_answers(triggers: Sequence[QueueTrigger], counts: GatewayCounts) -> list[TriggerAnswer]:
    """Return what these scalers answer."""
    answers = []
    for trigger in triggers:
        length = counts.in_flight if trigger.counts_unfinished else counts.not_taken
        evaluation = Evaluation(Scope.WORKLOAD, float(length), length > trigger.activation, ())
        answers.append(TriggerAnswer(TriggerSpec({}, trigger.metric_type, trigger.name), trigger.target, evaluation))
    return answers


def queue_sentence(trigger: QueueTrigger) -> str:
    """Say what a trigger on the queue is taken to count."""
    counted = "until it is done" if trigger.counts_unfinished else "until it is taken"
    return (
        f"the trigger {trigger.type} counts an item of the queue {counted} (--queue-length), and its target is "
        f"{trigger.target:g}"
    )


def _counts_unfinished(kind: str, metadata: Mapping[str, str]) -> bool:
    if kind == "rabbitmq":
        return metadata.get("protocol") == "http" and metadata.get("excludeUnacknowledged", "").lower() != "true"
    if kind == "aws-sqs-queue":
        return metadata.get("scaleOnInFlight", "").lower() != "false"
    if kind == "azure-queue":
        return metadata.get("queueLengthStrategy", "").lower() != "visibleonly"
    return QUEUE_SCALERS[kind].counts_unfinished


def _number(kind: str, key: str, value: str | None, default: float) -> float:
    if value is None or value == "":
        return default
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found >= 0):
        raise SimulationError(
            f"triggers: {kind}: metadata.{key}: Invalid value: {quoted(value, 40)}: must be a number of 0 or more"
        )
    return found
