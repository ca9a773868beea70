# SPDX-License-Identifier: Apache-2.0
"""The measured value of an evaluation: the mean of the replicas that have one, in the metric's unit.

Law: it is what people compare with the target. It depends on the observations alone, and never on the number that the
HPA is given.
"""

from collections.abc import Sequence
from dataclasses import replace

from keda_gpu_scaler.core.aggregation import AGGREGATIONS, mean
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.evaluate.observation import DeviceObservation, ObservationState, PodObservation, is_ready
from keda_gpu_scaler.core.evaluate.replica_groups import group_values, replica_groups
from keda_gpu_scaler.core.trigger.metrics import LOAD_OF_DEVICES
from keda_gpu_scaler.core.trigger.parser import Trigger


def measured_value(trigger: Trigger, evaluation: Evaluation) -> float | None:
    """Return the mean of the replicas with a value, or the aggregate of the devices; None where none has a value.

    Args:
        trigger: the evaluated trigger, for its aggregation.
        evaluation: its evaluation.
    """
    pods = [one for one in evaluation.observations if isinstance(one, PodObservation)]
    if pods:
        return _mean_of_replicas(trigger, evaluation, pods)
    devices = [one for one in evaluation.observations if isinstance(one, DeviceObservation)]
    known = [one.value for one in devices if one.value is not None]
    return AGGREGATIONS[trigger.aggregation](known) if known else None


def _mean_of_replicas(trigger: Trigger, evaluation: Evaluation, pods: Sequence[PodObservation]) -> float | None:
    if evaluation.fallback:
        trigger = replace(trigger, metric=LOAD_OF_DEVICES, engine=None)
    if any(one.pod.group for one in pods):
        values = group_values(replica_groups(pods, trigger))[ObservationState.OBSERVED]
    else:
        values = [one.value for one in pods if one.value is not None and is_ready(one.pod)]
    return mean(values) if values else None
