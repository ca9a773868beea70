# SPDX-License-Identifier: Apache-2.0
"""Tests of the replay backend: recordings are played unchanged, or refused with a sentence."""

import gzip
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Device, Sample, Snapshot
from keda_gpu_scaler.devices.replay import backend as replay
from keda_gpu_scaler.devices.replay import text_reader
from keda_gpu_scaler.devices.replay.backend import ReplayBackend
from keda_gpu_scaler.devices.synthetic import SyntheticBackend
from keda_gpu_scaler.wire.recording import RecordingWriter
from keda_gpu_scaler.wire.snapshot_codec import MAX_LENGTH
from tests.contract.backends import BackendContract
from tests.examples_drawn import examples

DEMONSTRATION = Path(__file__).parents[2] / "recordings" / "demo-synthetic.jsonl.gz"
TELEMETRY = Path(__file__).parents[3] / "shared" / "telemetry"
MIB = 1 << 20

LOG = """\
timestamp, index, uuid, name, pci.bus_id, utilization.gpu [%], utilization.memory [%], memory.used [MiB], \
memory.total [MiB], temperature.gpu, power.draw [W]
2025/01/31 14:02:03.123, 0, GPU-a, NVIDIA L4, 00000000:0C:00.0, 57 %, 7 %, 1234 MiB, 23034 MiB, 41, 63.10 W
2025/01/31 14:02:03.125, 1, GPU-b, NVIDIA L4, 00000000:19:00.0, 0 %, 0 %, 0 MiB, 23034 MiB, 30, [N/A]
2025/01/31 14:02:05.123, 0, GPU-a, NVIDIA L4, 00000000:0C:00.0, 100 %, 8 %, 2345 MiB, 23034 MiB, 45, 70.00 W
2025/01/31 14:02:05.126, 1, GPU-b, NVIDIA L4, 00000000:19:00.0, 1 %, 0 %, 5 MiB, 23034 MiB, 30, [N/A]
"""
HEADER, *ROWS = LOG.splitlines()
A = Device("GPU-a", 0, "NVIDIA L4", "0000:0c:00.0")
B = Device("GPU-b", 1, "NVIDIA L4", "0000:19:00.0")
FIRST = (
    Sample(A, 0.57, 0.07, 1234 * MIB, 23034 * MIB, 41.0, 63.1),
    Sample(B, 0.0, 0.0, 0, 23034 * MIB, 30.0, None),
)
SECOND = (
    Sample(A, 1.0, 0.08, 2345 * MIB, 23034 * MIB, 45.0, 70.0),
    Sample(B, 0.01, 0.0, 5 * MIB, 23034 * MIB, 30.0, None),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gpu.csv"


def opened(path: Path, content: str | bytes, speed: float = 1.0) -> ReplayBackend:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return ReplayBackend(path, speed)


def begun(path: Path, content: str | bytes = "") -> ReplayBackend:
    """A backend whose clock stands at 0, of a file with this content, or of the file as it is."""
    backend = opened(path, content) if content else ReplayBackend(path)
    backend.read(0.0)
    return backend


def loads(backend: ReplayBackend, *times: float) -> list[tuple[float | None, ...]]:
    """The utilisation of each device in percent, at each of these times."""
    return [
        tuple(
            None if (ratio := sample.gpu_utilization_ratio) is None else round(100 * ratio)
            for sample in backend.read(now)
        )
        for now in times
    ]


def recorded(path: Path, *snapshots: Snapshot, source: str = "nvml") -> Path:
    with RecordingWriter(path, source, overwrite=True) as writer:
        for snapshot in snapshots:
            writer.write(snapshot)
    return path


def snapshot(at_seconds: float, *samples: Sample) -> Snapshot:
    return Snapshot("gpu-7", 1, at_seconds, 1.7e9, "nvml", samples)


class TestALogKeepsTheContract(BackendContract):
    @pytest.fixture
    def backend(self, path: Path) -> Backend:
        return opened(path, LOG)


class TestARecordingKeepsTheContract(BackendContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return ReplayBackend(recorded(tmp_path / "a.jsonl.gz", snapshot(10.0, *FIRST), snapshot(11.0, SECOND[1])))


class TestTheDemonstrationKeepsTheContract(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return ReplayBackend(DEMONSTRATION)


# A log of nvidia-smi


def test_every_reading_of_a_log_is_replayed(path: Path) -> None:
    backend = opened(path, LOG)
    assert backend.read(1000.0) == FIRST
    assert backend.read(1002.0) == SECOND
    assert backend.source == "replay of gpu.csv"
    assert not backend.deviceless


@pytest.mark.parametrize(
    "content",
    [
        LOG.encode(),
        LOG.replace("\n", "\r\n").encode(),
        LOG.encode("utf-8-sig"),
        LOG.encode("utf-16"),
        b"\xfe\xff" + LOG.encode("utf-16-be"),
        gzip.compress(LOG.encode()),
        gzip.compress(LOG[:400].encode()) + gzip.compress(LOG[400:].encode()) + bytes(512),
        gzip.compress(LOG.encode("utf-16")),
        ("\n\n" + LOG + "\n\n").encode(),
        LOG.removesuffix("\n").encode(),
    ],
    ids=[
        "as it is",
        "with carriage returns",
        "with a byte order mark",
        "in UTF-16, as PowerShell redirects",
        "in UTF-16 the other way round",
        "gzipped",
        "gzipped in two members, with padding",
        "gzipped UTF-16",
        "with empty lines around it",
        "without a last newline",
    ],
)
def test_a_log_reads_the_same(path: Path, content: bytes) -> None:
    backend = opened(path, content)
    assert backend.read(0.0) == FIRST
    assert backend.read(2.0) == SECOND


def test_columns_may_stand_in_any_order_among_others(path: Path) -> None:
    def turned(line: str) -> str:
        return ", ".join(["x", *reversed(line.split(", "))])

    assert opened(path, "\n".join(turned(line) for line in LOG.splitlines())).read(0.0) == FIRST


def test_values_without_units_are_in_the_headers_or_in_nvidia_smis(path: Path) -> None:
    log = re.sub(r" (%|MiB|W)(?=[,\n])", "", LOG)
    assert opened(path, log).read(0.0) == FIRST
    assert opened(path, re.sub(r" \[.*?\]", "", log.replace("[N/A]", "N/A"))).read(0.0) == FIRST


def test_a_value_is_read_in_the_unit_that_it_names(path: Path) -> None:
    backend = opened(path, "memory.used [MiB], power.draw [W]\n2 GiB, 1500 mW\n")
    (sample,) = backend.read(0.0)
    assert (sample.memory_used_bytes, sample.power_watts) == (2 << 30, 1.5)


@pytest.mark.parametrize(
    "cell",
    ["[N/A]", "N/A", "[Not Supported]", "[Unknown Error]", "[GPU is lost]", "[Insufficient Permissions]", "", "ERR!"],
)
def test_no_reading_is_unknown_and_not_zero(path: Path, cell: str) -> None:
    (sample,) = opened(path, f"index, utilization.gpu [%], power.draw [W]\n0, {cell}, 70.00 W\n").read(0.0)
    assert sample.gpu_utilization_ratio is None
    assert sample.power_watts == 70.0


@pytest.mark.parametrize(
    ("cells", "memory"),
    [
        pytest.param("9000 MiB, 100 MiB", (None, None), id="more used than there is: neither is believed"),
        pytest.param("0 MiB, 0 MiB", (None, None), id="nor is a memory of nothing"),
        pytest.param("[N/A], 0 MiB", (None, None), id="nor a memory of nothing alone"),
        pytest.param("100 MiB, 100 MiB", (100 * MIB, 100 * MIB), id="a full memory is full"),
        pytest.param("100 MiB, [N/A]", (100 * MIB, None), id="half an answer is half an answer"),
        pytest.param("[N/A], 100 MiB", (None, 100 * MIB), id="and so is the other half"),
    ],
)
def test_memory_that_contradicts_itself_is_unknown(
    path: Path, cells: str, memory: tuple[int | None, int | None]
) -> None:
    (sample,) = opened(path, f"index, utilization.gpu, memory.used, memory.total\n0, 7, {cells}\n").read(0.0)
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == memory
    assert sample.gpu_utilization_ratio == 0.07


@pytest.mark.parametrize(
    ("cells", "watts"),
    [
        ("10 W, 20 W, 30 W", 30.0),
        ("10 W, 20 W, [N/A]", 20.0),
        ("10 W, [N/A], [N/A]", 10.0),
        ("[N/A], [N/A], [N/A]", None),
    ],
    ids=["power.draw", "else the instant", "else the average", "else unknown"],
)
def test_power_is_the_first_of_three_columns_that_is_known(path: Path, cells: str, watts: float | None) -> None:
    log = f"power.draw.average [W], power.draw.instant [W], power.draw [W]\n{cells}\n"
    assert opened(path, log).read(0.0)[0].power_watts == watts


def test_a_log_that_was_started_anew_repeats_its_header(path: Path) -> None:
    backend = opened(path, "\n".join([HEADER, *ROWS[:2], HEADER, *ROWS[2:]]))
    assert (backend.read(0.0), backend.read(2.0)) == (FIRST, SECOND)


def test_a_log_that_was_started_anew_may_have_other_columns(path: Path) -> None:
    backend = opened(path, "index, utilization.gpu\n0, 5\n0, 6\nindex, power.draw\n0, 9.5\n")
    assert loads(backend, 0.0, 1.0, 2.0) == [(5,), (6,), (None,)]
    assert backend.read(2.0)[0].power_watts == 9.5


def test_a_header_ends_the_moment_before_it(path: Path) -> None:
    backend = opened(path, "index, utilization.gpu\n0, 5\nindex, utilization.gpu\n1, 6\n")
    assert loads(backend, 0.0, 1.0) == [(5, None), (None, 6)]


def test_without_times_rows_are_a_second_apart_and_a_device_that_repeats_begins_the_next(path: Path) -> None:
    backend = opened(path, "index, utilization.gpu [%]\n0, 1 %\n1, 2 %\n0, 3 %\n1, 4 %\n")
    assert loads(backend, 0.0, 0.9, 1.0, 1.9, 2.0) == [(1, 2), (1, 2), (3, 4), (3, 4), (1, 2)]
    assert [sample.device.uuid for sample in backend.read(0.0)] == ["replay-gpu-0", "replay-gpu-1"]


def test_without_an_index_devices_are_counted_as_they_appear(path: Path) -> None:
    log = "uuid, utilization.gpu\nGPU-z, 1\nGPU-a, 2\nGPU-z, 3\nGPU-a, 4\n"
    devices = [sample.device for sample in opened(path, log).read(0.0)]
    assert [(device.uuid, device.index) for device in devices] == [("GPU-z", 0), ("GPU-a", 1)]


def test_without_an_index_and_a_uuid_devices_go_by_their_pci_address(path: Path) -> None:
    log = "gpu_bus_id, utilization.gpu\n00000000:19:00.0, 1\n00000000:0C:00.0, 2\n00000000:0C:00.0, 4\n"
    backend = opened(path, log)
    assert loads(backend, 0.0, 1.0) == [(1, 2), (None, 4)]
    assert [sample.device.pci_address for sample in backend.read(0.0)] == ["0000:19:00.0", "0000:0c:00.0"]


def test_where_nothing_tells_devices_apart_there_is_one_and_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert loads(opened(path, "utilization.gpu\n1\n2\n"), 0.0, 1.0) == [(1,), (2,)]
    assert "no column identifies a device" in caplog.text


_TWO_GPUS = ("2025-01-31 14:02:0{0}.120, {0}0", "2025-01-31 14:02:0{0}.123, {0}1")


@pytest.mark.parametrize(
    "log",
    [
        pytest.param(
            "timestamp, utilization.gpu\n" + "\n".join(row.format(second) for second in range(5) for row in _TWO_GPUS),
            id="whose rows are written in pairs",
        ),
        pytest.param("timestamp, utilization.gpu\n" + "\n".join(_TWO_GPUS).format(0), id="of one time"),
        pytest.param("name, utilization.gpu\nNVIDIA L4, 1\nNVIDIA H100, 2\n", id="of two models"),
        pytest.param(
            "name, memory.total, utilization.gpu\nNVIDIA L4, 1 MiB, 1\nNVIDIA L4, 2 MiB, 2\n", id="of two sizes"
        ),
    ],
)
def test_a_log_of_two_devices_without_an_index_is_refused(path: Path, log: str) -> None:
    with pytest.raises(BackendError, match="it holds rows of several devices, and no column names the device of a row"):
        opened(path, log)


@pytest.mark.parametrize("gap", [0.02, 0.25, 1.0], ids=["fifty times a second", "four times a second", "each second"])
def test_a_log_of_one_device_without_an_index_is_read(path: Path, gap: float) -> None:
    rows = [f"2025-01-31 14:02:{gap * count:06.3f}, {count % 100}" for count in range(100 if gap < 0.5 else 50)]
    backend = opened(path, "timestamp, utilization.gpu\n" + "\n".join(rows))
    assert f"1 devices, {len(rows)} moments" in repr(backend)


def test_a_device_that_lost_its_name_is_known_by_its_index(path: Path) -> None:
    backend = begun(path, "index, uuid, utilization.gpu\n0, GPU-a, 5\n0, [GPU is lost], [GPU is lost]\n")
    assert backend.read(1.0) == (Sample(Device("GPU-a", 0, "unknown")),)


def test_a_device_that_was_not_seen_at_a_position_is_listed_with_unknown_readings(path: Path) -> None:
    backend = opened(path, "\n".join([HEADER, ROWS[0], ROWS[1], ROWS[2]]))
    assert backend.read(0.0) == FIRST
    assert backend.read(2.0) == (SECOND[0], Sample(B))


def test_rows_further_apart_than_a_second_were_not_printed_in_one_go(path: Path) -> None:
    backend = opened(path, "\n".join([HEADER, ROWS[0], ROWS[3]]))
    assert backend.read(0.0) == (FIRST[0], Sample(B))
    assert backend.read(2.5) == (Sample(A), SECOND[1])


def test_slices_of_one_index_are_in_the_order_of_their_names(path: Path) -> None:
    backend = opened(path, "index, uuid, memory.used\n1, GPU-c, 1\n0, MIG-b, 2\n0, MIG-a, 3\n")
    assert [sample.device.uuid for sample in backend.read(0.0)] == ["MIG-a", "MIG-b", "GPU-c"]


# The clock


def log_at(*seconds: float, start: int = 0) -> str:
    """One device, its load counting up from ``start`` percent, at these seconds of a minute."""
    rows = [f"2025/01/31 14:02:{second:06.3f}, 0, {start + count}" for count, second in enumerate(seconds)]
    return "\n".join(["timestamp, index, utilization.gpu", *rows])


def test_the_first_read_is_the_beginning_and_the_end_is_followed_by_it_again(path: Path) -> None:
    backend = opened(path, log_at(10, 12, 14))
    assert loads(backend, 100.0, 101.9, 102.0, 104.0, 105.9) == [(0,), (0,), (1,), (2,), (2,)]
    assert loads(backend, 106.0, 108.0, 700.0, 702.0) == [(0,), (1,), (0,), (1,)]


@pytest.mark.parametrize(("speed", "now"), [(2.0, 1.0), (0.5, 4.0), (100.0, 0.02)])
def test_speed_is_how_many_recorded_seconds_pass_in_one(path: Path, speed: float, now: float) -> None:
    backend = opened(path, log_at(10, 12, 14), speed)
    assert loads(backend, 0.0, 0.99 * now, 1.01 * now) == [(0,), (0,), (1,)]


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf"), 1e7])
def test_a_speed_is_above_zero(path: Path, speed: float) -> None:
    with pytest.raises(BackendError, match=r"^speed: Invalid value: .*: must be a number above 0, at most 1e\+06$"):
        opened(path, LOG, speed)


def test_irregular_times_are_kept(path: Path) -> None:
    backend = opened(path, log_at(10, 11, 12, 30))
    assert loads(backend, 0.0, 1.0, 2.0, 19.9, 20.0, 20.9, 21.0) == [(0,), (1,), (2,), (2,), (3,), (3,), (0,)]


def test_a_clock_that_goes_back_moves_on_by_the_usual_gap(path: Path) -> None:
    backend = begun(path, log_at(50, 52, 54, 10, 12))
    assert loads(backend, 4.0, 5.9, 6.0, 8.0, 9.9, 10.0) == [(2,), (2,), (3,), (4,), (4,), (0,)]


def test_a_single_moment_is_played_for_ever(path: Path) -> None:
    assert loads(opened(path, log_at(10, start=7)), 0.0, 0.5, 1.0, 1e9) == [(7,)] * 4


def test_reading_twice_at_one_time_gives_the_same(path: Path) -> None:
    backend = opened(path, LOG)
    assert backend.read(5.0) == backend.read(5.0)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.floats(1e-3, 1e6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_at_any_time_the_same_devices_answer_with_a_recorded_moment(
    path: Path, times: list[float], speed: float
) -> None:
    backend = opened(path, LOG, speed)
    assert {backend.read(now) for now in times} <= {FIRST, SECOND}


# A recording of this program


@pytest.mark.parametrize("name", ["night.jsonl", "night.jsonl.gz"])
def test_a_recording_is_replayed_with_the_source_that_it_names(tmp_path: Path, name: str) -> None:
    path = recorded(tmp_path / name, snapshot(10.0, *FIRST), snapshot(11.5, *SECOND), source="synthetic load")
    backend = ReplayBackend(path)
    assert (backend.read(0.0), backend.read(1.5)) == (FIRST, SECOND)
    assert backend.source == f"replay of {name} (recorded from synthetic load)"


def test_compression_is_known_by_the_bytes_and_not_by_the_name(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.jsonl.gz", snapshot(10.0, *FIRST)).rename(tmp_path / "a.jsonl")
    assert ReplayBackend(path).read(0.0) == FIRST


def test_recordings_that_were_joined_play_one_after_the_other(tmp_path: Path) -> None:
    one = recorded(tmp_path / "1.gz", snapshot(50.0, *FIRST), snapshot(52.0, *FIRST), source="nvml")
    two = recorded(tmp_path / "2.gz", snapshot(3.0, *SECOND), source="synthetic")
    joined = tmp_path / "joined.gz"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    backend = ReplayBackend(joined)
    assert [backend.read(now) for now in (0.0, 2.0, 4.0, 6.0)] == [FIRST, FIRST, SECOND, FIRST]
    assert backend.source == "replay of joined.gz (recorded from nvml and synthetic)"


def test_devices_are_in_the_order_of_their_indices_and_keep_their_first_description(tmp_path: Path) -> None:
    renumbered = Sample(Device("GPU-b", 0, "renamed"), 0.5)
    backend = ReplayBackend(recorded(tmp_path / "a", snapshot(1.0, FIRST[1], FIRST[0]), snapshot(2.0, renumbered)))
    assert backend.read(0.0) == FIRST
    assert backend.read(1.0) == (Sample(A), Sample(B, 0.5))


def test_a_moment_in_which_no_device_was_seen_is_played_as_unknown(tmp_path: Path) -> None:
    backend = begun(recorded(tmp_path / "a", snapshot(1.0, *FIRST), snapshot(2.0)))
    assert backend.read(1.0) == (Sample(A), Sample(B))


def test_a_file_name_that_would_disturb_a_terminal_is_shown_without_its_letters(tmp_path: Path) -> None:
    assert opened(tmp_path / "a\x1b[2Jb", LOG).source == "replay of a?[2Jb"


def test_the_demonstration_is_ten_minutes_of_eight_devices_and_says_that_it_is_synthetic() -> None:
    backend = ReplayBackend(DEMONSTRATION)
    assert "8 devices, 600 moments, 600 s" in repr(backend)
    assert backend.source == (
        "replay of demo-synthetic.jsonl.gz (recorded from synthetic demonstration load, not a real GPU)"
    )
    live = SyntheticBackend()
    assert all(backend.read(5.0 + second) == live.read(5.0 + second) for second in range(0, 600, 7))


# What was cut off


def test_a_recording_that_was_cut_off_plays_what_is_whole_and_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = recorded(tmp_path / "a.jsonl", snapshot(1.0, *FIRST), snapshot(2.0, *SECOND))
    path.write_bytes(path.read_bytes()[:-20])
    backend = ReplayBackend(path)
    assert [backend.read(now) for now in (0.0, 1.0)] == [FIRST, FIRST]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "a.jsonl is incomplete at its end; the complete part is played" in record.message


@pytest.mark.parametrize("missing", [1, 8, 9, 20, 40])
def test_a_gzipped_recording_that_was_cut_off_plays_what_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: int
) -> None:
    path = recorded(tmp_path / "a.gz", snapshot(1.0, *FIRST), snapshot(2.0, *SECOND))
    path.write_bytes(path.read_bytes()[:-missing])
    assert ReplayBackend(path).read(0.0) == FIRST
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_log_that_was_cut_off_plays_what_is_whole(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = begun(path, LOG[:-20])
    assert backend.read(2.0) == (SECOND[0], Sample(B))
    assert (
        "gpu.csv is incomplete at its end; the complete part is played (line 5: has 9 columns: must have 11"
        in caplog.text
    )


def test_a_log_in_utf_16_may_end_in_the_middle_of_a_letter(path: Path) -> None:
    assert begun(path, LOG.encode("utf-16")[:-1]).read(2.0) == SECOND


# What is refused

_JSON_HEADER = '{"recording":1,"source":"nvml","made_by":"me"}'
REFUSED = {
    "nothing": ("", "it is empty"),
    "blank lines": ("\n \n", "it is empty"),
    "a header alone": (HEADER, "it holds no sample of any device"),
    "the header of a recording alone": (_JSON_HEADER, "it holds no sample of any device"),
    "binary garbage": (b"\x7fELF\x02\x01\x01\xff\xfe", "it is not text near byte 7; it must be a recording or a log"),
    "damaged gzip": (gzip.compress(LOG.encode())[:-8] + b"12345678", "its gzip is damaged (Error -3"),
    "gzip that is cut off at once": (gzip.compress(LOG.encode())[:12], "it is cut off before the first sample"),
    "values without a header": (
        ROWS[0],
        'no known column among "2025/01/31 14:02:03.123", "0", "GPU-a", "NVIDIA L4"',
    ),
    "columns without a reading": (
        "timestamp, index, fan.speed [%]\n",
        'no known column among "timestamp", "index", "fan.speed [%]": must have one of utilization.gpu, '
        "utilization.memory, memory.used, memory.total, temperature.gpu, power.draw; record with: nvidia-smi --query",
    ),
    "a column in a unit that is not known": (
        "index, power.draw [hp]\n0, 1\n",
        'line 1: column "power.draw [hp]": must be in W or mW',
    ),
    "two devices of one name, as when identifiers were masked": (
        LOG.replace("GPU-b", "GPU-a"),
        'line 3: column "uuid": Invalid value: "GPU-a": must differ between devices, but index 0 has it; leave uuid',
    ),
    "a recording without its header": ('{"version":1}\n', "line 1: the header of a recording: recording: Required"),
    "a recording of a later version": ('{"recording":3}\n', "line 1: the header of a recording: recording: Invalid"),
}

# What is a gap, and what is unknown

GAPS = {
    "a row that is too short": (LOG.replace(", 57 %", ""), "line 2: has 10 columns: must have 11, like the header"),
    "a time that is none": (
        LOG.replace("2025/01/31 14:02:03.123", "yesterday"),
        'line 2: column "timestamp": Invalid value: "yesterday": must be a time like 2025/01/31 14:02:03.123',
    ),
    "a time that is unknown": (
        LOG.replace("2025/01/31 14:02:03.123", "[N/A]"),
        'line 2: column "timestamp": Invalid value: "[N/A]": must be a time like',
    ),
    "an index that is none": (
        LOG.replace("03.123, 0, GPU-a", "03.123, first, GPU-a"),
        'line 2: column "index": Invalid value: "first": must be a whole number from 0 to 65535',
    ),
    "a name that would change a terminal": (
        LOG.replace("GPU-a, NVIDIA L4", "GPU-a, \x1b[2J", 1),
        r'line 2: column "name": Invalid value: "\u001b[2J": must be at most 256 printable characters',
    ),
    "a block of zeros": (
        LOG.replace("14:02:03.123, 0, GPU-a, NVIDIA L4", "\0" * 4096),
        "line 2: has bytes that are not",
    ),
    "bytes that are not text": (LOG.encode().replace(b"57 %", b"\xff\xfe"), "line 2: has bytes that are not text"),
    "a quoted cell that does not end": (LOG.replace("GPU-a", '"GPU-a', 1), "has a quoted cell that does not end"),
}


@pytest.mark.parametrize(("content", "sentence"), GAPS.values(), ids=GAPS)
def test_a_bad_line_is_a_gap_and_the_rest_is_played(
    path: Path, content: str | bytes, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = begun(path, content)
    assert backend.read(0.0) == (Sample(A), FIRST[1])
    assert backend.read(2.0) == SECOND
    (record,) = caplog.records
    assert f"{path}: 1 line(s) cannot be read: each is a gap in the replay; the first is line 2: " in record.message
    assert sentence in record.message


IMPOSSIBLE = {
    "a percentage above a hundred": (
        LOG.replace("57 %", "101 %"),
        'column "utilization.gpu [%]": Invalid value: "101 %": must be from 0 to 100 %, or [N/A]',
        replace(FIRST[0], gpu_utilization_ratio=None),
    ),
    "a value that is text": (
        LOG.replace("57 %", "busy"),
        'column "utilization.gpu [%]": Invalid value: "busy": must be a number of %, or [N/A]',
        replace(FIRST[0], gpu_utilization_ratio=None),
    ),
    "a value in another unit": (
        LOG.replace("57 %", "57 W"),
        'column "utilization.gpu [%]": Invalid value: "57 W": must be a number of %, or [N/A]',
        replace(FIRST[0], gpu_utilization_ratio=None),
    ),
    "power below zero": (
        LOG.replace("63.10", "-1"),
        'Invalid value: "-1 W": must be above 0 to 10000 W, or [N/A]',
        replace(FIRST[0], power_watts=None),
    ),
    "no power at all": (
        LOG.replace("63.10", "0.00"),
        'Invalid value: "0.00 W": must be above 0 to 10000 W, or [N/A]',
        replace(FIRST[0], power_watts=None),
    ),
    "99 kilowatts": (LOG.replace("63.10", "99000"), 'Invalid value: "99000 W"', replace(FIRST[0], power_watts=None)),
    "a temperature of zero": (
        LOG.replace("41, 63", "0, 63"),
        'column "temperature.gpu": Invalid value: "0": must be above 0 to 150 C, or [N/A]',
        replace(FIRST[0], temperature_celsius=None),
    ),
    "more memory in use than there is": (
        LOG.replace("1234 MiB", "99999 MiB"),
        "memory: Invalid value: 1.04857e+11 of 2.41529e+10 bytes: must be at most the total",
        replace(FIRST[0], memory_used_bytes=None, memory_total_bytes=None),
    ),
}


@pytest.mark.parametrize(("content", "sentence", "expected"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_impossible_value_is_unknown_and_counted(
    path: Path, content: str, sentence: str, expected: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    backend = begun(path, content)
    assert backend.read(0.0) == (expected, FIRST[1])
    (record,) = caplog.records
    assert "1 value(s) are impossible: each is unknown in the replay; the first is " in record.message
    assert sentence in record.message


def test_a_bad_line_in_a_recording_is_a_gap(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = recorded(tmp_path / "a", snapshot(1.0, *FIRST), snapshot(2.0, *SECOND))
    header, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, rest[0], rest[0][:40], rest[1]]))
    backend = begun(path)
    assert [backend.read(now) for now in (0.0, 0.5, 1.0)] == [FIRST, (Sample(A), Sample(B)), SECOND]
    assert "1 line(s) cannot be read: each is a gap in the replay; the first is line 3: is not JSON" in caplog.text


def test_what_follows_the_header_of_a_later_version_is_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = recorded(tmp_path / "a", snapshot(1.0, *FIRST))
    header, one = path.read_text().splitlines()
    path.write_text("\n".join([header, one, '{"recording":3}', one, one]))
    assert "1 moments" in repr(ReplayBackend(path))
    assert "3 line(s) cannot be read" in caplog.text


def test_a_block_of_zeros_may_be_longer_than_a_line(path: Path) -> None:
    assert begun(path, "\n".join([HEADER, *ROWS[:2], "\0" * (MAX_LENGTH + 1), *ROWS[2:]])).read(2.0) == SECOND


def test_a_lost_pass_is_unknown_from_its_middle_on(path: Path) -> None:
    log = log_at(10, 12, 14).replace("02:12.000, 0, 1", "02:12.000, 0")
    assert loads(opened(path, log), 0.0, 1.9, 2.0, 3.9, 4.0) == [(0,), (0,), (None,), (None,), (2,)]


def test_a_lost_pass_of_a_log_without_times_takes_its_second(path: Path) -> None:
    backend = opened(path, "index, utilization.gpu\n0, 1\n1, 2\n0\n1, 4\n0, 5\n1, 6\n")
    assert loads(backend, 0.0, 1.0, 2.0) == [(1, 2), (None, 4), (5, 6)]
    backend = opened(path, "index, utilization.gpu\n0, 1\n0\n0, 3\n")
    assert loads(backend, 0.0, 1.0, 2.0) == [(1,), (None,), (3,)]


@pytest.mark.parametrize(("content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_the_file_and_what_is_wrong_with_it_are_told_for(path: Path, content: str | bytes, sentence: str) -> None:
    with pytest.raises(BackendError) as caught:
        opened(path, content)
    assert str(caught.value).startswith(f"cannot replay {path}: ")
    assert sentence in str(caught.value)


def test_a_file_that_is_missing_is_refused(path: Path) -> None:
    with pytest.raises(BackendError) as caught:
        ReplayBackend(path)
    assert str(caught.value) == f"cannot open {path}: no such file or directory; give the path of a recording"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="it is not a regular file; name the recording itself"):
        ReplayBackend(tmp_path)


def test_a_path_that_is_none_is_refused() -> None:
    with pytest.raises(BackendError, match="it is not a path"):
        ReplayBackend("a\0b")


def test_a_file_that_is_too_large_unpacked_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_reader, "MAX_BYTES", 1 << 20)
    packed = gzip.compress(LOG.encode() + b"\n" * (1 << 20))
    assert len(packed) < 1 << 12
    with pytest.raises(BackendError, match="it is larger than 1 MiB unpacked; cut it into parts"):
        opened(path, packed)


def test_blank_lines_without_end_are_refused_before_they_are_all_unpacked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MAX_LINES", 1000)
    monkeypatch.setattr(text_reader, "MAX_BYTES", 1 << 17)
    with pytest.raises(BackendError, match="it has more than 1000 lines; cut it into parts"):
        opened(path, gzip.compress(LOG.encode() + b"\n" * (1 << 20)))


def test_a_line_without_an_end_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_reader, "MAX_LENGTH", 1 << 16)
    with pytest.raises(BackendError, match="a line is longer than 65536 characters"):
        opened(path, b"x" * (1 << 18))


def test_more_devices_than_a_snapshot_may_have_are_refused(path: Path) -> None:
    rows = "".join(f"GPU-{number}, 1\n" for number in range(4098))
    with pytest.raises(BackendError, match="line 4098: holds one device more: must be at most 4096 in a log"):
        opened(path, "uuid, utilization.gpu\n" + rows)
    halves = [[Sample(Device(f"{half}-{number}", 0, "M")) for number in range(2050)] for half in range(2)]
    with pytest.raises(BackendError, match="it has more than 4096 devices; cut it into parts"):
        ReplayBackend(recorded(path, snapshot(1.0, *halves[0]), snapshot(2.0, *halves[1])))


def test_more_samples_than_fit_in_memory_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_ROWS", 100)
    with pytest.raises(BackendError, match="it has more than 100 samples; cut it into parts"):
        opened(path, "index, utilization.gpu\n" + "0, 1\n" * 200)


_CELLS = (
    *("timestamp", "index", "uuid", "utilization.gpu [%]", "memory.used", "power.draw", "0", "57 %", "1e9", "[N/A]"),
    *("2025/01/31 14:02:03.123", "GPU-a", "-1", "0001-01-01T00:00:00+23:59", "9" * 30, "x\x00", "²", _JSON_HEADER),
)
_lines = st.lists(st.sampled_from(_CELLS), max_size=4).map(", ".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(300))
@given(
    st.binary(max_size=300)
    | st.lists(_lines, max_size=8).map(lambda lines: "\n".join(lines).encode())
    | st.binary(max_size=100).map(lambda tail: gzip.compress(LOG.encode())[:150] + tail)
    | st.binary(max_size=100).map(lambda tail: _JSON_HEADER.encode() + b"\n" + tail)
)
def test_any_bytes_at_all_are_played_or_refused_with_a_sentence(path: Path, content: bytes) -> None:
    complaint = None
    try:
        backend = opened(path, content)
    except BackendError as error:
        complaint = str(error)
    else:
        for now in (0.0, 0.5, 1e6):
            assert backend.read(now)
    assert complaint is None or path.name in complaint


# Real captures

CAPTURES = {
    "H100, idle": (
        ("linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01.txt", "idle"),
        ("NVIDIA H100 80GB HBM3", "0000:00:09.0", 0.0, 0.0, 0, 81559, 41.0, 69.85),
    ),
    "H100, loaded": (
        ("linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01.txt", "load"),
        ("NVIDIA H100 80GB HBM3", "0000:00:09.0", 1.0, 0.11, 19818, 81559, 59.0, 631.95),
    ),
    "H100 in MIG mode, loaded, which tells no utilisation": (
        ("linux-x86_64__nvidia-h100-mig__590.48.01.txt", "load"),
        ("NVIDIA H100 80GB HBM3", "0000:00:09.0", None, None, 11125, 81559, 53.0, 433.78),
    ),
    "H200, loaded": (
        ("linux-x86_64__nvidia-h200__590.48.01.txt", "load"),
        ("NVIDIA H200", "0000:83:00.0", 1.0, 0.07, 32362, 143771, 52.0, 627.4),
    ),
    "RTX 4080 SUPER, idle": (
        ("linux-x86_64__nvidia-geforce-rtx-4080-super__595.71.05.txt", "idle"),
        ("NVIDIA GeForce RTX 4080 SUPER", "0000:01:00.0", 0.0, 0.23, 596, 16376, 43.0, 26.2),
    ),
    "RTX 2080 SUPER, loaded, 241 columns": (
        ("linux-x86_64__nvidia-geforce-rtx-2080-super__610.57.04.txt", "load"),
        ("NVIDIA GeForce RTX 2080 SUPER", "0000:0c:00.0", 0.08, 0.03, 815, 8192, 38.0, 98.14),
    ),
    "RTX 2080 SUPER on Windows, loaded": (
        ("windows-x86_64__nvidia-geforce-rtx-2080-super__591.86.txt", "load"),
        ("NVIDIA GeForce RTX 2080 SUPER", "0000:0c:00.0", 0.07, 0.03, 1296, 8192, 45.0, 97.43),
    ),
}


def section(name: str, state: str) -> str:
    """The header and the rows of one ``--query-gpu`` section of a capture."""
    folder = TELEMETRY / "nvidia-smi-captures"
    if not folder.is_dir():
        pytest.skip(f"the recorded captures are not here: {folder}")
    lines = (folder / name).read_text().splitlines()
    title = next(number for number, line in enumerate(lines) if line.startswith(f"# {state} :: query-gpu"))
    body = lines[title + 3 :]
    return "\n".join(body[: body.index("")]) + "\n"


@pytest.mark.parametrize(("capture", "expected"), CAPTURES.values(), ids=CAPTURES)
def test_a_real_capture_is_read(path: Path, capture: tuple[str, str], expected: tuple[object, ...]) -> None:
    (sample,) = opened(path, section(*capture)).read(0.0)
    model, pci_address, gpu, memory, used, total, celsius, watts = expected
    assert sample.device == Device("GPU-00000000-0000-0000-0000-000000000000", 0, str(model), str(pci_address))
    assert (sample.gpu_utilization_ratio, sample.memory_utilization_ratio) == (gpu, memory)
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == (int(str(used)) * MIB, int(str(total)) * MIB)
    assert (sample.temperature_celsius, sample.power_watts) == (celsius, watts)


def test_a_real_capture_goes_from_idle_to_loaded_in_the_time_that_it_took(path: Path) -> None:
    name = "linux-x86_64__nvidia-h200__590.48.01.txt"
    backend = opened(path, section(name, "idle") + section(name, "load"))  # 22:10:46.109 and 22:11:09.763
    assert loads(backend, 0.0, 23.65, 23.66, 47.3, 47.31) == [(0,), (0,), (100,), (100,), (0,)]


def test_a_real_training_run_of_eight_devices_is_replayed() -> None:
    log = TELEMETRY / "training-log" / "nanogpt_8gpu_util_power_temp.csv"
    if not log.is_file():
        pytest.skip(f"the recorded training log is not here: {log}")
    backend = ReplayBackend(log)
    assert "8 devices, 639 moments" in repr(backend)
    first = backend.read(0.0)
    assert [sample.device.uuid for sample in first] == [f"replay-gpu-{index}" for index in range(8)]
    assert [sample.power_watts for sample in first[:2]] == [387.26, 422.55]
    assert [sample.temperature_celsius for sample in first[:2]] == [38.0, 60.0]
    assert first[0].memory_used_bytes is None
    last = backend.read(157.524)  # 03:48:33.493 to 03:51:11.016
    assert [sample.power_watts for sample in last[5:]] == [377.33, 389.93, 378.29]
    assert backend.read(157.523 + 0.5)[0] == first[0]


# ---- recordings with engines ----

ENGINES_HEADER = '{"recording":2,"source":"engines of ai/llama","interval_seconds":2}'
STATE = (
    '{"workload":{"at_seconds":1,"namespace":"ai","name":"llama","kind":"ScaledObject","target":"Deployment llama",'
    '"spec_replicas":1,"status_replicas":1,"pods":[],"triggers":[],"tolerances":{"up":0.1,"down":0.1},'
    '"cooldown_seconds":300,"idle_replicas":0}}'
)
SCRAPED = (
    '{"page":{"at_seconds":1,"namespace":"ai","pod":"llama-0","scheme":"http","port":8000,"path":"/metrics",'
    '"answer_seconds":0.1,"status":200,"content_type":"text/plain","text":"a 1\\n"}}'
)


def test_a_recording_of_engines_has_no_device_and_can_be_opened(path: Path) -> None:
    backend = opened(path, f"{ENGINES_HEADER}\n{STATE}\n{SCRAPED}\n")
    assert (backend.read(0.0), backend.deviceless) == ((), True)
    assert backend.engine_recording is not None
    assert backend.source == "replay of gpu.csv (recorded from engines of ai/llama)"


def test_a_recording_of_devices_has_no_engines() -> None:
    assert ReplayBackend(DEMONSTRATION).engine_recording is None


def test_devices_and_engines_of_two_files_can_be_joined(path: Path) -> None:
    devices = gzip.decompress(DEMONSTRATION.read_bytes()).decode()
    backend = opened(path, f"{devices}{ENGINES_HEADER}\n{STATE}\n{SCRAPED}\n")
    assert (len(backend.read(0.0)), backend.deviceless) == (8, False)
    assert backend.engine_recording is not None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(
            f"{ENGINES_HEADER}\n{SCRAPED.replace('8000', '0')}\n", "line 2: page.port: Invalid value: 0",
            id="a port that is none",
        ),
        pytest.param(
            f"{ENGINES_HEADER}\n{STATE}\n{ENGINES_HEADER}\n{STATE}",
            "line 3: two recordings of engines are joined", id="two recordings of engines",
        ),
        pytest.param(
            f"{_JSON_HEADER}\n{STATE}\n{STATE}", "line 2: the header has no engines", id="engines under another header"
        ),
        pytest.param(
            f"{ENGINES_HEADER}\n{SCRAPED}\n", "it holds no sample of any device, and no workload", id="pages alone"
        ),
    ],
)  # fmt: skip
def test_engines_that_cannot_be_played_are_refused_with_a_sentence(path: Path, content: str, sentence: str) -> None:
    with pytest.raises(BackendError) as caught:
        opened(path, content)
    assert sentence in str(caught.value)


def test_a_recording_of_engines_that_is_cut_off_is_played_up_to_its_last_line(path: Path) -> None:
    backend = opened(path, f"{ENGINES_HEADER}\n{STATE}\n{SCRAPED}\n{SCRAPED[:40]}")
    assert backend.engine_recording is not None
    assert len(next(iter(backend.engine_recording.pages.values()))) == 1
