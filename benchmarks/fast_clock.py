# SPDX-License-Identifier: Apache-2.0
"""Makes a process live faster: its clocks and its event loops run at a multiple of real time.

Law: all waits of asyncio end at their virtual time. Waits of threads and of gRPC's core keep real time.
"""

import asyncio
import selectors
import time
from collections.abc import Callable

from tests.wrapped_selector import WrappedSelector


class _FastSelector(WrappedSelector):
    """A selector whose timeouts are in virtual seconds."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, at most for so many virtual seconds."""
        return self._real.select(timeout if timeout is None else timeout / self._factor)


def install(factor: float, on_loop: Callable[[asyncio.AbstractEventLoop], object] = lambda loop: None) -> None:
    """Speed up this process; to be called before other modules take the clocks as defaults.

    Args:
        factor: the number of virtual seconds in a second.
        on_loop: called with each new event loop.
    """
    monotonic, wall = time.monotonic, time.time
    began, began_unix = monotonic(), wall()

    def new_event_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(_FastSelector(factor))
        on_loop(loop)
        return loop

    time.monotonic = lambda: began + factor * (monotonic() - began)
    time.time = lambda: began_unix + factor * (monotonic() - began)
    asyncio.new_event_loop = asyncio.events.new_event_loop = new_event_loop
