# SPDX-License-Identifier: Apache-2.0
"""Formats the findings of ``doctor`` as text, as annotations of GitHub, and as JSON."""

import sys

from keda_gpu_scaler.cli.doctor.findings import Finding, Outcome
from keda_gpu_scaler.cli.output import json_line, output_width, printable, say

_OUTCOME_WIDTH, _CHECK_WIDTH = 9, 14
_MIN_WIDTH = 60
_MARK = "→ "
_COLOURS = {Outcome.OK: "green", Outcome.SKIPPED: "", Outcome.WARNING: "yellow", Outcome.PROBLEM: "red"}


def formatted(finding: Finding, style: str, width: int | None = None) -> str:
    """Return a finding as it is printed.

    Args:
        finding: the finding.
        style: "text", "github" or "json".
        width: the columns of the terminal; None for one line of any length.
    """
    if style == "json":
        return _as_json(finding)
    if style == "github" and finding.outcome in (Outcome.WARNING, Outcome.PROBLEM):
        return _as_annotation(finding)
    if width is None:
        outcome = f"{finding.outcome:<{_OUTCOME_WIDTH}}"
        return f"{outcome}{finding.check:<{_CHECK_WIDTH}}{_one_line(finding)}"
    return _wrapped(finding, "" if style == "github" else _COLOURS[finding.outcome], width)


def terminal_width() -> int | None:
    """Return the columns of the terminal; None where standard output is a pipe or a file."""
    return max(output_width(), _MIN_WIDTH) if sys.stdout.isatty() else None


def _as_json(finding: Finding) -> str:
    return json_line(
        {
            "check": finding.check,
            "outcome": finding.outcome,
            "text": finding.text,
            "remedy": finding.remedy,
            "link": finding.link,
        }
    )


def _as_annotation(finding: Finding) -> str:
    text = _one_line(finding).replace("%", "%25")  # the escape of GitHub's workflow commands
    kind = "error" if finding.outcome is Outcome.PROBLEM else "warning"
    return f"::{kind} title=doctor {finding.check}::{text}"


def _one_line(finding: Finding) -> str:
    return "; ".join([printable(finding.text), *map(printable, _advice(finding))])


def _advice(finding: Finding) -> list[str]:
    """Return the remedy with its link, or nothing."""
    if not finding.remedy:
        return []
    return [f"{finding.remedy} ({finding.link})" if finding.link else finding.remedy]


def _wrapped(finding: Finding, style: str, width: int) -> str:
    """Return a finding in columns, with its remedy below its text."""
    from rich.table import Table

    from keda_gpu_scaler.cli.page import literal, rendered

    grid = Table.grid()
    for fixed in (_OUTCOME_WIDTH, _CHECK_WIDTH):
        grid.add_column(width=fixed, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(literal(finding.outcome, style), literal(finding.check), literal(finding.text))
    for advice in _advice(finding):
        remedy = Table.grid()
        remedy.add_column(width=len(_MARK), no_wrap=True)
        remedy.add_column(overflow="fold")
        remedy.add_row(literal(_MARK), literal(advice))
        grid.add_row("", "", remedy)
    return rendered(grid, width)


class Progress:
    """Shows the title of the current check on the last line of a terminal."""

    def __init__(self) -> None:
        self._is_shown = False
        self._is_wanted = sys.stderr.isatty()

    def show(self, title: str) -> None:
        """Show the title of the check that begins."""
        if self._is_wanted:
            self.clear()
            say(f"{title} …", err=True, nl=False)
            self._is_shown = True

    def clear(self) -> None:
        """Remove the title."""
        if self._is_shown:
            say("\r\033[K", err=True, nl=False)
            self._is_shown = False
