# SPDX-License-Identifier: Apache-2.0
"""Scrapes engines and sources of demand at their own intervals while they are needed.

Law: a call of the manager changes no result. The number of callers does not change the interval of a target. An
endpoint without interest is released.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from keda_gpu_scaler.core.instance_status import ScrapeCounts
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.engines.layout_store import LayoutStore
from keda_gpu_scaler.scrape.endpoint_scrape import EndpointScrape, ScrapeInterest
from keda_gpu_scaler.scrape.loop import ScrapeLoop
from keda_gpu_scaler.scrape.pacing import Pacer
from keda_gpu_scaler.scrape.types import FetchedPage, OpenReader, ResolvedHost, Target

IDLE_TIMEOUT_SECONDS = 300.0
"""An endpoint without interest for this time is no longer scraped. KEDA may have a polling interval this long."""
MAX_ENDPOINTS = 20_000
_MAX_REFUSED = 1_000
_EXPIRE_INTERVAL_SECONDS = 5.0


class ScrapeClient(Protocol):
    """Resolves names and fetches pages (``scrape.http_client.HttpClient``)."""

    async def resolve(self, url: Url, namespace: str | None) -> ResolvedHost:
        """Return the addresses of the host of a URL that a trigger of a namespace names; raises FetchError."""

    async def fetch(self, target: Target, open_reader: OpenReader) -> FetchedPage:
        """Fetch the page of a target for its reader; raises FetchError, and what the reader raises."""

    def expire_idle(self) -> None:
        """Close connections that were not used recently."""

    def close(self) -> None:
        """Close every connection."""


class ScrapeManager:
    """Scrapes the endpoints in which callers register interest. It runs in one event loop.

    Args:
        client: resolves names and fetches pages; the manager closes it.
        clock: monotonic seconds.
        interval_seconds: the interval between two scrapes of an engine.
        demand_interval_seconds: the interval between two scrapes of a source of demand.
        on_news: called soon after a result changed, once for all changes of one turn of the event loop.
    """

    def __init__(
        self,
        client: ScrapeClient,
        *,
        clock: Callable[[], float] = time.monotonic,
        interval_seconds: float = 2.0,
        demand_interval_seconds: float = 0.5,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._intervals = (interval_seconds, demand_interval_seconds)
        self._on_news = on_news
        self._pacer = Pacer(clock)
        self._endpoints: dict[Endpoint, EndpointScrape] = {}
        self._results: dict[Endpoint, ScrapeResult] = {}
        self._loops: dict[Target, ScrapeLoop] = {}
        self._scrapes: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._logged_defects: set[str] = set()
        self._layouts = LayoutStore()
        self._is_news_due = False
        self._expired_at_seconds = clock()

    def register_interest(
        self,
        endpoint: Endpoint,
        *,
        window_seconds: float,
        history_seconds: float = 0.0,
        selectors: tuple[SeriesSelector, ...] = (),
        demand: bool = False,
    ) -> None:
        """Register interest in an endpoint: the window of its history, and series in addition to those of engines."""
        scrape = self._endpoints.get(endpoint)
        if scrape is None:
            if len(self._endpoints) >= MAX_ENDPOINTS:
                self._refuse(endpoint)
                return
            scrape = self._endpoints[endpoint] = self._new_scrape(endpoint)
            self._results.pop(endpoint, None)  # the endpoint may have been refused before
        scrape.add_interest(ScrapeInterest(window_seconds, selectors, self._intervals[demand], demand, history_seconds))

    def scrape_results(self) -> Mapping[Endpoint, ScrapeResult]:
        """Return the result of each endpoint with interest, as a live view."""
        return self._results

    async def wait_for_sync(self, endpoints: Collection[Endpoint]) -> None:
        """Return when each endpoint has a result and each requested series was searched for."""
        for endpoint in endpoints:
            if scrape := self._endpoints.get(endpoint):
                await scrape.synced.wait()

    def counts(self) -> Mapping[str, ScrapeCounts]:
        """Return the number of scrapes and of failures by engine."""
        return {engine: ScrapeCounts(count, self._failures[engine]) for engine, count in self._scrapes.items()}

    def expire_idle(self) -> None:
        """Release the endpoints without recent interest. The caller calls this regularly."""
        now = self._clock()
        if now - self._expired_at_seconds < _EXPIRE_INTERVAL_SECONDS:
            return
        self._expired_at_seconds = now
        for endpoint, scrape in list(self._endpoints.items()):
            if not scrape.expire_interests(now - IDLE_TIMEOUT_SECONDS):
                del self._endpoints[endpoint]
                scrape.release()
        for endpoint in self._results.keys() - self._endpoints.keys():
            del self._results[endpoint]
        self._client.expire_idle()

    async def close(self) -> None:
        """End all scrapes and close every connection."""
        await self._pacer.close()
        for scrape in self._endpoints.values():
            scrape.synced.set()
        self._client.close()

    def _refuse(self, endpoint: Endpoint) -> None:
        if len(self._results) < MAX_ENDPOINTS + _MAX_REFUSED and endpoint not in self._results:
            self._results[endpoint] = ScrapeResult(
                failure=f"{MAX_ENDPOINTS} endpoints are scraped, which is the limit of one instance"
            )

    def _new_scrape(self, endpoint: Endpoint) -> EndpointScrape:
        return EndpointScrape(
            endpoint,
            resolver=self._client,
            clock=self._clock,
            pacer=self._pacer,
            loop_of=self._loop_of,
            publish=self._publish,
        )

    def _loop_of(self, target: Target) -> ScrapeLoop:
        """Return the scrape loop of a target, which all its consumers share."""
        if target not in self._loops:
            self._loops[target] = ScrapeLoop(
                target,
                self._client,
                self._clock,
                self._pacer,
                count=self._count,
                on_unused=self._remove_loop,
                logged_defects=self._logged_defects,
                layouts=self._layouts,
            )
        return self._loops[target]

    def _publish(self, endpoint: Endpoint, result: ScrapeResult) -> None:
        is_news = self._results.get(endpoint) != result
        self._results[endpoint] = result
        if is_news and not self._is_news_due:
            self._is_news_due = True
            asyncio.get_running_loop().call_soon(self._announce)

    def _announce(self) -> None:
        self._is_news_due = False
        self._on_news()

    def _count(self, engine: str, is_failure: bool) -> None:
        self._scrapes[engine] += 1
        self._failures[engine] += is_failure

    def _remove_loop(self, loop: ScrapeLoop) -> None:
        if self._loops.get(loop.target) is loop:
            del self._loops[loop.target]
