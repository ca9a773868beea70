# SPDX-License-Identifier: Apache-2.0
"""Parses logs with JSON: one object or list after the other, on one line each or on many.

Law: one object is kept in memory at a time, and it is at most ``MAX_PAGE_LENGTH`` long. An object that is cut off
or invalid is a gap, and the next one is read.

A line with only a time, as ``date`` prints it, is the time of the objects after it: some tools write none.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Never

from keda_gpu_scaler.devices.replay.log_fields import LogRow, RowReader, TableOf
from keda_gpu_scaler.devices.replay.log_format import LogError, Moment, UnreadableLogError, ValueTally
from keda_gpu_scaler.devices.replay.log_moments import LogMoments
from keda_gpu_scaler.devices.replay.log_times import seconds_or_none
from keda_gpu_scaler.wire.snapshot_codec import MAX_LENGTH

MAX_PAGE_LENGTH = MAX_LENGTH
"""The longest object, in characters."""

# A string without its end is one token too, so that the time for a line is proportional to its length.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?$)|[{}]')

JsonRows = Callable[[dict[str, Any], RowReader], tuple[list[LogRow], bool]]
"""Returns the rows of an object, and whether they are all devices of one moment."""


class JsonLog:
    """Parses a log line by line.

    Args:
        rows_of: returns the rows of one object. It raises ``LogError`` for an object without devices.
        table_of: returns the meaning of the titles of a row.
        uuid_prefix: the prefix of the vendor's UUIDs in this program.
    """

    def __init__(self, rows_of: JsonRows, table_of: TableOf, uuid_prefix: str = "") -> None:
        self.impossible = ValueTally()
        self._rows_of = rows_of
        self._reader = RowReader(table_of, self.impossible)
        self._moments = LogMoments(self.impossible, uuid_prefix)
        self._objects = _JsonObjects()
        self._at: float | None = None

    def line(self, text: str) -> list[Moment]:
        """Read one line, and return the moments that are complete.

        Raises:
            LogError: an object cannot be read. It is lost, and the next one can be read.
        """
        if not self._objects.is_open and (at := seconds_or_none(text)) is not None:
            self._at = at
            return []
        was_cut_off = self._objects.is_cut_off_by(text)
        if was_cut_off:
            self._moments.lose_page()
        try:
            for found in self._objects.feed(text):
                self._add(found)
        except UnreadableLogError:
            raise
        except LogError:
            self._moments.lose_page()
            raise
        if was_cut_off:
            raise LogError("begins an object, but the one before it was cut off")
        return self._moments.take()

    def end(self) -> list[Moment]:
        """Return the last moments."""
        self._moments.end()
        return self._moments.take()

    def _add(self, found: dict[str, Any]) -> None:
        rows, is_page = self._rows_of(found, self._reader)
        own = next((row.at_seconds for row in rows if row.at_seconds is not None), None)
        if is_page:
            at, self._at = (self._at if own is None else own), None
            self._moments.page(at, rows)
        else:
            for row in rows:
                self._moments.add(replace(row, at_seconds=self._at) if row.at_seconds is None else row)


class _JsonObjects:
    """Finds the objects in lines: each one that is not within another object."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._depth = 0

    @property
    def is_open(self) -> bool:
        """Whether an object has begun and not ended."""
        return self._depth > 0

    def feed(self, line: str) -> Iterator[dict[str, Any]]:
        """Yield the objects that end in this line.

        Raises:
            LogError: an object is invalid or too long. Its rest is skipped.
        """
        if self.is_cut_off_by(line):
            self._reset()
        if "\0" in line or "\ufffd" in line:
            self._reset()
            raise LogError("has bytes that are not text")
        begins_at = 0
        for token in _TOKEN.finditer(line):
            if token[0] == "{":
                begins_at = begins_at if self._depth else token.start()
                self._depth += 1
            elif token[0] == "}" and self._depth:
                self._depth -= 1
                if not self._depth:
                    yield self._complete(line[begins_at : token.end()])
        if self._depth:
            self._keep(line[begins_at:])

    def is_cut_off_by(self, line: str) -> bool:
        """Whether a line begins an object although another one is open.

        Within an object, tools indent every line. So a line that is not indented begins the next object.
        """
        return self.is_open and line[:1] in ("{", "[")

    def _keep(self, text: str) -> None:
        self._length += len(text)
        if self._length > MAX_PAGE_LENGTH:
            self._reset()
            raise LogError(f"ends an object that is longer than {MAX_PAGE_LENGTH} characters")
        self._parts.append(text + "\n")

    def _complete(self, text: str) -> dict[str, Any]:
        self._keep(text)
        whole = "".join(self._parts)
        self._reset()
        try:
            found = json.loads(whole, parse_constant=_refuse_constant)
        except RecursionError:
            raise LogError("is nested too deeply") from None
        except ValueError as error:
            raise LogError(f"is not JSON: {error}") from None
        return dict(found)

    def _reset(self) -> None:
        self._parts, self._length, self._depth = [], 0, 0


def _refuse_constant(text: str) -> Never:
    raise ValueError(f"{text} is not JSON")


def text_of(value: object) -> str:
    """Return a JSON value as the text of a cell: {"value": 40, "unit": "%"} is "40 %", and null is empty."""
    if isinstance(value, dict):
        unit = value.get("unit")
        return f"{text_of(value.get('value'))} {unit if isinstance(unit, str) else ''}".strip()
    if isinstance(value, bool) or value is None or isinstance(value, list):
        return ""
    return str(value)
