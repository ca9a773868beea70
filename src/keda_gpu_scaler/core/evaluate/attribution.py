# SPDX-License-Identifier: Apache-2.0
"""Matches the device ids of the kubelet with the devices of a node.

Law: the shares of a device add up to the device. Every pod that holds a device has one equal share of it, however often
the kubelet lists the device for that pod.

The forms of the ids are those of the device plugins: NVIDIA's k8s-device-plugin ("GPU-…", "MIG-…", "::N" for a replica
of a shared device) and DRA driver ("gpu-<minor>"), GKE's ("nvidia0/gi1/vgpu2"), AMD's (PCI address, "amdgpu_xcp_N";
DRA "gpu-<card>-<render>") and Intel's ("card0-1"; DRA "0000-04-00-0-0xe211"; the id "all" of the resource
".../monitoring" is no allocation). The backends of AMD and Intel list these names in ``Device.names``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.types import Allocation, Device, PodRef, Snapshot

_LEGACY_MIG = re.compile(r"mig-(gpu-[0-9a-f-]+)/(\d{1,4})/(\d{1,4})", re.ASCII)
_GKE = re.compile(r"nvidia(\d{1,4})(?:/gi(\d{1,4}))?(?:/vgpu\d+)?", re.ASCII)
_INTEL = re.compile(r"card(\d{1,4})-\d+", re.ASCII)
_PCI = re.compile(r"(?:[0-9a-f]{4}|0000([0-9a-f]{4})):[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII)
_DRA = re.compile(r"gpu-(\d{1,4})", re.ASCII)
_ACCELERATOR = re.compile(
    r"(?:gpu|mig)-[0-9a-f]{8}-[0-9a-f]{4}-.*|mig-gpu-.*|nvidia\d+(?:/.*)?|amdgpu_xcp_\d+|card\d+-\d+", re.ASCII
)
_DRA_NVIDIA = "gpu.nvidia.com"
_DRA_DRIVERS = frozenset({_DRA_NVIDIA, "gpu.amd.com", "gpu.intel.com"})
_MONITORING = ("/monitoring", "_monitoring")  # the second form as in gpu.intel.com/xe_monitoring
_PCI_RESOURCES = "amd.com/"  # under other resources a PCI address may belong to a network card
_NVIDIA_UUIDS = ("GPU-", "MIG-")


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """A pod's share of a device: one of ``sharers`` equal shares."""

    device: Device
    sharers: int


@dataclass(frozen=True, slots=True)
class PodDevices:
    """The devices of one pod.

    ``shares`` is in the order of the node's devices. ``unresolved`` has the ids of accelerators that the pod holds and
    that the node does not list.
    """

    shares: tuple[DeviceShare, ...]
    unresolved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceHolder:
    """A pod that holds a device: one of ``sharers`` pods. ``containers`` are those that hold it, sorted."""

    pod: PodRef
    containers: tuple[str, ...]
    sharers: int


def attribute(snapshot: Snapshot) -> Mapping[PodRef, PodDevices] | None:
    """Return the devices of every pod that holds at least one; None while the allocations are not known."""
    if snapshot.allocations is None:
        return None
    index = _DeviceIndex([sample.device for sample in snapshot.samples])
    positions = {device.uuid: position for position, device in enumerate(index.devices)}
    held: dict[PodRef, dict[str, Device]] = {}
    unresolved: dict[PodRef, set[str]] = {}
    sharers: dict[str, set[PodRef]] = {}
    for allocation in snapshot.allocations:
        pod = PodRef(allocation.namespace, allocation.pod)
        found = index.find(allocation)
        if not found and _is_accelerator(allocation):
            unresolved.setdefault(pod, set()).add(allocation.device_id)
        for device in found:
            held.setdefault(pod, {})[device.uuid] = device
            sharers.setdefault(device.uuid, set()).add(pod)
    return {
        pod: PodDevices(
            shares=tuple(
                DeviceShare(device, len(sharers[device.uuid]))
                for device in sorted(held.get(pod, {}).values(), key=lambda device: positions[device.uuid])
            ),
            unresolved=tuple(sorted(unresolved.get(pod, ()))),
        )
        for pod in held.keys() | unresolved.keys()
    }


