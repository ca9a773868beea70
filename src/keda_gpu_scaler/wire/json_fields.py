# SPDX-License-Identifier: Apache-2.0
"""Reads the fields of an untrusted JSON object, each with its type and its bounds.

Law: any invalid text is a ``CodecError``, and no other exception.
"""

import json
from collections.abc import Iterable
from typing import Any, Never

from keda_gpu_scaler.core.quoting import quoted

MAX_LENGTH = 4 << 20
"""The limit of one object, in characters (or bytes). A snapshot of 4,096 samples is shorter."""
MAX_TEXT_LENGTH = 256
"""The limit of a name (a node, a device, a model), in characters."""
MAX_WHOLE = 2**53 - 1
"""The largest whole number that every JSON reader keeps exactly. In bytes it is 8 PiB."""
MAX_NUMBER = 1e12

_MAX_DIGITS = 10


class CodecError(ValueError):
    """A text is not valid, or a snapshot cannot be encoded. The message is a sentence."""


def parse_object(text: str | bytes) -> "Fields":
    """Parse one JSON object of bounded size.

    Raises:
        CodecError: the text is not UTF-8, not JSON or not an object, or it is longer than ``MAX_LENGTH``.
    """
    if len(text) > MAX_LENGTH:
        raise CodecError(f"is {len(text)} long: must be at most {MAX_LENGTH}")
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"), parse_constant=_refuse_constant)
    except CodecError:
        raise
    except UnicodeDecodeError as error:
        raise CodecError(f"byte {error.start} is not UTF-8: must be JSON") from None
    except RecursionError:
        raise CodecError("is nested too deeply: must be one JSON object") from None
    except ValueError as error:  # also an integer of thousands of digits
        raise CodecError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CodecError(f"is {quoted(value)}: must be a JSON object")
    return Fields(value)


