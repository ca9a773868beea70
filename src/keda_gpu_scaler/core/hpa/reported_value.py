# SPDX-License-Identifier: Apache-2.0
"""The reported value: the number that makes the HPA decide as it would from the value of each pod.

Law: if the plain total (or mean) makes the HPA choose the right size, it is the reported value. Otherwise the reported
value is a number that makes the HPA choose the right size. If no such number exists, it is the number that brings the
HPA nearest to the right size without going past it.

The HPA assumes that an external metric covers every pod. It does not cover pods that are starting or have no value. For
its own resource metrics the HPA has rules for such pods (``replica_calculator.resource_replicas``). This module follows
these rules.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction

from keda_gpu_scaler.core.aggregation import AGGREGATIONS, mean
from keda_gpu_scaler.core.hpa.replica_calculator import (
    ValueType,
    desired_replicas,
    milli,
    resource_replicas,
)
from keda_gpu_scaler.core.scaling_rules import DEFAULT_TOLERANCES, Tolerances

_LARGEST_MILLI = 9 * 10**18
"""The largest reported value in thousandths: below 2**63, and exact in floating point."""


class ReportType(StrEnum):
    """The kind of reported value: the total over the replicas (for AverageValue) or their average (for Value)."""

    TOTAL = "total"
    AVERAGE = "average"


REPORT_OF_TYPE = {"AverageValue": ReportType.TOTAL, "Value": ReportType.AVERAGE}
"""The kind that the HPA expects, by the trigger's KEDA ``metricType``."""


@dataclass(frozen=True, slots=True)
class WorkloadSize:
    """The size of the workload, as the HPA counts it.

    ``spec_replicas`` and ``status_replicas`` are the scale target's ``spec.replicas`` and ``status.replicas``.
    ``ready_pods`` counts the pods that run and are ready, terminating ones included. The three differ while pods are
    created or deleted: a rollout has more pods than ``spec_replicas``, and with an external metric within tolerance the
    HPA then *wants* as many.
    """

    spec_replicas: int
    status_replicas: int
    ready_pods: int


@dataclass(frozen=True, slots=True)
class ReportedValue:
    """The number given to the HPA, and the steps that led to it.

    ``value`` is finite, not negative, and has three decimals, as many as KEDA keeps. ``replicas`` is the size that the
    HPA's external-metric algorithm computes from it, None where the workload's size is not known. ``plain`` is the
    plain total or average, None where nothing was measured, and ``adjustment`` says why ``value`` is another number.
    """

    value: float
    replicas: int | None
    steps: tuple[str, ...]
    plain: float | None = None
    adjustment: str = ""


@dataclass(frozen=True, slots=True)
class _Load:
    """The load of the ready pods in thousandths, in which pods without a value count as at the target.

    ``is_above_target`` says that the pods (or the devices) with a value are above the target on average.
    """

    ready_milli: int
    is_above_target: bool


