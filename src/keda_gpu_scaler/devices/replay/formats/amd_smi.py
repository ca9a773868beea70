# SPDX-License-Identifier: Apache-2.0
"""Logs of ``amd-smi metric`` and ``amd-smi monitor``, as CSV and JSON.

Source of the titles: ROCm/amdsmi, ``amdsmi_cli/amdsmi_commands.py`` and ``amdsmi_logger.py``, which flattens the JSON
of ``metric`` into the columns of the CSV. ``mem`` is a temperature in ``metric``, and a utilisation in ``monitor``. Its
times are whole seconds of the epoch.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from keda_gpu_scaler.devices.replay.json_log import JsonLog, text_of
from keda_gpu_scaler.devices.replay.log_fields import FieldTable, LogRow, RowReader
from keda_gpu_scaler.devices.replay.log_format import LogError, LogFormat, register
from keda_gpu_scaler.devices.replay.table_log import TableLog, is_header

PREFIX = "amd-"
_COMMAND = "amd-smi metric --usage --power --temperature --mem-usage --watch 1 {} --file gpus.{}"
_NOTE = "`metric` and `monitor`; MB are MiB; the temperature is that of the edge, or else of the hottest spot"
_MONITOR_ONLY = frozenset({"power_usage", "hotspot_temperature", "gfx", "vram_percent", "gfx_clk"})

_GPU_KEY = re.compile(r'"gpu(?:_data)?"\s*:')

_METRIC = {
    "timestamp": ("timestamp",),
    "index": ("gpu",),
    "partition": ("xcp", "partition_id"),
    "uuid": ("uuid",),
    "model": ("market_name",),
    "pci_address": ("bdf",),
    "gpu_utilization_ratio": ("gfx_activity", "average_gfx_activity", "gfx_usage", "gfx"),
    "memory_utilization_ratio": ("umc_activity", "average_umc_activity", "mem_usage"),
    "memory_used_bytes": ("used_vram", "vram_used"),
    "memory_total_bytes": ("total_vram", "vram_total"),
    "temperature_celsius": ("edge", "edge_temperature", "hotspot", "hotspot_temperature"),
    "power_watts": ("socket_power", "current_socket_power", "average_socket_power", "power_usage"),
}
_METRIC_TITLES = FieldTable(MappingProxyType(_METRIC))
_MONITOR_TITLES = FieldTable(MappingProxyType({**_METRIC, "memory_utilization_ratio": ("mem",)}))


def _titles(header: Sequence[str]) -> FieldTable:
    return _MONITOR_TITLES if _MONITOR_ONLY.intersection(cell.lower() for cell in header) else _METRIC_TITLES


def _rows(found: dict[str, Any], reader: RowReader) -> tuple[list[LogRow], bool]:
    whole = found.get("gpu_data")
    if isinstance(whole, list):
        return [_row(one, reader) for one in whole if isinstance(one, dict) and "gpu" in one], True
    return [_row(found, reader)], False


def _row(found: Mapping[str, Any], reader: RowReader) -> LogRow:
    cells = dict(_leaves(found))
    if "gpu" not in cells:
        raise LogError("has no gpu: must be an object of amd-smi")
    return reader.row(cells)


def _leaves(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the values of an object and of its sections, as the CSV of amd-smi has them."""
    leaves = []
    for title, value in found.items():
        if isinstance(value, dict) and "value" not in value:
            inner = [(key, each) for key, each in value.items() if not isinstance(each, dict) or "value" in each]
            leaves += [(key, text_of(each)) for key, each in inner]
        else:
            leaves.append((title, text_of(value)))
    return leaves


def _is_json(line: str) -> bool:
    return _GPU_KEY.search(line) is not None


register(
    LogFormat(
        name="amd-smi CSV",
        command=_COMMAND.format("--csv", "csv"),
        recognises=lambda line: is_header(line, _titles),
        open=lambda: TableLog(_titles, PREFIX, remedy=f"record with: {_COMMAND.format('--csv', 'csv')}"),
        note=_NOTE,
    )
)
register(
    LogFormat(
        name="amd-smi JSON",
        command=_COMMAND.format("--json", "json"),
        recognises=_is_json,
        open=lambda: JsonLog(_rows, _titles, PREFIX),
        note=_NOTE,
    )
)
