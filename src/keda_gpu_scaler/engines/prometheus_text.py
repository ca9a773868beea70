# SPDX-License-Identifier: Apache-2.0
"""What does a page of metrics say? Prometheus' text format 0.0.4, and OpenMetrics 1.0.

The law of this module: a series is read exactly or the page is refused; and a page costs little more than it takes to
find the lines that are wanted, whatever else it holds.

Facts are from the two specifications: Prometheus' "Exposition formats" and OpenMetrics 1.0.0. Prometheus' own parser
stands in for what they leave open.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keda_gpu_scaler.core.quoting import quoted

_KINDS = frozenset(
    {"counter", "gauge", "histogram", "summary", "untyped", "unknown", "info", "stateset", "gaugehistogram"}
)
_COUNTING = frozenset({"_total", "_bucket", "_sum", "_count"})
_REMEMBERED_LENGTH = 512
_SUFFIXES = ("_total", "_bucket", "_sum", "_count", "_created", "_gsum", "_gcount", "_info")

# Possessive throughout: whatever a stranger sends, a line takes time in proportion to its length.
_LABELS = rb'\{(?P<labels>[^"}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"}]*+)*+)\}'
_TEXT_LINE = re.compile(
    rb"[ \t]*+(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]*+(?:" + _LABELS + rb")?+[ \t]*+(?P<value>[^ \t\r{}]++)"
    rb"(?:[ \t]++(?P<at>[+-]?[0-9]++))?+[ \t\r]*+"
)
_OPEN_LINE = re.compile(
    rb"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)(?:" + _LABELS + rb")?+ (?P<value>[^ {}]++)"
    rb"(?: (?P<at>[+-]?[0-9.eE+-]++))?+"
    rb"(?: # \{(?:[^\"}]*+(?:\"[^\"\\]*+(?:\\.[^\"\\]*+)*+\"[^\"}]*+)*+)\} [^ ]++(?: [^ ]++)?+)?+"
)
_NAME = re.compile(rb"[ \t]*+([a-zA-Z_:][a-zA-Z0-9_:]*+)")
_LABEL = re.compile(
    rb'[ \t]*+(?P<name>[a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"(?P<value>[^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t]*+(?:,|$)'
)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b'"': b'"', b"n": b"\n"}
_NUMBER = re.compile(rb"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|nan)", re.IGNORECASE)
_TYPE = re.compile(rb"#[ \t]++TYPE[ \t]++(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]++(?P<kind>[a-z]++)[ \t\r]*+")
_INDENTED = re.compile(rb"\n[ \t]")  # four times as fast as asking twice whether it is ``in`` the page
_IS_TYPE = re.compile(rb"[ \t]*+#[ \t]++TYPE(?:[ \t]|$)")


class ExpositionError(ValueError):
    """Text that is no exposition; the message names the line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class SeriesSample:
    """One series and its value, which may be NaN or infinite."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Exposition:
    """What was read: the samples that were wanted, in order, and the kinds of families ("counter") by their names."""

    samples: tuple[SeriesSample, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)

    def is_counter(self, name: str) -> bool:
        """Whether a series counts up from the start of its process, by its family's kind or else by its name."""
        if kind := self.kinds.get(name):
            return kind == "counter"
        for suffix in _SUFFIXES:
            if name.endswith(suffix) and (kind := self.kinds.get(name.removesuffix(suffix))):
                return kind in ("counter", "histogram", "summary") and suffix in _COUNTING
        return name.endswith("_total")

    def declares_counter(self, name: str) -> bool:
        """Whether the page declares such a counter, be it without any series yet."""
        return self.kinds.get(name) == "counter" or self.kinds.get(name.removesuffix("_total")) == "counter"


def parse_exposition(body: bytes, *, wanted: frozenset[str] | None = None, is_openmetrics: bool = False) -> Exposition:
    """Read a page.

    Args:
        body: the text, UTF-8.
        wanted: names of series; lines of others are not looked at, be they right or wrong. None wants them all.
        is_openmetrics: whether it is OpenMetrics, which is stricter and tells where it ends.

    Raises:
        ExpositionError: a line cannot be read, a series is told twice, or the end is missing.
    """
    lines = body.split(b"\n")
    if is_openmetrics:
        lines = _until_the_end(lines)
    if wanted is None:
        numbers: Sequence[int] = range(len(lines))
    elif body[:1] in (b" ", b"\t") or _INDENTED.search(body):
        numbers = range(len(lines))  # who indents lines hides their names from a quick look
    else:
        length, heads = _heads(wanted)
        numbers = [number for number, line in enumerate(lines) if line[:length] in heads]
    reader = _Reader(wanted, is_openmetrics=is_openmetrics)
    for number in numbers:
        try:
            reader.read(lines[number])
        except ExpositionError as error:
            raise ExpositionError(f"line {number + 1}: {error}") from None
    return Exposition(tuple(reader.samples), reader.kinds)


