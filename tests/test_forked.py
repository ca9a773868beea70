# SPDX-License-Identifier: Apache-2.0
"""Tests that a forked command is as one that starts from nothing: its output, its status and its end."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests import forked
from tests.limits import WAIT_SECONDS
from tests.serving import COMMAND, Serving


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("version",), id="a command"),
        pytest.param(("serve", "--port", "no"), id="wrong usage"),
        pytest.param(("serve", "--backend", "replay:nowhere.csv"), id="it cannot start"),
    ],
)
def test_output_and_status_are_those_of_the_command(arguments: tuple[str, ...]) -> None:
    alone = subprocess.run((*COMMAND, *arguments), capture_output=True, text=True, check=False)
    outcome = forked.run(arguments, timeout=WAIT_SECONDS)
    assert (outcome.stdout, outcome.stderr) == (alone.stdout, alone.stderr)
    assert outcome.returncode == alone.returncode


def test_environment_and_folder_are_those_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "KEDA_GPU_SCALER_BACKEND": "replay:no.csv"}
    assert "no.csv" in forked.run(("serve", "--port", "0"), environment=environment, timeout=WAIT_SECONDS).stderr
    (tmp_path / "no.csv").write_text("a folder of the call\n")
    outcome = forked.run(("serve", "--backend", "replay:no.csv"), timeout=WAIT_SECONDS)
    assert 'its format is not known ("a folder of the call")' in outcome.stderr


def test_a_killed_process_has_the_signal_as_its_status() -> None:
    with Serving("--backend", "none") as node:
        with pytest.raises(subprocess.TimeoutExpired):
            node.process.wait(0.0)
        node.process.kill()
        assert node.process.wait(WAIT_SECONDS) == -signal.SIGKILL
