# SPDX-License-Identifier: Apache-2.0
"""Holds the state of the live view, and changes it with each key.

Law: a key is a name ("up", "enter") or a character. This module does not use the terminal.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from keda_gpu_scaler.cli.top.arrangement import RowKind, SortKey

Choice = TypeVar("Choice", bound=StrEnum)

_MAX_FILTER_LENGTH = 80
_END_OFFSET = 1 << 30


class ViewPage(StrEnum):
    """The page that the live view shows."""

    TABLE = "table"
    HELP = "help"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class ViewState:
    """How the live view shows the fleet.

    ``words`` is the filter. ``offset`` is the first row that is shown. ``typing`` is the filter while the operator
    types it, else None.
    """

    kind: RowKind = RowKind.DEVICE
    sort: SortKey = SortKey.NODE
    is_reversed: bool = False
    words: str = ""
    offset: int = 0
    page: ViewPage = ViewPage.TABLE
    typing: str | None = None


KEYS = (
    ("q, Ctrl-C", "quit"),
    ("h, ?", "show this help; the same key or Esc goes back"),
    ("b, Tab", "switch the rows: workloads, devices, nodes, pods"),
    ("w, d, n, p", "show workloads, devices, nodes or pods"),
    ("s, right, left", "sort by the next or the previous column"),
    ("r", "reverse the order"),
    ("/", "filter by words in the row; Enter applies the filter, Esc removes it"),
    ("up, down", "scroll by a line; PgUp and PgDn by a page; Home and End"),
    ("!", "show every unavailable instance, with the reason"),
    ("Ctrl-L", "redraw"),
)
"""The keys and their effects, for the help."""

_PAGES = {"h": ViewPage.HELP, "?": ViewPage.HELP, "!": ViewPage.UNAVAILABLE}
_KINDS = {"w": RowKind.WORKLOAD, "d": RowKind.DEVICE, "n": RowKind.NODE, "p": RowKind.POD}
_SCROLLS = {"up": -1, "down": 1, "k": -1, "j": 1}


def state_after(state: ViewState, key: str, page_rows: int = 10) -> ViewState | None:
    """Return the state after a key; None to quit.

    Args:
        state: the state before.
        key: a character, or the name of a key ("up", "page down", "escape", "enter", "backspace", "tab").
        page_rows: the rows that "page down" scrolls.
    """
    if state.typing is not None:
        return _after_typing(state, state.typing, key)
    if key == "q":
        return None
    if key in _PAGES:
        return replace(state, page=ViewPage.TABLE if state.page is _PAGES[key] else _PAGES[key], offset=0)
    if key == "escape":
        words = "" if state.page is ViewPage.TABLE else state.words
        return replace(state, page=ViewPage.TABLE, words=words, offset=0)
    offset = _scrolled(state, key, page_rows)
    if offset is not None:
        return replace(state, offset=offset)
    return state if state.page is not ViewPage.TABLE else _after_table_key(state, key)


def _after_typing(state: ViewState, text: str, key: str) -> ViewState:
    if key == "enter":
        return replace(state, words=text.strip(), typing=None, offset=0)
    if key == "escape":
        return replace(state, words="", typing=None, offset=0)
    if key == "backspace":
        return replace(state, typing=text[:-1])
    if len(key) == 1 and key.isprintable() and len(text) < _MAX_FILTER_LENGTH:
        return replace(state, typing=text + key)
    return state


def _scrolled(state: ViewState, key: str, page_rows: int) -> int | None:
    steps = {**_SCROLLS, "page up": -page_rows, "page down": page_rows, " ": page_rows}
    if key in steps:
        return max(0, state.offset + steps[key])
    # The view lowers the offset to the last row.
    return {"home": 0, "end": _END_OFFSET}.get(key)


def _after_table_key(state: ViewState, key: str) -> ViewState:
    if key == "/":
        return replace(state, typing=state.words)
    if key == "r":
        return replace(state, is_reversed=not state.is_reversed, offset=0)
    if key in ("b", "tab"):
        return replace(state, kind=_neighbour(state.kind, 1), offset=0)
    if key in _KINDS:
        return replace(state, kind=_KINDS[key], offset=0)
    if key in ("s", "right", "left"):
        return replace(state, sort=_neighbour(state.sort, -1 if key == "left" else 1), is_reversed=False, offset=0)
    return state


def _neighbour(choice: Choice, step: int) -> Choice:
    choices = list(type(choice))
    return choices[(choices.index(choice) + step) % len(choices)]
