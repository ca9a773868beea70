# SPDX-License-Identifier: Apache-2.0
"""What stands on a screen of so many columns and lines, and what do keys do to it?

The law of this module: no line is wider than the screen, and of a stranger's text nothing reaches a terminal that it
would obey, or that would shift what stands beside it. It knows no terminal: text goes out, names of keys come in.
"""

import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from keda_gpu_scaler.cli.top.rows import By, Row, Sort, TopView, arranged, together
from keda_gpu_scaler.cli.top.sparklines import PLAIN_SIGNS, SIGNS, STEP_SECONDS, Sparklines

UNKNOWN = "?"
NARROWEST = 40
MAX_SENTENCES = 4
"""So many of those who are not heard stand below the table; ``!`` shows all."""

Choice = TypeVar("Choice", bound=StrEnum)

_GIB = 1 << 30
_GAP = 2
_LONGEST_TRAIL = 36
_SHORTEST_TRAIL = 6


class Style(StrEnum):
    """How a line is drawn."""

    PLAIN = "plain"
    TITLE = "title"
    HEAD = "head"
    BAD = "bad"
    FAINT = "faint"
    INPUT = "input"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen."""

    text: str
    style: Style = Style.PLAIN


class Panel(StrEnum):
    """What the screen shows."""

    TABLE = "table"
    HELP = "help"
    UNHEARD = "unheard"


@dataclass(frozen=True, slots=True)
class ViewState:
    """How somebody looks at the fleet. ``typing`` is the filter while it is being typed, else None."""

    by: By = By.DEVICE
    sort: Sort = Sort.NODE
    is_reversed: bool = False
    words: str = ""
    offset: int = 0
    page: Panel = Panel.TABLE
    typing: str | None = None


_HELP = (
    ("q, Ctrl-C", "quit"),
    ("h, ?", "this help; again, or Esc: back"),
    ("b, Tab", "a row for each device, node or pod"),
    ("d, n, p", "just this: devices, nodes, pods"),
    ("s, right, left", "sort by the next column, or the one before"),
    ("r", "the other way round"),
    ("/", "filter: words that node, model, UUID or holder must hold; Enter keeps it, Esc drops it"),
    ("up, down", "scroll a line; PgUp and PgDn a screen; Home and End"),
    ("!", "who is not heard, and why"),
    ("Ctrl-L", "draw everything anew"),
)
_PAGES = {"h": Panel.HELP, "?": Panel.HELP, "!": Panel.UNHEARD}
_VIEWS = {"d": By.DEVICE, "n": By.NODE, "p": By.POD}
_SCROLLS = {"up": -1, "down": 1, "k": -1, "j": 1}
_LONGEST_FILTER = 80


def pressed(look: ViewState, key: str, screenful: int = 10) -> ViewState | None:
    """Return how somebody looks after a key; None to quit.

    Args:
        look: how until now.
        key: what was typed, or the name of a key ("up", "page down", "escape", "enter", "backspace", "tab").
        screenful: how many rows a screen holds.
    """
    if look.typing is not None:
        return _typed(look, look.typing, key)
    if key == "q":
        return None
    if key in _PAGES:
        return replace(look, page=Panel.TABLE if look.page is _PAGES[key] else _PAGES[key], offset=0)
    if key == "escape":
        return replace(look, page=Panel.TABLE, words="" if look.page is Panel.TABLE else look.words, offset=0)
    scrolled = _scrolled(look, key, screenful)
    if scrolled is not None:
        return replace(look, offset=scrolled)
    return look if look.page is not Panel.TABLE else _arranged(look, key)


def _typed(look: ViewState, text: str, key: str) -> ViewState:
    if key == "enter":
        return replace(look, words=text.strip(), typing=None, offset=0)
    if key == "escape":
        return replace(look, words="", typing=None, offset=0)
    if key == "backspace":
        return replace(look, typing=text[:-1])
    if len(key) == 1 and key.isprintable() and len(text) < _LONGEST_FILTER:
        return replace(look, typing=text + key)
    return look


def _scrolled(look: ViewState, key: str, screenful: int) -> int | None:
    steps = {**_SCROLLS, "page up": -screenful, "page down": screenful, " ": screenful}
    if key in steps:
        return max(0, look.offset + steps[key])
    # As far as there is anything; the screen knows how far that is.
    return {"home": 0, "end": 1 << 30}.get(key)


def _arranged(look: ViewState, key: str) -> ViewState:
    if key == "/":
        return replace(look, typing=look.words)
    if key == "r":
        return replace(look, is_reversed=not look.is_reversed, offset=0)
    if key in ("b", "tab"):
        return replace(look, by=_next(look.by, 1), offset=0)
    if key in _VIEWS:
        return replace(look, by=_VIEWS[key], offset=0)
    if key in ("s", "right", "left"):
        return replace(look, sort=_next(look.sort, -1 if key == "left" else 1), is_reversed=False, offset=0)
    return look


def _next(now: Choice, step: int) -> Choice:
    choices = list(type(now))
    return choices[(choices.index(now) + step) % len(choices)]


# ---- the screen ----


@dataclass(frozen=True, slots=True)
class Signs:
    """What a terminal can show: every sign, or those of ASCII alone."""

    trail: str = SIGNS
    cut: str = "…"
    degree: str = "°C"


PLAIN = Signs(PLAIN_SIGNS, "~", "C")


def screen(
    view: TopView, look: ViewState, trails: Sparklines, now: float, width: int, height: int, signs: Signs = Signs()
) -> tuple[list[Line], ViewState]:
    """Return every line of a screen, and how somebody looks now: never beyond the last row.

    Args:
        view: what there is to see.
        look: how it is looked at.
        trails: what was seen lately.
        now: on the clock of the trails.
        width: the screen's columns.
        height: the screen's lines.
        signs: those that the terminal knows.
    """
    if look.page is not Panel.TABLE:
        body = _help(width) if look.page is Panel.HELP else _everyone(view, width)
        offset = min(look.offset, max(0, len(body) - height))
        return _fitting(body[offset : offset + height], width, signs), replace(look, offset=offset)
    words = look.words if look.typing is None else look.typing
    rows = arranged(view.rows, look.by, look.sort, words, is_reversed=look.is_reversed)
    top = [*_title(view, width), _status(look)]
    bottom = _below(view, width)
    table = table_lines(
        rows, look.by, width, signs, lambda row, length: trails.drawn(row.trails, now, length, signs.trail)
    )
    room = screenful(height, len(top) + len(bottom))
    offset = min(look.offset, max(0, len(rows) - room))
    shown = table[1 + offset : 1 + offset + room]
    if not rows:
        shown = [Line("no row holds these words" if view.rows else "no device is seen yet", Style.FAINT)]
    filling = [Line("")] * (height - len(top) - 1 - len(shown) - len(bottom))
    lines = [*top, table[0], *shown, *filling, *bottom][:height]
    return _fitting(lines, width, signs), replace(look, offset=offset)


def screenful(height: int, others: int = 3 + MAX_SENTENCES) -> int:
    """Return how many rows there is room for, beside the head and so many other lines."""
    return max(1, height - others - 1)


Drawn = Callable[[Row, int], str]


def table_lines(
    rows: Sequence[Row], by: By, width: int, signs: Signs = Signs(), drawn: Drawn | None = None
) -> list[Line]:
    """Return the table's head and its rows, as wide as the screen at most.

    Args:
        rows: in order.
        by: what they are.
        width: the screen's columns.
        signs: those that the terminal knows.
        drawn: draws a row's trail in so many signs; None where there is none.
    """
    columns = _fitted(_columns(rows, by, signs, drawn is not None), width)
    lines = [Line(_joined([column.head for column in columns], columns, signs), Style.HEAD)]
    for number, row in enumerate(rows):
        cells = [
            drawn(row, column.width) if column.cells is None and drawn else (column.cells or [""])[number]
            for column in columns
        ]
        lines.append(Line(_joined(cells, columns, signs).rstrip(), Style.BAD if row.unknown else Style.PLAIN))
    return lines


@dataclass(frozen=True, slots=True)
class _TableColumn:
    """A column: its cells (None for the trail), the width it wants and the least that is of use.

    ``rank`` says which columns go first where there is no room: the lowest. None never goes.
    """

    head: str
    cells: list[str] | None
    width: int
    least: int
    rank: int | None = None
    is_right: bool = False


def _columns(rows: Sequence[Row], by: By, signs: Signs, has_trail: bool) -> list[_TableColumn]:
    def numbers(head: str, cell: Callable[[Row], str], rank: int | None = None) -> _TableColumn:
        cells = [cell(row) for row in rows]
        width = max(map(len, (head, *cells)))
        return _TableColumn(head, cells, width, width, rank, is_right=True)

    def words(head: str, cell: Callable[[Row], str], least: int, rank: int | None = None) -> _TableColumn:
        cells = [cell(row) for row in rows]
        width = max(map(len, (head, *cells)))
        return _TableColumn(head, cells, width, min(width, least), rank)

    node = words("NODE", lambda row: safe(row.node) or "(several)", 8, 5 if by is By.POD else None)
    model = words("MODEL", lambda row: safe(row.model).removeprefix("NVIDIA ") or "(several)", 8, 2)
    trail = [_TableColumn("LATELY", None, _LONGEST_TRAIL, _SHORTEST_TRAIL, 4)] if has_trail else []
    readings = [
        numbers("UTIL", lambda row: _number(row.gpu_utilization_percent, "%")),
        *trail,
        numbers("MEMORY GiB", _memory, 6),
        numbers(signs.degree, lambda row: _number(row.temperature_celsius), 1),
        numbers("W", lambda row: _number(row.power_watts), 3),
    ]
    if by is By.DEVICE:
        held = words("HELD BY", _holders, 10)
        return [node, numbers("GPU", lambda row: row.device), model, *readings, held]
    count = numbers("GPUS", lambda row: _count(row))
    if by is By.NODE:
        return [node, count, model, *readings, words("HELD BY", _holders, 10)]
    return [words("POD", _pod, 16), count, *readings, node, model]


def _fitted(columns: Sequence[_TableColumn], width: int) -> list[_TableColumn]:
    """Leave out what there is no room for, and share out what room is left: to words first, then to the trail."""
    kept = list(columns)
    while _least(kept) > width and any(column.rank is not None for column in kept):
        kept.remove(min((column for column in kept if column.rank is not None), key=lambda column: column.rank or 0))
    spare = max(0, width - _least(kept))
    fitted = {id(column): column.least for column in kept}
    for column in sorted(kept, key=lambda column: column.cells is None):
        more = min(spare, column.width - column.least)
        fitted[id(column)] += more
        spare -= more
    return [replace(column, width=fitted[id(column)]) for column in kept]


def _least(columns: Sequence[_TableColumn]) -> int:
    return sum(column.least for column in columns) + _GAP * (len(columns) - 1)


def _joined(cells: Sequence[str], columns: Sequence[_TableColumn], signs: Signs) -> str:
    parts = []
    for cell, column in zip(cells, columns, strict=True):
        cut = _cut(cell, column.width, signs)
        parts.append(cut.rjust(column.width) if column.is_right else cut.ljust(column.width))
    return (" " * _GAP).join(parts)


# ---- what stands around the table ----


def _title(view: TopView, width: int) -> Iterator[Line]:
    at = f"{view.at.astimezone():%H:%M:%S}"
    parts = [safe(view.place)]
    if view.rows:
        total = together(view.rows)
        nodes = len({row.node for row in view.rows})
        parts += [
            _counted(nodes, "node"),
            f"{_count(total)} {'device' if total.devices == 1 else 'devices'}",
            _number(total.gpu_utilization_percent, " %"),
            f"{_memory(total, 0)} GiB",
            f"{_number(total.power_watts)} W",
        ]
    if view.unheard:
        parts.append(f"{len(view.unheard)} not heard")
    text = "  ".join(parts)
    yield Line(f"{text:<{max(0, width - len(at) - 1)}} {at}" if len(text) + len(at) < width else text, Style.TITLE)


def _status(look: ViewState) -> Line:
    if look.typing is not None:
        return Line(f"filter: {safe(look.typing)}_   Enter keeps it, Esc drops it", Style.INPUT)
    way = ", reversed" if look.is_reversed else ""
    words = f"   filter: {safe(look.words)}" if look.words else ""
    return Line(f"by {look.by}   sorted by {look.sort}{way}{words}   h help   q quit", Style.FAINT)


def _below(view: TopView, width: int) -> list[Line]:
    lines = [Line(safe(note), Style.FAINT) for note in view.notes]
    sentences = [f"{name}: {why}" for name, why in view.unheard.items()]
    shown = sentences if len(sentences) <= MAX_SENTENCES else sentences[: MAX_SENTENCES - 1]
    lines += [Line(safe(sentence), Style.BAD) for sentence in shown]
    if len(shown) < len(sentences):
        lines.append(Line(f"and {len(sentences) - len(shown)} more: ! shows all", Style.BAD))
    return lines


def _help(width: int) -> list[Line]:
    lines = [Line("keda-gpu-scaler top", Style.TITLE), Line("")]
    for keys, meaning in _HELP:
        wrapped = textwrap.wrap(meaning, max(10, width - 20))
        lines += [Line(f"  {keys if place == 0 else '':<16}  {text}") for place, text in enumerate(wrapped)]
    remarks = (
        f"{UNKNOWN} is unknown: not read, or too old to be believed. 3/4 devices: of four, three are seen, and the "
        "other numbers are of these three.",
        f"LATELY is the utilisation, {STEP_SECONDS:g} s a sign, since this was opened.",
        "By pod, each pod has an equal part of a device that several share; LATELY shows the whole device.",
    )
    for remark in remarks:
        lines += [Line(""), *(Line(f"  {text}") for text in textwrap.wrap(remark, max(10, width - 4)))]
    return lines


def _everyone(view: TopView, width: int) -> list[Line]:
    lines = [Line("Not heard" if view.unheard else "Everybody is heard", Style.TITLE), Line("")]
    for name, why in view.unheard.items():
        lines += map(Line, textwrap.wrap(safe(f"{name}: {why}"), width, subsequent_indent="    "))
    return lines


def _fitting(lines: Iterable[Line], width: int, signs: Signs) -> list[Line]:
    return [replace(line, text=_cut(line.text, width, signs)) for line in lines]


# ---- cells ----


def safe(text: str) -> str:
    """Return a stranger's text without what a terminal would obey, or show wider or narrower than one column."""
    return "".join(sign if _is_plain(sign) else "�" for sign in text)


def _is_plain(sign: str) -> bool:
    if sign.isascii():
        return sign.isprintable()
    return sign.isprintable() and not unicodedata.combining(sign) and unicodedata.east_asian_width(sign) not in "WF"


def _cut(text: str, width: int, signs: Signs) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + signs.cut[:width]


def _number(value: float | None, unit: str = "") -> str:
    return UNKNOWN if value is None else f"{value:.0f}{unit}"


def _memory(row: Row, places: int = 1) -> str:
    used, total = (
        UNKNOWN if value is None else f"{value / _GIB:.{places}f}"
        for value in (row.memory_used_bytes, row.memory_total_bytes)
    )
    return f"{used}/{total}" if (used, total) != (UNKNOWN, UNKNOWN) else UNKNOWN


def _count(row: Row) -> str:
    return f"{row.devices}" if row.seen == row.devices else f"{row.seen}/{row.devices}"


def _holders(row: Row) -> str:
    if row.unknown and not row.seen:
        return safe(row.unknown)
    if row.held_by is None:
        return UNKNOWN
    return safe(" ".join(row.held_by)) or "-"


def _pod(row: Row) -> str:
    if row.pod:
        return safe(row.pod)
    return UNKNOWN if row.held_by is None else "(nobody)"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
