# SPDX-License-Identifier: Apache-2.0
"""What do engines and sources of demand tell now? Pages are scraped on our own clock while somebody needs them.

The law of this module: a page is read at its own pace, by one fetch at a time, whoever asks and however often; what it
told stays as it was told, and one that is slow delays nobody but itself.
"""

import asyncio
import contextlib
import heapq
import itertools
import logging
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from keda_gpu_scaler.core.model import Readings
from keda_gpu_scaler.core.ports import ScrapeCounts
from keda_gpu_scaler.core.scrapes import Endpoint, Page, Scraped
from keda_gpu_scaler.core.selector import SeriesSelector
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.engines import pages
from keda_gpu_scaler.engines.fetch import Body, FetchError, Kind, Target
from keda_gpu_scaler.engines.places import PodPlaces, UrlPlaces

LET_GO_SECONDS = 300.0
"""What nobody has asked for during so long is scraped no more: KEDA may look as seldom as that."""
MAX_ENDPOINTS = 20_000
MAX_READINGS = 1300
"""So many of a page are kept at most: ten minutes at demand's pace."""
DEMAND = "demand"
"""How sources of demand are counted."""
_TIDY_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Fetches(Protocol):
    """What gets pages (``engines.fetch.Fetcher``)."""

    async def resolve(self, url: Url) -> tuple[str, ...]:
        """Return the addresses of a URL's host."""

    async def fetch(self, target: Target) -> Body:
        """Get a page."""

    def tidy(self) -> None:
        """Close what is idle."""

    def close(self) -> None:
        """Close everything."""