@functools.lru_cache(maxsize=256)
def _heads(wanted: frozenset[str]) -> tuple[int, frozenset[bytes]]:
    """How a line begins that may be wanted, and how much of it is to be compared: no more than the shortest name."""
    length = min((len(name) for name in wanted), default=1)
    names = [name.encode() for name in wanted]
    return length, frozenset([name[:length] for name in names] + [(b"# TYPE " + name)[:length] for name in names])


def _until_the_end(lines: list[bytes]) -> list[bytes]:
    """Leave out the end mark, which must be the last line.

    Raises:
        ExpositionError: it is missing, so that the page was cut off.
    """
    while lines and lines[-1] == b"":
        lines.pop()
    if not lines or lines[-1] != b"# EOF":
        raise ExpositionError('the end mark "# EOF" is missing: the page was cut off')
    return lines[:-1]


class _Reader:
    """Reads line after line."""

    def __init__(self, wanted: frozenset[str] | None, *, is_openmetrics: bool) -> None:
        self._wanted = wanted
        self._is_openmetrics = is_openmetrics
        self._line = _OPEN_LINE if is_openmetrics else _TEXT_LINE
        self._seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        self.samples: list[SeriesSample] = []
        self.kinds: dict[str, str] = {}

    def read(self, line: bytes) -> None:
        """Read one line.

        Raises:
            ExpositionError: it cannot be read.
        """
        if line.lstrip(b" \t")[:1] == b"#":
            self._comment(line)
        elif line.strip(b" \t\r"):
            self._sample(line)
        elif self._is_openmetrics:
            raise ExpositionError("it is empty")

    def _comment(self, line: bytes) -> None:
        match = _TYPE.fullmatch(line.lstrip(b" \t"))
        if match is None:
            if _IS_TYPE.match(line) and self._wanted is None:
                raise ExpositionError(f"{_shown(line)} declares no type")
            if self._is_openmetrics and line == b"# EOF":
                raise ExpositionError("there is more after the end")
            return
        name, kind = match["name"].decode(), match["kind"].decode()
        if self._wanted is None:
            if kind not in _KINDS:
                raise ExpositionError(f"{quoted(kind)} is no type of metric")
            if name in self.kinds:
                raise ExpositionError(f"the type of {quoted(name)} is declared twice")
        self.kinds[name] = kind

    def _sample(self, line: bytes) -> None:
        if self._wanted is not None and _name_of(line) not in self._wanted:
            return
        match = self._line.fullmatch(line)
        if match is None:
            raise ExpositionError(f"{_shown(line)} is no sample")
        name, text = match["name"].decode(), match["labels"] or b""
        labels = _labels(text) if len(text) <= _REMEMBERED_LENGTH else _read_labels(text)
        if _NUMBER.fullmatch(match["value"]) is None:
            raise ExpositionError(f"{_shown(match['value'])} is no number")
        series = (name, frozenset(labels.items()))
        if series in self._seen:
            raise ExpositionError(f"a series of {quoted(name)} is told twice")
        self._seen.add(series)
        self.samples.append(SeriesSample(name, labels, float(match["value"])))


@functools.lru_cache(maxsize=16_384)  # a page has the same labels each time, and a fleet's pages have them in common
def _labels(text: bytes) -> Mapping[str, str]:
    return _read_labels(text)


def _read_labels(text: bytes) -> dict[str, str]:
    labels: dict[str, str] = {}
    at = 0
    text = text.rstrip(b" \t")
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None:
            raise ExpositionError(f"{_shown(text[at:])} is no label")
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
        raise ExpositionError(f"{_shown(escape[0])} is no escape") from None


def _name_of(line: bytes) -> str:
    match = _NAME.match(line)
    return match[1].decode() if match else ""


def _shown(text: bytes) -> str:
    return quoted(text[:60].decode(errors="replace"))


def is_known(value: float) -> bool:
    """Whether a sample tells something: NaN and the infinities do not."""
    return math.isfinite(value)
