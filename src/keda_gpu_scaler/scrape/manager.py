# SPDX-License-Identifier: Apache-2.0
"""What do engines and sources of demand tell now? Pages are scraped on our own clock while somebody needs them.

The law of this module: asking changes nothing that is told; whoever asks and however often, a page is scraped at its
own pace, and what nobody asks for any more is let go.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from keda_gpu_scaler.core.counters import ScrapeCounts
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.http_client import FetchedPage, Target
from keda_gpu_scaler.scrape.loop import ScrapeLoop
from keda_gpu_scaler.scrape.pacing import Pacer
from keda_gpu_scaler.scrape.targets import PodTargets, Targets, UrlTargets

IDLE_TIMEOUT_SECONDS = 300.0
"""What nobody has asked for during so long is scraped no more: KEDA may look as seldom as that."""
MAX_ENDPOINTS = 20_000
MAX_NEEDS = 1_000
"""So many windows and series are kept for one endpoint; of more nothing is told."""
_MAX_REFUSED = 1_000
_TIDY_SECONDS = 5.0

_log = logging.getLogger(__name__)


class ScrapeClient(Protocol):
    """What gets pages (``engines.fetch.Fetcher``)."""

    async def resolve(self, url: Url) -> tuple[str, ...]:
        """Return the addresses of a URL's host; raises FetchError."""

    async def fetch(self, target: Target) -> FetchedPage:
        """Get a page; raises FetchError."""

    def expire_idle(self) -> None:
        """Close what is idle."""

    def close(self) -> None:
        """Close everything."""


