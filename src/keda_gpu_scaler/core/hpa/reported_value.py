# SPDX-License-Identifier: Apache-2.0
"""Which one number must the HPA be handed, so that it does what its own algorithm would do with every pod's value?

The law of this module: the plain total (or mean) wherever the HPA's external-metric arithmetic does the right
thing with it, and otherwise the number that leads it there; where no number does, the one that leads nearest without
going beyond.

The HPA treats an external metric as if it knew all about every pod. About pods that are loading, or that nobody
sees, it does not; for its own resource metrics it has rules for these (``core.replicas.resource_replicas``), which
are followed here.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from keda_gpu_scaler.core.aggregation import AGGREGATIONS, mean
from keda_gpu_scaler.core.hpa.replica_calculator import (
    DEFAULT_TOLERANCE,
    ValueType,
    desired_replicas,
    milli,
    resource_replicas,
)

_LARGEST_MILLI = 9 * 10**18
"""In thousandths the largest number handed out: below 2**63, and whole in floating point."""


class ReportType(StrEnum):
    """What is handed out: the total over the replicas (for AverageValue) or their average (for Value)."""

    TOTAL = "total"
    AVERAGE = "average"


REPORT_OF_TYPE = {"AverageValue": ReportType.TOTAL, "Value": ReportType.AVERAGE}
"""What the HPA expects to be told, by the trigger's KEDA ``metricType``."""


@dataclass(frozen=True, slots=True)
class WorkloadSize:
    """How large the workload is, in the HPA's eyes.

    ``wanted`` is the scale target's ``spec.replicas``, ``actual`` its ``status.replicas``, and ``ready`` counts the
    pods that run and are ready, those that are ending included. The three differ while pods come and go: a rollout
    has more pods than were wanted, and an external metric within tolerance makes the HPA *want* as many.
    """

    wanted: int
    actual: int
    ready: int


@dataclass(frozen=True, slots=True)
class ReportedValue:
    """What to hand out, and why.

    ``value`` is finite, not negative, and has three decimals, as many as KEDA keeps. ``replicas`` is the size the
    HPA's external-metric algorithm makes of it, None where the workload's size is not known.
    """

    value: float
    replicas: int | None
    steps: tuple[str, ...]


def report_pods(
    report: ReportType, values: Sequence[float], *, missing: int, unready: int, size: WorkloadSize, target: float
) -> ReportedValue:
    """Report a workload by its pods.

    Args:
        report: the total or the average.
        values: one for each ready pod that has a value, in the metric's unit.
        missing: ready pods without a value.
        unready: pods that are not ready.
        size: the workload's size.
        target: what each pod's value should be.
    """
    hpa = _Hpa(report, milli(target), size)
    values_milli = [_thousandths(value) for value in values]
    wanted = resource_replicas(values_milli, hpa.target_milli, missing=missing, unready=unready, replicas=size.wanted)
    backed = sum(values_milli) + missing * hpa.target_milli
    counted = f"{len(values)} ready with a value, {missing} without, {unready} not ready"
    if wanted is None:
        return _held(hpa, backed, f"no ready pod has a value ({counted})")
    plain = _within_bounds(sum(values_milli) if report is ReportType.TOTAL else _thousandths(mean(values)))
    said = f"{report} of {len(values)} pods: {plain / 1000:.6g}"
    return _leading_to(hpa, wanted, plain, backed, said, f"of the pods ({counted})")


def report_wanted(
    report: ReportType, wanted: int, said: str, *, size: WorkloadSize, target: float, jobs: bool
) -> ReportedValue:
    """Report a size that is known to be needed, for want of any pod that could tell; never less than there is.

    Args:
        report: the total or the average; of an average the HPA makes a multiple of its ready pods, so it leads nowhere.
        wanted: the size.
        said: why, for people.
        size: the workload's size.
        target: what each pod's value should be.
        jobs: whether it is a ScaledJob, whose size the HPA has no hand in.
    """
    hpa = _Hpa(report, milli(target), size)
    wanted = max(wanted, size.wanted)
    plain = _within_bounds(hpa.target_milli * wanted)
    if jobs or not size.wanted:
        return ReportedValue(plain / 1000, wanted, (f"{said}: {wanted} replicas, {plain / 1000:.6g}",))
    return _leading_to(hpa, wanted, plain, plain, f"{said}: {wanted} replicas", "for want of a ready pod")


