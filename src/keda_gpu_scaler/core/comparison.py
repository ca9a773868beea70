# SPDX-License-Identifier: Apache-2.0
"""Measured and reported values, and the sizes that follow, as every output shows them.

Law: measured and reported values are shown apart. The measured one is compared with the target; the reported one is for
the HPA.

Facts are from KEDA 2.20: apis/keda/v1alpha1/scaledobject_types.go (GetHPAMinReplicas, GetHPAMaxReplicas) and
pkg/scaling/executor/scale_scaledobjects.go (an inactive workload).
"""

import math
from dataclasses import dataclass
from enum import StrEnum

DEFAULT_MAX_REPLICAS = 100
"""KEDA's default for ``maxReplicaCount``."""
DIGITS = 3
"""The number of significant digits on a screen."""
_LARGEST = 1e300  # rounding a float above it may overflow


class ReplicaLimit(StrEnum):
    """Why the desired size is not the one that follows from the value."""

    NONE = "none"
    MIN = "min"
    MAX = "max"
    INACTIVE = "inactive"
    """The workload is inactive: KEDA sets its size, and not the HPA."""


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """``minReplicaCount``, ``maxReplicaCount`` and ``idleReplicaCount`` of a ScaledObject; the last may be missing."""

    min_replicas: int = 0
    max_replicas: int = DEFAULT_MAX_REPLICAS
    idle_replicas: int | None = None

    @property
    def inactive_replicas(self) -> int | None:
        """The size that KEDA sets after the cooldown; None where the HPA decides on an inactive workload too."""
        if self.idle_replicas is not None:
            return self.idle_replicas
        return 0 if self.min_replicas == 0 else None

    def limited(self, replicas: int, *, active: bool) -> tuple[int, ReplicaLimit]:
        """Return the desired size, and the limit that it comes from."""
        inactive = self.inactive_replicas
        if not active and inactive is not None:
            return inactive, ReplicaLimit.INACTIVE
        least = max(1, self.min_replicas)
        if replicas > max(self.max_replicas, least):
            return max(self.max_replicas, least), ReplicaLimit.MAX
        if replicas < least:
            return least, ReplicaLimit.MIN
        return replicas, ReplicaLimit.NONE


@dataclass(frozen=True, slots=True)
class Comparison:
    """One evaluation in the numbers that people compare.

    ``measured`` is the mean of the replicas with a value (or the aggregate of the devices), in the metric's unit: it is
    compared with the target. ``plain`` is the total or the average of what was measured, and ``reported`` the number
    that the HPA is given. Where they differ, ``adjustment`` says why. ``report`` is "total" or "average", empty where
    it is not known. ``current_replicas`` is the size of the scale target, ``ready_replicas`` how many of it are ready,
    and ``desired_replicas`` the size that the HPA computes, within the ScaledObject's limits; ``limit`` is the limit
    that applies. The HPA's own behaviour, which depends on the past, is not part of it. ``activity`` says why the
    workload is active or not. A number that is not known is None.
    """

    measured: float | None = None
    plain: float | None = None
    reported: float | None = None
    report: str = ""
    adjustment: str = ""
    current_replicas: int | None = None
    desired_replicas: int | None = None
    limit: ReplicaLimit = ReplicaLimit.NONE
    activity: str = ""
    ready_replicas: int | None = None

    @property
    def is_adjusted(self) -> bool:
        """Whether the reported value is not the plain total or average."""
        return bool(self.adjustment)


NO_COMPARISON = Comparison()


def significant(value: float, digits: int = DIGITS) -> str:
    """Return a number with this many significant digits, without an exponent: 98.4, 0.0123, 12,300."""
    if not abs(value) < _LARGEST:
        return f"{value:g}"
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, decimals):,.{max(0, decimals)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
