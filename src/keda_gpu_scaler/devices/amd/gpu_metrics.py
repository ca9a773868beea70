# SPDX-License-Identifier: Apache-2.0
"""Decodes ``gpu_metrics`` and ``xcp_metrics``, the binary tables of amdgpu.

Law: an offset is used only if the table's ``structure_size`` is that of the layout. One version number has had two
layouts, so the number alone proves nothing.

Source: the structs ``gpu_metrics_v1_1`` to ``_v1_8`` and ``amdgpu_partition_metrics_v1_0`` of the kernel's
``kgd_pp_interface.h``. All values are little-endian. A value with all bits set is not available. Formats 2 and 3 are
those of APUs; they have other units in different versions, so an APU is read through sysfs. Version 1.9 is a list of
attributes and no struct, and is not decoded.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from keda_gpu_scaler.devices.sysfs import IMPOSSIBLE_CELSIUS, UnreadableError

LONGEST_TABLE = 65536
MOST_PARTITIONS = 8
APU_FORMATS = (2, 3)

_OLD_DRIVERS_CUT_AT = 4095  # one page, without the end of the text that sysfs takes it for
_SMALLEST_TABLE = 64
_HEADER = struct.Struct("<HBB")
_NO_U16 = 0xFFFF
_NO_U64 = (1 << 64) - 1
_JOULES = 2**-16
"""One count of the energy: the kernel's comment says 15.259 uJ."""
_LINKS = 8
_XCC = struct.Struct("<8I")


@dataclass(frozen=True, slots=True)
class _Links:
    """The offsets of the counters of energy and XGMI: the lanes of a link, and what each of 8 links read and wrote."""

    energy: int
    width: int
    read: int
    written: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """The offsets of one version, in bytes.

    ``celsius`` are the offsets of temperatures in the order of preference: the edge of the die, else its hottest spot.
    ``partition_count`` and ``partitions`` are None before version 1.6; ``stride`` is the size of one partition.
    ``links`` is None before version 1.4.
    """

    size: int
    celsius: tuple[int, ...]
    watts: int
    gfx: int
    memory: int
    partition_count: int | None = None
    partitions: int | None = None
    stride: int = 0
    links: "_Links | None" = None


_LAYOUTS = {
    (1, 1): _Layout(96, (4, 6), 22, 16, 18),
    (1, 2): _Layout(104, (4, 6), 22, 16, 18),
    (1, 3): _Layout(120, (4, 6), 22, 16, 18),
    (1, 4): _Layout(288, (4,), 10, 12, 14, links=_Links(24, 52, 104, 168)),
    (1, 5): _Layout(360, (4,), 10, 12, 14, links=_Links(88, 116, 176, 240)),
    (1, 6): _Layout(1664, (4,), 10, 12, 14, 306, 312, 168, _Links(16, 64, 128, 192)),
    (1, 7): _Layout(2208, (4,), 10, 12, 14, 338, 344, 232, _Links(24, 72, 136, 200)),
    (1, 8): _Layout(3872, (4,), 10, 12, 14, 338, 344, 440, _Links(24, 72, 136, 200)),
}
_PARTITION_VERSION = (1, 0)
_PARTITION_SIZE = 488
_PARTITION_BUSY = 48


@dataclass(frozen=True, slots=True)
class TableHeader:
    """The first four bytes of a table."""

    size: int
    format: int
    content: int

    def __str__(self) -> str:
        return f"{self.format}.{self.content}"


@dataclass(frozen=True, slots=True)
class GpuMetrics:
    """The readings of one GPU; None where the table has none.

    Utilisations are ratios from 0 to 1. ``partitions`` has the utilisation of each compute partition by its number.
    ``energy_joules`` counts since the driver was loaded. ``xgmi_read_kib`` and ``xgmi_written_kib`` count, by the
    number of the link; they are empty where the card has no links. What a card reads comes to it.
    """

    gfx_ratio: float | None
    memory_ratio: float | None
    celsius: float | None
    watts: float | None
    partitions: tuple[float | None, ...] = ()
    energy_joules: float | None = None
    xgmi_read_kib: Mapping[int, int] = field(default_factory=dict)
    xgmi_written_kib: Mapping[int, int] = field(default_factory=dict)


