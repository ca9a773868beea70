# SPDX-License-Identifier: Apache-2.0
"""The samples of a recording in columns, and the position in time of each moment."""

import math
from array import array
from bisect import bisect_right
from statistics import median

from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.replay.log_format import Moment

DEFAULT_GAP_SECONDS = 1.0
"""The duration of a moment in a recording without times."""
_UNKNOWN = math.nan


class Timeline:
    """All moments of a recording, in columns. Samples are made when a position is read."""

    _READINGS = 6

    def __init__(self) -> None:
        self.duration_seconds = DEFAULT_GAP_SECONDS
        self._ordinals: dict[str, int] = {}
        self._devices: list[Device] = []
        self._by_index: list[tuple[int, Device]] = []
        self._clock = array("d")  # as recorded; NaN for a moment without a time
        self._positions = array("d")  # seconds from the beginning, never decreasing
        self._first_row = array("Q")
        self._row_device = array("I")
        self._row_readings = array("d")  # six a row; bytes are exact up to 8 PiB

    def __len__(self) -> int:
        return len(self._clock)

    def __bool__(self) -> bool:
        return bool(self._devices)

    @property
    def device_count(self) -> int:
        """The number of devices."""
        return len(self._devices)

    @property
    def row_count(self) -> int:
        """The number of samples of all devices together."""
        return len(self._row_device)

    def add(self, moment: Moment) -> None:
        """Append a moment. The first description of a device is kept."""
        self._clock.append(_UNKNOWN if moment.at_seconds is None else moment.at_seconds)
        self._first_row.append(len(self._row_device))
        for sample in moment.samples:
            ordinal = self._ordinals.setdefault(sample.device.uuid, len(self._devices))
            if ordinal == len(self._devices):
                self._devices.append(sample.device)
            self._row_device.append(ordinal)
            self._row_readings.extend(_UNKNOWN if value is None else value for value in _readings(sample))

    def finish(self) -> None:
        """Give every moment its position, after the last moment was added.

        Where the recorded clock goes back (two joined logs, a clock that was set back) or is missing, the position
        advances by the median gap.
        """
        steps = [after - before for before, after in zip(self._clock, self._clock[1:], strict=False)]
        gap = median(forward) if (forward := [step for step in steps if step > 0]) else DEFAULT_GAP_SECONDS
        position = 0.0
        self._positions.append(position)
        for step in steps:
            position += step if step >= 0 else gap
            self._positions.append(position)
        self.duration_seconds = position + gap
        self._by_index = sorted(enumerate(self._devices), key=lambda item: (item[1].index, item[1].uuid))

    def at(self, seconds: float) -> tuple[Sample, ...]:
        """Return one sample of every device, as of this many seconds after the beginning."""
        moment = bisect_right(self._positions, seconds % self.duration_seconds) - 1
        begin = self._first_row[moment]
        end = self._first_row[moment + 1] if moment + 1 < len(self) else self.row_count
        rows = {self._row_device[row]: row for row in range(begin, end)}
        return tuple(
            self._sample(device, rows[ordinal]) if ordinal in rows else Sample(device)
            for ordinal, device in self._by_index
        )

    def _sample(self, device: Device, row: int) -> Sample:
        begin = row * self._READINGS
        gpu, memory, used, total, temperature, power = (
            None if math.isnan(value) else value for value in self._row_readings[begin : begin + self._READINGS]
        )
        return Sample(
            device=device,
            gpu_utilization_ratio=gpu,
            memory_utilization_ratio=memory,
            memory_used_bytes=None if used is None else int(used),
            memory_total_bytes=None if total is None else int(total),
            temperature_celsius=temperature,
            power_watts=power,
        )


def _readings(sample: Sample) -> tuple[float | None, ...]:
    return (
        sample.gpu_utilization_ratio,
        sample.memory_utilization_ratio,
        sample.memory_used_bytes,
        sample.memory_total_bytes,
        sample.temperature_celsius,
        sample.power_watts,
    )
