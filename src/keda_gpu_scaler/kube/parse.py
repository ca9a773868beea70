# SPDX-License-Identifier: Apache-2.0
"""What is kept of a Kubernetes object? The little that an answer depends on.

The law of this module: whatever an object holds, something sensible comes out; it was written by strangers.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict, TypeGuard

from keda_gpu_scaler.core.types import DeclaredTrigger, Pod, PodRef
from keda_gpu_scaler.core.urls import MAX_PORT, is_path

DEFAULT_METRIC_TYPE = "AverageValue"
_EXTERNAL = ("external", "external-push")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_PORT = re.compile(r"\d{1,5}", re.ASCII)
_LONGEST_TEXT = 256
_MOST_PORTS = 16


class _Annotated(TypedDict):
    metrics_port: int | None
    metrics_path: str | None
    metrics_scheme: str | None


@dataclass(frozen=True, slots=True)
class ScaleTarget:
    """A ScaledObject's scale target; ``resource`` ("deployments") is empty where KEDA has not looked it up yet."""

    group: str
    version: str
    kind: str
    name: str
    resource: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def is_sound(self) -> bool:
        """Whether every part of it may become part of a path."""
        parts = (self.version, self.name, *filter(None, (self.group, self.resource)))
        return all(is_name(part) for part in parts)