def for_jobs(reported: ReportedValue, target: float) -> ReportedValue:
    """Report the size that was found, in the arithmetic of a ScaledJob: ceil(value / target) jobs, and no tolerance.

    Without this a fleet of jobs a hair above the target gets another job at each poll, and jobs are never taken back.
    (KEDA 2.20: pkg/scaling/scaledjob/scale_metrics.go and pkg/scaling/executor/scale_jobs.go.)
    """
    if reported.replicas is None:
        return reported
    value = round(target * reported.replicas, 3)
    while value > 0 and math.ceil(value / target) > reported.replicas:
        # The product is a hair too large in floating point; of a very large one a thousandth less is the same number.
        value = min(round(value - 0.001, 3), math.nextafter(value, 0.0))
    why = f"KEDA divides by the target for jobs, without a tolerance: {value:.6g} is {reported.replicas} jobs"
    return ReportedValue(value, reported.replicas, (*reported.steps, why))


def report_devices(
    report: ReportType,
    aggregation: str,
    known: Sequence[float],
    *,
    missing: int,
    size: WorkloadSize | None,
    target: float,
) -> ReportedValue:
    """Report devices that no pods stand behind: one aggregate, as if every replica had it.

    Args:
        report: the total (aggregate times replicas; a sum is one already) or the average (the aggregate itself).
        aggregation: a name in ``core.aggregate.AGGREGATIONS``.
        known: the devices' values, at least one.
        missing: how many devices have none: idle when the others ask to grow, at the target when to shrink.
        size: the workload's size; None where it is not known, which leaves no total of anything but a sum, and
            that only while nothing is unseen.
        target: what the value should be.

    Raises:
        ValueError: a total that cannot be told without the workload's size.
    """
    is_sum = aggregation == "sum"
    is_total = report is ReportType.TOTAL and is_sum
    if size is None:
        if report is ReportType.TOTAL and (missing or not is_sum):
            raise ValueError(f"report: Invalid value: {report}: the workload's replicas are not known")
        plain = _within_bounds(_thousandths(_filled(AGGREGATIONS[aggregation], known, missing, target)))
        return ReportedValue(plain / 1000, None, (f"{aggregation}: {plain / 1000:.6g}",))
    value = _filled(AGGREGATIONS[aggregation], known, missing, target * size.wanted if is_total else target)
    hpa = _Hpa(report, milli(target), size)
    said = f"{aggregation}: {value:.6g}"
    if report is ReportType.AVERAGE:
        plain = _within_bounds(_thousandths(value))
        wanted = hpa.makes(plain)
        # The HPA multiplies by its ready pods: while some are loading, it shrinks at a ratio that asks to grow.
        is_turned = wanted < size.wanted if value > target else wanted > size.wanted
        if size.wanted and is_turned:
            wanted = size.wanted
        return _leading_to(hpa, wanted, plain, plain, said, "of the devices")
    plain = _within_bounds(_thousandths(value, 1 if is_sum else size.wanted))
    backed = _thousandths(value, 1 if is_sum else size.ready)
    # What the HPA would do if there were just as many replicas as were wanted.
    wanted = _Hpa(report, hpa.target_milli, WorkloadSize(size.wanted, size.wanted, size.ready)).makes(plain)
    if not is_sum:
        said += f", times {size.wanted} replicas: {plain / 1000:.6g}"
    return _leading_to(hpa, wanted, plain, backed, said, "of the devices")


def _filled(
    aggregate: Callable[[Sequence[float]], float], known: Sequence[float], missing: int, reference: float
) -> float:
    """The aggregate with unseen devices idle when it is above the reference, and at the reference when below."""
    value = aggregate(known)
    if not missing:
        return value
    if value > reference:
        return max(reference, aggregate([*known, *[0.0] * missing]))
    return min(reference, aggregate([*known, *[reference] * missing]))


