# SPDX-License-Identifier: Apache-2.0
"""Fetches pages from a recording of engines, each at the time at which it was recorded.

Law: a page is given at its own time, so that counters grow as fast as they did. No page is given twice to a target. A
place that the recording does not have is unknown, and not one without an engine.
"""

import asyncio
from collections.abc import Callable, Sequence

from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.page_feed import PageFeed, ReadingTurns
from keda_gpu_scaler.scrape.playback import Playback
from keda_gpu_scaler.scrape.types import FailureKind, FetchedPage, FetchError, OpenReader, ResolvedHost, Target
from keda_gpu_scaler.wire.engine_recording import Place, StoredPage, index_at

SCRAPE_SHARE = 0.75
"""The interval of replayed scrapes, as a share of the recorded one: each scrape waits for the next recorded page."""
_MAX_GAP_INTERVALS = 3.0  # a longer gap between two pages of a place is a pause


class ReplayClient:
    """Fetches the pages of a recording.

    Args:
        playback: the position in the recording.
        clock: monotonic seconds.
    """

    def __init__(self, playback: Playback, clock: Callable[[], float]) -> None:
        self._playback = playback
        self._turns = ReadingTurns(clock)
        self._given: dict[Target, int] = {}

    async def resolve(self, url: Url, namespace: str | None) -> ResolvedHost:
        """Raise FetchError: a recording has pages of pods only."""
        raise FetchError("the pages of a URL are not recorded: this instance replays a recording")

    async def fetch(self, target: Target, open_reader: OpenReader) -> FetchedPage:
        """Wait for the next page of a target, and give it to its reader.

        Raises:
            FetchError: the place did not answer when it was recorded, or the recording does not have it.
            ValueError: the reader refuses the page.
        """
        page = await self._next_page(target)
        if page.failure:
            raise FetchError(
                page.failure, FailureKind(page.kind), status=page.status, answer_seconds=page.answer_seconds
            )
        feed = PageFeed(open_reader(page.content_type), self._turns)
        await feed.feed(page.text)
        await feed.finish()
        return FetchedPage(page.content_type, page.answer_seconds, feed.work_seconds)

    def expire_idle(self) -> None:
        """Forget the targets of earlier loops."""
        loop, _ = self._playback.position()
        self._given = {target: index for target, index in self._given.items() if self._is_played(target, loop)}

    def close(self) -> None:
        """Do nothing: there is no connection."""

    async def _next_page(self, target: Target) -> StoredPage:
        url, namespace, pod = target.url, target.namespace or "", target.pod or ""
        pages = self._playback.recording.pages.get(Place(namespace, pod, url.scheme, url.port, url.path))
        if not pages:
            raise FetchError("the recording has no page of this place")
        loop, at_seconds = self._playback.position()
        if not self._is_played(target, loop):
            raise FetchError("the recording begins again, with another address of this pod", FailureKind.REFUSED)
        index = self._due(target, pages, at_seconds)
        if index >= len(pages):
            recording = self._playback.recording
            ends = recording.begins_at_seconds + recording.duration_seconds
            await asyncio.sleep(self._playback.delay_seconds(loop, ends))
            raise FetchError("the recording ends", FailureKind.REFUSED)
        await asyncio.sleep(self._playback.delay_seconds(loop, pages[index].at_seconds))
        self._given[target] = index
        return pages[index]

    def _due(self, target: Target, pages: Sequence[StoredPage], at_seconds: float) -> int:
        """Return the index of the page to give: the newest where it does not change soon, or else the next one."""
        newest = index_at(pages, at_seconds)
        if newest < 0:
            return 0
        page, following = pages[newest], newest + 1
        has_series = not page.failure and page.compressed
        if not has_series:
            return newest  # a failure, and a page without an engine, may be repeated: they have no counters
        if self._given.get(target, -1) >= newest:
            return following
        longest = _MAX_GAP_INTERVALS * self._playback.recording.interval_seconds
        is_recent = at_seconds - page.at_seconds <= longest
        is_last = following >= len(pages) or pages[following].at_seconds - page.at_seconds > longest
        return newest if is_last and is_recent else following

    def _is_played(self, target: Target, loop: int) -> bool:
        return target.address == self._playback.address(target.namespace or "", target.pod or "", loop)
