# SPDX-License-Identifier: Apache-2.0
"""Whether the readings that are expensive to take are wanted now.

Law: registering interest reads nothing. It sets a time, and the sampler's thread looks at it before its next reading.
"""

import math

INTEREST_SECONDS = 600.0
"""How long interest lasts that is not renewed, as for peers: longer than the longest polling interval in use."""


class ReadingInterest:
    """Until when a trigger or the exporter needs ``Sample.performance``. Any thread may call it."""

    def __init__(self) -> None:
        self._until = -math.inf

    def register(self, now: float, seconds: float = INTEREST_SECONDS) -> None:
        """Want the readings for a while; at most for ``INTEREST_SECONDS``. A shorter time ends no longer one.

        Args:
            now: monotonic seconds.
            seconds: for how long. NaN and negative numbers count as 0.
        """
        # With the arguments in this order NaN becomes 0.
        self._until = max(self._until, now + min(max(0.0, seconds), INTEREST_SECONDS))

    def is_live(self, now: float) -> bool:
        """Whether the readings are wanted."""
        return now < self._until

    def remaining_seconds(self, now: float) -> float:
        """Return for how much longer they are wanted; 0 where they are not."""
        return max(0.0, self._until - now) if self._until > now else 0.0
