# SPDX-License-Identifier: Apache-2.0
"""Parses logs of ``nvidia-smi --query-gpu=… --format=csv -l 1`` into moments of samples.

Law: a value is read in the unit of its header, or refused with its line and column. Every text that nvidia-smi writes
in the place of a reading ("[N/A]", "[GPU is lost]", …) is an unknown reading.

The columns may have any order, and other columns may be among them. The field names are those of
``nvidia-smi --help-query-gpu``. A CSV file of another tool can be read if its columns are in the table of aliases.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.metrics import MIB
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.wire.snapshot_codec import MAX_SAMPLES, MAX_TEXT_LENGTH, MAX_WHOLE

MAX_SPREAD_SECONDS = 1.0
"""Rows that are further apart in time than this belong to two moments, even if no device repeats."""

_log = logging.getLogger(__name__)

_MAX_INDEX = 65535
_MAX_LISTED = 12
_CACHED_CELLS = 4096

EXAMPLE = (
    "nvidia-smi --query-gpu=timestamp,index,uuid,name,pci.bus_id,utilization.gpu,utilization.memory,"
    "memory.used,memory.total,temperature.gpu,power.draw --format=csv -l 1"
)

_PERCENT = MappingProxyType({"%": 0.01})
_MEMORY = MappingProxyType({"MiB": float(MIB), "B": 1.0, "KiB": 1024.0, "GiB": 1024.0 * MIB})
_CELSIUS = MappingProxyType({"C": 1.0, "°C": 1.0})
_WATTS = MappingProxyType({"W": 1.0, "mW": 0.001})


@dataclass(frozen=True, slots=True)
class _Quantity:
    """One kind of reading. ``units`` maps each unit to its factor; the first unit applies to a cell without one."""

    units: Mapping[str, float]
    at_least: float
    at_most: float


_QUANTITIES: MappingProxyType[str, _Quantity] = MappingProxyType(
    {
        "gpu_utilization_ratio": _Quantity(_PERCENT, 0, 1),
        "memory_utilization_ratio": _Quantity(_PERCENT, 0, 1),
        "memory_used_bytes": _Quantity(_MEMORY, 0, MAX_WHOLE),
        "memory_total_bytes": _Quantity(_MEMORY, 0, MAX_WHOLE),
        "temperature_celsius": _Quantity(_CELSIUS, -273.15, 10_000),
        "power_watts": _Quantity(_WATTS, 0, 1e6),
    }
)

# The first column with a value is taken, in this order. nvidia-smi itself prefers power.draw.
_ALIASES: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "timestamp": ("timestamp",),
        "index": ("index", "gpu_index"),
        "uuid": ("uuid", "gpu_uuid"),
        "model": ("name", "gpu_name"),
        "pci_address": ("pci.bus_id", "gpu_bus_id"),
        "gpu_utilization_ratio": ("utilization.gpu", "utilization_gpu_percent"),
        "memory_utilization_ratio": ("utilization.memory", "utilization_memory_percent"),
        "memory_used_bytes": ("memory.used", "memory_used_mib"),
        "memory_total_bytes": ("memory.total", "memory_total_mib"),
        "temperature_celsius": ("temperature.gpu", "temperature_c"),
        "power_watts": ("power.draw", "power.draw.instant", "power.draw.average", "power_w"),
    }
)

_VALUE = re.compile(r"([+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([%°A-Za-z]*)")
_MUST_BE_TIME = "must be a time like 2025/01/31 14:02:03.123"
_KNOWN_TITLES = frozenset(alias for aliases in _ALIASES.values() for alias in aliases)
_NO_READING = frozenset({"", "-", "n/a", "err!", "not supported", "unknown error"})
_PCI_ADDRESS = re.compile(r"(?:0000)?([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])")


class LogError(ValueError):
    """A line that cannot be parsed. The text is a sentence without the name of the file and the number of the line."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The samples of one moment. ``at_seconds`` is on the log's own clock, None in a log without times."""

    at_seconds: float | None
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class _LogColumn:
    """The place of a field in a row, and the parser of its cells; ``title`` is for error sentences.

    ``read`` returns None for a cell without a reading. It raises LogError with a sentence on what a cell must be.
    """

    place: int
    title: str
    read: Callable[[str], Any]


