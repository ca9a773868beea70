# SPDX-License-Identifier: Apache-2.0
"""What size does one metric ask for? The HPA's algorithm for external metrics, and its own for resources.

The law of this module: it decides as the HPA's controller does, rounding and oddities included; the one thing it
mends is said where it is done.

Facts are from Kubernetes (pkg/controller/podautoscaler, 1.33 and later, where growing and shrinking have
tolerances of their own): ``replica_calculator.go`` (GetExternalPerPodMetricReplicas, GetExternalMetricReplicas,
getUsageRatioReplicaCount, calcPlainMetricReplicas, Tolerances.isWithin) and ``metrics/utilization.go``
(GetMetricUsageRatio); and from KEDA 2.20 (pkg/scalers/scaler.go, quantityFromFloat64).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

DEFAULT_TOLERANCE = 0.1
LARGEST_MILLI = 2**63 - 1
_LARGEST_REPLICAS = 2**31 - 1


class ValueType(StrEnum):
    """The trigger's KEDA ``metricType``: what the HPA does with the target."""

    AVERAGE_VALUE = "AverageValue"
    VALUE = "Value"


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far from 1 the ratio may be, either way, without any change. Both ends belong to it."""

    up: float = DEFAULT_TOLERANCE
    down: float = DEFAULT_TOLERANCE

    def hold(self, ratio: float) -> bool:
        """Whether the HPA leaves the size alone at this ratio."""
        # Written as the controller writes it: |1 - ratio| <= 0.1 would be false for a ratio of 1.1.
        return 1.0 - self.down <= ratio <= 1.0 + self.up


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The size one metric asks for, before any limit. ``ratio`` is the load against what is wanted."""

    replicas: int
    ratio: float
    within_tolerance: bool
    sentence: str


def milli(value: float) -> int:
    """The value as the HPA holds it, in whole thousandths: KEDA writes three decimals, half to even.

    KEDA before 2.20 cuts the rest off instead, a difference of one thousandth at most.

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
    tolerances: Tolerances = Tolerances(),
) -> Recommendation:
    """The size one external metric asks for.

    Args:
        value_type: ``AverageValue`` divides the value among the replicas, ``Value`` takes it as it stands.
        value_milli: the metric, in thousandths; several values of one metric are added up beforehand.
        target_milli: the target, in thousandths.
        replicas: the scale target's ``status.replicas`` under ``AverageValue``, its ``spec.replicas`` under
            ``Value``. The two differ only while pods come and go.
        ready_pods: how many pods run and are ready, read under ``Value`` only; all of them by default.
        tolerances: how far off the target is near enough.

    Raises:
        ValueError: a target that is not above 0, or a negative count.
    """
    ready = replicas if ready_pods is None else ready_pods
    if target_milli <= 0:
        raise ValueError(f"target: Invalid value: {_plain(target_milli)}: must be above 0, to three decimals")
    if replicas < 0 or ready < 0:
        raise ValueError(f"replicas: Invalid value: {min(replicas, ready)}: must be 0 or more")
    value, target = float(value_milli), float(target_milli)
    quotient = f"{_plain(value_milli)} / {_plain(target_milli)}"
    if replicas == 0:
        # The controller divides by zero here under AverageValue and goes on with an infinite ratio: no tolerance.
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


def resource_replicas(
    values_milli: Sequence[int],
    target_milli: int,
    *,
    missing: int,
    unready: int,
    replicas: int,
    tolerances: Tolerances = Tolerances(),
) -> int | None:
    """The size that the HPA's own resource-metric algorithm asks for; None without any value.

    One case is mended: at a ratio of exactly 1 the controller takes missing pods for idle, and shrinks. Here they are
    at the target then, too, as ignorance must not shrink anything.

    Args:
        values_milli: one for each ready pod that has a value, in thousandths.
        target_milli: what each should have, in thousandths, above 0.
        missing: ready pods without a value: idle when the others ask to grow, at the target when to shrink.
        unready: pods that are not ready: idle when growing, left out when shrinking.
        replicas: the scale target's ``spec.replicas``.
        tolerances: how far off the target is near enough.
    """
    if not values_milli:
        return None
    ratio = _mean_ratio(sum(values_milli), len(values_milli), target_milli)
    grows_over_unready = unready > 0 and ratio > 1.0
    if not grows_over_unready and not missing:
        return replicas if tolerances.hold(ratio) else _ceiling(ratio * len(values_milli))
    filled = sum(values_milli) + (missing * target_milli if ratio <= 1.0 else 0)
    counted = len(values_milli) + missing + (unready if grows_over_unready else 0)
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
