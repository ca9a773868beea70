# SPDX-License-Identifier: Apache-2.0
"""The fields of a ScaledObject or ScaledJob that decide how KEDA and the HPA scale.

Facts are from KEDA 2.20 and later: apis/keda/v1alpha1/scaledjob_types.go (MinReplicaCount, MaxReplicaCount),
scaledobject_types.go (ScalingModifiers) and pkg/scaling/executor/scale_jobs.go; and from Kubernetes 1.33
(pkg/controller/podautoscaler, Tolerances.isWithin).
"""

import math
from dataclasses import dataclass
from enum import StrEnum

DEFAULT_TOLERANCE = 0.1
DEFAULT_COOLDOWN_SECONDS = 300.0
"""KEDA's default for ``cooldownPeriod``."""
DEFAULT_MAX_JOBS = 100
"""KEDA's default for a ScaledJob's ``maxReplicaCount``."""


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far the ratio may be above or below 1 without any change. Both bounds are inclusive."""

    up: float = DEFAULT_TOLERANCE
    down: float = DEFAULT_TOLERANCE

    def hold(self, ratio: float) -> bool:
        """Whether the HPA keeps the size at this ratio."""
        # Written as the controller writes it: |1 - ratio| <= 0.1 would be false for a ratio of 1.1.
        return 1.0 - self.down <= ratio <= 1.0 + self.up


DEFAULT_TOLERANCES = Tolerances()


class JobStrategy(StrEnum):
    """A ScaledJob's ``scalingStrategy.strategy``: which Jobs KEDA subtracts from those that the value asks for."""

    DEFAULT = "default"
    CUSTOM = "custom"
    ACCURATE = "accurate"
    EAGER = "eager"


@dataclass(frozen=True, slots=True)
class JobRules:
    """How KEDA scales the Jobs of a ScaledJob.

    ``min_jobs`` and ``max_jobs`` are ``minReplicaCount`` and ``maxReplicaCount``; ``max_jobs`` is None where the field
    is not given. ``queue_length_deduction`` and ``running_job_ratio`` belong to the strategy ``custom``: a number of
    Jobs, and the ratio by which KEDA multiplies the running Jobs before it subtracts them. ``pending_conditions`` are
    the conditions that a pod must have before its Job is no longer pending; without any, a Job is pending until one of
    its pods runs. ``pods_per_job`` is how many pods of a Job run at the same time. ``calculation`` is
    ``multipleScalersCalculation``, and ``triggers`` the number of triggers of every scaler.
    """

    min_jobs: int = 0
    max_jobs: int | None = None
    strategy: JobStrategy = JobStrategy.DEFAULT
    queue_length_deduction: int | None = None
    running_job_ratio: float = 0.0
    pending_conditions: tuple[str, ...] = ()
    pods_per_job: int = 1
    calculation: str = "max"
    triggers: int = 1

    @property
    def least(self) -> int:
        """The number of Jobs that KEDA keeps at any value; never more than ``maxReplicaCount``."""
        return self.min_jobs if self.max_jobs is None else min(self.min_jobs, self.max_jobs)

    @property
    def most(self) -> int:
        """The largest number of Jobs that may be wanted."""
        return max(DEFAULT_MAX_JOBS, self.min_jobs) if self.max_jobs is None else self.max_jobs

    @property
    def limit(self) -> int:
        """The number that KEDA uses as ``maxReplicaCount``: Jobs above the minimum, if both fields are given."""
        if self.max_jobs is None:
            return DEFAULT_MAX_JOBS
        return self.max_jobs if self.min_jobs > self.max_jobs else self.max_jobs - self.min_jobs

    def problem(self) -> str:
        """Return why no value can lead KEDA to a wanted number of Jobs, with the remedy; empty where values can."""
        strategy = "spec.scalingStrategy."
        if self.pods_per_job == 0:
            return "spec.jobTargetRef: Invalid value: 0: its Jobs start no pod: set parallelism and completions above 0"
        if self.calculation in ("sum", "avg") and self.triggers > 1:
            return (
                f"{strategy}multipleScalersCalculation: Invalid value: {self.calculation}: KEDA combines the Jobs that "
                "the triggers ask for, so that none of them can keep a number of Jobs: use max, or one trigger"
            )
        if self.strategy is not JobStrategy.CUSTOM:
            return ""
        if self.queue_length_deduction is None:
            return f"{strategy}customScalingQueueLengthDeduction: Required value: KEDA fails without it: set it to 0"
        if self.queue_length_deduction < 0:
            return (
                f"{strategy}customScalingQueueLengthDeduction: Invalid value: {self.queue_length_deduction}: KEDA "
                "then starts Jobs at any value: must be 0 or more"
            )
        if not (math.isfinite(self.running_job_ratio) and self.running_job_ratio >= 0):
            return (
                f"{strategy}customScalingRunningJobPercentage: Invalid value: {self.running_job_ratio:g}: KEDA then "
                "starts Jobs at any value, or never: must be 0 or more"
            )
        return ""


@dataclass(frozen=True, slots=True)
class Formula:
    """``scalingModifiers`` with a formula: the HPA compares its result, and not the value of a trigger.

    ``text`` is the formula. ``target`` and ``activation_target`` are texts as in the ScaledObject, empty where they are
    not given. ``metric_type`` is the formula's own ("AverageValue", "Value"), which replaces that of every trigger.
    """

    text: str
    target: str = ""
    activation_target: str = ""
    metric_type: str = "AverageValue"
