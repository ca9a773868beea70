# SPDX-License-Identifier: Apache-2.0
"""Limits the rate of log lines: a burst, and then one line in a fixed time."""

from collections.abc import Callable


class LineLimit:
    """A bucket of tokens, one for each line.

    Args:
        burst: the number of lines at once.
        refill_seconds: the time in which one token comes back.
        clock: monotonic seconds.
    """

    def __init__(self, burst: int, refill_seconds: float, clock: Callable[[], float]) -> None:
        self._burst = burst
        self._refill_seconds = refill_seconds
        self._clock = clock
        self._tokens, self._refilled_at = float(burst), clock()
        self._left_out = 0

    def take(self) -> int | None:
        """Take a token for a line; return the number of lines without one since the last, None where there is none."""
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._refilled_at) / self._refill_seconds, float(self._burst))
        self._refilled_at = now
        if self._tokens < 1:
            self._left_out += 1
            return None
        self._tokens -= 1
        left_out, self._left_out = self._left_out, 0
        return left_out
