# SPDX-License-Identifier: Apache-2.0
"""What the processes of a pod use of a device."""

from dataclasses import dataclass

PROCESS_UTILIZATION = "process utilization"
"""The name in ``ReadingFailure.reading`` of what processes use of a device."""


@dataclass(frozen=True, slots=True, order=True)
class PodUse:
    """What the processes of one pod used of a device since the read before.

    ``pod_uid`` is ``metadata.uid`` of the pod. It is empty for the processes of which no pod is known. The ratios are
    sums over the processes: of the time of the multiprocessors, and of the time of the memory. ``memory_bytes`` is the
    memory in use, None where the driver does not return it.
    """

    pod_uid: str
    sm_ratio: float
    memory_utilization_ratio: float = 0.0
    memory_bytes: int | None = None
