# SPDX-License-Identifier: Apache-2.0
"""The other instances, which this one follows after the first registered interest."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.instance_status import PeerCounts
from keda_gpu_scaler.core.interfaces import Discovery
from keda_gpu_scaler.core.state.fleet import History
from keda_gpu_scaler.peers.discovery import DiscoveryError, parse_discovery
from keda_gpu_scaler.remote.cluster import AgentDiscovery, ApiConnection
from keda_gpu_scaler.remote.on_first_use import OnFirstUse
from keda_gpu_scaler.wire.tls import ClientTls, Pem, TlsError, own_pair

if TYPE_CHECKING:
    from keda_gpu_scaler.peers.client import FleetClient

DEFAULT_SERVICE = "keda-gpu-scaler-agents"
"""The headless service whose endpoints ``--peers kubernetes`` reads."""


class RemotePeers:
    """The other instances; the first registered interest makes the client that follows them.

    Args:
        discovery: lists their addresses.
        config: the settings.
        instance: this instance's random name.
        clock: monotonic seconds.
        on_news: called after every snapshot that a peer reports.

    Raises:
        TlsError: the certificates between instances cannot be used.
    """

    def __init__(
        self,
        discovery: Discovery,
        config: Config,
        instance: str,
        clock: Callable[[], float],
        on_news: Callable[[], None],
    ) -> None:
        tls = _peers_tls(config)

        def make() -> "FleetClient":
            from keda_gpu_scaler.peers.client import FleetClient

            return FleetClient(
                discovery,
                instance=instance,
                clock=clock,
                sample_interval_seconds=config.sample_interval,
                stale_after_seconds=config.stale_after,
                on_news=on_news,
                tls=tls,
            )

        self._client = OnFirstUse(make)

    @property
    def is_open(self) -> bool:
        """Whether interest was ever registered."""
        return self._client.opened is not None

    def register_interest(self, window_seconds: float, *, performance: bool = False) -> None:
        """Follow every peer for a while, and keep at least this much of each peer's history."""
        self._client.open().register_interest(window_seconds, performance=performance)

    def histories(self) -> Mapping[str, History]:
        """Return the peers' histories by node. The mapping is live after interest was registered."""
        return self._client.opened.histories() if self._client.opened is not None else {}

    def unavailable(self) -> Mapping[str, str]:
        """Return the unavailable peers and the reasons. The mapping is live after interest was registered."""
        return self._client.opened.unavailable() if self._client.opened is not None else {}

    def counts(self) -> PeerCounts:
        """Return the number of followed instances, and the longest time that one of them has been unavailable."""
        return self._client.opened.counts() if self._client.opened is not None else PeerCounts()

    async def wait_for_sync(self) -> None:
        """Return once discovery has answered and every peer has sent a snapshot or an error."""
        if self._client.opened is not None:
            await self._client.opened.wait_for_sync()

    def expire_idle(self) -> None:
        """Stop following if no interest was registered for a while."""
        if self._client.opened is not None:
            self._client.opened.expire_idle()

    async def close(self) -> None:
        """Close all connections."""
        if self._client.opened is not None:
            await self._client.opened.close()


def discovery(peers: str, api: ApiConnection | None, clock: Callable[[], float]) -> Discovery | None:
    """Return the discovery that ``--peers`` names, None for no peers.

    Raises:
        DiscoveryError: the value is invalid, or needs the API server and there is no connection to it.
    """
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