class Fields:
    """The fields of one JSON object. Every method checks what it returns, and raises ``CodecError``.

    ``where`` is the path of the object. It precedes the field's name in an error.
    """

    def __init__(self, plain: dict[str, Any], where: str = "") -> None:
        self._plain = plain
        self._where = where

    def __contains__(self, key: str) -> bool:
        return key in self._plain

    def text(self, key: str, at_most: int = MAX_TEXT_LENGTH, *, default: str | None = None) -> str:
        """Return printable text of bounded length. It may be empty only when ``default`` is the empty text.

        Untrusted text appears on terminals and in labels, so control characters are refused.
        """
        value = self._plain.get(key, default)
        if not isinstance(value, str):
            self._refuse(key, "must be text")
        if len(value) > at_most or not value.isprintable() or (not value and default is None):
            self._refuse(key, f"must be 1 to {at_most} printable characters")
        return value

    def whole(self, key: str, at_least: int = 0, at_most: int = MAX_WHOLE) -> int:
        """Return a whole number within bounds. Neither 1.0 nor true is a whole number."""
        value = self._plain.get(key)
        if type(value) is not int or not at_least <= value <= at_most:
            self._refuse(key, f"must be a whole number from {at_least} to {at_most}")
        return value

    def number(self, key: str, at_least: float, at_most: float) -> float:
        """Return a finite number within bounds."""
        value = self._plain.get(key)
        # NaN compares false with everything. A whole number that is too large for a float is out of bounds too.
        if type(value) not in (int, float) or not at_least <= value <= at_most:  # type: ignore[operator]
            self._refuse(key, f"must be a number from {at_least:g} to {at_most:g}")
        return float(value)  # type: ignore[arg-type]

    def objects(self, key: str, at_most: int) -> Iterable["Fields"]:
        """Yield the objects of a list."""
        value = self._plain.get(key)
        if not isinstance(value, list) or len(value) > at_most:
            self._refuse(key, f"must be a list of at most {at_most} objects")
        for position, item in enumerate(value):
            where = f"{self._where}{key}[{position}]"
            if not isinstance(item, dict):
                raise CodecError(f"{where}: Invalid value: {quoted(item)}: must be a JSON object")
            yield Fields(item, where + ".")

    def object(self, key: str) -> "Fields":
        """Return an object."""
        value = self._plain.get(key)
        if not isinstance(value, dict):
            self._refuse(key, "must be a JSON object")
        return Fields(value, f"{self._where}{key}.")

    def lists(self, key: str, below: int) -> Iterable[tuple[int, list[Any]]]:
        """Yield the lists of an object whose keys are positions below a bound."""
        for position, item in self._by_position(key, below):
            if not isinstance(item, list):
                raise CodecError(f"{key}.{position}: Invalid value: {quoted(item)}: must be a list")
            yield position, item

    def objects_by_position(self, key: str, below: int) -> Iterable[tuple[int, "Fields | None"]]:
        """Yield the objects of an object whose keys are positions below a bound; None where one is null."""
        for position, item in self._by_position(key, below):
            if item is not None and not isinstance(item, dict):
                raise CodecError(f"{key}.{position}: Invalid value: {quoted(item)}: must be an object or null")
            yield position, None if item is None else Fields(item, f"{key}.{position}.")

    def _by_position(self, key: str, below: int) -> Iterable[tuple[int, Any]]:
        value = self._plain.get(key)
        if not isinstance(value, dict):
            self._refuse(key, "must be an object")
        for name, item in value.items():
            if not (name.isascii() and name.isdigit() and len(name) < _MAX_DIGITS and int(name) < below):
                raise CodecError(f"{key}: Invalid value: {quoted(name)}: must be a position below {below}")
            yield int(name), item

    def items(self, key: str, at_most: int) -> list[Any]:
        """Return a list of bounded length. Its items are not checked."""
        value = self._plain.get(key)
        if not isinstance(value, list) or len(value) > at_most:
            self._refuse(key, f"must be a list of at most {at_most}")
        return value

    def texts(self, key: str, at_most: int, length: int = MAX_TEXT_LENGTH) -> tuple[str, ...]:
        """Return a list of printable texts of bounded length; none is empty."""
        value = self._plain.get(key)
        if not isinstance(value, list) or len(value) > at_most or not all(_is_text(it, length) for it in value):
            self._refuse(key, f"must be a list of at most {at_most} texts of 1 to {length} printable characters")
        return tuple(value)

    def block(self, key: str, at_most: int) -> str:
        """Return text of bounded length that may have several lines. It must not be shown."""
        value = self._plain.get(key)
        if not isinstance(value, str):
            self._refuse(key, "must be text")
        if len(value) > at_most:
            raise CodecError(f"{self._where}{key}: Too long: {len(value)} characters: must have at most {at_most}")
        return value

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """Return true or false."""
        value = self._plain.get(key, default)
        if not isinstance(value, bool):
            self._refuse(key, "must be true or false")
        return value

    def mapping(self, key: str, at_most: int) -> dict[str, str]:
        """Return an object whose values are texts, of bounded length all together."""
        value = self._plain.get(key)
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            self._refuse(key, "must be an object whose values are texts")
        if sum(len(name) + len(item) for name, item in value.items()) > at_most:
            raise CodecError(f"{self._where}{key}: Too long: must have at most {at_most} characters")
        return dict(value)

    def is_unknown(self, key: str) -> bool:
        """Return whether the field is absent or null. Both mean that the value is unknown."""
        return self._plain.get(key) is None

    def check_version(self, key: str, known: int) -> None:
        """Refuse a version with a larger whole part."""
        if self.number(key, 1, MAX_NUMBER) >= known + 1:
            self._refuse(key, f"is a later version than {known}: must be read by a newer keda-gpu-scaler")

    def _refuse(self, key: str, requirement: str) -> Never:
        if key not in self._plain:
            raise CodecError(f"{self._where}{key}: Required value: {requirement}")
        raise CodecError(f"{self._where}{key}: Invalid value: {quoted(self._plain[key])}: {requirement}")


def _is_text(value: object, length: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= length and value.isprintable()


def _refuse_constant(name: str) -> Never:
    raise CodecError(f"contains {name}, which is no number: an unknown reading must be left out")
