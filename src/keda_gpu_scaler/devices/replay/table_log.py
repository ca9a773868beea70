# SPDX-License-Identifier: Apache-2.0
"""Parses logs with comma-separated values: a header with titles, and one row for each device and time.

Law: a row that does not fit its header is lost as a whole, because its cells may be under other titles.

The columns may have any order, and other columns may be among them. A log that was started again repeats its header,
maybe with other columns. Cells may be quoted. A line with only a time, as ``date`` prints it, is the time of the rows
after it: some tools write none.
"""

import csv
from dataclasses import replace

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.devices.replay.log_fields import FieldTable, LogColumns, RowReader, TableOf
from keda_gpu_scaler.devices.replay.log_format import LogError, Moment, UnreadableLogError, ValueTally
from keda_gpu_scaler.devices.replay.log_moments import LogMoments
from keda_gpu_scaler.devices.replay.log_times import seconds_or_none


class TableLog:
    """Parses a log line by line.

    Args:
        table_of: returns the meaning of the titles of a header.
        uuid_prefix: the prefix of the vendor's UUIDs in this program.
        remedy: what to record instead of a log without a column that names devices.
    """

    def __init__(self, table_of: TableOf, uuid_prefix: str = "", remedy: str = "record an index") -> None:
        self.impossible = ValueTally()
        self._table_of = table_of
        self._reader = RowReader(table_of, self.impossible)
        self._moments = LogMoments(self.impossible, uuid_prefix, remedy)
        self._titles: tuple[str, ...] = ()
        self._columns: LogColumns | None = None
        self._at: float | None = None

    def line(self, text: str) -> list[Moment]:
        """Read one line, and return the moments that end before it.

        Raises:
            LogError: the line is malformed. It is lost, and the next line can be read.
        """
        try:
            self._line(text)
        except UnreadableLogError:
            raise
        except LogError:
            self._moments.lose()
            raise
        return self._moments.take()

    def end(self) -> list[Moment]:
        """Return the last moments."""
        self._moments.end()
        return self._moments.take()

    def _line(self, text: str) -> None:
        if "\0" in text or "\ufffd" in text:
            raise LogError("has bytes that are not text")
        cells = cells_of(text)
        if cells == self._titles or self._is_header(cells):
            self._moments.end_pass()
            self._start(self._table_of(cells), cells)
        elif len(cells) == 1 and len(self._titles) != 1 and (at := seconds_or_none(text)) is not None:
            self._moments.end_pass()
            self._at = at
        elif self._titles and len(cells) != len(self._titles):
            raise LogError(f"has {len(cells)} columns: must have {len(self._titles)}, like the header")
        elif self._columns is not None:
            row = self._columns.row(cells)
            self._moments.add(replace(row, at_seconds=self._at) if row.at_seconds is None else row)

    def _is_header(self, cells: tuple[str, ...]) -> bool:
        # Most rows begin with a number or a time.
        if cells[0][:1].isdigit():
            return False
        table = self._table_of(cells)
        return table.knows(cells[0]) or (not self._titles and table.reads(cells))

    def _start(self, table: FieldTable, cells: tuple[str, ...]) -> None:
        """Begin a table. The rows of one without readings, or with a unit that is not known, are skipped."""
        if cells == self._titles:
            return
        is_first, self._titles, self._columns = not self._titles, cells, None
        if table.reads(cells):
            try:
                self._columns = self._reader.columns(cells)
            except UnreadableLogError as error:
                raise error if is_first else LogError(str(error)) from None


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
