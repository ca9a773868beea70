# SPDX-License-Identifier: Apache-2.0
"""Logs of ``nvidia-smi -q -l 1``: pages of indented lines with a name and a value.

Source: recorded outputs of nvidia-smi 590 to 610, on Linux and Windows. A page begins with a line of its own, and has
the time in the form of ctime.
"""

from collections.abc import Mapping

from keda_gpu_scaler.devices.replay.log_format import (
    LogError,
    LogFormat,
    Moment,
    UnreadableLogError,
    ValueTally,
    register,
)
from keda_gpu_scaler.devices.replay.log_moments import LogMoments
from keda_gpu_scaler.devices.replay.log_times import seconds_or_none
from keda_gpu_scaler.devices.replay.nvidia_smi_query import QueriedGpu, rows

_BEGIN = "NVSMI LOG"
_INDENT = 4
_MAX_GPUS = 4096
_MAX_TEXT = 512
_SLICE = "MIG Device"
_POWER = {
    "Power Draw": "power_draw",
    "Average Power Draw": "average_power_draw",
    "Instantaneous Power Draw": "instant_power_draw",
}
_PATHS: Mapping[str, str] = {
    "Product Name": "product_name",
    "GPU UUID": "uuid",
    "GPU Instance ID": "gpu_instance_id",
    "Compute Instance ID": "compute_instance_id",
    "FB Memory Usage/Used": "fb_memory_usage/used",
    "FB Memory Usage/Total": "fb_memory_usage/total",
    "Shared FB Memory Usage/Used": "fb_memory_usage/used",
    "Shared FB Memory Usage/Total": "fb_memory_usage/total",
    "Utilization/GPU": "utilization/gpu_util",
    "Utilization/Gpu": "utilization/gpu_util",
    "Utilization/Memory": "utilization/memory_util",
    "Temperature/GPU Current Temp": "temperature/gpu_temp",
    **{f"GPU Power Readings/{title}": f"gpu_power_readings/{name}" for title, name in _POWER.items()},
    **{f"Power Readings/{title}": f"power_readings/{name}" for title, name in _POWER.items()},
}


class NvidiaSmiTextLog:
    """Parses a log line by line; a page ends where the next one begins."""

    def __init__(self) -> None:
        self.impossible = ValueTally()
        self._moments = LogMoments(self.impossible)
        self._at: float | None = None
        self._gpus: list[QueriedGpu] = []
        self._sections: list[str] = []

    def line(self, text: str) -> list[Moment]:
        """Read one line, and return the moment that ends before it.

        Raises:
            LogError: the page before this line cannot be read. It is lost.
        """
        if _BEGIN in text:
            return self._end_page()
        title, _, value = text.partition(" : ")
        depth = (len(title) - len(title.lstrip(" "))) // _INDENT
        title, value = title.strip(), value.strip()[:_MAX_TEXT]
        if depth == 0:
            self._outer(title, value)
        elif self._gpus:
            self._inner(depth, title, value)
        return self._moments.take()

    def end(self) -> list[Moment]:
        """Return the last moments."""
        return self._end_page()

    def _outer(self, title: str, value: str) -> None:
        if title == "Timestamp":
            self._at = seconds_or_none(value)
        elif title.startswith("GPU ") and not value and len(self._gpus) < _MAX_GPUS:
            self._gpus.append(QueriedGpu(title.removeprefix("GPU ").strip()[:_MAX_TEXT]))
            self._sections = []

    def _inner(self, depth: int, title: str, value: str) -> None:
        gpu = self._gpus[-1]
        self._sections = [*self._sections[: depth - 1], title]
        if title == _SLICE and not value and len(gpu.slices) < _MAX_GPUS:
            gpu.slices.append({})
        elif value:
            is_of_slice = self._sections[0] == _SLICE and bool(gpu.slices)
            path = _PATHS.get("/".join(self._sections[1:] if is_of_slice else self._sections))
            if path:
                (gpu.slices[-1] if is_of_slice else gpu.values)[path] = value

    def _end_page(self) -> list[Moment]:
        at, gpus, self._at, self._gpus, self._sections = self._at, self._gpus, None, [], []
        if gpus:
            try:
                self._moments.page(at, rows(gpus, self.impossible))
            except UnreadableLogError:
                raise
            except LogError:
                self._moments.lose_page()
                raise
        return self._moments.take()


register(
    LogFormat(
        name="nvidia-smi text",
        command="nvidia-smi -q -l 1 > gpus.log",
        recognises=lambda line: _BEGIN in line,
        open=NvidiaSmiTextLog,
        note="as the XML",
    )
)
