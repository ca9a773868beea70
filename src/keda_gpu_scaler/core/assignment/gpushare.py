# SPDX-License-Identifier: Apache-2.0
"""Plugins that list a unit of memory as a device: gpushare, with one id for each GiB or MiB.

The kubelet's number of ids is the pod's memory in that unit. Its ids ("<device>-_-<n>") do not say which GPU the pod
has: the annotation ALIYUN_COM_GPU_MEM_IDX has the number of the GPU's device file, and the newer annotation
scheduler.framework.gpushare.allocation the units on each GPU for each container. Forks of the plugin have names of
their own before "_GPU_MEM_IDX" and "/gpu-mem". Sources: AliyunContainerService/gpushare-device-plugin and
gpushare-scheduler-extender, pkg/scheduler/plugins/ack in koordinator-sh/koordinator.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from keda_gpu_scaler.core.assignment.source import Holding, NodeView, by_pod, not_stated
from keda_gpu_scaler.core.types import Allocation, AssignedPod, PodRef

_ALLOCATION = "scheduler.framework.gpushare.allocation"
_NUMBER = re.compile(r"[A-Z_]{1,64}_GPU_MEM_IDX", re.ASCII)
MARKS = re.compile(rf"{re.escape(_ALLOCATION)}|{_NUMBER.pattern}", re.ASCII)
_WHOLE = re.compile(r"\d{1,6}", re.ASCII)
_MAX_ENTRIES = 64


def is_unit(allocation: Allocation, _: NodeView) -> bool:
    """Whether an entry is a unit of memory."""
    return allocation.resource.endswith("/gpu-mem") or "-_-" in allocation.device_id


def unit_holdings(view: NodeView, allocations: Sequence[Allocation]) -> Iterator[Holding]:
    """Return the holdings of pods, each weighted by its units."""
    for pod, entries in by_pod(allocations).items():
        units = sum(entry.quantity for entry in entries)
        known = view.pods.get(pod)
        stated = _stated(known, units) if known is not None else {}
        for number, part in stated.items():
            devices = view.index.numbered(number)
            yield Holding(pod, f"GPU {number} (gpushare)", devices, Fraction(part) if part else None)
        if not stated:
            yield _without_annotation(pod, min(entry.device_id for entry in entries), units, view)


def _without_annotation(pod: PodRef, device_id: str, units: int, view: NodeView) -> Holding:
    if only := view.index.only:
        return Holding(pod, device_id, only, Fraction(units))
    return Holding(pod, device_id, unknown=not_stated(view, "ALIYUN_COM_GPU_MEM_IDX"))


def _stated(pod: AssignedPod, units: int) -> Mapping[int, int]:
    """Return the units of a pod on each GPU, by the number of its device file; empty where no annotation says it."""
    if allocation := pod.mark(_ALLOCATION):
        return _by_container(allocation)
    number = next((value for key, value in pod.marks if _NUMBER.fullmatch(key)), "")
    return {int(number): units} if _WHOLE.fullmatch(number) else {}


def _by_container(text: str) -> Mapping[int, int]:
    """Read {"container": {"GPU": units}}."""
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    found: dict[int, int] = {}
    containers = list(listed.values())[:_MAX_ENTRIES] if isinstance(listed, dict) else []
    for container in containers:
        for number, part in list(container.items())[:_MAX_ENTRIES] if isinstance(container, dict) else ():
            if _WHOLE.fullmatch(number) and isinstance(part, int) and part > 0:
                found[int(number)] = found.get(int(number), 0) + part
    return found
