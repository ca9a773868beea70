# SPDX-License-Identifier: Apache-2.0
"""The performance readings of a recording in columns, each dated by its position in time.

Several snapshots have the same reading, until the next one is taken. It stays one reading here: a trigger counts it
once, by its date.
"""

import math
from array import array
from collections.abc import Callable, Sequence

from keda_gpu_scaler.core.types import PerformanceReadings

_READINGS = (
    "sm_active_ratio",
    "tensor_active_ratio",
    "dram_active_ratio",
    "pcie_rx_bytes_per_second",
    "pcie_tx_bytes_per_second",
    "nvlink_rx_bytes_per_second",
    "nvlink_tx_bytes_per_second",
    "energy_joules",
)


class PerformanceColumns:
    """Every distinct reading, by a number from 1; 0 stands for none."""

    def __init__(self) -> None:
        self._newest: dict[int, tuple[PerformanceReadings, int]] = {}
        self._moments = array("Q")
        self._ages = array("d")  # seconds before the moment
        self._seconds = array("d")
        self._values = array("d")

    def __len__(self) -> int:
        return len(self._moments)

    def add(
        self, device: int, performance: PerformanceReadings | None, moment: int, at_seconds: float | None
    ) -> int:  # fmt: skip
        """Return the number of a reading, a new one if the device had another reading before.

        Args:
            device: the number of the device.
            performance: the reading of a snapshot.
            moment: the number of the snapshot.
            at_seconds: the time of the snapshot, on the clock of the reading.
        """
        if performance is None:
            return 0
        known = self._newest.get(device)
        if known is not None and known[0] == performance:
            return known[1]
        self._moments.append(moment)
        # A writer that is not trusted may date a reading after its snapshot.
        self._ages.append(0.0 if at_seconds is None else max(0.0, at_seconds - performance.at_seconds))
        self._seconds.append(performance.seconds)
        for name in _READINGS:
            value: float | None = getattr(performance, name)
            self._values.append(math.nan if value is None else value)
        self._newest[device] = performance, len(self._moments)
        return len(self._moments)

    def read(
        self, number: int, positions: Sequence[float], dated: Callable[[float], float], speed: float
    ) -> PerformanceReadings | None:
        """Return the reading with a number.

        Args:
            number: what ``add`` returned.
            positions: the position of every moment.
            dated: returns the time of a position, on the clock of the one who reads.
            speed: the number of recorded seconds that pass in one.
        """
        if not number:
            return None
        row = number - 1
        begin = row * len(_READINGS)
        values = self._values[begin : begin + len(_READINGS)]
        return PerformanceReadings(
            dated(positions[self._moments[row]] - self._ages[row]),
            self._seconds[row] / speed,
            *[None if math.isnan(value) else value for value in values],
        )
