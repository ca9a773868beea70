# SPDX-License-Identifier: Apache-2.0
"""Scrapes one target at the shortest interval that its consumers need.

Law: at most one scrape of a target runs at a time. Missed scrapes are not repeated. A failed scrape keeps the samples.
"""

import logging
import math
import zlib
from collections.abc import Callable, Collection
from typing import Protocol

from keda_gpu_scaler.core.evaluate.load.span import measure_ahead
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import ScrapeAttempt, TargetHistory, retained
from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.engines import scrape_parser
from keda_gpu_scaler.engines.layout_store import LayoutStore
from keda_gpu_scaler.scrape.pacing import Pacer
from keda_gpu_scaler.scrape.scrape_pace import ScrapePace
from keda_gpu_scaler.scrape.types import FailureKind, FetchedPage, FetchError, OpenReader, Target

DEMAND = "demand"
"""The engine name under which scrapes of demand are counted."""
_MIN_GAP = 0.25  # of an interval: two readings of a counter that are closer give a rate of chance
TOGETHER_SECONDS = 0.04
"""Offsets are multiples of this, so that some targets of a large fleet are scraped together.

With 500 targets every 2 s it saves a fifth of the CPU: the caches of the processor are warm after the first scrape, and
the event loop wakes less often. See ``benchmarks/RESULTS.md``.
"""
_OK = 200
_MAX_LOGGED_DEFECTS = 50

_log = logging.getLogger(__name__)


class PageClient(Protocol):
    """Fetches pages."""

    async def fetch(self, target: Target, open_reader: OpenReader) -> FetchedPage:
        """Fetch the page of a target for its reader; raises FetchError, and what the reader raises."""


class Consumer(Protocol):
    """A consumer of a target's samples, with its interval, its window and its series."""

    @property
    def interval_seconds(self) -> float:
        """The longest interval between two scrapes."""

    @property
    def window_seconds(self) -> float:
        """The length of the history that the consumer needs."""

    @property
    def history_seconds(self) -> float:
        """The length of the thinned history that the consumer needs, the window included."""

    @property
    def selectors(self) -> tuple[SeriesSelector, ...]:
        """The series that the consumer needs in addition to those of engines."""

    @property
    def is_demand(self) -> bool:
        """Whether the target is a source of demand."""

    def on_scrape(self, loop: "ScrapeLoop") -> None:
        """Receive the end of a scrape, successful or not."""


