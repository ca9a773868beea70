# SPDX-License-Identifier: Apache-2.0
"""Reads the parts of one line of an exposition: the series, its labels, a number, a declared type.

Law: the time for a line is proportional to its length, also for untrusted text.
"""

import functools
import re
import sys
from collections.abc import Mapping
from typing import NamedTuple

CACHED_LENGTH = 512
"""The length up to which the text of a series is read once and remembered."""
# Pods that are replaced leave their series here, so the number decides how far an instance grows. A target's layout has
# its own series, and most pages need none of these.
_MAX_CACHED = 4_096
_MAX_CACHED_LABELS = 16

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
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
"""How the value of a label is written."""
NUMBER = re.compile(rb"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|nan)", re.IGNORECASE)
_TYPE = re.compile(rb"#[ \t]++TYPE[ \t]++(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]++(?P<kind>[a-z]++)[ \t\r]*+")


class ExpositionError(ValueError):
    """Text that is not an exposition; the message names the line, the problem and a length, and quotes nothing."""


class SeriesText(NamedTuple):
    """What stands before the value of a line.

    ``identity`` is its text with the labels in order and without blanks, so that equal series have equal texts. It is
    all that is kept of a series while a page is read: no object of Python stands for a label, and the cycle collection
    has nothing to visit.
    """

    name: str
    identity: bytes

    @classmethod
    def read(cls, match: re.Match[bytes]) -> "SeriesText":
        """Read the name and the labels of a line that matches; raises ExpositionError."""
        name, inside = match["name"], match["labels"]
        labels = _label_texts(inside) if inside else None
        identity = _identity(name, labels) if labels else name
        return cls(sys.intern(name.decode()), match.string if identity == match.string else identity)

    @classmethod
    def of(cls, name: str, labels: Mapping[str, str]) -> "SeriesText":
        """Return the text of a series that is not read from text. A character that UTF-8 does not have is escaped."""
        values = {key: value.encode(errors="backslashreplace").decode() for key, value in labels.items()}
        texts = {key.encode(): value.translate(ESCAPES).encode() for key, value in values.items()}
        return cls(name, _identity(name.encode(), texts) if texts else name.encode())


def _identity(name: bytes, labels: Mapping[bytes, bytes]) -> bytes:
    return b'%b{%b"}' % (name, b'",'.join(sorted([b'%b="%b' % label for label in labels.items()])))


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


def series_labels(identity: bytes) -> Mapping[str, str]:
    """Return the labels of a series, read from its ``SeriesText.identity``."""
    if len(identity) > CACHED_LENGTH or identity.count(b'="') > _MAX_CACHED_LABELS:
        return _read_labels(identity)
    return _cached_labels(identity)


def _read_labels(identity: bytes) -> Mapping[str, str]:
    texts = _label_texts(identity.partition(b"{")[2][:-1])
    return {sys.intern(name.decode()): _unescape(value).decode() for name, value in texts.items()}


_cached_labels = functools.lru_cache(maxsize=_MAX_CACHED)(_read_labels)


def _label_texts(text: bytes) -> dict[bytes, bytes]:
    """Return the texts of the names and values of labels, each of which can be read; raises ExpositionError."""
    labels: dict[bytes, bytes] = {}
    at = 0
    text = text.rstrip(b" \t")
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None:
            raise ExpositionError(f"its label {len(labels) + 1} is not a label ({len(text) - at} bytes)")
        name, value = match.groups()
        if name in labels:
            raise ExpositionError(f"its label {len(labels) + 1} has the name of one before")
        try:
            _unescape(value).decode()
        except UnicodeDecodeError:
            raise ExpositionError(f"its label {len(labels) + 1} is not UTF-8") from None
        labels[name] = value
        at = match.end()
    return labels


def _unescape(value: bytes) -> bytes:
    return _ESCAPE.sub(_unescaped, value) if b"\\" in value else value


def _unescaped(escape: re.Match[bytes]) -> bytes:
    try:
        return _ESCAPED[escape[1]]
    except KeyError:
        raise ExpositionError("a label has an unknown escape sequence") from None


def series_name(line: bytes) -> str:
    """Return the name with which a line begins, empty where it begins with none."""
    match = _NAME.match(line)
    return match[1].decode() if match else ""
