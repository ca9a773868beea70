# SPDX-License-Identifier: Apache-2.0
"""Reads the cells of logs: the fields of a device by their titles, each in its unit.

Law: a value is read in the unit that its cell or its title names. Every text in the place of a reading ("[N/A]",
"ERR!", "[GPU is lost]", …) is an unknown reading, and so is a value that the device cannot mean.

NVIDIA's and AMD's tools divide bytes by 1024² and write "MB" or "MiB". So MB is MiB here, and KB and GB likewise.
Source: ``amdsmi_cli/amdsmi_commands.py`` (memory // (1024 * 1024), unit "MB"), ``gpustat/core.py`` (MB = 1024 * 1024),
and logs of nvidia-smi before and after it changed the name of the unit.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.metrics import MIB
from keda_gpu_scaler.devices.replay.log_format import LogError, UnreadableLineError, ValueTally
from keda_gpu_scaler.devices.replay.log_times import seconds
from keda_gpu_scaler.wire.snapshot_codec import MAX_TEXT_LENGTH, MAX_WHOLE

MAX_INDEX = 65535
IMPOSSIBLE_CELSIUS = 150
IMPOSSIBLE_WATTS = 10_000
_CACHED_CELLS = 4096
_MAX_HEADERS = 64


@dataclass(frozen=True, slots=True)
class _Quantity:
    """One kind of reading. ``units`` maps each unit to its factor; the first unit applies to a cell without one."""

    units: Mapping[str, float]
    at_most: float
    is_positive: bool = False


_PERCENT = _Quantity(MappingProxyType({"%": 0.01}), 1)
_MEMORY = _Quantity(
    MappingProxyType(
        {
            "MiB": float(MIB),
            "MB": float(MIB),
            "B": 1.0,
            "bytes": 1.0,
            "KiB": 1024.0,
            "KB": 1024.0,
            "GiB": 1024.0 * MIB,
            "GB": 1024.0 * MIB,
        }
    ),
    MAX_WHOLE,
)
# 0 °C and 0 W are what a driver writes for a card that does not answer.
_CELSIUS = _Quantity(
    MappingProxyType({"C": 1.0, "°C": 1.0, "c": 1.0, "Celsius Degree": 1.0}), IMPOSSIBLE_CELSIUS, is_positive=True
)
_WATTS = _Quantity(MappingProxyType({"W": 1.0, "mW": 0.001}), IMPOSSIBLE_WATTS, is_positive=True)

QUANTITIES: MappingProxyType[str, _Quantity] = MappingProxyType(
    {
        "gpu_utilization_ratio": _PERCENT,
        "memory_utilization_ratio": _PERCENT,
        "memory_used_bytes": _MEMORY,
        "memory_total_bytes": _MEMORY,
        "temperature_celsius": _CELSIUS,
        "power_watts": _WATTS,
    }
)

_VALUE = re.compile(r"([+-]?[0-9]{1,20}(?:\.[0-9]{0,20})?)\s*([%°A-Za-z]*)")
_UNIT_OF_TITLE = re.compile(r"(.*?)\s*(?:\[([^\[\]]*)\]|\(([^()]*)\))")
_NO_READING = re.compile(r"|-|n/?a\b.*|nan|none|null|err!.*|not supported|unknown error", re.IGNORECASE)
_INDEX = re.compile(r"(?:(?:card|gpu|nvidia)[ \[]?)?([0-9]{1,5})\]?", re.IGNORECASE)
_PCI_ADDRESS = re.compile(r"(?:0000)?([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])")


@dataclass(frozen=True, slots=True)
class LogRow:
    """What a log has of one device at one time; each field may be missing.

    ``partition`` is the number of a part of the GPU whose index is ``index``. ``parent`` is the UUID of the GPU of a
    slice, and ``instances`` are the ids of its GPU instance and compute instance.
    """

    at_seconds: float | None = None
    index: int | None = None
    uuid: str | None = None
    model: str | None = None
    pci_address: str | None = None
    partition: int | None = None
    parent: str | None = None
    instances: tuple[int | None, int | None] = (None, None)
    readings: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FieldTable:
    """The titles that a tool gives to the fields of a device, in lower case and without a unit.

    The first title with a value is taken, in this order. The fields are those of ``LogRow`` (its time is "timestamp")
    and those of ``QUANTITIES``. ``read_uuid`` returns a UUID in this program's spelling.
    """

    titles: Mapping[str, tuple[str, ...]]
    read_uuid: Callable[[str], str] = lambda cell: name_of(cell)

    def reads(self, titles: Sequence[str]) -> bool:
        """Whether one of these titles is that of a reading."""
        known = {split_title(title)[0] for title in titles}
        return any(known.intersection(self.titles.get(name, ())) for name in QUANTITIES)

    def knows(self, title: str) -> bool:
        """Whether a title is that of a field."""
        return any(split_title(title)[0] in accepted for accepted in self.titles.values())


TableOf = Callable[[Sequence[str]], FieldTable]
"""Returns the titles that a header of a tool has; some tools give one title two meanings."""


@dataclass(frozen=True, slots=True)
class _OddValue:
    """A cell that is no reading although it should be one, and why."""

    must: str


@dataclass(frozen=True, slots=True)
class _LogColumn:
    place: int
    title: str
    read: Callable[[str], Any]


class LogColumns:
    """Reads the rows under one header.

    Raises:
        UnreadableLineError: a column has an unknown unit.
    """

    def __init__(self, table: FieldTable, header: Sequence[str], impossible: ValueTally) -> None:
        titles: dict[str, tuple[int, str]] = {}
        for place, cell in enumerate(header):
            titles.setdefault(split_title(cell)[0], (place, cell))
        self._impossible = impossible
        self._columns = {
            name: tuple(_LogColumn(place, title, _reader(table, name, title)) for place, title in found)
            for name, accepted in table.titles.items()
            if (found := [titles[title] for title in accepted if title in titles])
        }

    def __contains__(self, name: str) -> bool:
        """Whether the header has a field."""
        return name in self._columns

    def row(self, cells: Sequence[str]) -> LogRow:
        """Read one row.

        Raises:
            LogError: the time or the identity of the device cannot be read.
        """
        at = self._read(cells, "timestamp")
        if at is None and "timestamp" in self._columns:
            raise _invalid(self._columns["timestamp"][0], cells, "must be a time like 2025/01/31 14:02:03.123")
        return LogRow(
            at_seconds=at,
            index=self._read(cells, "index"),
            uuid=self._read(cells, "uuid"),
            model=self._read(cells, "model"),
            pci_address=self._read(cells, "pci_address"),
            partition=self._read(cells, "partition"),
            readings={name: self._read(cells, name) for name in QUANTITIES if name in self._columns},
        )

    def _read(self, cells: Sequence[str], name: str) -> Any:
        """Return the value of the first column of this field that has a value."""
        for column in self._columns.get(name, ()):
            try:
                value = column.read(cells[column.place])
            except LogError as error:
                raise _invalid(column, cells, str(error)) from None
            if isinstance(value, _OddValue):
                self._impossible.add(str(_invalid(column, cells, value.must)))
            elif value is not None:
                return value
        return None


class RowReader:
    """Reads rows under any header of one log. It remembers the columns of headers, because most of them repeat."""

    def __init__(self, table_of: TableOf, impossible: ValueTally) -> None:
        self._table_of = table_of
        self._impossible = impossible
        self._columns: dict[tuple[str, ...], LogColumns] = {}

    def columns(self, header: tuple[str, ...]) -> LogColumns:
        """Return the columns of a header.

        Raises:
            UnreadableLineError: a column has an unknown unit.
        """
        found = self._columns.get(header)
        if found is None:
            if len(self._columns) >= _MAX_HEADERS:
                self._columns.clear()
            found = self._columns[header] = LogColumns(self._table_of(header), header, self._impossible)
        return found

    def row(self, cells: Mapping[str, str]) -> LogRow:
        """Read the row that has these texts by their titles.

        Raises:
            LogError: the time or the identity of the device cannot be read.
        """
        return self.columns(tuple(cells)).row(tuple(cells.values()))


def split_title(cell: str) -> tuple[str, str]:
    """Split "memory.used [MiB]" or "GPU use (%)" into the title in lower case and the unit."""
    cell = cell.strip()
    match = _UNIT_OF_TITLE.fullmatch(cell) if len(cell) <= MAX_TEXT_LENGTH else None
    return (match[1].lower(), (match[2] or match[3] or "").strip()) if match else (cell.lower(), "")


def measure(name: str, text: str, tally: ValueTally, usual_unit: str = "") -> float | None:
    """Return a reading from a text such as "57 %"; None where it is unknown or impossible."""
    if has_no_reading(text):
        return None
    value = _measure(QUANTITIES[name], usual_unit or next(iter(QUANTITIES[name].units)), text.strip())
    if isinstance(value, _OddValue):
        tally.add(f"{name}: Invalid value: {quoted(text)}: {value.must}")
        return None
    return value


def within_limits(name: str, value: float | None, tally: ValueTally) -> float | None:
    """Return a reading in the unit of ``Sample``, None if the device cannot mean it."""
    quantity = QUANTITIES[name]
    if value is None or (0 <= value <= quantity.at_most and (value > 0 or not quantity.is_positive)):
        return value
    tally.add(f"{name}: Invalid value: {value:g}: must be {_range(quantity, 1)}")
    return None


def has_no_reading(cell: str) -> bool:
    """Whether a cell has a reason in the place of a reading: a text in brackets, maybe with a unit behind it."""
    cell = cell.strip()
    return (cell.startswith("[") and "]" in cell) or _NO_READING.fullmatch(cell) is not None


def name_of(cell: str) -> str:
    """Return a name.

    Raises:
        LogError: it has letters that would change a terminal, or it is too long.
    """
    if len(cell) > MAX_TEXT_LENGTH or not cell.isprintable():
        raise LogError(f"must be at most {MAX_TEXT_LENGTH} printable characters")
    return cell


def pci_address_of(cell: str) -> str:
    """Return a PCI address in the kernel's spelling: nvidia-smi writes eight digits for the domain, and capitals."""
    match = _PCI_ADDRESS.fullmatch(cell.lower())
    return match[1] if match else name_of(cell)


