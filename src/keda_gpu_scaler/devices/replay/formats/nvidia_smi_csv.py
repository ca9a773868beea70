# SPDX-License-Identifier: Apache-2.0
"""Logs of ``nvidia-smi --query-gpu=… --format=csv``, and tables of other programs with such titles.

The titles are those of ``nvidia-smi --help-query-gpu``. nvidia-smi itself prefers power.draw, which is the average or
the instant power, as the device offers it.
"""

from collections.abc import Sequence
from types import MappingProxyType

from keda_gpu_scaler.devices.replay.log_fields import FieldTable
from keda_gpu_scaler.devices.replay.log_format import LogFormat, register
from keda_gpu_scaler.devices.replay.table_log import TableLog, is_header

COMMAND = (
    "nvidia-smi --query-gpu=timestamp,index,uuid,name,pci.bus_id,utilization.gpu,utilization.memory,"
    "memory.used,memory.total,temperature.gpu,power.draw --format=csv -l 1"
)
TITLES = FieldTable(
    MappingProxyType(
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
)


def _titles(header: Sequence[str]) -> FieldTable:
    return TITLES


register(
    LogFormat(
        name="nvidia-smi CSV",
        command=COMMAND,
        recognises=lambda line: is_header(line, _titles),
        open=lambda: TableLog(_titles, remedy=f"record with: {COMMAND}"),
        note="the titles of `--query-gpu`, in any order, among others; with or without units",
    )
)
