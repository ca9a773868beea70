# SPDX-License-Identifier: Apache-2.0
"""Draws the live view on a terminal with curses, and reads the keys.

Law: the terminal gets its former state back in every case, also after an exception or a signal.
"""

import asyncio
import contextlib
import curses
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from keda_gpu_scaler.cli.top.columns import LineStyle, StyledLine

_KEY_NAMES = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_PPAGE: "page up",
    curses.KEY_NPAGE: "page down",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_BACKSPACE: "backspace",
    curses.KEY_ENTER: "enter",
}
_CHARACTER_NAMES = {
    "\n": "enter", "\r": "enter", "\t": "tab", "\x1b": "escape", "\x7f": "backspace", "\b": "backspace",
}  # fmt: skip
_REDRAW = "\x0c"  # Ctrl-L
_ESCAPE_MS = 25
_MAX_EMPTY_READS = 5
_RED, _CYAN = 1, 2


class TerminalError(Exception):
    """The terminal cannot show the live view; the text is a sentence."""


class Terminal:
    """The whole terminal, for the time of a ``with`` block.

    Raises:
        TerminalError: on entering, if there is no usable terminal.
    """

    def __init__(self, *, has_colours: bool = True) -> None:
        self._has_colours = has_colours
        self._attributes: dict[LineStyle, int] = {}
        self._keys: list[str] = []
        self._empty_reads = 0

    def __enter__(self) -> Self:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise TerminalError("standard input or output is not a terminal: print the table once with --once")
        os.environ.setdefault("ESCDELAY", str(_ESCAPE_MS))
        try:
            curses.setupterm()
        except curses.error as error:
            name = os.environ.get("TERM", "")
            raise TerminalError(
                f"the terminal {name!a} is not known here ({error}): set TERM, or use --once"
            ) from error
        self._window = curses.initscr()
        curses.noecho()
        curses.cbreak()
        self._window.keypad(True)
        self._window.nodelay(True)
        with contextlib.suppress(curses.error):
            curses.curs_set(0)
        self._attributes = _attributes(self._has_colours)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        steps: tuple[Callable[[], object], ...] = (curses.nocbreak, curses.echo, curses.endwin)
        for restore in steps:
            with contextlib.suppress(curses.error):  # a closed connection cannot be restored
                restore()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        lines, columns = self._window.getmaxyx()
        return columns, lines

    def resize(self) -> None:
        """Use the current size of the terminal."""
        size = os.get_terminal_size(sys.stdout.fileno())
        curses.resizeterm(size.lines, size.columns)
        self._window.clear()

    def draw(self, lines: Sequence[StyledLine]) -> None:
        """Draw the view; curses sends the changes only."""
        columns, height = self.size
        self._window.erase()
        for number, line in enumerate(lines[:height]):
            text = f"{line.text:<{columns}}" if line.style is LineStyle.HEAD else line.text
            # curses draws the last column of the last line and then reports an error, because it cannot scroll.
            with contextlib.suppress(curses.error):
                self._window.addnstr(number, 0, text, columns, self._attributes.get(line.style, curses.A_NORMAL))
        self._window.refresh()

    def take_keys(self) -> list[str]:
        """Return the keys since the last call: characters, and the names of the others."""
        keys, self._keys = self._keys, []
        return keys

    def _read_keys(self) -> bool:
        """Read the keys; return False if the connection to the terminal is closed."""
        before = len(self._keys)
        while True:
            try:
                key = self._window.get_wch()
            except curses.error:
                break
            if key == _REDRAW:
                self._window.clear()
            self._keys.append(_KEY_NAMES.get(key, "") if isinstance(key, int) else _CHARACTER_NAMES.get(key, key))
        # A closed connection is readable for ever and has no keys.
        self._empty_reads = 0 if len(self._keys) > before else self._empty_reads + 1
        return self._empty_reads < _MAX_EMPTY_READS

    @contextlib.contextmanager
    def calling(self, on_change: Callable[[], object], on_stop: Callable[[], object]) -> Iterator[None]:
        """Call ``on_change`` in the event loop for keys and new sizes, and ``on_stop`` for signals that end it."""
        loop = asyncio.get_running_loop()

        def keys_readable() -> None:
            (on_change if self._read_keys() else on_stop)()

        def size_changed() -> None:
            self.resize()
            on_change()

        endings = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), on_stop)
        handlers = {signal.SIGWINCH: size_changed, **endings}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        loop.add_reader(sys.stdin.fileno(), keys_readable)
        try:
            yield
        finally:
            loop.remove_reader(sys.stdin.fileno())
            for number in handlers:
                loop.remove_signal_handler(number)


def _attributes(has_colours: bool) -> dict[LineStyle, int]:
    attributes = {
        LineStyle.TITLE: curses.A_BOLD,
        LineStyle.HEAD: curses.A_REVERSE,
        LineStyle.BAD: curses.A_BOLD,
        LineStyle.FAINT: curses.A_DIM,
        LineStyle.INPUT: curses.A_BOLD,
    }
    if has_colours and curses.has_colors():
        curses.start_color()
        curses.use_default_colors()
        curses.init_pair(_RED, curses.COLOR_RED, -1)
        curses.init_pair(_CYAN, curses.COLOR_CYAN, -1)
        attributes |= {
            LineStyle.BAD: curses.color_pair(_RED),
            LineStyle.INPUT: curses.color_pair(_CYAN) | curses.A_BOLD,
        }
    return attributes
