# SPDX-License-Identifier: Apache-2.0
"""Logs of Intel's ``xpu-smi dump`` and ``xpumcli dump``.

Source of the titles: intel/xpumanager, the documentation of ``dump``, and its recorded outputs. Its times are times of
day. A tile is a part of a GPU.
"""

from collections.abc import Sequence
from types import MappingProxyType

from keda_gpu_scaler.devices.replay.log_fields import FieldTable
from keda_gpu_scaler.devices.replay.log_format import LogFormat, register
from keda_gpu_scaler.devices.replay.table_log import TableLog, is_header

_COMMAND = "xpu-smi dump -d -1 -m 0,1,3,18 -i 1 > gpus.csv"
_TITLES = FieldTable(
    MappingProxyType(
        {
            "timestamp": ("timestamp",),
            "index": ("deviceid",),
            "partition": ("tileid",),
            "gpu_utilization_ratio": ("gpu utilization", "average % utilization of all gpu engines"),
            "memory_used_bytes": ("gpu memory used",),
            "temperature_celsius": ("gpu core temperature",),
            "power_watts": ("gpu power",),
        }
    )
)


def _titles(header: Sequence[str]) -> FieldTable:
    return _TITLES


register(
    LogFormat(
        name="xpu-smi dump",
        command=_COMMAND,
        recognises=lambda line: is_header(line, _titles),
        open=lambda: TableLog(_titles, "intel-", remedy=f"record with: {_COMMAND}"),
        note="tiles are devices; it has no total memory",
    )
)
