# SPDX-License-Identifier: Apache-2.0
"""Combines the observations of pods that are one replica together, such as the pods of a Job.

Law: a group is ready when all of its pods are. An unknown pod never adds to the value of its group and never lowers it
below the target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.aggregation import AGGREGATIONS
from keda_gpu_scaler.core.evaluate.observation import ObservationState, PodObservation, is_ready

_RISING = ("max", "sum")
"""The aggregations whose value over some of the pods is not above the value over all of them."""


@dataclass(frozen=True, slots=True)
class ReplicaGroup:
    """The pods of one replica together: ``value`` where it is observed, else None, and the number of its pods."""

    key: str
    state: ObservationState
    value: float | None
    pods: int


def replica_groups(observations: Sequence[PodObservation], aggregation: str, target: float) -> Sequence[ReplicaGroup]:
    """Return one group for each replica, in the order of their first pods.

    Args:
        observations: of every pod that counts.
        aggregation: a name in ``core.aggregation.AGGREGATIONS``, which combines the values of a group.
        target: the target of a replica's value.
    """
    by_key: dict[str, list[PodObservation]] = {}
    for one in observations:
        by_key.setdefault(one.pod.replica, []).append(one)
    return [_group(key, pods, aggregation, target) for key, pods in by_key.items()]


def describe_groups(groups: Sequence[ReplicaGroup]) -> tuple[str, ...]:
    """Describe each group that has several pods."""
    return tuple([_describe(group) for group in groups if group.pods > 1])


def group_values(groups: Sequence[ReplicaGroup]) -> Mapping[ObservationState, list[float]]:
    """Return the values of the groups by their state; a group without a value counts with 0."""
    values: dict[ObservationState, list[float]] = {state: [] for state in ObservationState}
    for group in groups:
        values[group.state].append(group.value or 0.0)
    return values


def _group(key: str, pods: Sequence[PodObservation], aggregation: str, target: float) -> ReplicaGroup:
    if not all(is_ready(one.pod) for one in pods):
        return ReplicaGroup(key, ObservationState.NOT_READY, None, len(pods))
    values = [one.value for one in pods if one.value is not None]
    states = {one.state for one in pods}
    value = AGGREGATIONS[aggregation](values) if values else None
    if ObservationState.MISSING in states:
        # What is known is at least a lower bound. At the target or above it neither grows nor shrinks without reason.
        is_lower_bound = value is not None and value >= target and aggregation in _RISING
        if not is_lower_bound:
            return ReplicaGroup(key, ObservationState.MISSING, None, len(pods))
    if value is not None:
        return ReplicaGroup(key, ObservationState.OBSERVED, value, len(pods))
    is_out_of_scope = ObservationState.OUT_OF_SCOPE in states
    state = ObservationState.OUT_OF_SCOPE if is_out_of_scope else ObservationState.MISSING
    return ReplicaGroup(key, state, None, len(pods))


def _describe(group: ReplicaGroup) -> str:
    value = group.state.value if group.value is None else f"{group.value:.6g}"
    return f"replica {group.key}: {group.pods} pods: {value}"
