# SPDX-License-Identifier: Apache-2.0
"""The energy that one card has used, from the counter of its sensors (hwmon).

Law: it is taken every ``PERFORMANCE_SECONDS`` while it is wanted. The kernel's files have no other expensive reading.

Source: the kernel's Documentation/ABI/testing/sysfs-driver-intel-xe-hwmon and -i915-hwmon: microjoules.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from keda_gpu_scaler.core.types import PerformanceReadings
from keda_gpu_scaler.devices.sysfs import UnreadableError

PERFORMANCE_SECONDS = 5.0
_EARLY_SECONDS = 0.25  # as the sampler's ticks jitter
MISSING: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("activity", "pcie", "nvlink"), "the files of i915 and xe do not have it")
)
"""Why the other readings are unknown, by their names."""


class CardEnergy:
    """The energy of one card."""

    def __init__(self) -> None:
        self._due_at = -math.inf
        self._last_at: float | None = None
        self._readings: PerformanceReadings | None = None

    def stop(self) -> None:
        """End the readings."""
        self._due_at, self._last_at, self._readings = -math.inf, None, None

    def update(self, read_joules: Callable[[], float], at_seconds: float) -> PerformanceReadings | None:
        """Return the readings, None while there are none.

        Args:
            read_joules: reads the counter. Raises ``UnreadableError`` where it cannot be read.
            at_seconds: monotonic seconds.
        """
        if at_seconds < self._due_at:
            return self._readings
        self._due_at = at_seconds + PERFORMANCE_SECONDS - _EARLY_SECONDS
        seconds = 0.0 if self._last_at is None else max(0.0, at_seconds - self._last_at)
        self._last_at = at_seconds
        try:
            self._readings = PerformanceReadings(at_seconds, seconds, energy_joules=read_joules())
        except UnreadableError:
            self._readings = None
        return self._readings