class Scraping:
    """Scrapes what is asked for. Everything happens in one event loop.

    Args:
        fetcher: gets pages.
        clock: monotonic seconds.
        interval_seconds: between two scrapes of an engine.
        demand_interval_seconds: between two looks at a source of demand.
        on_news: called when something was told that is new.
        timer: as ``asyncio.timeout``, for those whose clock is another.
    """

    def __init__(
        self,
        fetcher: Fetches,
        *,
        clock: Callable[[], float] = time.monotonic,
        interval_seconds: float = 2.0,
        demand_interval_seconds: float = 0.5,
        on_news: Callable[[], None] = lambda: None,
        timer: Callable[[float | None], asyncio.Timeout] = asyncio.timeout,
    ) -> None:
        self._timer = timer
        self._fetcher = fetcher
        self._clock = clock
        self._intervals = {False: interval_seconds, True: demand_interval_seconds}
        self._on_news = on_news
        self._endpoints: dict[Endpoint, _Asked] = {}
        self._scraped: dict[Endpoint, Scraped] = {}
        self._pages: dict[Target, _Scraper] = {}
        self._scrapes: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._due: list[tuple[float, int, _Scraper | _Asked]] = []
        self._order = itertools.count()
        self._woken = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._schedule: asyncio.Task[None] | None = None
        self._tidied_at_seconds = clock()

    # ---- the port ----

    def ask(
        self,
        endpoint: Endpoint,
        *,
        window_seconds: float,
        selectors: tuple[SeriesSelector, ...] = (),
        demand: bool = False,
    ) -> None:
        """Say that somebody needs an endpoint, so much of its history, and these series besides."""
        asked = self._endpoints.get(endpoint)
        if asked is None:
            if len(self._endpoints) >= MAX_ENDPOINTS:
                self._scraped[endpoint] = Scraped(
                    failure=f"{MAX_ENDPOINTS} endpoints are scraped, the most there may be"
                )
                return
            asked = _Asked(endpoint, self)
            self._endpoints[endpoint] = asked
            self._scraped[endpoint] = Scraped(failure="not scraped yet")
        asked.note(window_seconds, selectors, demand=demand, now=self._clock())
        if self._schedule is None:
            self._schedule = asyncio.create_task(self._keep_time(), name="scraping")

    def scraped(self) -> Mapping[Endpoint, Scraped]:
        """Return what came of every endpoint that is asked for."""
        return self._scraped

    async def settled(self, endpoints: Collection[Endpoint]) -> None:
        """Return once each of these has told something or was found not to."""
        for endpoint in endpoints:
            if asked := self._endpoints.get(endpoint):
                await asked.settled.wait()

    def counts(self) -> Mapping[str, ScrapeCounts]:
        """Return how many scrapes there were, and how many failed, by engine."""
        return {engine: ScrapeCounts(count, self._failures[engine]) for engine, count in self._scrapes.items()}

    def tidy(self) -> None:
        """Let go of what nobody has asked for lately; to be called now and then."""
        now = self._clock()
        if now - self._tidied_at_seconds < _TIDY_SECONDS:
            return
        self._tidied_at_seconds = now
        for endpoint, asked in list(self._endpoints.items()):
            if now - asked.asked_at_seconds > LET_GO_SECONDS:
                del self._endpoints[endpoint]
                self._scraped.pop(endpoint, None)
                asked.let_go()
        if len(self._scraped) > len(self._endpoints):
            for endpoint in self._scraped.keys() - self._endpoints.keys():
                del self._scraped[endpoint]
        self._fetcher.tidy()

    async def close(self) -> None:
        """Scrape nothing any more, and close every connection."""
        tasks = [*self._running, *([self._schedule] if self._schedule else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fetcher.close()

    # ---- what endpoints and pages need ----

    @property
    def fetcher(self) -> Fetches:
        """What gets pages."""
        return self._fetcher

    def now(self) -> float:
        """Tell the time, in monotonic seconds."""
        return self._clock()

    def interval_seconds(self, *, demand: bool) -> float:
        """The pace of engines, or of demand."""
        return self._intervals[demand]

    def page(self, target: Target) -> "_Scraper":
        """Return what scrapes a page, shared by all who need it."""
        if target not in self._pages:
            self._pages[target] = _Scraper(target, self)
        return self._pages[target]

    def forget(self, page: "_Scraper") -> None:
        """Scrape a page no more."""
        self._pages.pop(page.target, None)

    def tell(self, endpoint: Endpoint, scraped: Scraped) -> None:
        """Say what came of an endpoint."""
        if endpoint in self._endpoints and self._scraped.get(endpoint) != scraped:
            self._scraped[endpoint] = scraped
            self._on_news()

    def count(self, engine: str, *, failed: bool) -> None:
        """Count a scrape."""
        self._scrapes[engine] += 1
        self._failures[engine] += failed

    def do_at(self, at_seconds: float, what: "_Scraper | _Asked") -> None:
        """Have something done at a time."""
        heapq.heappush(self._due, (at_seconds, next(self._order), what))
        if self._due[0][2] is what:
            self._woken.set()

    async def _keep_time(self) -> None:
        """Begin what is due, each in a task of its own, for as long as there is anything."""
        while True:
            self._woken.clear()
            while self._due and self._due[0][0] <= self._clock():
                _, _, what = heapq.heappop(self._due)
                if what.is_needed:
                    task = asyncio.create_task(what.do())
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
            wait = max(0.0, self._due[0][0] - self._clock()) if self._due else None
            with contextlib.suppress(TimeoutError):
                async with self._timer(wait):
                    await self._woken.wait()


class _Scraper:
    """One page, scraped at the pace of whoever needs it most often."""

    def __init__(self, target: Target, scraping: Scraping) -> None:
        self.target = target
        self._scraping = scraping
        self._askers: dict[_Asked, None] = {}
        self._is_scheduled = self._is_busy = False
        self._phase = zlib.crc32(f"{target.address} {target.url}".encode()) / 2**32
        self._told: str | None = None
        where = target.url.host if target.url.host == target.address else f"{target.url.host} ({target.address})"
        self.page = Page(str(target.url) if where == target.url.host else f"{target.url} at {target.address}")
        self.kind: Kind | None = None
        self.has_ended = False

    @property
    def is_needed(self) -> bool:
        """Whether anybody needs it."""
        return bool(self._askers)

    @property
    def is_scraped(self) -> bool:
        """Whether it was ever tried."""
        return self.has_ended

    def needed_by(self, asked: "_Asked") -> None:
        """Scrape it for somebody, at once if it never was, and from then on at their pace."""
        self._askers[asked] = None
        if not self._is_scheduled:
            self._is_scheduled = True
            self._scraping.do_at(self._scraping.now(), self)

    def released_by(self, asked: "_Asked") -> None:
        """Scrape it for them no longer."""
        self._askers.pop(asked, None)
        if not self._askers:
            self._scraping.forget(self)

    async def do(self) -> None:
        """Scrape it once, and see to the next time."""
        self._is_busy = True
        try:
            await self._scrape()
        finally:
            self._is_busy = False
            if self._askers:
                self._scraping.do_at(self._next(), self)
            else:
                self._is_scheduled = False

    def _next(self) -> float:
        """The next beat of this page's own; what it missed is not made up for."""
        interval = min(asked.interval_seconds for asked in self._askers)
        now = self._scraping.now()
        offset = self._phase * interval
        return (int((now - offset) / interval) + 1) * interval + offset

    async def _scrape(self) -> None:
        selectors = {it.text: it for asked in self._askers for it in asked.selectors}
        is_demand = any(asked.is_demand for asked in self._askers)
        readings, failure = None, None
        try:
            body = await self._scraping.fetcher.fetch(self.target)
            readings = pages.read(
                body.content,
                body.content_type,
                at_seconds=self._scraping.now(),
                selectors=tuple(selectors.values()),
            )
            self.kind = None
        except FetchError as error:
            failure, self.kind = str(error), error.kind
        except pages.PageError as error:
            failure, self.kind = str(error), Kind.ABSENT
        except Exception as error:
            _log.exception("%s", self.page.where)
            failure, self.kind = f"unexpected {error!r}", Kind.UNREADABLE
        self.has_ended = True
        engine = readings.engine if readings else self.page.readings[-1].engine if self.page.readings else ""
        self._scraping.count(DEMAND if is_demand else engine, failed=failure is not None)
        self._keep(readings, failure)
        self._say(failure)
        for asked in tuple(self._askers):
            asked.told(self)

    def _keep(self, readings: Readings | None, failure: str | None) -> None:
        kept = self.page.readings
        if readings is not None:
            reach = readings.at_seconds - max((asked.window_seconds for asked in self._askers), default=0.0)
            # One more than the window has, so that what was counted in it is compared with what was before.
            first = next((number for number, it in enumerate(kept) if it.at_seconds > reach), len(kept))
            kept = (*kept[max(first - 1, len(kept) - MAX_READINGS + 1, 0) :], readings)
        self.page = Page(self.page.where, kept, failure)

    def _say(self, failure: str | None) -> None:
        """Log when it begins to fail, if it ever told anything, and when that ends."""
        if failure is not None and self._told is None and self.page.readings:
            _log.warning("%s: %s", self.page.where, failure)
            self._told = failure
        elif failure is None and self._told is not None:
            _log.info("%s answers again", self.page.where)
            self._told = None


class _Asked:
    """One endpoint that somebody asks for: which pages it has, and what is told of them."""

    def __init__(self, endpoint: Endpoint, scraping: Scraping) -> None:
        self.endpoint = endpoint
        self._scraping = scraping
        self._windows: dict[tuple[float, tuple[SeriesSelector, ...], bool], float] = {}
        self._places = PodPlaces(endpoint) if endpoint.pod is not None else UrlPlaces(endpoint)
        self._used: dict[Target, _Scraper] = {}
        self.settled = asyncio.Event()
        self.asked_at_seconds = scraping.now()
        self._is_gone = False
        scraping.do_at(self.asked_at_seconds, self)

    def note(self, window: float, selectors: tuple[SeriesSelector, ...], *, demand: bool, now: float) -> None:
        """Somebody needs it, and needs this of it."""
        self.asked_at_seconds = now
        self._windows[window, selectors, demand] = now
        if len(self._windows) > 1:
            self._windows = {need: at for need, at in self._windows.items() if now - at <= LET_GO_SECONDS}

    @property
    def window_seconds(self) -> float:
        """The longest history that is needed."""
        return max(window for window, _, _ in self._windows)

    @property
    def selectors(self) -> tuple[SeriesSelector, ...]:
        """Every series that is needed besides."""
        return tuple({it.text: it for _, selectors, _ in self._windows for it in selectors}.values())

    @property
    def is_demand(self) -> bool:
        """Whether somebody takes it for a source of demand."""
        return any(demand for _, _, demand in self._windows)

    @property
    def interval_seconds(self) -> float:
        """The pace at which it is needed."""
        return min(self._scraping.interval_seconds(demand=demand) for _, _, demand in self._windows)

    @property
    def is_needed(self) -> bool:
        """Whether anybody still asks."""
        return not self._is_gone

    def let_go(self) -> None:
        """Nobody asks any more."""
        self._is_gone = True
        for page in self._used.values():
            page.released_by(self)
        self._used.clear()

    async def do(self) -> None:
        """Look where its pages are, and have them scraped."""
        again = await self._places.look(self._scraping.fetcher, self._scraping.now)
        if self._is_gone:
            return
        self._use(self._places.targets)
        self._tell()
        if again is not None:
            self._scraping.do_at(self._scraping.now() + again, self)

    def told(self, page: _Scraper) -> None:
        """A page was scraped."""
        now = self._scraping.now()
        again = self._places.learn(page.target, page.page, page.kind, self.selectors, now)
        if again is not None:
            self._scraping.do_at(now + again, self)
        self._use(self._places.targets)
        self._tell()

    def _use(self, targets: Collection[Target]) -> None:
        for target in self._used.keys() - set(targets):
            self._used.pop(target).released_by(self)
        for target in tuple(targets):
            if target not in self._used:
                page = self._used[target] = self._scraping.page(target)
                page.needed_by(self)
                if page.is_scraped:  # for somebody else
                    self.told(page)

    def _tell(self) -> None:
        scraped = self._places.scraped({target: page.page for target, page in self._used.items()})
        self._scraping.tell(self.endpoint, scraped)
        if self._places.is_settled and all(page.is_scraped for page in self._used.values()):
            self.settled.set()
