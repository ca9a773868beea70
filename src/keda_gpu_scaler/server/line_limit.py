# SPDX-License-Identifier: Apache-2.0
"""Limits the rate of log lines: a burst, and then one line in a fixed time."""

from collections.abc import Callable

from keda_gpu_scaler.core.token_bucket import TokenBucket


class LineLimit:
    """A bucket of tokens, one for each line, and the number of lines without one.

    Args:
        burst: the number of lines at once.
        refill_seconds: the time in which one token comes back.
        clock: monotonic seconds.
    """

    def __init__(self, burst: int, refill_seconds: float, clock: Callable[[], float]) -> None:
        self._bucket = TokenBucket(burst, refill_seconds, clock())
        self._clock = clock
        self._left_out = 0

    def take(self) -> int | None:
        """Take a token for a line; return the number of lines without one since the last, None where there is none."""
        if not self._bucket.take(1, self._clock()):
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        return left_out
