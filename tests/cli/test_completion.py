# SPDX-License-Identifier: Apache-2.0
"""Tests shell completion, also that of kubectl for its plugin."""

import os
import subprocess
import sys

import pytest

from keda_gpu_scaler.cli.completion import kubectl_completion
from tests import forked
from tests.limits import WAIT_SECONDS

KUBECTL = "from keda_gpu_scaler.cli.completion import kubectl_completion; kubectl_completion()"


def completed_by_kubectl(*words: str) -> list[str]:
    """Complete the last word as kubectl does: it runs an executable with the words after the plugin's name."""
    outcome = forked.run(words, entry=kubectl_completion, timeout=WAIT_SECONDS)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout.splitlines()


def completed(line: str) -> list[str]:
    """Complete the line at its end, as bash does."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_KEDA_GPU_SCALER_COMPLETE": "bash_complete",
    }
    outcome = forked.run((), environment=environment, entry=forked.as_command, timeout=WAIT_SECONDS)
    assert outcome.returncode == 0, outcome.stderr
    return [answer.removeprefix("plain,") for answer in outcome.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        pytest.param("keda-gpu-scaler exp", ["explain"], id="a command"),
        pytest.param("keda-gpu-scaler serve --scr", ["--scrape-interval", "--scrape-timeout"], id="a flag"),
        pytest.param("keda-gpu-scaler top --once --format ", ["table", "json", "csv"], id="a choice"),
        pytest.param("keda-gpu-scaler help exp", ["explain"], id="a command of help"),
        pytest.param("keda-gpu-scaler validate dep", ["file,dep"], id="a file is left to the shell"),
        pytest.param("keda-gpu-scaler explain -f dep", ["file,dep"], id="a file of a flag"),
        pytest.param("keda-gpu-scaler serve --tls-ca /", ["file,/"], id="a file of a setting"),
        pytest.param("keda-gpu-scaler serve --endpoint-credentials /", ["dir,/"], id="a folder"),
        pytest.param("keda-gpu-scaler serve --backend re", ["replay:"], id="a backend"),
        pytest.param("keda-gpu-scaler simulate --traffic st", ["steady"], id="a shape of traffic"),
        pytest.param("keda-gpu-scaler simulate --traffic x", ["file,x"], id="a file where no shape has the name"),
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


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        pytest.param(
            ("exp",), ["explain\tshow why a ScaledObject has its size", ":4"], id="a command with its description"
        ),
        pytest.param(("top", "--once", "--format", ""), ["table", "json", "csv", ":4"], id="a choice"),
        pytest.param(("top", "--format=c"), ["csv", ":4"], id="a choice after an equals sign"),
        pytest.param(("validate", "dep"), [":0"], id="a file is left to the shell"),
        pytest.param(("serve", "--endpoint-credentials", "x"), [":16"], id="a folder is left to the shell"),
        pytest.param(("explain", "ai/llama", ""), [":4"], id="nothing to complete, and no file"),
        pytest.param((), [":4"], id="no word"),
    ],
)
def test_kubectl_gets_the_words_and_a_number_for_the_shell(words: tuple[str, ...], lines: list[str]) -> None:
    answer = completed_by_kubectl(*words)
    assert answer[-1] == lines[-1]
    if words:
        assert answer == lines


def test_the_completion_of_a_flag_has_its_meaning_in_one_sentence() -> None:
    first = next(line for line in completed_by_kubectl("explain", "--kube"))
    assert first == "--kubeconfig\tThe access to the cluster"


def test_a_command_is_completed_without_an_import_of_the_commands() -> None:
    code = f"import sys; sys.argv[1:] = ['']; {KUBECTL}; print([name for name in sys.modules if '.cli.' in name])"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.splitlines()[-1] == "['keda_gpu_scaler.cli.completion']"
