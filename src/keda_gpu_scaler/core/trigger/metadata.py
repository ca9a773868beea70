# SPDX-License-Identifier: Apache-2.0
"""Reads a trigger's metadata key by key and collects the problems.

Law: a problem names the key, the value and the allowed values. All problems are reported together, so that one
correction is enough.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from keda_gpu_scaler.core.quoting import quoted

MAX_NUMBER = 1e12
"""The largest number in metadata. It is above every reading in every unit, and 1000 times as much fits an int64."""

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_MAX_DIGITS = 40
_NONE_REPLACED: Mapping[str, str] = MappingProxyType({})
_MIN_PREFIX_LENGTH = 4
_COMPARED_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Parameter:
    """One metadata key, as the reference page shows it.

    ``meaning`` may contain ``{choices}``, which stands for the names in ``choices``. They are read when the
    description is made, because the table of engines is filled after this module is imported.
    """

    key: str
    default: str
    meaning: str
    choices: Iterable[str] = field(default=(), compare=False)

    @property
    def description(self) -> str:
        """The meaning with its choices."""
        if not self.choices:
            return self.meaning
        return self.meaning.replace("{choices}", ", ".join(f"`{name}`" for name in self.choices))


class MetadataReader:
    """A trigger's metadata, read key by key.

    ``given`` holds this scaler's keys that have a value. ``problems`` are the errors. ``hints`` are warnings about
    metadata that is valid but probably wrong.

    Args:
        metadata: as KEDA sends it; a key may have the suffix ``FromEnv``, and KEDA has resolved its value.
        keys: the keys of this scaler.
    """

    def __init__(self, metadata: Mapping[str, str], keys: Iterable[str]) -> None:
        self._metadata = metadata
        self.problems: list[str] = []
        self.hints: list[str] = []
        self.given = {key: value for key in keys if (value := self._value(key)) is not None}

    def _value(self, key: str) -> str | None:
        """Return the key's value without surrounding blanks; None where the key is not given."""
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
        """Record that a key's value cannot be used."""
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

    def choice(
        self, key: str, default: str, choices: Iterable[str], replaced: Mapping[str, str] = _NONE_REPLACED
    ) -> str:  # fmt: skip
        """Read one of several words. ``replaced`` says of other words what to use in their place."""
        value = self.given.get(key, default)
        if value in choices:
            return value
        near = nearest(value, choices)
        remedy = f'did you mean "{near}"?' if near else "supported values: " + ", ".join(choices)
        remedy = replaced.get(value, remedy)
        self.problems.append(f"metadata.{key}: Unsupported value: {quoted(value)}: {remedy}")
        return default

    def one_of(self, keys: Iterable[str]) -> str | None:
        """Return the one key that is given, of several that exclude each other; None where none is given."""
        found = [key for key in keys if key in self.given]
        for key in found[1:]:
            self.problems.append(f"metadata.{key}: Forbidden: {found[0]} is given as well; keep one of the two")
        return found[0] if found else None


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """Find the intended name: one that begins with the value, or one that differs in a letter or two."""
    prefix = value[:_COMPARED_LENGTH].lower()
    if len(prefix) >= _MIN_PREFIX_LENGTH:
        for choice in choices:
            if choice.startswith(prefix):
                return choice
    return next(iter(difflib.get_close_matches(prefix, choices, n=1, cutoff=0.8)), None)
