# SPDX-License-Identifier: Apache-2.0
"""Every recorded capture is replayed, and each value is compared with the text of the capture."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.replay.backend import ReplayBackend
from tests.devices.replay_logs import MIB

TELEMETRY = Path(__file__).parents[3] / "shared" / "telemetry"


def captures(pattern: str) -> list[ParameterSet]:
    """The captures that match, or one test that is skipped where the captures are not here."""
    found = sorted(TELEMETRY.glob(pattern))
    reason = f"the recorded captures are not here: {TELEMETRY / pattern}"
    return [pytest.param(path, id=path.name) for path in found] or [
        pytest.param(TELEMETRY, marks=pytest.mark.skip(reason=reason), id="none")
    ]


def replayed(path: Path) -> ReplayBackend:
    backend = ReplayBackend(path)
    backend.read(0.0)
    return backend


def sections(capture: Path, title: str) -> Iterator[str]:
    """The bodies of the sections of a capture whose title has these words, idle and loaded."""
    parts = re.split(r"^#{80}\n# (.*)\n# \$ .*\n(?:# .*\n)?#{80}\n", capture.read_text(), flags=re.MULTILINE)
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if title in name:
            yield body


def number(text: str | None) -> float | None:
    """The number in a text of a tool, None where it has none: "57 %" is 57."""
    match = re.match(r"\s*([0-9.]+)", text or "")
    return float(match[1]) if match else None


def values(sample: Sample) -> tuple[float | None, ...]:
    """The readings in the units of nvidia-smi."""
    used, total = sample.memory_used_bytes, sample.memory_total_bytes
    return (
        None if sample.gpu_utilization_ratio is None else round(100 * sample.gpu_utilization_ratio, 6),
        None if sample.memory_utilization_ratio is None else round(100 * sample.memory_utilization_ratio, 6),
        None if used is None else used / MIB,
        None if total is None else total / MIB,
        sample.temperature_celsius,
        sample.power_watts,
    )


@pytest.mark.parametrize("capture", captures("nvidia-smi-captures/*86_64*.txt"))
def test_every_capture_of_the_csv_of_nvidia_smi(capture: Path, tmp_path: Path) -> None:
    bodies = list(sections(capture, "query-gpu (csv"))
    assert bodies
    for body in bodies:
        (tmp_path / "a.csv").write_text(body)
        header, *rows = (line.split(", ") for line in body.strip().splitlines())
        samples = replayed(tmp_path / "a.csv").read(0.0)
        assert len(samples) == len(rows) > 0
        for sample, row in zip(samples, rows, strict=True):
            cells = {title.partition(" [")[0]: cell for title, cell in zip(header, row, strict=True)}
            names = ("utilization.gpu", "utilization.memory", "memory.used", "memory.total", "temperature.gpu")
            assert values(sample) == (*(number(cells[name]) for name in names), number(cells["power.draw"]))
            assert (sample.device.uuid, sample.device.model) == (cells["uuid"], cells["name"])


@pytest.mark.parametrize("capture", captures("nvidia-smi-captures/*86_64*.txt"))
def test_every_capture_of_the_text_of_nvidia_smi(capture: Path, tmp_path: Path) -> None:
    bodies = list(sections(capture, "query (-q)"))
    assert bodies
    for body in bodies:
        (tmp_path / "a.log").write_text(body)
        samples = replayed(tmp_path / "a.log").read(0.0)
        (uuid,) = re.findall(r"GPU UUID +: (\S+)", body)
        if "MIG Device" in body:
            found = re.findall(r"Shared FB Memory Usage\n +Total +: (\d+) MiB\n.*\n +Used +: (\d+) MiB", body)
            assert len(samples) == len(found) > 1
            assert sorted(values(sample)[2:4] for sample in samples) == sorted((float(b), float(a)) for a, b in found)
            assert {sample.device.parent for sample in samples} == {uuid}
            continue
        (sample,) = samples
        total, used = re.findall(r"^    FB Memory Usage\n +Total +: (.*)\n.*\n +Used +: (.*)", body, re.MULTILINE)[0]
        gpu, memory = re.findall(r"^    Utilization\n +GPU +: (.*)\n +Memory +: (.*)", body, re.MULTILINE)[0]
        (celsius,) = re.findall(r"GPU Current Temp +: (.*)", body)
        watts = re.findall(r"^    GPU Power Readings\n +Average Power Draw +: (.*)", body, re.MULTILINE)[0]
        instant = re.findall(r"^    GPU Power Readings\n.*\n +Instantaneous Power Draw +: (.*)", body, re.MULTILINE)[0]
        expected = [number(text) for text in (gpu, memory, used, total, celsius, watts)]
        expected[-1] = number(instant) if expected[-1] is None else expected[-1]
        assert list(values(sample)) == expected
        (model,) = re.findall(r"Product Name +: (.*)", body)
        (address,) = re.findall(r"^GPU 0000(\S+)", body, re.MULTILINE)
        assert sample.device.uuid == uuid
        assert (sample.device.model, sample.device.pci_address) == (model, address.lower())


@pytest.mark.parametrize("capture", captures("nvidia-smi-captures/*86_64*.txt"))
def test_every_capture_of_dmon(capture: Path, tmp_path: Path) -> None:
    bodies = list(sections(capture, "dmon"))
    assert bodies
    for body in bodies:
        (tmp_path / "a.log").write_text(body)
        backend = replayed(tmp_path / "a.log")
        titles, *rows = (line.replace("#", "").split() for line in body.strip().splitlines() if "Idx" not in line)
        assert len(rows) > 1
        for second, row in enumerate(rows):
            (sample,) = backend.read(float(second))
            cells = dict(zip(titles, row, strict=True))
            expected = [number(cells[name]) for name in ("sm", "mem", "gtemp", "pwr")]
            found = values(sample)
            assert [found[0], found[1], found[4], found[5]] == expected
            assert found[2:4] == (None, None)


@pytest.mark.parametrize("capture", captures("nvidia-smi-xml/*.xml"))
def test_every_capture_of_the_xml_of_nvidia_smi(capture: Path) -> None:
    text = capture.read_text()
    samples = replayed(capture).read(0.0)
    (uuid,) = re.findall(r"<uuid>(GPU-.*)</uuid>", text)
    memory = re.findall(r"<fb_memory_usage>\s*<total>(.*?)<.*?<used>(.*?)<", text, re.DOTALL)
    if slices := text.count("<mig_device>"):
        assert len(samples) == slices
        assert [values(one)[2:4] for one in samples] == [(number(b), number(a)) for a, b in memory[:slices]]
        assert {one.device.parent for one in samples} == {uuid}
        assert samples[0].device.uuid == f"MIG-{uuid}/3/0"
        return
    (sample,) = samples
    tag = r"<{0}>(.*?)</{0}>"
    expected = [number(re.findall(tag.format(name), text)[0]) for name in ("gpu_util", "memory_util")]
    expected += [number(memory[0][1]), number(memory[0][0]), number(re.findall(tag.format("gpu_temp"), text)[0])]
    power = re.findall(r"<(?:average_)?power_draw>(.*?)<", text)
    expected.append(number(power[0]))
    assert list(values(sample)) == expected
    (model,) = re.findall(tag.format("product_name"), text)
    assert (sample.device.uuid, sample.device.model) == (uuid, model)


@pytest.mark.parametrize("capture", captures("rocm-smi-json/*.json"))
def test_every_capture_of_rocm_smi(capture: Path) -> None:
    cards = [card for name, card in json.loads(capture.read_text()).items() if name != "system"]
    samples = replayed(capture).read(0.0)
    assert len(samples) == len(cards) > 0
    for sample, card in zip(samples, cards, strict=True):
        memory = card.get("GPU memory use (%)", card.get("GPU Memory Read/Write Activity (%)"))
        assert values(sample) == (
            number(card["GPU use (%)"]),
            number(memory),
            int(card["VRAM Total Used Memory (B)"]) / MIB,
            int(card["VRAM Total Memory (B)"]) / MIB,
            number(card["Temperature (Sensor edge) (C)"]),
            number(card["Average Graphics Package Power (W)"]),
        )
        address = card["PCI Bus"].lower()
        assert sample.device.pci_address == address
        unique = card["Unique ID"]
        assert sample.device.uuid == f"amd-{address if unique == 'N/A' else format(int(unique, 16), '016x')}"


@pytest.mark.parametrize("capture", captures("accelerators/intel/xpum-v1-cli-outputs/*dump*.csv"))
def test_every_capture_of_xpu_smi(capture: Path) -> None:
    lines = (line for line in capture.read_text().splitlines() if re.match(r"Timestamp|[0-9]{2}:", line))
    header, *rows = ([cell.strip() for cell in line.split(",")] for line in lines)
    backend = replayed(capture)
    assert len(rows) == 5
    for second, row in enumerate(rows):
        (sample,) = backend.read(float(second))
        cells = dict(zip(header, row, strict=True))
        assert sample.device.uuid == "intel-replay-gpu-0"
        assert values(sample)[0] == number(cells["Average % utilization of all GPU Engines"])
        assert sample.power_watts == number(cells["GPU Power (W)"])


@pytest.mark.parametrize("capture", captures("accelerators/amd/device-metrics-exporter/*.txt"))
def test_every_capture_of_amds_exporter(capture: Path) -> None:
    (sample,) = replayed(capture).read(0.0)
    assert sample.device.uuid == "amd-6699c0a8-4200-4242-037f-f97e6cae0f09"
    assert values(sample) == (0.0, None, None, 68702.0, None, 41.0)


@pytest.mark.parametrize("capture", captures("training-log/*.csv"))
def test_every_row_of_a_training_run(capture: Path) -> None:
    titles, *rows = ([cell.strip() for cell in line.split(",")] for line in capture.read_text().splitlines())
    assert titles == ["timestamp", "gpu_index", "temperature_C", "utilization_gpu_percent", "power_W"]
    moments = [rows[begin : begin + 8] for begin in range(0, len(rows), 8)]
    assert len(moments) > 600
    backend = replayed(capture)
    first = datetime.fromisoformat(rows[0][0])
    for moment in moments:
        # A moment is read just after its first row was written.
        samples = backend.read((datetime.fromisoformat(moment[0][0]) - first).total_seconds() + 1e-6)
        assert [(one.temperature_celsius, values(one)[0], one.power_watts) for one in samples] == [
            (float(celsius), float(percent), float(watts)) for _, _, celsius, percent, watts in moment
        ]


PEOPLE_READ = {
    "accelerators/amd/*/*smi*.txt": r"it is the (text of amd-smi|table of amd-smi monitor), .*; record with: amd-smi",
    "accelerators/amd/*smi*/*.txt": r"it is the (text of amd-smi|table of amd-smi monitor), .*; record with: amd-smi",
    "accelerators/intel/xpum-v1-cli-outputs/*.txt": r"it is an answer of xpu-smi; record with: xpu-smi dump",
    "accelerators/intel/xpum-v1-cli-outputs/*.json": r"it is an answer of xpu-smi; record with: xpu-smi dump",
    "nvidia-smi-captures/fields.txt": r"it holds no reading of any device",
}


@pytest.mark.parametrize(
    ("capture", "sentence"),
    [
        pytest.param(*found.values, sentence, marks=found.marks, id=found.id)
        for pattern, sentence in PEOPLE_READ.items()
        for found in captures(pattern)
    ],
)
def test_a_capture_that_people_read_is_named(capture: Path, sentence: str) -> None:
    with pytest.raises(BackendError, match=sentence):
        replayed(capture)


OTHER_SECTIONS = {
    "nvidia-smi (default table)": r"it is the overview of nvidia-smi, which people read; record with: nvidia-smi",
    "pmon": r"it is a log of nvidia-smi pmon, which has processes and no devices; record with: nvidia-smi",
    "query-compute-apps (per-process)": r"it is a list of processes, which has no utilisation of devices; record with",
    "help-query-gpu": r"it (is the help of nvidia-smi; record with|holds no reading of any device)",
}


@pytest.mark.parametrize("title", OTHER_SECTIONS)
@pytest.mark.parametrize("capture", captures("nvidia-smi-captures/*86_64*.txt"))
def test_every_other_output_of_nvidia_smi_is_named(capture: Path, title: str, tmp_path: Path) -> None:
    bodies = list(sections(capture, title))
    assert bodies
    for body in bodies:
        (tmp_path / "a.log").write_text(body)
        with pytest.raises(BackendError, match=OTHER_SECTIONS[title]):
            replayed(tmp_path / "a.log")


READ_ELSEWHERE = {
    "accelerators/amd/vega10-sysfs-procfs/": "tests/devices/test_amd.py",
    "accelerators/amd/kfd-topology-mi300-cpx/": "tests/devices/test_amd.py",
    "accelerators/amd/kfd-topology-mi210/": "tests/devices/test_amd.py",
    "accelerators/amd/dra-resourceslice/resourceslice-mi300x.yaml": "tests/devices/test_amd.py",
    "accelerators/intel/dra-resourceslice/gpu.yaml": "tests/devices/test_intel.py",
    "vllm-load-sweep/": "tests/scrape/playing.py",
}
NO_READINGS = {
    "README.md": "it describes the captures",
    "accelerators/amd/device-metrics-exporter/metrics-support-matrix.yaml": "it lists metrics",
    "accelerators/amd/dra-resourceslice/claim-status.yaml": "an allocation",
    "accelerators/intel/xpum-v1-cli-outputs/Prometheus_Exported_Metrics.csv": "it lists metrics",
    "accelerators/intel/xpumd-v2-metrics/metadata.yaml": "it lists metrics",
    "accelerators/intel/dra-resourceslice/gaudi.yaml": "an accelerator that is not read",
    "accelerators/kubernetes/": "annotations of schedulers",
    "accelerators/nvidia/nvml-mock-profiles/": "made up by its author, and not captured",
}
READ_HERE = (
    "nvidia-smi-captures/*86_64*.txt", "nvidia-smi-xml/*.xml", "rocm-smi-json/*.json", "training-log/*.csv",
    "accelerators/intel/xpum-v1-cli-outputs/*dump*.csv", "accelerators/amd/device-metrics-exporter/*.txt",
    *PEOPLE_READ,
)  # fmt: skip


def test_no_capture_is_left_out() -> None:
    if not TELEMETRY.is_dir():
        pytest.skip(f"the recorded captures are not here: {TELEMETRY}")
    here = {path for pattern in READ_HERE for path in TELEMETRY.glob(pattern)}
    for path in sorted(TELEMETRY.rglob("*")):
        name = path.relative_to(TELEMETRY).as_posix()
        if path.is_dir() or path.name.startswith(("LICENSE", "SOURCE")) or path in here:
            continue
        assert any(name.startswith(known) for known in (*READ_ELSEWHERE, *NO_READINGS)), f"{name} is read by no test"
    for known, test in READ_ELSEWHERE.items():
        words = known.split("/")
        text = (Path(__file__).parents[2] / test).read_text()
        assert words[0] in text or words[-2] in text, f"{test} does not read {known}"
