# SPDX-License-Identifier: Apache-2.0
"""Tests the command line as a whole: version, help, misspelt names, output, and kubectl's plugin."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from keda_gpu_scaler import __version__
from keda_gpu_scaler.cli import PLUGIN, PROGRAM, main


def run(*words: str, program: str = PROGRAM) -> Result:
    return CliRunner().invoke(main, words, prog_name=program)


def names() -> list[str]:
    return main.list_commands(click.Context(main)) if isinstance(main, click.Group) else []


def test_the_flag_and_the_command_print_the_same_version() -> None:
    shown = run("--version")
    assert shown.exit_code == 0
    assert shown.output.startswith(f"keda-gpu-scaler {__version__} (Python ")
    assert shown.output == run("version").output


def test_help_without_a_name_is_that_of_the_program() -> None:
    assert run("help").output == run("--help").output


@pytest.mark.parametrize("name", names())
def test_help_of_a_command_is_what_its_flag_prints(name: str) -> None:
    shown = run("help", name)
    assert shown.exit_code == 0
    assert shown.output == run(name, "--help").output


@pytest.mark.parametrize("words", [(), *((name,) for name in names()), ("simulate", "fit")], ids=" ".join)
def test_the_help_fits_a_terminal_of_80_columns(words: tuple[str, ...]) -> None:
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(main, [*words, "--help"], prog_name=PROGRAM)
    assert shown.exit_code == 0
    assert [line for line in shown.output.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        pytest.param(("explian",), "No such command 'explian'. Did you mean 'explain'?", id="a command"),
        pytest.param(("help", "explian"), "No such command 'explian'. Did you mean 'explain'?", id="a command of help"),
        pytest.param(("probe", "--adress", "x:1"), "No such option '--adress'. Did you mean '--address'?", id="a flag"),
        pytest.param(("--versoin",), "No such option '--versoin'. Did you mean '--version'?", id="a flag of all"),
    ],
)
def test_a_misspelt_name_gets_the_right_one_and_status_2(words: tuple[str, ...], hint: str) -> None:
    shown = run(*words)
    assert shown.exit_code == 2
    assert " ".join(re.sub(r"[()]", "", shown.output).split()).endswith(hint)


MAIN = [sys.executable, "-c", "from keda_gpu_scaler.cli import main; main(prog_name='keda-gpu-scaler')"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [("version",), ("--help",), ("explain", "--help"), ("validate", "-")], ids=" ".join)
def test_a_full_disk_behind_the_output_is_one_sentence(words: tuple[str, ...]) -> None:
    text = "kind: ScaledObject\nspec: {triggers: [{type: external, metadata: {profile: llm}}]}\n"
    with Path("/dev/full").open("w") as full:
        outcome = subprocess.run(
            [*MAIN, *words], input=text, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert outcome.returncode == 1
    assert outcome.stderr == "keda-gpu-scaler: cannot write the output: no space left on device\n"


def test_a_reader_that_ends_early_is_no_problem() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outcome = subprocess.run(
        [*MAIN, "explain", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert outcome.stderr == ""


def test_a_name_that_is_like_none_gets_no_hint() -> None:
    assert "Did you mean" not in run("xyzzy").output


@pytest.mark.parametrize("name", names())
def test_what_a_plugin_of_kubectl_prints_can_be_typed(name: str) -> None:
    shown = run(name, "--help", program=PLUGIN).output
    assert shown.startswith(f"Usage: kubectl gpu-scaler {name} ")
    typed = re.findall(rf"^ *(?:srun .*)?({PROGRAM} (?:{'|'.join(names())}))\b", shown, re.MULTILINE)
    assert typed == []


def test_a_plugin_keeps_the_name_of_what_a_pod_runs() -> None:
    shown = run("doctor", "--help", program=PLUGIN).output
    assert "exec svc/keda-gpu-scaler -- keda-gpu-scaler doctor --cluster" in shown
    assert f"{PLUGIN} doctor --cluster --workloads-in ai" in shown


def test_after_the_plugin_the_program_has_its_own_name_again() -> None:
    assert f"{PLUGIN} explain ai/llama" in run("--help", program=PLUGIN).output
    assert f"{PLUGIN} explain ai/llama" in run("help", program=PLUGIN).output
    for words in (("--help",), ("explain", "--help")):
        assert f"{PROGRAM} explain ai/llama" in run(*words).output
        assert PLUGIN not in run(*words).output
