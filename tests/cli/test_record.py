# SPDX-License-Identifier: Apache-2.0
"""Tests ``record``: its files, its duration and its stop signals."""

import contextlib
import gzip
import os
import queue
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.cli.record.devices import SamplerEvent, due
from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.devices.replay.backend import ReplayBackend
from keda_gpu_scaler.devices.synthetic import SyntheticBackend
from keda_gpu_scaler.wire.snapshot_codec import decode
from tests.devices.sysfs_tree import AMD, BATTLEMAGE, INSTINCT, INTEL, SysfsTree
from tests.fake_nvml import FakeNvml
from tests.limits import WAIT_SECONDS
from tests.serving import COMMAND

SYNTHETIC = (*COMMAND, "record", "--backend", "synthetic", "--sample-interval", "0.1")
STOPS = (signal.SIGINT, signal.SIGTERM)


def record(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["record", *map(str, arguments)])


@pytest.mark.parametrize("name", ["gpus.jsonl", "gpus.jsonl.gz"])
def test_a_recording_can_be_replayed(tmp_path: Path, name: str) -> None:
    outcome = record("--backend", "synthetic", "--out", tmp_path / name, "--duration", 0)
    assert outcome.exit_code == 0
    assert f"wrote 1 snapshot(s) of 8 device(s) to {tmp_path / name}" in outcome.stderr.splitlines()
    replayed = ReplayBackend(tmp_path / name)
    assert replayed.read(0.0) == SyntheticBackend().read(0.0)
    assert replayed.source == f"replay of {name} (recorded from synthetic demonstration load, not a real GPU)"


def test_a_recording_ends_after_its_duration_without_a_signal(tmp_path: Path) -> None:
    file = tmp_path / "gpus.jsonl"
    outcome = record("--backend", "synthetic", "--out", file, "--duration", 0.3, "--sample-interval", 0.1)
    assert outcome.exit_code == 0
    sequences = [decode(line).sequence for line in file.read_text().splitlines()[1:]]
    # Their number depends on the load of the machine: a late reading counts for a later interval.
    assert sequences == list(range(1, 1 + len(sequences)))
    assert f"wrote {len(sequences)} snapshot(s)" in outcome.stderr


def test_devices_of_a_driver_are_recorded(tmp_path: Path, fake_nvml: FakeNvml) -> None:
    fake_nvml.device(0).utilisation = (92, 0)
    file = tmp_path / "gpus.jsonl"
    outcome = record("--nvml-library", fake_nvml.library, "--out", file, "--duration", 0, "--node-name", "gpu-7")
    assert outcome.exit_code == 0
    snapshot = decode(file.read_text().splitlines()[1])
    assert (snapshot.node, snapshot.source) == ("gpu-7", "nvml")
    assert [sample.gpu_utilization_ratio for sample in snapshot.samples] == [0.92, 0.0]


@pytest.mark.parametrize(
    ("backend", "vendor", "driver", "files", "model"),
    [
        ("amd", AMD, "amdgpu", INSTINCT, "AMD Instinct MI300X OAM"),
        ("intel", INTEL, "xe", BATTLEMAGE, "Intel Arc Pro B60"),
    ],
)
def test_devices_of_every_vendor_are_recorded_and_replayed(
    tmp_path: Path, backend: str, vendor: str, driver: str, files: dict[str, str], model: str
) -> None:
    tree = SysfsTree(tmp_path / "sys")
    tree.card(1, "0000:04:00.0", vendor=vendor, device="0xe211", driver=driver, render=129, files=files)
    file = tmp_path / "gpus.jsonl"
    outcome = record("--backend", backend, "--sysfs-root", tree.root, "--out", file, "--duration", 0)
    assert outcome.exit_code == 0
    snapshot = decode(file.read_text().splitlines()[1])
    [sample] = snapshot.samples
    assert (snapshot.source, sample.device.model, sample.device.pci_address) == (backend, model, "0000:04:00.0")
    assert "renderD129" in sample.device.names
    assert sample.temperature_celsius is not None
    [replayed] = ReplayBackend(file).read(0.0)
    assert (replayed.device, replayed.temperature_celsius) == (sample.device, sample.temperature_celsius)


def test_a_recording_on_standard_output_is_nothing_but_the_recording() -> None:
    outcome = subprocess.run((*SYNTHETIC, "--out", "-", "--duration", "0"), capture_output=True, text=True, check=True)
    header, snapshot = outcome.stdout.splitlines()
    assert header.startswith('{"recording":1,')
    assert len(decode(snapshot).samples) == 8


