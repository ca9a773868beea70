# SPDX-License-Identifier: Apache-2.0
"""Tests shell completion."""

import os
import subprocess
import sys

import pytest


def completed(line: str) -> list[str]:
    """Complete the line at its end, as bash does."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_KEDA_GPU_SCALER_COMPLETE": "bash_complete",
    }
    command = [sys.executable, "-c", "from keda_gpu_scaler.cli import main; main(prog_name='keda-gpu-scaler')"]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [answer.partition(",")[2] for answer in outcome.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        pytest.param("keda-gpu-scaler exp", ["explain"], id="a command"),
        pytest.param("keda-gpu-scaler serve --scr", ["--scrape-interval", "--scrape-timeout"], id="a flag"),
        pytest.param("keda-gpu-scaler top --once --format ", ["table", "json", "csv"], id="a choice"),
    ],
)
def test_the_last_word_is_completed(line: str, answers: list[str]) -> None:
    assert completed(line) == answers


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    environment = {**os.environ, "_KEDA_GPU_SCALER_COMPLETE": f"{shell}_source"}
    command = [sys.executable, "-c", "from keda_gpu_scaler.cli import main; main(prog_name='keda-gpu-scaler')"]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert "_KEDA_GPU_SCALER_COMPLETE" in outcome.stdout
