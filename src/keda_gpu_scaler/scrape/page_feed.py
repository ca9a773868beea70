# SPDX-License-Identifier: Apache-2.0
"""Gives a page to its reader in small pieces, and lets other tasks run in between.

Law: the reading of a page holds the event loop for about ``TURN_SECONDS`` at most, whatever the page contains.
"""

import asyncio
from collections.abc import Callable

from keda_gpu_scaler.scrape.types import PageReader

TURN_SECONDS = 0.005
PIECE_BYTES = 1 << 13
"""A page of which each line is wanted takes 0.4 s per MiB to read, which is 3 ms for a piece."""


class PageFeed:
    """Feeds one page to its reader; ``work_seconds`` is the time that this took, without the other tasks.

    Args:
        reader: receives the pieces.
        clock: monotonic seconds.
    """

    def __init__(self, reader: PageReader, clock: Callable[[], float]) -> None:
        self._reader = reader
        self._clock = clock
        self._small = bytearray()
        self._turn_seconds = 0.0
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

    async def add_work(self, seconds: float) -> None:
        """Count other work on the page, such as its transfer."""
        self.work_seconds += seconds
        self._turn_seconds += seconds
        if self._turn_seconds >= TURN_SECONDS:
            self._turn_seconds = 0.0
            await asyncio.sleep(0)

    async def _read(self, piece: bytes) -> None:
        began_at_seconds = self._clock()
        self._reader.feed(piece)
        await self.add_work(self._clock() - began_at_seconds)
