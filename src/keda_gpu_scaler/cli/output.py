# SPDX-License-Identifier: Apache-2.0
"""Prints the output of every command: text, numbers, JSON, errors and untrusted text.

Law: no control character of an untrusted text reaches a terminal. Colours reach a terminal only, and none where
NO_COLOR is set.

This module does not import rich, so every command can use it. Tables and labelled paragraphs are in ``page``.
"""

import contextlib
import json
import math
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import click

DEFAULT_WIDTH = 80
"""Columns of the output where no terminal has a width."""
UNKNOWN = "?"
"""Stands for a number that is not known."""

_NOTICE_DELAY_SECONDS = 1.0
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BREAKS_AND_OWN = re.compile(r"([\r\n]|\x1b\[[0-9;]*[mHJK])")  # colours, and movements on a line or a screen


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text that may hold colours; click removes them where the stream is not a terminal.

    Whatever else a terminal would obey is replaced here once more. The parts of the text that are not trusted must be
    ``printable`` before: this cannot distinguish their colours and line breaks from those of the command.
    """
    click.echo(_without_controls(text), err=err, nl=nl, color=False if os.environ.get("NO_COLOR") else None)


def say_error(sentence: str) -> None:
    """Print why the command ends, after the program's name, on standard error."""
    if sys.stdout is not None:  # it is None where the command was started with a closed output
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
    lines = "\n".join(printable(line) for line in sentence.split("\n"))
    say(click.style(f"keda-gpu-scaler: {lines}", fg="red"), err=True)


def printable(text: str) -> str:
    """Return one line of an untrusted text, with every character replaced that a terminal would obey."""
    return "".join(character if character.isprintable() else _REPLACEMENT for character in text)


def _without_controls(text: str) -> str:
    """Replace every character that is not printable, but the command's own colours, movements and line breaks."""
    parts = _BREAKS_AND_OWN.split(text)
    parts[::2] = map(printable, parts[::2])
    return "".join(parts)


def cut(text: str, width: int) -> str:
    """Shorten a name to ``width`` characters. Its end stays: the end distinguishes the pods of one workload."""
    return text if len(text) <= width else "…" + text[1 - width :]


def number(value: float | None, unit: str = "", *, digits: int = 6) -> str:
    """Return a number with its unit, to ``digits`` significant digits; "?" where it is not known."""
    return UNKNOWN if value is None else f"{value:.{digits}g} {unit}".rstrip()


def three_digits(value: float | None, unit: str = "") -> str:
    """Return a number with its unit, to three significant digits, without an exponent below a million."""
    if value is None:
        return UNKNOWN
    rounded = float(f"{value:.3g}")
    text = f"{rounded:.10f}".rstrip("0").rstrip(".") if 1e-6 < abs(rounded) < 1e6 else f"{rounded:g}"
    return f"{text} {unit}".rstrip()


def age(seconds: float | None) -> str:
    """Return an age in seconds, to a tenth while it is below ten; "-" where there is none."""
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def json_line(entry: Mapping[str, Any]) -> str:
    """Return one JSON object on one line.

    A number that JSON cannot write is a string: "nan", "inf", "-inf". A control character is written as an escape.
    """
    text = json.dumps(_with_finite_numbers(entry), ensure_ascii=False, allow_nan=False)
    # What is not printable stands within a string, where JSON takes its escape for the same character.
    return "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in text)


def _with_finite_numbers(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _with_finite_numbers(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_finite_numbers(one) for one in value]
    return value


def output_width(default: int = DEFAULT_WIDTH) -> int:
    """Return the columns of the terminal, or ``default`` where there is none."""
    return shutil.get_terminal_size((default, 24)).columns


@contextlib.contextmanager
def waiting_notice(text: str) -> Iterator[None]:
    """Show on a terminal what the command waits for, after a second; remove it at the end of the block."""
    if not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(_NOTICE_DELAY_SECONDS, lambda: say(f"\r{printable(text)} …", nl=False, err=True))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        say(f"\r{' ' * (len(text) + 2)}\r", nl=False, err=True)
