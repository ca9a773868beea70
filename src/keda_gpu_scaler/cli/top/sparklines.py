# SPDX-License-Identifier: Apache-2.0
"""What did each device do in the last minutes? Its utilisation, as far back as somebody looked.

The law of this module: what was not seen leaves a gap. A gap is not bridged, and what was before anybody looked is
blank.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence

from keda_gpu_scaler.cli.top.rows import Row

STEP_SECONDS = 5.0
"""What one sign of a trail stands for."""
LONGEST_STEPS = 60

SIGNS = "▁▂▃▄▅▆▇█"
PLAIN_SIGNS = "_.:-=+*#"
"""The same for terminals that know ASCII only."""
GAP = "?"

Device = tuple[str, str]
"""A node, and a UUID."""


class Sparklines:
    """What was seen of every device, step by step."""

    def __init__(self) -> None:
        self._seen: dict[Device, deque[tuple[int, list[float]]]] = {}

    def note(self, rows: Iterable[Row], now: float) -> None:
        """Take in what rows of single devices show at this moment; what was not shown lately is forgotten."""
        step = math.floor(now / STEP_SECONDS)
        for row in rows:
            for device in row.trails:
                steps = self._seen.setdefault(device, deque(maxlen=LONGEST_STEPS))
                if not steps or steps[-1][0] != step:
                    steps.append((step, []))
                if row.gpu_utilization_percent is not None:
                    steps[-1][1].append(row.gpu_utilization_percent)
        for device in [device for device, steps in self._seen.items() if step - steps[-1][0] > LONGEST_STEPS]:
            del self._seen[device]

    def drawn(self, devices: Sequence[Device], now: float, length: int, signs: str = SIGNS) -> str:
        """Draw the mean of some devices, the newest at the right: a sign for each step, blank before the first."""
        last = math.floor(now / STEP_SECONDS)
        known: dict[int, list[float]] = {}
        first = last + 1
        for device in devices:
            for step, values in self._seen.get(device, ()):
                known.setdefault(step, []).extend(values)
                first = min(first, step)
        return "".join(_sign(known.get(step), step >= first, signs) for step in range(last - length + 1, last + 1))


def _sign(values: list[float] | None, was_looked_at: bool, signs: str) -> str:
    if values:
        mean = sum(values) / len(values)
        return signs[min(max(int(mean / 100 * len(signs)), 0), len(signs) - 1)]
    return GAP if was_looked_at else " "
