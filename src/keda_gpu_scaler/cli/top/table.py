# SPDX-License-Identifier: Apache-2.0
"""Lays out the rows of ``top`` as a table that fits the width of the terminal.

Law: no line is wider than the terminal. Untrusted text reaches a terminal without control characters, and without
characters that take no column or two.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from keda_gpu_scaler.cli.output import UNKNOWN
from keda_gpu_scaler.cli.top.arrangement import RowKind
from keda_gpu_scaler.cli.top.rows import TopRow
from keda_gpu_scaler.cli.top.sparklines import ASCII_BARS, BARS

MIN_WIDTH = 40

_GIB = 1 << 30
_GAP = 2
_MAX_SPARKLINE = 36
_MIN_SPARKLINE = 6
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class LineStyle(StrEnum):
    """How a line is drawn."""

    PLAIN = "plain"
    TITLE = "title"
    HEAD = "head"
    BAD = "bad"
    FAINT = "faint"
    INPUT = "input"


@dataclass(frozen=True, slots=True)
class StyledLine:
    """One line of the table or of the live view."""

    text: str
    style: LineStyle = LineStyle.PLAIN


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters outside ASCII that a terminal shows."""

    bars: str = BARS
    ellipsis: str = "…"
    celsius: str = "°C"


ALL_GLYPHS = Glyphs()
ASCII_GLYPHS = Glyphs(ASCII_BARS, "~", "C")

DrawSparkline = Callable[[TopRow, int], str]
"""Draws a row's sparkline in this number of characters."""


def table_lines(
    rows: Sequence[TopRow],
    kind: RowKind,
    width: int,
    glyphs: Glyphs = ALL_GLYPHS,
    draw_sparkline: DrawSparkline | None = None,
) -> list[StyledLine]:
    """Return the head of the table and its rows.

    Args:
        rows: in order.
        kind: the kind of the rows.
        width: the columns of the terminal.
        glyphs: the characters that it shows.
        draw_sparkline: None for a table without sparklines.
    """
    columns = _fitted(_columns(rows, kind, glyphs, draw_sparkline is not None), width)
    lines = [StyledLine(_joined([column.head for column in columns], columns, glyphs), LineStyle.HEAD)]
    for number, row in enumerate(rows):
        cells = [
            draw_sparkline(row, column.width)
            if column.cells is None and draw_sparkline
            else (column.cells or [""])[number]
            for column in columns
        ]
        style = LineStyle.BAD if row.unknown else LineStyle.PLAIN
        lines.append(StyledLine(_joined(cells, columns, glyphs).rstrip(), style))
    return lines


def fitted_lines(lines: Iterable[StyledLine], width: int, glyphs: Glyphs) -> list[StyledLine]:
    """Return the lines, each cut to the width."""
    return [replace(line, text=_cut_end(line.text, width, glyphs)) for line in lines]


# ---- columns ----


@dataclass(frozen=True, slots=True)
class _TableColumn:
    """A column of the table.

    ``cells`` is None for the sparkline. ``width`` is the preferred width and ``least`` the smallest useful one.
    ``rank`` orders the columns that are left out where there is no room, the lowest first; None is never left out.
    """

    head: str
    cells: list[str] | None
    width: int
    least: int
    rank: int | None = None
    is_right: bool = False


def _columns(rows: Sequence[TopRow], kind: RowKind, glyphs: Glyphs, has_sparkline: bool) -> list[_TableColumn]:
    def numbers(head: str, cell: Callable[[TopRow], str], rank: int | None = None) -> _TableColumn:
        cells = [cell(row) for row in rows]
        width = max(map(len, (head, *cells)))
        return _TableColumn(head, cells, width, width, rank, is_right=True)

    def words(head: str, cell: Callable[[TopRow], str], least: int, rank: int | None = None) -> _TableColumn:
        cells = [cell(row) for row in rows]
        width = max(map(len, (head, *cells)))
        return _TableColumn(head, cells, width, min(width, least), rank)

    node = words("NODE", lambda row: narrow(row.node) or "(several)", 8, 5 if kind is RowKind.POD else None)
    vendor = [words("VENDOR", _vendor, 6, 0)] if _has_vendors(rows) else []
    model = words("MODEL", lambda row: narrow(row.model).removeprefix("NVIDIA ") or "(several)", 8, 2)
    sparkline = [_TableColumn("RECENT", None, _MAX_SPARKLINE, _MIN_SPARKLINE, 4)] if has_sparkline else []
    readings = [
        numbers("UTIL", lambda row: whole_number(row.gpu_utilization_percent, "%")),
        *sparkline,
        numbers("MEMORY GiB", memory, 6),
        numbers(glyphs.celsius, lambda row: whole_number(row.temperature_celsius), 1),
        numbers("W", lambda row: whole_number(row.power_watts), 3),
    ]
    if kind is RowKind.DEVICE:
        holders = words("HELD BY", _holders, 10)
        return [node, numbers("GPU", lambda row: row.device), *vendor, model, *readings, holders]
    count = numbers("GPUS", device_count)
    if kind is RowKind.NODE:
        return [node, count, *vendor, model, *readings, words("HELD BY", _holders, 10)]
    return [words("POD", _pod, 16), count, *readings, node, *vendor, model]


