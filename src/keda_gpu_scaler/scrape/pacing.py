# SPDX-License-Identifier: Apache-2.0
"""Runs each scheduled task at its time, in an asyncio task of its own.

Law: a slow or broken task neither delays nor ends another one.
"""

import asyncio
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
    """One heap of scheduled tasks, and one timer of the event loop for the earliest of them.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, ScheduledTask]] = []
        self._entry_numbers: dict[ScheduledTask, int] = {}
        self._next_number = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_seconds = 0.0
        self._running: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def schedule(self, at_seconds: float, task: ScheduledTask) -> None:
        """Run a task at this time. A time that was scheduled before for the same task no longer applies."""
        if self._is_closed:
            return
        number = self._entry_numbers[task] = next(self._next_number)
        heapq.heappush(self._heap, (at_seconds, number, task))
        self._set_timer()

    async def close(self) -> None:
        """Start no more tasks, cancel the running ones and wait for their end."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._heap.clear()
        self._entry_numbers.clear()

    def _set_timer(self) -> None:
        """Wait for the earliest time, unless an earlier one is waited for."""
        at_seconds = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at_seconds <= at_seconds:
                return
            self._timer.cancel()
        delay_seconds = max(0.0, at_seconds - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay_seconds, self._dispatch)
        self._timer_at_seconds = at_seconds

    def _dispatch(self) -> None:
        self._timer = None
        while self._heap and self._heap[0][0] <= self._clock():
            _, number, task = heapq.heappop(self._heap)
            if self._entry_numbers.get(task) == number:  # otherwise the task was scheduled for another time
                del self._entry_numbers[task]
                self._start(task)
        if self._heap:
            self._set_timer()

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
