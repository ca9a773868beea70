# SPDX-License-Identifier: Apache-2.0
"""KEDA's executor of ScaledJobs, written from its documentation and its Go source, for comparison.

From KEDA, pkg/scaling/scaledjob/metrics.go (the value divided by the target, at most maxReplicaCount, rounded up),
pkg/scaling/executor/scale_jobs.go (getScalingDecision, createJobs and the strategies) and
apis/keda/v1alpha1/scaledjob_types.go (MaxReplicaCount without the minimum).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class KedaJobs:
    """A ScaledJob with one trigger, and its unfinished Jobs. ``starting`` of them have no running pod."""

    spec: dict[str, Any] = field(default_factory=dict)
    running: int = 0
    starting: int = 0

    @property
    def _bounds(self) -> tuple[int, int | None]:
        return self.spec.get("minReplicaCount", 0), self.spec.get("maxReplicaCount")

    @property
    def min_replica_count(self) -> int:
        least, most = self._bounds
        return most if most is not None and least > most else least

    @property
    def max_replica_count(self) -> int:
        least, most = self._bounds
        if most is None:
            return 100
        return most if least > most else most - least

    def poll(self, value: float, target: float, *, is_active: bool = True) -> int:
        """Read the metric once, create Jobs, and return how many were created."""
        queue_length = math.ceil(value)
        max_value = math.ceil(min(value / target, float(self.max_replica_count))) if value > 0 and is_active else 0
        created = self._decide(queue_length, max_value) if is_active or self.min_replica_count > 0 else 0
        self.running += created
        self.starting += created
        return created

    def poll_several(self, metrics: Sequence[tuple[float, float, bool]]) -> int:
        """Read several metrics once: (value, target, is_active) of each. Create Jobs, and return how many.

        As IsScaledJobActive combines them: it begins with a length of 0, and takes a value of 0 for none yet.
        """
        calculation = self.spec.get("scalingStrategy", {}).get("multipleScalersCalculation", "max")
        limit, length, most, is_active, count = float(self.max_replica_count), 0.0, 0.0, False, 0
        for value, target, active in metrics:
            if not active:
                continue
            asked = min(value / target, limit)
            if calculation in ("sum", "avg"):
                length, most, is_active, count = length + value, most + asked, True, count + 1
            elif (calculation == "min" and (length == 0 or value < length)) or (
                calculation == "max" and value > length
            ):
                length, most, is_active = value, asked, True
        if calculation == "avg" and count:
            length, most = length / count, most / count
        is_active = is_active or self.min_replica_count > 0
        created = self._decide(math.ceil(length), math.ceil(min(most, limit))) if is_active else 0
        self.running += created
        self.starting += created
        return created

    def start_all(self) -> None:
        """Every pod runs now."""
        self.starting = 0

    def _decide(self, scale_to: int, max_scale: int) -> int:
        if self.running < self.min_replica_count:
            return self.min_replica_count - self.running
        strategy = self.spec.get("scalingStrategy", {})
        above, limit = self.running - self.min_replica_count, self.max_replica_count
        effective = max_scale - above
        if strategy.get("strategy") == "accurate":
            effective = limit - above if max_scale + above > limit else max_scale - self.starting
        elif strategy.get("strategy") == "eager":
            effective, scale_to = min(limit - above - self.starting, max_scale), limit
        elif strategy.get("strategy") == "custom" and "customScalingRunningJobPercentage" in strategy:
            percentage = float(strategy["customScalingRunningJobPercentage"])
            subtracted = strategy["customScalingQueueLengthDeduction"] + int(float(above) * percentage)
            effective = min(max_scale - subtracted, limit)
        return max(0, min(scale_to, effective))
