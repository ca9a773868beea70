# SPDX-License-Identifier: Apache-2.0
"""Parses logs with comma-separated values: a header with titles, and one row for each device and time.

The columns may have any order, and other columns may be among them. A log that was started again repeats its header,
maybe with other columns. Cells may be quoted. A line with only a time, as ``date`` prints it, is the time of the rows
after it: some tools write none.
"""

import csv

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.devices.replay.log_fields import TableOf
from keda_gpu_scaler.devices.replay.log_format import LogError
from keda_gpu_scaler.devices.replay.log_times import seconds_or_none
from keda_gpu_scaler.devices.replay.row_log import RowLog


class TableLog(RowLog):
    """Parses a log line by line."""

    def _line(self, text: str) -> None:
        cells = cells_of(text)
        if cells == self._titles or self._is_header(cells):
            self._moments.end_pass()
            self._begin(cells)
        elif len(cells) == 1 and len(self._titles) != 1 and (at := seconds_or_none(text)) is not None:
            self._moments.end_pass()
            self._at = at
        elif self._titles:
            self._check_length(cells)
            self._add(cells)

    def _is_header(self, cells: tuple[str, ...]) -> bool:
        # Most rows begin with a number or a time.
        if cells[0][:1].isdigit():
            return False
        table = self._table_of(cells)
        return table.knows(cells[0]) or (not self._titles and table.reads(cells))


def cells_of(line: str) -> tuple[str, ...]:
    """Return the cells of a line without the blanks around them.

    Raises:
        LogError: a quoted cell does not end.
    """
    if '"' not in line:
        return tuple(map(str.strip, line.split(",")))
    try:
        (cells,) = csv.reader([line], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        raise LogError(f"{quoted(line)} has a quoted cell that does not end") from None
    return tuple(map(str.strip, cells))


def is_header(line: str, table_of: TableOf) -> bool:
    """Whether a line has titles of readings."""
    try:
        cells = cells_of(line)
    except LogError:
        return False
    return table_of(cells).reads(cells)
