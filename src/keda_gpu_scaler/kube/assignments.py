# SPDX-License-Identifier: Apache-2.0
"""Reads assignments of devices from the API server: marks of schedulers, claims and slices.

Law: nothing is read that no pod of the workload needs. Marks are read where a pod has one, and claims where a pod has a
claim. What RBAC forbids is a reason in the result, and the workload stays known.

The pods and claims of all namespaces are read, because the pods of other workloads share the same devices. The result
has those on the nodes of the workload. Fields: k8s.io/api/resource v1, v1beta2 and v1beta1 (with "basic" devices).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from keda_gpu_scaler.core.types import KUBELET_ONLY, AssignedPod, ClaimedDevice, ClusterAssignments, Pod, PodRef
from keda_gpu_scaler.kube import parse
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.parse import count, mappings, part, text
from keda_gpu_scaler.kube.resource_query import ResourceQuery

GROUP = "resource.k8s.io"
VERSIONS = ("v1", "v1beta2", "v1beta1")
"""Of Kubernetes 1.34, 1.33 and 1.32."""
_ALL_PODS = ResourceQuery("pods")
_UUID = "uuid"
_ADDRESSES = ("resource.kubernetes.io/pciBusID", "pciBusID", "pcieBusID", "pciAddress", "pciAddr")

Items = Callable[[ResourceQuery, Callable[[Mapping[str, Any]], Any]], "Mapping[str, Any] | str"]


class ApiVersions(Protocol):
    """Finds the version of an API group."""

    async def version(self, group: str, known: Sequence[str]) -> str:
        """Return the first of the known versions of an API group that the API server has."""


@dataclass(frozen=True, slots=True)
class DeviceClaim:
    """The allocation of a ResourceClaim: its devices, and the pods that it is reserved for."""

    namespace: str
    pods: tuple[str, ...]
    results: tuple[tuple[str, str, str, bool], ...]


@dataclass(frozen=True, slots=True)
class DeviceSlice:
    """The devices of a ResourceSlice, by name, with their UUID and PCI address; both may be empty."""

    node: str
    driver: str
    pool: str
    generation: int
    devices: tuple[tuple[str, str, str], ...]


async def read_assignments(versions: ApiVersions, items: Items, pods: Collection[Pod]) -> ClusterAssignments:
    """Return the assignments on the nodes of these pods, ``KUBELET_ONLY`` where no pod needs any.

    Args:
        versions: finds the version of the API group of claims.
        items: returns the items of a collection, or why they cannot be read.
        pods: the pods of a workload.

    Raises:
        ApiError: the version cannot be found at the moment.
    """
    nodes = {pod.node for pod in pods if pod.node is not None}
    assigned = {pod.ref: pod.assigned for pod in pods if pod.assigned is not None}
    pods_unavailable, claims_unavailable = "", ""
    claimed: tuple[ClaimedDevice, ...] | None = None
    if assigned:
        found = items(_ALL_PODS, parse.assigned_pod)
        if isinstance(found, str):
            pods_unavailable = f"the pods of other namespaces may share it: {found}"
        else:
            assigned = {pod.ref: pod for pod in found.values() if pod.node in nodes} | assigned
    if any(pod.has_claims for pod in pods):
        known = await _claimed(versions, items, nodes)
        claimed, claims_unavailable = (None, known) if isinstance(known, str) else (known, "")
    if not assigned and claimed is None and not claims_unavailable:
        return KUBELET_ONLY
    sharers: list[AssignedPod] = sorted(assigned.values(), key=lambda pod: pod.ref)
    return ClusterAssignments(tuple(sharers), claimed, pods_unavailable, claims_unavailable)


async def _claimed(versions: ApiVersions, items: Items, nodes: Collection[str]) -> tuple[ClaimedDevice, ...] | str:
    """Return the devices of claims on these nodes, or why they cannot be read."""
    try:
        version = await versions.version(GROUP, VERSIONS)
    except ApiError as error:
        if not error.is_permanent:
            raise
        return str(error)
    claims = items(ResourceQuery("resourceclaims", GROUP, version), device_claim)
    slices = items(ResourceQuery("resourceslices", GROUP, version), device_slice)
    if isinstance(claims, str):
        return claims
    if isinstance(slices, str):
        return slices
    return tuple(sorted(_joined(claims.values(), slices.values(), nodes), key=_order))


def _order(one: ClaimedDevice) -> tuple[PodRef, str, str, bool]:
    return one.pod, one.driver, one.device, one.is_admin


def _joined(
    claims: Collection[DeviceClaim], slices: Collection[DeviceSlice], nodes: Collection[str]
) -> Iterator[ClaimedDevice]:
    """Join the devices of claims with their descriptions."""
    newest: dict[tuple[str, str], int] = {}
    for one in slices:
        newest[one.driver, one.pool] = max(one.generation, newest.get((one.driver, one.pool), 0))
    described: dict[tuple[str, str, str], tuple[str, str, str]] = {}
    for one in slices:
        # A driver replaces the slices of a pool one by one; those of an older generation are not valid any more.
        if one.node in nodes and one.generation == newest[one.driver, one.pool]:
            for name, uuid, address in one.devices:
                described[one.driver, one.pool, name] = (one.node, uuid, address)
    for claim in claims:
        for driver, pool, device, is_admin in claim.results:
            # Without a slice the pool has the name of its node, as the pools of all GPU drivers have.
            node, uuid, address = described.get((driver, pool, device), (pool, "", ""))
            if node in nodes:
                for pod in claim.pods:
                    yield ClaimedDevice(PodRef(claim.namespace, pod), node, driver, device, is_admin, uuid, address)


def device_claim(item: Mapping[str, Any]) -> DeviceClaim | None:
    """Read a ResourceClaim; None where it has no device or is reserved for no pod."""
    status = part(item, "status")
    results = tuple(
        (text(one.get("driver")), text(one.get("pool")), text(one.get("device")), one.get("adminAccess") is True)
        for one in mappings(part(part(status, "allocation"), "devices").get("results"))
    )
    reserved = mappings(status.get("reservedFor"))
    pods = tuple(
        name
        for one in reserved
        if one.get("resource") == "pods" and not one.get("apiGroup") and (name := text(one.get("name")))
    )
    if not results or not pods:
        return None
    return DeviceClaim(text(part(item, "metadata").get("namespace")), pods, results)


def device_slice(item: Mapping[str, Any]) -> DeviceSlice | None:
    """Read a ResourceSlice; None where it is of no single node or describes no device."""
    spec = part(item, "spec")
    node, pool = text(spec.get("nodeName")), part(spec, "pool")
    devices = tuple(_described(one) for one in mappings(spec.get("devices")) if text(one.get("name")))
    if not node or not devices:
        return None
    return DeviceSlice(node, text(spec.get("driver")), text(pool.get("name")), count(pool.get("generation")), devices)


def _described(device: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return a device's name, UUID and PCI address."""
    attributes = part(device, "attributes") or part(part(device, "basic"), "attributes")
    addresses = (text(part(attributes, key).get("string")) for key in _ADDRESSES)
    return (
        text(device.get("name")),
        text(part(attributes, _UUID).get("string")),
        next((address for address in addresses if address), ""),
    )
