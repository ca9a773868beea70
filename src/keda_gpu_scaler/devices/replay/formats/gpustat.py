# SPDX-License-Identifier: Apache-2.0
"""Logs of ``gpustat --json``.

Source of the keys and units: wookayin/gpustat, ``gpustat/core.py``: percent, °C, whole watts, and bytes divided by
1024². ``query_time`` is the time of the machine, in ISO 8601.
"""

import re
from typing import Any

from keda_gpu_scaler.devices.replay.formats.nvidia_smi_csv import TITLES
from keda_gpu_scaler.devices.replay.json_log import JsonLog, text_of
from keda_gpu_scaler.devices.replay.log_fields import LogRow, RowReader
from keda_gpu_scaler.devices.replay.log_format import LogError, LogFormat, register

_KEYS = re.compile(r'"(?:gpus|query_time)"\s*:')


def _rows(found: dict[str, Any], reader: RowReader) -> tuple[list[LogRow], bool]:
    gpus = found.get("gpus")
    if not isinstance(gpus, list):
        raise LogError("has no gpus: must be an object of gpustat")
    time = found.get("query_time")
    rows = []
    for gpu in gpus:
        if isinstance(gpu, dict):
            cells = {title: text_of(value) for title, value in gpu.items()}
            cells |= {"timestamp": time} if isinstance(time, str) else {}
            rows.append(reader.row(cells))
    return rows, True


def _is_json(line: str) -> bool:
    return _KEYS.search(line) is not None


register(
    LogFormat(
        name="gpustat JSON",
        command="while sleep 1; do gpustat --json; done > gpus.log",
        recognises=_is_json,
        open=lambda: JsonLog(_rows, lambda header: TITLES),
        note="power in whole watts, memory in whole MiB",
    )
)
