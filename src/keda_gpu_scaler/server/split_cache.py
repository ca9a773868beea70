# SPDX-License-Identifier: Apache-2.0
"""A cache in two parts: what ScaledObjects declare, and a small one for everything else.

Law: a question that no ScaledObject declares evicts only others of its kind. Any client can invent names.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

from keda_gpu_scaler.server.bounded_cache import BoundedCache

OTHERS_SHARE = 8
"""The part for everything else has one in this number of the entries."""

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class SplitCache(Generic[_Key, _Value]):
    """Keeps the entries that were used last, in two parts.

    Args:
        max_entries: the number of declared entries.
        idle_seconds: ``expire`` removes an entry that was not used for this time.
    """

    def __init__(self, max_entries: int, idle_seconds: float) -> None:
        self._declared: BoundedCache[_Key, _Value] = BoundedCache(max_entries, idle_seconds)
        self._others: BoundedCache[_Key, _Value] = BoundedCache(max(1, max_entries // OTHERS_SHARE), idle_seconds)

    def __len__(self) -> int:
        return len(self._declared) + len(self._others)

    def get(self, key: _Key, now: float) -> _Value | None:
        """Return an entry and note that it was used now; None where there is no such entry."""
        found = self._declared.get(key, now)
        return self._others.get(key, now) if found is None else found

    def peek(self, key: _Key) -> _Value | None:
        """Return an entry without noting a use; None where there is no such entry."""
        found = self._declared.peek(key)
        return self._others.peek(key) if found is None else found

    def put(self, key: _Key, value: _Value, now: float, *, is_declared: bool) -> None:
        """Add or replace an entry, which moves to the part that it belongs to now."""
        here, there = (self._declared, self._others) if is_declared else (self._others, self._declared)
        here.put(key, value, now)
        there.discard(key)

    def expire(self, now: float) -> None:
        """Remove the entries that were not used for ``idle_seconds``."""
        self._declared.expire(now)
        self._others.expire(now)