@dataclass(frozen=True, slots=True)
class ScaledSpec:
    """What is kept of a ScaledObject, or of a ScaledJob, which has no target."""

    target: ScaleTarget | None
    triggers: tuple[DeclaredTrigger, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale subresource."""

    spec_replicas: int
    status_replicas: int
    selector: str


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """An address at which a pod answers; ``pod`` is whatever tells it from others."""

    pod: str
    address: str
    node: str


def is_name(text: str) -> bool:
    """Whether Kubernetes lets an object be called so; anything else must not become part of a path."""
    return bool(_NAME.fullmatch(text))


def scaled_object(item: Mapping[str, Any]) -> ScaledSpec:
    """Keep a ScaledObject's target and external triggers."""
    spec, status = _part(item, "spec"), _part(item, "status")
    reference, resolved = _part(spec, "scaleTargetRef"), _part(status, "scaleTargetGVKR")
    group, _, version = (_text(reference.get("apiVersion")) or "apps/v1").rpartition("/")
    target = ScaleTarget(group, version, _text(reference.get("kind")) or "Deployment", _text(reference.get("name")))
    if (resolved.get("group") or "", resolved.get("version"), resolved.get("kind")) == (group, version, target.kind):
        target = ScaleTarget(group, version, target.kind, target.name, _text(resolved.get("resource")))
    return ScaledSpec(target, _triggers(spec))


def scaled_job(item: Mapping[str, Any]) -> ScaledSpec:
    """Keep a ScaledJob's external triggers."""
    return ScaledSpec(None, _triggers(_part(item, "spec")))


def scale(item: Mapping[str, Any]) -> Scale:
    """Read a scale subresource; its selector is text, in autoscaling/v1 as in a CRD's."""
    spec, status = _part(item, "spec"), _part(item, "status")
    return Scale(_count(spec.get("replicas")), _count(status.get("replicas")), _text(status.get("selector"), 4096))


def pod(item: Mapping[str, Any], to_monotonic: float) -> Pod:
    """Keep a pod's place and state; ``to_monotonic`` is what makes a wall clock's time the judge's monotonic one."""
    metadata, spec, status = _part(item, "metadata"), _part(item, "spec"), _part(item, "status")
    conditions = status.get("conditions")
    return Pod(
        ref=PodRef(_text(metadata.get("namespace")), _text(metadata.get("name"))),
        node=_text(spec.get("nodeName")) or None,
        phase=_text(status.get("phase")) or "Pending",
        is_ready=any(
            isinstance(condition, Mapping) and condition.get("type") == "Ready" and condition.get("status") == "True"
            for condition in (conditions if isinstance(conditions, list) else ())
        ),
        is_deleting=bool(metadata.get("deletionTimestamp")),
        created_at_seconds=_unix_seconds(metadata.get("creationTimestamp")) + to_monotonic,
        address=_address(status.get("podIP")),
        ports=_ports(spec.get("containers")),
        **_scrape_annotations(_part(metadata, "annotations")),
    )


def _address(value: object) -> str:
    """Keep an IP address; whatever else stands there is none."""
    try:
        return str(ipaddress.ip_address(_text(value)))
    except ValueError:
        return ""


def _ports(containers: object) -> tuple[int, ...]:
    """Keep the TCP ports that containers declare, in their order."""
    ports: dict[int, None] = {}
    for container in containers if isinstance(containers, list) else ():
        declared = container.get("ports") if isinstance(container, Mapping) else None
        for port in declared if isinstance(declared, list) else ():
            number = port.get("containerPort") if isinstance(port, Mapping) else None
            if _is_port(number) and port.get("protocol", "TCP") == "TCP":
                ports[number] = None
    return tuple(ports)[:_MOST_PORTS]


def _scrape_annotations(annotations: Mapping[str, Any]) -> _Annotated:
    """Keep what Prometheus' usual annotations say of where metrics are, as far as it can be followed."""
    port, path = _text(annotations.get("prometheus.io/port")), _text(annotations.get("prometheus.io/path"))
    scheme = _text(annotations.get("prometheus.io/scheme"))
    number = int(port) if _PORT.fullmatch(port) else 0
    return {
        "metrics_port": number if _is_port(number) else None,
        "metrics_path": path if is_path(path) else None,
        "metrics_scheme": scheme if scheme in ("http", "https") else None,
    }


def _is_port(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and 1 <= number <= MAX_PORT


def labels(item: Mapping[str, Any]) -> Mapping[str, str]:
    """Keep an object's labels."""
    return {str(key): str(value) for key, value in _part(_part(item, "metadata"), "labels").items()}


def resource_version(item: Mapping[str, Any]) -> str:
    """Keep an object's version, which says that something about it changed."""
    return _text(_part(item, "metadata").get("resourceVersion"))


def endpoints(item: Mapping[str, Any]) -> tuple[SliceEndpoint, ...]:
    """Keep an EndpointSlice's addresses, one of each endpoint, with the port named grpc or else the first of TCP.

    An endpoint that is not ready counts: its instance may be up, and have no reading yet. One that is ending does
    not.
    """
    ports = [port for port in item.get("ports") or () if port.get("protocol", "TCP") == "TCP" and port.get("port")]
    chosen = next((port for port in ports if port.get("name") == "grpc"), ports[0] if ports else None)
    if chosen is None:
        return ()
    found = []
    for endpoint in item.get("endpoints") or ():
        addresses = endpoint.get("addresses") or ()
        if addresses and not _part(endpoint, "conditions").get("terminating"):
            host = _text(addresses[0])
            address = f"[{host}]:{chosen['port']}" if ":" in host else f"{host}:{chosen['port']}"
            target = _part(endpoint, "targetRef")
            pod = _text(target.get("uid")) or _text(target.get("name")) or address
            found.append(SliceEndpoint(pod, address, _text(endpoint.get("nodeName"))))
    return tuple(found)


def _triggers(spec: Mapping[str, Any]) -> tuple[DeclaredTrigger, ...]:
    triggers = spec.get("triggers")
    return tuple(
        DeclaredTrigger(
            {str(key): str(value) for key, value in _part(trigger, "metadata").items()},
            _text(trigger.get("metricType")) or DEFAULT_METRIC_TYPE,
        )
        for trigger in (triggers if isinstance(triggers, list) else ())
        if isinstance(trigger, Mapping) and trigger.get("type") in _EXTERNAL
    )


def _part(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = item.get(key)
    return value if isinstance(value, Mapping) else {}


def _text(value: object, at_most: int = _LONGEST_TEXT) -> str:
    return value if isinstance(value, str) and len(value) <= at_most else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _unix_seconds(text: object) -> float:
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
