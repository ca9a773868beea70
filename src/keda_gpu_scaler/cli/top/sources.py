# SPDX-License-Identifier: Apache-2.0
"""Where does the table come from? From every instance that can be followed, or from this machine's own driver.

The law of this module: it asks the way an instance asks another, and shows what came of it. Nothing needs to be told
to anybody for it, and nobody is kept waiting.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import grpc

from keda_gpu_scaler.cli.job_environment import JobEnvironment, JobEnvironmentKind
from keda_gpu_scaler.cli.kube_session import access_of, is_configured
from keda_gpu_scaler.cli.top.rows import TopView, device_rows, origins, unheard
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.interfaces import Backend, Discovery
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.types import Device
from keda_gpu_scaler.kube.auth import ClientConfig, in_cluster
from keda_gpu_scaler.kube.podresources import DEFAULT_PATH, PodResources
from keda_gpu_scaler.peers.client import FleetClient
from keda_gpu_scaler.peers.discovery import StaticDiscovery, parse_discovery
from keda_gpu_scaler.remote import DEFAULT_SERVICE
from keda_gpu_scaler.sampler import Sampler
from keda_gpu_scaler.wire.tls import ClientTls

HERE = "127.0.0.1:6000"
"""Where an instance is looked for when nothing says where any is."""

_WINDOW_SECONDS = 10.0  # the table shows the newest readings


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where time comes from: tests bring their own."""

    monotonic: Callable[[], float] = time.monotonic
    utc: Callable[[], datetime] = lambda: datetime.now(UTC)


class FleetSource(Protocol):
    """Where a view comes from. Used in one event loop."""

    def view(self) -> TopView:
        """Return what is seen now; never waits."""

    async def wait_for_sync(self) -> None:
        """Return once everybody has told something or could not. The caller sets the deadline."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which instances are followed.

    ``addresses`` are listed ones; else ``peers`` says where they are, as for ``serve``, and where it is None the
    cluster does that can be reached, or an instance on this machine. ``namespace`` is where agents are looked for.
    """

    addresses: tuple[str, ...] = ()
    peers: str | None = None
    kubeconfig: str | None = None
    namespace: str = ""
    tls: ClientTls | None = None
    interval_seconds: float = 1.0
    stale_after_seconds: float = 10.0


# ---- the fleet ----

_FRONT_ENDS = (
    "whoever answers has no device by design, and tells nothing of others: name the agents, with --address or --peers"
)
_NOBODY = (
    "no cluster can be reached from here, so an instance on this machine was asked: name others with --address, or "
    "read this machine's own devices with --local"
)


@dataclass(frozen=True, slots=True)
class _Listing:
    """A directory, and what it says of those that it cannot list; ``is_guess`` where nothing said whom to ask."""

    discovery: Discovery
    refused: Callable[[], Mapping[str, str]] = dict
    is_guess: bool = False


class FollowedFleet:
    """Instances that are followed, as a directory lists them."""

    def __init__(self, following: FleetClient, listing: _Listing, stale_after_seconds: float, clocks: Clocks) -> None:
        self._listing = listing
        self._following = following
        self._stale_after = stale_after_seconds
        self._clocks = clocks

    def view(self) -> TopView:
        """Return what they told."""
        self._following.register_interest(_WINDOW_SECONDS)
        now = self._clocks.monotonic()
        self._following.expire_idle()
        fleet = Fleet(
            None, self._stale_after, peers=self._following.histories(), unavailable=self._following.unavailable()
        )
        unavailable = {**unheard(fleet), **self._listing.refused()}
        note = ""
        if not fleet.peers:
            note = _FRONT_ENDS if not unavailable else _NOBODY if self._listing.is_guess else ""
        rows = tuple(device_rows(fleet, now))
        return TopView(self._clocks.utc(), "fleet", rows, unavailable, (*([note] if note else ()), *origins(rows)))

    async def wait_for_sync(self) -> None:
        """Return once every instance has told something or could not."""
        self._following.register_interest(_WINDOW_SECONDS)
        await self._following.wait_for_sync()


@asynccontextmanager
async def followed(wanted: Wanted, clocks: Clocks = Clocks()) -> AsyncIterator[FollowedFleet]:
    """Follow the instances that are wanted, for as long as the block lasts.

    Raises:
        KubeError: the access to the cluster cannot be used.
        DirectoryError: ``peers`` names no directory.
        TlsError: the certificates cannot be used.
    """
    if wanted.tls is not None:
        wanted.tls.credentials()
    async with _listing(wanted, clocks) as listing:
        following = FleetClient(
            listing.discovery,
            instance=os.urandom(8).hex(),
            clock=clocks.monotonic,
            sample_interval_seconds=wanted.interval_seconds,
            stale_after_seconds=wanted.stale_after_seconds,
            tls=wanted.tls,
        )
        try:
            yield FollowedFleet(following, listing, wanted.stale_after_seconds, clocks)
        finally:
            await following.close()