class ScrapeManager:
    """Scrapes what is asked for. Everything happens in one event loop.

    Args:
        fetcher: gets pages; closed with this.
        clock: monotonic seconds.
        interval_seconds: between two scrapes of an engine.
        demand_interval_seconds: between two looks at a source of demand.
        on_news: called soon after something was told that is new, once however much it is.
    """

    def __init__(
        self,
        fetcher: ScrapeClient,
        *,
        clock: Callable[[], float] = time.monotonic,
        interval_seconds: float = 2.0,
        demand_interval_seconds: float = 0.5,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._intervals = (interval_seconds, demand_interval_seconds)
        self._on_news = on_news
        self._schedule = Pacer(clock)
        self._asked: dict[Endpoint, _EndpointScrape] = {}
        self._scraped: dict[Endpoint, ScrapeResult] = {}
        self._scrapers: dict[Target, ScrapeLoop] = {}
        self._scrapes: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._defects: set[str] = set()
        self._is_news_due = False
        self._tidied_at_seconds = clock()

    def register_interest(
        self,
        endpoint: Endpoint,
        *,
        window_seconds: float,
        selectors: tuple[SeriesSelector, ...] = (),
        demand: bool = False,
    ) -> None:
        """Say that somebody needs an endpoint, so much of its history, and these series besides."""
        asked = self._asked.get(endpoint)
        if asked is None:
            if len(self._asked) >= MAX_ENDPOINTS:
                self._refuse(endpoint)
                return
            asked = self._asked[endpoint] = _EndpointScrape(endpoint, self)
            self._scraped.pop(endpoint, None)  # it may have been refused before
        now = self._clock()
        asked.note(_Interest(window_seconds, selectors, self._intervals[demand], demand), now)
        if asked.is_new:
            self._schedule.do_at(now, asked)

    def scrape_results(self) -> Mapping[Endpoint, ScrapeResult]:
        """Return what came of every endpoint that is asked for; live."""
        return self._scraped

    async def wait_for_sync(self, endpoints: Collection[Endpoint]) -> None:
        """Return once each of these has told something or was found not to, and every series was looked for."""
        for endpoint in endpoints:
            if asked := self._asked.get(endpoint):
                await asked.wait_for_sync.wait()

    def counts(self) -> Mapping[str, ScrapeCounts]:
        """Return how many scrapes there were, and how many failed, by engine."""
        return {engine: ScrapeCounts(count, self._failures[engine]) for engine, count in self._scrapes.items()}

    def expire_idle(self) -> None:
        """Let go of what nobody has asked for lately; to be called now and then."""
        now = self._clock()
        if now - self._tidied_at_seconds < _TIDY_SECONDS:
            return
        self._tidied_at_seconds = now
        for endpoint, asked in list(self._asked.items()):
            if not asked.forget_since(now - IDLE_TIMEOUT_SECONDS):
                del self._asked[endpoint]
                asked.let_go()
        for endpoint in self._scraped.keys() - self._asked.keys():
            del self._scraped[endpoint]
        self._fetcher.expire_idle()

    async def close(self) -> None:
        """Scrape nothing any more, and close every connection."""
        await self._schedule.close()
        for asked in self._asked.values():
            asked.wait_for_sync.set()
        self._fetcher.close()

    def _refuse(self, endpoint: Endpoint) -> None:
        if len(self._scraped) < MAX_ENDPOINTS + _MAX_REFUSED and endpoint not in self._scraped:
            self._scraped[endpoint] = ScrapeResult(
                failure=f"{MAX_ENDPOINTS} endpoints are scraped, the most there may be"
            )

    # ---- what endpoints need of it ----

    def scraper(self, target: Target) -> ScrapeLoop:
        """Return what scrapes a page, shared by all who need it."""
        if target not in self._scrapers:
            self._scrapers[target] = ScrapeLoop(
                target,
                self._fetcher,
                self._clock,
                self._schedule,
                count=self._count,
                forget=self._forget,
                defects=self._defects,
            )
        return self._scrapers[target]

    @property
    def fetcher(self) -> ScrapeClient:
        """What gets pages."""
        return self._fetcher

    def look_after(self, seconds: float | None, asked: "_EndpointScrape") -> None:
        """Have an endpoint look again where its pages are; None is for no time that is known yet."""
        if seconds is not None:
            self._schedule.do_at(self._clock() + seconds, asked)

    def now(self) -> float:
        """Tell the time, in monotonic seconds."""
        return self._clock()

    def tell(self, endpoint: Endpoint, scraped: ScrapeResult) -> None:
        """Say what came of an endpoint."""
        if self._scraped.get(endpoint) != scraped:
            self._scraped[endpoint] = scraped
            if not self._is_news_due:
                self._is_news_due = True
                asyncio.get_running_loop().call_soon(self._news)

    def _news(self) -> None:
        self._is_news_due = False
        self._on_news()

    def _count(self, engine: str, is_failure: bool) -> None:
        self._scrapes[engine] += 1
        self._failures[engine] += is_failure

    def _forget(self, scraper: ScrapeLoop) -> None:
        if self._scrapers.get(scraper.target) is scraper:
            del self._scrapers[scraper.target]


@dataclass(frozen=True, slots=True)
class _Interest:
    window_seconds: float
    selectors: tuple[SeriesSelector, ...]
    interval_seconds: float
    is_demand: bool


class _EndpointScrape:
    """One endpoint that somebody asks for: which pages it has, and what is told of them.

    ``wait_for_sync`` is set while it has told something, or was found not to, and every series was looked for.
    """

    def __init__(self, endpoint: Endpoint, scraping: ScrapeManager) -> None:
        self._endpoint = endpoint
        self._scraping = scraping
        self._places: Targets = PodTargets(endpoint) if endpoint.pod is not None else UrlTargets(endpoint)
        self._asked_at_seconds: dict[_Interest, float] = {}
        self._scrapers: dict[Target, ScrapeLoop] = {}
        self._trouble: str | None = None
        self.wait_for_sync = asyncio.Event()
        self.is_new = True
        self.is_needed = True
        self.selectors: tuple[SeriesSelector, ...] = ()
        self.window_seconds = 0.0
        self.interval_seconds = math.inf
        self.is_demand = False

    def __str__(self) -> str:
        return str(self._endpoint)

    def note(self, need: _Interest, now: float) -> None:
        """Somebody needs this of it."""
        is_known = need in self._asked_at_seconds
        if not is_known and len(self._asked_at_seconds) >= MAX_NEEDS:
            return
        self._asked_at_seconds[need] = now
        if is_known:
            return
        before = set(self.selectors)
        self._sum_up()
        if not before.issuperset(self.selectors):
            self.wait_for_sync.clear()
            for scraper in self._scrapers.values():
                scraper.hurry()

    def forget_since(self, since: float) -> bool:
        """Forget needs that were named last before this time; return whether any is left."""
        left = {need: at for need, at in self._asked_at_seconds.items() if at >= since}
        if left and len(left) < len(self._asked_at_seconds):
            self._asked_at_seconds = left
            self._sum_up()
        return bool(left)

    def let_go(self) -> None:
        """Nobody asks any more."""
        self.is_needed = False
        self._use(())
        self.wait_for_sync.set()

    async def do(self) -> None:
        """Look where its pages are, and have them scraped."""
        self.is_new = False
        again = await self._places.look(self._scraping.fetcher)
        if self.is_needed:
            self._scraping.look_after(again, self)
            self._use(self._places.targets)
            self._tell()

    def told(self, scraper: ScrapeLoop) -> None:
        """A page was scraped."""
        self._learn(scraper)
        self._use(self._places.targets)
        self._tell()

    def _sum_up(self) -> None:
        needs = self._asked_at_seconds
        self.window_seconds = max(need.window_seconds for need in needs)
        self.interval_seconds = min(need.interval_seconds for need in needs)
        self.is_demand = any(need.is_demand for need in needs)
        self.selectors = tuple({it.text: it for need in needs for it in need.selectors}.values())

    def _learn(self, scraper: ScrapeLoop) -> None:
        now = self._scraping.now()
        again = self._places.learn(scraper.target, scraper.page, scraper.kind, self.selectors, now)
        self._scraping.look_after(again, self)

    def _use(self, targets: Collection[Target]) -> None:
        """Have these scraped and no others; what another endpoint already knows of them is learned at once."""
        while targets != tuple(self._scrapers):
            for target in self._scrapers.keys() - set(targets):
                self._scrapers.pop(target).released_by(self)
            new = [target for target in targets if target not in self._scrapers]
            self._scrapers = {target: self._scraping.scraper(target) for target in targets}
            for target in new:
                scraper = self._scrapers[target]
                scraper.needed_by(self, at_once=self._places.is_urgent)
                if not scraper.is_scraped:
                    continue
                if not scraper.has_looked_for(self.selectors):
                    scraper.hurry()
                self._learn(scraper)
            targets = self._places.targets if self.is_needed else ()

    def _tell(self) -> None:
        pages = {target: scraper.page for target, scraper in self._scrapers.items()}
        scraped = self._places.scrape_results(pages, self.selectors)
        if scraped is None:
            return
        self._scraping.tell(self._endpoint, scraped)
        self._say(scraped)
        if all(map(self._is_done, self._scrapers.values())):
            self.wait_for_sync.set()

    def _is_done(self, scraper: ScrapeLoop) -> bool:
        if not scraper.is_scraped:
            return not self._places.awaits_pages
        return scraper.has_looked_for(self.selectors)

    def _say(self, scraped: ScrapeResult) -> None:
        """Log when it begins to tell nothing, and when that ends."""
        trouble = scraped.failure
        if trouble is None:
            trouble = next((f"{page.where}: {page.failure}" for page in scraped.pages if page.failure), None)
        if trouble is not None and self._trouble is None:
            _log.log(logging.INFO if scraped.is_no_engine else logging.WARNING, "%s: %s", self, trouble)
        elif trouble is None and self._trouble is not None:
            _log.info("%s: it answers again", self)
        self._trouble = trouble
