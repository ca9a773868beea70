# SPDX-License-Identifier: Apache-2.0
"""Parses the Prometheus text format 0.0.4 and OpenMetrics 1.0.

Law: a series is read exactly, or the page is refused. A name that only a trigger's selector requests never makes the
page unreadable: it is left out, with a reason. The cost of a page is close to the cost of finding the wanted lines,
whatever else the page contains, and the number of wanted lines that are read is bounded.

Facts are from the two specifications: Prometheus' "Exposition formats" and OpenMetrics 1.0.0. Where they leave a case
open, this parser follows Prometheus' own parser.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.engines.exposition import SUFFIXES, Exposition, name_of
from keda_gpu_scaler.engines.page_layout import LayoutFollower, LayoutRecorder, PageLayout
from keda_gpu_scaler.engines.series_text import (
    CACHED_LENGTH,
    NUMBER,
    OPENMETRICS_LINE,
    TEXT_LINE,
    ExpositionError,
    SeriesText,
    declared_type,
    openmetrics_series,
    series_name,
    text_series,
)

_KINDS = frozenset(
    {"counter", "gauge", "histogram", "summary", "untyped", "unknown", "info", "stateset", "gaugehistogram"}
)
MAX_SAMPLES = 10_000
"""The number of wanted samples that are kept of a page. The name with the most samples is left out above it."""
MAX_SERIES_BYTES = 1 << 22
"""The text of the wanted series that are kept of a page. The name with the most text is left out above it."""
MAX_LINES = 4 * MAX_SAMPLES
"""The number of wanted lines that are read of a page, apart for the engine's own names and for those of selectors."""
_LINES_PER_CHECK = 1_000
_AFTER_NAME = (b" ", b"\t", b"{", b"\r", b".", b"+", b"-")  # a value needs no blank before it
_LONG_HEAD = 26  # longer than the prefixes that an engine's names share, such as vllm:request_
MAX_LINE_BYTES = 1 << 16
"""A longer line with a wanted series is not read."""

_INDENTED = re.compile(rb"\n[ \t]")  # four times as fast as two tests with ``in``
_NO_END = 'the end mark "# EOF" is missing: the page was cut off'
_IS_TYPE = re.compile(rb"[ \t]*+#[ \t]++TYPE(?:[ \t]|$)")


def parse_exposition(body: bytes, *, wanted: frozenset[str] | None = None, is_openmetrics: bool = False) -> Exposition:
    """Read a page that is here as a whole.

    Args:
        body: the text, UTF-8.
        wanted: names of the series to read; other lines are skipped, valid or not. None reads every series.
        is_openmetrics: whether the format is OpenMetrics, which is stricter and marks its end.

    Raises:
        ExpositionError: a line cannot be read, a series occurs twice with two values, or the end mark is missing.
    """
    if wanted is not None:
        parser = ExpositionParser(wanted, is_openmetrics=is_openmetrics)
        parser.feed(body)
        return parser.finish()
    lines = body.split(b"\n")
    if is_openmetrics:
        lines = _until_the_end(lines)
    reader = _LineReader(None, frozenset(), is_openmetrics=is_openmetrics)
    reader.read_all(lines, range(len(lines)), 1)
    return reader.exposition()


