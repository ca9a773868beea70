# SPDX-License-Identifier: Apache-2.0
"""The cluster's workloads, the other instances and the engines, each opened on first use.

Law: nothing is opened before it is needed. KEDA calls only a few of the instances, and an HTTP client with its TLS is
a third of an instance's memory.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.counters import PeerCounts, RecentAnswer, ScrapeCounts, Watches
from keda_gpu_scaler.core.interfaces import Discovery, KubeError
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.kube.auth import ClientConfig, in_cluster, kubeconfig, service_account
from keda_gpu_scaler.peers.client import FleetClient
from keda_gpu_scaler.peers.discovery import DiscoveryError, parse_discovery
from keda_gpu_scaler.scrape.address_policy import AddressPolicy, AddressPolicyError
from keda_gpu_scaler.scrape.credentials import Credentials, CredentialsError
from keda_gpu_scaler.wire.tls import ClientTls, Pem, TlsError, own_pair

if TYPE_CHECKING:
    from keda_gpu_scaler.kube.client import ApiClient
    from keda_gpu_scaler.kube.endpointslices import EndpointSlices
    from keda_gpu_scaler.kube.events import EventRecorder
    from keda_gpu_scaler.kube.workloads import Workloads
    from keda_gpu_scaler.scrape.manager import ScrapeManager

DEFAULT_SERVICE = "keda-gpu-scaler-agents"
"""The headless service whose endpoints ``--peers kubernetes`` reads."""

_Opened = TypeVar("_Opened")


class RemoteError(Exception):
    """The settings name a cluster, peers or endpoints that cannot be used. The text is a sentence for the operator."""


class OnFirstUse(Generic[_Opened]):
    """Holds an object that is made when it is needed first. ``opened`` is None before that."""

    def __init__(self, make: Callable[[], _Opened]) -> None:
        self._make = make
        self.opened: _Opened | None = None

    def open(self) -> _Opened:
        """Return the object; the first call makes it."""
        if self.opened is None:
            self.opened = self._make()
        return self.opened


class ApiConnection:
    """The connection to the API server, which the cluster, the events and the discovery of agents share."""

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self._opening = OnFirstUse(lambda: asyncio.create_task(self._open(), name="API server"))

    async def client(self) -> "ApiClient":
        """Return the client, connected on first use.

        Raises:
            KubeError: the certificates cannot be used.
        """
        return await asyncio.shield(self._opening.open())

    async def close(self) -> None:
        """Close the connection."""
        if self._opening.opened is not None:
            [outcome] = await asyncio.gather(self._opening.opened, return_exceptions=True)
            if not isinstance(outcome, BaseException):
                await outcome.close()

    async def _open(self) -> "ApiClient":
        from keda_gpu_scaler.kube.client import ApiClient, preload

        await asyncio.get_running_loop().run_in_executor(None, preload)
        return ApiClient(self.config)


class RemoteEngines:
    """Engines and sources of demand; the first registered interest makes the scrape manager.

    Raises:
        AddressPolicyError: ``--allow-endpoints`` is invalid.
        CredentialsError: ``--endpoint-credentials`` is invalid.
    """

    def __init__(self, config: Config, clock: Callable[[], float], on_news: Callable[[], None]) -> None:
        policy = AddressPolicy(config.allow_endpoints)
        credentials = Credentials(config.endpoint_credentials)

        def make() -> "ScrapeManager":
            from keda_gpu_scaler.scrape.http_client import HttpClient
            from keda_gpu_scaler.scrape.manager import ScrapeManager

            longest = config.stale_after / 2  # with a longer interval a sample is stale before the next scrape
            return ScrapeManager(
                HttpClient(policy, credentials),
                clock=clock,
                interval_seconds=min(config.scrape_interval, longest),
                demand_interval_seconds=min(config.demand_interval, longest),
                on_news=on_news,
            )

        self._manager = OnFirstUse(make)

    @property
    def is_open(self) -> bool:
        """Whether interest was ever registered."""
        return self._manager.opened is not None

    def register_interest(
        self,
        endpoint: Endpoint,
        *,
        window_seconds: float,
        history_seconds: float = 0.0,
        selectors: tuple[SeriesSelector, ...] = (),
        demand: bool = False,
    ) -> None:
        """Have an endpoint scraped for a while."""
        self._manager.open().register_interest(
            endpoint,
            window_seconds=window_seconds,
            history_seconds=history_seconds,
            selectors=selectors,
            demand=demand,
        )

    def scrape_results(self) -> Mapping[Endpoint, ScrapeResult]:
        """Return the scrape result of every endpoint with registered interest."""
        return self._manager.opened.scrape_results() if self._manager.opened is not None else {}

    async def wait_for_sync(self, endpoints: Collection[Endpoint]) -> None:
        """Return once each of these was scraped for the first time, with or without success."""
        if self._manager.opened is not None:
            await self._manager.opened.wait_for_sync(endpoints)

    def counts(self) -> Mapping[str, ScrapeCounts]:
        """Return the number of scrapes, by engine."""
        return self._manager.opened.counts() if self._manager.opened is not None else {}

    def expire_idle(self) -> None:
        """Release the endpoints without interest."""
        if self._manager.opened is not None:
            self._manager.opened.expire_idle()

    async def close(self) -> None:
        """End all scrapes and close all connections."""
        if self._manager.opened is not None:
            await self._manager.opened.close()


class RemoteCluster:
    """The cluster's workloads; the first request opens the connection to the API server."""

    def __init__(self, api: ApiConnection, clock: Callable[[], float], on_change: Callable[[], None]) -> None:
        self._api = api
        self._clock = clock
        self._on_change = on_change
        self._opening = OnFirstUse(lambda: asyncio.create_task(self._open(), name="cluster"))
        self._workloads: Workloads | None = None
        self._unavailable = Unavailable("the connection to the API server is being opened", is_permanent=False)

    def workload(self, namespace: str, name: str) -> Workload | Unavailable:
        """Return what is known of a workload; it is watched from now on."""
        if self._workloads is not None:
            return self._workloads.workload(namespace, name)
        self._opening.open()
        return self._unavailable

    async def wait_for_sync(self, namespace: str, name: str) -> None:
        """Return once the workload was read, or found to be unreadable."""
        await asyncio.shield(self._opening.open())
        if self._workloads is not None:
            await self._workloads.wait_for_sync(namespace, name)

    def node_labels(self) -> Mapping[str, Mapping[str, str]] | Unavailable:
        """Return every node's labels by its name, or why they are unknown."""
        if self._workloads is not None:
            return self._workloads.node_labels()
        self._opening.open()
        return self._unavailable

    def watches(self) -> Watches:
        """Count the watches, by resource and state."""
        return self._workloads.watches() if self._workloads is not None else {}

    def expire_idle(self) -> None:
        """Release the workloads that were not requested for a while."""
        if self._workloads is not None:
            self._workloads.expire_idle()

    async def close(self) -> None:
        """End all watches."""
        if self._opening.opened is not None:
            self._opening.opened.cancel()
            await asyncio.gather(self._opening.opened, return_exceptions=True)
        if self._workloads is not None:
            await self._workloads.close()

    async def _open(self) -> None:
        try:
            client = await self._api.client()
        except KubeError as error:
            self._unavailable = Unavailable(str(error), is_permanent=True)
            return
        from keda_gpu_scaler.kube.workloads import Workloads

        self._workloads = Workloads(client, clock=self._clock, on_change=self._on_change)
        self._on_change()


