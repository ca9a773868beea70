# SPDX-License-Identifier: Apache-2.0
"""KEDA's arithmetic for ScaledJobs, and the value that leads KEDA to a wanted number of Jobs.

Law: with the reported value KEDA starts as many Jobs as are missing to the wanted number. Where no value does, it is
the value that leads nearest without going past it. KEDA never removes a running Job.

KEDA counts Jobs that are not finished, whatever number of pods each has. At each poll it computes
ceil(value / target), and the strategy of the ScaledJob says what it subtracts from that.

Facts are from KEDA (pkg/scaling/scaledjob/metrics.go; pkg/scaling/executor/scale_jobs.go: getScalingDecision,
GetEffectiveMaxScale of each strategy, createJobs), with the strategy ``eager``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.hpa.replica_calculator import milli, resource_replicas
from keda_gpu_scaler.core.hpa.reported_value import ReportedValue
from keda_gpu_scaler.core.scaling_rules import JobRules, JobStrategy

_MILLI = 0.001
_LARGEST_VALUE_MILLI = 9 * 10**18  # below 2**63, and exact in floating point


@dataclass(frozen=True, slots=True)
class JobCounts:
    """The Jobs that are not finished, and how many of them are pending: none of their pods runs."""

    running: int
    pending: int = 0


@dataclass(frozen=True, slots=True)
class JobMetric:
    """What one trigger of a ScaledJob reports: its value and its target in thousandths, and whether it is active.

    The target is 0 for a trigger of the type Value, which asks for no Job.
    """

    value_milli: int
    target_milli: int
    is_active: bool = True

    @property
    def jobs(self) -> float:
        """How many Jobs it asks for, before it is rounded up."""
        return self.value_milli / self.target_milli if self.target_milli else 0.0


def wanted_jobs(values: Sequence[float], *, missing: int, unready: int, running: int, target: float) -> ReportedValue:
    """Return the number of Jobs that the resource-metric rules want, with their plain total as the value.

    Args:
        values: one for each ready Job with a value, in the metric's unit.
        missing: ready Jobs without a value.
        unready: Jobs with a pod that is not ready.
        running: the Jobs that are not finished.
        target: the target of each Job's value.
    """
    thousandths = [milli(min(max(value, 0.0), _LARGEST_VALUE_MILLI / 1000)) for value in values]
    wanted = resource_replicas(thousandths, milli(target), missing=missing, unready=unready, replicas=running)
    counted = f"{len(values)} ready with a value, {missing} without, {unready} not ready"
    if wanted is None:
        return ReportedValue(0.0, running, (f"no ready job has a value ({counted}): {running} jobs stay",))
    total = sum(thousandths) / 1000
    step = f"total of {len(values)} jobs: {total:.6g}; the resource-metric rules ({counted}) lead to {wanted} jobs"
    return ReportedValue(total, wanted, (step,), total)


def for_jobs(reported: ReportedValue, target: float, rules: JobRules, counts: JobCounts) -> ReportedValue:
    """Report the value that leads KEDA to the same number of Jobs.

    The plain total would add a Job at each poll to Jobs slightly above the target, and KEDA never removes one.
    """
    if reported.replicas is None:
        return reported
    target_milli = milli(target)
    value_milli = _value_of(_asked(rules, counts, reported.replicas), target_milli)
    started = new_jobs(rules, counts, value_milli, target_milli)
    rule = f"strategy {rules.strategy}" + (f", minReplicaCount {rules.min_jobs}" if rules.min_jobs else "")
    pending = f", {counts.pending} of them pending" if counts.pending else ""
    why = (
        f"KEDA has {counts.running} jobs{pending} ({rule}): with {value_milli / 1000:.6g} it starts {started} at this "
        "poll"
    )
    steps = (*reported.steps, why)
    return ReportedValue(value_milli / 1000, counts.running + started, steps, reported.plain, why)


def new_jobs(rules: JobRules, counts: JobCounts, value_milli: int, target_milli: int) -> int:
    """Return how many Jobs KEDA starts at one poll while the trigger is active.

    Args:
        rules: of the ScaledJob.
        counts: the Jobs that exist.
        value_milli: the reported value, in thousandths.
        target_milli: the target, in thousandths, above 0.
    """
    return _started(rules, counts, _jobs_in(value_milli, target_milli), math.ceil(value_milli / 1000))


def new_jobs_of_triggers(rules: JobRules, counts: JobCounts, metrics: Sequence[JobMetric]) -> int:
    """Return how many Jobs KEDA starts at one poll, by the triggers that answered without an error.

    ``multipleScalersCalculation`` says how KEDA combines them: the trigger with the largest value ("max"), the one with
    the smallest ("min"), the mean ("avg") or the total ("sum"), each of the active triggers alone. A ScaledJob with a
    ``minReplicaCount`` is always active.
    """
    active = [metric for metric in metrics if metric.is_active]
    if not active:
        return _started(rules, counts, 0, 0) if rules.min_jobs else 0
    if rules.calculation in ("sum", "avg"):
        share = len(active) if rules.calculation == "avg" else 1
        asked = math.fsum([min(metric.jobs, rules.limit) for metric in active]) / share
        total = math.fsum([metric.value_milli for metric in active]) / share
        return _started(rules, counts, math.ceil(min(asked, rules.limit)), math.ceil(total / 1000))
    chosen = active[0]
    for metric in active[1:]:
        is_less = not chosen.value_milli or metric.value_milli < chosen.value_milli  # to KEDA a value of 0 is none yet
        if is_less if rules.calculation == "min" else metric.value_milli > chosen.value_milli:
            chosen = metric
    if not chosen.target_milli:  # a trigger of the type Value asks for no Job
        return _started(rules, counts, 0, math.ceil(chosen.value_milli / 1000))
    return new_jobs(rules, counts, chosen.value_milli, chosen.target_milli)


def _started(rules: JobRules, counts: JobCounts, asked: int, at_most: int) -> int:
    """Return how many Jobs KEDA starts where the triggers ask for some, and their value allows so many at once."""
    if counts.running < rules.least:
        return rules.least - counts.running
    above = counts.running - rules.least
    asked = min(asked, rules.limit)
    match rules.strategy:
        case JobStrategy.CUSTOM:
            effective = min(asked - _deducted(rules, above), rules.limit)
        case JobStrategy.ACCURATE:
            is_limited = asked + above > rules.limit
            effective = rules.limit - above if is_limited else asked - counts.pending
        case JobStrategy.EAGER:
            effective, at_most = min(rules.limit - above - counts.pending, asked), rules.limit
        case JobStrategy.DEFAULT:
            effective = asked - above
    return max(0, min(effective, at_most))


def _asked(rules: JobRules, counts: JobCounts, wanted: int) -> int:
    """Return how many Jobs the value must ask for, so that KEDA starts the missing ones."""
    wanted = min(wanted, rules.most)
    if rules.strategy is JobStrategy.DEFAULT:
        # Not the missing Jobs but the wanted ones: it stays right while Jobs end or start between two polls.
        return max(0, wanted - rules.least)
    if counts.running < rules.least:
        return 0  # KEDA starts those up to the minimum at any value; the others follow at the next poll
    above, missing = counts.running - rules.least, max(0, wanted - counts.running)
    if rules.strategy is JobStrategy.CUSTOM:
        return missing + _deducted(rules, above)
    if rules.strategy is JobStrategy.EAGER or not missing:
        return missing
    asked = missing + counts.pending
    # Near the limit KEDA starts all Jobs up to it, whatever the value asks for beyond.
    reaches_limit = rules.limit - above == missing
    return asked if asked + above <= rules.limit or reaches_limit else max(0, rules.limit - above)


def _deducted(rules: JobRules, above: int) -> int:
    """Return how many Jobs the strategy ``custom`` subtracts."""
    return (rules.queue_length_deduction or 0) + int(float(above) * rules.running_job_ratio)


def _value_of(jobs: int, target_milli: int) -> int:
    """Return the plainest value in thousandths from which KEDA computes this number of Jobs."""
    value = min(jobs * target_milli, _LARGEST_VALUE_MILLI)
    value = milli(value / 1000)
    step = 1
    while value > 0 and _jobs_in(value, target_milli) > jobs:
        # The quotient is slightly too large in floating point. A thousandth less of a very large number may be rounded
        # to the same number when it is sent, so that the steps grow.
        value = max(0, milli((value - step) / 1000))
        step *= 2
    return value


def _jobs_in(value_milli: int, target_milli: int) -> int:
    """Return ceil(value / target) in floating point, the larger of the two ways in which KEDA may compute it.

    A quantity that Kubernetes holds in thousandths is multiplied by 0.001; one that it holds as a decimal is exact.
    """
    quotients = [
        value / target
        for value in (value_milli / 1000, value_milli * _MILLI)
        for target in (target_milli / 1000, target_milli * _MILLI)
    ]
    return math.ceil(max(quotients))