class ExpositionParser:
    """Reads a page in pieces as they arrive; between two pieces the caller may do other work.

    The result does not depend on where the page is cut. ``feed`` takes a time that is proportional to its piece.

    Args:
        wanted: names of the series to read; other lines are skipped, valid or not.
        extra: further names of which a line that cannot be read costs only the name, and not the page.
        prefixes: beginnings of names. The result says which of them begin a name of the page.
        is_openmetrics: whether the format is OpenMetrics, which is stricter and marks its end.
        layout: the layout of an earlier page of the same target. Any layout gives the same result.
        is_recorded: whether the layout of this page is recorded where it does not follow the earlier one.
    """

    def __init__(
        self,
        wanted: frozenset[str],
        *,
        extra: frozenset[str] = frozenset(),
        prefixes: frozenset[str] = frozenset(),
        is_openmetrics: bool = False,
        layout: PageLayout | None = None,
        is_recorded: bool = False,
    ) -> None:
        self._everything = everything = _united(wanted, extra)
        self._heads = _line_heads(everything, everything)
        self._reader = _LineReader(everything, extra - wanted, is_openmetrics=is_openmetrics)
        self._is_openmetrics = is_openmetrics
        self._prefixes = {prefix: (prefix.encode(), b"# TYPE " + prefix.encode()) for prefix in prefixes}
        self._line = 1
        self._rest = self._last = b""
        self._is_skipping = False
        self._follower: LayoutFollower | None = None
        self._recorder: LayoutRecorder | None = None
        if not is_openmetrics:
            if layout is not None and layout.wanted == everything and layout.searched == prefixes:
                self._follower = LayoutFollower(layout)
            elif is_recorded:
                self._recorder = LayoutRecorder(everything, prefixes)

    @property
    def recorded(self) -> PageLayout | None:
        """The layout of the page, which was read to its end; None where none was recorded."""
        return self._recorder.layout(frozenset(self._reader.prefixes)) if self._recorder is not None else None

    def follow(self, piece: bytes) -> bool:
        """Read a piece at once if its lines follow the earlier layout, which is cheap; return whether it was read.

        After a piece that was not read, and is then given to ``feed``, no piece is read in this way.
        """
        if self._follower is None:
            return False
        end = piece.rfind(b"\n") + 1
        rest = piece[end:] if end else self._rest + piece
        lines = (self._rest + piece[:end]).split(b"\n") if end else [b""]
        if len(rest) > MAX_LINE_BYTES or not self._follower.follow(lines[:-1]):
            self._stop_following()
            return False
        self._rest = rest
        return True

    def feed(self, piece: bytes) -> None:
        """Read the lines that end in this piece.

        Raises:
            ExpositionError: a line cannot be read, or a series occurs twice with two values.
        """
        if self.follow(piece):
            return
        if self._is_skipping:
            piece = self._end_of_skipped(piece)
        end = piece.rfind(b"\n") + 1
        if end:
            self._read(self._rest + piece[:end] if self._rest else piece[:end] if end < len(piece) else piece)
            self._rest = piece[end:]
        else:
            self._rest += piece
        if len(self._rest) > MAX_LINE_BYTES:
            if self._reader.wants(series_name(self._rest)):
                self._reader.read_all([self._rest], [0], self._line)  # it is too long, and costs its name or the page
            self._is_skipping, self._rest, self._last = True, b"", b""
            if self._recorder is not None:
                self._recorder.refuse()

    def end_following(self) -> LayoutFollower | None:
        """Read the last line; return the follower of the earlier layout if the page followed it to its end."""
        if self._follower is None:
            return None
        if self._rest and self._follower.follow([self._rest]):
            self._rest = b""
        if self._rest or not self._follower.is_complete:
            self._stop_following()
        return self._follower

    def finish(self) -> Exposition:
        """Read the last line and return the page.

        Raises:
            ExpositionError: the last line cannot be read, or the end mark of OpenMetrics is missing.
        """
        follower = self.end_following()
        if follower is not None:
            self._reader.continue_after(follower)
        elif self._rest:
            self._read(self._rest)
        if self._is_openmetrics and self._last != b"# EOF":
            raise ExpositionError(_NO_END)
        return self._reader.exposition()

    def _stop_following(self) -> None:
        """Read the rest of the page in the ordinary way, and what was read so far as if it had been read so."""
        if self._follower is not None:
            heads = self._follower.layout.heads[: self._follower.line_count]
            self._find_prefixes(b"\n".join(heads))
            self._line += len(heads)
            self._reader.continue_after(self._follower)
            self._follower = None

    def _end_of_skipped(self, piece: bytes) -> bytes:
        at = piece.find(b"\n")
        if at < 0:
            return b""
        self._is_skipping = False
        return piece[at:]  # with its line feed, so that the lines are counted

    def _find_prefixes(self, block: bytes) -> None:
        for prefix in [prefix for prefix, texts in self._prefixes.items() if _begins_a_line(texts, block)]:
            del self._prefixes[prefix]
            self._reader.prefixes.add(prefix)

    def _read(self, block: bytes) -> None:
        self._find_prefixes(block)
        lines = block.split(b"\n")
        if self._is_openmetrics:
            self._last = next((line for line in reversed(lines) if line), self._last)
        numbers = self._heads.select(lines)
        if block[:1] in (b" ", b"\t") or _INDENTED.search(block):
            # An indented line does not begin with its name. The others are selected as in a block without such a line.
            numbers = sorted({*numbers, *(it for it, line in enumerate(lines) if line[:1] in (b" ", b"\t"))})
            if self._recorder is not None:
                self._recorder.refuse()
        self._reader.read_all(lines, numbers, self._line)
        self._line += len(lines) - 1
        if self._recorder is not None:
            self._recorder.add(lines if lines[-1] else lines[:-1], numbers)
        if self._reader.left_out:
            self._leave_out()

    def _leave_out(self) -> None:
        """Search no more for the names that are left out: a page may have very many lines of one."""
        self._heads = _line_heads(self._everything.difference(self._reader.left_out), self._everything)
        if self._recorder is not None:
            self._recorder.refuse()


