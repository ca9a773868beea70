# SPDX-License-Identifier: Apache-2.0
"""Tests the command ``demo`` with a real ``serve`` process, on a clock that does not wait."""

import os
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.cli.pace import Timing
from tests.fake_nvml import NOT_SUPPORTED, FakeNvml
from tests.free_ports import free_port


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDA_GPU_SCALER_NVML_LIBRARY", "/nowhere/libnvidia-ml.so.1")


def demo(*words: str, port: int = 0) -> Result:
    address = f"127.0.0.1:{port or free_port()}"
    timing = Timing(sleep=lambda seconds: None)
    return CliRunner().invoke(main, ("demo", "--address", address, *words), obj=timing, prog_name="keda-gpu-scaler")


def test_without_a_gpu_the_recording_is_named_and_replayed() -> None:
    shown = demo("--devices", "--count", "1", "-m", "targetValue=1", "-m", "report=average")
    assert shown.exit_code == 0, shown.output
    assert "DEMONSTRATION: no GPU here, so a synthetic recording; nothing is measured" in shown.output
    assert "/ 1" in shown.output.splitlines()[-1]  # value / target, and then the HPA's decision
    assert "3 →" in shown.output.splitlines()[-1]


def test_the_gpus_of_this_machine_are_served(fake_nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDA_GPU_SCALER_NVML_LIBRARY", fake_nvml.library)
    fake_nvml.device(0).utilisation = (92, 0)
    shown = demo("--devices", "--count", "1", "-m", "targetValue=1", "-m", "report=average")
    assert shown.exit_code == 0, shown.output
    assert "DEMONSTRATION: this machine's GPUs; the HPA is simulated" in shown.output
    assert "92 / 1" in shown.output.splitlines()[-1]


def test_a_gpu_without_the_reading_is_shown_with_the_reason(
    fake_nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDA_GPU_SCALER_NVML_LIBRARY", fake_nvml.library)
    fake_nvml.refuse("utilisation", NOT_SUPPORTED)
    shown = demo("--devices", "--count", "1")
    assert "UNAVAILABLE" in shown.output
    assert shown.exit_code == 1


def test_where_the_output_is_no_terminal_one_screen_is_shown() -> None:
    shown = demo()
    assert shown.exit_code == 0, shown.output
    assert "DEMONSTRATION: no GPU here" in shown.output
    assert "decision" in shown.output
    assert len(shown.stdout.splitlines()) <= 24


def test_a_real_scaler_closes_the_loop_and_nothing_warns(capfd: pytest.CaptureFixture[str]) -> None:
    shown = demo("--follow", "--count", "5")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert lines[1].startswith("DEMONSTRATION: the requests and the replicas are synthetic")
    assert ["0 → 1" in lines[-5], "1 → 5" in lines[-4]] == [True, True]
    assert "the load was synthetic" in lines[-3]
    assert capfd.readouterr() == ("", "")


def test_another_server_on_the_port_ends_the_demonstration() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        shown = demo("--follow", port=listener.getsockname()[1])
    assert shown.exit_code == 1
    assert "another server uses this port; choose another port: --address 127.0.0.1:7000" in shown.output
    assert "→" not in shown.output


def test_the_loop_refuses_the_flags_of_the_devices() -> None:
    shown = demo("--follow", "-m", "targetValue=1")
    assert shown.exit_code == 2
    assert "--follow: has a trigger of its own; leave out the flags of --devices" in shown.output


def test_a_folder_with_modules_of_the_same_names_changes_nothing(tmp_path: os.PathLike[str]) -> None:
    with open(os.path.join(tmp_path, "keda_gpu_scaler.py"), "w") as module:
        module.write("raise SystemExit('the wrong module')\n")
    command = (sys.executable, "-P", "-m", "keda_gpu_scaler", "demo", "--address", f"127.0.0.1:{free_port()}")
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "decision" in shown.stdout
