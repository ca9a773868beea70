# SPDX-License-Identifier: Apache-2.0
"""The size that a workload is led to: the HPA's recommendation within the minimum and the maximum.

Law: it needs no memory of the HPA. Its rates and its stabilization may delay the size; they are not part of it.
"""

from dataclasses import dataclass

from keda_gpu_scaler.core.hpa.controller import Limit


@dataclass(frozen=True, slots=True)
class WantedSize:
    """A size, and which of minimum and maximum changed it: ``NONE``, ``MIN``, ``MAX``, or ``DISABLED`` at zero."""

    replicas: int
    limit: Limit


def wanted_size(recommended: int, replicas: int, *, active: bool, min_replicas: int, max_replicas: int) -> WantedSize:
    """Return the size that KEDA and the HPA lead to.

    Args:
        recommended: the size that the HPA computes from the value.
        replicas: the present size. At zero the HPA is disabled, and KEDA activates the workload.
        active: whether a trigger is active.
        min_replicas: ``minReplicaCount``. KEDA gives the HPA at least 1.
        max_replicas: ``maxReplicaCount``.
    """
    lowest = max(1, min_replicas)
    highest = max(lowest, max_replicas)
    if replicas == 0 and not active and min_replicas == 0:
        return WantedSize(0, Limit.DISABLED)
    if recommended > highest:
        return WantedSize(highest, Limit.MAX)
    if recommended < lowest:
        return WantedSize(lowest, Limit.MIN)
    return WantedSize(recommended, Limit.NONE)
