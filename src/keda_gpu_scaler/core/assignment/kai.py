# SPDX-License-Identifier: Apache-2.0
"""KAI-Scheduler: a reservation pod holds the GPU, and the pods of its GPU group share it.

The kubelet lists the reservation pod. The label runai-gpu-group of a sharer has the group of the reservation pod; a
pod with parts of several GPUs has a label runai-gpu-group/<group> for each. The annotation gpu-fraction or gpu-memory
(MiB) states the pod's part of each GPU. Sources: pkg/binder/binding/resourcereservation and pkg/common/constants in
NVIDIA/KAI-Scheduler.
"""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from keda_gpu_scaler.core.assignment.source import Holding, NodeView
from keda_gpu_scaler.core.types import Allocation, AssignedPod, Device, PodRef

_GROUP = "runai-gpu-group"
_RESERVED = "run.ai/reserve_for_gpu_index"
_FRACTION, _MEMORY = "gpu-fraction", "gpu-memory"
MARKS = re.compile(rf"{_GROUP}(?:/.+)?")
DETAILS = frozenset({_RESERVED, _FRACTION, _MEMORY})
_NAMESPACES = frozenset({"kai-resource-reservation", "runai-reservation"})
_DECIMAL = re.compile(r"\d{1,9}(?:\.\d{1,9})?|\.\d{1,9}", re.ASCII)
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_MIB = 1 << 20


def is_reservation(allocation: Allocation, view: NodeView) -> bool:
    """Whether the pod of an entry reserves a GPU for others."""
    return _is_reservation(PodRef(allocation.namespace, allocation.pod), view)


def group_holdings(view: NodeView, allocations: Sequence[Allocation]) -> Iterator[Holding]:
    """Return the holdings of the pods in each GPU group; of the reservation pod where its group is not known."""
    reserved: dict[str, set[tuple[Device, ...]]] = {}
    for allocation in allocations:
        reservation = PodRef(allocation.namespace, allocation.pod)
        devices = view.index.named(allocation.device_id.partition("::")[0])
        known = view.pods.get(reservation)
        if known is not None:
            reserved.setdefault(known.mark(_GROUP), set()).add(devices)
        else:
            yield Holding(reservation, allocation.device_id, devices)
    for pod in view.pods.values():
        if not _is_reservation(pod.ref, view):
            for group in _groups(pod):
                yield _holding(pod, group, reserved.get(group, set()), view)


def _holding(pod: AssignedPod, group: str, reserved: set[tuple[Device, ...]], view: NodeView) -> Holding:
    unavailable = view.cluster.pods_unavailable
    if len(reserved) != 1:
        # After a race of the scheduler two pods may reserve a GPU each for one group.
        count = "several reservation pods" if reserved else "no reservation pod"
        return Holding(pod.ref, f"GPU group {group}", unknown=unavailable or f"the kubelet lists {count} of this group")
    [devices] = reserved
    weight = _part(pod, devices[0], view) if devices else None
    return Holding(pod.ref, f"GPU group {group}", devices, weight, unavailable if devices else "")


def _is_reservation(pod: PodRef, view: NodeView) -> bool:
    known = view.pods.get(pod)
    return pod.namespace in _NAMESPACES or (known is not None and bool(known.mark(_RESERVED)))


def _groups(pod: AssignedPod) -> Iterator[str]:
    return iter(dict.fromkeys(value for key, value in pod.marks if MARKS.fullmatch(key)))


def _part(pod: AssignedPod, device: Device, view: NodeView) -> Fraction | None:
    """Return the pod's part of a device, None where none is stated or it is out of range."""
    fraction, memory = pod.mark(_FRACTION), pod.mark(_MEMORY)
    part = Fraction(fraction) if _DECIMAL.fullmatch(fraction) else None
    if part is None and _WHOLE.fullmatch(memory) and (total := view.memory_bytes.get(device.uuid)):
        part = Fraction(int(memory) * _MIB, total)
    return part if part is not None and 0 < part <= 1 else None
