# SPDX-License-Identifier: Apache-2.0
"""The layout of a page, by which the next page of the same target is read in less time.

An engine serves the same lines in the same order at each scrape, and only the values change. A layout has the beginning
of each line. While the lines of a page begin as those of the layout, only the values of the wanted series are read.
Prometheus' scrape cache has the same purpose.

Law: a page that follows a layout is read as it is read without one. At the first line that does not follow it, the
ordinary reading goes on.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keda_gpu_scaler.engines.series_text import CACHED_LENGTH, NUMBER, declared_type, text_series

MAX_LAYOUT_LINES = 8_192
MAX_LAYOUT_SERIES = 2_048
MAX_LAYOUT_BYTES = 1 << 18
"""The text of a layout, without the beginnings that several of its lines share."""
_NAME_AND_END = re.compile(rb"([a-zA-Z_:][a-zA-Z0-9_:]*+)[^a-zA-Z0-9_:]")
_TEXT_BYTES, _LINE_BYTES = 33, 8  # what an object of bytes takes in addition to its text; a place in a tuple
_PLAIN_NUMBER = b"0123456789.+-e"


@dataclass(frozen=True, slots=True)
class PageLayout:
    """The lines of a page without their values.

    ``heads`` has the beginning of each line: the series of a wanted line with the blank after it, the name of another
    line with the byte after it, and the whole of a comment. ``numbers`` are the numbers of the wanted lines, counted
    from 0, and ``series`` their ``SeriesText.identity``.
    ``comments`` are the numbers of the comments that must be equal as a whole, and
    ``declared`` the types that lines declare. ``wanted`` and ``searched`` are the names and the beginnings of names
    that were searched for, and ``prefixes`` the beginnings that the page has. ``size_bytes`` is about the memory that
    it takes.
    """

    heads: tuple[bytes, ...]
    numbers: tuple[int, ...]
    series: tuple[bytes, ...]
    comments: tuple[int, ...]
    declared: tuple[tuple[int, str, str], ...]
    wanted: frozenset[str]
    searched: frozenset[str]
    prefixes: frozenset[str]
    size_bytes: int

    def kinds(self, line_count: int) -> dict[str, str]:
        """Return the types that the first lines declare."""
        return {name: kind for number, name, kind in self.declared if number < line_count}


class LayoutFollower:
    """Reads the lines of a page that follow a layout; ``values`` has the values of the wanted lines so far."""

    def __init__(self, layout: PageLayout) -> None:
        self.layout = layout
        self.line_count = 0
        self.values: list[float] = []

    @property
    def is_complete(self) -> bool:
        """Whether the page has had each line of the layout."""
        return self.line_count == len(self.layout.heads)

    def follow(self, lines: Sequence[bytes]) -> bool:
        """Read the next lines if all of them follow the layout; return whether they do."""
        layout, first = self.layout, self.line_count
        end = first + len(lines)
        if end > len(layout.heads) or not all(map(bytes.startswith, lines, layout.heads[first:end])):
            return False
        comments = layout.comments[bisect_left(layout.comments, first) : bisect_left(layout.comments, end)]
        if any(len(lines[number - first]) != len(layout.heads[number]) for number in comments):
            return False
        read = bisect_left(layout.numbers, end)
        texts = [lines[it - first][len(layout.heads[it]) :] for it in layout.numbers[len(self.values) : read]]
        if b"".join(texts).translate(None, _PLAIN_NUMBER) and not all(map(NUMBER.fullmatch, texts)):
            return False  # such as a value with a time
        try:
            values = list(map(float, texts))
        except ValueError:
            return False
        self.values += values
        self.line_count = end
        return True

    def read_series(self) -> Iterator[tuple[bytes, float]]:
        """Yield the wanted series of the lines so far, with their values."""
        return zip(self.layout.series, self.values, strict=False)


class LayoutRecorder:
    """Records the layout of a page while it is read in the ordinary way.

    ``layout`` returns None for a page whose next one would not follow: with wanted lines that have more than a series
    and a number, with lines that are empty or indented, or with too many lines.
    """

    def __init__(self, wanted: frozenset[str], searched: frozenset[str]) -> None:
        self._wanted = wanted
        self._searched = searched
        self._heads: list[bytes] = []
        self._known: dict[bytes, bytes] = {}
        self._size_bytes = 0
        self._numbers: list[int] = []
        self._series: list[bytes] = []
        self._comments: list[int] = []
        self._declared: list[tuple[int, str, str]] = []
        self._is_refused = False

    def refuse(self) -> None:
        """Record no layout of this page."""
        self._is_refused = True
        for recorded in (self._heads, self._known, self._numbers, self._series, self._comments, self._declared):
            recorded.clear()

    def add(self, lines: Sequence[bytes], selected: Sequence[int]) -> None:
        """Record the next lines; ``selected`` are the numbers of those that may be wanted, counted in ``lines``."""
        may_be_wanted = frozenset(selected)
        for number, line in enumerate(lines):
            if self._is_refused:
                return
            head = self._head(line, may_be_wanted=number in may_be_wanted)
            if head is None or len(self._heads) >= MAX_LAYOUT_LINES or len(self._series) > MAX_LAYOUT_SERIES:
                self.refuse()
                return
            self._append(head)

    def layout(self, prefixes: frozenset[str]) -> PageLayout | None:
        """Return the layout of the page, which ended; ``prefixes`` are the searched beginnings that it has."""
        if self._is_refused or len(set(self._series)) < len(self._series):
            return None
        texts = len(self._known) + len(self._series)
        size_bytes = (
            self._size_bytes + sum(map(len, self._series)) + _TEXT_BYTES * texts + _LINE_BYTES * len(self._heads)
        )
        return PageLayout(
            tuple(self._heads),
            tuple(self._numbers),
            tuple(self._series),
            tuple(self._comments),
            tuple(self._declared),
            self._wanted,
            self._searched,
            prefixes,
            size_bytes,
        )

    def _append(self, head: bytes) -> None:
        known = self._known.setdefault(head, head)
        if known is head:
            self._size_bytes += len(head)
            if self._size_bytes > MAX_LAYOUT_BYTES:
                self.refuse()
                return
        self._heads.append(known)

    def _head(self, line: bytes, *, may_be_wanted: bool) -> bytes | None:
        """Return how a line begins, None if no layout has such a line."""
        if line[:1] == b"#":
            return self._comment(line, may_be_wanted=may_be_wanted)
        match = _NAME_AND_END.match(line)
        if match is None:
            return None
        if not may_be_wanted or match[1].decode() not in self._wanted:
            return match[0]
        text, _, value = line.rpartition(b" ")
        series = text_series(text) if len(text) <= CACHED_LENGTH else None
        if series is None or NUMBER.fullmatch(value) is None:
            return None
        self._numbers.append(len(self._heads))
        self._series.append(series.identity)
        return text + b" "

    def _comment(self, line: bytes, *, may_be_wanted: bool) -> bytes:
        number = len(self._heads)
        if not line.startswith(b"# HELP "):  # with more text this line could declare another type
            self._comments.append(number)
        declared = declared_type(line) if may_be_wanted and len(line) <= CACHED_LENGTH else None
        if declared is not None:
            self._declared.append((number, *declared))
        return line
