# SPDX-License-Identifier: Apache-2.0
"""Parses logs with pages of a device exporter in Prometheus' text format, one page after the other.

A series that repeats begins the next page. Several series of one device that differ in their other labels, such as the
pods that share it, have one value. A line with only a time, as ``date`` prints it, is the time of the page after it. A
timestamp of a series is the time of its page too.

Source: Prometheus, "Exposition formats".
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from keda_gpu_scaler.devices.replay.log_fields import LogRow
from keda_gpu_scaler.devices.replay.log_format import LogError, Moment, UnreadableLogError, ValueTally
from keda_gpu_scaler.devices.replay.log_moments import LogMoments
from keda_gpu_scaler.devices.replay.log_times import seconds_or_none

MAX_SERIES = 65536
"""The most series of one page that are read."""

# Every quantifier is possessive, so that the time for a line is proportional to its length.
_SERIES = re.compile(
    r"\s*+(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)\s*+(?:\{(?P<labels>(?:[^\"}]*+\"[^\"\\]*+(?:\\.[^\"\\]*+)*+\")*+[^\"}]*+)\})?+"
    r"\s*+(?P<value>[^\s{}]++)(?:\s++(?P<at>-?+[0-9]++))?+\s*+"
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*+)\s*+=\s*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,3})?")
_MAX_LENGTH = 1 << 16

Labels = Mapping[str, str]


@dataclass(slots=True)
class ExportedDevice:
    """The identity of a device of one page, and its values by the names of the series."""

    row: LogRow
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExporterTable:
    """What an exporter calls the devices and their readings.

    ``names`` are the series that are read. ``identify`` returns the device of a series from its labels. ``readings``
    returns the readings of ``Sample`` from the values of one device.
    """

    names: frozenset[str]
    identify: Callable[[Labels], LogRow]
    readings: Callable[[ExportedDevice, ValueTally], dict[str, float | None]]


class ExporterLog:
    """Parses a log line by line."""

    def __init__(self, table: ExporterTable, uuid_prefix: str = "") -> None:
        self.impossible = ValueTally()
        self._table = table
        self._moments = LogMoments(self.impossible, uuid_prefix)
        self._devices: dict[object, ExportedDevice] = {}
        self._series: set[str] = set()
        self._at: float | None = None

    def line(self, text: str) -> list[Moment]:
        """Read one line, and return the moment that ends before it.

        Raises:
            LogError: the line is no series, or the page before it cannot be read.
        """
        if text.lstrip().startswith("#"):
            return []
        if (at := seconds_or_none(text)) is not None:
            self._end_page()
            self._at = at
        elif (match := _SERIES.fullmatch(text) if len(text) <= _MAX_LENGTH else None) is None:
            raise LogError("is no series of Prometheus' text format")
        elif match["name"] in self._table.names:
            self._add(match, text[: match.start("value")])
        return self._moments.take()

    def end(self) -> list[Moment]:
        """Return the last moments."""
        self._end_page()
        self._moments.end()
        return self._moments.take()

    def _add(self, match: re.Match[str], series: str) -> None:
        value = float(match["value"]) if _NUMBER.fullmatch(match["value"]) else None
        row = self._table.identify(dict(_LABEL.findall(match["labels"] or "")))
        if series in self._series:
            self._end_page()
        if len(self._series) >= MAX_SERIES:
            raise UnreadableLogError(f"a page has more than {MAX_SERIES} series of devices; cut it into parts")
        self._series.add(series)
        if match["at"]:
            self._at = int(match["at"][:15]) / 1000
        device = self._devices.setdefault((row.uuid, row.index, row.instances), ExportedDevice(row))
        if value is not None:
            device.values.setdefault(match["name"], value)

    def _end_page(self) -> None:
        devices, at = list(self._devices.values()), self._at
        self._devices, self._series, self._at = {}, set(), None
        if not devices:
            return
        parents = {device.row.parent for device in devices}
        try:
            # A GPU in MIG mode is replaced by its slices.
            self._moments.page(at, [self._row(one) for one in devices if one.row.uuid not in parents - {None}])
        except UnreadableLogError:
            raise
        except LogError:
            self._moments.lose_page()
            raise

    def _row(self, device: ExportedDevice) -> LogRow:
        row = device.row
        return LogRow(
            index=row.index,
            uuid=row.uuid,
            model=row.model,
            pci_address=row.pci_address,
            parent=row.parent,
            instances=row.instances,
            readings=self._table.readings(device, self.impossible),
        )
