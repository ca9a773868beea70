# SPDX-License-Identifier: Apache-2.0
"""Follows instances of the scaler, and returns the readings of their devices.

Law: the command follows an instance as the instances follow each other. Reading the readings never waits.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from keda_gpu_scaler.cli.kube_session import access_of, is_configured, is_own_pod
from keda_gpu_scaler.cli.pace import Timing
from keda_gpu_scaler.cli.people_port import PersonalToken, token_for
from keda_gpu_scaler.cli.top.rows import FleetReadings, device_rows, unavailable_instances, unmeasured_sources
from keda_gpu_scaler.cli.top.workload_client import ListedAddresses, WorkloadClient, asked_workloads
from keda_gpu_scaler.cli.top.workload_rows import WorkloadRow
from keda_gpu_scaler.core.interfaces import Discovery
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.peers.client import FleetClient
from keda_gpu_scaler.peers.discovery import StaticDiscovery, parse_discovery
from keda_gpu_scaler.remote.peers import DEFAULT_SERVICE
from keda_gpu_scaler.wire.tls import ClientTls

LOCAL_INSTANCE = "127.0.0.1:6000"
"""The address that is followed where neither a flag nor a cluster names another."""

_AGENTS_SUFFIX = "-agents"  # of the headless Service of the agents; the one that KEDA calls has none
_WINDOW_SECONDS = 10.0  # the table shows the newest readings only
_NOTE_FRONT_END = (
    "the instance has no device by design, and does not forward the snapshots of others: name the agents with "
    "--address or --peers"
)
_NOTE_LOCAL_INSTANCE = (
    "no cluster is configured here, so the command called an instance on this machine: name other instances with "
    "--address, or read this machine's own devices with --local"
)


class FleetSource(Protocol):
    """A source of readings. It is used in one event loop."""

    def readings(self) -> FleetReadings:
        """Return the newest readings, without waiting."""

    async def wait_for_sync(self) -> None:
        """Return after each instance has sent a snapshot or is unavailable. The caller sets the deadline."""

    async def wait_for_workloads(self) -> None:
        """Return after the instances have listed their workloads, or did not answer. The caller sets the deadline."""


@dataclass(frozen=True, slots=True)
class FleetSelection:
    """The instances to follow.

    ``addresses`` lists them. Without it, ``peers`` finds them, with a value as for ``serve``. Without both, they are
    the agents of the configured cluster, in ``namespace`` or in every one; or an instance on this machine, where no
    cluster is configured. ``token`` is that of ``--token-file``.
    """

    addresses: tuple[str, ...] = ()
    peers: str | None = None
    kubeconfig: str | None = None
    context: str | None = None
    namespace: str = ""
    tls: ClientTls | None = None
    interval_seconds: float = 1.0
    stale_after_seconds: float = 10.0
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class InstanceList:
    """A discovery, and the instances that it cannot list, with the reason.

    ``is_default`` says that no flag and no cluster named the instances. ``front_ends`` finds the instances that KEDA
    calls where there are such; None where the instances are named. ``token`` returns the token of the person for an
    address, empty for none; or raises KubeError.
    """

    discovery: Discovery
    refused: Callable[[], Mapping[str, str]] = dict
    is_default: bool = False
    front_ends: Discovery | None = None
    token: Callable[[str], str] = lambda _: ""


class FollowedFleet:
    """The readings of the instances that a discovery finds."""

    def __init__(
        self,
        client: FleetClient,
        instances: InstanceList,
        stale_after_seconds: float,
        timing: Timing,
        workloads: WorkloadClient | None = None,
    ) -> None:
        self._instances = instances
        self._client = client
        self._stale_after_seconds = stale_after_seconds
        self._timing = timing
        self._workloads = workloads

    def readings(self) -> FleetReadings:
        """Return the newest readings that the instances sent."""
        self._client.register_interest(_WINDOW_SECONDS)
        now = self._timing.monotonic()
        self._client.expire_idle()
        fleet = Fleet(
            None, self._stale_after_seconds, peers=self._client.histories(), unavailable=self._client.unavailable()
        )
        unavailable = {**unavailable_instances(fleet), **self._instances.refused()}
        note = ""
        if not fleet.peers:
            note = _NOTE_FRONT_END if not unavailable else _NOTE_LOCAL_INSTANCE if self._instances.is_default else ""
        rows = tuple(device_rows(fleet, now))
        notes = (*([note] if note else ()), *unmeasured_sources(rows))
        workloads: tuple[WorkloadRow, ...] = ()
        if self._workloads is not None:
            workloads = self._workloads.rows()
            if not workloads and (reason := next(iter(self._workloads.unavailable.values()), "")):
                notes = (*notes, f"the workloads are not known: {reason}")
        return FleetReadings(self._timing.utc(), "fleet", rows, unavailable, notes, workloads)

    async def wait_for_sync(self) -> None:
        """Return after every instance has sent a snapshot or is unavailable."""
        self._client.register_interest(_WINDOW_SECONDS)
        await self._client.wait_for_sync()

    async def wait_for_workloads(self) -> None:
        """Return after the instances that answer KEDA have listed their workloads, or have not answered."""
        self._client.register_interest(_WINDOW_SECONDS)
        if self._workloads is not None:
            await self._workloads.is_synced.wait()


@asynccontextmanager
async def followed_fleet(selection: FleetSelection, timing: Timing) -> AsyncIterator[FollowedFleet]:
    """Follow the selected instances, for the time of the block.

    Raises:
        KubeError: the access to the cluster cannot be used.
        DiscoveryError: ``peers`` names no discovery.
        TlsError: the certificates cannot be used.
    """
    if selection.tls is not None:
        selection.tls.credentials()
    async with _instances(selection, timing) as instances:
        agents = ListedAddresses(instances.discovery)
        client = FleetClient(
            agents,
            instance=os.urandom(8).hex(),
            clock=timing.monotonic,
            sample_interval_seconds=selection.interval_seconds,
            stale_after_seconds=selection.stale_after_seconds,
            tls=selection.tls,
        )
        front_ends = ListedAddresses(instances.front_ends) if instances.front_ends is not None else None
        try:
            async with asked_workloads(agents, front_ends, selection.tls, instances.token) as workloads:
                yield FollowedFleet(client, instances, selection.stale_after_seconds, timing, workloads)
        finally:
            await client.close()


@asynccontextmanager
async def _instances(selection: FleetSelection, timing: Timing) -> AsyncIterator[InstanceList]:
    if selection.addresses:
        yield InstanceList(StaticDiscovery(selection.addresses), token=lambda _: selection.token)
        return
    kind, _, service = (selection.peers or "").partition(":")
    if selection.peers is not None and kind != "kubernetes":
        yield InstanceList(parse_discovery(selection.peers))
        return
    if selection.peers is None and not is_configured(selection.kubeconfig, selection.context):
        yield InstanceList(StaticDiscovery((LOCAL_INSTANCE,)), is_default=True)
        return
    with tempfile.TemporaryDirectory(prefix="keda-gpu-scaler-") as scratch:
        access = access_of(selection.kubeconfig, Path(scratch), selection.context)
        is_direct = selection.peers is not None or is_own_pod(selection.kubeconfig, selection.context)
        async with _cluster_agents(access, selection, service if is_direct else None, timing) as instances:
            yield instances


@asynccontextmanager
async def _cluster_agents(
    access: ClientConfig, selection: FleetSelection, service: str | None, timing: Timing
) -> AsyncIterator[InstanceList]:
    """List the agents of a cluster.

    Args:
        access: the API server.
        selection: the namespace of the agents.
        service: the Service whose endpoints are followed directly, empty for the default one; None to find the agents
            by their labels and to follow them through port-forwards.
        timing: the clocks.
    """
    from keda_gpu_scaler.kube.agent_port_forwards import ANSWERING, FRONT_ENDS, AgentPortForwards
    from keda_gpu_scaler.kube.endpointslices import EndpointSlices
    from keda_gpu_scaler.kube.port_forward import PortForwarder
    from keda_gpu_scaler.kube.scaler_discovery import pod_for_people, scaler_pod

    api = PortForwarder(access)
    try:
        if service is None:
            agents = AgentPortForwards(api, selection.namespace, timing.monotonic)
            # With certificates a person calls the port of the instances.
            labels, read = (ANSWERING, pod_for_people) if selection.tls is None else (FRONT_ENDS, scaler_pod)
            called = AgentPortForwards(api, selection.namespace, timing.monotonic, labels, read)
            own = PersonalToken(selection.namespace, "--namespace", selection.token, access.bearer_token)

            def token(address: str) -> str:
                pod = called.pods().get(address)
                return token_for(pod, own) if pod is not None and pod.is_for_people else ""

            yield InstanceList(agents, lambda: agents.refused, front_ends=called, token=token)
        else:
            namespace = selection.namespace or access.namespace
            agents_service = service or DEFAULT_SERVICE
            asked = EndpointSlices(api, namespace, agents_service.removesuffix(_AGENTS_SUFFIX), timing.monotonic)
            slices = EndpointSlices(api, namespace, agents_service, timing.monotonic)
            yield InstanceList(slices, front_ends=asked if agents_service.endswith(_AGENTS_SUFFIX) else None)
    finally:
        await api.close()
