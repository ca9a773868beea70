# SPDX-License-Identifier: Apache-2.0
"""HAMi and volcano's vGPU: an annotation names the devices of a pod and its memory of each.

Law: the id that the kubelet lists does not count, because these plugins give a pod the devices of its annotation and
not the ones that the kubelet chose.

The annotation has "UUID,type,MiB,cores:" for each device, and ";" between containers. With MIG, HAMi's
vgpu-mig-allocations names the slices. The ids are "GPU-<uuid>-<n>", and "GPU-<uuid>-memory-<n>" for volcano's units.
Sources: pkg/device/devices.go in Project-HAMi/HAMi, pkg/scheduler/api/devices/nvidia/vgpu in volcano-sh/volcano.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from keda_gpu_scaler.core.assignment.source import Holding, NodeView, by_pod, not_stated
from keda_gpu_scaler.core.types import Allocation, AssignedPod, Device, PodRef

HAMI = "hami.io/vgpu-devices-allocated"
VOLCANO = "volcano.sh/vgpu-ids-new"
_HAMI_SLICES = "hami.io/vgpu-mig-allocations"
HAMI_MARKS, VOLCANO_MARKS = re.compile(re.escape(HAMI)), re.compile(re.escape(VOLCANO))
HAMI_DETAILS = frozenset({_HAMI_SLICES})
_HAMI_ID = re.compile(r"(?:gpu|mig)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-\d{1,5}", re.ASCII | re.IGNORECASE)
_VOLCANO_RESOURCES = "volcano.sh/vgpu-"
_NVIDIA_RESOURCES = "nvidia.com/"
_MAX_DEVICES = 64
_FIELDS = 4


def is_hami(allocation: Allocation, view: NodeView) -> bool:
    """Whether HAMi assigned a device: by the form of the id, or by the annotation of the pod."""
    if _HAMI_ID.fullmatch(allocation.device_id):
        return not allocation.resource.startswith(_VOLCANO_RESOURCES)
    known = view.pods.get(PodRef(allocation.namespace, allocation.pod)) if view.pods else None
    return known is not None and bool(known.mark(HAMI)) and allocation.resource.startswith(_NVIDIA_RESOURCES)


def is_volcano(allocation: Allocation, _: NodeView) -> bool:
    """Whether the resource is one of volcano's vGPU plugin."""
    return allocation.resource.startswith(_VOLCANO_RESOURCES)


def _holdings(annotation: str) -> Callable[[NodeView, Sequence[Allocation]], Iterator[Holding]]:
    def holdings(view: NodeView, allocations: Sequence[Allocation]) -> Iterator[Holding]:
        for pod, entries in by_pod(allocations).items():
            known = view.pods.get(pod)
            stated = _stated(known, annotation) if known is not None else {}
            if stated and known is not None:
                yield from _stated_holdings(known, stated, view)
            else:
                device_id = min(entry.device_id for entry in entries)
                unknown = "" if view.index.only else not_stated(view, annotation)
                yield Holding(pod, device_id, view.index.only, unknown=unknown)

    return holdings


hami_holdings, volcano_holdings = _holdings(HAMI), _holdings(VOLCANO)


def _stated(pod: AssignedPod, annotation: str) -> Mapping[str, int]:
    """Return the MiB of each device that an annotation names, by UUID; empty where it names none."""
    found: dict[str, int] = {}
    for entry in re.split(r"[:;]", pod.mark(annotation))[: 2 * _MAX_DEVICES]:
        fields = entry.split(",")
        if len(fields) >= _FIELDS and fields[0] and fields[2].isascii() and fields[2].isdigit():
            found[fields[0]] = found.get(fields[0], 0) + int(fields[2][:12])
    return found


def _stated_holdings(pod: AssignedPod, stated: Mapping[str, int], view: NodeView) -> Iterator[Holding]:
    slices = list(_slices(pod.mark(_HAMI_SLICES), view)) if pod.mark(_HAMI_SLICES) else []
    for name, mib in stated.items():
        uuid = name.partition("[")[0]  # with MIG: GPU-<uuid>[<template>-<number>]
        cut = tuple(one for one in slices if one.parent is not None and one.parent.lower() == uuid.lower())
        devices = cut or view.index.named(uuid)
        yield Holding(pod.ref, name, devices, Fraction(mib) if mib else None)


def _slices(text: str, view: NodeView) -> Iterable[Device]:
    """Return the slices in HAMi's annotation of MIG, by their UUID or by their numbers."""
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return
    for entry in (listed if isinstance(listed, list) else [listed])[:_MAX_DEVICES]:
        if isinstance(entry, dict):
            devices = view.index.named(str(entry.get("migUUID") or "-"))
            numbers = (entry.get("gpuInstanceID"), entry.get("computeInstanceID"))
            if not devices and all(isinstance(number, int) for number in numbers):
                devices = view.index.instance(str(entry.get("gpuUUID")), *numbers)  # type: ignore[arg-type]
            yield from devices
