# SPDX-License-Identifier: Apache-2.0
"""Computes in which order a shrink should delete pods: the idlest first, missing pods last.

Law: a pod of which nothing is known is deleted last. A pod with the user's own pod-deletion-cost keeps it.

The ReplicaSet controller deletes pods that are not ready first, and among the ready ones those with the lowest
``controller.kubernetes.io/pod-deletion-cost`` (Kubernetes: pkg/controller/controller_utils.go, ActivePodsWithRanks).
"""

from collections.abc import Iterable, Mapping

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.evaluate.observation import ObservationState, PodObservation
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Pod, PodRef, Workload

MISSING_COST = 1000
IDLE_COST = 0
_STEPS_TO_TARGET = 10
"""Loads that differ by less than a tenth of the target have the same cost, so that noise does not change the order."""
_MOST_BUSY_COST = 100


def shrink_costs(workload: Workload, trigger: Trigger, evaluation: Evaluation) -> Mapping[PodRef, int] | None:
    """Return the wanted cost of each ready pod of a workload; None where the value asks for no smaller size."""
    if evaluation.replicas is None or evaluation.replicas >= workload.spec_replicas:
        return None
    pods = [one for one in evaluation.observations if isinstance(one, PodObservation)]
    return deletion_costs(pods, target=trigger.target, activation=trigger.activation) if pods else None


def deletion_costs(observations: Iterable[PodObservation], *, target: float, activation: float) -> Mapping[PodRef, int]:
    """Return the cost of each ready pod.

    Args:
        observations: of the pods of a workload.
        target: the target of a pod's value.
        activation: a pod whose value is at most this, and that has no request, is idle.
    """
    ready = [one for one in observations if one.state is not ObservationState.NOT_READY]
    return {one.pod.ref: _cost(one, target, activation) for one in ready}


def _cost(observation: PodObservation, target: float, activation: float) -> int:
    if observation.state is ObservationState.MISSING:
        return MISSING_COST
    if observation.value is None:  # idle or busy: it counts as at the target, as in the reported value
        return IDLE_COST + 1 + _STEPS_TO_TARGET
    if observation.value <= activation and not observation.requests:
        return IDLE_COST
    return min(_MOST_BUSY_COST, IDLE_COST + 1 + int(_STEPS_TO_TARGET * observation.value / target))


def changed_costs(wanted: Mapping[PodRef, int], pods: Iterable[Pod]) -> Mapping[PodRef, int]:
    """Return the costs to write; none while the costs that the pods have delete them in the wanted order.

    Args:
        wanted: the wanted costs.
        pods: the pods of the workload, with the costs that they have.
    """
    ours = {pod.ref: pod.deletion_cost for pod in pods if pod.ref in wanted and not pod.has_users_deletion_cost}
    if _is_ordered(wanted, ours):
        return {}
    return {ref: wanted[ref] for ref, cost in ours.items() if cost != wanted[ref]}


def _is_ordered(wanted: Mapping[PodRef, int], present: Mapping[PodRef, int | None]) -> bool:
    """Whether of two pods with different wanted costs the cheaper one has the lower present cost."""
    by_cost: dict[int, list[int]] = {}
    for ref, cost in present.items():
        by_cost.setdefault(wanted[ref], []).append(cost or 0)  # without the annotation the cost is 0
    highest: int | None = None
    for cost in sorted(by_cost):
        if highest is not None and min(by_cost[cost]) <= highest:
            return False
        highest = max(by_cost[cost])
    return True
