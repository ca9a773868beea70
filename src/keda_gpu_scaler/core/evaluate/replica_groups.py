# SPDX-License-Identifier: Apache-2.0
"""Combines the observations of pods that are one replica: a Job, or a leader with its workers.

Law: each pod is in exactly one group. A group is ready when all of its pods exist and are ready. An unknown pod never
adds to the value of its group and never lowers it below the target.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.evaluate.observation import ObservationState, PodObservation
from keda_gpu_scaler.core.trigger.grouping import AUTO, AUTOMATIC, NONE, Grouping
from keda_gpu_scaler.core.trigger.metrics import EngineMetric
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Pod

_RISING = ("max", "sum")
"""The aggregations whose value over some of the pods is not above the value over all of them."""
_MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class ReplicaGroup:
    """The pods of one replica together: ``value`` where it is observed, else None, and the number of its pods.

    ``reason`` says why the group is not ready, empty where it is.
    """

    key: str
    state: ObservationState
    value: float | None
    pods: int
    reason: str = ""


def grouped_pods(pods: Iterable[Pod], grouping: Grouping) -> Sequence[Pod]:
    """Return the pods with their replicas as the trigger groups them."""
    if grouping == AUTOMATIC:
        return list(pods)
    return [_grouped(pod, grouping) for pod in pods]


def _grouped(pod: Pod, grouping: Grouping) -> Pod:
    if grouping.label == NONE:
        return replace(pod, group="", group_size=0, is_worker=False)
    if grouping.label != AUTO:
        pod = replace(pod, group=dict(pod.labels).get(grouping.label, ""), group_size=0, is_worker=False)
    if not pod.group:
        return pod
    is_worker = pod.is_worker if grouping.leader is None else not grouping.leader.matches(dict(pod.labels))
    return replace(pod, group_size=grouping.size or pod.group_size, is_worker=is_worker)


def pods_by_replica(pods: Iterable[Pod]) -> Mapping[str, Sequence[Pod]]:
    """Return the pods of each replica, in the order of their first pods."""
    by_key: dict[str, list[Pod]] = {}
    for pod in pods:
        by_key.setdefault(pod.replica, []).append(pod)
    return by_key


def unready_reason(pods: Sequence[Pod]) -> str:
    """Return why the replica of these pods is not ready; empty where it is."""
    size = max(pod.group_size for pod in pods)
    if len(pods) < size:
        return f"{len(pods)} of {size} pods exist"
    return next((f"{pod.ref.name} is not ready" for pod in pods if not pod.is_serving), "")


def replica_groups(observations: Sequence[PodObservation], trigger: Trigger) -> Sequence[ReplicaGroup]:
    """Return one group for each replica, in the order of their first pods.

    Args:
        observations: of every pod that counts.
        trigger: the trigger, for its target and for its aggregation, which combines the values of a group.
    """
    by_key: dict[str, list[PodObservation]] = {}
    for one in observations:
        by_key.setdefault(one.pod.replica, []).append(one)
    return [_group(key, pods, trigger) for key, pods in by_key.items()]


def describe_groups(groups: Sequence[ReplicaGroup]) -> tuple[str, ...]:
    """Describe each group that has several pods, or should have."""
    several = [group for group in groups if group.pods > 1 or group.reason]
    more = len(several) - _MAX_LISTED
    return (
        *[_describe(group) for group in several[:_MAX_LISTED]],
        *([f"and {more} replicas more"] if more > 0 else []),
    )


def describe_grouping(pods: Sequence[Pod], grouping: Grouping) -> str:
    """Describe how pods become replicas."""
    sizes = Counter(len(members) for members in pods_by_replica(pods).values())
    counted = ", ".join([f"{count} of {size} pod{'s' if size > 1 else ''}" for size, count in sorted(sizes.items())])
    source, it = "the labels of their controller", "them"
    if grouping.label != AUTO:
        source, it = f"the label {grouping.label}", "it"
    alone = sum(not pod.group for pod in pods)
    counts = "1 pod without {} counts" if alone == 1 else f"{alone} pods without {{}} count"
    without = f"; {counts.format(it)} alone" if alone else ""
    return f"pods are grouped into replicas by {source}: {counted}{without}"


def group_values(groups: Sequence[ReplicaGroup]) -> Mapping[ObservationState, list[float]]:
    """Return the values of the groups by their state; a group without a value counts with 0."""
    values: dict[ObservationState, list[float]] = {state: [] for state in ObservationState}
    for group in groups:
        values[group.state].append(group.value or 0.0)
    return values


def _group(key: str, pods: Sequence[PodObservation], trigger: Trigger) -> ReplicaGroup:
    if reason := unready_reason([one.pod for one in pods]):
        return ReplicaGroup(key, ObservationState.NOT_READY, None, len(pods), reason)
    metric = trigger.metric
    aggregation = metric.rank_aggregation if isinstance(metric, EngineMetric) else trigger.aggregation
    value = _value(pods, trigger, AGGREGATIONS[aggregation])
    states = {one.state for one in pods}
    if ObservationState.MISSING in states:
        # What is known is at least a lower bound. At the target or above it neither grows nor shrinks without reason.
        is_lower_bound = value is not None and value >= trigger.target and aggregation in _RISING
        if not is_lower_bound:
            return ReplicaGroup(key, ObservationState.MISSING, None, len(pods))
    if value is not None:
        return ReplicaGroup(key, ObservationState.OBSERVED, value, len(pods))
    is_out_of_scope = ObservationState.OUT_OF_SCOPE in states
    state = ObservationState.OUT_OF_SCOPE if is_out_of_scope else ObservationState.MISSING
    return ReplicaGroup(key, state, None, len(pods))


def _value(
    pods: Sequence[PodObservation], trigger: Trigger, aggregate: Callable[[Sequence[float]], float]
) -> float | None:
    """Return the value of all devices of a group together, or of its engines; None where none is known."""
    metric, values = trigger.metric, list[float]()
    for one in pods:
        if one.value is not None and one.device_values and not isinstance(metric, EngineMetric):
            values += [part.value / part.sharers if metric.is_divided else part.value for part in one.device_values]
        elif one.value is not None:
            values.append(one.value)
    return aggregate(values) if values else None


def _describe(group: ReplicaGroup) -> str:
    pods = "1 pod" if group.pods == 1 else f"{group.pods} pods"
    value = group.state.value if group.value is None else f"{group.value:.6g}"
    return f"replica {group.key}: {pods}: {value}" + (f" ({group.reason})" if group.reason else "")
