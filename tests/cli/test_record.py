# SPDX-License-Identifier: Apache-2.0
import re
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keda_gpu_scaler.backends.replay import ReplayBackend
from keda_gpu_scaler.backends.synthetic import SyntheticBackend
from keda_gpu_scaler.cli import main
from keda_gpu_scaler.wire.codec import decode
from tests.fake_nvml import FakeNvml
from tests.serving import COMMAND, WAIT_SECONDS


def record(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["record", *map(str, arguments)])


@pytest.mark.parametrize("name", ["gpus.jsonl", "gpus.jsonl.gz"])
def test_what_was_recorded_can_be_replayed(tmp_path: Path, name: str) -> None:
    outcome = record("--backend", "synthetic", "--out", tmp_path / name, "--duration", 0)
    assert (outcome.exit_code, outcome.stderr.splitlines()[-1]) == (
        0,
        f"wrote 1 snapshot(s) of 8 device(s) to {tmp_path / name}",
    )
    replayed = ReplayBackend(tmp_path / name)
    assert replayed.read(0.0) == SyntheticBackend().read(0.0)
    assert replayed.source == f"replay of {name} (recorded from synthetic demonstration load, not a real GPU)"


def test_a_duration_holds_one_snapshot_an_interval(tmp_path: Path) -> None:
    file = tmp_path / "gpus.jsonl"
    outcome = record("--backend", "synthetic", "--out", file, "--duration", 0.25, "--sample-interval", 0.1)
    assert outcome.exit_code == 0
    sequences = [decode(line).sequence for line in file.read_text().splitlines()[1:]]
    assert sequences == [1, 2, 3]


def test_devices_of_a_driver_are_recorded(tmp_path: Path, fake_nvml: FakeNvml) -> None:
    fake_nvml.device(0).utilisation = (92, 0)
    file = tmp_path / "gpus.jsonl"
    outcome = record("--nvml-library", fake_nvml.library, "--out", file, "--duration", 0, "--node-name", "gpu-7")
    assert outcome.exit_code == 0
    snapshot = decode(file.read_text().splitlines()[1])
    assert (snapshot.node, snapshot.source) == ("gpu-7", "nvml")
    assert [sample.gpu_utilization_ratio for sample in snapshot.samples] == [0.92, 0.0]


def test_a_recording_on_standard_output_is_nothing_but_the_recording() -> None:
    outcome = record("--backend", "synthetic", "--out", "-", "--duration", 0)
    header, snapshot = outcome.stdout.splitlines()
    assert header.startswith('{"recording":1,')
    assert len(decode(snapshot).samples) == 8


def test_an_existing_file_is_replaced_only_when_told(tmp_path: Path) -> None:
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
        pytest.param(["--nvml-library", "/nowhere"], "--backend auto: no NVIDIA driver library here", id="no library"),
        pytest.param(
            ["--backend", "nvml", "--nvml-library", "/nowhere"], "cannot load /nowhere", id="no library, asked for"
        ),
    ],
)
def test_where_there_is_nothing_to_record_there_is_a_sentence_and_no_file(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    file = tmp_path / "gpus.jsonl"
    outcome = record(*arguments, "--out", file, "--duration", 0)
    assert outcome.exit_code == 1
    assert outcome.stderr.splitlines()[-1].startswith(f"keda-gpu-scaler: {sentence}")
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--duration", "-1"], "-1.0 is not in the range x>=0"),
        (["--sample-interval", "0"], "--sample-interval: Invalid value: 0: must be 0.1 to 3600 seconds"),
    ],
)
def test_wrong_usage_is_told_with_exit_status_2(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    outcome = record("--backend", "synthetic", "--out", tmp_path / "x", *arguments)
    assert outcome.exit_code == 2
    assert sentence in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_a_recording_that_can_be_played(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "gpus.jsonl.gz"
    command = (*COMMAND, "record", "--backend", "synthetic", "--out", file, "--sample-interval", "0.1")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as recording:
        assert recording.stderr is not None
        assert "first sample" in recording.stderr.readline()
        recording.send_signal(number)
        assert recording.wait(WAIT_SECONDS) == 0
        assert re.search(r"wrote \d+ snapshot\(s\) of 8 device\(s\)", recording.stderr.read())
    assert len(ReplayBackend(file).read(0.0)) == 8
