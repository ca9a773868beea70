# SPDX-License-Identifier: Apache-2.0
"""Describes the installation that ``doctor --cluster`` checks, and the state that its checks share."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keda_gpu_scaler.cli.cluster_error import NOT_ACCEPTED
from keda_gpu_scaler.cli.doctor.findings import Finding, Heading, problem, skipped
from keda_gpu_scaler.kube.access_review import AccessReviewer
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.parse import part
from keda_gpu_scaler.kube.scaler_discovery import DEFAULT_PORT, ScalerService, scaler_service
from keda_gpu_scaler.wire.tls import ClientTls

MAX_CLOCK_DIFFERENCE_SECONDS = 5.0
"""A larger difference of two clocks is a warning: the ages of pods depend on it, in tens of seconds."""
UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404


@dataclass(frozen=True, slots=True)
class Installation:
    """The names that the chart uses: ``service`` is its fullname. ``workload_namespaces`` is empty for all of them."""

    namespace: str = "keda"
    service: str = "keda-gpu-scaler"
    cluster_domain: str = "cluster.local"
    workload_namespaces: tuple[str, ...] = ()

    @property
    def agent_service(self) -> str:
        """The headless Service of the agents."""
        return f"{self.service}-agents"

    @property
    def host(self) -> str:
        """The host of a scalerAddress."""
        return f"{self.service}.{self.namespace}.svc.{self.cluster_domain}"

    @property
    def run_in_pod(self) -> str:
        """The remedy of a check that needs a pod: how to run the command in one."""
        exec_ = f"kubectl -n {self.namespace} exec svc/{self.service}"
        return f"run it in a pod: {exec_} -- keda-gpu-scaler doctor --cluster"

    def is_named_by(self, address: str, service: str) -> bool:
        """Whether a scalerAddress names this Service; without a namespace it names one of KEDA's own namespace."""
        return scaler_service(address) in (ScalerService(service), ScalerService(service, self.namespace))


async def _system_resolver(host: str) -> Sequence[str]:
    """Resolve a host with the system's resolver.

    Raises:
        OSError: the host cannot be resolved.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How the checks reach the instances; tests replace parts of it.

    ``is_in_cluster`` says whether this process runs in a pod of the cluster. ``port`` is the Service's.
    """

    is_in_cluster: bool
    tls: ClientTls | None = None
    stale_after_seconds: float = 10.0
    unix_clock: Callable[[], float] = time.time
    resolve: Callable[[str], Awaitable[Sequence[str]]] = _system_resolver
    port: int = DEFAULT_PORT


@dataclass(slots=True)
class ClusterContext:
    """The state that the checks of a cluster share. A check can use the results of an earlier one.

    ``is_reachable`` is False after the API server did not answer. ``scaled_objects`` are those that name this
    installation. ``agents`` are the nodes of the agents by address, None until they are known.
    """

    api: AccessReviewer
    server: str
    installation: Installation
    options: ClusterOptions
    is_reachable: bool = True
    scaled_objects: list[Mapping[str, Any]] = field(default_factory=list)
    agents: Mapping[str, str] | None = None


def list_error(check: str, objects: str, error: ApiError) -> Finding:
    """Return the finding about objects that cannot be listed."""
    if error.status == UNAUTHORIZED:
        return problem(check, str(error), NOT_ACCEPTED, Heading.FORBIDDEN)
    if error.status != FORBIDDEN:
        return problem(check, str(error), "see the API server's log", Heading.UNAVAILABLE)
    remedy = "use an account that may read them: --kubeconfig PATH"
    if objects == "ScaledObjects":
        remedy += ", or name their namespaces with --workloads-in"
    return skipped(check, f"you may not list {objects} here", remedy, Heading.FORBIDDEN)


def object_name(item: Mapping[str, Any]) -> str:
    """Return an object's "namespace/name"."""
    metadata = part(item, "metadata")
    return f"{metadata.get('namespace')}/{metadata.get('name')}"


def clock_difference(ahead_seconds: float) -> str:
    """Return how far a clock is ahead of another or behind it."""
    return f"{abs(ahead_seconds):.0f} s {'ahead of' if ahead_seconds > 0 else 'behind'}"