@dataclass(frozen=True, slots=True)
class _Hpa:
    """What the HPA's arithmetic for external metrics makes of a number, and which number makes it want a size."""

    report: ReportType
    target_milli: int
    size: WorkloadSize

    def makes(self, value_milli: int) -> int:
        """Return the size that it wants when it is told this."""
        size = self.size
        if self.report is ReportType.TOTAL:
            value_type, replicas = ValueType.AVERAGE_VALUE, size.actual
        else:
            value_type, replicas = ValueType.VALUE, size.wanted
        recommended = desired_replicas(
            value_type, value_milli, self.target_milli, replicas=replicas, ready_pods=size.ready
        )
        return recommended.replicas

    def leading_to(self, wanted: int) -> int | None:
        """Return the most natural number that makes it want this size; None where none does."""
        return next((value for value in self._candidates(wanted) if self.makes(value) == wanted), None)

    def leading_nearest_to(self, wanted: int, backed: int) -> int:
        """Return a number for a size to which none leads: nearest to it, neither beyond it nor away from it.

        While there are more replicas than wanted (a rollout's surge), even "no change" may be such a size: from 20
        wanted and 21 there, it is 21 or 19 and nothing between. To let it grow would be to let it grow again at each
        look, for as long as the rollout lasts. So it grows only as far as there is load to back it.

        Args:
            wanted: the size.
            backed: the load that the ready pods bear, those unseen at the target, in thousandths.
        """
        now = self.size.wanted
        values = [*self._candidates(now), *self._candidates(wanted)]
        between = [value for value in values if min(now, wanted) <= self.makes(value) <= max(now, wanted)]
        if between:
            return min(between, key=lambda value: abs(self.makes(value) - wanted))
        if self.size.actual > now and (wanted < now or self.makes(backed) < now):
            return self._just_below(self.target_milli * self.size.actual)
        return values[0]

    def _candidates(self, wanted: int) -> Iterator[int]:
        """Yield numbers that may make it want this size, the most natural first.

        What is wanted may lie within the tolerance although it is not the present size; then the last number below
        may round up to it all the same. The first above never does: it rounds beyond.
        """
        if self.report is ReportType.TOTAL:
            whole, exact = self.target_milli * self.size.actual, self.target_milli * wanted
        else:
            whole, exact = self.target_milli, self.target_milli * wanted // max(self.size.ready, 1)
            if wanted == self.size.wanted:
                yield _within_bounds(whole)
        yield _within_bounds(exact)
        yield _within_bounds(exact - _step(exact))  # 0.56 times 25 is more than 14 in the controller's floating point
        yield self._just_below(whole)

    def _just_below(self, whole: int) -> int:
        return _within_bounds(int(whole * (1 - DEFAULT_TOLERANCE)) - _step(whole))


def _leading_to(hpa: _Hpa, wanted: int, plain: int, backed: int, said: str, whose: str) -> ReportedValue:
    """Hand out the plain number if it makes the HPA want this size, or else one that does, or comes near."""
    if hpa.makes(plain) == wanted:
        return ReportedValue(plain / 1000, wanted, (said,))
    value = hpa.leading_to(wanted)
    if value is not None:
        why = f"the resource-metric rules {whose} lead to {wanted} replicas, and so does {value / 1000:.6g}"
        return ReportedValue(value / 1000, wanted, (said, why))
    nearest = _nearest(hpa, wanted, backed)
    return ReportedValue(nearest.value, nearest.replicas, (said, *nearest.steps))


def _held(hpa: _Hpa, backed: int, why: str) -> ReportedValue:
    """Hand out what makes the HPA stay at the size that is wanted now."""
    now = hpa.size.wanted
    value = hpa.leading_to(now)
    if value is not None:
        return ReportedValue(value / 1000, now, (f"{why}: nothing moves; {value / 1000:.6g} holds {now} replicas",))
    nearest = _nearest(hpa, now, backed)
    return ReportedValue(nearest.value, nearest.replicas, (f"{why}: nothing should move", *nearest.steps))


def _nearest(hpa: _Hpa, wanted: int, backed: int) -> ReportedValue:
    value = hpa.leading_nearest_to(wanted, backed)
    made, size = hpa.makes(value), hpa.size
    why = (
        f"no number leads the HPA from {size.wanted} replicas ({size.actual} there) to {wanted}: "
        f"{value / 1000:.6g} leads nearest, to {made}"
    )
    return ReportedValue(value / 1000, made, (why,))


def _thousandths(value: float, times: int = 1) -> int:
    return round(Fraction(min(max(value, 0.0), _LARGEST_MILLI / 1000)) * (times * 1000))


def _within_bounds(value_milli: int) -> int:
    """The nearest number that can be handed out, and exactly as it arrives: KEDA is sent floating point."""
    return milli(min(max(value_milli, 0), _LARGEST_MILLI) / 1000)


def _step(value_milli: int) -> int:
    """A little more than floating point may be wrong by, and at least a thousandth."""
    return 1 + (value_milli >> 50)
