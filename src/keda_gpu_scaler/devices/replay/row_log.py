# SPDX-License-Identifier: Apache-2.0
"""The common part of the parsers of logs with a header and one row for each device and time.

Law: a row that does not fit its header is lost as a whole, because its cells may be under other titles.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from keda_gpu_scaler.devices.replay.log_fields import LogColumns, RowReader, TableOf
from keda_gpu_scaler.devices.replay.log_format import LogError, Moment, UnreadableLogError, ValueTally
from keda_gpu_scaler.devices.replay.log_moments import LogMoments


class RowLog(ABC):
    """Parses a log line by line. A subclass says which lines are headers, and splits the others into cells.

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
            if "\0" in text or "\ufffd" in text:
                raise LogError("has bytes that are not text")
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

    @abstractmethod
    def _line(self, text: str) -> None:
        """Read a line of text: begin a table at a header, add a row of it otherwise.

        Raises:
            LogError: the line is malformed.
        """

    def _begin(self, titles: tuple[str, ...], more: tuple[str, ...] = ()) -> None:
        """Begin a table. The rows of one without readings, or with a unit that is not known, are skipped.

        Args:
            titles: of the header. A header that repeats changes nothing.
            more: the titles of the cells that a subclass adds to each row.
        """
        if titles == self._titles:
            return
        is_first, self._titles, self._columns = not self._titles, titles, None
        if self._table_of(titles).reads(titles):
            try:
                self._columns = self._reader.columns((*titles, *more))
            except UnreadableLogError as error:
                raise error if is_first else LogError(str(error)) from None

    def _check_length(self, cells: Sequence[str]) -> None:
        if len(cells) != len(self._titles):
            raise LogError(f"has {len(cells)} columns: must have {len(self._titles)}, like the header")

    def _add(self, cells: Sequence[str]) -> None:
        """Add a row. It has the time of the last line with a time alone where it has none of its own."""
        if self._columns is not None:
            row = self._columns.row(cells)
            self._moments.add(replace(row, at_seconds=self._at) if row.at_seconds is None else row)
