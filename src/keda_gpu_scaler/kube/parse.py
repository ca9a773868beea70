# SPDX-License-Identifier: Apache-2.0
"""Reads Kubernetes objects: tolerant accessors, and one reader for each kind of object.

Law: no object makes a reader raise. Users write these objects, and a field of an unexpected type counts as absent.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypedDict, TypeGuard

from keda_gpu_scaler.core.assignment.sources import is_detail, is_mark
from keda_gpu_scaler.core.idle_cache import cached_while_used
from keda_gpu_scaler.core.types import AssignedPod, OwnerReference, Pod, PodRef
from keda_gpu_scaler.core.urls import MAX_PORT, is_path
from keda_gpu_scaler.kube.replica_labels import SCALED_JOB_NAME, replica_fields

GRPC_PORT_NAME = "grpc"
"""How the chart names the port on which an instance answers, in pods and in Services."""
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_PORT = re.compile(r"\d{1,5}", re.ASCII)
_ACCELERATOR = re.compile(r"(nvidia|amd|gpu\.intel)\.com/|volcano\.sh/vgpu-|[a-z0-9.-]+/gpu-mem\Z", re.ASCII)
_MAX_TEXT_LENGTH = 256
_MAX_SELECTOR_LENGTH = 4096
_MAX_PORTS = 16
_MAX_LABELS = 64
_MAX_SHARED = 2048  # labels and owners, which the pods of a workload have in common
_MAX_ADDRESSES = 4
_MAX_MARKS, _MAX_MARK_LENGTH = 64, 8192
_MAX_REQUESTS = 16
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
WRITTEN_DELETION_COST = "keda-gpu-scaler/pod-deletion-cost"
"""The cost that this scaler wrote, so that it is not taken for the user's own."""
_STATIC_UID = "kubernetes.io/config.hash"
"""The UID of a static pod, with which the kubelet names its cgroup. The API server has a mirror with another UID."""
_COST = re.compile(r"-?\d{1,10}", re.ASCII)


class _ScrapeAnnotations(TypedDict):
    metrics_port: int | None
    metrics_path: str | None
    metrics_scheme: str | None


class _DeletionCosts(TypedDict):
    deletion_cost: int | None
    written_deletion_cost: int | None


@dataclass(frozen=True, slots=True)
class ScaleTarget:
    """A ScaledObject's scale target; ``resource`` ("deployments") is empty where KEDA has not resolved it yet."""

    group: str
    version: str
    kind: str
    name: str
    resource: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def is_valid(self) -> bool:
        """Whether every field may become a segment of a request's path."""
        segments = (self.version, self.name, *filter(None, (self.group, self.resource)))
        return all(is_name(segment) for segment in segments)


@dataclass(frozen=True, slots=True)
class ObjectMetadata:
    """What is kept of an object that is read by its metadata alone."""

    resource_version: str
    owner: OwnerReference | None


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale subresource."""

    spec_replicas: int
    status_replicas: int
    selector: str


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """One address of an EndpointSlice.

    ``pod_id`` is the same for every address of one pod. ``pod`` is the pod's name, empty where the endpoint is not a
    pod. Two endpoints that differ in ``is_ready`` alone are equal, because readiness does not change an address.
    """

    pod_id: str
    address: str
    node: str
    pod: str = ""
    port: int = 0
    is_ready: bool = field(default=True, compare=False)


# ---- accessors ----


def part(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object in a field, empty where the field holds no object."""
    value = item.get(key)
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the objects in a list, without its other entries; none where the value is not a list."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def text(value: object, max_length: int = _MAX_TEXT_LENGTH) -> str:
    """Return a text, empty where the value is not a text or is too long."""
    return value if isinstance(value, str) and len(value) <= max_length else ""


def count(value: object) -> int:
    """Return a count, 0 where the value is not a positive integer."""
    return value if isinstance(value, int) and value > 0 else 0


def is_name(value: str) -> bool:
    """Whether Kubernetes accepts a text as an object's name. No other text may become a segment of a path."""
    return bool(_NAME.fullmatch(value))


def labels(item: Mapping[str, Any]) -> Mapping[str, str]:
    """Return an object's labels."""
    return {str(key): str(value) for key, value in part(part(item, "metadata"), "labels").items()}


def resource_version(item: Mapping[str, Any]) -> str:
    """Return an object's version, which changes with every change of the object."""
    return text(part(item, "metadata").get("resourceVersion"))


def object_metadata(item: Mapping[str, Any]) -> ObjectMetadata:
    """Read an object's version and its controller."""
    return ObjectMetadata(resource_version(item), owner(item))


