# SPDX-License-Identifier: Apache-2.0
"""An independent copy of the HPA's controller, written from its Go source, for comparison.

From Kubernetes, pkg/controller/podautoscaler/replica_calculator.go: calcPlainMetricReplicas with the readiness rules it
has for CPU, GetExternalPerPodMetricReplicas and GetExternalMetricReplicas; metrics/utilization.go: GetMetricUsageRatio.
Pods are numbers in thousandths: a whole number for a ready pod with a value, None for a ready one without, and UNREADY.
"""

import math
from collections.abc import Sequence

UNREADY = "unready"
Pods = Sequence[int | str | None]


DEFAULT = (0.1, 0.1)


def within(ratio: float, tolerances: tuple[float, float] = DEFAULT) -> bool:
    """Tolerances.isWithin; the tolerances are for scaling up and for scaling down."""
    up, down = tolerances
    return (1.0 - down) <= ratio <= (1.0 + up)


def resource_metric(
    pods: Pods, target: int, spec_replicas: int, tolerances: tuple[float, float] = DEFAULT
) -> int | None:
    """calcPlainMetricReplicas; None for its error "did not receive metrics for targeted pods"."""
    metrics: dict[int, int] = {number: pod for number, pod in enumerate(pods) if isinstance(pod, int)}
    ready_pod_count = len(metrics)
    missing_pods = [number for number, pod in enumerate(pods) if pod is None]
    unready_pods = [number for number, pod in enumerate(pods) if pod == UNREADY]
    if not metrics:
        return None
    usage_ratio = usage_ratio_of(metrics, target)
    scale_up_with_unready = len(unready_pods) > 0 and usage_ratio > 1.0
    if not scale_up_with_unready and len(missing_pods) == 0:
        if within(usage_ratio, tolerances):
            return spec_replicas
        new_replicas = math.ceil(usage_ratio * float(ready_pod_count))
        # A difference: during a rollout with surge the controller may scale up here at a ratio below 1.
        return min(new_replicas, spec_replicas) if usage_ratio <= 1.0 else new_replicas
    if len(missing_pods) > 0:
        # A difference: the controller has < 1.0 here, so it scales down for missing pods at exactly the target.
        filler = target if usage_ratio <= 1.0 else 0
        for number in missing_pods:
            metrics[number] = filler
    if scale_up_with_unready:
        for number in unready_pods:
            metrics[number] = 0
    new_usage_ratio = usage_ratio_of(metrics, target)
    is_reversed = (usage_ratio < 1.0 and new_usage_ratio > 1.0) or (usage_ratio > 1.0 and new_usage_ratio < 1.0)
    if within(new_usage_ratio, tolerances) or is_reversed:
        return spec_replicas
    new_replicas = math.ceil(new_usage_ratio * float(len(metrics)))
    if (new_usage_ratio < 1.0 and new_replicas > spec_replicas) or (
        new_usage_ratio > 1.0 and new_replicas < spec_replicas
    ):
        return spec_replicas
    return new_replicas


def usage_ratio_of(metrics: dict[int, int], target: int) -> float:
    current_usage = sum(metrics.values()) // len(metrics)  # int64 division
    return float(current_usage) / float(target)


def external_average_value(
    usage: int, target: int, status_replicas: int, tolerances: tuple[float, float] = DEFAULT
) -> int:
    """GetExternalPerPodMetricReplicas."""
    usage_ratio = float(usage) / (float(target) * float(status_replicas)) if status_replicas else math.inf
    if within(usage_ratio, tolerances):
        return status_replicas
    return math.ceil(float(usage) / float(target))


def external_value(
    usage: int, target: int, spec_replicas: int, ready_pods: int, tolerances: tuple[float, float] = DEFAULT
) -> int:
    """GetExternalMetricReplicas and getUsageRatioReplicaCount."""
    usage_ratio = float(usage) / float(target)
    if spec_replicas == 0:
        return math.ceil(usage_ratio)
    if within(usage_ratio, tolerances):
        return spec_replicas
    return math.ceil(usage_ratio * float(ready_pods))
