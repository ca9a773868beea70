# SPDX-License-Identifier: Apache-2.0
"""Gives a page to its reader in small pieces, and lets other tasks run in between.

Law: the reading of all pages together holds the event loop for about ``TURN_SECONDS`` at most, and then every other
task runs once, whatever the pages contain and however many of them are read. Costly pages together take at most a
quarter of the time of the event loop, in shorter turns, and one of them at a time is at its end, where its labels are
read.
"""

import asyncio
import contextlib
import functools
import math
from collections.abc import AsyncIterator, Callable, Iterator

from keda_gpu_scaler.scrape.types import PageReader

TURN_SECONDS = 0.002
PIECE_BYTES = 1 << 13
"""A page of which each line is wanted takes 0.4 s per MiB to read, which is 3 ms for a piece."""
FOLLOWED_BYTES = 1 << 16
"""A page that is as its reader expects it takes 3 ms per MiB to read."""
COSTLY_SECONDS = 0.01
"""A page that takes longer to read is costly from then on."""
COSTLY_TURN_SECONDS = 0.001
MIN_PIECE_BYTES = 1 << 10
"""The smallest pieces in which a page is read. After a piece that takes longer than a costly turn they are halved."""
_MAX_PAUSE_SECONDS = 0.02  # the machine itself may have paused during a turn
_PAUSE_RATIO = 3.0  # of the turns of costly pages; an answer to KEDA takes several turns of the event loop
_SHORT = 0.25  # of a turn: pieces that take less are doubled


class PageWork:
    """The time that the reading of a page takes; ``is_costly`` says that it is known to take long.

    ``is_known_costly`` says that this was known from the beginning. Such pages are few at once, see ``FetchSlots``, and
    ``timeout`` does not pass while they wait for their turns, as long as the work takes no more than ``known_seconds``.
    """

    def __init__(self, *, is_costly: bool = False, known_seconds: float = math.inf) -> None:
        self.seconds = 0.0
        self.is_costly = self.is_known_costly = is_costly
        self._known_seconds = known_seconds
        self.timeout: asyncio.Timeout | None = None
        self._waited_seconds = 0.0
        self._waiting_since_seconds: float | None = None

    def add(self, seconds: float) -> None:
        """Count a piece of work."""
        self.seconds += seconds
        self.is_costly = self.is_costly or self.seconds > COSTLY_SECONDS
        self.is_known_costly = self.is_known_costly and self.seconds <= self._known_seconds

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for a turn inside this block."""
        timeout = self.timeout if self.is_known_costly else None
        ends_at_seconds = timeout.when() if timeout is not None else None
        if timeout is not None:
            timeout.reschedule(None)
        began_at_seconds = self._waiting_since_seconds = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            waited_seconds = asyncio.get_running_loop().time() - began_at_seconds
            self._waited_seconds += waited_seconds
            self._waiting_since_seconds = None
            if timeout is not None and ends_at_seconds is not None:
                timeout.reschedule(ends_at_seconds + waited_seconds)

    def own_seconds(self) -> float:
        """Return the time so far in which the server had no part: that of the work and of the waits for a turn."""
        since = self._waiting_since_seconds
        waiting_seconds = asyncio.get_running_loop().time() - since if since is not None else 0.0
        return self.seconds + self._waited_seconds + waiting_seconds


@contextlib.asynccontextmanager
async def _held(lock: asyncio.Lock, page: PageWork) -> AsyncIterator[None]:
    """Hold a lock inside this block; the time until it is free is the page's wait for a turn."""
    with page.waiting():
        await lock.acquire()
    try:
        yield
    finally:
        lock.release()


