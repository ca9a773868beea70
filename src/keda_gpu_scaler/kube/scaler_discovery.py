# SPDX-License-Identifier: Apache-2.0
"""Which of our instances can be asked from outside, and what is a ScaledObject there? Asked once, and not followed.

The law of this module: whoever KEDA asks is asked. A trigger's ``scalerAddress`` names a Service, and one of its ready
pods it is; where it names none, a pod that bears our label.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import ApiClient, ApiError
from keda_gpu_scaler.kube.parse import is_name
from keda_gpu_scaler.kube.reflector import ResourceQuery

LABEL = "app.kubernetes.io/name=keda-gpu-scaler"
DEFAULT_PORT = 6000

_COMPONENTS = ("frontend", "agent")  # whom KEDA asks, where there is one, comes first
_HOST = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)(?:\.svc(?:\.[a-z0-9.-]+)?)?", re.ASCII)
_NOT_FOUND = 404
_KEDA = "/apis/keda.sh/v1alpha1"
_HPAS = "/apis/autoscaling/v2"


@dataclass(frozen=True, slots=True)
class ScalerPod:
    """A pod of ours, and the port on which it answers KEDA; ``node`` is empty where it is not told."""

    namespace: str
    pod: str
    port: int
    node: str = ""
    is_ready: bool = True

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod}"


async def find_scaler(api: ApiClient, scaler_address: str, namespace: str = "") -> ScalerPod:
    """Find an instance to ask.

    Args:
        api: the API server.
        scaler_address: the trigger's ``scalerAddress``, empty where it is not known.
        namespace: where instances are looked for by their label; empty for everywhere.

    Raises:
        KubeError: there is none, or it cannot be looked for.
    """
    named = _HOST.fullmatch(scaler_address.rpartition(":")[0])
    if named and not namespace:
        service, place = named[1], named[2]
        labels = f"kubernetes.io/service-name={service}"
        found = await _items(api, ResourceQuery("endpointslices", "discovery.k8s.io", "v1", place, labels))
        return _first(_behind(found, place), f"the Service {service} in namespace {place} (metadata.scalerAddress)")
    try:
        pods = await _items(api, ResourceQuery("pods", namespace=namespace, labels=LABEL))
    except ApiError as error:
        if namespace or error.status != 403:
            raise
        raise KubeError(f"{error}; say where it is installed: --namespace-of-scaler") from error
    where = f"namespace {namespace}" if namespace else "any namespace"
    return _first(_pods(pods), f"a pod labelled {LABEL} in {where}")


async def scaled(api: ApiClient, namespace: str, name: str) -> dict[str, Any]:
    """Return a ScaledObject, or else the ScaledJob of this name.

    Raises:
        KubeError: there is neither.
    """
    _sound(namespace, name)
    for resource in ("scaledobjects", "scaledjobs"):
        try:
            return await api.get(f"{_KEDA}/namespaces/{namespace}/{resource}/{name}")
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
    raise KubeError(f"{namespace}/{name}: Not found: there is no ScaledObject and no ScaledJob of this name")


async def hpa(api: ApiClient, namespace: str, name: str) -> dict[str, Any] | None:
    """Return a HorizontalPodAutoscaler; None where there is none, or it may not be read."""
    _sound(namespace, name)
    try:
        return await api.get(f"{_HPAS}/namespaces/{namespace}/horizontalpodautoscalers/{name}")
    except ApiError:
        return None


def _sound(*names: str) -> None:
    for name in names:
        if not is_name(name):
            raise KubeError(f"{ascii(name[:80])[1:-1]}: Invalid value: no object of Kubernetes can be called so")


async def _items(api: ApiClient, place: ResourceQuery) -> list[Mapping[str, Any]]:
    if place.namespace:
        _sound(place.namespace)
    page = await api.get(place.path, {"labelSelector": place.labels, "limit": "500"})
    items = page.get("items")
    return [item for item in (items if isinstance(items, list) else ()) if isinstance(item, Mapping)]


def _first(instances: Iterable[ScalerPod], of_what: str) -> ScalerPod:
    """Choose one that is ready, or else one that is there: it may well say why it is not ready."""
    found = sorted(instances, key=lambda one: not one.is_ready)
    if not found:
        raise KubeError(f"no instance is found by {of_what}: is it installed there? Or say --address HOST:PORT")
    return found[0]


def _behind(slices: Iterable[Mapping[str, Any]], namespace: str) -> Iterable[ScalerPod]:
    for one in slices:
        port = _port(one.get("ports"), "port")
        endpoints = one.get("endpoints")
        for endpoint in endpoints if isinstance(endpoints, list) else ():
            target, conditions = endpoint.get("targetRef") or {}, endpoint.get("conditions") or {}
            pod = str(target.get("name", ""))
            if is_name(pod) and not conditions.get("terminating"):
                is_ready = conditions.get("ready") is not False
                yield ScalerPod(namespace, pod, port, str(endpoint.get("nodeName") or ""), is_ready)


def _pods(items: Iterable[Mapping[str, Any]]) -> Iterable[ScalerPod]:
    for component in _COMPONENTS:
        for item in items:
            metadata, spec, status = (item.get(part) or {} for part in ("metadata", "spec", "status"))
            if (metadata.get("labels") or {}).get("app.kubernetes.io/component") != component:
                continue
            if metadata.get("deletionTimestamp") or status.get("phase") != "Running":
                continue
            ports = [port for container in spec.get("containers") or () for port in container.get("ports") or ()]
            is_ready = any(
                condition.get("type") == "Ready" and condition.get("status") == "True"
                for condition in status.get("conditions") or ()
            )
            yield ScalerPod(
                str(metadata.get("namespace", "")),
                str(metadata.get("name", "")),
                _port(ports, "containerPort"),
                str(spec.get("nodeName") or ""),
                is_ready,
            )


def _port(ports: object, key: str) -> int:
    """Return the port named grpc, or else the usual one."""
    for port in ports if isinstance(ports, list) else ():
        if isinstance(port, Mapping) and port.get("name") == "grpc" and isinstance(port.get(key), int):
            return int(port[key])
    return DEFAULT_PORT