def parse_header(data: bytes) -> TableHeader:
    """Return the header of a table.

    Raises:
        UnreadableError: the table is empty or torn, or its header is impossible.
    """
    if len(data) < _HEADER.size:
        raise UnreadableError("gpu_metrics: it is empty")
    header = TableHeader(*_HEADER.unpack_from(data))
    if not (1 <= header.format <= max(APU_FORMATS) and header.size >= _SMALLEST_TABLE):
        raise UnreadableError(f"gpu_metrics: its header is impossible (version {header}, {header.size} bytes)")
    if len(data) < min(header.size, _OLD_DRIVERS_CUT_AT):
        raise UnreadableError(f"gpu_metrics: it has {len(data)} of {header.size} bytes")
    return header


def parse(data: bytes) -> GpuMetrics:
    """Return the readings of a table ``gpu_metrics``.

    Raises:
        UnreadableError: the table is torn, or its version or size is not known.
    """
    header = parse_header(data)
    layout = _LAYOUTS.get((header.format, header.content))
    if layout is None or layout.size != header.size:
        raise UnreadableError(f"gpu_metrics: version {header} with {header.size} bytes is not known")
    if not any(data[_HEADER.size : layout.size]):
        raise UnreadableError("gpu_metrics: it has a header only")
    temperatures = (_u16(data, offset, IMPOSSIBLE_CELSIUS) for offset in layout.celsius)
    return GpuMetrics(
        gfx_ratio=_ratio(_u16(data, layout.gfx, _NO_U16)),
        memory_ratio=_ratio(_u16(data, layout.memory, _NO_U16)),
        # The die is never at 0 °C and the card never draws 0 W while it answers: there is no such sensor.
        celsius=next((float(celsius) for celsius in temperatures if celsius), None),
        watts=float(_u16(data, layout.watts, _NO_U16) or 0) or None,
        partitions=_partitions(data, layout),
        energy_joules=_energy_joules(data, layout.links),
        xgmi_read_kib=_links(data, layout.links, layout.links.read if layout.links else 0),
        xgmi_written_kib=_links(data, layout.links, layout.links.written if layout.links else 0),
    )


def parse_partition(data: bytes) -> float:
    """Return the utilisation in a table ``xcp_metrics``, as a ratio from 0 to 1.

    Raises:
        UnreadableError: the table is torn, its version or size is not known, or it has no utilisation.
    """
    header = TableHeader(*_HEADER.unpack_from(data)) if len(data) >= _HEADER.size else TableHeader(0, 0, 0)
    if (header.format, header.content) != _PARTITION_VERSION or not header.size == _PARTITION_SIZE <= len(data):
        raise UnreadableError(f"xcp_metrics: version {header} with {len(data)} of {header.size} bytes is not known")
    busy = _mean_busy(data, _PARTITION_BUSY)
    if busy is None:
        raise UnreadableError("xcp_metrics: it has no utilisation")
    return busy


def _partitions(data: bytes, layout: _Layout) -> tuple[float | None, ...]:
    if layout.partition_count is None or layout.partitions is None:
        return ()
    count = _u16(data, layout.partition_count, MOST_PARTITIONS + 1) or 0
    return tuple(_mean_busy(data, layout.partitions + number * layout.stride) for number in range(count))


def _mean_busy(data: bytes, offset: int) -> float | None:
    """Return the mean of the known utilisations of a partition's compute dies (XCC); None without any."""
    ratios = [ratio for percent in _XCC.unpack_from(data, offset) if (ratio := _ratio(percent)) is not None]
    return sum(ratios) / len(ratios) if ratios else None


def _energy_joules(data: bytes, links: _Links | None) -> float | None:
    counted = None if links is None else _u64(data, links.energy)
    return None if counted is None else counted * _JOULES


def _links(data: bytes, links: _Links | None, offset: int) -> Mapping[int, int]:
    if links is None or not _u16(data, links.width, _NO_U16):
        return {}
    found = ((link, _u64(data, offset + 8 * link)) for link in range(_LINKS))
    return {link: count for link, count in found if count is not None}


def _u64(data: bytes, offset: int) -> int | None:
    value = int.from_bytes(data[offset : offset + 8], "little")
    return value if value != _NO_U64 else None


def _u16(data: bytes, offset: int, below: int) -> int | None:
    value = int.from_bytes(data[offset : offset + 2], "little")
    return value if value < below else None


def _ratio(percent: int | None) -> float | None:
    return percent / 100 if percent is not None and percent <= 100 else None
