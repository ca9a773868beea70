# SPDX-License-Identifier: Apache-2.0
"""Who assigned the device: the table of all sources, in the order in which they are asked.

Law: an entry of the kubelet's list belongs to the first source that owns it. A new source is one row here and, where
its ids or annotations need code, one file beside this one.
"""

from collections.abc import Sequence

from keda_gpu_scaler.core.assignment import device_plugins, gpushare, kai, resource_claims, vgpu
from keda_gpu_scaler.core.assignment.device_index import DeviceIndex
from keda_gpu_scaler.core.assignment.source import AssignmentSource, NodeView
from keda_gpu_scaler.core.idle_cache import cached_while_used
from keda_gpu_scaler.core.types import Allocation

SOURCES: tuple[AssignmentSource, ...] = (
    AssignmentSource("monitoring", device_plugins.is_monitoring, device_plugins.hold_nothing),
    AssignmentSource(
        "KAI-Scheduler", kai.is_reservation, kai.group_holdings, kai.MARKS, kai.DETAILS, weighs="gpu-fraction"
    ),
    AssignmentSource("resource claims", resource_claims.is_claimed, resource_claims.claim_holdings),
    AssignmentSource("gpushare", gpushare.is_unit, gpushare.unit_holdings, gpushare.MARKS, weighs="units of memory"),
    AssignmentSource(
        "volcano vGPU", vgpu.is_volcano, vgpu.volcano_holdings, vgpu.VOLCANO_MARKS, weighs="assigned memory"
    ),
    AssignmentSource(
        "HAMi", vgpu.is_hami, vgpu.hami_holdings, vgpu.HAMI_MARKS, vgpu.HAMI_DETAILS, weighs="assigned memory"
    ),
    AssignmentSource("GKE device plugin", device_plugins.is_gke, device_plugins.gke_holdings),
    AssignmentSource("AMD device plugin", device_plugins.is_amd, device_plugins.amd_holdings),
    AssignmentSource("Intel device plugin", device_plugins.is_intel, device_plugins.intel_holdings),
    AssignmentSource("NVIDIA device plugin", device_plugins.is_any, device_plugins.nvidia_holdings),
)


_NO_MARKS = NodeView("", DeviceIndex(()))


def by_source(view: NodeView, allocations: Sequence[Allocation]) -> Sequence[tuple[AssignmentSource, list[Allocation]]]:
    """Return the entries of the kubelet's list that each source owns, in the order of the table."""
    owned: list[list[Allocation]] = [[] for _ in SOURCES]
    for allocation in allocations:
        # Without marks the owner depends on the entry alone, and the entries of a node seldom change.
        owner = _owner(allocation, view) if view.pods else _owner_without_marks(allocation)
        owned[owner].append(allocation)
    return list(zip(SOURCES, owned, strict=True))


def _owner(allocation: Allocation, view: NodeView) -> int:
    """Return the position of the source that owns an entry."""
    return next(position for position, source in enumerate(SOURCES) if source.owns(allocation, view))


@cached_while_used(max_entries=8192)
def _owner_without_marks(allocation: Allocation) -> int:
    return _owner(allocation, _NO_MARKS)


def is_mark(key: str) -> bool:
    """Whether a label or annotation shows that one of the sources assigned a pod's devices."""
    return any(source.marks.fullmatch(key) for source in SOURCES)


def is_detail(key: str) -> bool:
    """Whether a label or annotation belongs to such a mark."""
    return any(key in source.details for source in SOURCES)
