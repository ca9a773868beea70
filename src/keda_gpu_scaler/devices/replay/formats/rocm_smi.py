# SPDX-License-Identifier: Apache-2.0
"""Logs of ``rocm-smi --json`` and ``rocm-smi --csv``.

Source of the titles: ROCm/rocm_smi_lib, ``python_smi_tools/rocm_smi.py``, whose versions differ in them, and recorded
outputs of ROCm 4.3 to 6.1. rocm-smi writes no time: a line with a time before each output, as ``date`` prints it, is
read. Each table of the CSV is a moment.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from keda_gpu_scaler.devices.replay.json_log import JsonLog, text_of
from keda_gpu_scaler.devices.replay.log_fields import FieldTable, LogRow, RowReader, name_of
from keda_gpu_scaler.devices.replay.log_format import LogError, LogFormat, register
from keda_gpu_scaler.devices.replay.table_log import TableLog, is_header

PREFIX = "amd-"
_COMMAND = (
    "while date +%s; do rocm-smi --showuse --showmemuse --showmeminfo vram --showtemp --showpower --showbus "
    "--showuniqueid --showproductname --json; sleep 1; done > gpus.log"
)
_NOTE = "the temperature is that of the edge, or else of the junction"
_CARD = re.compile(r"card([0-9]{1,5})")
_UNIQUE_ID = re.compile(r"0x([0-9a-fA-F]{1,16})")
_CARD_KEY = re.compile(r'"card[0-9]+"\s*:\s*\{')


def _unique_id(cell: str) -> str:
    """Return a unique id as the kernel writes it: 16 digits without 0x."""
    match = _UNIQUE_ID.fullmatch(cell)
    return match[1].lower().rjust(16, "0") if match else name_of(cell)


_TITLES = FieldTable(
    MappingProxyType(
        {
            "index": ("device",),
            "uuid": ("unique id",),
            "model": ("device name", "card series", "card model"),
            "pci_address": ("pci bus",),
            "gpu_utilization_ratio": ("gpu use",),
            "memory_utilization_ratio": ("gpu memory use", "gpu memory read/write activity"),
            "memory_used_bytes": ("vram total used memory",),
            "memory_total_bytes": ("vram total memory",),
            "temperature_celsius": ("temperature (sensor edge)", "temperature (sensor junction)"),
            "power_watts": (
                "average graphics package power",
                "current socket graphics package power",
                "socket graphics package power",
            ),
        }
    ),
    _unique_id,
)


def _titles(header: Sequence[str]) -> FieldTable:
    return _TITLES


def _rows(found: dict[str, Any], reader: RowReader) -> tuple[list[LogRow], bool]:
    cards = {key: value for key, value in found.items() if _CARD.fullmatch(key) and isinstance(value, dict)}
    if not cards:
        raise LogError("has no card: must be an object of rocm-smi")
    rows = []
    for card, values in cards.items():
        cells = {"device": card, **{title: text_of(value) for title, value in values.items()}}
        rows.append(reader.row(cells))
    return _distinct(rows), True


def _distinct(rows: list[LogRow]) -> list[LogRow]:
    """Leave out identifiers that several rows have: partitions of a GPU have one unique id."""
    uuids, addresses = Counter(row.uuid for row in rows), Counter(row.pci_address for row in rows)
    return [
        replace(
            row,
            uuid=row.uuid if uuids[row.uuid] == 1 else None,
            pci_address=row.pci_address if addresses[row.pci_address] == 1 else None,
        )
        for row in rows
    ]


def _is_json(line: str) -> bool:
    return _CARD_KEY.search(line) is not None


register(
    LogFormat(
        name="rocm-smi CSV",
        command=_COMMAND.replace("--json", "--csv"),
        recognises=lambda line: is_header(line, _titles),
        open=lambda: TableLog(_titles, PREFIX, remedy=f"record with: {_COMMAND}"),
        note=f"{_NOTE}",
    )
)
register(
    LogFormat(
        name="rocm-smi JSON",
        command=_COMMAND,
        recognises=_is_json,
        open=lambda: JsonLog(_rows, _titles, PREFIX),
        note=_NOTE,
    )
)
