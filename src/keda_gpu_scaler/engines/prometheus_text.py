# SPDX-License-Identifier: Apache-2.0
"""Parses the Prometheus text format 0.0.4 and OpenMetrics 1.0.

Law: a series is read exactly, or the page is refused. The cost of a page is close to the cost of finding the wanted
lines, whatever else the page contains.

Facts are from the two specifications: Prometheus' "Exposition formats" and OpenMetrics 1.0.0. Where they leave a case
open, this parser follows Prometheus' own parser.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.engines.exposition import Exposition, SeriesSample

_KINDS = frozenset(
    {"counter", "gauge", "histogram", "summary", "untyped", "unknown", "info", "stateset", "gaugehistogram"}
)
_CACHED_LENGTH = 512

# Every quantifier is possessive, so that the time for a line is proportional to its length, also for untrusted text.
_LABELS = rb'\{(?P<labels>[^"}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"}]*+)*+)\}'
_TEXT_LINE = re.compile(
    rb"[ \t]*+(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]*+(?:" + _LABELS + rb")?+[ \t]*+(?P<value>[^ \t\r{}]++)"
    rb"(?:[ \t]++(?P<at>[+-]?[0-9]++))?+[ \t\r]*+"
)
_OPENMETRICS_LINE = re.compile(
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
_NUMBER = re.compile(rb"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|nan)", re.IGNORECASE)
_TYPE = re.compile(rb"#[ \t]++TYPE[ \t]++(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]++(?P<kind>[a-z]++)[ \t\r]*+")
_INDENTED = re.compile(rb"\n[ \t]")  # four times as fast as two tests with ``in``
_IS_TYPE = re.compile(rb"[ \t]*+#[ \t]++TYPE(?:[ \t]|$)")


class ExpositionError(ValueError):
    """Text that is not an exposition; the message names the line and the problem."""


def parse_exposition(body: bytes, *, wanted: frozenset[str] | None = None, is_openmetrics: bool = False) -> Exposition:
    """Read a page.

    Args:
        body: the text, UTF-8.
        wanted: names of the series to read; other lines are skipped, valid or not. None reads every series.
        is_openmetrics: whether the format is OpenMetrics, which is stricter and marks its end.

    Raises:
        ExpositionError: a line cannot be read, a series occurs twice, or the end mark is missing.
    """
    lines = body.split(b"\n")
    if is_openmetrics:
        lines = _until_the_end(lines)
    if wanted is None:
        numbers: Sequence[int] = range(len(lines))
    elif body[:1] in (b" ", b"\t") or _INDENTED.search(body):
        numbers = range(len(lines))  # an indented line does not begin with its name
    else:
        length, heads = _line_heads(wanted)
        numbers = [number for number, line in enumerate(lines) if line[:length] in heads]
    reader = _LineReader(wanted, is_openmetrics=is_openmetrics)
    for number in numbers:
        try:
            reader.read(lines[number])
        except ExpositionError as error:
            raise ExpositionError(f"line {number + 1}: {error}") from None
    return Exposition(tuple(reader.samples), reader.kinds)


@functools.lru_cache(maxsize=256)
def _line_heads(wanted: frozenset[str]) -> tuple[int, frozenset[bytes]]:
    """Return how wanted lines begin, and how many bytes to compare: as many as the shortest name has."""
    length = min((len(name) for name in wanted), default=1)
    names = [name.encode() for name in wanted]
    return length, frozenset([name[:length] for name in names] + [(b"# TYPE " + name)[:length] for name in names])


def _until_the_end(lines: list[bytes]) -> list[bytes]:
    """Remove the end mark, which must be the last line.

    Raises:
        ExpositionError: the end mark is missing, so the page was cut off.
    """
    while lines and lines[-1] == b"":
        lines.pop()
    if not lines or lines[-1] != b"# EOF":
        raise ExpositionError('the end mark "# EOF" is missing: the page was cut off')
    return lines[:-1]


class _LineReader:
    """Reads a page line by line."""

    def __init__(self, wanted: frozenset[str] | None, *, is_openmetrics: bool) -> None:
        self._wanted = wanted
        self._is_openmetrics = is_openmetrics
        self._pattern = _OPENMETRICS_LINE if is_openmetrics else _TEXT_LINE
        self._read_series = _openmetrics_series if is_openmetrics else _text_series
        self._series: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        self.samples: list[SeriesSample] = []
        self.kinds: dict[str, str] = {}

    def read(self, line: bytes) -> None:
        """Read one line.

        Raises:
            ExpositionError: the line cannot be read.
        """
        if line[:1].isalpha():  # most lines
            self._read_sample(line)
        elif line.lstrip(b" \t")[:1] == b"#":
            self._read_comment(line)
        elif line.strip(b" \t\r"):
            self._read_sample(line)
        elif self._is_openmetrics:
            raise ExpositionError("it is empty")

    def _read_comment(self, line: bytes) -> None:
        match = _TYPE.fullmatch(line.lstrip(b" \t"))
        if match is None:
            if _IS_TYPE.match(line) and self._wanted is None:
                raise ExpositionError(f"{_quoted_start(line)} declares no type")
            if self._is_openmetrics and line == b"# EOF":
                raise ExpositionError("there are lines after the end mark")
            return
        name, kind = match["name"].decode(), match["kind"].decode()
        if self._wanted is None:
            if kind not in _KINDS:
                raise ExpositionError(f"{quoted(kind)} is not a metric type")
            if name in self.kinds:
                raise ExpositionError(f"the type of {quoted(name)} is declared twice")
        self.kinds[name] = kind

    def _read_sample(self, line: bytes) -> None:
        head, _, value = line.rpartition(b" ")
        series = self._read_series(head) if len(head) <= _CACHED_LENGTH else None
        if series is None or _NUMBER.fullmatch(value) is None:
            if self._wanted is not None and _series_name(line) not in self._wanted:
                return
            series, value = self._read_parts(line)
        elif self._wanted is not None and series.name not in self._wanted:
            return
        if series.identity in self._series:
            raise ExpositionError(f"a series of {quoted(series.name)} occurs twice")
        self._series.add(series.identity)
        self.samples.append(SeriesSample(series.name, series.labels, float(value)))

    def _read_parts(self, line: bytes) -> tuple["_SeriesText", bytes]:
        """Read the series of a line, and its value as text. The line may have more, such as a timestamp."""
        match = self._pattern.fullmatch(line)
        if match is None:
            raise ExpositionError(f"{_quoted_start(line)} is not a sample")
        series = _SeriesText.read(match)
        if _NUMBER.fullmatch(match["value"]) is None:
            raise ExpositionError(f"{_quoted_start(match['value'])} is not a number")
        return series, match["value"]


@dataclass(frozen=True, slots=True)
class _SeriesText:
    """What stands before the value of a line. ``identity`` is the same for labels in another order."""

    name: str
    labels: dict[str, str]
    identity: tuple[str, frozenset[tuple[str, str]]]

    @classmethod
    def read(cls, match: re.Match[bytes]) -> "_SeriesText":
        name, labels = match["name"].decode(), _read_labels(match["labels"] or b"")
        return cls(name, labels, (name, frozenset(labels.items())))


@functools.lru_cache(maxsize=16_384)  # series repeat from page to page, and across a fleet
def _text_series(text: bytes) -> _SeriesText | None:
    return _series_or_none(_TEXT_SERIES.fullmatch(text))


@functools.lru_cache(maxsize=16_384)
def _openmetrics_series(text: bytes) -> _SeriesText | None:
    return _series_or_none(_OPENMETRICS_SERIES.fullmatch(text))


def _series_or_none(match: re.Match[bytes] | None) -> _SeriesText | None:
    """Read a series; None where the text is not exactly one, as on a line with a timestamp."""
    try:
        return _SeriesText.read(match) if match is not None else None
    except ExpositionError:
        return None  # the caller reads the whole line and raises the error, unless the line is to be skipped


def _read_labels(text: bytes) -> dict[str, str]:
    labels: dict[str, str] = {}
    at = 0
    text = text.rstrip(b" \t")
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None:
            raise ExpositionError(f"{_quoted_start(text[at:])} is not a label")
        name = match["name"].decode()
        if name in labels:
            raise ExpositionError(f"the label {quoted(name)} is given twice")
        value = match["value"]
        try:
            labels[name] = (_ESCAPE.sub(_unescaped, value) if b"\\" in value else value).decode()
        except UnicodeDecodeError:
            raise ExpositionError(f"the label {quoted(name)} is not UTF-8") from None
        at = match.end()
    return labels


def _unescaped(escape: re.Match[bytes]) -> bytes:
    try:
        return _ESCAPED[escape[1]]
    except KeyError:
        raise ExpositionError(f"{_quoted_start(escape[0])} is not an escape sequence") from None


def _series_name(line: bytes) -> str:
    match = _NAME.match(line)
    return match[1].decode() if match else ""


def _quoted_start(text: bytes) -> str:
    return quoted(text[:60].decode(errors="replace"))
