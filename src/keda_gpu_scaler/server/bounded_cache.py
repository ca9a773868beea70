# SPDX-License-Identifier: Apache-2.0
"""A cache of limited size that evicts the entry which was not used for the longest time."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class BoundedCache(Generic[_Key, _Value]):
    """Keeps the entries that were used last.

    Args:
        max_entries: the number of entries; one more evicts the oldest.
        idle_seconds: ``expire`` removes an entry that was not used for this time.
    """

    def __init__(self, max_entries: int, idle_seconds: float) -> None:
        self._max_entries = max_entries
        self._idle_seconds = idle_seconds
        self._entries: OrderedDict[_Key, tuple[float, _Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: _Key, now: float) -> _Value | None:
        """Return an entry and note that it was used now; None where there is no such entry."""
        found = self._entries.get(key)
        if found is None:
            return None
        used_at, value = found
        if used_at != now:
            self._entries[key] = (now, value)
        self._entries.move_to_end(key)
        return value

    def peek(self, key: _Key) -> _Value | None:
        """Return an entry without noting a use; None where there is no such entry."""
        found = self._entries.get(key)
        return None if found is None else found[1]

    def put(self, key: _Key, value: _Value, now: float) -> None:
        """Add or replace an entry, and evict the oldest one where there are too many."""
        self._entries[key] = (now, value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def discard(self, key: _Key) -> None:
        """Remove an entry, if it is there."""
        self._entries.pop(key, None)

    def expire(self, now: float) -> None:
        """Remove the entries that were not used for ``idle_seconds``."""
        while self._entries:
            key, (used_at, _) = next(iter(self._entries.items()))
            if now - used_at <= self._idle_seconds:
                return
            del self._entries[key]

    def values(self) -> list[tuple[float, _Value]]:
        """Return every entry and the time of its last use, the oldest first."""
        return list(self._entries.values())