def _begins_a_line(texts: tuple[bytes, ...], block: bytes) -> bool:
    return any(block.startswith(text) or b"\n" + text in block for text in texts)


@dataclass(frozen=True, slots=True)
class _LineHeads:
    """How wanted lines begin. Few lines pass the first comparison, and of those few unwanted ones pass the second."""

    length: int
    heads: frozenset[bytes]
    short: frozenset[bytes]
    long: frozenset[bytes]

    def select(self, lines: Sequence[bytes]) -> list[int]:
        """Return the numbers of the lines that may be wanted."""
        length, heads, short, long = self.length, self.heads, self.short, self.long
        numbers = [number for number, line in enumerate(lines) if line[:length] in heads]
        return [it for it in numbers if lines[it][:_LONG_HEAD] in long or lines[it][:length] in short]


@functools.lru_cache(maxsize=256)  # the same set for each page, so that its hash is computed once
def _united(wanted: frozenset[str], extra: frozenset[str]) -> frozenset[str]:
    return wanted | extra if extra else wanted


@functools.lru_cache(maxsize=256)
def _line_heads(wanted: frozenset[str], declared: frozenset[str]) -> _LineHeads:
    families = {name.removesuffix(suffix) for name in declared for suffix in ("", *SUFFIXES)}
    texts = [*(name.encode() for name in wanted), *(f"# TYPE {family}".encode() for family in families)]
    shortest = min((len(text) for text in texts), default=0)
    # One more byte than the shortest text has leaves fewer unwanted lines; what may follow that text is known.
    length = shortest + 1
    texts += [text + end for text in texts if len(text) == shortest for end in _AFTER_NAME]
    return _LineHeads(
        length,
        frozenset(text[:length] for text in texts),
        frozenset(text[:length] for text in texts if len(text) < _LONG_HEAD),
        frozenset(text[:_LONG_HEAD] for text in texts if len(text) >= _LONG_HEAD),
    )


def _until_the_end(lines: list[bytes]) -> list[bytes]:
    """Remove the end mark, which must be the last line.

    Raises:
        ExpositionError: the end mark is missing, so the page was cut off.
    """
    while lines and lines[-1] == b"":
        lines.pop()
    if not lines or lines[-1] != b"# EOF":
        raise ExpositionError(_NO_END)
    return lines[:-1]