class NvidiaSmiLog:
    """Parses a log line by line. A line may complete the moment before it.

    A device is identified by its UUID, else by its index, else by its PCI address. In a log without these columns, the
    rows of one moment are devices in the order of the rows.
    """

    def __init__(self) -> None:
        self._titles: tuple[str, ...] = ()
        self._columns: dict[str, tuple[_LogColumn, ...]] = {}
        self._devices: dict[str, Device] = {}
        self._index_by_key: dict[str, int] = {}
        self._uuid_by_index: dict[int, str] = {}
        self._group: dict[str, Sample] = {}
        self._group_at: float | None = None

    def line(self, text: str) -> Moment | None:
        """Parse one line, and return the moment that ends before it, if one does.

        Raises:
            LogError: the line is malformed. It is dropped, and the next line can be parsed.
        """
        cells = tuple(map(str.strip, text.split(",")))
        # A log that was started again repeats its header, maybe with other columns.
        if cells == self._titles or not self._titles or _split_title(cells[0])[0] in _KNOWN_TITLES:
            if cells != self._titles:
                self._start(cells)
            return self.end()
        if len(cells) != len(self._titles):
            raise LogError(f"has {len(cells)} columns: must have {len(self._titles)}, like the header")
        return self._row(cells)

    def end(self) -> Moment | None:
        """Return the last moment, if there is one."""
        if not self._group:
            return None
        moment = Moment(self._group_at, tuple(self._group.values()))
        self._group = {}
        return moment

    def _start(self, header: tuple[str, ...]) -> None:
        columns = _columns(header)
        if not self._titles and not columns.keys() & {"uuid", "index", "pci_address"}:
            _log.warning("no column identifies a device: rows of different times are read as one device")
        self._columns, self._titles = columns, header

    def _row(self, cells: tuple[str, ...]) -> Moment | None:
        at = self._read(cells, "timestamp")
        if at is None and "timestamp" in self._columns:
            raise _invalid(self._columns["timestamp"][0], cells, _MUST_BE_TIME)
        readings = {name: self._read(cells, name) for name in _QUANTITIES}
        device = self._device(cells, at)
        if len(self._devices) >= MAX_SAMPLES and device.uuid not in self._devices:
            raise LogError(f"holds one device more: must be at most {MAX_SAMPLES} in a log")
        moment = self.end() if self._starts_group(device, at) else None
        if not self._group:
            self._group_at = at
        # The first description of a device is kept, even if a reboot changes its index.
        known = self._devices.setdefault(device.uuid, device)
        self._uuid_by_index[device.index] = device.uuid
        self._index_by_key.setdefault(device.uuid, device.index)
        self._index_by_key.setdefault(device.pci_address or device.uuid, device.index)
        self._group[device.uuid] = _sample(known, readings)
        return moment

    def _starts_group(self, device: Device, at: float | None) -> bool:
        # nvidia-smi writes the time of each row: the rows of one pass may differ by some milliseconds.
        return device.uuid in self._group or (bool(self._group) and not self._is_same_pass(at))

    def _is_same_pass(self, at: float | None) -> bool:
        return at is None or self._group_at is None or 0 <= at - self._group_at < MAX_SPREAD_SECONDS

    def _device(self, cells: tuple[str, ...], at: float | None) -> Device:
        uuid = self._read(cells, "uuid")
        listed_index = self._read(cells, "index")
        pci_address = self._read(cells, "pci_address") or ""
        index = self._order(uuid or pci_address, at) if listed_index is None else listed_index
        known = self._devices.get(uuid or "")
        if uuid in self._group and known and known.index != index and self._is_same_pass(at):
            must = f"must differ between devices, but index {known.index} has it; leave uuid out to go by index"
            raise _invalid(self._columns["uuid"][0], cells, must)
        return Device(
            uuid=uuid or self._uuid_by_index.get(index, f"replay-gpu-{index}"),
            index=index,
            model=self._read(cells, "model") or "unknown",
            pci_address=pci_address,
        )

    def _order(self, key: str, at: float | None) -> int:
        """Return the index of a device in a log without an index column: devices are counted in order of appearance."""
        if key:
            return self._index_by_key.get(key, len(self._devices))
        return len(self._group) if at is not None and at == self._group_at else 0

    def _read(self, cells: tuple[str, ...], name: str) -> Any:
        """Return the value of the first column of this field that has a value."""
        for column in self._columns.get(name, ()):
            try:
                value = column.read(cells[column.place])
            except LogError as error:
                raise _invalid(column, cells, str(error)) from None
            if value is not None:
                return value
        return None


