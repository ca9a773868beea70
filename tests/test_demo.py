# SPDX-License-Identifier: Apache-2.0
"""Tests the demonstration of ``make run``, without its set-up and without Ctrl-C."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_nvml import NOT_SUPPORTED, FakeNvml
from tests.limits import WAIT_SECONDS
from tests.serving import free_port

DEMO = Path(__file__).resolve().parent.parent / "scripts" / "demo.py"


def demo(port: int) -> subprocess.CompletedProcess[str]:
    arguments = ("--address", f"127.0.0.1:{port}", "--count", "1", "--replicas", "3", "targetValue=1", "report=average")
    return subprocess.run(
        (sys.executable, DEMO, *arguments), capture_output=True, text=True, timeout=2 * WAIT_SECONDS, check=False
    )


def test_without_a_gpu_the_recording_is_named_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDA_GPU_SCALER_NVML_LIBRARY", "/nowhere/libnvidia-ml.so.1")
    outcome = demo(free_port())
    assert outcome.returncode == 0, outcome.stderr
    assert "no GPU here, so the recording recordings/demo-synthetic.jsonl.gz" in outcome.stdout
    assert "/ 1" in outcome.stdout.splitlines()[-1]  # value / target, and then the HPA's decision
    assert "3 →" in outcome.stdout.splitlines()[-1]


def test_the_gpus_of_this_machine_are_served(fake_nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDA_GPU_SCALER_NVML_LIBRARY", fake_nvml.library)
    fake_nvml.device(0).utilisation = (92, 0)
    outcome = demo(free_port())
    assert outcome.returncode == 0, outcome.stderr
    assert "this machine's GPUs" in outcome.stdout
    assert "92 / 1" in outcome.stdout.splitlines()[-1]


def test_another_server_on_the_port_ends_the_demonstration() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        outcome = demo(listener.getsockname()[1])
    assert outcome.returncode == 1
    assert "another server uses this port; choose another port: make run ADDRESS=" in outcome.stderr
    assert "→" not in outcome.stdout


def test_a_gpu_without_the_reading_is_shown_with_the_reason(
    fake_nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDA_GPU_SCALER_NVML_LIBRARY", fake_nvml.library)
    fake_nvml.refuse("utilisation", NOT_SUPPORTED)
    outcome = demo(free_port())
    assert "this machine's GPUs" in outcome.stdout
    assert "UNAVAILABLE" in outcome.stdout
    assert outcome.returncode == 1