def index_of(cell: str) -> int:
    """Return an index: "3", "card3", "GPU[3]".

    Raises:
        LogError: it is none.
    """
    match = _INDEX.fullmatch(cell) if cell.isascii() else None
    if match is None or int(match[1]) > MAX_INDEX:
        raise LogError(f"must be a whole number from 0 to {MAX_INDEX}")
    return int(match[1])


def _reader(table: FieldTable, name: str, title: str) -> Callable[[str], Any]:
    """Return the parser of one column's cells. It caches the cells, because most cells repeat."""
    if name not in QUANTITIES:
        read: Callable[[str], Any] = table.read_uuid if name == "uuid" else _NAMES[name]
    else:
        quantity, unit = QUANTITIES[name], split_title(title)[1]
        if unit and unit not in quantity.units:
            raise UnreadableLineError(f"column {quoted(title)}: must be in {' or '.join(quantity.units)}")
        read = partial(_measure, quantity, unit or next(iter(quantity.units)))
    return lru_cache(_CACHED_CELLS)(lambda cell: None if has_no_reading(cell) else read(cell))


def _measure(quantity: _Quantity, usual_unit: str, cell: str) -> float | _OddValue:
    match = _VALUE.fullmatch(cell)
    unit = (match and match[2]) or usual_unit
    if not match or unit not in quantity.units:
        return _OddValue(f"must be a number of {' or '.join(quantity.units)}, or [N/A]")
    size = quantity.units[unit]
    # Divided where that is exact: 57 % is 57/100, but 57 x 0.01 is 0.5700000000000001.
    value = float(match[1]) / round(1 / size) if size < 1 else float(match[1]) * size
    if not 0 <= value <= quantity.at_most or (value == 0 and quantity.is_positive):
        return _OddValue(f"must be {_range(quantity, size)} {unit}, or [N/A]")
    return value


def _range(quantity: _Quantity, size: float) -> str:
    return f"{'above' if quantity.is_positive else 'from'} 0 to {quantity.at_most / size:g}"


_NAMES: MappingProxyType[str, Callable[[str], Any]] = MappingProxyType(
    {
        "timestamp": seconds,
        "index": index_of,
        "partition": index_of,
        "model": name_of,
        "pci_address": pci_address_of,
    }
)


def _invalid(column: _LogColumn, cells: Sequence[str], must: str) -> LogError:
    return LogError(f"column {quoted(column.title)}: Invalid value: {quoted(cells[column.place])}: {must}")