def holders(snapshot: Snapshot) -> Mapping[str, tuple[DeviceHolder, ...]] | None:
    """Return the holders of every held device by its UUID, sorted by pod; None while the allocations are not known."""
    if snapshot.allocations is None:
        return None
    index = _DeviceIndex([sample.device for sample in snapshot.samples])
    held: dict[str, dict[PodRef, set[str]]] = {}
    for allocation in snapshot.allocations:
        pod = PodRef(allocation.namespace, allocation.pod)
        for device in index.find(allocation):
            held.setdefault(device.uuid, {}).setdefault(pod, set()).add(allocation.container)
    return {
        uuid: tuple(DeviceHolder(pod, tuple(sorted(containers)), len(pods)) for pod, containers in sorted(pods.items()))
        for uuid, pods in held.items()
    }


def resolve(allocation: Allocation, devices: Sequence[Device]) -> tuple[Device, ...]:
    """Return the devices of an allocation: none, one, or every slice of a GPU that was assigned whole."""
    return _DeviceIndex(devices).find(allocation)


def _is_accelerator(allocation: Allocation) -> bool:
    """Whether the form of the id says that it is an accelerator, also where the node does not list it."""
    if allocation.resource in _DRA_DRIVERS:
        return True
    if allocation.resource.endswith(_MONITORING):
        return False
    name = allocation.device_id.lower()
    return bool(_ACCELERATOR.fullmatch(name)) or (
        allocation.resource.startswith(_PCI_RESOURCES) and bool(_PCI.fullmatch(name))
    )


class _DeviceIndex:
    """The devices of a node by every id that a device plugin may use for them."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self.devices = tuple(devices)
        self._by_uuid: dict[str, tuple[Device, ...]] = {}
        self._by_number: dict[tuple[int, int | None], tuple[Device, ...]] = {}
        self._by_address: dict[str, tuple[Device, ...]] = {}
        self._by_name: dict[str, tuple[Device, ...]] = {}
        self._by_instances: dict[tuple[str, int, int], tuple[Device, ...]] = {}
        # Where one minor is known the source knows minors. Then an index is never used as the number of a device file.
        has_minors = any(device.minor is not None for device in self.devices)
        for device in self.devices:
            self._add_names(device)
            number = device.minor if has_minors else device.index
            # A device with names is known by them. Its index counts the devices of one vendor only, and with several
            # vendors on the node it would be taken for the number of another vendor's device file.
            if number is not None and not device.names:
                self._add(self._by_number, (number, None), device)
                if device.gpu_instance is not None:
                    self._add(self._by_number, (number, device.gpu_instance), device)

    def _add_names(self, device: Device) -> None:
        self._add(self._by_uuid, device.uuid.lower(), device)
        if device.parent is not None:
            # A GPU that was assigned whole, and was cut into slices afterwards, is all of its slices.
            self._add(self._by_uuid, device.parent.lower(), device)
            if device.gpu_instance is not None and device.compute_instance is not None:
                key = (device.parent.lower(), device.gpu_instance, device.compute_instance)
                self._add(self._by_instances, key, device)
        for name in device.names:
            self._add(self._by_name, name.lower(), device)
        if device.pci_address:
            self._add(self._by_address, device.pci_address.lower(), device)

    @staticmethod
    def _add(table: dict, key: object, device: Device) -> None:  # type: ignore[type-arg]
        table[key] = (*table.get(key, ()), device)

    def find(self, allocation: Allocation) -> tuple[Device, ...]:
        if allocation.resource.endswith(_MONITORING):
            return ()
        name = allocation.device_id.lower().partition("::")[0]
        if found := self._by_uuid.get(name) or self._by_name.get(name):
            return found
        if allocation.resource in _DRA_DRIVERS:
            # NVIDIA's name of a whole GPU has the device file's number. Its names of slices do not identify the slice,
            # and the names of other drivers are among the names of the devices.
            match = _DRA.fullmatch(name) if allocation.resource == _DRA_NVIDIA else None
            return self._by_number.get((int(match[1]), None), ()) if match else ()
        if match := _LEGACY_MIG.fullmatch(name):
            return self._by_instances.get((match[1], int(match[2]), int(match[3])), ())
        if match := _GKE.fullmatch(name):
            return self._by_number.get((int(match[1]), int(match[2]) if match[2] else None), ())
        if match := _INTEL.fullmatch(name):
            cards = self._by_name.get(f"card{int(match[1])}") or self._by_number.get((int(match[1]), None), ())
            return tuple(card for card in cards if not card.uuid.startswith(_NVIDIA_UUIDS))
        if allocation.resource.startswith(_PCI_RESOURCES) and (match := _PCI.fullmatch(name)):
            # Some plugins write a domain of eight digits; the devices have domains of four.
            return self._by_address.get(name[4:] if match[1] else name, ())
        return ()