def _columns(cells: tuple[str, ...]) -> dict[str, tuple[_LogColumn, ...]]:
    """Find the known columns of a header.

    Raises:
        LogError: there is no column with a reading, or a column has an unknown unit.
    """
    titles: dict[str, tuple[int, str]] = {}
    for place, cell in enumerate(cells):
        titles.setdefault(_split_title(cell)[0], (place, cell))
    columns = {
        name: tuple(_LogColumn(place, title, _reader(name, title)) for place, title in found)
        for name, aliases in _ALIASES.items()
        if (found := [titles[alias] for alias in aliases if alias in titles])
    }
    if not columns.keys() & _QUANTITIES.keys():
        listed = ", ".join(quoted(cell) for cell in cells[:_MAX_LISTED]) + (", …" if cells[_MAX_LISTED:] else "")
        needed = ", ".join(_ALIASES[name][0] for name in _QUANTITIES)
        raise LogError(f"no known column among {listed}: must have one of {needed}; record with: {EXAMPLE}")
    return columns


def _reader(name: str, title: str) -> Callable[[str], Any]:
    """Return the parser of one column's cells. It caches the cells, because most cells repeat.

    Raises:
        LogError: the column has an unknown unit.
    """
    if name not in _QUANTITIES:
        read: Callable[[str], Any] = _NAMES[name]
    else:
        quantity, unit = _QUANTITIES[name], _split_title(title)[1]
        if unit and unit not in quantity.units:
            raise LogError(f"column {quoted(title)}: must be in {' or '.join(quantity.units)}")
        read = partial(_measure, quantity, unit or next(iter(quantity.units)))
    return lru_cache(_CACHED_CELLS)(lambda cell: None if _has_no_reading(cell) else read(cell))


def _split_title(cell: str) -> tuple[str, str]:
    """Split "memory.used [MiB]" into the field's name and its unit."""
    title, _, unit = cell.partition("[")
    return title.strip().lower(), unit.rstrip("] ")


def _measure(quantity: _Quantity, usual_unit: str, cell: str) -> float:
    match = _VALUE.fullmatch(cell)
    unit = (match and match[2]) or usual_unit
    if not match or unit not in quantity.units:
        raise LogError(f"must be a number of {' or '.join(quantity.units)}, or [N/A]")
    size = quantity.units[unit]
    # Divided where that is exact: 57 % is 57/100, but 57 x 0.01 is 0.5700000000000001.
    value = float(match[1]) / round(1 / size) if size < 1 else float(match[1]) * size
    if not quantity.at_least <= value <= quantity.at_most:
        raise LogError(f"must be from {quantity.at_least / size:g} to {quantity.at_most / size:g} {unit}, or [N/A]")
    return value


def _sample(device: Device, readings: Mapping[str, float | None]) -> Sample:
    used, total = readings["memory_used_bytes"], readings["memory_total_bytes"]
    # If the two values contradict each other, both are unknown. The driver wrote them, so the row is valid.
    if total is not None and not (used or 0) <= total > 0:
        used, total = None, None
    return Sample(
        device=device,
        gpu_utilization_ratio=readings["gpu_utilization_ratio"],
        memory_utilization_ratio=readings["memory_utilization_ratio"],
        memory_used_bytes=None if used is None else round(used),
        memory_total_bytes=None if total is None else round(total),
        temperature_celsius=readings["temperature_celsius"],
        power_watts=readings["power_watts"],
    )


def _has_no_reading(cell: str) -> bool:
    # A text in brackets is nvidia-smi's reason for an unknown value.
    return (cell.startswith("[") and cell.endswith("]")) or cell.lower() in _NO_READING


def _seconds(cell: str) -> float:
    """Parse a time. A time without a zone is read as UTC, because only differences matter."""
    try:
        parsed = datetime.fromisoformat(cell.replace("/", "-"))
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise LogError(_MUST_BE_TIME) from None


def _whole(cell: str) -> int:
    if not (cell.isascii() and cell.isdigit() and len(cell) <= len(str(_MAX_INDEX)) and int(cell) <= _MAX_INDEX):
        raise LogError(f"must be a whole number from 0 to {_MAX_INDEX}")
    return int(cell)


def _name(cell: str) -> str:
    if len(cell) > MAX_TEXT_LENGTH or not cell.isprintable():
        raise LogError(f"must be at most {MAX_TEXT_LENGTH} printable characters")
    return cell


def _pci_address(cell: str) -> str:
    """Return a PCI address in the kernel's spelling: nvidia-smi writes eight digits for the domain, and capitals."""
    match = _PCI_ADDRESS.fullmatch(cell.lower())
    return match[1] if match else _name(cell)


_NAMES: MappingProxyType[str, Callable[[str], Any]] = MappingProxyType(
    {"timestamp": _seconds, "index": _whole, "uuid": _name, "model": _name, "pci_address": _pci_address}
)


def _invalid(column: _LogColumn, cells: tuple[str, ...], must: str) -> LogError:
    return LogError(f"column {quoted(column.title)}: Invalid value: {quoted(cells[column.place])}: {must}")
