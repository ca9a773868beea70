# SPDX-License-Identifier: Apache-2.0
"""Tests of recordings: the file's content, errors of writing, and headers."""

import gzip
import json
import sys
import zlib
from pathlib import Path

import pytest

from keda_gpu_scaler import __version__
from keda_gpu_scaler.core.types import Device, Sample, Snapshot
from keda_gpu_scaler.wire.recording import (
    Header,
    RecordingError,
    RecordingWriter,
    decode_header,
    encode_header,
    looks_like_header,
)
from keda_gpu_scaler.wire.snapshot_codec import CodecError, decode


def snapshot(sequence: int) -> Snapshot:
    sample = Sample(Device("GPU-a", 0, "M"), gpu_utilization_ratio=sequence / 100)
    return Snapshot("n", sequence, 10.0 + sequence, 1.7e9 + sequence, "nvml", (sample,))


def test_a_recording_has_a_header_and_one_snapshot_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    with RecordingWriter(path, "nvml") as writer:
        writer.write(snapshot(1))
        writer.write(snapshot(2))
    header, *rest = path.read_text().splitlines()
    assert json.loads(header) == {"recording": 1, "source": "nvml", "made_by": f"keda-gpu-scaler {__version__}"}
    assert [decode(line) for line in rest] == [snapshot(1), snapshot(2)]


def test_a_gz_file_is_compressed_and_equal_readings_give_equal_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl.gz"]
    for path in paths:
        with RecordingWriter(path, "nvml") as writer:
            writer.write(snapshot(1))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(gzip.decompress(paths[0].read_bytes()).splitlines()) == 2


@pytest.mark.parametrize("name", ["one.jsonl", "one.jsonl.gz"])
def test_every_line_is_flushed_before_the_recording_ends(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with RecordingWriter(path, "nvml") as writer:
        writer.write(snapshot(1))
        content = path.read_bytes()
        if name.endswith(".gz"):
            content = zlib.decompressobj(wbits=31).decompress(content)
        assert [decode(line) for line in content.splitlines()[1:]] == [snapshot(1)]


def test_an_existing_file_is_overwritten_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text("older content")
    with pytest.raises(RecordingError) as caught, RecordingWriter(path, "nvml"):
        pass
    assert str(caught.value) == f"{path} exists already: choose another name, or allow overwriting"
    assert path.read_text() == "older content"
    with RecordingWriter(path, "nvml", overwrite=True):
        pass
    assert decode_header(path.read_text()).source == "nvml"


def test_a_missing_folder_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "no" / "one.jsonl"
    with pytest.raises(RecordingError, match=r"^cannot write .*one\.jsonl: no such file or directory$"):
        RecordingWriter(path, "nvml").__enter__()


def test_a_full_disk_is_an_error_with_a_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this machine has no /dev/full")
    with pytest.raises(RecordingError, match=r"^cannot write /dev/full: no space left on device$"):
        RecordingWriter("/dev/full", "nvml", overwrite=True).__enter__()


def test_an_error_inside_the_with_block_is_raised_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    with pytest.raises(ZeroDivisionError), RecordingWriter(path, "nvml"):
        raise ZeroDivisionError


def test_a_dash_is_standard_output_which_stays_open(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    sys.stdout.write("before\n")
    with RecordingWriter("-", "nvml") as writer:
        writer.write(snapshot(1))
    sys.stdout.write("still open")
    before, header, line, after = capfdbinary.readouterr().out.splitlines()
    assert before == b"before"
    assert decode_header(header).source == "nvml"
    assert decode(line) == snapshot(1)
    assert after == b"still open"


def test_a_closed_standard_output_is_an_error_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # Python does this for a closed one
    with pytest.raises(RecordingError, match=r"^cannot write standard output: it is closed; name a file, or open it$"):
        RecordingWriter("-", "nvml").__enter__()


def test_writing_outside_the_with_block_is_an_error(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "one.jsonl", "nvml")
    with pytest.raises(RecordingError, match=r"one\.jsonl is not open: write inside the with block"):
        writer.write(snapshot(1))
    with writer:
        pass
    with pytest.raises(RecordingError, match="is not open"):
        writer.write(snapshot(1))


def test_an_invalid_source_is_refused_before_the_file_is_created(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    with pytest.raises(CodecError, match="source: Invalid value"):
        RecordingWriter(path, "n" * 2000).__enter__()
    assert not path.exists()


def test_a_header_is_recognised_by_its_start() -> None:
    assert looks_like_header(encode_header(Header("nvml")))
    assert not looks_like_header('{"version":1}')


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "recording: Required value: must be a number from 1"),
        ('{"recording":3}', "recording: Invalid value: 3: is a later version than 2"),
        ('{"recording":2,"interval_seconds":0}', "interval_seconds: Invalid value: 0: must be a number from 0.001"),
        ('{"recording":1,"source":7}', "source: Invalid value: 7: must be text"),
        ("timestamp, index", "is not JSON"),
    ],
    ids=["not a header", "a later version", "no interval", "a source that is a number", "the log of another program"],
)
def test_an_invalid_header_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode_header(text)
    assert sentence in str(caught.value)
