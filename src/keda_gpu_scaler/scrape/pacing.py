# SPDX-License-Identifier: Apache-2.0
"""Runs each scheduled task at its time, in an asyncio task of its own.

Law: a slow or broken task neither delays nor ends another one.
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
    """A task that the pacer runs at a given time."""

    @property
    def is_needed(self) -> bool:
        """Whether the task still has to run."""

    async def run(self) -> None:
        """Run the task once."""


class Pacer:
    """One heap of scheduled tasks and one asyncio task that starts them; it begins with the first ``schedule``.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, ScheduledTask]] = []
        self._entry_numbers: dict[ScheduledTask, int] = {}
        self._next_number = itertools.count()
        self._earliest_changed = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._is_closed = False

    def schedule(self, at_seconds: float, task: ScheduledTask) -> None:
        """Run a task at this time. A time that was scheduled before for the same task no longer applies."""
        if self._is_closed:
            return
        number = self._entry_numbers[task] = next(self._next_number)
        heapq.heappush(self._heap, (at_seconds, number, task))
        if self._dispatcher is None:
            self._dispatcher = asyncio.create_task(self._dispatch(), name="scrape pacer")
        elif self._heap[0][1] == number:
            self._earliest_changed.set()

    async def close(self) -> None:
        """Start no more tasks, cancel the running ones and wait for their end."""
        self._is_closed = True
        tasks = [*self._running, *([self._dispatcher] if self._dispatcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._heap.clear()
        self._entry_numbers.clear()

    async def _dispatch(self) -> None:
        while True:
            self._earliest_changed.clear()
            while self._heap and self._heap[0][0] <= self._clock():
                _, number, task = heapq.heappop(self._heap)
                if self._entry_numbers.get(task) == number:  # otherwise the task was scheduled for another time
                    del self._entry_numbers[task]
                    self._start(task)
            wait_seconds = max(0.0, self._heap[0][0] - self._clock()) if self._heap else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self._earliest_changed.wait()

    def _start(self, task: ScheduledTask) -> None:
        if task.is_needed:
            running = asyncio.create_task(self._run(task))
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    async def _run(self, task: ScheduledTask) -> None:
        try:
            await task.run()
        except Exception:  # a defect in one task must not end the others
            _log.exception("%s", task)
