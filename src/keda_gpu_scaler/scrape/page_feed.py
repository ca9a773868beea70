# SPDX-License-Identifier: Apache-2.0
"""Gives a page to its reader in small pieces, and lets other tasks run in between.

Law: the reading of all pages together holds the event loop for about ``TURN_SECONDS`` at most, and then every other
task runs once, whatever the pages contain and however many of them are read.
"""

import asyncio
from collections.abc import Callable

from keda_gpu_scaler.scrape.types import PageReader

TURN_SECONDS = 0.005
PIECE_BYTES = 1 << 13
"""A page of which each line is wanted takes 0.4 s per MiB to read, which is 3 ms for a piece."""


class ReadingTurns:
    """The turns of all pages that are read: one page at a time, each piece in its turn.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._lock = asyncio.Lock()
        self._turn_seconds = 0.0

    async def run(self, work: Callable[[], None]) -> float:
        """Do a piece of work in its turn; return the seconds that it took."""
        async with self._lock:
            began_at_seconds = self.clock()
            work()
            seconds = self.clock() - began_at_seconds
            self._turn_seconds += seconds
            if self._turn_seconds >= TURN_SECONDS:
                self._turn_seconds = 0.0
                await asyncio.sleep(0)  # with the lock, so that no other page is read in this time
        return seconds


class PageFeed:
    """Feeds one page to its reader; ``work_seconds`` is the time that this took, without the other tasks.

    Args:
        reader: receives the pieces.
        turns: the turns that all pages share.
    """

    def __init__(self, reader: PageReader, turns: ReadingTurns) -> None:
        self._reader = reader
        self._turns = turns
        self._small = bytearray()
        self.work_seconds = 0.0

    async def feed(self, content: bytes) -> None:
        """Read the next part of the page, of any size. Small parts are read together.

        Raises:
            ValueError: the reader refuses the page.
        """
        self._small += content
        if len(self._small) < PIECE_BYTES:
            return
        content, self._small = bytes(self._small), bytearray()
        for start in range(0, len(content), PIECE_BYTES):
            await self._read(content[start : start + PIECE_BYTES])

    async def finish(self) -> None:
        """Read what is left.

        Raises:
            ValueError: the reader refuses the page.
        """
        if self._small:
            await self._read(bytes(self._small))

    async def _read(self, piece: bytes) -> None:
        self.work_seconds += await self._turns.run(lambda: self._reader.feed(piece))
