# SPDX-License-Identifier: Apache-2.0
"""The commands of a page: its fenced blocks as one script, and those in its sentences."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from keda_gpu_scaler.cli import PLUGIN, PROGRAM

HOME = Path(__file__).resolve().parents[2]
SHELLS = ("sh", "bash", "shell", "console", "zsh")
_FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_NAMED_FILE = re.compile(r"# ([\w-]+\.yaml)\b.*\n")


def pages() -> list[Path]:
    """Return the README and every page of the documentation."""
    return [HOME / "README.md", *sorted((HOME / "docs").rglob("*.md"))]


def script(text: str, left_out: tuple[str, ...] = ()) -> str:
    """Return the shell blocks of a page as one script, in which each line has the number that it has on the page.

    The blocks of a page share variables and files, as for a reader who types them one after another. Lines that begin
    with one of ``left_out`` are left out.
    """
    lines = [""] * (text.count("\n") + 1)
    for fence in _FENCE.finditer(text):
        indent, label, content = fence.groups()
        if label in SHELLS:
            first = text.count("\n", 0, fence.start(3))
            for number, line in enumerate(content.splitlines()):
                if not line.removeprefix(indent).startswith(left_out or ("\0",)):
                    lines[first + number] = line.removeprefix(indent)
    return "\n".join(lines).rstrip("\n") + "\n"


def files(text: str) -> dict[str, str]:
    """Return the files that a page shows: blocks whose first line is a comment with the name of the file."""
    named = ((_NAMED_FILE.match(content), content) for _, _, content in _FENCE.findall(text))
    return {found[1]: content for found, content in named if found}


def sentence_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of the program in a sentence; one of a pod begins after ``--``."""
    for span in _SPAN.findall(_FENCE.sub("", text)):
        command = re.sub(rf"^(kubectl .* -- )?({PROGRAM}|{PLUGIN}) ", f"{PROGRAM} ", " ".join(span.split()))
        if command.startswith(f"{PROGRAM} "):
            yield shlex.split(command)[1:]
