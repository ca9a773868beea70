# SPDX-License-Identifier: Apache-2.0
"""The parts of a source of assignments: the devices of a node in, and the holdings of its pods out."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from keda_gpu_scaler.core.assignment.device_index import DeviceIndex
from keda_gpu_scaler.core.types import KUBELET_ONLY, Allocation, AssignedPod, ClusterAssignments, Device, PodRef

NO_MARKS = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class Holding:
    """A pod holds devices.

    ``devices`` is empty where the node does not list the device with this ``device_id``. ``weight`` is the pod's part
    of the device in the unit of its source, None where the source states none. ``unknown`` says what is not known:
    with devices who else holds them, and without devices which device of the node the pod holds.
    """

    pod: PodRef
    device_id: str
    devices: tuple[Device, ...] = ()
    weight: Fraction | None = None
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node's devices, and what the API server knows of the assignments on it.

    ``memory_bytes`` is the total memory of devices, by UUID.
    """

    node: str
    index: DeviceIndex
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    cluster: ClusterAssignments = KUBELET_ONLY
    pods: Mapping[PodRef, AssignedPod] = field(default_factory=dict)


Owns = Callable[[Allocation, NodeView], bool]
Holdings = Callable[[NodeView, Sequence[Allocation]], Iterator[Holding]]


@dataclass(frozen=True, slots=True)
class AssignmentSource:
    """Something that assigns devices to pods.

    ``owns`` says whether an entry of the kubelet's list is of this source. ``holdings`` makes the holdings of pods from
    these entries, and from what the API server knows. ``marks`` matches the labels and annotations by which a pod shows
    that the source assigned its devices, and ``details`` are further ones that belong to them. A workload with such a
    pod needs the marks of all pods on its nodes. ``weighs`` says by what the source states a pod's part of a device.
    """

    name: str
    owns: Owns
    holdings: Holdings
    marks: re.Pattern[str] = NO_MARKS
    details: frozenset[str] = frozenset()
    weighs: str = ""


def by_pod(allocations: Sequence[Allocation]) -> Mapping[PodRef, Sequence[Allocation]]:
    """Return the entries of the kubelet's list by pod."""
    found: dict[PodRef, list[Allocation]] = {}
    for allocation in allocations:
        found.setdefault(PodRef(allocation.namespace, allocation.pod), []).append(allocation)
    return found


def not_stated(view: NodeView, annotation: str) -> str:
    """Return why the device of a pod is not known, where an annotation of the pod states it."""
    if view.cluster.pods_unavailable:
        return view.cluster.pods_unavailable
    return f"its annotation {annotation} names the device, and is missing or was not read"
