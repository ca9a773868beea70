# SPDX-License-Identifier: Apache-2.0
"""A selector that watches files as the system's selector does."""

import selectors
from collections.abc import Mapping
from typing import Any


class WrappedSelector(selectors.BaseSelector):
    """Uses the system's selector; event loops with a clock of their own change how it waits."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a file."""
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Stop watching a file."""
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a file for other events."""
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return the watched files."""
        return self._real.get_map()

    def close(self) -> None:
        """Release the files."""
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, at most for so many seconds."""
        return self._real.select(timeout)
