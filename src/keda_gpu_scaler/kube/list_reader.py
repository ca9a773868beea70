# SPDX-License-Identifier: Apache-2.0
"""Reads a list of objects from its JSON, piece by piece as it is received.

Law: at most one object is held besides the last piece. What is a value is decided by Python's own JSON decoder.

A server may ignore ``limit``, and then its list has the size of the collection.
"""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_VALUE_LENGTH = 8 << 20
"""The longest object of a list, in characters. etcd stores objects of 1.5 MiB by default."""
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")
_NUMBERS = (int, float)
_FIELD, _FIRST_FIELD, _ITEM, _FIRST_ITEM, _AFTER_ITEM, _AFTER_FIELD, _START, _END = range(8)


class ListError(ValueError):
    """The text is no JSON of a list. The message says what is wrong."""


class ListReader:
    """Reads one list: ``feed`` yields its objects, and ``metadata`` has the list's own metadata afterwards.

    Other fields of the list are dropped.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._enough = 0  # an incomplete value is not tried again before the text has this length
        self._state = _START
        self._has_items = False
        self.metadata: Mapping[str, Any] = {}

    def feed(self, piece: bytes) -> Iterator[Mapping[str, Any]]:
        """Yield the objects that are complete with this piece.

        Raises:
            ListError: the text is no list, or an object is too long.
        """
        try:
            self._text = self._text[self._at :] + self._decoder.decode(piece)
            self._at = 0
            yield from self._items()
        except ListError:
            raise
        except (ValueError, RecursionError) as error:
            raise ListError(f"it is no valid JSON ({type(error).__name__})") from error
        if len(self._text) - self._at > MAX_VALUE_LENGTH:
            raise ListError(f"it has a value of more than {MAX_VALUE_LENGTH} characters, or is no valid JSON")

    def end(self) -> Iterator[Mapping[str, Any]]:
        """Yield the objects that were not complete without the end of the text.

        Raises:
            ListError: the text is no list, or it is not complete.
        """
        self._enough = 0
        yield from self.feed(b"")
        if self._state != _END or self._text[self._at :].strip():
            raise ListError("it is no complete JSON object")

    def _items(self) -> Iterator[Mapping[str, Any]]:
        while len(self._text) - self._at >= self._enough:
            self._at = _blanks_end(self._text, self._at)
            if self._at == len(self._text) or self._state == _END:
                return
            if self._state in (_ITEM, _FIRST_ITEM):
                if self._state == _FIRST_ITEM and self._text[self._at] == "]":
                    self._pass(_AFTER_FIELD)
                    continue
                if (value := self._value(self._at)) is None:
                    return
                self._at, self._state = value[1], _AFTER_ITEM
                if not isinstance(value[0], Mapping):
                    raise ListError("its items are no objects")
                yield value[0]
            elif not self._read_between():
                return

    def _read_between(self) -> bool:
        """Read the text up to the next item; return whether there was enough of it."""
        mark = self._text[self._at]
        if self._state in (_FIELD, _FIRST_FIELD):
            if self._state == _FIRST_FIELD and mark == "}":
                self._pass(_END)
                return True
            return self._read_field()
        following = _FOLLOWING[self._state].get(mark)
        if following is None:
            raise ListError("it is no JSON object" if self._state == _START else "it is no valid JSON")
        self._pass(following)
        return True

    def _read_field(self) -> bool:
        """Read one field of the list; of its items only the beginning. Return whether it was complete."""
        if (key := self._value(self._at)) is None:
            return False
        at = _blanks_end(self._text, key[1])
        if at == len(self._text):
            return False
        if not isinstance(key[0], str) or self._text[at] != ":":
            raise ListError("it is no valid JSON")
        at = _blanks_end(self._text, at + 1)
        if at == len(self._text):
            return False
        if key[0] == "items" and self._text[at] == "[":
            if self._has_items:
                raise ListError("it has items twice")
            self._has_items, self._at = True, at
            self._pass(_FIRST_ITEM)
            return True
        if (value := self._value(at)) is None:
            return False
        if key[0] == "items" and value[0] is not None:
            raise ListError("its items are no list")
        if key[0] == "metadata" and isinstance(value[0], Mapping):
            self.metadata = value[0]
        self._at, self._state = value[1], _AFTER_FIELD
        return True

    def _value(self, at: int) -> tuple[Any, int] | None:
        """Return the value at a position and its end, None where the text does not have all of it yet."""
        try:
            value, end = _DECODER.raw_decode(self._text, at)
        except json.JSONDecodeError:
            # It is invalid or incomplete. A long value is tried again each time that its length has doubled.
            self._enough = min(2 * (len(self._text) - self._at), MAX_VALUE_LENGTH)
            return None
        if isinstance(value, _NUMBERS) and end == len(self._text):
            return None  # more digits may follow
        self._enough = 0
        return value, end

    def _pass(self, state: int) -> None:
        self._at += 1
        self._state = state


_FOLLOWING: Mapping[int, Mapping[str, int]] = {
    _START: {"{": _FIRST_FIELD},
    _AFTER_FIELD: {",": _FIELD, "}": _END},
    _AFTER_ITEM: {",": _ITEM, "]": _AFTER_FIELD},
}


def _blanks_end(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at