def owner(item: Mapping[str, Any]) -> OwnerReference | None:
    """Return an object's controller, of which it has at most one; None where it has none."""
    for reference in mappings(part(item, "metadata").get("ownerReferences")):
        if reference.get("controller") is True:
            group, _, version = text(reference.get("apiVersion")).rpartition("/")
            return _owner_reference(group, version, text(reference.get("kind")), text(reference.get("name")))
    return None


@cached_while_used(_MAX_SHARED)
def _owner_reference(*parts: str) -> OwnerReference:
    return OwnerReference(*parts)


def condition(item: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return the condition of a type ("Ready") in an object's status, empty where there is none."""
    conditions = mappings(part(item, "status").get("conditions"))
    return next((entry for entry in conditions if entry.get("type") == kind), {})


# ---- workloads and nodes ----


def scale(item: Mapping[str, Any]) -> Scale:
    """Read a scale subresource; its selector is a text, in autoscaling/v1 as in a custom resource's."""
    spec, status = part(item, "spec"), part(item, "status")
    selector = text(status.get("selector"), _MAX_SELECTOR_LENGTH)
    return Scale(count(spec.get("replicas")), count(status.get("replicas")), selector)


def first_image(deployment: Mapping[str, Any]) -> str:
    """Return the image of a Deployment's first container, empty where there is none."""
    containers = mappings(part(part(part(deployment, "spec"), "template"), "spec").get("containers"))
    return str(containers[0].get("image", "")) if containers else ""


def has_accelerators(node: Mapping[str, Any]) -> bool:
    """Whether a device plugin has registered accelerators on a node."""
    allocatable = part(part(node, "status"), "allocatable")
    return any(_ACCELERATOR.match(str(resource)) and str(amount) != "0" for resource, amount in allocatable.items())


def pod(item: Mapping[str, Any], to_monotonic: float) -> Pod:
    """Read a pod's place and state.

    Args:
        item: the pod.
        to_monotonic: the seconds to add to a Unix time to get this process's monotonic time.
    """
    metadata, spec, status = part(item, "metadata"), part(item, "spec"), part(item, "status")
    ready = condition(item, "Ready")
    is_ready = ready.get("status") == "True"
    ready_at = _unix_seconds(ready.get("lastTransitionTime"))
    address, *other_addresses = _ip_addresses(status)
    found, annotations = labels(item), part(metadata, "annotations")
    return Pod(
        ref=PodRef(text(metadata.get("namespace")), text(metadata.get("name"))),
        node=text(spec.get("nodeName")) or None,
        phase=text(status.get("phase")) or "Pending",
        is_ready=is_ready,
        is_deleting=bool(metadata.get("deletionTimestamp")),
        created_at_seconds=_unix_seconds(metadata.get("creationTimestamp")) + to_monotonic,
        address=address,
        other_addresses=tuple(other_addresses),
        ports=_tcp_ports(item),
        ready_at_seconds=ready_at + to_monotonic if is_ready and ready_at else None,
        conditions=_conditions(status) if SCALED_JOB_NAME in found else (),
        restarts=sum(count(entry.get("restartCount")) for entry in mappings(status.get("containerStatuses"))),
        requests=_extended_resources(spec),
        has_claims=bool(mappings(spec.get("resourceClaims"))),
        assigned=assigned_pod(item),
        uid=text(annotations.get(_STATIC_UID)) or text(metadata.get("uid")),
        labels=_kept_labels(found),
        owner=owner(item),
        **replica_fields(found, annotations),
        **_scrape_annotations(annotations),
        **_deletion_costs(annotations),
    )


def assigned_pod(item: Mapping[str, Any]) -> AssignedPod | None:
    """Read the marks of a scheduler that assigns devices; None for a pod without any, without a node, or that ended."""
    metadata, node = part(item, "metadata"), text(part(item, "spec").get("nodeName"))
    if not node or part(item, "status").get("phase") in ("Succeeded", "Failed"):
        return None
    found = {**part(metadata, "annotations"), **part(metadata, "labels")}
    if not any(is_mark(key) for key in found if isinstance(key, str)):
        return None
    marks = sorted(
        (key, value)
        for key, value in found.items()
        if isinstance(key, str) and (is_mark(key) or is_detail(key)) and text(value, _MAX_MARK_LENGTH)
    )
    ref = PodRef(text(metadata.get("namespace")), text(metadata.get("name")))
    return AssignedPod(ref, node, tuple(marks[:_MAX_MARKS]))


def _extended_resources(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the resources of device plugins that containers request, each once, sorted."""
    found: set[str] = set()
    for container in (*mappings(spec.get("containers")), *mappings(spec.get("initContainers"))):
        resources = part(container, "resources")
        for amounts in (part(resources, "limits"), part(resources, "requests")):
            found |= {key for key in map(text, amounts) if "/" in key and "kubernetes.io/" not in key}
    return tuple(sorted(found)[:_MAX_REQUESTS])


def _conditions(status: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the types of the true conditions, which say whether the Job of a ScaledJob is pending."""
    conditions = mappings(status.get("conditions"))
    return tuple(sorted({text(one.get("type")) for one in conditions if one.get("status") == "True"}))


def _kept_labels(found: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return labels in the order of their keys. The pods of a workload share the texts, which are kept once."""
    return tuple([_label(text(key), text(value)) for key, value in sorted(found.items())[:_MAX_LABELS]])


@cached_while_used(_MAX_SHARED)
def _label(key: str, value: str) -> tuple[str, str]:
    return key, value


def grpc_port(item: Mapping[str, Any]) -> int | None:
    """Return the container port of a pod that is named grpc, None where there is none."""
    return container_port(item, GRPC_PORT_NAME)


def container_port(item: Mapping[str, Any], name: str) -> int | None:
    """Return the container port of a pod that has this name, None where there is none."""
    ports = (port for port in _container_ports(item) if port.get("name") == name)
    return next((number for port in ports if _is_port(number := port.get("containerPort"))), None)


def _container_ports(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for container in mappings(part(item, "spec").get("containers")):
        yield from mappings(container.get("ports"))


def _tcp_ports(item: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the TCP ports that containers declare, each once, in their order."""
    ports: dict[int, None] = {}
    for port in _container_ports(item):
        number = port.get("containerPort")
        if _is_port(number) and port.get("protocol", "TCP") == "TCP":
            ports[number] = None
    return tuple(ports)[:_MAX_PORTS]


def _ip_address(value: object) -> str:
    """Return an IP address, empty where the value is none."""
    try:
        return str(ipaddress.ip_address(text(value)))
    except ValueError:
        return ""


def _ip_addresses(status: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the IP addresses of a pod, each once: the one in ``podIP`` first, empty where there is none."""
    first = _ip_address(status.get("podIP"))
    listed = [_ip_address(entry.get("ip")) for entry in mappings(status.get("podIPs"))[:_MAX_ADDRESSES]]
    return tuple(dict.fromkeys(filter(None, [first, *listed]))) or ("",)


def _scrape_annotations(annotations: Mapping[str, Any]) -> _ScrapeAnnotations:
    """Read Prometheus' usual annotations of where metrics are; an unusable value counts as absent."""
    port, path = text(annotations.get("prometheus.io/port")), text(annotations.get("prometheus.io/path"))
    scheme = text(annotations.get("prometheus.io/scheme"))
    number = int(port) if _PORT.fullmatch(port) else 0
    return {
        "metrics_port": number if _is_port(number) else None,
        "metrics_path": path if is_path(path) else None,
        "metrics_scheme": scheme if scheme in ("http", "https") else None,
    }


def _deletion_costs(annotations: Mapping[str, Any]) -> _DeletionCosts:
    """Read the pod's deletion cost; Kubernetes counts a value that is no integer as absent."""
    cost, written = text(annotations.get(DELETION_COST)), text(annotations.get(WRITTEN_DELETION_COST))
    return {
        "deletion_cost": int(cost) if _COST.fullmatch(cost) else None,
        "written_deletion_cost": int(written) if _COST.fullmatch(written) else None,
    }


def _is_port(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and 1 <= number <= MAX_PORT


def _unix_seconds(value: object) -> float:
    try:
        return datetime.strptime(str(value), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


# ---- Services ----


def endpoints(item: Mapping[str, Any]) -> tuple[SliceEndpoint, ...]:
    """Read an EndpointSlice: one address of each endpoint, with the port named grpc or else the first TCP port.

    An endpoint that is not ready counts, because its instance may run and have no reading yet. An endpoint that
    terminates does not count.
    """
    ports = [
        port
        for port in mappings(item.get("ports"))
        if port.get("protocol", "TCP") == "TCP" and _is_port(port.get("port"))
    ]
    chosen = next((port for port in ports if port.get("name") == GRPC_PORT_NAME), ports[0] if ports else None)
    if chosen is None:
        return ()
    found = (_endpoint(endpoint, chosen["port"]) for endpoint in mappings(item.get("endpoints")))
    return tuple(endpoint for endpoint in found if endpoint is not None)


def _endpoint(endpoint: Mapping[str, Any], port: int) -> SliceEndpoint | None:
    addresses, conditions = endpoint.get("addresses"), part(endpoint, "conditions")
    host = text(addresses[0]) if isinstance(addresses, list) and addresses else ""
    if not host or conditions.get("terminating"):
        return None
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    target = part(endpoint, "targetRef")
    pod_name = text(target.get("name"))
    return SliceEndpoint(
        pod_id=text(target.get("uid")) or pod_name or address,
        address=address,
        node=text(endpoint.get("nodeName")),
        pod=pod_name,
        port=port,
        is_ready=conditions.get("ready") is not False,
    )
