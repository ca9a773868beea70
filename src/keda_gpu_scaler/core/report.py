# SPDX-License-Identifier: Apache-2.0
"""Which one number must the HPA be handed, so that it does what its own algorithm would do with every pod's value?

The law of this module: the plain total (or mean) wherever the HPA's external-metric arithmetic does the right
thing with it, and otherwise the number that leads it there. Nothing else is ever handed out.

The HPA treats an external metric as if it knew all about every pod. About pods that are loading, or that nobody
sees, it does not; for its own resource metrics it has rules for these (``core.replicas.resource_replicas``), which
are followed here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from keda_gpu_scaler.core.aggregate import AGGREGATIONS, mean
from keda_gpu_scaler.core.replicas import (
    DEFAULT_TOLERANCE,
    LARGEST_MILLI,
    Recommendation,
    ValueType,
    desired_replicas,
    milli,
    resource_replicas,
)

_LARGEST_VALUE = 1e12


class Report(StrEnum):
    """What is handed out: the total over the replicas (for AverageValue) or their average (for Value)."""

    TOTAL = "total"
    AVERAGE = "average"


@dataclass(frozen=True, slots=True)
class Size:
    """How large the workload is, in the HPA's eyes.

    ``wanted`` is the scale target's ``spec.replicas``, ``actual`` its ``status.replicas``, and ``ready`` counts the
    pods that run and are ready, those that are ending included. The three differ while pods come and go: a rollout
    has more pods than were wanted, and an external metric within tolerance makes the HPA *want* as many.
    """

    wanted: int
    actual: int
    ready: int


@dataclass(frozen=True, slots=True)
class Reported:
    """What to hand out, and why.

    ``value`` is finite, not negative, and has three decimals, as many as KEDA keeps. ``replicas`` is the size the
    HPA's external-metric algorithm makes of it, None where the workload's size is not known.
    """

    value: float
    replicas: int | None
    steps: tuple[str, ...]


def report_pods(
    report: Report, values: Sequence[float], *, missing: int, unready: int, size: Size, target: float
) -> Reported:
    """Report a workload by its pods.

    Args:
        report: the total or the average.
        values: one for each ready pod that has a value, in the metric's unit.
        missing: ready pods without a value.
        unready: pods that are not ready.
        size: the workload's size.
        target: what each pod's value should be.
    """
    target_milli = milli(target)
    values_milli = [milli(min(value, _LARGEST_VALUE)) for value in values]
    wanted = resource_replicas(values_milli, target_milli, missing=missing, unready=unready, replicas=size.wanted)
    plain = sum(values_milli) if report is Report.TOTAL else milli(mean(values)) if values else 0
    counted = f"{len(values)} ready with a value, {missing} without, {unready} not ready"
    if wanted is None:
        return _held(report, target_milli, size, f"no ready pod has a value ({counted}): nothing moves")
    said = f"{report} of {len(values)} pods: {plain / 1000:.6g}"
    return _leading_to(report, plain, target_milli, size, wanted, said, f"of the pods ({counted})")


def report_devices(
    report: Report,
    aggregation: str,
    known: Sequence[float],
    *,
    unseen: int,
    size: Size | None,
    target: float,
) -> Reported:
    """Report devices that no pods stand behind: one aggregate, as if every replica had it.

    Args:
        report: the total (aggregate times replicas; a sum is one already) or the average (the aggregate itself).
        aggregation: a name in ``core.aggregate.AGGREGATIONS``.
        known: the devices' values, at least one.
        unseen: how many devices have none: idle when the others ask to grow, at the target when to shrink.
        size: the workload's size; None where it is not known, which leaves no total of anything but a sum, and
            that only while nothing is unseen.
        target: what the value should be.
    """
    is_total = report is Report.TOTAL and aggregation == "sum"
    if size is None:
        value = AGGREGATIONS[aggregation](known)
        if not is_total:
            value = _filled(AGGREGATIONS[aggregation], known, unseen, target)
        value_milli = milli(min(value, _LARGEST_VALUE))
        return Reported(value_milli / 1000, None, (f"{aggregation}: {value_milli / 1000:.6g}",))
    reference = target * size.wanted if is_total else target
    value = _filled(AGGREGATIONS[aggregation], known, unseen, reference)
    if report is Report.AVERAGE:
        plain = milli(min(value, _LARGEST_VALUE))
        made = _external(report, plain, milli(target), size)
        return Reported(plain / 1000, made.replicas, (f"{aggregation}: {plain / 1000:.6g}",))
    plain = milli(min(value if is_total else value * size.wanted, _LARGEST_VALUE))
    # What the HPA would do if there were just as many replicas as were wanted.
    settled = Size(size.wanted, size.wanted, size.ready)
    wanted = _external(report, plain, milli(target), settled).replicas
    said = f"{aggregation}: {value:.6g}" + ("" if is_total else f", times {size.wanted} replicas: {plain / 1000:.6g}")
    return _leading_to(report, plain, milli(target), size, wanted, said, "of the devices")


def _filled(
    aggregate: Callable[[Sequence[float]], float], known: Sequence[float], unseen: int, reference: float
) -> float:
    """The aggregate with unseen devices idle when it is above the reference, and at the reference when below."""
    value = aggregate(known)
    if not unseen or value == reference:
        return value
    if value > reference:
        return max(reference, aggregate([*known, *[0.0] * unseen]))
    return min(reference, aggregate([*known, *[reference] * unseen]))


def _leading_to(
    report: Report, plain: int, target_milli: int, size: Size, wanted: int, said: str, whose: str
) -> Reported:
    """Hand out the plain number if it makes the HPA want this size, or else one that does."""
    if _external(report, plain, target_milli, size).replicas == wanted:
        return Reported(plain / 1000, wanted, (said,))
    for value in _candidates(report, target_milli, size, wanted):
        if _external(report, value, target_milli, size).replicas == wanted:
            why = f"the resource-metric rules {whose} lead to {wanted} replicas, and so does {value / 1000:.6g}"
            return Reported(value / 1000, wanted, (said, why))
    why = f"from {size.wanted} to {wanted} replicas is within the HPA's tolerance for external metrics: nothing moves"
    held = _held(report, target_milli, size, why)
    return Reported(held.value, held.replicas, (said, *held.steps))


def _held(report: Report, target_milli: int, size: Size, why: str) -> Reported:
    """Hand out what makes the HPA stay at the size that is wanted now."""
    values = list(_candidates(report, target_milli, size, size.wanted))
    value = next(
        (one for one in values if _external(report, one, target_milli, size).replicas == size.wanted), values[0]
    )
    made = _external(report, value, target_milli, size).replicas
    return Reported(value / 1000, made, (f"{why}; {value / 1000:.6g} holds {made} replicas",))


def _candidates(report: Report, target_milli: int, size: Size, wanted: int) -> Iterator[int]:
    """Yield numbers that may make the HPA want this size, the most natural first.

    What is wanted may lie within the tolerance although it is not the present size; then the last number below, or
    the first above, may round to it all the same.
    """
    if report is Report.TOTAL:
        whole, exact = target_milli * size.actual, target_milli * wanted
    else:
        whole, exact = target_milli, target_milli * wanted // max(size.ready, 1)
        if wanted == size.wanted:
            yield _within_bounds(whole)
    yield _within_bounds(exact)
    yield _within_bounds(exact - 1)  # 0.56 times 25 is more than 14 in the controller's floating point
    yield _within_bounds(int(whole * (1 - DEFAULT_TOLERANCE)) - 1)
    yield _within_bounds(int(whole * (1 + DEFAULT_TOLERANCE)) + 2)


def _within_bounds(value_milli: int) -> int:
    return min(max(value_milli, 0), LARGEST_MILLI)


def _external(report: Report, value_milli: int, target_milli: int, size: Size) -> Recommendation:
    if report is Report.TOTAL:
        return desired_replicas(ValueType.AVERAGE_VALUE, value_milli, target_milli, replicas=size.actual)
    return desired_replicas(ValueType.VALUE, value_milli, target_milli, replicas=size.wanted, ready_pods=size.ready)
