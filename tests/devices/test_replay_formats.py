# SPDX-License-Identifier: Apache-2.0
"""Tests of the formats of logs: every value is read in its unit, and no damage gives a wrong one."""

import gzip
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.registry import find
from keda_gpu_scaler.devices.replay.backend import ReplayBackend
from keda_gpu_scaler.devices.replay.log_format import LogFormat, formats, register
from keda_gpu_scaler.devices.replay.log_times import seconds_or_none
from tests.contract.backends import BackendContract
from tests.devices.replay_logs import EXAMPLES, MIB, ExampleLog
from tests.examples_drawn import examples

every_format = pytest.mark.parametrize("example", EXAMPLES, ids=[example.format for example in EXAMPLES])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gpus.log"


def opened(path: Path, content: str | bytes) -> ReplayBackend:
    """A backend whose clock stands at 0."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    backend = ReplayBackend(path)
    backend.read(0.0)
    return backend


def loads(backend: ReplayBackend, *times: float) -> list[list[float | None]]:
    return [[sample.gpu_utilization_ratio for sample in backend.read(now)] for now in times]


@every_format
class TestEveryFormatKeepsTheContract(BackendContract):
    @pytest.fixture
    def backend(self, path: Path, example: ExampleLog) -> Backend:
        path.write_text(example.text)
        return ReplayBackend(path)


def test_every_format_has_an_example() -> None:
    assert {example.format for example in EXAMPLES} == {one.name for one in formats()}


@every_format
def test_every_reading_is_replayed(path: Path, example: ExampleLog, caplog: pytest.LogCaptureFixture) -> None:
    backend = opened(path, example.text)
    assert backend.read(0.0) == example.first
    assert backend.read(example.gap_seconds) == example.second
    assert backend.read(2 * example.gap_seconds) == example.first
    assert "cannot be read" not in caplog.text


@every_format
@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="with carriage returns"),
        pytest.param(lambda text: text.encode("utf-16"), id="in UTF-16"),
        pytest.param(lambda text: text.encode("utf-16-le"), id="in UTF-16 without a mark"),
        pytest.param(lambda text: text.encode("utf-16-be"), id="in UTF-16 the other way round, without a mark"),
        pytest.param(lambda text: gzip.compress(text.encode()), id="gzipped"),
        pytest.param(lambda text: b"nohup: ignoring input\n$ \n" + text.encode(), id="after messages of a shell"),
    ],
)
def test_every_format_reads_the_same(path: Path, example: ExampleLog, packed: Callable[[str], bytes]) -> None:
    backend = opened(path, packed(example.text))
    assert (backend.read(0.0), backend.read(example.gap_seconds)) == (example.first, example.second)


@every_format
def test_a_log_is_recognised_by_one_format(example: ExampleLog) -> None:
    lines = example.text.splitlines()
    found = [one.name for line in lines for one in formats() if one.recognises(line)]
    assert set(found) == {example.format} or set(found) == {"nvidia-smi XML"}


def test_a_name_of_a_format_is_taken_once() -> None:
    (first, *_) = formats()
    with pytest.raises(ValueError, match="another format has this name"):
        register(LogFormat(first.name, "", lambda line: False, first.open))


@every_format
def test_the_vendor_of_a_device_is_kept(path: Path, example: ExampleLog) -> None:
    vendor = next((name for name in ("amd", "intel") if example.first[0].device.uuid.startswith(f"{name}-")), None)
    for sample in opened(path, example.text).read(0.0):
        known = [name for name in ("amd", "intel") if (one := find(name)) and one.has(sample.device.uuid)]
        assert known == ([vendor] if vendor else [])


# Cells

_HEADER = "timestamp, index, utilization.gpu [%], memory.used [MiB], power.draw [W]"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        pytest.param(
            f'{_HEADER}\n"2025/01/31 14:02:03", "0", "57 %", "5 MiB", "9 W"', (0.57, 5 * MIB, 9.0), id="quoted"
        ),
        pytest.param(
            '"index","name","utilization.gpu"\n"0","a, ""b""","57"',
            (0.57, None, None),
            id="quoted, with a comma within",
        ),
        pytest.param("index, memory.used [MB]\n0, 5 MB", (None, 5 * MIB, None), id="MB is nvidia-smi's older name"),
        pytest.param("index, memory.used [KiB]\n0, 2048", (None, 2 * MIB, None), id="KiB"),
        pytest.param("index, memory.used [B]\n0, 2097152", (None, 2 * MIB, None), id="bytes"),
        pytest.param("index, memory.used\n0, 2 GiB", (None, 2048 * MIB, None), id="GiB in the cell"),
        pytest.param("index, power.draw [W]\n0, [N/A] W", (None, None, None), id="a reason with a unit"),
        pytest.param("index, power.draw [W], memory.used\n0, ERR!, 5", (None, 5 * MIB, None), id="ERR!"),
        pytest.param("index, power.draw [mW]\n0, 1500", (None, None, 1.5), id="milliwatts in the title"),
    ],
)
def test_a_cell_is_read_in_its_unit(
    path: Path, log: str, expected: tuple[float | None, ...], caplog: pytest.LogCaptureFixture
) -> None:
    (sample,) = opened(path, log).read(0.0)
    assert not caplog.records
    assert (sample.gpu_utilization_ratio, sample.memory_used_bytes, sample.power_watts) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("2025/01/31 14:02:03.123", 1738332123.123, id="nvidia-smi"),
        pytest.param("2025-01-31T14:02:03.123Z", 1738332123.123, id="ISO 8601"),
        pytest.param("2025-01-31T15:02:03+01:00", 1738332123.0, id="with a zone"),
        pytest.param("1738332123", 1738332123.0, id="the epoch"),
        pytest.param("1738332123.25", 1738332123.25, id="the epoch, with a fraction"),
        pytest.param("1738332123250", 1738332123.25, id="in milliseconds"),
        pytest.param("1738332123250000", 1738332123.25, id="in microseconds"),
        pytest.param("1738332123250000000", 1738332123.25, id="in nanoseconds"),
        pytest.param("Fri Jan 31 14:02:03 2025", 1738332123.0, id="ctime"),
        pytest.param("Sat Feb  1 14:02:03 2025", 1738418523.0, id="ctime, a day of one digit"),
        pytest.param("Fri Jan 31 14:02:03 UTC 2025", 1738332123.0, id="date(1)"),
        pytest.param("20250131   14:02:03", 1738332123.0, id="dmon"),
        pytest.param("14:02:03.500", 50523.5, id="a time of day"),
        pytest.param("yesterday", None, id="a word"),
        pytest.param("Fri Foo 31 14:02:03 2025", None, id="no month"),
        pytest.param("Fri Jan 41 14:02:03 2025", None, id="no day"),
        pytest.param("57", None, id="a number"),
        pytest.param("57.5", None, id="a fraction"),
        pytest.param("9" * 30, None, id="too many digits"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_a_time_is_read(text: str, seconds: float | None) -> None:
    assert seconds_or_none(text) == seconds


# Damage

MONITOR = """\
timestamp,gpu,power_usage,hotspot_temperature,memory_temperature,gfx_clk,gfx,mem,vram_used,vram_free,vram_total
1738332123,0,63,55,60,210,57,7,1234,21800,23034
"""


def test_mem_is_a_utilisation_in_amd_smi_monitor(path: Path) -> None:
    device = Device("amd-replay-gpu-0", 0, "unknown")
    assert opened(path, MONITOR).read(0.0) == (Sample(device, 0.57, 0.07, 1234 * MIB, 23034 * MIB, 55.0, 63.0),)


def test_partitions_of_an_amd_gpu_are_devices(path: Path) -> None:
    log = "timestamp,gpu,xcp,gfx\n1738332123,0,0,10\n1738332123,0,1,20\n1738332124,0,0,30\n1738332124,0,1,40\n"
    backend = opened(path, log.replace("gfx", "gfx,power_usage").replace("0\n", "0,N/A\n"))
    assert [sample.device.uuid for sample in backend.read(0.0)] == ["amd-replay-gpu-0", "amd-replay-gpu-0-1"]
    assert loads(backend, 0.0, 1.0) == [[0.1, 0.2], [0.3, 0.4]]


def test_cards_with_one_unique_id_are_devices(path: Path) -> None:
    log = '{"card0": {"Unique ID": "0x1", "GPU use (%)": "5"}, "card1": {"Unique ID": "0x1", "GPU use (%)": "6"}}'
    backend = opened(path, log)
    assert [sample.device.uuid for sample in backend.read(0.0)] == ["amd-replay-gpu-0", "amd-replay-gpu-1"]
    assert loads(backend, 0.0) == [[0.05, 0.06]]


def test_a_list_of_many_times_is_read_as_amd_smi_writes_it_to_a_file(path: Path) -> None:
    objects = ", ".join(
        f'{{"timestamp": {1738332123 + second}, "gpu": {gpu}, '
        f'"usage": {{"gfx_activity": {{"value": {10 * second + gpu}, "unit": "%"}}}}}}'
        for second in range(3)
        for gpu in range(2)
    )
    assert loads(opened(path, f"[{objects}]"), 0.0, 1.0, 2.0) == [[0.0, 0.01], [0.1, 0.11], [0.2, 0.21]]


def test_all_devices_of_amd_smi_in_one_object_are_a_moment(path: Path) -> None:
    log = '{"gpu_data": [{"gpu": 0, "usage": {"gfx_activity": {"value": 5, "unit": "%"}}}, {"gpu": 1, "usage": "N/A"}]}'
    assert loads(opened(path, log), 0.0) == [[0.05, None]]


def test_an_object_that_was_cut_off_is_a_gap(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = (text for text in re.split(r"(?<=^\})\n", EXAMPLES[4].text, flags=re.MULTILINE) if text)
    assert EXAMPLES[4].format == "gpustat JSON"
    backend = opened(path, one + "\n" + one[:300] + "\n" + two)
    assert backend.read(0.0) == EXAMPLES[4].first
    assert loads(backend, 1.0) == [[None, None]]
    assert backend.read(2.0) == EXAMPLES[4].second
    assert "begins an object, but the one before it was cut off" in caplog.text


def test_a_document_that_was_cut_off_is_a_gap(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    xml = EXAMPLES[2]
    one, two = (text for text in re.split(r"(?<=</nvidia_smi_log>)\n", xml.text) if text)
    backend = opened(path, f"{one}\n{one[:900]}\n{two}\n")
    assert (backend.read(0.0), backend.read(2.0)) == (xml.first, xml.second)
    assert loads(backend, 1.0) == [[None, None]]
    assert "begins a document, but the one before it was cut off" in caplog.text


@pytest.mark.parametrize(
    ("declarations", "inside", "reason"),
    [
        pytest.param('<!DOCTYPE a [<!ENTITY b "c">]>', "&b;", "not XML: undefined entity", id="an entity"),
        pytest.param('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>', "&b;", "undefined entity", id="a file"),
        pytest.param("", '<!DOCTYPE a [<!ENTITY b "c">]>', "not XML", id="an entity in the wrong place"),
        pytest.param("", "<a>" * 40, "nested too deeply", id="too many levels"),
        pytest.param("", "\0", "not XML", id="a zero"),
    ],
)
def test_a_dangerous_document_is_a_gap(path: Path, declarations: str, inside: str, reason: str) -> None:
    document = f"{declarations}\n<nvidia_smi_log><gpu><uuid>{inside}</uuid></gpu></nvidia_smi_log>\n"
    with pytest.raises(BackendError, match=reason):
        opened(path, document)
    backend = opened(path, EXAMPLES[2].text + document)
    assert (backend.read(0.0), backend.read(2.0)) == (EXAMPLES[2].first, EXAMPLES[2].second)


def test_documents_on_one_line_each_are_read(path: Path) -> None:
    one, two = (text.replace("\n", "") for text in re.split(r"(?<=</nvidia_smi_log>)\n", EXAMPLES[2].text) if text)
    three = two.replace("14:02:05", "14:02:07")
    backend = opened(path, f"{one}\n{one[:900]}\n{two}\n{three}{one}")
    assert loads(backend, 0.0, 1.0, 2.0, 3.0, 4.0) == [[0.57, 0.0], [None, None], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]


def test_slices_take_the_place_of_their_gpu_on_pages_of_dcgm(path: Path) -> None:
    page = """\
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a",modelName="A100"} 41
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",modelName="A100",GPU_I_PROFILE="1g.5gb",GPU_I_ID="7"} 12
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-a",modelName="A100",GPU_I_PROFILE="1g.5gb",GPU_I_ID="7"} 88
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a",modelName="A100",GPU_I_PROFILE="1g.5gb",GPU_I_ID="7"} 41
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-a",modelName="A100",GPU_I_PROFILE="1g.5gb",GPU_I_ID="7"} 0.25
"""
    device = Device("MIG-GPU-a/7", 0, "A100 MIG 1g.5gb", parent="GPU-a", gpu_instance=7)
    assert opened(path, page).read(0.0) == (Sample(device, 0.25, None, 12 * MIB, 100 * MIB),)


def test_a_page_has_the_time_of_its_series(path: Path) -> None:
    page = 'DCGM_FI_DEV_GPU_UTIL{{gpu="0"}} {0} 17383321{0}000\n'
    assert loads(opened(path, page.format(20) + page.format(25)), 0.0, 1.5, 5.0) == [[0.2], [0.2], [0.25]]


def _is_possible(sample: Sample) -> bool:
    used, total = sample.memory_used_bytes, sample.memory_total_bytes
    ratios = (sample.gpu_utilization_ratio, sample.memory_utilization_ratio)
    return (
        all(ratio is None or 0 <= ratio <= 1 for ratio in ratios)
        and (used is None or used >= 0)
        and (total is None or (used or 0) <= total > 0)
        and (sample.temperature_celsius is None or 0 < sample.temperature_celsius <= 150)
        and (sample.power_watts is None or 0 < sample.power_watts <= 10_000)
    )


_damage = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [b"", b"\0" * 50, b"\n", b",", b'"', b"{", b"}", b"[", b"]", b"<", b"</gpu>", b"9" * 25, b"-1", b"nan"]
    ),
    st.sampled_from([b"\xff", b"\xc3", b"1e999", b"[N/A]", b" : ", b"\x1b[2J", b"#", b"inf", b"0x", b"\\", b"&a;"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=examples(400))
@given(
    example=st.sampled_from(EXAMPLES),
    places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 60), _damage), min_size=1, max_size=4),
)
def test_a_damaged_log_raises_nothing_else_and_gives_no_impossible_value(
    path: Path, example: ExampleLog, places: list[tuple[int, int, bytes]]
) -> None:
    logging.disable(logging.WARNING)
    content = example.text.encode()
    for place, length, damage in places:
        at = place % len(content)
        content = content[:at] + damage + content[at + length :]
        content = content or b"x"
    complaint = None
    try:
        backend = opened(path, content)
    except BackendError as error:
        complaint = str(error)
    else:
        for now in (0.0, 0.5, 1.0, 2.0, 3.0):
            assert all(_is_possible(sample) for sample in backend.read(now))
    finally:
        logging.disable(logging.NOTSET)
    assert complaint is None or path.name in complaint


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(150))
@given(
    example=st.sampled_from(EXAMPLES), line=st.integers(0, 200), damage=st.sampled_from(["", "\0\0\0", "\ufffd", "x"])
)
def test_a_damaged_line_changes_no_other_moment(path: Path, example: ExampleLog, line: int, damage: str) -> None:
    lines = example.text.splitlines()
    middle = (len(lines) + 3) // 2
    at = middle + line % (len(lines) - middle)
    lines[at] = damage
    logging.disable(logging.WARNING)
    try:
        assert opened(path, "\n".join(lines)).read(0.0) == example.first
    finally:
        logging.disable(logging.NOTSET)


