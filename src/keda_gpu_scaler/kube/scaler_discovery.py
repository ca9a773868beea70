# SPDX-License-Identifier: Apache-2.0
"""Finds the scaler's own instances: by the Service that a trigger names, or by the pods' labels.

Law: a command calls the instance that KEDA calls. A trigger's ``scalerAddress`` names a Service, and the command takes
a ready pod of that Service. Where it names no Service, the command takes a pod with the scaler's label.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube import parse
from keda_gpu_scaler.kube.client import ApiClient, ApiError, escaped
from keda_gpu_scaler.kube.pager import list_objects
from keda_gpu_scaler.kube.parse import is_name
from keda_gpu_scaler.kube.resource_query import ResourceQuery

LABEL = "app.kubernetes.io/part-of=keda-gpu-scaler"
COMPONENT_LABEL = "app.kubernetes.io/component"
AGENT = "agent"
FRONT_END = "frontend"
COMPONENTS = (FRONT_END, AGENT)
"""The components that answer KEDA. KEDA calls the front end where there is one, so it comes first."""
DEFAULT_PORT = 6000
EXPLAIN_PORT_NAME = "explain"
"""The name of the container port on which people get explanations with their token."""

_HOST = re.compile(r"(?:dns:///)?([a-z0-9-]+)(?:\.([a-z0-9-]+)(?:\.svc(?:\.[a-z0-9.-]+)?)?)?", re.ASCII)
_FORBIDDEN, _NOT_FOUND = 403, 404
_KEDA = "/apis/keda.sh/v1alpha1"
_AUTOSCALING = "/apis/autoscaling/v2"


@dataclass(frozen=True, slots=True)
class ScalerService:
    """A Service that a ``scalerAddress`` names; ``namespace`` is empty where the address has none."""

    name: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class ScalerPod:
    """A pod of the scaler that runs, and the port on which it answers; ``node`` is empty where it is not known.

    ``is_for_people`` says that the port is the one on which people get explanations with their token.
    Two that differ in ``is_ready`` alone are equal, because readiness does not change where a pod is reached.
    """

    namespace: str
    pod: str
    port: int
    node: str = ""
    is_ready: bool = field(default=True, compare=False)
    is_for_people: bool = False

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod}"


def scaler_service(scaler_address: str) -> ScalerService | None:
    """Return the Service that a trigger's ``scalerAddress`` names; None where its host is not a Service's name."""
    found = _HOST.fullmatch(scaler_address.rpartition(":")[0])
    return ScalerService(found[1], found[2] or "") if found else None


def scaler_pod(item: Mapping[str, Any]) -> ScalerPod | None:
    """Read a pod of the scaler; None where it does not run, or is being deleted."""
    pod = parse.pod(item, to_monotonic=0.0)
    if pod.is_deleting or pod.phase != "Running" or not is_name(pod.ref.name):
        return None
    port = parse.grpc_port(item) or DEFAULT_PORT
    return ScalerPod(pod.ref.namespace, pod.ref.name, port, pod.node or "", pod.is_ready)


def pod_for_people(item: Mapping[str, Any]) -> ScalerPod | None:
    """Read a pod that answers people: on its explain port, or a front end without one on the port that KEDA calls."""
    pod, port = scaler_pod(item), parse.container_port(item, EXPLAIN_PORT_NAME)
    if pod is None or port is None:
        return pod if parse.labels(item).get(COMPONENT_LABEL) == FRONT_END else None
    return replace(pod, port=port, is_for_people=True)


async def find_scaler(api: ApiClient, scaler_address: str, namespace: str = "") -> ScalerPod:
    """Find an instance that answers KEDA.

    Args:
        api: the API server.
        scaler_address: the trigger's ``scalerAddress``, empty where it is not known.
        namespace: the namespace in which to look for pods by their label; empty for every namespace.

    Raises:
        KubeError: there is no instance, or the API server refuses to list them.
    """
    service = scaler_service(scaler_address)
    if service and service.namespace and not namespace:
        name, its_namespace = service.name, service.namespace
        _check_names(its_namespace)
        selector = f"kubernetes.io/service-name={name}"
        query = ResourceQuery("endpointslices", "discovery.k8s.io", "v1", its_namespace, selector)
        pods = _pods_of_service(await list_objects(api, query), its_namespace)
        return _best(pods, f"the Service {name} in namespace {its_namespace} (metadata.scalerAddress)")
    if namespace:
        _check_names(namespace)
    try:
        items = await list_objects(api, ResourceQuery("pods", namespace=namespace, labels=LABEL))
    except ApiError as error:
        if namespace or error.status != _FORBIDDEN:
            raise
        raise KubeError(f"{error}; name the scaler's namespace with --namespace-of-scaler") from error
    scope = f"namespace {namespace}" if namespace else "any namespace"
    return _best(_pods_by_component(items), f"a pod labelled {LABEL} in {scope}")


async def explain_port(api: ApiClient, pod: ScalerPod) -> int | None:
    """Return the port on which a pod gives explanations to people with a token; None where it has none.

    It is also None where the pod cannot be read, for which the right to get pods is needed.
    """
    try:
        item = await api.get(f"/api/v1/namespaces/{pod.namespace}/pods/{pod.pod}")
    except ApiError:
        return None
    return parse.container_port(item, EXPLAIN_PORT_NAME)


async def scaled(api: ApiClient, namespace: str, name: str) -> dict[str, Any]:
    """Return the ScaledObject of a name, or else the ScaledJob.

    Raises:
        KubeError: there is neither, or the API server refuses to return it.
    """
    _check_names(namespace, name)
    for resource in ("scaledobjects", "scaledjobs"):
        try:
            return await api.get(f"{_KEDA}/namespaces/{namespace}/{resource}/{name}")
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
    raise KubeError(
        f"{namespace}/{name}: Not found: there is no ScaledObject and no ScaledJob of this name; list them: "
        "kubectl get scaledobjects,scaledjobs -A"
    )


async def hpa(api: ApiClient, namespace: str, name: str) -> dict[str, Any] | None:
    """Return a HorizontalPodAutoscaler; None where there is none, or the API server refuses to return it."""
    _check_names(namespace, name)
    try:
        return await api.get(f"{_AUTOSCALING}/namespaces/{namespace}/horizontalpodautoscalers/{name}")
    except ApiError:
        return None


def _check_names(*names: str) -> None:
    for name in names:
        if not is_name(name):
            raise KubeError(f"{escaped(name[:80])}: Invalid value: not a valid name of a Kubernetes object")


def _best(pods: Iterable[ScalerPod], criterion: str) -> ScalerPod:
    """Choose the first ready pod, or else the first pod: it may report why it is not ready."""
    found = sorted(pods, key=lambda pod: not pod.is_ready)
    if not found:
        raise KubeError(
            f"no instance is found by {criterion}: is it installed there? List its pods: kubectl get pods -A -l "
            f"{LABEL}. Or use --address HOST:PORT"
        )
    return found[0]


def _pods_of_service(slices: Iterable[Mapping[str, Any]], namespace: str) -> Iterator[ScalerPod]:
    for one_slice in slices:
        for endpoint in parse.endpoints(one_slice):
            if is_name(endpoint.pod):
                yield ScalerPod(namespace, endpoint.pod, endpoint.port, endpoint.node, endpoint.is_ready)


def _pods_by_component(items: Iterable[Mapping[str, Any]]) -> Iterator[ScalerPod]:
    for component in COMPONENTS:
        for item in items:
            pod = scaler_pod(item)
            if pod is not None and parse.labels(item).get(COMPONENT_LABEL) == component:
                yield pod