@dataclass(frozen=True, slots=True)
class _Hpa:
    """The HPA's arithmetic for external metrics, and its inverse: the number that leads to a given size."""

    report: ReportType
    target_milli: int
    size: WorkloadSize
    tolerances: Tolerances = DEFAULT_TOLERANCES

    def size_for(self, value_milli: int) -> int:
        """Return the size that the HPA computes from a reported value."""
        size = self.size
        if self.report is ReportType.TOTAL:
            value_type, replicas = ValueType.AVERAGE_VALUE, size.status_replicas
        else:
            value_type, replicas = ValueType.VALUE, size.spec_replicas
        recommended = desired_replicas(
            value_type,
            value_milli,
            self.target_milli,
            replicas=replicas,
            ready_pods=size.ready_pods,
            tolerances=self.tolerances,
        )
        return recommended.replicas

    def leading_to(self, wanted: int) -> int | None:
        """Return the plainest number that leads the HPA to this size; None where none does."""
        return next((value for value in self._candidates(wanted) if self.size_for(value) == wanted), None)

    def leading_nearest_to(self, wanted: int, load: _Load) -> int:
        """Return the number that brings the HPA nearest to a size that it cannot reach exactly.

        The HPA does not go past the size with it, and does not move in the wrong direction.

        During a rollout with surge more replicas exist than are wanted. Then even the present size may be such a size:
        with 20 replicas wanted and 21 existing, the HPA chooses 21 or 19 and nothing between. If it scaled up, it would
        scale up again at each reconciliation while the rollout lasts. So it scales up only above the target, and only
        as far as the load requires.
        """
        now = self.size.spec_replicas
        values = [*self._candidates(now), *self._candidates(wanted)]
        between = [value for value in values if min(now, wanted) <= self.size_for(value) <= max(now, wanted)]
        if between:
            return min(between, key=lambda value: abs(self.size_for(value) - wanted))
        is_growth_due = load.is_above_target and wanted >= now and self.size_for(load.ready_milli) >= now
        if self.size.status_replicas > now and not is_growth_due:
            return self._just_below(self.target_milli * self.size.status_replicas)
        return values[0]

    def _candidates(self, wanted: int) -> Iterator[int]:
        """Yield numbers that may lead to this size, the plainest first.

        The size may lie within the tolerance although it is not the present size. Then the last number below the
        tolerance may round up to it. The first number above the tolerance never leads to it: it rounds beyond.
        """
        if self.report is ReportType.TOTAL:
            whole, exact = self.target_milli * self.size.status_replicas, self.target_milli * wanted
        else:
            whole, exact = self.target_milli, self.target_milli * wanted // max(self.size.ready_pods, 1)
            if wanted == self.size.spec_replicas:
                yield _within_bounds(whole)
        yield _within_bounds(exact)
        yield _within_bounds(exact - _step(exact))  # 0.56 times 25 is more than 14 in the controller's floating point
        yield self._just_below(whole)

    def _just_below(self, whole: int) -> int:
        return _within_bounds(int(whole * (1 - self.tolerances.down)) - _step(whole))


