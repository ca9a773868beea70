# SPDX-License-Identifier: Apache-2.0
"""How does a screen get to a terminal, and its keys to us? By curses, from the standard library.

The law of this module: whatever happens, the terminal is given back as it was.
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

from keda_gpu_scaler.cli.top.view import Line, Style

_KEYS = {
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
_SIGNS = {"\n": "enter", "\r": "enter", "\t": "tab", "\x1b": "escape", "\x7f": "backspace", "\b": "backspace"}
_REDRAW = "\x0c"  # Ctrl-L
_ESCAPE_MS = 25
_DEAD_AFTER_WAKES = 5
_RED, _CYAN = 1, 2


class TerminalError(Exception):
    """There is no terminal that a screen could be drawn on; the text is a sentence."""


class Terminal:
    """The whole screen, while the ``with`` block lasts.

    Raises:
        TerminalError: on entering, where there is none.
    """

    def __init__(self, *, has_colours: bool = True) -> None:
        self._wants_colours = has_colours
        self._styles: dict[Style, int] = {}
        self._pressed: list[str] = []
        self._idle_wakes = 0

    def __enter__(self) -> Self:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise TerminalError("standard input or output is no terminal: take one picture with --once")
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
        self._styles = _styles(self._wants_colours)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        steps: tuple[Callable[[], object], ...] = (curses.nocbreak, curses.echo, curses.endwin)
        for restore in steps:
            with contextlib.suppress(curses.error):  # a line that is dead takes nothing back
                restore()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        lines, columns = self._window.getmaxyx()
        return columns, lines

    def resized(self) -> None:
        """Take the size that the terminal has now."""
        size = os.get_terminal_size(sys.stdout.fileno())
        curses.resizeterm(size.lines, size.columns)
        self._window.clear()

    def draw(self, lines: Sequence[Line]) -> None:
        """Draw a screen; curses sends what has changed."""
        columns, height = self.size
        self._window.erase()
        for number, line in enumerate(lines[:height]):
            text = f"{line.text:<{columns}}" if line.style is Style.HEAD else line.text
            # The last place of the last line cannot be written without scrolling: the text is there all the same.
            with contextlib.suppress(curses.error):
                self._window.addnstr(number, 0, text, columns, self._styles.get(line.style, curses.A_NORMAL))
        self._window.refresh()

    def pressed(self) -> list[str]:
        """Return the keys that were pressed and not taken yet; the names of those that have no sign."""
        pressed, self._pressed = self._pressed, []
        return pressed

    def _read(self) -> bool:
        """Read what was typed; return whether there may be more to come."""
        before = len(self._pressed)
        while True:
            try:
                key = self._window.get_wch()
            except curses.error:
                break
            if key == _REDRAW:
                self._window.clear()
            self._pressed.append(_KEYS.get(key, "") if isinstance(key, int) else _SIGNS.get(key, key))
        # Something to read that cannot be read, time and again: whoever typed has gone, and the line is dead.
        self._idle_wakes = 0 if len(self._pressed) > before else self._idle_wakes + 1
        return self._idle_wakes < _DEAD_AFTER_WAKES

    @contextlib.contextmanager
    def calling(self, wake: Callable[[], object], stop: Callable[[], object]) -> Iterator[None]:
        """Call ``wake`` in the event loop for every key and every new size, and ``stop`` for every signal to end."""
        loop = asyncio.get_running_loop()

        def typed() -> None:
            (wake if self._read() else stop)()

        def resized() -> None:
            self.resized()
            wake()

        actions = {signal.SIGWINCH: resized, **dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stop)}
        for number, action in actions.items():
            loop.add_signal_handler(number, action)
        loop.add_reader(sys.stdin.fileno(), typed)
        try:
            yield
        finally:
            loop.remove_reader(sys.stdin.fileno())
            for number in actions:
                loop.remove_signal_handler(number)


def _styles(wants_colours: bool) -> dict[Style, int]:
    styles = {
        Style.TITLE: curses.A_BOLD,
        Style.HEAD: curses.A_REVERSE,
        Style.BAD: curses.A_BOLD,
        Style.FAINT: curses.A_DIM,
        Style.INPUT: curses.A_BOLD,
    }
    if wants_colours and curses.has_colors():
        curses.start_color()
        curses.use_default_colors()
        curses.init_pair(_RED, curses.COLOR_RED, -1)
        curses.init_pair(_CYAN, curses.COLOR_CYAN, -1)
        styles |= {Style.BAD: curses.color_pair(_RED), Style.INPUT: curses.color_pair(_CYAN) | curses.A_BOLD}
    return styles
