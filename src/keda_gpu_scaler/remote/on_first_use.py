# SPDX-License-Identifier: Apache-2.0
"""Holds an object that is made when it is needed first."""

from collections.abc import Callable
from typing import Generic, TypeVar

_Opened = TypeVar("_Opened")


class OnFirstUse(Generic[_Opened]):
    """Holds an object that is made when it is needed first. ``opened`` is None before that."""

    def __init__(self, make: Callable[[], _Opened]) -> None:
        self._make = make
        self.opened: _Opened | None = None

    def open(self) -> _Opened:
        """Return the object; the first call makes it."""
        if self.opened is None:
            self.opened = self._make()
        return self.opened
