# SPDX-License-Identifier: Apache-2.0
"""Selectors: globs over names, Kubernetes label selectors, and Prometheus series selectors.

Law: no match takes longer than the length of the pattern times the length of the text.
"""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

_KEY = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII
)
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)


@functools.lru_cache(maxsize=4096)  # a fleet of thousands of devices has few models
def matches_glob(pattern: str, text: str) -> bool:
    """Whether the whole text matches. ``*`` is any number of characters, ``?`` is one; case does not matter."""
    pattern, text = pattern.lower(), text.lower()
    at, read = 0, 0
    star, resume = -1, 0  # position of the last star in the pattern, and the end of its characters in the text
    while read < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, read
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[read]):
            at += 1
            read += 1
        elif star >= 0:
            resume += 1
            at, read = star + 1, resume
        else:
            return False
    return not pattern[at:].strip("*")


class SelectorError(ValueError):
    """The text is no selector. The message says what a selector looks like."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label. Where ``value`` is None the label must exist. ``negated`` inverts the condition."""

    key: str
    value: str | None
    negated: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels satisfy it. As in Kubernetes, ``key!=value`` holds where the key does not exist."""
        found = self.key in labels if self.value is None else labels.get(self.key) == self.value
        return found is not self.negated


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Conditions that must all hold."""

    requirements: tuple[Requirement, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the selector selects an object with these labels."""
        return all(requirement.holds(labels) for requirement in self.requirements)


def is_label_key(text: str) -> bool:
    """Whether Kubernetes accepts a text as the key of a label."""
    return bool(_KEY.fullmatch(text))


def parse_labels(text: str) -> LabelSelector:
    """Read "zone=a,gpu!=t4,accelerator,!spot": equality and existence, joined by commas.

    Raises:
        SelectorError: the text has another form.
    """
    return LabelSelector(tuple(_requirement(part.strip()) for part in text.split(",")))


def _requirement(text: str) -> Requirement:
    negated = text.startswith("!")
    key, equals, value = text.removeprefix("!").partition("=")
    if equals and not negated:
        negated = key.endswith("!")
        key, value = key.removesuffix("!"), value.removeprefix("=")
    elif equals:
        key = ""  # "!key=value" combines two conditions
    key, value = key.strip(), value.strip()
    if not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
        raise SelectorError("must be label conditions joined by commas: key=value, key!=value, key or !key")
    return Requirement(key, value if equals else None, negated)


_SERIES = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?\s*(?:\{(.*)\})?", re.ASCII | re.DOTALL)
_CONDITION = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=|!=)\s*"((?:[^"\\]|\\[\\n"])*)"\s*(,|$)', re.ASCII)
_ESCAPED = re.compile(r'\\([\\n"])')
_MAX_SERIES_LENGTH = 1024
_SERIES_RULE = 'must look like name{label="value",other!="value"}'


@dataclass(frozen=True, slots=True)
class SeriesSelector:
    """Selects Prometheus series by name, and by labels that must or must not have a value.

    ``name`` is empty where only labels are given. Equal selectors have equal ``text``.
    """

    name: str
    requirements: tuple[Requirement, ...] = ()

    @property
    def text(self) -> str:
        """The selector in the notation of Prometheus."""
        return _notation(self)

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether it selects a series. As in Prometheus, a label that does not exist equals an empty one."""
        if name != self.name:
            return False
        for it in self.requirements:  # noqa: SIM110 - a loop is faster, and it runs for many series of each page
            if (labels.get(it.key, "") == it.value) is it.negated:
                return False
        return True


@functools.lru_cache(maxsize=4096)  # every reading has it as a key, so that all readings share one text
def _notation(selector: SeriesSelector) -> str:
    if not selector.requirements:
        return selector.name
    conditions = (f"{it.key}{'!=' if it.negated else '='}{json.dumps(it.value)}" for it in selector.requirements)
    return f"{selector.name}{{{','.join(conditions)}}}"


def parse_series(text: str) -> SeriesSelector:
    """Read 'name{label="value"}', as in Prometheus but without patterns (=~ and !~).

    Raises:
        SelectorError: the text has another form.
    """
    match = _SERIES.fullmatch(text.strip()) if len(text) <= _MAX_SERIES_LENGTH else None
    if match is None or not (match[1] or match[2]):
        raise SelectorError(_SERIES_RULE)
    requirements, at = [], 0
    inside = (match[2] or "").rstrip().removesuffix(",")
    while at < len(inside):
        condition = _CONDITION.match(inside, at)
        if condition is None:
            raise SelectorError(f"{_SERIES_RULE}; patterns (=~, !~) are not supported")
        value = _ESCAPED.sub(lambda escaped: "\n" if escaped[1] == "n" else escaped[1], condition[3])
        requirements.append(Requirement(condition[1], value, condition[2] == "!="))
        at = condition.end()
    return SeriesSelector(
        match[1] or "", tuple(sorted(requirements, key=lambda it: (it.key, it.negated, it.value or "")))
    )
