# SPDX-License-Identifier: Apache-2.0
"""Which pod holds which device? The kubelet's device ids, matched with what the node's devices are called.

The law of this module: shares add up to the device. Whoever holds a device, however often it is listed, holds one
equal share of it, and what nobody holds belongs to nobody.

Facts about the ids are from the device plugins: NVIDIA's k8s-device-plugin ("GPU-…", "MIG-…", "::N" for a replica
of a shared device) and DRA driver ("gpu-<minor>"), GKE's ("nvidia0/gi1/vgpu2"), AMD's (PCI address, "amdgpu_xcp_N")
and Intel's ("card0-1", and the resource ".../monitoring", whose "all" is no allocation).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.types import Allocation, Device, PodRef, Snapshot

_MIG_OF_OLD = re.compile(r"mig-(gpu-[0-9a-f-]+)/(\d{1,4})/(\d{1,4})", re.ASCII)
_GKE = re.compile(r"nvidia(\d{1,4})(?:/gi(\d{1,4}))?(?:/vgpu\d+)?", re.ASCII)
_INTEL = re.compile(r"card(\d{1,4})-\d+", re.ASCII)
_PCI = re.compile(r"(?:[0-9a-f]{4}|0000([0-9a-f]{4})):[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII)
_DRA = re.compile(r"gpu-(\d{1,4})", re.ASCII)
_ACCELERATOR = re.compile(
    r"(?:gpu|mig)-[0-9a-f]{8}-[0-9a-f]{4}-.*|mig-gpu-.*|nvidia\d+(?:/.*)?|amdgpu_xcp_\d+|card\d+-\d+", re.ASCII
)
_DRA_NVIDIA = "gpu.nvidia.com"
_DRA_DRIVERS = frozenset({_DRA_NVIDIA, "gpu.amd.com", "gpu.intel.com"})
_MONITORING = ("/monitoring", "_monitoring")  # the latter as in gpu.intel.com/xe_monitoring
_PCI_RESOURCES = "amd.com/"  # of others, a PCI address may be a network card's
_NVIDIA_UUIDS = ("GPU-", "MIG-")


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """A pod's part of a device: one of ``sharers`` equal ones."""

    device: Device
    sharers: int


@dataclass(frozen=True, slots=True)
class PodDevices:
    """What one pod holds: shares in the order of the devices, and ids of accelerators the node does not list."""

    shares: tuple[DeviceShare, ...]
    unresolved: tuple[str, ...] = ()


def attribute(snapshot: Snapshot) -> Mapping[PodRef, PodDevices] | None:
    """Return what every pod holds that holds anything; None while nobody can tell."""
    if snapshot.allocations is None:
        return None
    names = _Names([sample.device for sample in snapshot.samples])
    places = {device.uuid: place for place, device in enumerate(names.devices)}
    held: dict[PodRef, dict[str, Device]] = {}
    strange: dict[PodRef, set[str]] = {}
    sharers: dict[str, set[PodRef]] = {}
    for allocation in snapshot.allocations:
        pod = PodRef(allocation.namespace, allocation.pod)
        found = names.find(allocation)
        if not found and _looks_like_an_accelerator(allocation):
            strange.setdefault(pod, set()).add(allocation.device_id)
        for device in found:
            held.setdefault(pod, {})[device.uuid] = device
            sharers.setdefault(device.uuid, set()).add(pod)
    return {
        pod: PodDevices(
            shares=tuple(
                DeviceShare(device, len(sharers[device.uuid]))
                for device in sorted(held.get(pod, {}).values(), key=lambda device: places[device.uuid])
            ),
            unresolved=tuple(sorted(strange.get(pod, ()))),
        )
        for pod in held.keys() | strange.keys()
    }


def resolve(allocation: Allocation, devices: Sequence[Device]) -> tuple[Device, ...]:
    """Find the device an allocation means: none, one, or every slice of a GPU that was handed out whole."""
    return _Names(devices).find(allocation)


def _looks_like_an_accelerator(allocation: Allocation) -> bool:
    if allocation.resource in _DRA_DRIVERS:
        return True
    if allocation.resource.endswith(_MONITORING):
        return False
    name = allocation.device_id.lower()
    return bool(_ACCELERATOR.fullmatch(name)) or (
        allocation.resource.startswith(_PCI_RESOURCES) and bool(_PCI.fullmatch(name))
    )


class _Names:
    """Every name that a node's devices go by."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self.devices = tuple(devices)
        self._by_uuid: dict[str, tuple[Device, ...]] = {}
        self._by_number: dict[tuple[int, int | None], tuple[Device, ...]] = {}
        self._by_address: dict[str, tuple[Device, ...]] = {}
        self._by_instances: dict[tuple[str, int, int], tuple[Device, ...]] = {}
        have_minors = any(device.minor is not None for device in self.devices)
        for device in self.devices:
            number = device.minor if have_minors else device.index
            self._note(self._by_uuid, device.uuid.lower(), device)
            if device.parent is not None:
                # A GPU that was handed out whole and cut afterwards is all of its slices.
                self._note(self._by_uuid, device.parent.lower(), device)
                if device.gpu_instance is not None and device.compute_instance is not None:
                    key = (device.parent.lower(), device.gpu_instance, device.compute_instance)
                    self._note(self._by_instances, key, device)
            if number is not None:
                self._note(self._by_number, (number, None), device)
                if device.gpu_instance is not None:
                    self._note(self._by_number, (number, device.gpu_instance), device)
            if device.pci_address:
                self._note(self._by_address, device.pci_address.lower(), device)

    @staticmethod
    def _note(table: dict, key: object, device: Device) -> None:  # type: ignore[type-arg]
        table[key] = (*table.get(key, ()), device)

    def find(self, allocation: Allocation) -> tuple[Device, ...]:
        if allocation.resource.endswith(_MONITORING):
            return ()
        name = allocation.device_id.lower().partition("::")[0]
        if found := self._by_uuid.get(name):
            return found
        if allocation.resource in _DRA_DRIVERS:
            # Of NVIDIA's names only a whole GPU's tells for certain which device it is; of the others', none does.
            match = _DRA.fullmatch(name) if allocation.resource == _DRA_NVIDIA else None
            return self._by_number.get((int(match[1]), None), ()) if match else ()
        if match := _MIG_OF_OLD.fullmatch(name):
            return self._by_instances.get((match[1], int(match[2]), int(match[3])), ())
        if match := _GKE.fullmatch(name):
            return self._by_number.get((int(match[1]), int(match[2]) if match[2] else None), ())
        if match := _INTEL.fullmatch(name):
            cards = self._by_number.get((int(match[1]), None), ())
            return tuple(card for card in cards if not card.uuid.startswith(_NVIDIA_UUIDS))
        if allocation.resource.startswith(_PCI_RESOURCES) and (match := _PCI.fullmatch(name)):
            # Some plugins write eight digits of a domain that has four.
            return self._by_address.get(name[4:] if match[1] else name, ())
        return ()