# What is not read

_KEYS = ("nvidia-smi --query-gpu=", "rocm-smi -a --json", "amd-smi", "gpustat --json", "xpu-smi dump", "curl")
UNREADABLE = {
    "the overview of nvidia-smi": ("| NVIDIA-SMI 550.54   Driver Version: 550.54  CUDA Version: 12.4 |", _KEYS[0]),
    "a log of nvidia-smi pmon": (
        "# gpu         pid   type     sm\n# Idx           #    C/G\n    0  1  C 2\n",
        _KEYS[0],
    ),
    "a list of processes": ("timestamp, pid, used_gpu_memory [MiB]\n2025, 1, 2 MiB\n", _KEYS[0]),
    "a log of dcgmi dmon": ("#Entity   GPUTL   MCUTL\nID\nGPU 0     5   6\n", _KEYS[0]),
    "the overview of rocm-smi": ("====== ROCm System Management Interface ======\n", _KEYS[1]),
    "the text of rocm-smi": ("GPU[0]\t\t: GPU use (%): 5\n", _KEYS[1]),
    "the text of amd-smi": ("GPU: 0\n    USAGE:\n        GFX_ACTIVITY: 0 %\n", _KEYS[2]),
    "the table of amd-smi monitor": ("GPU  POWER   GPU_T   MEM_T\n  0   1 W  3 C\n", _KEYS[2]),
    "the text of gpustat": ("node  Fri Jan 31 2025\n[0] NVIDIA L4 | 41'C, 57 % | 1 / 2 MB |\n", _KEYS[3]),
    "an answer of xpu-smi": ('{\n  "device_list": [\n {"device_id": 0}]}\n', _KEYS[4]),
    "an answer of xpu-smi, which people read": ("xpumcli topology -m\n\n  GPU 0/0|GPU 0/1|CPU Affinity\n", _KEYS[4]),
    "an answer of xpu-smi, of one device": (f"+{'-' * 9}+\n| Device ID | 0 |\n", _KEYS[4]),
    "the help of nvidia-smi": ('List of valid properties to query for the switch "--query-gpu=":\n', _KEYS[0]),
    "it holds no reading of any device": ('"utilization.gpu"\nPercent of time over the past sample period\n', ""),
    "an answer of Prometheus": ('{"status":"success","data":{"resultType":"matrix","result":[]}}', _KEYS[5]),
    "a snapshot of nvtop": ('[\n {\n  "device_name": "L4",\n  "gpu_util": "5%"\n }\n]\n', _KEYS[0]),
    "JSON of an unknown program": ('{"load": 5}', _KEYS[0]),
    "its format is not known": ("hello\nworld\n", _KEYS[0]),
    "packed with zstd; unpack it with: zstd -d FILE": (b"\x28\xb5\x2f\xfd1234", "zstd -d"),
    "packed with xz": (b"\xfd7zXZ\x001234", "xz -d"),
    "a zip archive": (b"PK\x03\x041234", "unzip"),
}


@pytest.mark.parametrize(("name", "content", "command"), [(k, *v) for k, v in UNREADABLE.items()], ids=UNREADABLE)
def test_what_is_not_read_is_named_with_a_command(path: Path, name: str, content: str | bytes, command: str) -> None:
    with pytest.raises(BackendError) as caught:
        opened(path, content)
    sentence = str(caught.value)
    assert sentence.startswith(f"cannot replay {path}: it")
    assert name.partition(",")[0] in sentence
    assert command in sentence
