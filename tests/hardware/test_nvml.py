# SPDX-License-Identifier: Apache-2.0
"""The NVML backend on the real driver, checked against nvidia-smi."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from tests.contract.backends import BackendContract
from tests.fake_nvml import forget_library
from tests.limits import WAIT_SECONDS

pytestmark = pytest.mark.hardware

MIB = 1 << 20


def _reason_to_skip() -> str | None:
    forget_library()
    backend = NvmlBackend()
    try:
        backend.read(0.0)
    except BackendError as error:
        return str(error)
    finally:
        backend.close()
        forget_library()
    return None


if (reason := _reason_to_skip()) is not None:
    pytest.skip(f"no NVIDIA device to read: {reason}", allow_module_level=True)


@pytest.fixture
def backend() -> Iterator[NvmlBackend]:
    forget_library()
    backend = NvmlBackend(wants_performance=lambda: True)
    yield backend
    backend.close()
    forget_library()


class TestContract(BackendContract):
    @pytest.fixture
    def backend(self, backend: Backend) -> Backend:
        return backend


def smi(*arguments: str) -> str:
    """Return what nvidia-smi prints."""
    program = shutil.which("nvidia-smi")
    if program is None:
        pytest.skip("no nvidia-smi to compare with")
    return subprocess.run(
        [program, *arguments], check=True, capture_output=True, text=True, timeout=WAIT_SECONDS
    ).stdout


def smi_numbers(*names: str) -> dict[str, list[float | None]]:
    """Return nvidia-smi's numbers by UUID; None where it has none ("[N/A]", "[Not Supported]")."""
    table: dict[str, list[float | None]] = {}
    for line in smi(f"--query-gpu=uuid,{','.join(names)}", "--format=csv,noheader,nounits").splitlines():
        uuid, *cells = [cell.strip() for cell in line.split(",")]
        table[uuid] = [float(cell) if re.fullmatch(r"[0-9.]+", cell) else None for cell in cells]
    return table


def whole(samples: tuple[Sample, ...]) -> dict[str, Sample]:
    return {sample.device.uuid: sample for sample in samples if sample.device.parent is None and sample.has_reading}


