# SPDX-License-Identifier: Apache-2.0
"""Lays out the view by workload: value, target, replicas, the last half hour, and why.

Law: the measured value and the number for the HPA stand in two columns. A gap of the sparkline is not bridged.
"""

from collections.abc import Callable, Sequence

from keda_gpu_scaler.cli.output import UNKNOWN, three_digits
from keda_gpu_scaler.cli.top.columns import (
    ALL_GLYPHS,
    GAP_WIDTH,
    Glyphs,
    LineStyle,
    StyledLine,
    TableColumn,
    fitted_columns,
    joined,
    narrow,
)
from keda_gpu_scaler.cli.top.sparklines import GAP
from keda_gpu_scaler.cli.top.workload_rows import WorkloadRow
from keda_gpu_scaler.core.comparison import ReplicaLimit

SECONDS_PER_CHARACTER = 60.0
"""The time that one character of a sparkline stands for."""
MAX_CHARACTERS = 36

_LIMIT = "LIMIT"
_MIN_CHARACTERS = 6
_METER = 8
_METER_AT_TARGET = 6  # characters; the meter ends at a third above the target
_HIGHEST_RATIO = 4 / 3


def workload_lines(rows: Sequence[WorkloadRow], width: int, glyphs: Glyphs = ALL_GLYPHS) -> list[StyledLine]:
    """Return the head of the table and its rows.

    Args:
        rows: in order.
        width: the columns of the terminal.
        glyphs: the characters that it shows.
    """
    columns, gap = _fitted(rows, width, glyphs)
    lines = [StyledLine(joined([column.head for column in columns], columns, glyphs, gap), LineStyle.HEAD)]
    for number, row in enumerate(rows):
        cells = [
            sparkline(row, column.width, glyphs.bars) if column.cells is None else column.cells[number]
            for column in columns
        ]
        text = _refusal(row, columns[0], width, gap, glyphs) if row.is_refused else joined(cells, columns, glyphs, gap)
        style = LineStyle.BAD if row.reported is None or row.active is None else LineStyle.PLAIN
        lines.append(StyledLine(text.rstrip(), style))
    return lines


def _refusal(row: WorkloadRow, first: TableColumn, width: int, gap: int, glyphs: Glyphs) -> str:
    """Return the line of a refused trigger: it has no number, so the sentence has the place of all columns."""
    why = TableColumn("", None, max(0, width - first.width - gap), 0)
    return joined([narrow(f"{row.namespace}/{row.name}"), narrow(row.why)], [first, why], glyphs, gap)


def _fitted(rows: Sequence[WorkloadRow], width: int, glyphs: Glyphs) -> tuple[list[TableColumn], int]:
    """Return the columns that fit, and the gap between them: the usual one, or one blank where that shows more.

    The metric and the limit are left out before the gap becomes narrow. WHY then begins with the limit.
    """
    columns = _columns(rows, glyphs, width, limit_is_column=True)
    fitted = fitted_columns(columns, width)
    if any(column.head == _LIMIT for column in fitted):
        return fitted, GAP_WIDTH
    columns = _columns(rows, glyphs, width, limit_is_column=False)
    fitted = fitted_columns(columns, width)
    if len(fitted) >= len(columns) - 1:  # all but the metric
        return fitted, GAP_WIDTH
    return fitted_columns(_columns(rows, glyphs, 0, limit_is_column=False), width, 1), 1


def _columns(rows: Sequence[WorkloadRow], glyphs: Glyphs, width: int, *, limit_is_column: bool) -> list[TableColumn]:
    def column(
        head: str, cell: Callable[[WorkloadRow], str], rank: int | None = None, least: int = 0, *, right: bool = True
    ) -> TableColumn:
        cells = [cell(row) for row in rows]
        longest = max(map(len, (head, *cells)))
        return TableColumn(head, cells, longest, min(longest, least) if least else longest, rank, is_right=right)

    recent = min(MAX_CHARACTERS, max(_MIN_CHARACTERS, width // 6 - 4))
    return [
        column("WORKLOAD", lambda row: narrow(f"{row.namespace}/{row.name}"), least=14, right=False),
        column("METRIC", lambda row: narrow(row.metric), 0, right=False),
        column("VALUE", lambda row: three_digits(row.measured, narrow(row.unit))),
        column("", lambda row: meter(row.ratio, glyphs), 2, right=False),
        column("TARGET", lambda row: three_digits(row.target or None)),
        TableColumn("RECENT", None, MAX_CHARACTERS, recent, 4),
        column("REPORTED", lambda row: three_digits(row.reported) + ("*" if row.adjustment else ""), 3),
        column("REPLICAS", lambda row: replicas_text(row, glyphs)),
        *([column(_LIMIT, lambda row: narrow(row.limit), 1, right=False)] if limit_is_column else []),
        column("ACTIVE", lambda row: UNKNOWN if row.active is None else "yes" if row.active else "no", 5, right=False),
        column("WHY", lambda row: narrow(row.why if limit_is_column else _limited(row)), least=10, right=False),
    ]


def _limited(row: WorkloadRow) -> str:
    return row.why if row.limit == ReplicaLimit.NONE.value else f"{row.limit}: {row.why}"


def replicas_text(row: WorkloadRow, glyphs: Glyphs) -> str:
    """Return the present size and the wanted one ("3→4"), or one number where they are equal."""
    now, wanted = (UNKNOWN if size is None else f"{size}" for size in (row.replicas, row.wanted))
    return now if now == wanted else f"{now}{glyphs.arrow}{wanted}"


def meter(ratio: float | None, glyphs: Glyphs) -> str:
    """Return a bar of eight characters for a multiple of the target, with a mark at the target."""
    if ratio is None:
        return ""
    filled = round(min(max(ratio, 0.0), _HIGHEST_RATIO) * _METER_AT_TARGET)
    bar = [glyphs.full if number < filled else " " for number in range(_METER)]
    if filled <= _METER_AT_TARGET:
        bar[_METER_AT_TARGET] = glyphs.mark
    return "".join(bar)


def sparkline(row: WorkloadRow, length: int, bars: str) -> str:
    """Draw the measured value, one character for each minute, with the newest one on the right.

    The highest bar stands for a third above the target, or for the highest value where that is more. A minute whose
    answers had no value is "?", and a minute without an answer is blank.
    """
    known: dict[int, list[float]] = {}
    answered = set()
    for seconds_ago, value in row.history:
        minute = int(seconds_ago // SECONDS_PER_CHARACTER)
        answered.add(minute)
        if value is not None:
            known.setdefault(minute, []).append(value)
    highest = max([row.target * _HIGHEST_RATIO, *(value for values in known.values() for value in values)], default=1.0)
    return "".join(
        _character(known.get(minute), minute in answered, highest, bars) for minute in range(length - 1, -1, -1)
    )


def _character(values: Sequence[float] | None, is_answered: bool, highest: float, bars: str) -> str:
    if values and highest > 0:
        mean = sum(values) / len(values)
        return bars[min(max(int(mean / highest * len(bars)), 0), len(bars) - 1)]
    return GAP if is_answered else " "
