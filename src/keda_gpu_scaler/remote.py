# SPDX-License-Identifier: Apache-2.0
"""What is beyond this node? The cluster's workloads, the other instances and engines, as soon as somebody asks.

The law of this module: nothing is opened before the first question. Most instances are never asked, and an HTTP
client with its TLS is a third of what they weigh.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.interfaces import Discovery, KubeError, PeerCounts, RecentAnswer, ScrapeCounts, Watches
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
"""The headless service behind which ``kubernetes`` looks for the agents."""


class RemoteError(Exception):
    """The settings name a cluster or peers that cannot be used; the text is a sentence for a person."""


class Remote:
    """What an instance may ask beyond its own node: ``engines``, and ``cluster`` and ``peers``, which may be None.

    Args:
        config: the settings.
        instance: this instance's random name.
        clock: monotonic seconds.
        on_peers: called after every snapshot that a peer told.
        on_cluster: called whenever a workload's answer has changed.
        on_engines: called whenever an engine or a source of demand told something.

    Raises:
        OutlookError: the settings cannot work.
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
        self._scratch = None
        if config.kubeconfig not in ("auto", "off"):
            self._scratch = tempfile.TemporaryDirectory(prefix="keda-gpu-scaler-")
        try:
            access = self._access(config)
            api = None if access is None else _Api(access)
            discovery = _directory(config.peers, api, clock)
            self._agents = discovery if isinstance(discovery, _LazyAgents) else None
            tls = None if discovery is None else _peers_tls(config)
            self.engines = LazyEngines(config, clock, on_engines)
        except (KubeError, DiscoveryError, TlsError, AddressPolicyError, CredentialsError) as error:
            raise RemoteError(str(error)) from error
        self.cluster = None if api is None else LazyCluster(api, clock, on_cluster)
        self._events = None if api is None else _LazyEvents(api, config.node_name, clock)
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
    def is_talkative(self) -> bool:
        """Whether something out there may tell news all the time."""
        return self.peers is not None or self.engines.is_open

    def answered(self, answer: RecentAnswer) -> None:
        """Tell the cluster, now and then, what becomes of a trigger."""
        if self._events is not None:
            self._events.note(answer)

    def peer_counts(self) -> PeerCounts:
        """Return how many instances are followed, and how silent they are."""
        return self.peers.counts() if self.peers is not None else PeerCounts()

    def watches(self) -> Watches:
        """Count what is watched on the API server, by resource and state."""
        workloads = self.cluster.watches() if self.cluster is not None else {}
        agents = self._agents.watches() if self._agents is not None else {}
        return {**workloads, **agents}

    def expire_idle(self) -> None:
        """Let go of what nobody needs any more; to be called now and then."""
        self.engines.expire_idle()
        if self.cluster is not None:
            self.cluster.expire_idle()
        if self.peers is not None:
            self.peers.expire_idle()

    async def close(self) -> None:
        """Let go of everything."""
        await self.engines.close()
        if self.peers is not None:
            await self.peers.close()
        if self._events is not None:
            await self._events.close()
        if self.cluster is not None:
            await self.cluster.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _access(self, config: Config) -> ClientConfig | None:
        if config.kubeconfig == "off":
            return None
        if config.kubeconfig == "auto":
            return service_account() if in_cluster() else None
        assert self._scratch is not None  # noqa: S101 - made for just this
        return kubeconfig(Path(config.kubeconfig), Path(self._scratch.name))


