# SPDX-License-Identifier: Apache-2.0
"""What does one page tell, time after time? It is scraped at the pace of whoever needs it most often.

The law of this module: a page is read by one fetch at a time and on its own beat; what was missed is not made up for,
and what it told before stays beside why it tells nothing now.
"""

import logging
import math
import zlib
from collections.abc import Callable, Collection
from typing import Protocol

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.engines import scrape_parser as pages
from keda_gpu_scaler.scrape.http_client import FailureKind, FetchedPage, FetchError, Target
from keda_gpu_scaler.scrape.pacing import Pacer

MAX_READINGS = 1300
"""So many of a page are kept at most: ten minutes at demand's pace."""
DEMAND = "demand"
"""How sources of demand are counted."""
_APART = 0.25  # of an interval: a counter's two readings that all but coincide would make a rate of chance
_LONGEST_SENTENCE = 200
_MOST_DEFECTS = 50

_log = logging.getLogger(__name__)


class PageClient(Protocol):
    """What gets a page."""

    async def fetch(self, target: Target) -> FetchedPage:
        """Get a page; raises FetchError."""


class Consumer(Protocol):
    """Somebody who needs a page: how often, how much of its history, and which series besides."""

    @property
    def interval_seconds(self) -> float:
        """Between two scrapes."""

    @property
    def window_seconds(self) -> float:
        """How far back."""

    @property
    def selectors(self) -> tuple[SeriesSelector, ...]:
        """Series besides those of engines."""

    @property
    def is_demand(self) -> bool:
        """Whether it is taken for a source of demand."""

    def told(self, scraper: "ScrapeLoop") -> None:
        """Hear that it was scraped, whatever came of it."""


class ScrapeLoop:
    """One page; ``page`` is what it told, ``kind`` why the last scrape told nothing.

    Args:
        target: where it is.
        fetcher: gets it.
        clock: monotonic seconds.
        schedule: sees to its times.
        count: told of each scrape: of which engine it was, and whether it failed.
        forget: called when nobody needs it any more.
        defects: what was logged of our own defects, of all pages.
    """

    def __init__(
        self,
        target: Target,
        fetcher: PageClient,
        clock: Callable[[], float],
        schedule: Pacer,
        *,
        count: Callable[[str, bool], None],
        forget: Callable[["ScrapeLoop"], None],
        defects: set[str],
    ) -> None:
        self.target = target
        self._fetcher = fetcher
        self._clock = clock
        self._schedule = schedule
        self._count = count
        self._forget = forget
        self._defects = defects
        self._askers: dict[Consumer, None] = {}
        self._is_scheduled = self._is_busy = self._is_hurried = False
        self._ended_at_seconds = -math.inf
        # Each page has a place in the beat of its own, so that a fleet's pages are not asked for at the same instant.
        self._phase = zlib.crc32(f"{target.address} {target.url}".encode()) / 2**32
        is_numeric = target.url.host == target.address
        self.page = TargetHistory(str(target.url) if is_numeric else f"{target.url} at {target.address}")
        self.kind: FailureKind | None = None

    def __repr__(self) -> str:
        return f"Scraper({self.page.url}, {len(self._askers)} askers, {self.page.failure or 'answers'})"

    @property
    def is_needed(self) -> bool:
        """Whether anybody needs it."""
        return bool(self._askers)

    @property
    def is_scraped(self) -> bool:
        """Whether it was ever tried."""
        return self._ended_at_seconds > -math.inf

    def has_looked_for(self, selectors: Collection[SeriesSelector]) -> bool:
        """Whether the last scrape would have told these series, if it told anything."""
        newest = self.page.newest
        return self.page.failure is not None or (
            newest is not None and all(it.text in newest.selected for it in selectors)
        )

    def needed_by(self, asker: Consumer, *, at_once: bool = True) -> None:
        """Scrape it for somebody from now on; at once, or else on its next beat, if it is not being scraped yet."""
        self._askers[asker] = None
        if not self._is_scheduled:
            self._is_scheduled = True
            self._schedule.do_at(self._clock() if at_once else self._next_beat(), self)

    def released_by(self, asker: Consumer) -> None:
        """Scrape it for them no longer."""
        self._askers.pop(asker, None)
        if not self._askers and not self._is_busy:
            self._is_scheduled = False
            self._forget(self)

    def hurry(self) -> None:
        """Scrape it soon: somebody needs a series that was not read yet."""
        self._is_hurried = True
        if self._is_scheduled and not self._is_busy:
            self._schedule.do_at(self._next(), self)

    async def do(self) -> None:
        """Scrape it once, and see to the next time."""
        self._is_busy, self._is_hurried = True, False
        try:
            await self._scrape()
        finally:
            self._is_busy = False
            if self._askers:
                self._schedule.do_at(self._next(), self)
            else:
                self._is_scheduled = False
                self._forget(self)
        for asker in tuple(self._askers):
            asker.told(self)

    @property
    def _interval_seconds(self) -> float:
        return min(asker.interval_seconds for asker in self._askers)

    def _next(self) -> float:
        soon = max(self._clock(), self._ended_at_seconds + self._interval_seconds * _APART)
        return soon if self._is_hurried else self._next_beat()

    def _next_beat(self) -> float:
        """The next beat that is some way off."""
        interval = self._interval_seconds
        offset = self._phase * interval
        return math.ceil((self._clock() + interval * _APART - offset) / interval) * interval + offset

    async def _scrape(self) -> None:
        selectors = {it.text: it for asker in self._askers for it in asker.selectors}
        is_demand = any(asker.is_demand for asker in self._askers)
        readings, failure, self.kind = None, None, None
        try:
            body = await self._fetcher.fetch(self.target)
            readings = pages.parse_page(
                body.content, body.content_type, at_seconds=self._clock(), selectors=tuple(selectors.values())
            )
        except FetchError as error:
            failure, self.kind = str(error), error.kind
        except pages.UnknownPageError as error:
            failure, self.kind = str(error), FailureKind.ABSENT
        except pages.ScrapeParseError as error:
            failure, self.kind = str(error), FailureKind.UNREADABLE
        except Exception as error:  # whatever a page holds, it is scraped again
            failure = f"unexpected {type(error).__name__}: {str(error)[:_LONGEST_SENTENCE]}"
            if failure not in self._defects and len(self._defects) < _MOST_DEFECTS:
                self._defects.add(failure)
                _log.exception("%s", self.page.url)
            self.kind = FailureKind.UNREADABLE
        self._ended_at_seconds = self._clock()
        newest = readings or self.page.newest
        self._count(DEMAND if is_demand else newest.engine if newest else "", failure is not None)
        self._keep(readings, failure)

    def _keep(self, readings: EngineSample | None, failure: str | None) -> None:
        kept = self.page.samples
        if readings is not None:
            if kept and kept[-1].engine != readings.engine:
                kept = ()  # another process, or one that tells less than before: its counters are not those
            reach = readings.at_seconds - max((asker.window_seconds for asker in self._askers), default=0.0)
            # One more than the window has, so that what was counted in it is compared with what was before.
            first = next((number for number, it in enumerate(kept) if it.at_seconds > reach), len(kept))
            kept = (*kept[max(first - 1, len(kept) - MAX_READINGS + 1, 0) :], readings)
        self.page = TargetHistory(self.page.url, kept, failure)
