# SPDX-License-Identifier: Apache-2.0
"""Text, numbers and tables of the status page.

Law: untrusted text is text and never markup, and an unknown value is shown as unknown.
"""

from collections.abc import Iterable, Iterator

MAX_TEXT_LENGTH = 2000
"""The longest untrusted text that is shown; the rest is cut off."""

UNKNOWN = "<span class=faint>unknown</span>"
_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def safe_text(untrusted: str) -> str:
    """Return untrusted text in a form that is safe between tags and in a quoted attribute."""
    kept = untrusted if len(untrusted) <= MAX_TEXT_LENGTH else f"{untrusted[:MAX_TEXT_LENGTH]}…"
    return "".join(letter if letter.isprintable() else "�" for letter in kept).translate(_MARKUP)


def table_start(section: str, caption: str, heads: Iterable[str]) -> Iterator[str]:
    """Yield the start of a table. Too wide a table scrolls in its own region, also with the keyboard."""
    yield f'<div class=scroll id={section}-table role=region aria-label="{caption}" tabindex=0><table>'
    yield f"<caption>{caption}</caption>"
    yield f"<thead><tr>{''.join(f'<th scope=col>{head}</th>' for head in heads)}</tr></thead>"


def table_cells(cells: Iterable[str]) -> str:
    """Return the cells of a row."""
    return "".join(f"<td>{cell}</td>" for cell in cells)


def left_out_note(count: int, what: str) -> str:
    """Return how many rows are left out; empty where none is."""
    return f"<p>{count} more {what} are not shown.</p>" if count > 0 else ""


def metered(ratio: float | None, label: str) -> str:
    """Return a ratio as a bar and in per cent."""
    return UNKNOWN if ratio is None else f"{meter(ratio, label)} {number_text(round(100 * ratio, 1))} %"


def meter(ratio: float, label: str) -> str:
    """Return a ratio as a bar."""
    return f'<meter min=0 max=1 value={min(max(ratio, 0.0), 1.0):.3f} aria-label="{label}"></meter>'


def known_text(value: float | None, unit: str = "") -> str:
    """Return a number with its unit, or that it is unknown."""
    return UNKNOWN if value is None else f"{number_text(value)} {unit}".rstrip()


def number_text(value: float) -> str:
    """Return a number with at most three decimals."""
    return f"{value:,.3f}".rstrip("0").rstrip(".")


def ago(seconds: float) -> str:
    """Return for how long something is past."""
    return f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """Return a readable duration: 0.4 s, 12 s, 3 min."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
