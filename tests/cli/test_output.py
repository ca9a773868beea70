# SPDX-License-Identifier: Apache-2.0
"""Tests the rendering that the commands share, and that the help texts do not need docstrings."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from keda_gpu_scaler.cli import output
from keda_gpu_scaler.cli.output import age, cut, json_line, number, printable, say
from keda_gpu_scaler.cli.page import NARROWEST, Page

ESCAPES = re.compile("\x1b\\[[0-9;]*m")
UNTRUSTED = "a\x1b[2Jb\x07c\x9bd\u202ee [bold red]f[/] :smile: \\[g]"


def plain(page: Page) -> list[str]:
    return ESCAPES.sub("", page.text).split("\n")


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\x9b", "\u202e", "\n", "\r", "\x00", "\ud800"])
def test_a_control_character_is_replaced(character: str) -> None:
    assert printable(f"a{character}b") == "a�b"
    assert character not in json_line({"key": character})
    assert json.loads(json_line({"key": character})) == {"key": character}


PRINTS_ITSELF = {
    "__init__.py",
    "completion.py",
    "help.py",
    "output.py",
    "serve.py",
    "version.py",
}  # what they print is the program's own
HOSTILE = [chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x61C, 7, 8, 0x9B)]


@pytest.mark.parametrize(
    "text", [*HOSTILE, "\x1b]0;title\x07", "\x1b[6n", "\x1bc", "\x1b[?1049h", "\x1bP", "\x1b[5;5r"]
)
def test_whatever_is_printed_a_terminal_obeys_only_the_colours_and_line_breaks_of_the_command(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say(f"a{text}b\n{click.style('c', fg='red')}\r")
    printed = capsys.readouterr().out
    assert all(it.isprintable() or it in "\r\n" for it in ESCAPES.sub("", printed))
    assert ESCAPES.sub("", printed).endswith("b\nc\r\n")


def test_every_command_prints_through_the_one_function_that_replaces_control_characters() -> None:
    folder = Path(output.__file__).parent
    printing = re.compile(r"click\.s?echo\(|(?<![.\w])print\(|sys\.std(?:out|err)\.write\(")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if printing.search(path.read_text())}
    assert found == PRINTS_ITSELF


def test_markup_of_an_untrusted_text_is_not_interpreted() -> None:
    page = Page(200)
    page.title(UNTRUSTED)
    page.entry(UNTRUSTED[-8:], UNTRUSTED)
    page.table("table", ("name", "detail"), [(UNTRUSTED, UNTRUSTED)])
    page.note("!", UNTRUSTED)
    text = "\n".join(plain(page))
    assert text.count("[bold red]f[/] :smile: \\[g]") == 5
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


@pytest.mark.parametrize("width", [1, NARROWEST, 80, 140])
def test_no_line_of_a_page_is_wider_than_the_page_or_ends_with_a_space(width: int) -> None:
    page = Page(width)
    page.title("title " * 40)
    page.entry("label", "x" * 300, "red")
    page.entries("labels", ["word " * 50, "漢字" * 60])
    page.table("table", ("pod", "node", "details"), [("p" * 90, "n" * 90, "d " * 90), ("p", "n", "-")])
    page.note("!", "word " * 50, "yellow")
    for line in plain(page):
        assert len(line) <= max(width, NARROWEST)
        assert line == line.rstrip()


def test_a_table_without_a_row_is_left_out() -> None:
    page = Page(80)
    page.table("table", ("name", "detail"), [])
    assert plain(page) == [""]


def test_details_stand_below_their_row_where_there_is_no_room_beside_it() -> None:
    rows = [("pod-" + "a" * 16, "node-" + "b" * 15, "GPU 0 NVIDIA H100 92 %")]
    narrow, wide = Page(60), Page(140)
    for page in (narrow, wide):
        page.table("pods", ("pod", "node", "devices"), rows)
    assert plain(narrow)[-1] == " " * 14 + "GPU 0 NVIDIA H100 92 %"
    assert plain(wide)[-1].endswith("b  GPU 0 NVIDIA H100 92 %")


def test_numbers_have_one_format() -> None:
    assert [number(None), number(92.0, "%"), number(1 / 3), number(1234567.5, digits=12)] == [
        "?", "92 %", "0.333333", "1234567.5",
    ]  # fmt: skip
    assert [age(None), age(0.44), age(12.3)] == ["-", "0.4 s", "12 s"]
    assert cut("llama-7c9f6d5b8-aaaaa", 10) == "…5b8-aaaaa"
    assert json.loads(json_line({"values": [float("nan"), float("-inf"), {"x": float("inf")}]})) == {
        "values": ["nan", "-inf", {"x": "inf"}]
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "read the GPUs of this machine, and answer KEDA on port 6000"),
        (("serve",), "until SIGTERM or Ctrl-C"),
        (("explain",), "Show why a ScaledObject has its size"),
        (("probe",), "Call an external scaler as KEDA does"),
        (("record",), "Record the devices of this node"),
        (("top",), "Exit status"),
        (("doctor",), "Exit status"),
        (("validate",), "Exit status"),
        (("version",), "Print the version"),
    ],
)
def test_help_does_not_need_docstrings(arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in help_texts_without_docstrings()[arguments]


@functools.cache
def help_texts_without_docstrings() -> dict[tuple[str, ...], str]:
    """Return the help of every command and of the program, without line breaks, as one process under -OO prints it."""
    script = (
        "import json; from click.testing import CliRunner; from keda_gpu_scaler.cli import _COMMANDS, main;"
        "shown = {name: CliRunner().invoke(main, [*([name] if name else []), '--help']).output"
        " for name in ('', *_COMMANDS)}; print(json.dumps(shown))"
    )
    shown = subprocess.run((sys.executable, "-OO", "-c", script), capture_output=True, text=True, check=True).stdout
    return {(name,) if name else (): re.sub(r"\s+", " ", text) for name, text in json.loads(shown).items()}


def test_serve_does_not_load_rich() -> None:
    script = (
        "import sys; from keda_gpu_scaler.cli import main; main.get_command(None, 'serve');"
        "import keda_gpu_scaler.agent; sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
