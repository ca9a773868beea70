# SPDX-License-Identifier: Apache-2.0
"""Caches of pure functions that release what was not used for a while.

Law: an entry equals what the function returns, so a released entry changes no result.

``functools.lru_cache`` keeps the entries of workloads, pods and devices that are gone until it is full, which takes
weeks in a quiet cluster. There is no clock here: the caller of ``release_unused`` decides what a while is.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
_MISSING: Any = object()


class CacheInfo(NamedTuple):
    """The limit and the number of entries, with the names of ``functools.lru_cache``."""

    maxsize: int
    currsize: int


class _Generations(Generic[_Result]):
    """The entries that were used since the last release, and those that were used in the time before it."""

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.used: dict[tuple[Any, ...], _Result] = {}
        self.unused: dict[tuple[Any, ...], _Result] = {}

    def release_unused(self) -> None:
        """Drop the entries that were not used since the last release."""
        self.used, self.unused = {}, self.used

    def put(self, key: tuple[Any, ...], result: _Result) -> None:
        """Keep an entry that is used now. A full cache releases what is not used."""
        if len(self.used) >= self.max_entries:
            self.release_unused()
        self.used[key] = result

    def info(self) -> CacheInfo:
        """Return the number of entries."""
        return CacheInfo(2 * self.max_entries, len(self.used) + len(self.unused))


_all: "weakref.WeakSet[_Generations[Any]]" = weakref.WeakSet()


def cached_while_used(
    max_entries: int,
) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Return a decorator that caches a pure function of hashable positional arguments.

    Args:
        max_entries: the number of entries that are used between two releases; the cache has at most twice as many.
    """

    def decorate(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        entries: _Generations[_Result] = _Generations(max_entries)
        _all.add(entries)

        @functools.wraps(function)
        def cached(*arguments: _Parameters.args, **named: _Parameters.kwargs) -> _Result:
            if named:
                return function(*arguments, **named)
            key: tuple[Any, ...] = arguments
            result: _Result = entries.used.get(key, _MISSING)
            if result is _MISSING:
                result = entries.unused.pop(key, _MISSING)
                if result is _MISSING:
                    result = function(*arguments, **named)
                entries.put(key, result)
            return result

        setattr(cached, "cache_info", entries.info)  # noqa: B010 - mypy knows no attribute of a function
        return cached

    return decorate


def release_unused() -> None:
    """Have every cache drop the entries that were not used since the last call."""
    for entries in list(_all):
        entries.release_unused()
