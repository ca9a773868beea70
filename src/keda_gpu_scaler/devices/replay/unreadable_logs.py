# SPDX-License-Identifier: Apache-2.0
"""Names the logs that ``replay`` does not read, each with the command that records one that it reads."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.devices.replay.formats.nvidia_smi_csv import COMMAND as NVIDIA_SMI
from keda_gpu_scaler.devices.replay.formats.nvidia_smi_csv import TITLES
from keda_gpu_scaler.devices.replay.log_fields import QUANTITIES
from keda_gpu_scaler.devices.replay.log_format import LogError, formats
from keda_gpu_scaler.devices.replay.table_log import cells_of

_MAX_LISTED = 12
_AMD_SMI = "amd-smi metric --watch 1 --json --file gpus.json"


@dataclass(frozen=True, slots=True)
class _UnreadableLog:
    """A log that is known and not read: what is in it, and the command that records a better one."""

    pattern: re.Pattern[str]
    name: str
    command: str


_KNOWN = tuple(
    _UnreadableLog(re.compile(pattern), name, command)
    for pattern, name, command in (
        (r"\|\s*NVIDIA-SMI |^\s*NVIDIA-SMI has failed", "the overview of nvidia-smi, which people read", NVIDIA_SMI),
        (r"^#\s*gpu\s+pid\s", "a log of nvidia-smi pmon, which has processes and no devices", NVIDIA_SMI),
        (r"used_gpu_memory|used_memory \[", "a list of processes, which has no utilisation of devices", NVIDIA_SMI),
        (r"^#\s*Entity|^# *ID +GPUTL", "a log of dcgmi dmon", NVIDIA_SMI),
        (r"ROCm System Management Interface", "the overview of rocm-smi", "rocm-smi -a --json >> gpus.log, repeated"),
        (r"^\s*GPU\[\d+\]\s*:", "the text of rocm-smi", "rocm-smi -a --json >> gpus.log, repeated"),
        (r"^\|\s*AMD-SMI |^GPU: \d+\s*$", "the text of amd-smi, which people read", _AMD_SMI),
        (r"^\s*GPU\s+(?:XCP\s+)?POWER\s", "the table of amd-smi monitor", "amd-smi monitor --csv --watch 1 > gpus.csv"),
        (r"^\[\d+\] .*\|", "the text of gpustat", "while sleep 1; do gpustat --json; done > gpus.log"),
        (r'"device_(?:list|level)"', "an answer of xpu-smi", "xpu-smi dump -d -1 -m 0,1,3,18 -i 1 > gpus.csv"),
        (r"^(?:xpu-smi|xpumcli) ", "an answer of xpu-smi", "xpu-smi dump -d -1 -m 0,1,3,18 -i 1 > gpus.csv"),
        (r"^\|\s*Device ID\s*\|", "an answer of xpu-smi", "xpu-smi dump -d -1 -m 0,1,3,18 -i 1 > gpus.csv"),
        (r"^List of valid properties to query", "the help of nvidia-smi", NVIDIA_SMI),
        (r'"device_name"\s*:.*"gpu_util"|"gpu_util"\s*:', "a snapshot of nvtop", NVIDIA_SMI),
        (r'"resultType"', "an answer of Prometheus", "curl -s http://EXPORTER:9400/metrics >> gpus.log, repeated"),
        (r"^xpum_|^# HELP xpum_|^hw_gpu_", "a page of Intel's exporter", "xpu-smi dump -d -1 -m 0,1,3,18 -i 1"),
        (r"^SQLite format 3", "a database", NVIDIA_SMI),
    )
)


def reason_of(head: Sequence[str]) -> str:
    """Return why a log is not replayed, from its first lines, and what to record instead."""
    for line in head:
        for known in _KNOWN:
            if known.pattern.search(line[:4096]):
                return f"it is {known.name}; record with: {known.command}"
    first = head[0]
    if first.lstrip().startswith(("{", "[")):
        return f"it is JSON of an unknown program; {_readable()}"
    try:
        cells = cells_of(first)
    except LogError:
        cells = ()
    if len(cells) > 1 or any(map(TITLES.knows, cells)):
        return _without_readings(cells)
    return f"its format is not known ({quoted(first.strip())}); {_readable()}"


def _without_readings(cells: Sequence[str]) -> str:
    listed = ", ".join(quoted(cell) for cell in cells[:_MAX_LISTED]) + (", …" if cells[_MAX_LISTED:] else "")
    needed = ", ".join(TITLES.titles[name][0] for name in QUANTITIES)
    return f"no known column among {listed}: must have one of {needed}; record with: {NVIDIA_SMI}"


def _readable() -> str:
    names = ", ".join(one.name for one in formats())
    return f"must be a recording of this program, or a log of one of {names}; record with: {NVIDIA_SMI}"
