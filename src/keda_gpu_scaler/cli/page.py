# SPDX-License-Identifier: Apache-2.0
"""Lays out text for a terminal with rich: labelled paragraphs, tables and notes.

Law: no line is wider than the page, and every text is taken literally: control characters are replaced, and rich's
markup is not interpreted.

Only the commands that print tables import this module: ``serve`` must not load rich.
"""

import io
import re
import textwrap
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from keda_gpu_scaler.cli.output import cut, printable

NARROWEST = 60
"""Columns below which a page is not laid out."""

_LABEL = 12
_NOTE = 4
_GAP = 2
_ROOM_FOR_DETAILS = 30
_NARROWEST_CUT = 12
_TRAILING_SPACES = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$", re.MULTILINE)


class Page:
    """Paragraphs below each other, at most ``width`` columns wide. Each has a label on its left, or none.

    Args:
        width: columns; at least ``NARROWEST`` are used.
    """

    def __init__(self, width: int) -> None:
        self.width = max(width, NARROWEST)
        self._parts: list[RenderableType] = []

    @property
    def text(self) -> str:
        """The page, with escape sequences for its styles; ``output.say`` removes them where none are wanted."""
        return rendered(Group(*self._parts), self.width)

    def beginning(self, text: str, lines: int) -> str:
        """Return as much of a paragraph as has this number of lines beside a label; none for 0."""
        columns = self.width - _LABEL - _GAP
        if not lines or len(text) <= lines * columns // 2:
            return text if lines else ""
        folded = textwrap.wrap(
            text, columns, max_lines=lines, placeholder="…", break_long_words=False, break_on_hyphens=False
        )
        return " ".join(folded)

    def title(self, text: str) -> None:
        """Add a paragraph in bold over the whole width."""
        self._parts.append(literal(text, "bold"))

    def entry(self, label: str, text: str, style: str = "") -> None:
        """Add a labelled paragraph.

        Args:
            label: at most 11 characters; empty for a paragraph that belongs to the label above it.
            text: one paragraph; it is wrapped.
            style: of the text, in rich's words: "bold", "red".
        """
        self._labelled(label, literal(text, style))

    def entries(self, label: str, texts: Iterable[str]) -> None:
        """Add paragraphs that share one label."""
        for number, text in enumerate(texts):
            self.entry(label if number == 0 else "", text)

    def note(self, mark: str, text: str, style: str = "") -> None:
        """Add an indented paragraph without a label, after a mark of at most one character."""
        grid = Table.grid()
        grid.add_column(width=_NOTE, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(literal(f"  {mark}", style), literal(text, style))
        self._parts.append(grid)

    def command(self, label: str, command: str, comment: str) -> None:
        """Add a command of a shell with a comment, so that its lines can be copied and run.

        Args:
            label: as of an entry.
            command: it is continued with a backslash where it is too long for a line.
            comment: what the command is for.
        """
        text = f"{printable(command)}  # {printable(comment)}"
        if cell_len(text) <= self.width - _LABEL:
            self.entry(label, text)
            return
        self.entry(label, f"# {comment}")
        lines = textwrap.wrap(printable(command), self.width - _NOTE, break_on_hyphens=False, break_long_words=False)
        folded = " \\\n".join(f"{' ' * (_GAP if number == 0 else _NOTE)}{line}" for number, line in enumerate(lines))
        self._parts.append(Text(folded, overflow="fold"))

    def table(self, label: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table, nothing where it has no row.

        The last column is wrapped. It stands below the rest of its row where the page has no room beside it.
        """
        if not rows:
            return
        room = self.width - _LABEL
        widest = max(room // 3, _NARROWEST_CUT)
        cells = [
            [*(cut(printable(cell), widest) for cell in row[:-1]), row[-1]]
            for row in (tuple(head.upper() for head in heads), *rows)
        ]
        widths = [max(cell_len(row[column]) for row in cells) + _GAP for column in range(len(heads) - 1)]
        firsts = ["".join(map(set_cell_size, row, widths)) for row in cells]
        lasts = [row[-1] for row in cells]
        is_beside = room - sum(widths) >= min(_ROOM_FOR_DETAILS, max(map(cell_len, lasts)))
        self._labelled(label, _beside(firsts, lasts, sum(widths)) if is_beside else _below(firsts, lasts))

    def _labelled(self, label: str, content: RenderableType) -> None:
        grid = Table.grid()
        grid.add_column(width=_LABEL, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(literal(label), content)
        self._parts.append(grid)


def rendered(content: RenderableType, width: int) -> str:
    """Return what rich draws, with escape sequences for its styles and without spaces at the ends of lines.

    Args:
        content: what to draw. Its texts must be ``rich.text.Text``; use ``Page`` for untrusted text.
        width: columns.
    """
    file = io.StringIO()
    console = Console(
        file=file, width=width, height=24, force_terminal=True, color_system="standard", no_color=False,
        force_jupyter=False, legacy_windows=False, markup=False, highlight=False, emoji=False,
    )  # fmt: skip
    console.print(content)
    return _TRAILING_SPACES.sub(r"\1", file.getvalue()).rstrip("\n")


def literal(text: str, style: str = "") -> Text:
    """Return an untrusted text for rich, with its control characters replaced."""
    return Text(printable(text), style, overflow="fold")


def _beside(firsts: Sequence[str], lasts: Sequence[str], width: int) -> Table:
    grid = Table.grid()
    grid.add_column(width=width, no_wrap=True)
    grid.add_column(overflow="fold")
    for number, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
        style = "" if number else "dim"
        grid.add_row(literal(first, style), literal(last, style))
    return grid


def _below(firsts: Sequence[str], lasts: Sequence[str]) -> Group:
    lines: list[RenderableType] = [literal(firsts[0], "dim")]
    for first, last in zip(firsts[1:], lasts[1:], strict=True):
        lines.append(Text(first, no_wrap=True, overflow="ellipsis"))
        if last:
            lines.append(Padding(literal(last), (0, 0, 0, _GAP)))
    return Group(*lines)