def _has_vendors(rows: Sequence[TopRow]) -> bool:
    """Whether the devices are of several vendors: otherwise a column says nothing."""
    return len({row.vendor for row in rows}) > 1


def _fitted(columns: Sequence[_TableColumn], width: int) -> list[_TableColumn]:
    """Leave out columns until the rest fits. Give the spare width to the texts first, then to the sparkline."""
    kept = list(columns)
    while _least_width(kept) > width and any(column.rank is not None for column in kept):
        kept.remove(min((column for column in kept if column.rank is not None), key=lambda column: column.rank or 0))
    spare = max(0, width - _least_width(kept))
    widths = {id(column): column.least for column in kept}
    for column in sorted(kept, key=lambda column: column.cells is None):
        more = min(spare, column.width - column.least)
        widths[id(column)] += more
        spare -= more
    return [replace(column, width=widths[id(column)]) for column in kept]


def _least_width(columns: Sequence[_TableColumn]) -> int:
    return sum(column.least for column in columns) + _GAP * (len(columns) - 1)


def _joined(cells: Sequence[str], columns: Sequence[_TableColumn], glyphs: Glyphs) -> str:
    parts = []
    for cell, column in zip(cells, columns, strict=True):
        text = _cut_end(cell, column.width, glyphs)
        parts.append(text.rjust(column.width) if column.is_right else text.ljust(column.width))
    return (" " * _GAP).join(parts)


# ---- cells ----


def narrow(text: str) -> str:
    """Return an untrusted text in which every character takes exactly one column of a terminal."""
    return "".join(character if _is_narrow(character) else _REPLACEMENT for character in text)


def _is_narrow(character: str) -> bool:
    if character.isascii():
        return character.isprintable()
    is_wide = unicodedata.east_asian_width(character) in "WF"
    return character.isprintable() and not unicodedata.combining(character) and not is_wide


def whole_number(value: float | None, unit: str = "") -> str:
    """Return a number without decimals, "?" where it is unknown."""
    return UNKNOWN if value is None else f"{value:.0f}{unit}"


def memory(row: TopRow, decimals: int = 1) -> str:
    """Return the used and the total memory in GiB ("72.0/80.0")."""
    used, total = (
        UNKNOWN if value is None else f"{value / _GIB:.{decimals}f}"
        for value in (row.memory_used_bytes, row.memory_total_bytes)
    )
    return f"{used}/{total}" if (used, total) != (UNKNOWN, UNKNOWN) else UNKNOWN


def device_count(row: TopRow) -> str:
    """Return the number of devices, after the number with readings where they differ ("3/4")."""
    return f"{row.devices}" if row.with_value == row.devices else f"{row.with_value}/{row.devices}"


def _holders(row: TopRow) -> str:
    if row.unknown and not row.with_value:
        return narrow(row.unknown)
    if row.held_by is None:
        return UNKNOWN
    return narrow(" ".join(row.held_by)) or "-"


def _vendor(row: TopRow) -> str:
    return narrow(row.vendor) or (UNKNOWN if row.devices == 1 else "(several)")


def _pod(row: TopRow) -> str:
    if row.pod:
        return narrow(row.pod)
    return UNKNOWN if row.held_by is None else "(no pod)"


def _cut_end(text: str, width: int, glyphs: Glyphs) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + glyphs.ellipsis[:width]
