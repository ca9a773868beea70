# SPDX-License-Identifier: Apache-2.0
"""Keeps the utilisation of each device over the last minutes, and draws it as a sparkline.

Law: a step without a reading is a gap, and no gap is bridged. The time before the first row is blank.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence

from keda_gpu_scaler.cli.top.rows import DeviceKey, TopRow

STEP_SECONDS = 5.0
"""The time that one character of a sparkline stands for."""
MAX_STEPS = 60

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.:-=+*#"
"""The bars for a terminal that shows ASCII only."""
GAP = "?"


class Sparklines:
    """The utilisation of every device, step by step."""

    def __init__(self) -> None:
        self._steps: dict[DeviceKey, deque[tuple[int, list[float]]]] = {}

    def record(self, rows: Iterable[TopRow], now: float) -> None:
        """Record the rows of single devices at this moment; forget a device that had no row for ``MAX_STEPS``."""
        step = math.floor(now / STEP_SECONDS)
        for row in rows:
            for device in row.device_keys:
                steps = self._steps.setdefault(device, deque(maxlen=MAX_STEPS))
                if not steps or steps[-1][0] != step:
                    steps.append((step, []))
                if row.gpu_utilization_percent is not None:
                    steps[-1][1].append(row.gpu_utilization_percent)
        for device in [device for device, steps in self._steps.items() if step - steps[-1][0] > MAX_STEPS]:
            del self._steps[device]

    def draw(self, devices: Sequence[DeviceKey], now: float, length: int, bars: str = BARS) -> str:
        """Draw the mean of some devices, one character for each step, with the newest step on the right."""
        last = math.floor(now / STEP_SECONDS)
        known: dict[int, list[float]] = {}
        first = last + 1
        for device in devices:
            for step, values in self._steps.get(device, ()):
                known.setdefault(step, []).extend(values)
                first = min(first, step)
        return "".join(_character(known.get(step), step >= first, bars) for step in range(last - length + 1, last + 1))


def _character(values: list[float] | None, is_recorded: bool, bars: str) -> str:
    if values:
        mean = sum(values) / len(values)
        return bars[min(max(int(mean / 100 * len(bars)), 0), len(bars) - 1)]
    return GAP if is_recorded else " "
