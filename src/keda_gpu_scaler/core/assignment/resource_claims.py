# SPDX-License-Identifier: Apache-2.0
"""Dynamic resource allocation: a claim gives a pod a device, and a ResourceSlice describes it.

Law: a claim with adminAccess observes a device and has no share of it. Only the claim's allocation says so; the kubelet
lists both kinds in the same way.

The kubelet lists the devices of claims from Kubernetes 1.34 on, and before with the feature gate
KubeletPodResourcesDynamicResources. The ResourceClaims have them in every version. The names are those of NVIDIA's
driver ("gpu-<minor>", "gpu-<minor>-mig-<profile>-<profile id>-<placement>"), AMD's ("gpu-<card>-<render>") and
Intel's ("0000-04-00-0-0xe211"); the backends of AMD and Intel list theirs in ``Device.names``. Sources: deviceinfo.go
and mig.go in NVIDIA/k8s-dra-driver-gpu, k8s.io/api/resource/v1.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from keda_gpu_scaler.core.assignment.source import Holding, NodeView
from keda_gpu_scaler.core.types import Allocation, ClaimedDevice, Device, PodRef

_NVIDIA = "gpu.nvidia.com"
_GPU_DRIVERS = frozenset({_NVIDIA, "gpu.amd.com", "gpu.intel.com"})
_GPU = re.compile(r"gpu-(\d{1,4})", re.ASCII)
_SLICE = re.compile(r"gpu-(\d{1,4})-mig-([0-9a-z]+)-\d+-\d+", re.ASCII)
_NOT_IN_NAMES = re.compile(r"[^0-9a-z]", re.ASCII)


def is_claimed(allocation: Allocation, _: NodeView) -> bool:
    """Whether the entry is of a claim: a driver's name has no slash, as every resource of a device plugin has."""
    return "." in allocation.resource and "/" not in allocation.resource


def claim_holdings(view: NodeView, allocations: Sequence[Allocation]) -> Iterator[Holding]:
    """Return the holdings of claims: those of the claims' allocations, and those that only the kubelet knows yet."""
    cluster = view.cluster
    claimed = [one for one in cluster.claimed or () if one.node == view.node]
    for one in claimed:
        devices = _described(one, view)
        if not one.is_admin and (devices or one.driver in _GPU_DRIVERS):
            yield Holding(one.pod, one.device, devices)
    known = {(one.pod, one.driver, one.device) for one in claimed}
    listed = {(PodRef(one.namespace, one.pod), one.resource, one.device_id) for one in allocations}
    holders = Counter((driver, device) for _, driver, device in listed)
    for pod, driver, device in sorted(listed - known):
        devices = _named(driver, device, view)
        if devices or driver in _GPU_DRIVERS:
            # A claim that could not be read may be one with adminAccess.
            unknown = cluster.claims_unavailable if devices and holders[driver, device] > 1 else ""
            yield Holding(pod, device, devices, unknown=unknown)


def _described(claimed: ClaimedDevice, view: NodeView) -> tuple[Device, ...]:
    """Return the devices of a claim's device: by its UUID, its name, or an address that one device has."""
    if claimed.uuid and (devices := view.index.named(claimed.uuid)):
        return devices
    if devices := _named(claimed.driver, claimed.device, view):
        return devices
    at_address = view.index.addressed(claimed.pci_address) if ":" in claimed.pci_address else ()
    return at_address if len(at_address) == 1 else ()


def _named(driver: str, device: str, view: NodeView) -> tuple[Device, ...]:
    name = device.lower()
    if devices := view.index.named(name):
        return devices
    if driver != _NVIDIA:
        return ()
    if match := _GPU.fullmatch(name):
        return view.index.numbered(int(match[1]))
    if match := _SLICE.fullmatch(name):
        # A slice that the driver makes for a claim has no UUID in the ResourceSlice. Its profile identifies it where
        # the GPU has one slice of that profile.
        alike = tuple(one for one in view.index.numbered(int(match[1])) if _profile(one) == match[2])
        return alike if len(alike) == 1 else ()
    return ()


def _profile(device: Device) -> str:
    """Return the profile of a slice as names contain it: "1g10gb" of the model "NVIDIA H100 MIG 1g.10gb"."""
    return _NOT_IN_NAMES.sub("", device.model.lower().rpartition(" mig ")[2]) if device.parent is not None else ""
