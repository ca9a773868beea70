# SPDX-License-Identifier: Apache-2.0
"""Limits the rate of writes to the API server: a burst, and then one write in a fixed time."""

from collections.abc import Callable


class WriteLimit:
    """A bucket of tokens, one for each write.

    Args:
        burst: the number of writes at once.
        refill_seconds: the time in which one token comes back.
        clock: monotonic seconds.
    """

    def __init__(self, burst: int, refill_seconds: float, clock: Callable[[], float]) -> None:
        self._burst = burst
        self._refill_seconds = refill_seconds
        self._clock = clock
        self._tokens, self._refilled_at = float(burst), clock()

    def take(self, number: int = 1) -> bool:
        """Take tokens, all or none; for more than the burst, a full bucket is enough."""
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._refilled_at) / self._refill_seconds, self._burst)
        self._refilled_at = now
        if self._tokens < min(number, self._burst):
            return False
        self._tokens -= number
        return True