class ReadingTurns:
    """The turns of all pages that are read: one page at a time, each piece in its turn.

    Costly pages have turns of their own, and other pages do not wait for them.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._lock, self._costly_lock, self._end_lock = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._turn_seconds = self._costly_turn_seconds = 0.0

    async def run(self, work: Callable[[], None], page: PageWork) -> None:
        """Do a piece of work in its turn, and count its time."""
        if page.is_costly:
            await self._run_costly(work, page)
            return
        while self._lock.locked():
            async with self._lock:
                pass  # the turn of another page has ended, and every other task has run
        self._turn_seconds += self._timed(work, page)
        if self._turn_seconds >= TURN_SECONDS:
            self._turn_seconds = 0.0
            async with self._lock:
                await asyncio.sleep(0)  # with the lock, so that no other page is read in this time

    async def run_to_end(self, steps: Iterator[None], page: PageWork) -> None:
        """Do each step in its turn, after those of every other costly page if this one is costly.

        At their ends thousands of series take the most memory.
        """
        if not page.is_costly:
            await self._run_steps(steps, page)
            return
        async with _held(self._end_lock, page):
            await self._run_steps(steps, page)

    async def _run_steps(self, steps: Iterator[None], page: PageWork) -> None:
        is_ended = False

        def step() -> None:
            nonlocal is_ended
            is_ended = next(steps, _ENDED) is _ENDED

        while not is_ended:
            await self.run(step, page)

    async def _run_costly(self, work: Callable[[], None], page: PageWork) -> None:
        async with _held(self._costly_lock, page):
            self._costly_turn_seconds += self._timed(work, page)
            if self._costly_turn_seconds >= COSTLY_TURN_SECONDS:
                pause_seconds = min(self._costly_turn_seconds * _PAUSE_RATIO, _MAX_PAUSE_SECONDS)
                self._costly_turn_seconds = 0.0
                with page.waiting():
                    await asyncio.sleep(pause_seconds)

    def _timed(self, work: Callable[[], None], page: PageWork) -> float:
        began_at_seconds = self.clock()
        try:
            work()
        finally:
            seconds = self.clock() - began_at_seconds
            page.add(seconds)
        return seconds


class PageFeed:
    """Feeds one page to its reader; ``work_seconds`` is the time that this took, without the other tasks.

    Args:
        reader: receives the pieces.
        turns: the turns that all pages share.
        work: the time that the reading takes.
    """

    def __init__(self, reader: PageReader, turns: ReadingTurns, work: PageWork | None = None) -> None:
        self._reader = reader
        self._turns = turns
        self._work = work if work is not None else PageWork()
        self._small = bytearray()
        self._piece_bytes = PIECE_BYTES
        self._is_followed = True

    @property
    def work_seconds(self) -> float:
        """The time that the reading took so far."""
        return self._work.seconds

    async def feed(self, content: bytes) -> None:
        """Read the next part of the page, of any size. Small parts are read together.

        Raises:
            ValueError: the reader refuses the page.
        """
        if self._small or len(content) < PIECE_BYTES:
            self._small += content
            if len(self._small) < PIECE_BYTES:
                return
            content, self._small = bytes(self._small), bytearray()
        await self._read(content)

    async def finish(self) -> None:
        """Read what is left, and what the reader reads at the end of the page.

        Raises:
            ValueError: the reader refuses the page.
        """
        if self._small:
            await self._read(bytes(self._small))
        await self._turns.run_to_end(iter(self._reader.end()), self._work)

    async def _read(self, content: bytes) -> None:
        for start in range(0, len(content), FOLLOWED_BYTES):
            part = content[start : start + FOLLOWED_BYTES]
            if self._is_followed:
                await self._turns.run(functools.partial(self._follow, part), self._work)
            if not self._is_followed:
                await self._read_pieces(part)

    def _follow(self, part: bytes) -> None:
        self._is_followed = self._reader.follow(part)

    async def _read_pieces(self, part: bytes) -> None:
        at = 0
        while at < len(part):
            piece, before_seconds = part[at : at + self._piece_bytes], self._work.seconds
            at += len(piece)
            await self._turns.run(functools.partial(self._reader.feed, piece), self._work)
            self._adapt(self._work.seconds - before_seconds)

    def _adapt(self, piece_seconds: float) -> None:
        if piece_seconds > COSTLY_TURN_SECONDS:
            self._piece_bytes = max(self._piece_bytes // 2, MIN_PIECE_BYTES)
        elif piece_seconds < COSTLY_TURN_SECONDS * _SHORT:
            self._piece_bytes = min(self._piece_bytes * 2, PIECE_BYTES)


_ENDED = object()
