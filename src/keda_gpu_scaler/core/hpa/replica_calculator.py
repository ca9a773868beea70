# SPDX-License-Identifier: Apache-2.0
"""The HPA's replica calculator: its algorithms for external metrics and for resource metrics.

Law: it decides as the HPA's controller does, with the same rounding and the same exceptions. It differs in two cases,
which ``resource_replicas`` documents.

Facts are from Kubernetes (pkg/controller/podautoscaler, 1.33 and later, with one tolerance for scaling up and one for
scaling down): ``replica_calculator.go`` (GetExternalPerPodMetricReplicas, GetExternalMetricReplicas,
getUsageRatioReplicaCount, calcPlainMetricReplicas, Tolerances.isWithin) and ``metrics/utilization.go``
(GetMetricUsageRatio); and from KEDA 2.20 (pkg/scalers/scaler.go, quantityFromFloat64).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from keda_gpu_scaler.core.scaling_rules import DEFAULT_TOLERANCES, Tolerances

LARGEST_MILLI = 2**63 - 1
_LARGEST_REPLICAS = 2**31 - 1


class ValueType(StrEnum):
    """The trigger's KEDA ``metricType``: how the HPA compares the value with the target."""

    AVERAGE_VALUE = "AverageValue"
    VALUE = "Value"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The size that one metric recommends, before any limit. ``ratio`` is the value divided by the wanted value."""

    replicas: int
    ratio: float
    within_tolerance: bool
    sentence: str


def milli(value: float) -> int:
    """Return the value in whole thousandths, as the HPA holds it: KEDA writes three decimals, rounded half to even.

    KEDA before 2.20 truncates instead, a difference of one thousandth at most.

    Raises:
        ValueError: the value is not finite, or too large to count in thousandths.
    """
    if not math.isfinite(value):
        raise ValueError(f"value: Invalid value: {value:g}: must be a finite number")
    thousandths = round(Fraction(value) * 1000)  # exact: value * 1000 in floating point is already rounded
    if abs(thousandths) > LARGEST_MILLI:
        raise ValueError(f"value: Invalid value: {value:g}: must be below {LARGEST_MILLI / 1000:g}")
    return thousandths


def desired_replicas(
    value_type: ValueType,
    value_milli: int,
    target_milli: int,
    *,
    replicas: int,
    ready_pods: int | None = None,
    tolerances: Tolerances = DEFAULT_TOLERANCES,
) -> Recommendation:
    """Return the size that one external metric recommends.

    Args:
        value_type: ``AverageValue`` divides the value by the replicas, ``Value`` uses it unchanged.
        value_milli: the metric, in thousandths; several values of one metric are added up beforehand.
        target_milli: the target, in thousandths.
        replicas: the scale target's ``status.replicas`` under ``AverageValue``, its ``spec.replicas`` under
            ``Value``. The two differ only while pods are created or deleted.
        ready_pods: how many pods run and are ready, used under ``Value`` only; by default all of them.
        tolerances: how far from the target the value may be without any change.

    Raises:
        ValueError: a target that is not above 0, or a negative count.
    """
    ready = replicas if ready_pods is None else ready_pods
    _check_arguments(target_milli, replicas, ready)
    value, target = float(value_milli), float(target_milli)
    quotient = f"{_plain(value_milli)} / {_plain(target_milli)}"
    if replicas == 0:
        # Under AverageValue the controller divides by zero here and continues with an infinite ratio: no tolerance.
        size = _ceiling(value / target)
        return Recommendation(size, value / target, False, f"from no replicas: ceil({quotient}) = {size}")
    if value_type is ValueType.AVERAGE_VALUE:
        wanted = f"{replicas} * {_plain(target_milli)}"
        ratio = value / (target * float(replicas))
        size, formula = _ceiling(value / target), f"ceil({quotient})"
    else:
        wanted = _plain(target_milli)
        ratio = value / target
        size, formula = _ceiling(ratio * float(ready)), f"ceil({quotient} * {ready} ready)"
    measured = f"{_plain(value_milli)} is {ratio:.3f} of {wanted}"
    if tolerances.hold(ratio):
        near = f"{1 - tolerances.down:g} to {1 + tolerances.up:g}"
        return Recommendation(replicas, ratio, True, f"{measured}, within tolerance ({near}): stays at {replicas}")
    return Recommendation(size, ratio, False, f"{measured}, so {formula} = {size}")


def _check_arguments(target_milli: int, replicas: int, ready: int) -> None:
    if target_milli <= 0:
        raise ValueError(f"target: Invalid value: {_plain(target_milli)}: must be above 0, to three decimals")
    if replicas < 0 or ready < 0:
        raise ValueError(f"replicas: Invalid value: {min(replicas, ready)}: must be 0 or more")


def resource_replicas(
    values_milli: Sequence[int],
    target_milli: int,
    *,
    missing: int,
    unready: int,
    replicas: int,
    tolerances: Tolerances = DEFAULT_TOLERANCES,
) -> int | None:
    """Return the size that the HPA's own resource-metric algorithm recommends; None without any value.

    Two cases differ. At a ratio of exactly 1 the controller counts missing pods as idle and scales down. Here they
    count as at the target in this case too, because missing data must not scale anything down. During a rollout with
    surge the controller may scale up at a ratio below 1, because it counts the old pods and the new ones: four replicas
    become seven while eight pods are at 70 of 80. Here the size is then at most the wanted one.

    Args:
        values_milli: one for each ready pod with a value, in thousandths.
        target_milli: the target of each pod, in thousandths, above 0.
        missing: ready pods without a value. They count as idle on the way up and as at the target on the way down.
        unready: pods that are not ready. They count as idle on the way up and are ignored on the way down.
        replicas: the scale target's ``spec.replicas``.
        tolerances: how far from the target the value may be without any change.
    """
    if not values_milli:
        return None
    ratio = _mean_ratio(sum(values_milli), len(values_milli), target_milli)
    counts_unready = unready > 0 and ratio > 1.0
    if not counts_unready and not missing:
        if tolerances.hold(ratio):
            return replicas
        size = _ceiling(ratio * len(values_milli))
        return min(size, replicas) if ratio <= 1.0 else size
    filled = sum(values_milli) + (missing * target_milli if ratio <= 1.0 else 0)
    counted = len(values_milli) + missing + (unready if counts_unready else 0)
    rebalanced = _mean_ratio(filled, counted, target_milli)
    if tolerances.hold(rebalanced) or (ratio < 1.0 < rebalanced) or (rebalanced < 1.0 < ratio):
        return replicas
    size = _ceiling(rebalanced * counted)
    if (rebalanced < 1.0 and size > replicas) or (rebalanced > 1.0 and size < replicas):
        return replicas
    return size


def _mean_ratio(total_milli: int, count: int, target_milli: int) -> float:
    return float(total_milli // count) / float(target_milli)  # the controller's mean is a whole number


def _ceiling(size: float) -> int:
    return min(math.ceil(size), _LARGEST_REPLICAS)


def _plain(thousandths: int) -> str:
    sign = "-" if thousandths < 0 else ""
    whole, rest = divmod(abs(thousandths), 1000)
    return f"{sign}{whole}.{rest:03}".rstrip("0").rstrip(".")
