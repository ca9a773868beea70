# SPDX-License-Identifier: Apache-2.0
"""Logs of ``nvidia-smi dmon``, with or without times (``-o DT``), in columns or as CSV.

Each header has two lines that begin with #: the titles, and the units. Source: the help of ``nvidia-smi dmon`` and its
recorded outputs. ``fb`` is the memory in use, in "MB" of 1024² bytes. ``sm`` is the share of time in which a kernel
ran. Without times, the passes are a second apart, which is the interval of dmon.
"""

from collections.abc import Sequence
from types import MappingProxyType

from keda_gpu_scaler.devices.replay.log_fields import FieldTable
from keda_gpu_scaler.devices.replay.log_format import LogFormat, register
from keda_gpu_scaler.devices.replay.row_log import RowLog

COMMAND = "nvidia-smi dmon -s pum -o DT > gpus.log"
_TITLES = FieldTable(
    MappingProxyType(
        {
            "timestamp": ("timestamp",),
            "index": ("gpu",),
            "gpu_utilization_ratio": ("sm",),
            "memory_utilization_ratio": ("mem",),
            "memory_used_bytes": ("fb",),
            "temperature_celsius": ("gtemp",),
            "power_watts": ("pwr",),
        }
    )
)
_DATE, _TIME = "date", "time"


class DmonLog(RowLog):
    """Parses a log line by line."""

    def __init__(self) -> None:
        super().__init__(lambda titles: _TITLES)

    def _line(self, text: str) -> None:
        if text.lstrip().startswith("#"):
            # dmon repeats its header. The line with the units has none of the titles.
            if is_titles(text):
                titles = titles_of(text)
                # A date alone (-o D) says nothing of the time between two passes.
                self._begin(titles, ("timestamp",) if _TIME in titles else ())
        elif self._titles:
            cells = _cells(text)
            self._check_length(cells)
            self._add((*cells, self._time(cells)))

    def _time(self, cells: Sequence[str]) -> str:
        found = dict(zip(self._titles, cells, strict=True))
        return " ".join(found[name] for name in (_DATE, _TIME) if name in found)


def titles_of(line: str) -> tuple[str, ...]:
    """Return the titles in a header, in lower case."""
    return tuple(title.lower() for title in _cells(line.replace("#", " ", 1)))


def is_titles(line: str) -> bool:
    """Whether a line is the first line of a header."""
    titles = titles_of(line) if line.lstrip().startswith("#") else ()
    # pmon, which shows processes, has the column pid.
    return "gpu" in titles and "pid" not in titles and _TITLES.reads(titles)


def _cells(line: str) -> tuple[str, ...]:
    return tuple(map(str.strip, line.split(","))) if "," in line else tuple(line.split())


register(
    LogFormat(
        name="nvidia-smi dmon",
        command=COMMAND,
        recognises=is_titles,
        open=DmonLog,
        note="whole watts; `fb` is the memory in use; it has no total memory, UUID and model",
    )
)
