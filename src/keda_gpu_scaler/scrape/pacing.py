# SPDX-License-Identifier: Apache-2.0
"""When is what done? Each thing at its time, in a task of its own.

The law of this module: what takes long, or breaks, delays nothing else and ends nothing else.
"""

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections.abc import Callable
from typing import Protocol

_log = logging.getLogger(__name__)


class ScheduledTask(Protocol):
    """Something that is done at a time."""

    @property
    def is_needed(self) -> bool:
        """Whether it is still to be done."""

    async def do(self) -> None:
        """Do it once."""


class Pacer:
    """Everything that is due, in one heap and one task, which begins with the first thing.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: list[tuple[float, int, ScheduledTask]] = []
        self._numbers: dict[ScheduledTask, int] = {}
        self._next_number = itertools.count()
        self._woken = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def do_at(self, at_seconds: float, what: ScheduledTask) -> None:
        """Have something done at a time, in place of the time that was said before."""
        if self._is_closed:
            return
        number = self._numbers[what] = next(self._next_number)
        heapq.heappush(self._due, (at_seconds, number, what))
        if self._task is None:
            self._task = asyncio.create_task(self._keep_time(), name="scraping")
        elif self._due[0][1] == number:
            self._woken.set()

    async def close(self) -> None:
        """Begin nothing any more, and wait until what was begun is gone."""
        self._is_closed = True
        tasks = [*self._running, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._due.clear()
        self._numbers.clear()

    async def _keep_time(self) -> None:
        while True:
            self._woken.clear()
            while self._due and self._due[0][0] <= self._clock():
                _, number, what = heapq.heappop(self._due)
                if self._numbers.get(what) == number:  # else it was put off, or brought forward and done
                    del self._numbers[what]
                    self._begin(what)
            wait_seconds = max(0.0, self._due[0][0] - self._clock()) if self._due else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self._woken.wait()

    def _begin(self, what: ScheduledTask) -> None:
        if what.is_needed:
            task = asyncio.create_task(self._do(what))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _do(self, what: ScheduledTask) -> None:
        try:
            await what.do()
        except Exception:  # a defect of one must not end the others
            _log.exception("%s", what)
