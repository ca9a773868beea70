# SPDX-License-Identifier: Apache-2.0
"""Device plugins whose ids identify the device: NVIDIA's, GKE's, AMD's and Intel's.

The forms of the ids are those of NVIDIA's k8s-device-plugin ("GPU-…", "MIG-…", "::N" for a replica of a shared device),
GKE's plugin ("nvidia0/gi1/vgpu2"), AMD's ("0000:05:00.0", "amdgpu_xcp_30") and Intel's ("card0-1": card and share).
The backends of AMD and Intel list their names in ``Device.names``.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from keda_gpu_scaler.core.assignment.source import Holding, NodeView
from keda_gpu_scaler.core.types import Allocation, Device, PodRef

_LEGACY_MIG = re.compile(r"mig-(gpu-[0-9a-f-]+)/(\d{1,4})/(\d{1,4})", re.ASCII | re.IGNORECASE)
_GKE = re.compile(r"nvidia(\d{1,4})(?:/gi(\d{1,4}))?(?:/vgpu\d+)?", re.ASCII | re.IGNORECASE)
_INTEL = re.compile(r"card(\d{1,4})-\d+", re.ASCII | re.IGNORECASE)
_PCI = re.compile(r"(?:[0-9a-f]{4}|0000[0-9a-f]{4}):[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII | re.IGNORECASE)
_NVIDIA = re.compile(r"(?:gpu|mig)-[0-9a-f]{8}-[0-9a-f]{4}-.*|mig-gpu-.*|nvidia\d+/.*", re.ASCII | re.IGNORECASE)
_XCP = re.compile(r"amdgpu_xcp_\d+", re.ASCII | re.IGNORECASE)
_MONITORING = ("/monitoring", "_monitoring")  # the second form as in gpu.intel.com/xe_monitoring
_AMD_RESOURCES = "amd.com/"  # under other resources a PCI address may belong to a network card
_NVIDIA_UUIDS = ("GPU-", "MIG-")

Find = Callable[[str, NodeView], tuple[Device, ...]]


def base_id(allocation: Allocation) -> str:
    """Return the id without the number of a replica."""
    return allocation.device_id.partition("::")[0]


def _holdings(find: Find, is_accelerator: Callable[[Allocation], bool]) -> Callable[..., Iterator[Holding]]:
    """Return the holdings of a plugin with one id for each device.

    ``is_accelerator`` says of a device that the node does not list whether its id is one of an accelerator.
    """

    def holdings(view: NodeView, allocations: Sequence[Allocation]) -> Iterator[Holding]:
        for allocation in allocations:
            devices = view.index.named(base_id(allocation)) or find(base_id(allocation), view)
            if devices or is_accelerator(allocation):
                yield Holding(PodRef(allocation.namespace, allocation.pod), allocation.device_id, devices)

    return holdings


# ---- Intel's monitoring: "gpu.intel.com/xe_monitoring" is every device, and holds none ----


def is_monitoring(allocation: Allocation, _: NodeView) -> bool:
    """Whether the resource lets a pod observe devices that other pods use."""
    return allocation.resource.endswith(_MONITORING)


def hold_nothing(_: NodeView, __: Sequence[Allocation]) -> Iterator[Holding]:
    """Return no holding."""
    yield from ()


# ---- GKE ----


def is_gke(allocation: Allocation, _: NodeView) -> bool:
    """Whether the id has the form of GKE's device plugin."""
    return bool(_GKE.fullmatch(base_id(allocation)))


def _find_gke(name: str, view: NodeView) -> tuple[Device, ...]:
    match = _GKE.fullmatch(name)
    return view.index.numbered(int(match[1]), int(match[2]) if match[2] else None) if match else ()


gke_holdings = _holdings(_find_gke, lambda _: True)

# ---- Intel ----


def is_intel(allocation: Allocation, _: NodeView) -> bool:
    """Whether the id has the form of Intel's device plugin."""
    return bool(_INTEL.fullmatch(base_id(allocation)))


def _find_intel(name: str, view: NodeView) -> tuple[Device, ...]:
    match = _INTEL.fullmatch(name)
    if not match:
        return ()
    cards = view.index.named(f"card{int(match[1])}") or view.index.numbered(int(match[1]))
    return tuple(card for card in cards if not card.uuid.startswith(_NVIDIA_UUIDS))


intel_holdings = _holdings(_find_intel, lambda _: True)

# ---- AMD ----


def is_amd(allocation: Allocation, _: NodeView) -> bool:
    """Whether the resource is one of AMD's device plugin."""
    return allocation.resource.startswith(_AMD_RESOURCES)


def _find_amd(name: str, view: NodeView) -> tuple[Device, ...]:
    # Some plugins write a domain of eight digits; the devices have domains of four.
    return view.index.addressed(name) if _PCI.fullmatch(name) else ()


def _is_amd_device(allocation: Allocation) -> bool:
    name = base_id(allocation)
    return bool(_PCI.fullmatch(name) or _XCP.fullmatch(name))


amd_holdings = _holdings(_find_amd, _is_amd_device)

# ---- NVIDIA, and every plugin whose ids are UUIDs or names of devices ----


def is_any(_: Allocation, __: NodeView) -> bool:
    """Whether no source before this one owns the entry."""
    return True


def _find_nvidia(name: str, view: NodeView) -> tuple[Device, ...]:
    match = _LEGACY_MIG.fullmatch(name)
    return view.index.instance(match[1], int(match[2]), int(match[3])) if match else ()


def _is_nvidia_device(allocation: Allocation) -> bool:
    name = allocation.device_id
    return bool(_NVIDIA.fullmatch(name) or _XCP.fullmatch(name))


nvidia_holdings = _holdings(_find_nvidia, _is_nvidia_device)