class LazyEngines:
    """Engines and sources of demand, scraped from the first question on."""

    def __init__(self, config: Config, clock: Callable[[], float], on_news: Callable[[], None]) -> None:
        self._guard = AddressPolicy(config.allow_endpoints)
        self._credentials = Credentials(config.endpoint_credentials)
        self._config = config
        self._clock = clock
        self._on_news = on_news
        self._scraping: ScrapeManager | None = None

    @property
    def is_open(self) -> bool:
        """Whether anything was ever asked."""
        return self._scraping is not None

    def register_interest(
        self,
        endpoint: Endpoint,
        *,
        window_seconds: float,
        selectors: tuple[SeriesSelector, ...] = (),
        demand: bool = False,
    ) -> None:
        """Say that somebody needs an endpoint; the first time begins to scrape."""
        if self._scraping is None:
            self._scraping = self._open()
        self._scraping.register_interest(endpoint, window_seconds=window_seconds, selectors=selectors, demand=demand)

    def scrape_results(self) -> Mapping[Endpoint, ScrapeResult]:
        """Return what came of every endpoint that is asked for."""
        return self._scraping.scrape_results() if self._scraping is not None else {}

    async def wait_for_sync(self, endpoints: Collection[Endpoint]) -> None:
        """Return once each of these has told something or was found not to."""
        if self._scraping is not None:
            await self._scraping.wait_for_sync(endpoints)

    def counts(self) -> Mapping[str, ScrapeCounts]:
        """Return how many scrapes there were."""
        return self._scraping.counts() if self._scraping is not None else {}

    def expire_idle(self) -> None:
        """Let go of what nobody needs any more."""
        if self._scraping is not None:
            self._scraping.expire_idle()

    async def close(self) -> None:
        """Let go of everything."""
        if self._scraping is not None:
            await self._scraping.close()

    def _open(self) -> "ScrapeManager":
        from keda_gpu_scaler.scrape.http_client import HttpClient
        from keda_gpu_scaler.scrape.manager import ScrapeManager

        return ScrapeManager(
            HttpClient(self._guard, self._credentials),
            clock=self._clock,
            # Less often, and what was told would be stale before the next scrape.
            interval_seconds=min(self._config.scrape_interval, self._config.stale_after / 2),
            demand_interval_seconds=min(self._config.demand_interval, self._config.stale_after / 2),
            on_news=self._on_news,
        )


