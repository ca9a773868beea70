# SPDX-License-Identifier: Apache-2.0
"""Lays out the rows of ``top`` as a table that fits the width of the terminal.

Law: no line is wider than the terminal. Untrusted text reaches a terminal without control characters, and without
characters that take no column or two.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from keda_gpu_scaler.cli.output import UNKNOWN
from keda_gpu_scaler.cli.top.arrangement import RowKind
from keda_gpu_scaler.cli.top.columns import (
    ALL_GLYPHS,
    Glyphs,
    LineStyle,
    StyledLine,
    TableColumn,
    cut_end,
    fitted_columns,
    joined,
    narrow,
)
from keda_gpu_scaler.cli.top.rows import TopRow

MIN_WIDTH = 40

_GIB = 1 << 30
_MAX_SPARKLINE = 36
_MIN_SPARKLINE = 6


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
    columns = fitted_columns(_columns(rows, kind, glyphs, draw_sparkline is not None), width)
    lines = [StyledLine(joined([column.head for column in columns], columns, glyphs), LineStyle.HEAD)]
    for number, row in enumerate(rows):
        cells = [
            draw_sparkline(row, column.width)
            if column.cells is None and draw_sparkline
            else (column.cells or [""])[number]
            for column in columns
        ]
        style = LineStyle.BAD if row.unknown else LineStyle.PLAIN
        lines.append(StyledLine(joined(cells, columns, glyphs).rstrip(), style))
    return lines


def fitted_lines(lines: Iterable[StyledLine], width: int, glyphs: Glyphs) -> list[StyledLine]:
    """Return the lines, each cut to the width."""
    return [replace(line, text=cut_end(line.text, width, glyphs)) for line in lines]


# ---- columns ----


def _columns(rows: Sequence[TopRow], kind: RowKind, glyphs: Glyphs, has_sparkline: bool) -> list[TableColumn]:
    def numbers(head: str, cell: Callable[[TopRow], str], rank: int | None = None) -> TableColumn:
        cells = [cell(row) for row in rows]
        width = max(map(len, (head, *cells)))
        return TableColumn(head, cells, width, width, rank, is_right=True)

    def words(head: str, cell: Callable[[TopRow], str], least: int, rank: int | None = None) -> TableColumn:
        cells = [cell(row) for row in rows]
        width = max(map(len, (head, *cells)))
        return TableColumn(head, cells, width, min(width, least), rank)

    node = words("NODE", lambda row: narrow(row.node) or "(several)", 8, 5 if kind is RowKind.POD else None)
    vendor = [words("VENDOR", _vendor, 6, 0)] if _has_vendors(rows) else []
    model = words("MODEL", lambda row: narrow(row.model).removeprefix("NVIDIA ") or "(several)", 8, 2)
    sparkline = [TableColumn("RECENT", None, _MAX_SPARKLINE, _MIN_SPARKLINE, 4)] if has_sparkline else []
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


# ---- cells ----


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