class _LineReader:
    """Reads a page line by line, and keeps the bounds.

    ``left_out`` has the names that could not be read, with the reason; ``prefixes`` is for its user.
    """

    def __init__(self, wanted: frozenset[str] | None, extra: frozenset[str], *, is_openmetrics: bool) -> None:
        self._wanted = wanted
        self._extra = extra
        self._is_openmetrics = is_openmetrics
        self._pattern = OPENMETRICS_LINE if is_openmetrics else TEXT_LINE
        self._read_series = openmetrics_series if is_openmetrics else text_series
        self._values: dict[bytes, float] = {}
        self._kinds: dict[str, str] = {}
        self._size_bytes = 0
        self._dropped = 0  # lines whose value is not kept, because they are duplicates or are left out
        self._most_lines = MAX_LINES
        self.left_out: dict[str, str] = {}
        self.prefixes: set[str] = set()

    def wants(self, name: str) -> bool:
        """Whether samples of this name are read."""
        return self._wanted is None or name in self._wanted

    def exposition(self) -> Exposition:
        """Return what was read."""
        return Exposition(self._values, self._kinds, self.left_out, frozenset(self.prefixes))

    def read_all(self, lines: Sequence[bytes], numbers: Sequence[int], first: int) -> None:
        """Read the lines with these numbers; ``first`` is the number of the first line on its page.

        Raises:
            ExpositionError: a line cannot be read.
        """
        for start in range(0, len(numbers), _LINES_PER_CHECK):
            for number in numbers[start : start + _LINES_PER_CHECK]:
                try:
                    self._read(lines[number])
                except ExpositionError as error:
                    name = series_name(lines[number])
                    if name not in self._extra:
                        raise ExpositionError(f"line {first + number}: {error}") from None
                    self._leave_out(name, f"line {first + number}: {error}")
            if self._wanted is not None:
                self._check_bounds()

    def continue_after(self, follower: LayoutFollower) -> None:
        """Take what a follower read as if it had been read here. Nothing was read here before."""
        self._kinds = follower.layout.kinds(follower.line_count)
        self._values.update(follower.read_series())
        if follower.is_complete:
            self.prefixes |= follower.layout.prefixes

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out[name] = reason
        self._wanted = (self._wanted or frozenset()) - {name}
        kept = {it: value for it, value in self._values.items() if name_of(it) != name}
        self._dropped += len(self._values) - len(kept)
        self._values, self._size_bytes = kept, sum(map(len, kept))

    def _read(self, line: bytes) -> None:
        if line[:1].isalpha():  # most lines
            self._read_sample(line)
        elif line.lstrip(b" \t")[:1] == b"#":
            self._read_comment(line)
        elif line.strip(b" \t\r"):
            self._read_sample(line)
        elif self._is_openmetrics:
            raise ExpositionError("it is empty")

    def _read_comment(self, line: bytes) -> None:
        declared = declared_type(line) if len(line) <= CACHED_LENGTH else None
        if declared is None:
            if _IS_TYPE.match(line) and self._wanted is None:
                raise ExpositionError(f"it declares no type ({len(line)} bytes)")
            if self._is_openmetrics and self._wanted is None and line == b"# EOF":
                raise ExpositionError("there are lines after the end mark")
            return
        name, kind = declared
        if self._wanted is None:
            if kind not in _KINDS:
                raise ExpositionError(f"it declares no known type ({len(line)} bytes)")
            if name in self._kinds:
                raise ExpositionError(f"it declares the type of a name again ({len(line)} bytes)")
        if len(self._kinds) < MAX_SAMPLES:
            self._kinds[name] = kind

    def _read_sample(self, line: bytes) -> None:
        wanted = self._wanted
        if wanted is not None and self.left_out and series_name(line) not in wanted:
            return  # such a page may have very many different series
        head, _, value = line.rpartition(b" ")
        series = self._read_series(head) if len(head) <= CACHED_LENGTH else None
        if wanted is not None and (series.name if series is not None else series_name(line)) not in wanted:
            return
        if series is None or NUMBER.fullmatch(value) is None:
            series, value = self._read_parts(line)
        number = float(value)
        known = self._values.setdefault(series.identity, number)
        if known is number:
            self._size_bytes += len(series.identity)
            return
        self._dropped += 1
        if known != number and not (math.isnan(known) and math.isnan(number)):
            raise ExpositionError(f"a series of {quoted(series.name)} occurs twice, with two values")

    def _check_bounds(self) -> None:
        while len(self._values) > MAX_SAMPLES:
            name = Counter(map(name_of, self._values)).most_common(1)[0][0]
            # How many it has so far depends on the pieces in which the page came, so it is not said.
            self._leave_out(name, f"{quoted(name)} has too many series: at most {MAX_SAMPLES} of a page are read")
        while self._size_bytes > MAX_SERIES_BYTES:
            sizes_bytes: Counter[str] = Counter()
            for identity in self._values:
                sizes_bytes[name_of(identity)] += len(identity)
            name = sizes_bytes.most_common(1)[0][0]
            self._leave_out(name, f"the labels of {quoted(name)} are too long to be read")
        lines = len(self._values) + self._dropped
        if lines > self._most_lines:
            if self._extra <= self.left_out.keys():
                raise ExpositionError(f"the page has more than {MAX_LINES} lines of its engine")
            for name in self._extra - self.left_out.keys():
                self._leave_out(name, f"the requested series have more than {MAX_LINES} lines, too many to be read")
            self._most_lines = lines + MAX_LINES

    def _read_parts(self, line: bytes) -> tuple["SeriesText", bytes]:
        """Read the series of a line, and its value as text. The line may have more, such as a timestamp."""
        if len(line) > MAX_LINE_BYTES and self._wanted is not None:
            raise ExpositionError(f"the line of {quoted(series_name(line))} is longer than {MAX_LINE_BYTES} bytes")
        match = self._pattern.fullmatch(line)
        if match is None:
            raise ExpositionError(f"it is not a sample ({len(line)} bytes)")
        series = SeriesText.read(match)
        if NUMBER.fullmatch(match["value"]) is None:
            raise ExpositionError(f"its value is not a number ({len(match['value'])} bytes)")
        return series, match["value"]