class LazyCluster:
    """A cluster that is connected to by the first question."""

    def __init__(self, api: "_Api", clock: Callable[[], float], on_change: Callable[[], None]) -> None:
        self._api = api
        self._clock = clock
        self._on_change = on_change
        self._workloads: Workloads | None = None
        self._opening: asyncio.Task[None] | None = None
        self._failure: Unavailable | None = None

    def workload(self, namespace: str, name: str) -> Workload | Unavailable:
        """Return what is known of a workload; the first question opens the connection."""
        if self._workloads is not None:
            return self._workloads.workload(namespace, name)
        return self._not_open()

    async def wait_for_sync(self, namespace: str, name: str) -> None:
        """Return once there is an answer of substance."""
        self._not_open()
        if self._opening is not None:
            await asyncio.shield(self._opening)
        if self._workloads is not None:
            await self._workloads.wait_for_sync(namespace, name)

    def node_labels(self) -> Mapping[str, Mapping[str, str]] | Unavailable:
        """Return every node's labels by its name, or why they are unknown."""
        return self._workloads.node_labels() if self._workloads is not None else self._not_open()

    def watches(self) -> Watches:
        """Count what is watched, by resource and state."""
        return self._workloads.watches() if self._workloads is not None else {}

    def expire_idle(self) -> None:
        """Let go of what nobody needs any more."""
        if self._workloads is not None:
            self._workloads.expire_idle()

    async def close(self) -> None:
        """Let go of everything."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._workloads is not None:
            await self._workloads.close()
        await self._api.close()

    def _not_open(self) -> Unavailable:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="cluster")
        return self._failure or Unavailable("the connection to the API server is being opened", is_permanent=False)

    async def _open(self) -> None:
        try:
            api = await self._api.opened()
        except KubeError as error:
            self._failure = Unavailable(str(error), is_permanent=True)
            return
        from keda_gpu_scaler.kube.workloads import Workloads

        self._workloads = Workloads(api, clock=self._clock, on_change=self._on_change)
        self._on_change()


class _LazyEvents:
    """Events about ScaledObjects, from the first trigger on that cannot be answered."""

    def __init__(self, api: "_Api", reporter: str, clock: Callable[[], float]) -> None:
        self._api = api
        self._reporter = reporter
        self._clock = clock
        self._events: EventRecorder | None = None

    def note(self, answer: RecentAnswer) -> None:
        """Look at an answer; the first that lacks something begins to be remembered."""
        if self._events is None:
            if answer.value is not None and answer.is_demand_known is not False:
                return
            from keda_gpu_scaler.kube.events import EventRecorder

            self._events = EventRecorder(self._api.opened, self._reporter, clock=self._clock)
        self._events.note(answer)

    async def close(self) -> None:
        """Write nothing any more."""
        if self._events is not None:
            await self._events.close()


class _Api:
    """The API server, opened once by whoever comes first."""

    def __init__(self, access: ClientConfig) -> None:
        self.access = access
        self._opening: asyncio.Task[ApiClient] | None = None

    async def opened(self) -> "ApiClient":
        """Return the connection.

        Raises:
            KubeError: it cannot be made with these certificates.
        """
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="API server")
        return await asyncio.shield(self._opening)

    async def close(self) -> None:
        if self._opening is not None:
            [outcome] = await asyncio.gather(self._opening, return_exceptions=True)
            if not isinstance(outcome, BaseException):
                await outcome.close()

    async def _open(self) -> "ApiClient":
        # In a thread: compiling and running so many modules takes as long as a few hundred answers.
        from keda_gpu_scaler.kube.client import ApiClient, preload

        await asyncio.get_running_loop().run_in_executor(None, preload)
        return ApiClient(self.access)


class _LazyAgents:
    """The agents' endpoints, read from the API server once somebody looks."""

    def __init__(self, api: _Api, service: str, clock: Callable[[], float]) -> None:
        self._api = api
        self._service = service
        self._clock = clock
        self._slices: EndpointSlices | None = None

    def watches(self) -> Watches:
        """Count what is watched, by resource and state."""
        return self._slices.watches() if self._slices is not None else {}

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield them as ``EndpointSlices`` does."""
        from keda_gpu_scaler.kube.endpointslices import EndpointSlices

        slices = self._slices = EndpointSlices(
            await self._api.opened(), self._api.access.namespace, self._service, self._clock
        )
        async for addresses in slices.addresses():
            yield addresses


def _directory(peers: str, api: _Api | None, clock: Callable[[], float]) -> Discovery | None:
    kind, _, service = peers.partition(":")
    if peers == "none" or (peers == "auto" and api is None):
        return None
    if peers in ("auto", "kubernetes") or (kind == "kubernetes" and service):
        if api is None:
            raise DiscoveryError(
                "--peers: Invalid value: kubernetes needs access to the API server: run in a pod with a service "
                "account, or name a --kubeconfig"
            )
        return _LazyAgents(api, service or DEFAULT_SERVICE, clock)
    return parse_discovery(peers)


def _peers_tls(config: Config) -> ClientTls | None:
    """Tell by what the other instances are known, and what they are shown.

    Raises:
        TlsError: a file cannot be used, or nothing says by what to know them.
    """
    pair = own_pair(config.tls_cert, config.tls_key)
    if pair is None:
        return None
    flag, ca = ("--tls-ca", config.tls_ca) if config.tls_ca else ("--tls-client-ca", config.tls_client_ca)
    if ca is None:
        raise TlsError(
            "--tls-ca: Required value: the other instances' certificates must be checked: name the CA that signed "
            "them, or do without their view with --peers none"
        )
    if config.tls_peer_name is None and not config.peers.startswith("static:"):
        raise TlsError(
            "--tls-peer-name: Required value: the other instances are dialled by their addresses, which no certificate "
            "bears: name what theirs do bear, for example keda-gpu-scaler.keda.svc.cluster.local"
        )
    tls = ClientTls(Pem(flag, Path(ca)), *pair, config.tls_peer_name)
    tls.credentials()
    return tls
