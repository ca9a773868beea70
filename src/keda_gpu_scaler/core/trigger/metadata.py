# SPDX-License-Identifier: Apache-2.0
"""What does one key of a trigger's metadata say? Its value, or what is wrong with it.

The law of this module: a problem names the key, the value and what is allowed, and is noted beside all others, so that
one round of mending is enough.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keda_gpu_scaler.core.quoting import quoted

MAX_NUMBER = 1e12
"""Above any reading in any unit we know, and a thousandfold of it still fits the protocol's int64."""

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_MAX_DIGITS = 40
_BEGUN_LENGTH = 4
_COMPARED_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Parameter:
    """One metadata key, as the reference page shows it."""

    key: str
    default: str
    meaning: str


class MetadataReader:
    """A trigger's metadata, read key by key.

    ``given`` holds the keys of ours that have a value; ``problems`` what is wrong, and ``hints`` what only looks so.

    Args:
        metadata: as KEDA sends it; a key may have the suffix ``FromEnv``, its value already resolved.
        keys: those that are ours.
    """

    def __init__(self, metadata: Mapping[str, str], keys: Iterable[str]) -> None:
        self._metadata = metadata
        self.problems: list[str] = []
        self.hints: list[str] = []
        self.given = {key: value for key in keys if (value := self._value(key)) is not None}

    def _value(self, key: str) -> str | None:
        """The key's value without surrounding blanks; None when it is not given."""
        from_env = key + "FromEnv"
        if key in self._metadata and from_env in self._metadata:
            self.problems.append(f"metadata.{from_env}: Forbidden: {key} is given as well; keep one of the two")
        raw = self._metadata.get(key, self._metadata.get(from_env))
        if raw is None:
            return None
        value = raw.strip()
        if not value:
            self.problems.append(f"metadata.{key}: Required value: it is empty; give a value or remove the key")
            return None
        return value

    def invalid(self, key: str, must: str) -> None:
        """Note that a key's value cannot be used."""
        self.problems.append(f"metadata.{key}: Invalid value: {quoted(self.given[key])}: {must}")

    def number(self, key: str, default: float, *, at_least: float, at_most: float = MAX_NUMBER) -> float:
        """Read a number within bounds."""
        if key not in self.given:
            return default
        text = self.given[key]
        must = f"must be a plain number from {at_least:g} to {at_most:g}, without a unit"
        # float() alone would accept "nan", "1_000" and digits of other scripts.
        if len(text) > _MAX_DIGITS or not _NUMBER.fullmatch(text) or not at_least <= float(text) <= at_most:
            self.invalid(key, must)
            return default
        return float(text)

    def choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        """Read one of several words."""
        value = self.given.get(key, default)
        if value in choices:
            return value
        near = nearest(value, choices)
        remedy = f'did you mean "{near}"?' if near else "supported values: " + ", ".join(choices)
        self.problems.append(f"metadata.{key}: Unsupported value: {quoted(value)}: {remedy}")
        return default

    def one_of(self, keys: Iterable[str]) -> str | None:
        """Return which of several keys is given, of which there may be one at most."""
        found = [key for key in keys if key in self.given]
        for key in found[1:]:
            self.problems.append(f"metadata.{key}: Forbidden: {found[0]} is given as well; keep one of the two")
        return found[0] if found else None


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """Find what somebody meant: a name they began, or one with a letter or two amiss."""
    begun = value[:_COMPARED_LENGTH].lower()
    if len(begun) >= _BEGUN_LENGTH:
        for choice in choices:
            if choice.startswith(begun):
                return choice
    return next(iter(difflib.get_close_matches(begun, choices, n=1, cutoff=0.8)), None)
