# SPDX-License-Identifier: Apache-2.0
"""Repeats the rounds of a command at a fixed interval, with a replaceable clock."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from keda_gpu_scaler.cli.output import say

OK = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """The clocks of a command. Tests replace them."""

    monotonic: Callable[[], float] = time.monotonic
    utc: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a command repeats its round.

    ``count`` is the number of rounds, None for no limit; it counts only while ``is_watching``.
    """

    is_watching: bool
    interval_seconds: float
    count: int | None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Read the values of ``arguments.watch_options``."""
        return cls(given["watch"] or given["count"] is not None, given["interval"], given["count"])


def repeat(play: Callable[[int], int], pace: Pace, timing: Timing) -> int:
    """Play rounds and return the highest exit status of all; 0 after Ctrl-C.

    Rounds begin ``pace.interval_seconds`` apart; a round that takes longer is followed by the next at once.

    Args:
        play: plays one round and returns its exit status; it gets the round's number, from 0.
        pace: how often.
        timing: the clocks.
    """
    worst, done = OK, 0
    try:
        while True:
            began = timing.monotonic()
            worst, done = max(worst, play(done)), done + 1
            if not pace.is_watching or done == pace.count:
                return worst
            timing.sleep(max(0.0, began + pace.interval_seconds - timing.monotonic()))
    except KeyboardInterrupt:
        say("")
        return OK