def test_an_existing_file_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    file = tmp_path / "gpus.jsonl"
    file.write_text("precious")
    refused = record("--backend", "synthetic", "--out", file, "--duration", 0)
    assert refused.exit_code == 1
    assert "exists already" in refused.stderr
    assert file.read_text() == "precious"
    assert record("--backend", "synthetic", "--out", file, "--duration", 0, "--overwrite").exit_code == 0
    assert file.read_text().startswith('{"recording"')


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--backend", "none"], "--backend none has no device, so there is nothing to record", id="none"),
        pytest.param(
            ["--nvml-library", "/nowhere", "--sysfs-root", "/nowhere"],
            "--backend auto: no AMD GPU here",
            id="no driver",
        ),
        pytest.param(
            ["--backend", "nvml", "--nvml-library", "/nowhere"], "cannot load /nowhere", id="no library, but required"
        ),
    ],
)
def test_without_devices_there_is_an_error_and_no_file(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    file = tmp_path / "gpus.jsonl"
    outcome = record(*arguments, "--out", file, "--duration", 0)
    assert outcome.exit_code == 1
    assert f"\nkeda-gpu-scaler: {sentence}" in f"\n{outcome.stderr}"
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--duration", "-1"], "-1.0 is not in the range 0<=x<=1000000000"),
        (["--duration", "inf"], "inf is not in the range 0<=x<=1000000000"),
        (["--sample-interval", "0"], "--sample-interval: Invalid value: 0: must be 0.1 to 3600 seconds"),
    ],
)
def test_wrong_usage_is_exit_status_2(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    outcome = record("--backend", "synthetic", "--out", tmp_path / "x", *arguments)
    assert outcome.exit_code == 2
    assert sentence in outcome.stderr


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_ends_a_recording_that_can_be_played(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "gpus.jsonl.gz"
    with subprocess.Popen((*SYNTHETIC, "--out", file), stderr=subprocess.PIPE, text=True) as recording:
        assert recording.stderr is not None
        assert "first sample" in recording.stderr.readline()
        recording.send_signal(number)
        assert recording.wait(WAIT_SECONDS) == 0
        assert re.search(r"wrote \d+ snapshot\(s\) of 8 device\(s\)", recording.stderr.read())
    assert len(ReplayBackend(file).read(0.0)) == 8


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that is full and has no active reader."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x")
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


def stopped(recording: "subprocess.Popen[str]", number: int) -> tuple[int, str]:
    """Send the signal after the first reading; return the exit status and the later output."""
    assert recording.stderr is not None
    assert "first sample" in recording.stderr.readline()
    recording.send_signal(number)
    return recording.wait(WAIT_SECONDS), recording.stderr.read()


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_ends_a_recording_into_a_full_pipe(full_pipe: int, number: signal.Signals) -> None:
    command = (*SYNTHETIC, "--out", "-")
    with subprocess.Popen(command, stdout=full_pipe, stderr=subprocess.PIPE, text=True) as recording:
        assert stopped(recording, number) == (
            1,
            "keda-gpu-scaler: stopped while standard output accepted no more data: check its reader. "
            "The end is missing\n",
        )


@pytest.mark.parametrize("name", ["fifo", "fifo.gz"])
def test_a_stop_ends_a_recording_into_a_pipe_without_a_reader(tmp_path: Path, name: str) -> None:
    fifo = tmp_path / name
    os.mkfifo(fifo)
    command = (*SYNTHETIC, "--out", fifo, "--overwrite")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as recording:
        assert stopped(recording, signal.SIGTERM) == (
            1,
            f"keda-gpu-scaler: stopped while {fifo} accepted no more data: check its reader. The end is missing\n",
        )


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_while_the_driver_hangs_leaves_a_complete_recording(
    tmp_path: Path, fake_nvml: FakeNvml, number: signal.Signals
) -> None:
    file = tmp_path / "gpus.jsonl.gz"
    command = (*COMMAND, "record", "--nvml-library", fake_nvml.library, "--sample-interval", "0.1", "--out", file)
    environment = {**os.environ, **fake_nvml.environment}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as recording:
        assert recording.stderr is not None
        assert any("first sample" in line for line in recording.stderr)
        fake_nvml.hang()
        fake_nvml.wait_until_hanging()
        recording.send_signal(number)
        assert recording.wait(WAIT_SECONDS) == 0
        assert re.search(r"wrote \d+ snapshot\(s\) of 2 device\(s\)", recording.stderr.read())
    assert gzip.decompress(file.read_bytes()).startswith(b'{"recording"')
    assert len(ReplayBackend(file).read(0.0)) == 2


def test_a_stop_before_the_first_reading_is_an_error_and_no_file(tmp_path: Path, fake_nvml: FakeNvml) -> None:
    file = tmp_path / "gpus.jsonl"
    command = (*COMMAND, "record", "--nvml-library", fake_nvml.library, "--out", file)
    environment = {**os.environ, **fake_nvml.environment}
    fake_nvml.hang()
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as recording:
        fake_nvml.wait_until_hanging()
        recording.send_signal(signal.SIGTERM)
        assert recording.wait(WAIT_SECONDS) == 1
        assert recording.stderr is not None
        sentence = "keda-gpu-scaler: stopped before the first reading of the devices: nothing is recorded"
        assert sentence in recording.stderr.read()
    assert not file.exists()


def test_a_closed_standard_output_is_an_error_message() -> None:
    shell = ("sh", "-c", 'exec "$@" >&-', "sh", *SYNTHETIC, "--out", "-", "--duration", "0")
    outcome = subprocess.run(shell, stderr=subprocess.PIPE, text=True, timeout=WAIT_SECONDS, check=False)
    assert outcome.returncode == 1
    assert "keda-gpu-scaler: cannot write standard output: it is closed; name a file, or open it\n" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_broken_standard_output_is_an_error_message() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as broken:
        command = (*SYNTHETIC, "--out", "-")
        outcome = subprocess.run(
            command, stdout=broken, stderr=subprocess.PIPE, text=True, timeout=WAIT_SECONDS, check=False
        )
    assert outcome.returncode == 1
    assert "keda-gpu-scaler: cannot write standard output: broken pipe\n" in outcome.stderr
    assert "rror" not in outcome.stderr


def taken(at_seconds: float) -> Snapshot:
    return Snapshot("n", 1, at_seconds, 1.7e9, "fake", ())


@pytest.mark.parametrize(
    ("duration", "expected"), [(0.0, 1), (0.25, 3), (0.3, 4), (0.7, 8), (1.0, 11)], ids=lambda value: f"{value}"
)
def test_a_duration_has_one_snapshot_per_interval_and_one_at_its_end(duration: float, expected: int) -> None:
    began = time.monotonic() + 1000  # the duration does not end during the test
    sampler_events: queue.SimpleQueue[SamplerEvent] = queue.SimpleQueue()
    for number in range(1, 20):
        sampler_events.put(taken(began + number * 0.1))
    assert len(list(due(sampler_events, taken(began), duration, 0.1))) == expected


@pytest.mark.parametrize(
    ("duration", "events", "expected"),
    [
        pytest.param(None, [1.0, 2.0, None], [0.0, 1.0, 2.0], id="without a duration the stop signal is the end"),
        pytest.param(2.5, [1.0, 2.0, 3.0], [0.0, 1.0, 2.0], id="no wait for a snapshot after the last"),
        pytest.param(2.0, [1.1, 2.3, 3.0], [0.0, 1.1, 2.3], id="a slightly late snapshot belongs to the duration"),
        pytest.param(2.0, [1.0, "gone", 3.0, 4.0], [0.0, 1.0], id="a failure is no snapshot"),
        pytest.param(3.0, ["gone", 2.0, None, 3.0], [0.0, 2.0], id="snapshots after the stop are ignored"),
        pytest.param(0.0, [], [0.0], id="a duration of 0 is one snapshot"),
    ],
)
def test_a_duration_ends_with_its_last_snapshot(
    duration: float | None, events: list[float | str | None], expected: list[float]
) -> None:
    sampler_events: queue.SimpleQueue[SamplerEvent] = queue.SimpleQueue()
    began = (
        time.monotonic() + 1000
    )  # on the sampler's clock, far enough ahead that the duration does not end during the test
    for item in events:
        sampler_events.put(taken(began + item) if isinstance(item, float) else item)
    written = [one.at_seconds for one in due(sampler_events, taken(began), duration, 1.0)]
    assert written == [pytest.approx(began + at) for at in expected]