@asynccontextmanager
async def _listing(wanted: Wanted, clocks: Clocks) -> AsyncIterator[_Listing]:
    if wanted.addresses:
        yield _Listing(StaticDiscovery(wanted.addresses))
        return
    kind, _, service = (wanted.peers or "").partition(":")
    if wanted.peers is not None and kind != "kubernetes":
        yield _Listing(parse_discovery(wanted.peers))
        return
    if wanted.peers is None and not is_configured(wanted.kubeconfig):
        yield _Listing(StaticDiscovery((HERE,)), is_guess=True)
        return
    with tempfile.TemporaryDirectory(prefix="keda-gpu-scaler-") as scratch:
        access = access_of(wanted.kubeconfig, Path(scratch))
        is_inside = wanted.peers is not None or (wanted.kubeconfig is None and in_cluster())
        async with _agents(access, wanted, service if is_inside else None, clocks) as listing:
            yield listing


@asynccontextmanager
async def _agents(access: ClientConfig, wanted: Wanted, service: str | None, clocks: Clocks) -> AsyncIterator[_Listing]:
    """Look for agents behind a service, which may be empty; or, where it is None, by their labels from outside."""
    from keda_gpu_scaler.kube.agent_port_forwards import AgentPortForwards
    from keda_gpu_scaler.kube.endpointslices import EndpointSlices
    from keda_gpu_scaler.kube.port_forward import PortForwarder

    api = PortForwarder(access)
    try:
        if service is None:
            agents = AgentPortForwards(api, wanted.namespace, clocks.monotonic)
            yield _Listing(agents, lambda: agents.refused)
        else:
            namespace = wanted.namespace or access.namespace
            yield _Listing(EndpointSlices(api, namespace, service or DEFAULT_SERVICE, clocks.monotonic))
    finally:
        await api.close()


# ---- this machine ----


@dataclass(slots=True)
class LocalDevices:
    """What this machine's driver shows, of which ``place`` says which are meant."""

    sampler: Sampler
    config: Config
    place: JobEnvironment
    clocks: Clocks
    kubelet: PodResources | None = None
    first: asyncio.Event = field(default_factory=asyncio.Event)

    def view(self) -> TopView:
        """Return what the driver told last."""
        now = self.clocks.monotonic()
        fleet = Fleet(
            self.sampler.history,
            self.config.stale_after,
            failure=self.sampler.failure,
            own_node=self.config.node_name,
        )
        chosen, notes = self._chosen(
            [sample.device for _, history in fleet.nodes() for sample in history.newest.samples]
        )
        rows = tuple(
            device_rows(
                fleet,
                now,
                meant=lambda device: chosen is None or device.uuid in chosen,
                holder=self.place.holder if chosen is not None and self.place.job else None,
            )
        )
        return TopView(self.clocks.utc(), str(self.place), rows, unheard(fleet), (*notes, *origins(rows)))

    async def wait_for_sync(self) -> None:
        """Return once the driver was read, or could not be."""
        await self.first.wait()

    def _chosen(self, devices: Sequence[Device]) -> tuple[frozenset[str] | None, tuple[str, ...]]:
        named = self.place.assigned
        if named is None:
            if self.place.kind in (JobEnvironmentKind.SLURM, JobEnvironmentKind.FLUX):
                return None, (f"{self.place} names no device: all that the driver shows are here",)
            return None, ()
        chosen, strange = named.choose(devices)
        notes = [f"{len(chosen)} of {len(devices)} devices are meant, by {named}"]
        if strange and devices:
            notes.append(f"{named.variable} also names {', '.join(strange)}, which the driver does not show here")
        return chosen, tuple(notes)


@asynccontextmanager
async def local(
    backend: Backend, config: Config, place: JobEnvironment, clocks: Clocks = Clocks()
) -> AsyncIterator[LocalDevices]:
    """Read this machine's devices for as long as the block lasts; the backend is closed after it."""
    loop = asyncio.get_running_loop()
    kubelet = await _kubelet(config, backend, clocks)
    asking = asyncio.create_task(kubelet.run()) if kubelet is not None else None

    def published() -> None:
        with contextlib.suppress(RuntimeError):  # a call of the driver that hung may return after the loop is closed
            loop.call_soon_threadsafe(source.first.set)

    sampler = Sampler(
        backend,
        node=config.node_name,
        interval_seconds=config.sample_interval,
        allocations=kubelet.held if kubelet is not None else lambda now: None,
        clock=clocks.monotonic,
        on_publish=published,
    )
    source = LocalDevices(sampler, config, place, clocks, kubelet)
    sampler.start()
    try:
        yield source
    finally:
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await loop.run_in_executor(None, sampler.stop)


async def _kubelet(config: Config, backend: Backend, clocks: Clocks) -> PodResources | None:
    """Return the kubelet, asked once already; None where there is none."""
    path = DEFAULT_PATH if config.pod_resources == "auto" else config.pod_resources
    if path == "off" or backend.deviceless or (config.pod_resources == "auto" and not Path(path).exists()):
        return None
    kubelet = PodResources(
        path,
        interval_seconds=config.sample_interval,
        stale_after_seconds=config.stale_after,
        clock=clocks.monotonic,
    )
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        await kubelet.list_once(channel)
    return kubelet
