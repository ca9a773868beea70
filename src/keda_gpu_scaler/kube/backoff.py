# SPDX-License-Identifier: Apache-2.0
"""Pauses between attempts, each twice as long as the one before, up to a limit."""

import asyncio
import os

MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 30.0


class Backoff:
    """The pauses between the attempts of one task."""

    def __init__(self) -> None:
        self._seconds = MIN_BACKOFF_SECONDS

    def reset(self) -> None:
        """Begin again with the shortest pause."""
        self._seconds = MIN_BACKOFF_SECONDS

    async def pause(self, min_seconds: float = 0.0) -> None:
        """Wait before the next attempt, and at least this long."""
        seconds = self._seconds
        self._seconds = min(2 * seconds, MAX_BACKOFF_SECONDS)
        await asyncio.sleep(max(jittered(seconds), min_seconds))


def longest() -> float:
    """Return the longest pause, for an error that a new attempt hardly repairs."""
    return MAX_BACKOFF_SECONDS


def jittered(seconds: float) -> float:
    """Return a random time around this one, so that many clients do not return at the same time."""
    return seconds * (0.5 + os.urandom(1)[0] / 255)