class ScrapeLoop:
    """The scrape loop of one target.

    ``history`` has its samples, ``failure_kind`` the kind of failure of the last scrape, None if it succeeded.

    Args:
        target: the target.
        client: fetches the page.
        clock: monotonic seconds.
        pacer: runs the loop at its times.
        count: called after each scrape with the engine and whether it failed.
        on_unused: called when the last consumer is removed.
        logged_defects: unexpected errors that are logged already; shared by all loops.
        layouts: keeps the layouts of the pages of all loops.
    """

    def __init__(
        self,
        target: Target,
        client: PageClient,
        clock: Callable[[], float],
        pacer: Pacer,
        *,
        count: Callable[[str, bool], None],
        on_unused: Callable[["ScrapeLoop"], None],
        logged_defects: set[str],
        layouts: LayoutStore,
    ) -> None:
        self.target = target
        self._client = client
        self._clock = clock
        self._pacer = pacer
        self._count = count
        self._on_unused = on_unused
        self._logged_defects = logged_defects
        self._consumers: dict[Consumer, None] = {}
        self._is_scheduled = self._is_running = self._is_early = False
        self._ended_at_seconds = -math.inf
        self._answer_seconds = self._work_seconds = self._began_at_seconds = 0.0  # of the last scrape
        self._status: int | None = None
        # The offset in the interval depends on the target, so that those of a fleet are not scraped all at once.
        self._offset_ratio = zlib.crc32(f"{target.address} {target.url}".encode()) / 2**32
        is_numeric = target.url.host == target.address
        self.history = TargetHistory(str(target.url) if is_numeric else f"{target.url} at {target.address}")
        self.failure_kind: FailureKind | None = None
        self._pace = ScrapePace(self.history.url)
        self._cache = scrape_parser.ScrapeCache(layouts)

    def __repr__(self) -> str:
        return f"ScrapeLoop({self.history.url}, {len(self._consumers)} consumers, {self.history.failure or 'answers'})"

    @property
    def is_needed(self) -> bool:
        """Whether the target has a consumer."""
        return bool(self._consumers)

    @property
    def is_scraped(self) -> bool:
        """Whether a scrape of the target has ended, successful or not."""
        return self._ended_at_seconds > -math.inf

    def has_searched(self, selectors: Collection[SeriesSelector]) -> bool:
        """Whether the last scrape failed, or searched the page for all these series."""
        newest = self.history.newest
        return self.history.failure is not None or (
            newest is not None and all(it.text in newest.selected for it in selectors)
        )

    def add_consumer(self, consumer: Consumer, *, is_immediate: bool = True) -> None:
        """Scrape the target for a consumer. A new loop begins now, or at its next regular time."""
        self._consumers[consumer] = None
        if not self._is_scheduled:
            self._is_scheduled = True
            self._pacer.schedule(self._clock() if is_immediate else self._next_regular_time(), self)

    def remove_consumer(self, consumer: Consumer) -> None:
        """Stop scraping for a consumer."""
        self._consumers.pop(consumer, None)
        if not self._consumers and not self._is_running:
            self._is_scheduled = False
            self._on_unused(self)

    def scrape_early(self) -> None:
        """Scrape before the next regular time: a consumer needs series that were not searched yet.

        A slow or costly target keeps its pause: a new trigger must not make its scrapes more frequent.
        """
        self._is_early = True
        if self._is_scheduled and not self._is_running:
            self._pacer.schedule(self._next_time(), self)

    async def run(self) -> None:
        """Scrape once, schedule the next scrape and notify the consumers."""
        self._is_running, self._is_early = True, False
        try:
            await self._scrape()
        finally:
            self._is_running = False
            if self._consumers:
                self._pacer.schedule(self._next_time(), self)
            else:
                self._is_scheduled = False
                self._on_unused(self)
        for consumer in tuple(self._consumers):
            consumer.on_scrape(self)

    @property
    def _interval_seconds(self) -> float:
        return min(consumer.interval_seconds for consumer in self._consumers)

    def _next_time(self) -> float:
        # Rates and loads need two samples: the second one comes early, so that a start has a value soon.
        is_first = self.history.failure is None and len(self.history.samples) == 1
        if (self._is_early or is_first) and not self._pace.pause_seconds:
            return max(self._clock(), self._ended_at_seconds + self._interval_seconds * _MIN_GAP)
        return self._next_regular_time()

    def _next_regular_time(self) -> float:
        """Return the next time of the loop that is at least the minimum gap away."""
        interval = self._interval_seconds
        offset = self._offset_ratio * interval // TOGETHER_SECONDS * TOGETHER_SECONDS
        gap = max(interval * _MIN_GAP, self._pace.pause_seconds)
        return math.ceil((self._clock() + gap - offset) / interval) * interval + offset

    async def _scrape(self) -> None:
        is_demand = any(consumer.is_demand for consumer in self._consumers)
        sample, failure, self.failure_kind = None, None, None
        self._answer_seconds, self._work_seconds, self._status = 0.0, 0.0, None
        try:
            sample = await self._fetch_sample()
        except FetchError as error:
            failure, self.failure_kind = str(error), error.kind
            self._answer_seconds, self._status = error.answer_seconds, error.status
        except scrape_parser.UnknownPageError as error:
            failure, self.failure_kind = str(error), FailureKind.ABSENT
        except scrape_parser.ScrapeParseError as error:
            failure, self.failure_kind = str(error), FailureKind.UNREADABLE
            self._work_seconds = self._clock() - self._began_at_seconds  # of a refused page, its transfer included
        except Exception as error:  # a defect must not end the loop: the next page may be readable
            failure, self.failure_kind = self._log_defect(error), FailureKind.UNREADABLE
        self._ended_at_seconds = self._clock()
        self._record_pace()
        newest = sample or self.history.newest
        self._count(DEMAND if is_demand else newest.engine if newest else "", failure is not None)
        self._record(sample, failure)

    async def _fetch_sample(self) -> EngineSample:
        selectors = tuple({it.text: it for consumer in self._consumers for it in consumer.selectors}.values())
        parser: scrape_parser.PageParser | None = None

        def open_reader(content_type: str) -> scrape_parser.PageParser:
            nonlocal parser
            self._status, self._began_at_seconds = _OK, self._clock()
            parser = scrape_parser.PageParser(
                content_type, selectors=selectors, models=self.target.models, cache=self._cache
            )
            return parser

        page = await self._client.fetch(self.target, open_reader)
        if parser is None:
            raise FetchError("the response has no page")
        ended_at_seconds = self._clock()
        sample = parser.finish(at_seconds=ended_at_seconds)
        self._answer_seconds = page.answer_seconds
        self._work_seconds = page.work_seconds + self._clock() - ended_at_seconds
        return sample

    def _record_pace(self) -> None:
        if self._consumers:
            self._pace.record(
                answer_seconds=self._answer_seconds,
                work_seconds=self._work_seconds,
                interval_seconds=self._interval_seconds,
                is_answer=self._status == _OK,
            )

    def _log_defect(self, error: Exception) -> str:
        failure = f"unexpected {type(error).__name__}: see the log"  # its text may quote the page
        if failure not in self._logged_defects and len(self._logged_defects) < _MAX_LOGGED_DEFECTS:
            self._logged_defects.add(failure)
            _log.exception("%s", self.history.url)
        return failure

    def _record(self, sample: EngineSample | None, failure: str | None) -> None:
        samples = self.history.samples
        if sample is not None:
            samples = retained(
                samples,
                sample,
                window_seconds=max((consumer.window_seconds for consumer in self._consumers), default=0.0),
                history_seconds=max((consumer.history_seconds for consumer in self._consumers), default=0.0),
            )
        attempt = ScrapeAttempt(
            self.history.url,
            self._status,
            failure,
            self._pace.remarks,
            at_seconds=self._ended_at_seconds,
            answer_seconds=self._answer_seconds,
        )
        self.history = self.history.followed_by(samples, failure, attempt)
        measure_ahead(self.history)
