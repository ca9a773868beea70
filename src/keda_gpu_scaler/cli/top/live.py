# SPDX-License-Identifier: Apache-2.0
"""Runs the live view of ``top``: it draws the readings at an interval, and after each key."""

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import click

from keda_gpu_scaler.cli.pace import Timing
from keda_gpu_scaler.cli.top.columns import Glyphs
from keda_gpu_scaler.cli.top.sources import FleetSource
from keda_gpu_scaler.cli.top.sparklines import Sparklines
from keda_gpu_scaler.cli.top.view import view_lines, visible_rows
from keda_gpu_scaler.cli.top.view_state import ViewState, state_after

if TYPE_CHECKING:
    from keda_gpu_scaler.cli.top.curses_terminal import Terminal


@contextlib.contextmanager
def whole_terminal(ctx: click.Context) -> Iterator["Terminal"]:
    """Use the whole terminal for the time of the block.

    Raises:
        click.UsageError: there is no usable terminal.
    """
    try:
        from keda_gpu_scaler.cli.top.curses_terminal import Terminal, TerminalError
    except ImportError as error:  # curses is an optional part of Python
        message = f"the live view is not available ({error}): print the table once with --once"
        raise click.UsageError(message, ctx) from error
    try:
        with Terminal(has_colours=not os.environ.get("NO_COLOR")) as terminal:
            yield terminal
    except TerminalError as error:
        raise click.UsageError(str(error), ctx) from error


async def run_live_view(
    opening: AbstractAsyncContextManager[FleetSource],
    state: ViewState,
    terminal: "Terminal",
    interval_seconds: float,
    timing: Timing,
    glyphs: Glyphs,
) -> None:
    """Show the live view until the operator quits.

    Args:
        opening: opens the source of the readings.
        state: the first state of the view.
        terminal: where the view is drawn.
        interval_seconds: the longest time between two drawings.
        timing: the clocks.
        glyphs: the characters that the terminal shows.
    """
    sparklines = Sparklines()
    changed, stopped = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        stopped.set()
        changed.set()

    async with opening as source:
        with terminal.calling(changed.set, stop):
            while not stopped.is_set():
                changed.clear()
                width, height = terminal.size
                after = _after_keys(state, terminal.take_keys(), visible_rows(height))
                if after is None:
                    return
                state = after
                readings, now = source.readings(), timing.monotonic()
                sparklines.record(readings.rows, now)
                lines, state = view_lines(readings, state, sparklines, now, width, height, glyphs)
                terminal.draw(lines)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(interval_seconds):
                        await changed.wait()


def _after_keys(state: ViewState, keys: Iterable[str], page_rows: int) -> ViewState | None:
    """Return the state after these keys; None if one of them quits."""
    for key in keys:
        after = state_after(state, key, page_rows)
        if after is None:
            return None
        state = after
    return state
