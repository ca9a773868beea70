# SPDX-License-Identifier: Apache-2.0
"""Divides the devices of a node among the pods that hold them.

Law: the shares of a device add up to the device. Where the scheduler states the part of every pod of a device, the
shares are in proportion to the parts. Otherwise every pod that holds the device has one equal share of it, however
often it is listed for that pod. ``measured_shares`` replaces these shares where an agent measures them.

Who holds a device is the matter of ``core.assignment``: its table has the kubelet's device plugins, resource claims and
schedulers that share GPUs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from keda_gpu_scaler.core.assignment.device_index import DeviceIndex
from keda_gpu_scaler.core.assignment.source import Holding, NodeView
from keda_gpu_scaler.core.assignment.sources import by_source
from keda_gpu_scaler.core.types import KUBELET_ONLY, Allocation, ClusterAssignments, Device, PodRef, Sample, Snapshot


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """A pod's share of a device: one of ``sharers`` equal shares, or the ``part`` that the scheduler states.

    ``weighs`` says by what the parts are stated, empty for equal shares. ``unknown`` says why the share is not known:
    other pods may hold the device too. It is empty where the share is known. ``is_measured`` says that the part is
    what the pod's processes used. ``not_measured`` says why it is not, where the agent measures shares.
    """

    device: Device
    sharers: int
    part: Fraction | None = None
    weighs: str = ""
    unknown: str = ""
    is_measured: bool = False
    not_measured: str = ""

    def of(self, value: float) -> float:
        """Return the share of a value of the device."""
        return value / self.sharers if self.part is None else value * float(self.part)


@dataclass(frozen=True, slots=True)
class PodDevices:
    """The devices of one pod.

    ``shares`` is in the order of the node's devices. ``unresolved`` has the ids of accelerators that the pod holds and
    that the node does not list. ``undetermined`` has the ids of which it is not known which device they are, and why.
    """

    shares: tuple[DeviceShare, ...]
    unresolved: tuple[str, ...] = ()
    undetermined: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceHolder:
    """A pod that holds a device: one of ``sharers`` pods. ``containers`` are those that hold it, sorted."""

    pod: PodRef
    containers: tuple[str, ...]
    sharers: int


def attribute(snapshot: Snapshot, cluster: ClusterAssignments = KUBELET_ONLY) -> Mapping[PodRef, PodDevices] | None:
    """Return the devices of every pod that holds at least one; None while the allocations are not known.

    Args:
        snapshot: the node's devices, and the kubelet's list.
        cluster: what the API server knows of the assignments on the node.
    """
    if snapshot.allocations is None:
        return None
    view = _view(snapshot.node, snapshot.samples, cluster)
    held = _HeldDevices(view.index.devices)
    for source, allocations in by_source(view, snapshot.allocations):
        for holding in source.holdings(view, allocations):
            held.add(holding, source.weighs)
    return held.by_pod()


def holders_by_device(snapshot: Snapshot) -> Mapping[str, tuple[str, ...]] | None:
    """Return the pods of each held device, by UUID, as the kubelet alone knows them; None while they are not known.

    A pod of which it is not known which device it has is a possible holder of each.
    """
    attributed = attribute(snapshot)
    if attributed is None:
        return None
    holders: dict[str, set[str]] = {}
    for pod, devices in attributed.items():
        for share in devices.shares:
            holders.setdefault(share.device.uuid, set()).add(f"{pod.namespace}/{pod.name}")
        if devices.undetermined:
            for sample in snapshot.samples:
                holders.setdefault(sample.device.uuid, set()).add(f"{pod.namespace}/{pod.name} (perhaps)")
    return {uuid: tuple(sorted(pods)) for uuid, pods in holders.items()}


def holders(snapshot: Snapshot) -> Mapping[str, tuple[DeviceHolder, ...]] | None:
    """Return the certain holders of every held device by its UUID, sorted by pod, as the kubelet alone knows them.

    None while the allocations are not known. While the device of one pod is not known, that pod may hold any of them.
    Then no holder is certain.
    """
    if snapshot.allocations is None:
        return None
    containers: dict[tuple[PodRef, str], set[str]] = {}
    for allocation in snapshot.allocations:
        key = (PodRef(allocation.namespace, allocation.pod), allocation.device_id)
        containers.setdefault(key, set()).add(allocation.container)
    view = _view(snapshot.node, snapshot.samples, KUBELET_ONLY)
    held: dict[str, dict[PodRef, set[str]]] = {}
    for source, allocations in by_source(view, snapshot.allocations):
        for holding in source.holdings(view, allocations):
            if holding.unknown:
                return {}
            for device in holding.devices:
                found = containers.get((holding.pod, holding.device_id), set())
                held.setdefault(device.uuid, {}).setdefault(holding.pod, set()).update(found)
    return {
        uuid: tuple(DeviceHolder(pod, tuple(sorted(names)), len(pods)) for pod, names in sorted(pods.items()))
        for uuid, pods in held.items()
    }


def resolve(allocation: Allocation, devices: Sequence[Device]) -> tuple[Device, ...]:
    """Return the devices of an allocation: none, one, or every slice of a GPU that was assigned whole."""
    view = NodeView("", DeviceIndex(devices))
    return tuple(
        device
        for source, allocations in by_source(view, [allocation])
        if allocations
        for holding in source.holdings(view, allocations)
        for device in holding.devices
    )


def _view(node: str, samples: Iterable[Sample], cluster: ClusterAssignments) -> NodeView:
    memory = {sample.device.uuid: sample.memory_total_bytes for sample in samples if sample.memory_total_bytes}
    pods = {pod.ref: pod for pod in cluster.pods if pod.node == node}
    return NodeView(node, DeviceIndex([sample.device for sample in samples]), memory, cluster, pods)


class _HeldDevices:
    """Collects holdings, and divides each device among its holders."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._positions = {device.uuid: position for position, device in enumerate(devices)}
        self._held: dict[PodRef, dict[str, Device]] = {}
        self._unresolved: dict[PodRef, set[str]] = {}
        self._undetermined: dict[PodRef, dict[str, str]] = {}
        self._weights: dict[str, dict[PodRef, tuple[Fraction | None, str]]] = {}
        self._unknown: dict[str, str] = {}

    def add(self, holding: Holding, weighs: str) -> None:
        if not holding.devices and holding.unknown:
            self._undetermined.setdefault(holding.pod, {})[holding.device_id] = holding.unknown
        elif not holding.devices:
            self._unresolved.setdefault(holding.pod, set()).add(holding.device_id)
        for device in holding.devices:
            self._held.setdefault(holding.pod, {})[device.uuid] = device
            weights = self._weights.setdefault(device.uuid, {})
            # A pod that holds a device in two ways has no part that one scheduler states.
            is_first = holding.pod not in weights
            weights[holding.pod] = (holding.weight if is_first else None, weighs)
            if holding.unknown:
                self._unknown[device.uuid] = holding.unknown

    def by_pod(self) -> Mapping[PodRef, PodDevices]:
        found = {pod: PodDevices(self._shares(pod, devices)) for pod, devices in self._held.items()}
        for pod in self._unresolved.keys() | self._undetermined.keys():
            found[pod] = PodDevices(
                found[pod].shares if pod in found else (),
                unresolved=tuple(sorted(self._unresolved.get(pod, ()))),
                undetermined=tuple(sorted(self._undetermined.get(pod, {}).items())),
            )
        return found

    def _shares(self, pod: PodRef, devices: Mapping[str, Device]) -> tuple[DeviceShare, ...]:
        if len(devices) == 1:
            return tuple([self._share(pod, device) for device in devices.values()])
        ordered = sorted(devices.values(), key=lambda device: self._positions[device.uuid])
        return tuple([self._share(pod, device) for device in ordered])

    def _share(self, pod: PodRef, device: Device) -> DeviceShare:
        weights = self._weights[device.uuid]
        unknown = self._unknown.get(device.uuid) or (self._other_holder(pod) if self._undetermined else "")
        part = _part(weights, pod) if len(weights) > 1 else None
        return DeviceShare(device, len(weights), part, weights[pod][1] if part is not None else "", unknown)

    def _other_holder(self, pod: PodRef) -> str:
        """Return why any device of the node may have another holder, empty where none may."""
        others = sorted(other for other in self._undetermined if other != pod)
        if not others:
            return ""
        device_id, why = min(self._undetermined[others[0]].items())
        return f"{others[0].namespace}/{others[0].name} holds {device_id}, and which device that is is not known: {why}"


def _part(weights: Mapping[PodRef, tuple[Fraction | None, str]], pod: PodRef) -> Fraction | None:
    """Return the pod's part of a device, None where the shares are equal or not every part is stated."""
    stated = [weight for weight, _ in weights.values() if weight is not None]
    if len(stated) < len(weights) or len(set(stated)) == 1 or len({weighs for _, weighs in weights.values()}) > 1:
        return None
    return stated[list(weights).index(pod)] / sum(stated)
