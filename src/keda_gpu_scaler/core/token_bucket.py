# SPDX-License-Identifier: Apache-2.0
"""Limits a rate: a burst, and then one token in a fixed time."""


class TokenBucket:
    """Counts tokens that come back with time, up to a number that is saved.

    Args:
        saved: the largest number of tokens.
        refill_seconds: the time in which one token comes back.
        now: monotonic seconds.
        first: the tokens at the start, ``saved`` by default.
    """

    def __init__(self, saved: float, refill_seconds: float, now: float, *, first: float | None = None) -> None:
        self._saved = saved
        self._refill_seconds = refill_seconds
        self._tokens = float(saved if first is None else first)
        self._refilled_at = now

    def take(self, tokens: float, now: float) -> bool:
        """Take tokens, all or none, and return whether there were enough."""
        return self._take(tokens, tokens, now)

    def take_or_owe(self, tokens: float, now: float) -> bool:
        """Take tokens, all or none; for more than are ever saved, a full bucket is enough, and the rest is owed."""
        return self._take(tokens, min(tokens, self._saved), now)

    def _take(self, tokens: float, needed: float, now: float) -> bool:
        elapsed = max(0.0, now - self._refilled_at)
        self._refilled_at = now
        most = max(self._saved, self._tokens)
        self._tokens = min(self._tokens + elapsed / self._refill_seconds, most)
        if self._tokens < needed:
            return False
        self._tokens -= tokens
        return True
