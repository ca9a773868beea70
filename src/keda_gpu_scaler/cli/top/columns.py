# SPDX-License-Identifier: Apache-2.0
"""Lays out the columns of a table of ``top`` within the width of the terminal.

Law: no line is wider than the terminal. Untrusted text reaches a terminal without control characters, and without
characters that take no column or two.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from keda_gpu_scaler.cli.top.sparklines import ASCII_BARS, BARS

GAP_WIDTH = 2
"""The blanks between two columns."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class LineStyle(StrEnum):
    """How a line is drawn."""

    PLAIN = "plain"
    TITLE = "title"
    HEAD = "head"
    BAD = "bad"
    FAINT = "faint"
    INPUT = "input"


@dataclass(frozen=True, slots=True)
class StyledLine:
    """One line of the table or of the live view."""

    text: str
    style: LineStyle = LineStyle.PLAIN


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters outside ASCII that a terminal shows."""

    bars: str = BARS
    ellipsis: str = "…"
    celsius: str = "°C"
    arrow: str = "→"
    full: str = "█"
    mark: str = "│"


ALL_GLYPHS = Glyphs()
ASCII_GLYPHS = Glyphs(ASCII_BARS, "~", "C", "->", "#", "|")


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of the table.

    ``cells`` is None for the sparkline. ``width`` is the preferred width and ``least`` the smallest useful one.
    ``rank`` orders the columns that are left out where there is no room, the lowest first; None is never left out.
    """

    head: str
    cells: list[str] | None
    width: int
    least: int
    rank: int | None = None
    is_right: bool = False


def fitted_columns(columns: Sequence[TableColumn], width: int, gap: int = GAP_WIDTH) -> list[TableColumn]:
    """Return the columns that fit with a gap between them. Texts get the spare width first, then the sparkline."""
    kept = list(columns)
    while _least_width(kept, gap) > width and any(column.rank is not None for column in kept):
        kept.remove(min((column for column in kept if column.rank is not None), key=lambda column: column.rank or 0))
    spare = max(0, width - _least_width(kept, gap))
    widths = {id(column): column.least for column in kept}
    for column in sorted(kept, key=lambda column: column.cells is None):
        more = min(spare, column.width - column.least)
        widths[id(column)] += more
        spare -= more
    return [replace(column, width=widths[id(column)]) for column in kept]


def _least_width(columns: Sequence[TableColumn], gap: int) -> int:
    return sum(column.least for column in columns) + gap * (len(columns) - 1)


def joined(cells: Sequence[str], columns: Sequence[TableColumn], glyphs: Glyphs, gap: int = GAP_WIDTH) -> str:
    """Return one line of a table."""
    parts = []
    for cell, column in zip(cells, columns, strict=True):
        text = cut_end(cell, column.width, glyphs)
        parts.append(text.rjust(column.width) if column.is_right else text.ljust(column.width))
    return (" " * gap).join(parts)


def narrow(text: str) -> str:
    """Return an untrusted text in which every character takes exactly one column of a terminal."""
    return "".join(character if _is_narrow(character) else _REPLACEMENT for character in text)


def _is_narrow(character: str) -> bool:
    if character.isascii():
        return character.isprintable()
    is_wide = unicodedata.east_asian_width(character) in "WF"
    return character.isprintable() and not unicodedata.combining(character) and not is_wide


def cut_end(text: str, width: int, glyphs: Glyphs) -> str:
    """Shorten a text to a width. Its beginning stays."""
    return text if len(text) <= width else text[: max(0, width - 1)] + glyphs.ellipsis[:width]
