# SPDX-License-Identifier: Apache-2.0
"""The samples of a recording in columns, and the position in time of each moment.

Law: what a recording dates (a reading that took long, the time since when a reading is unknown) keeps its distance from
the moment that has it, on the clock of the one who reads.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from statistics import median

from keda_gpu_scaler.core.types import Device, ReadingFailure, Sample
from keda_gpu_scaler.devices.replay.log_format import Moment
from keda_gpu_scaler.devices.replay.performance_columns import PerformanceColumns

DEFAULT_GAP_SECONDS = 1.0
"""The duration of a moment in a recording without times."""
MAX_REASONS = 10_000
"""The different reasons of unknown readings that are kept. A reading without its reason is unknown too."""
_UNKNOWN = math.nan


class Timeline:
    """All moments of a recording, in columns. Samples are made when a position is read."""

    _READINGS = 7

    def __init__(self) -> None:
        self.duration_seconds = DEFAULT_GAP_SECONDS
        self._ordinals: dict[str, int] = {}
        self._devices: list[Device] = []
        self._by_index: list[tuple[int, Device]] = []
        self._clock = array("d")  # as recorded; NaN for a moment without a time
        self._positions = array("d")  # seconds from the beginning, never decreasing
        self._first_row = array("Q")
        self._row_device = array("I")
        self._row_readings = array("d")  # seven a row, with the lag; bytes are exact up to 8 PiB
        self._row_performance = array("I")
        self._row_reason = array("H")
        self._performance = PerformanceColumns()
        self._reason_numbers: dict[tuple[ReadingFailure, ...], int] = {(): 0}
        self._reasons: list[tuple[tuple[ReadingFailure, ...], int]] = [((), 0)]  # with the first moment that has them

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
        """The number of samples of all devices together, and of their performance readings."""
        return len(self._row_device) + len(self._performance)

    @property
    def has_reading(self) -> bool:
        """Whether at least one reading is known."""
        is_known = (not math.isnan(value) for value in self._row_readings)
        # The lag, the last one of each row, is no reading.
        return any(known and place % self._READINGS != self._READINGS - 1 for place, known in enumerate(is_known))

    def add(self, moment: Moment) -> None:
        """Append a moment. The first description of a device is kept."""
        number = len(self._clock)
        self._clock.append(_UNKNOWN if moment.at_seconds is None else moment.at_seconds)
        self._first_row.append(len(self._row_device))
        for sample in moment.samples:
            ordinal = self._ordinals.setdefault(sample.device.uuid, len(self._devices))
            if ordinal == len(self._devices):
                self._devices.append(sample.device)
            self._row_device.append(ordinal)
            self._row_readings.extend(_UNKNOWN if value is None else value for value in _readings(sample))
            self._row_performance.append(
                self._performance.add(ordinal, sample.performance, number, moment.at_seconds)
            )  # fmt: skip
            self._row_reason.append(self._reason(sample.failures, number))

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

    def at(self, seconds: float, started_at: float = 0.0, speed: float = 1.0) -> tuple[Sample, ...]:
        """Return one sample of every device, as of this many recorded seconds after the beginning.

        Args:
            seconds: recorded seconds since the beginning was read first. After the end the beginning follows.
            started_at: when the beginning was read first, on the clock of the one who reads.
            speed: the number of recorded seconds that pass in one.
        """
        round_began_at = seconds // self.duration_seconds * self.duration_seconds
        moment = bisect_right(self._positions, seconds % self.duration_seconds) - 1
        begin = self._first_row[moment]
        end = self._first_row[moment + 1] if moment + 1 < len(self) else len(self._row_device)
        rows = {self._row_device[row]: row for row in range(begin, end)}

        def dated(position: float) -> float:
            return started_at + (round_began_at + position) / speed

        return tuple(
            self._sample(device, rows[ordinal], dated, speed) if ordinal in rows else Sample(device)
            for ordinal, device in self._by_index
        )

    def _sample(self, device: Device, row: int, dated: Callable[[float], float], speed: float) -> Sample:
        begin = row * self._READINGS
        gpu, memory, used, total, temperature, power, lag = (
            None if math.isnan(value) else value for value in self._row_readings[begin : begin + self._READINGS]
        )
        # A snapshot has no time before the start of its node's clock.
        performance = self._performance.read(
            self._row_performance[row], self._positions, lambda position: max(0.0, dated(position)), speed
        )
        return Sample(
            device=device,
            gpu_utilization_ratio=gpu,
            memory_utilization_ratio=memory,
            memory_used_bytes=None if used is None else int(used),
            memory_total_bytes=None if total is None else int(total),
            temperature_celsius=temperature,
            power_watts=power,
            lag_seconds=(lag or 0.0) / speed,
            failures=self._failures(self._row_reason[row], dated),
            performance=performance,
        )

    def _reason(self, failures: tuple[ReadingFailure, ...], moment: int) -> int:
        """Return the number of the reasons of a sample, 0 where there is none or where too many are kept."""
        number = self._reason_numbers.get(failures)
        if number is not None or len(self._reasons) > MAX_REASONS:
            return number or 0
        self._reasons.append((failures, moment))
        self._reason_numbers[failures] = len(self._reasons) - 1
        return len(self._reasons) - 1

    def _failures(self, number: int, dated: Callable[[float], float]) -> tuple[ReadingFailure, ...]:
        failures, moment = self._reasons[number]
        clock, position = self._clock[moment] if failures else 0.0, self._positions[moment] if failures else 0.0
        return tuple(
            [
                failure
                if failure.since_seconds is None
                else replace(failure, since_seconds=dated(position - (clock - failure.since_seconds)))
                for failure in failures
            ]
        )


def _readings(sample: Sample) -> tuple[float | None, ...]:
    return (
        sample.gpu_utilization_ratio,
        sample.memory_utilization_ratio,
        sample.memory_used_bytes,
        sample.memory_total_bytes,
        sample.temperature_celsius,
        sample.power_watts,
        sample.lag_seconds,
    )
