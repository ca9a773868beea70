# SPDX-License-Identifier: Apache-2.0
"""Reads the parts of one line of an exposition: the series, its labels, a number, a declared type.

Law: the time for a line is proportional to its length, also for untrusted text.
"""

import functools
import re
from dataclasses import dataclass

CACHED_LENGTH = 512
"""The length up to which the text of a series is read once and remembered."""
# A series takes 1.3 KB. Pods that are replaced leave theirs here, so the number decides how far an instance grows; a
# target's layout has its own series, and most pages need none of these.
_MAX_CACHED = 4_096

# Every quantifier is possessive, so that no text is searched twice.
_LABELS = rb'\{(?P<labels>[^"}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"}]*+)*+)\}'
TEXT_LINE = re.compile(
    rb"[ \t]*+(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]*+(?:" + _LABELS + rb")?+[ \t]*+(?P<value>[^ \t\r{}]++)"
    rb"(?:[ \t]++(?P<at>[+-]?[0-9]++))?+"
    # Some exporters write the exemplars of OpenMetrics into this format too. They are skipped.
    rb"(?:[ \t]++#[ \t]*+\{(?:[^\"}]*+(?:\"[^\"\\]*+(?:\\.[^\"\\]*+)*+\"[^\"}]*+)*+)\}[ \t]*+"
    rb"[^ \t\r{}]++(?:[ \t]++[0-9.eE+-]++)?+)?+[ \t\r]*+"
)
OPENMETRICS_LINE = re.compile(
    rb"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)(?:" + _LABELS + rb")?+ (?P<value>[^ {}]++)"
    rb"(?: (?P<at>[+-]?[0-9.eE+-]++))?+"
    rb"(?: # \{(?:[^\"}]*+(?:\"[^\"\\]*+(?:\\.[^\"\\]*+)*+\"[^\"}]*+)*+)\} [^ ]++(?: [^ ]++)?+)?+"
)
_TEXT_SERIES = re.compile(rb"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]*+(?:" + _LABELS + rb")?+[ \t]*+")
_OPENMETRICS_SERIES = re.compile(rb"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)(?:" + _LABELS + rb")?+")
_NAME = re.compile(rb"[ \t]*+([a-zA-Z_:][a-zA-Z0-9_:]*+)")
_LABEL = re.compile(
    rb'[ \t]*+(?P<name>[a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"(?P<value>[^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t]*+(?:,|$)'
)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b'"': b'"', b"n": b"\n"}
NUMBER = re.compile(rb"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|nan)", re.IGNORECASE)
_TYPE = re.compile(rb"#[ \t]++TYPE[ \t]++(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]++(?P<kind>[a-z]++)[ \t\r]*+")


class ExpositionError(ValueError):
    """Text that is not an exposition; the message names the line, the problem and a length, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class SeriesText:
    """What stands before the value of a line. ``identity`` is the same for labels in another order."""

    name: str
    labels: dict[str, str]
    identity: tuple[str, frozenset[tuple[str, str]]]

    @classmethod
    def read(cls, match: re.Match[bytes]) -> "SeriesText":
        """Read the name and the labels of a line that matches; raises ExpositionError."""
        name, labels = match["name"].decode(), _read_labels(match["labels"] or b"")
        return cls(name, labels, (name, frozenset(labels.items())))


@functools.lru_cache(maxsize=_MAX_CACHED)  # families repeat too
def declared_type(line: bytes) -> tuple[str, str] | None:
    """Return the name and the type that a comment declares, None if it declares none."""
    match = _TYPE.fullmatch(line.lstrip(b" \t"))
    return (match["name"].decode(), match["kind"].decode()) if match is not None else None


@functools.lru_cache(maxsize=_MAX_CACHED)  # series repeat from page to page, and across a fleet
def text_series(text: bytes) -> SeriesText | None:
    """Read the series of a line of the text format, without its value."""
    return _series_or_none(_TEXT_SERIES.fullmatch(text))


@functools.lru_cache(maxsize=_MAX_CACHED)
def openmetrics_series(text: bytes) -> SeriesText | None:
    """Read the series of a line of OpenMetrics, without its value."""
    return _series_or_none(_OPENMETRICS_SERIES.fullmatch(text))


def _series_or_none(match: re.Match[bytes] | None) -> SeriesText | None:
    """Read a series; None where the text is not exactly one, as on a line with a timestamp."""
    try:
        return SeriesText.read(match) if match is not None else None
    except ExpositionError:
        return None  # the caller reads the whole line and raises the error, unless the line is to be skipped


def _read_labels(text: bytes) -> dict[str, str]:
    labels: dict[str, str] = {}
    at = 0
    text = text.rstrip(b" \t")
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None:
            raise ExpositionError(f"its label {len(labels) + 1} is not a label ({len(text) - at} bytes)")
        name = match["name"].decode()
        if name in labels:
            raise ExpositionError(f"its label {len(labels) + 1} has the name of one before")
        value = match["value"]
        try:
            labels[name] = (_ESCAPE.sub(_unescaped, value) if b"\\" in value else value).decode()
        except UnicodeDecodeError:
            raise ExpositionError(f"its label {len(labels) + 1} is not UTF-8") from None
        at = match.end()
    return labels


def _unescaped(escape: re.Match[bytes]) -> bytes:
    try:
        return _ESCAPED[escape[1]]
    except KeyError:
        raise ExpositionError("a label has an unknown escape sequence") from None


def series_name(line: bytes) -> str:
    """Return the name with which a line begins, empty where it begins with none."""
    match = _NAME.match(line)
    return match[1].decode() if match else ""