class AgentDiscovery:
    """The agents' addresses: the endpoints of their headless service, watched on first use."""

    def __init__(self, api: ApiConnection, service: str, clock: Callable[[], float]) -> None:
        self._api = api
        self._service = service
        self._clock = clock
        self._slices: EndpointSlices | None = None

    def watches(self) -> Watches:
        """Count the watches, by resource and state."""
        return self._slices.watches() if self._slices is not None else {}

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield the addresses as ``EndpointSlices`` does."""
        from keda_gpu_scaler.kube.endpointslices import EndpointSlices

        client = await self._api.client()
        slices = self._slices = EndpointSlices(client, self._api.config.namespace, self._service, self._clock)
        async for addresses in slices.addresses():
            yield addresses


class Remote:
    """Everything outside this node: ``engines``, and ``cluster`` and ``peers``, which may be None.

    Args:
        config: the settings.
        instance: this instance's random name.
        clock: monotonic seconds.
        on_peers: called after every snapshot that a peer reports.
        on_cluster: called whenever the state of a workload has changed.
        on_engines: called whenever an engine or a source of demand reports something.

    Raises:
        RemoteError: the settings cannot work.
    """

    def __init__(
        self,
        config: Config,
        instance: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        on_peers: Callable[[], None] = lambda: None,
        on_cluster: Callable[[], None] = lambda: None,
        on_engines: Callable[[], None] = lambda: None,
    ) -> None:
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        try:
            self._api = self._api_connection(config)
            discovery = _discovery(config.peers, self._api, clock)
            self._agents = discovery if isinstance(discovery, AgentDiscovery) else None
            tls = None if discovery is None else _peers_tls(config)
            self.engines = RemoteEngines(config, clock, on_engines)
        except (KubeError, DiscoveryError, TlsError, AddressPolicyError, CredentialsError) as error:
            raise RemoteError(str(error)) from error
        self.cluster = None if self._api is None else RemoteCluster(self._api, clock, on_cluster)
        self._events = None if self._api is None else _event_recorder(self._api, config.node_name, clock)
        self.peers = None
        if discovery is not None:
            self.peers = FleetClient(
                discovery,
                instance=instance,
                clock=clock,
                sample_interval_seconds=config.sample_interval,
                stale_after_seconds=config.stale_after,
                on_news=on_peers,
                tls=tls,
            )

    @property
    def has_frequent_news(self) -> bool:
        """Whether peers or engines may report something several times a second."""
        return self.peers is not None or self.engines.is_open

    def note_answer(self, answer: RecentAnswer) -> None:
        """Have an Event written about a trigger that loses its value, or has one again.

        The event recorder is made for the first answer without a value or with unknown demand.
        """
        if self._events is None:
            return
        is_well = answer.value is not None and answer.is_demand_known is not False
        if self._events.opened is not None or not is_well:
            self._events.open().note(answer)

    def peer_counts(self) -> PeerCounts:
        """Return the number of followed instances, and the longest time that one of them has been unavailable."""
        return self.peers.counts() if self.peers is not None else PeerCounts()

    def watches(self) -> Watches:
        """Count the watches on the API server, by resource and state."""
        workloads = self.cluster.watches() if self.cluster is not None else {}
        agents = self._agents.watches() if self._agents is not None else {}
        return {**workloads, **agents}

    def expire_idle(self) -> None:
        """Release everything without interest; called regularly."""
        self.engines.expire_idle()
        if self.cluster is not None:
            self.cluster.expire_idle()
        if self.peers is not None:
            self.peers.expire_idle()

    async def close(self) -> None:
        """Close everything."""
        await self.engines.close()
        if self.peers is not None:
            await self.peers.close()
        if self._events is not None and self._events.opened is not None:
            await self._events.opened.close()
        if self.cluster is not None:
            await self.cluster.close()
        if self._api is not None:
            await self._api.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _api_connection(self, config: Config) -> ApiConnection | None:
        """Return the connection that ``--kubeconfig`` names, not opened yet.

        Raises:
            KubeError: the kubeconfig or the service account cannot be used.
        """
        if config.kubeconfig == "off" or (config.kubeconfig == "auto" and not in_cluster()):
            return None
        if config.kubeconfig == "auto":
            return ApiConnection(service_account())
        self._scratch = tempfile.TemporaryDirectory(prefix="keda-gpu-scaler-")
        return ApiConnection(kubeconfig(Path(config.kubeconfig), Path(self._scratch.name)))


def _event_recorder(api: ApiConnection, reporter: str, clock: Callable[[], float]) -> "OnFirstUse[EventRecorder]":
    def make() -> "EventRecorder":
        from keda_gpu_scaler.kube.events import EventRecorder

        return EventRecorder(api.client, reporter, clock=clock)

    return OnFirstUse(make)


def _discovery(peers: str, api: ApiConnection | None, clock: Callable[[], float]) -> Discovery | None:
    kind, _, service = peers.partition(":")
    if peers == "none" or (peers == "auto" and api is None):
        return None
    if peers in ("auto", "kubernetes") or (kind == "kubernetes" and service):
        if api is None:
            raise DiscoveryError(
                "--peers: Invalid value: kubernetes needs access to the API server: run in a pod with a service "
                "account, or name a --kubeconfig"
            )
        return AgentDiscovery(api, service or DEFAULT_SERVICE, clock)
    return parse_discovery(peers)


def _peers_tls(config: Config) -> ClientTls | None:
    """Return how the other instances are authenticated, and the certificate that this instance shows them.

    Raises:
        TlsError: a file cannot be used, or a flag that authenticates the other instances is missing.
    """
    pair = own_pair(config.tls_cert, config.tls_key)
    if pair is None:
        return None
    flag, ca = ("--tls-ca", config.tls_ca) if config.tls_ca else ("--tls-client-ca", config.tls_client_ca)
    if ca is None:
        raise TlsError(
            "--tls-ca: Required value: the other instances' certificates must be checked: name the CA that signed "
            "them, or do not follow other instances: --peers none"
        )
    if config.tls_peer_name is None and not config.peers.startswith("static:"):
        raise TlsError(
            "--tls-peer-name: Required value: the other instances are dialled by their addresses, which their "
            "certificates do not contain: set the name in them, for example keda-gpu-scaler.keda.svc.cluster.local"
        )
    tls = ClientTls(Pem(flag, Path(ca)), *pair, config.tls_peer_name)
    tls.credentials()
    return tls