def report_pods(
    report: ReportType,
    values: Sequence[float],
    *,
    missing: int,
    unready: int,
    size: WorkloadSize,
    target: float,
    tolerances: Tolerances = DEFAULT_TOLERANCES,
    shrink_hold: str = "",
    pods_per_replica: int = 1,
    noun: str = "pods",
) -> ReportedValue:
    """Report a workload by its pods, or by its replicas where several pods are one replica.

    Args:
        report: the total or the average.
        values: one for each ready pod with a value, in the metric's unit.
        missing: ready pods without a value.
        unready: pods that are not ready.
        size: the workload's size.
        target: the target of each pod's value.
        tolerances: those of the HPA.
        shrink_hold: why the workload may not shrink now, empty where it may.
        pods_per_replica: how many pods one of ``values`` stands for, where the workload's size counts pods. Each of
            them has the value, and the size stays a multiple.
        noun: what has the values, for the steps: "pods" or "groups".
    """
    hpa = _Hpa(report, milli(target), size, tolerances)
    values_milli = [_thousandths(value) for value in values]
    replicas = -(-size.spec_replicas // pods_per_replica)
    wanted = resource_replicas(
        values_milli,
        hpa.target_milli,
        missing=missing,
        unready=unready,
        replicas=replicas,
        tolerances=tolerances,
    )
    load = _Load(
        pods_per_replica * (sum(values_milli) + missing * hpa.target_milli),
        sum(values_milli) > len(values_milli) * hpa.target_milli,
    )
    counted = f"{len(values)} ready with a value, {missing} without, {unready} not ready"
    if wanted is None:
        return _held(hpa, load, f"no ready {noun.removesuffix('s')} has a value ({counted})")
    wanted = size.spec_replicas if wanted == replicas else wanted * pods_per_replica
    total = pods_per_replica * sum(values_milli)
    plain = _within_bounds(total if report is ReportType.TOTAL else _thousandths(mean(values)))
    if shrink_hold and wanted < size.spec_replicas:
        held = _held(hpa, load, f"{shrink_hold}; the resource-metric rules lead to {wanted} replicas ({counted})")
        return replace(held, plain=plain / 1000, adjustment=shrink_hold)
    several = f" times {pods_per_replica}" if pods_per_replica > 1 else ""
    plain_step = f"{report} of {len(values)} {noun}{several}: {plain / 1000:.6g}"
    return _leading_to(hpa, wanted, plain, load, plain_step, f"of the {noun} ({counted})")


def report_wanted(
    report: ReportType,
    wanted: int,
    reason: str,
    *,
    size: WorkloadSize,
    target: float,
    is_plain: bool,
    tolerances: Tolerances = DEFAULT_TOLERANCES,
) -> ReportedValue:
    """Report a size that demand requires while no pod is ready; never less than the present size.

    Args:
        report: the total or the average. The HPA multiplies an average by its ready pods, so without a ready pod an
            average has no effect.
        wanted: the required size.
        reason: why the size is required, for the steps.
        size: the workload's size.
        target: the target of each pod's value.
        is_plain: whether the HPA does not compare the value with the target: the workload is a ScaledJob, or a formula
            takes the value.
        tolerances: those of the HPA.
    """
    hpa = _Hpa(report, milli(target), size, tolerances)
    wanted = max(wanted, size.spec_replicas)
    plain = _within_bounds(hpa.target_milli * wanted)
    if is_plain or not size.spec_replicas:
        reported = ReportedValue(plain / 1000, wanted, (f"{reason}: {wanted} replicas, {plain / 1000:.6g}",))
    else:
        step = f"{reason}: {wanted} replicas"
        reported = _leading_to(hpa, wanted, plain, _Load(plain, True), step, "without a ready pod")
    return replace(reported, plain=None, adjustment=reason)  # nothing was measured


def report_devices(
    report: ReportType,
    aggregation: str,
    known: Sequence[float],
    *,
    missing: int,
    size: WorkloadSize | None,
    target: float,
    tolerances: Tolerances = DEFAULT_TOLERANCES,
) -> ReportedValue:
    """Report devices without regard to pods: one aggregate, as if every replica had this value.

    Args:
        report: the total (aggregate times replicas; a sum is one already) or the average (the aggregate itself).
        aggregation: a name in ``core.aggregation.AGGREGATIONS``.
        known: the devices' values, at least one.
        missing: how many devices have no value. They count as idle on the way up and as at the target on the way down.
        size: the workload's size, None where it is not known. Then the only possible total is a sum of devices that
            all have a value.
        target: the target of the value.
        tolerances: those of the HPA.

    Raises:
        ValueError: the total cannot be reported without the workload's size.
    """
    aggregate, is_sum = AGGREGATIONS[aggregation], aggregation == "sum"
    if size is None:
        if report is ReportType.TOTAL and (missing or not is_sum):
            raise ValueError(f"report: Invalid value: {report}: the workload's replicas are not known")
        plain = _within_bounds(_thousandths(_filled(aggregate, known, missing, target)))
        return ReportedValue(plain / 1000, None, (f"{aggregation}: {plain / 1000:.6g}",), plain / 1000)
    hpa = _Hpa(report, milli(target), size, tolerances)
    if report is ReportType.AVERAGE:
        value = _filled(aggregate, known, missing, target)
        return _average_of_devices(hpa, value, f"{aggregation}: {value:.6g}", is_above=value > target)
    value = _filled(aggregate, known, missing, target * size.spec_replicas if is_sum else target)
    return _total_of_devices(hpa, value, f"{aggregation}: {value:.6g}", is_sum=is_sum)


def _average_of_devices(hpa: _Hpa, value: float, plain_step: str, *, is_above: bool) -> ReportedValue:
    plain = _within_bounds(_thousandths(value))
    wanted, now = hpa.size_for(plain), hpa.size.spec_replicas
    # The HPA multiplies by its ready pods. While some are starting, it would scale down at a ratio above 1.
    is_reversed = wanted < now if is_above else wanted > now
    if now and is_reversed:
        wanted = now
    return _leading_to(hpa, wanted, plain, _Load(plain, is_above), plain_step, "of the devices")


def _total_of_devices(hpa: _Hpa, value: float, plain_step: str, *, is_sum: bool) -> ReportedValue:
    size = hpa.size
    plain = _within_bounds(_thousandths(value, 1 if is_sum else size.spec_replicas))
    ready_load = _thousandths(value, 1 if is_sum else size.ready_pods)
    # The size that the HPA would choose if exactly the wanted replicas existed.
    wanted = replace(hpa, size=replace(size, status_replicas=size.spec_replicas)).size_for(plain)
    if not is_sum:
        plain_step += f", times {size.spec_replicas} replicas: {plain / 1000:.6g}"
    load = _Load(ready_load, plain > hpa.target_milli * size.spec_replicas)
    return _leading_to(hpa, wanted, plain, load, plain_step, "of the devices")


def _filled(
    aggregate: Callable[[Sequence[float]], float], known: Sequence[float], missing: int, reference: float
) -> float:
    """Return the aggregate. Missing devices count as idle if it is above the reference, else as at the reference."""
    value = aggregate(known)
    if not missing:
        return value
    if value > reference:
        return max(reference, aggregate([*known, *[0.0] * missing]))
    return min(reference, aggregate([*known, *[reference] * missing]))


def _leading_to(hpa: _Hpa, wanted: int, plain: int, load: _Load, plain_step: str, whose: str) -> ReportedValue:
    """Report the plain number if it leads the HPA to this size; otherwise one that does; otherwise the closest one."""
    if hpa.size_for(plain) == wanted:
        return ReportedValue(plain / 1000, wanted, (plain_step,), plain / 1000)
    value = hpa.leading_to(wanted)
    if value is not None:
        why = f"the resource-metric rules {whose} lead to {wanted} replicas, and so does {value / 1000:.6g}"
        return ReportedValue(value / 1000, wanted, (plain_step, why), plain / 1000, why)
    nearest = _nearest(hpa, wanted, load)
    steps = (plain_step, *nearest.steps)
    return ReportedValue(nearest.value, nearest.replicas, steps, plain / 1000, nearest.adjustment)


def _held(hpa: _Hpa, load: _Load, why: str) -> ReportedValue:
    """Report a number that makes the HPA keep the size that is wanted now."""
    now = hpa.size.spec_replicas
    value = hpa.leading_to(now)
    if value is not None:
        step = f"{why}: the size stays; {value / 1000:.6g} keeps {now} replicas"
        return ReportedValue(value / 1000, now, (step,), adjustment=why)
    nearest = _nearest(hpa, now, load)
    steps = (f"{why}: the size should stay", *nearest.steps)
    return ReportedValue(nearest.value, nearest.replicas, steps, adjustment=why)


def _nearest(hpa: _Hpa, wanted: int, load: _Load) -> ReportedValue:
    value = hpa.leading_nearest_to(wanted, load)
    made, size = hpa.size_for(value), hpa.size
    why = (
        f"no number leads the HPA from {size.spec_replicas} replicas ({size.status_replicas} exist) to {wanted}: "
        f"{value / 1000:.6g} leads closest, to {made}"
    )
    return ReportedValue(value / 1000, made, (why,), adjustment=why)


def _thousandths(value: float, times: int = 1) -> int:
    return round(Fraction(min(max(value, 0.0), _LARGEST_MILLI / 1000)) * (times * 1000))


def _within_bounds(value_milli: int) -> int:
    """Return the nearest number that can be reported, exactly as it arrives: KEDA receives floating point."""
    return milli(min(max(value_milli, 0), _LARGEST_MILLI) / 1000)


def _step(value_milli: int) -> int:
    """Return a little more than the error of floating point, and at least a thousandth."""
    return 1 + (value_milli >> 50)
