# SPDX-License-Identifier: Apache-2.0
"""An event loop whose time passes only while nothing else can happen: an hour of scraping takes no time at all."""

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any

LAST_SECOND = 20_000.0


class _Skipping(selectors.BaseSelector):
    """A selector that does not wait: it moves the clock on."""

    def __init__(self, loop: "HourglassLoop") -> None:
        self._real = selectors.DefaultSelector()
        self._loop = loop

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if not ready:
            assert timeout is not None, "everybody waits, and nothing will ever happen"
            self._loop.now += max(0.0, timeout)
            assert self._loop.now < LAST_SECOND, "this never ends"
        return ready


class HourglassLoop(asyncio.SelectorEventLoop):
    """Runs until everything waits, and then moves on to the next time that somebody waits for."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        super().__init__(_Skipping(self))

    def time(self) -> float:
        return self.now


def play(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario to its end; ``asyncio.sleep`` in it passes no real time."""
    with asyncio.Runner(loop_factory=HourglassLoop) as runner:
        runner.run(scenario)