def with_performance(backend: NvmlBackend) -> tuple[Sample, ...]:
    """Read until every device that can be measured was measured twice."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        samples = backend.read(time.monotonic())
        if all(sample.performance is not None for sample in samples if sample.device.parent is None):
            break
    return samples


# nvidia-smi's reading just before and just after ours enclose it, with this much more on each side.
READINGS: dict[str, tuple[Callable[[Sample], float | None], float]] = {
    "utilization.gpu": (lambda sample: scaled(sample.gpu_utilization_ratio, 100), 25.0),
    "utilization.memory": (lambda sample: scaled(sample.memory_utilization_ratio, 100), 25.0),
    "memory.used": (lambda sample: scaled(sample.memory_used_bytes, 1 / MIB), 256.0),
    "memory.total": (lambda sample: scaled(sample.memory_total_bytes, 1 / MIB), 1.0),
    "temperature.gpu": (lambda sample: sample.temperature_celsius, 4.0),
    "power.draw": (lambda sample: sample.power_watts, 60.0),
}


def scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def test_every_basic_reading_is_that_of_nvidia_smi_in_the_same_second(backend: NvmlBackend) -> None:
    backend.read(0.0)
    before = smi_numbers(*READINGS)
    ours = whole(backend.read(1.0))
    after = smi_numbers(*READINGS)
    for uuid, sample in ours.items():
        for position, (name, (read, margin)) in enumerate(READINGS.items()):
            value, ends = read(sample), [table[uuid][position] for table in (before, after)]
            known = [end for end in ends if end is not None]
            assert (value is None) == (not known), f"{name}: {value}, and nvidia-smi says {ends}"
            if value is not None:
                assert min(known) - margin <= value <= max(known) + margin, f"{name}: {value}, nvidia-smi: {ends}"


def test_activity_is_measured_where_the_card_has_gpm(backend: NvmlBackend) -> None:
    for sample in whole(with_performance(backend)).values():
        performance, lacks = sample.performance, {failure.reading for failure in sample.failures}
        assert performance is not None
        activity = (performance.sm_active_ratio, performance.tensor_active_ratio, performance.dram_active_ratio)
        assert (None in activity) == ("activity" in lacks), (activity, sample.failures)
        assert all(ratio is None or 0 <= ratio <= 1 for ratio in activity)


def test_traffic_over_pcie_is_that_of_nvidia_smi_in_the_same_second(backend: NvmlBackend) -> None:
    backend.read(time.monotonic())
    # Columns: gpu, rxpci, txpci; both in MB/s.
    lines = [line.split() for line in smi("dmon", "-s", "t", "-c", "2").splitlines() if not line.startswith("#")]
    for sample in whole(with_performance(backend)).values():
        if sample.performance is None or sample.performance.pcie_rx_bytes_per_second is None:
            continue
        theirs = [[float(cell) for cell in line[1:3]] for line in lines if line[0] == str(sample.device.index)]
        for position, ours in enumerate(
            (sample.performance.pcie_rx_bytes_per_second, sample.performance.pcie_tx_bytes_per_second)
        ):
            assert ours is not None
            values = [each[position] for each in theirs]
            assert min(values) / 2 - 200 <= ours / 1e6 <= 2 * max(values) + 200, (ours, values)


def test_traffic_over_nvlink_is_known_where_nvidia_smi_shows_links(backend: NvmlBackend) -> None:
    # "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-...)", and below it "\t Link 0: 26.562 GB/s" for each active link.
    with_links: set[str] = set()
    uuid = ""
    for line in smi("nvlink", "--status").splitlines():
        if found := re.search(r"UUID: (GPU-[0-9a-f-]+)", line):
            uuid = found[1]
        elif re.search(r"Link \d+: .*GB/s", line):
            with_links.add(uuid)
    for uuid, sample in whole(with_performance(backend)).items():
        assert sample.performance is not None
        traffic = (sample.performance.nvlink_rx_bytes_per_second, sample.performance.nvlink_tx_bytes_per_second)
        assert uuid not in with_links or None not in traffic, sample.failures


def test_every_slice_of_nvidia_smi_is_listed(backend: NvmlBackend) -> None:
    theirs = set(re.findall(r"UUID: (MIG-[0-9a-fA-F/-]+)", smi("-L")))
    samples = backend.read(0.0)
    assert {sample.device.uuid for sample in samples if sample.device.parent is not None} == theirs
    for sample in samples:
        if sample.device.parent is not None:
            assert sample.device.gpu_instance is not None
            assert sample.memory_used_bytes is not None


def test_nvidia_smi_lists_the_same_cards_with_as_much_memory(backend: NvmlBackend) -> None:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        pytest.skip("no nvidia-smi to compare with")
    query = [smi, "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, check=True, capture_output=True, text=True, timeout=WAIT_SECONDS).stdout.splitlines()
    theirs = dict(line.split(", ") for line in lines)
    samples = backend.read(0.0)
    cards = {sample.device.parent or sample.device.uuid for sample in samples}
    # A card in MIG mode without slices is nvidia-smi's to list, and not ours.
    assert cards <= set(theirs)
    ours = {
        sample.device.uuid: str(sample.memory_total_bytes // MIB)
        for sample in samples
        if sample.device.parent is None and sample.memory_total_bytes is not None
    }
    assert ours == {uuid: theirs[uuid] for uuid in ours}


def test_a_whole_card_answers_with_more_than_its_name(backend: NvmlBackend) -> None:
    for sample in backend.read(0.0):
        assert sample.device.model
        assert sample.device.pci_address.count(":") == 2
        assert sample.has_reading


def test_nvidia_smi_pmon_names_no_process_that_is_not_counted() -> None:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        pytest.skip("no nvidia-smi to compare with")
    forget_library()
    backend = NvmlBackend(measure_shares=True)
    samples = {str(sample.device.index): sample for sample in backend.read(0.0)}
    backend.close()
    forget_library()
    if all(sample.uses is None for sample in samples.values()):
        reasons = {failure.reason for sample in samples.values() for failure in sample.failures}
        pytest.skip(f"nothing is measured here: {'; '.join(sorted(reasons))}")
    pmon = subprocess.run(
        [smi, "pmon", "-c", "1", "-s", "u"], check=True, capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    rows = [line.split() for line in pmon.stdout.splitlines() if not line.startswith("#")]
    for index, pid, _, sm, *_ in rows:
        sample = samples.get(index)
        # A process that began or ended between the two readings differs, so only whole GPUs at work are compared.
        if pid.isdigit() and sm.isdigit() and int(sm) > 0 and sample is not None and sample.uses is not None:
            assert sample.uses, f"GPU {index}: nvidia-smi pmon has process {pid}"
