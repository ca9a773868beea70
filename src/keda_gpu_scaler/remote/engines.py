# SPDX-License-Identifier: Apache-2.0
"""The scrapes of engines and sources of demand, which begin with the first registered interest."""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.instance_status import ScrapeCounts
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.remote.on_first_use import OnFirstUse

if TYPE_CHECKING:
    from keda_gpu_scaler.scrape.address_policy import AddressPolicy
    from keda_gpu_scaler.scrape.credentials import Credentials
    from keda_gpu_scaler.scrape.manager import ScrapeClient, ScrapeManager
    from keda_gpu_scaler.scrape.playback import Playback


_RESOLVER_CONFIGURATION = Path("/etc/resolv.conf")


class EndpointSettingsError(Exception):
    """A setting of the endpoints is invalid. The message names the flag and the remedy."""


class RemoteEngines:
    """Engines and sources of demand; the first registered interest makes the scrape manager.

    Args:
        config: the settings.
        clock: monotonic seconds.
        on_news: called whenever an engine or a source of demand reports something.
        playback: the recording that takes the place of the network; None to scrape.
        pod_addresses: returns the addresses of the watched pods of a namespace.
        api_server: the URL of the API server, which is never scraped.

    Raises:
        EndpointSettingsError: ``--allow-endpoints`` or ``--endpoint-credentials`` is invalid.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float],
        on_news: Callable[[], None],
        playback: "Playback | None" = None,
        *,
        pod_addresses: Callable[[str], Collection[str]] = lambda namespace: (),
        api_server: str | None = None,
    ) -> None:
        self._rules = OnFirstUse(lambda: _rules(config, api_server))
        if config.allow_endpoints is not None or config.endpoint_credentials is not None:
            self._rules.open()  # so that an invalid setting is an error at start

        def make() -> "ScrapeManager":
            from keda_gpu_scaler.scrape.manager import ScrapeManager

            longest = config.stale_after / 2  # with a longer interval a sample is stale before the next scrape
            client, interval = _client(config, self._rules, clock, playback, pod_addresses)
            return ScrapeManager(
                client,
                clock=clock,
                interval_seconds=min(interval, longest),
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

    def reload(self) -> None:
        """Read the mounted credentials that have changed."""
        if self._rules.opened is not None:
            _, credentials = self._rules.opened
            credentials.refresh()

    async def close(self) -> None:
        """End all scrapes and close all connections."""
        if self._manager.opened is not None:
            await self._manager.opened.close()


def _client(
    config: Config,
    rules: "OnFirstUse[tuple[AddressPolicy, Credentials]]",
    clock: Callable[[], float],
    playback: "Playback | None",
    pod_addresses: Callable[[str], Collection[str]],
) -> "tuple[ScrapeClient, float]":
    """Return the client that fetches pages, and the interval of its scrapes. The modules are imported here."""
    if playback is None:
        from keda_gpu_scaler.scrape.http_client import HttpClient
        from keda_gpu_scaler.scrape.ownership import Ownership, cluster_domain

        ownership = Ownership(pod_addresses, cluster_domain(_resolver_configuration()))
        client = HttpClient(*rules.open(), ownership=ownership, timeout_seconds=config.scrape_timeout)
        return client, config.scrape_interval
    from keda_gpu_scaler.scrape.replay_client import SCRAPE_SHARE, ReplayClient

    return ReplayClient(playback, clock), SCRAPE_SHARE * playback.recording.interval_seconds


def _rules(config: Config, api_server: str | None) -> "tuple[AddressPolicy, Credentials]":
    """Return the addresses that may be scraped, and the credentials for them. The modules are imported here.

    Raises:
        EndpointSettingsError: a setting is invalid.
    """
    from keda_gpu_scaler.scrape.address_policy import AddressPolicy, AddressPolicyError
    from keda_gpu_scaler.scrape.credentials import Credentials, CredentialsError

    try:
        policy = AddressPolicy(config.allow_endpoints, api_servers=_api_servers(api_server))
        return policy, Credentials(config.endpoint_credentials)
    except (AddressPolicyError, CredentialsError) as error:
        raise EndpointSettingsError(str(error)) from error


def _api_servers(url: str | None) -> list[tuple[str, int]]:
    """Return the address and port of the API server, from its URL and from the environment of a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    parts = urlsplit(url or "")
    found = [(parts.hostname or "", parts.port or 443), (host, int(port) if port.isdigit() else 443)]
    return [entry for entry in found if entry[0]]


def _resolver_configuration() -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _RESOLVER_CONFIGURATION.read_text()
    return ""
