# SPDX-License-Identifier: Apache-2.0
"""An event loop with virtual time: an hour of scraping takes no real time."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

from tests.wrapped_selector import WrappedSelector

LAST_SECOND = 20_000.0


class _VirtualSelector(WrappedSelector):
    """A selector that advances the clock of the loop instead of waiting."""

    def __init__(self, loop: "VirtualTimeLoop") -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if not ready:
            if timeout is None:
                raise AssertionError("each task waits, and no event is scheduled")
            self._loop.now += max(0.0, timeout)
            if self._loop.now >= LAST_SECOND:
                raise AssertionError("the test does not end")
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs until each task waits, then advances its time to the next scheduled event."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        return self.now


def run_in_virtual_time(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario to its end; ``asyncio.sleep`` takes no real time in it."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scenario)
