# SPDX-License-Identifier: Apache-2.0
"""Tests of several vendors on one node: their detection, their combination and their errors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keda_gpu_scaler.cli.job_environment import job_environment_of
from keda_gpu_scaler.core.evaluate.attribution import resolve
from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Allocation, ReadingFailure, Sample
from keda_gpu_scaler.devices.combined import CombinedBackend
from keda_gpu_scaler.devices.registry import BackendSettings, is_measured, open_backend, selected
from tests.contract.backends import BackendContract
from tests.devices.sysfs_tree import ASPEED, BATTLEMAGE, INSTINCT, INTEL, RADEON, SysfsTree
from tests.fake_nvml import Card, FakeNvml
from tests.fakes import device

NO_NVML = "/nowhere/libnvidia-ml.so.1"


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    """A node with two AMD cards and one of Intel; its third display adapter is no GPU."""
    tree = SysfsTree(tmp_path / "sys")
    tree.card(0, "0000:05:00.0", render=128, files=INSTINCT)
    tree.card(1, "0000:27:00.0", render=129, files=RADEON)
    tree.card(2, "0000:83:00.0", vendor=INTEL, device="0xe211", driver="xe", render=130, files=BATTLEMAGE)
    tree.card(3, "0000:d1:00.0", vendor=ASPEED, driver="ast")
    return tree


class StubBackend:
    """A backend whose samples and failure a test sets."""

    deviceless = False

    def __init__(self, *samples: Sample) -> None:
        self.source = "stub"
        self.samples = samples
        self.failure = ""
        self.defect: Exception | None = None
        self.closed = 0

    def read(self, now: float) -> tuple[Sample, ...]:
        if self.failure:
            raise BackendError(self.failure)
        if self.defect:
            raise self.defect
        return self.samples

    def overdue_call(self) -> str | None:
        return None

    def close(self) -> None:
        self.closed += 1


class TestCombination(BackendContract):
    @pytest.fixture
    def backend(self, tree: SysfsTree, fake_nvml: FakeNvml) -> Iterator[Backend]:
        settings = BackendSettings(library=str(fake_nvml.library), sysfs_root=str(tree.root))
        opened = open_backend("auto", settings)
        yield opened
        opened.close()

    def test_whole_devices_have_different_indices(self, backend: Backend) -> None:
        """Those of one vendor have. Every device keeps the index that its own driver gives it."""
        devices = [sample.device for sample in backend.read(0.0)]
        vendors = {device.uuid: device.uuid.partition("-")[0] for device in devices}
        keys = [(vendors[device.uuid], device.index) for device in devices]
        assert len(keys) == len(set(keys))
        assert [index for _, index in keys].count(0) == 3


def test_auto_finds_every_vendor_of_the_node(tree: SysfsTree, fake_nvml: FakeNvml) -> None:
    settings = BackendSettings(library=str(fake_nvml.library), sysfs_root=str(tree.root))
    assert [vendor.name for vendor in selected("auto", settings)] == ["amd", "intel", "nvml"]
    opened = open_backend("auto", settings)
    assert opened.source == "amd,intel,nvml"
    assert is_measured(opened.source)
    try:
        models = [(sample.device.index, sample.device.model) for sample in opened.read(0.0)]
    finally:
        opened.close()
    assert models == [
        (0, "NVIDIA Fake 80GB"),
        (0, "AMD Instinct MI300X OAM"),
        (0, "Intel Arc Pro B60"),
        (1, "NVIDIA Fake 80GB"),
        (1, "AMD GPU 0x74a1"),
    ]


@pytest.mark.parametrize(
    ("integrated", "left"),
    [
        pytest.param({"address": "0000:00:02.0", "vendor": INTEL, "driver": "i915"}, "intel", id="Intel"),
        pytest.param({"address": "0000:0b:00.0", "files": {"gpu_busy_percent": "3"}}, "amd", id="an APU of AMD"),
    ],
)
def test_auto_leaves_out_an_integrated_device_beside_another_vendor(
    tmp_path: Path, fake_nvml: FakeNvml, integrated: dict[str, Any], left: str
) -> None:
    tree = SysfsTree(tmp_path / "sys")
    tree.card(0, **integrated)
    root = str(tree.root)
    beside = selected("auto", BackendSettings(library=str(fake_nvml.library), sysfs_root=root))
    assert [vendor.name for vendor in beside] == ["nvml"]
    alone = selected("auto", BackendSettings(library=NO_NVML, sysfs_root=root))
    assert [vendor.name for vendor in alone] == [left]
    named = selected(f"{left},nvml", BackendSettings(library=str(fake_nvml.library), sysfs_root=root))
    assert [vendor.name for vendor in named] == [left, "nvml"]
    tree.card(1, "0000:83:00.0", **{key: value for key, value in integrated.items() if key == "vendor"}, files=RADEON)
    both = selected("auto", BackendSettings(library=str(fake_nvml.library), sysfs_root=root))
    assert [vendor.name for vendor in both] == sorted([left, "nvml"])


def test_a_node_of_one_vendor_has_its_backend_and_no_other(tmp_path: Path, fake_nvml: FakeNvml) -> None:
    settings = BackendSettings(library=str(fake_nvml.library), sysfs_root=str(tmp_path))
    opened = open_backend("auto", settings)
    assert (type(opened).__name__, opened.source) == ("NvmlBackend", "nvml")
    tree = SysfsTree(tmp_path / "sys")
    tree.card(0, "0000:05:00.0", files=INSTINCT)
    opened = open_backend("auto", BackendSettings(library=NO_NVML, sysfs_root=str(tree.root)))
    assert (type(opened).__name__, opened.source) == ("AmdBackend", "amd")


@pytest.mark.parametrize(
    ("backend", "source"),
    [
        ("amd,intel", "amd,intel"),
        ("intel,amd", "intel,amd"),
        ("amd, intel", "amd,intel"),
    ],
)
def test_a_list_combines_backends(tree: SysfsTree, backend: str, source: str) -> None:
    opened = open_backend(backend, BackendSettings(library=NO_NVML, sysfs_root=str(tree.root)))
    assert opened.source == source
    assert len(opened.read(0.0)) == 3


@pytest.mark.parametrize(
    ("backend", "hint"),
    [
        *((one, "") for one in ("amd,", ",amd", "amd,amd", "amd,cuda", "amd,auto", "amd,sysfs", ",")),
        ("amd,none", "; none is never mixed with the devices of a node"),
        ("amd,synthetic", "; synthetic is never mixed with the devices of a node"),
        ("amd,replay:gpus.csv", "; replay is never mixed with the devices of a node"),
    ],
)
def test_a_list_has_different_backends_with_a_driver(backend: str, hint: str) -> None:
    with pytest.raises(BackendError) as refusal:
        open_backend(backend)
    assert str(refusal.value) == (
        f'--backend: Unsupported value: "{backend}": a list must have different backends of amd, intel, nvml{hint}'
    )


def test_the_path_of_a_recording_may_have_a_comma(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"a,b\.csv"):
        open_backend(f"replay:{tmp_path}/a,b.csv")


@pytest.mark.parametrize(
    ("source", "measured"), [("amd,nvml", True), ("amd,replay", False), ("amd,", False), ("replay of nvml,amd", False)]
)
def test_a_combination_measures_if_all_its_backends_do(source: str, measured: bool) -> None:
    assert is_measured(source) is measured


def test_law_1_a_vendor_that_cannot_be_read_keeps_its_devices_without_readings(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    first = StubBackend(Sample(device(0, uuid="amd-0"), gpu_utilization_ratio=0.5))
    second = StubBackend(Sample(device(0, uuid="GPU-0"), gpu_utilization_ratio=0.25))
    both = CombinedBackend({"amd": first, "nvml": second})
    assert [sample.gpu_utilization_ratio for sample in both.read(0.0)] == [0.25, 0.5]
    second.failure = "the driver is lost"
    lost = Sample(device(0, uuid="GPU-0"), failures=(ReadingFailure("", "the driver is lost", 1.0),))
    for now in (1.0, 2.0):
        assert both.read(now) == (lost, first.samples[0])
    second.failure = ""
    assert [sample.gpu_utilization_ratio for sample in both.read(3.0)] == [0.25, 0.5]
    assert [record.getMessage() for record in caplog.records] == [
        "the devices of nvml cannot be read: the driver is lost",
        "the devices of nvml can be read again",
    ]


def test_law_1_a_defect_of_a_vendor_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    first = StubBackend(Sample(device(0, uuid="amd-0"), gpu_utilization_ratio=0.5))
    second = StubBackend(Sample(device(0, uuid="GPU-0"), gpu_utilization_ratio=0.25))
    both = CombinedBackend({"amd": first, "nvml": second})
    both.read(0.0)
    second.defect = ZeroDivisionError("by zero")
    why = "unexpected ZeroDivisionError: by zero"
    for now in (1.0, 2.0):
        lost = Sample(device(0, uuid="GPU-0"), failures=(ReadingFailure("", why, 1.0),))
        assert both.read(now) == (lost, first.samples[0])
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert caplog.records[0].exc_info is not None
    first.failure = "no AMD GPU here"
    with pytest.raises(BackendError, match=rf"^no AMD GPU here; {why}$"):
        both.read(3.0)


def test_without_any_vendor_the_error_has_every_reason() -> None:
    first, second = StubBackend(), StubBackend()
    first.failure, second.failure = "no AMD GPU here", "the driver is lost"
    with pytest.raises(BackendError, match=r"^no AMD GPU here; the driver is lost$"):
        CombinedBackend({"amd": first, "nvml": second}).read(0.0)


def test_closing_closes_every_backend() -> None:
    backends = {"amd": StubBackend(), "nvml": StubBackend()}
    CombinedBackend(backends).close()
    assert [backend.closed for backend in backends.values()] == [1, 1]


def test_an_id_of_one_vendor_is_never_another_vendors_device(tree: SysfsTree, fake_nvml: FakeNvml) -> None:
    fake_nvml.devices = [Card("GPU-8d1c2e66-6c3f-4f5e-9a3e-111111111111", minor=2), Card("GPU-b", minor=1)]
    opened = open_backend("auto", BackendSettings(library=str(fake_nvml.library), sysfs_root=str(tree.root)))
    try:
        devices = [sample.device for sample in opened.read(0.0)]
    finally:
        opened.close()
    expected = {
        ("nvidia.com/gpu", "nvidia1"): ["GPU-b"],
        ("gpu.nvidia.com", "gpu-2"): ["GPU-8d1c2e66-6c3f-4f5e-9a3e-111111111111"],
        ("amd.com/gpu", "0000:27:00.0"): ["amd-0000:27:00.0"],
        ("gpu.amd.com", "gpu-1-129"): ["amd-0000:27:00.0"],
        ("gpu.intel.com/xe", "card2-0"): ["intel-0000:83:00.0"],
        ("gpu.intel.com/xe", "card1-0"): [],
        ("gpu.intel.com/xe", "card0-0"): [],
        ("gpu.intel.com", "0000-83-00-0-0xe211"): ["intel-0000:83:00.0"],
    }
    found = {key: resolve(Allocation("ai", "p", "c", *key), devices) for key in expected}
    assert {key: [one.uuid for one in devices] for key, devices in found.items()} == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({"CUDA_VISIBLE_DEVICES": "0"}, {"GPU-a"}, id="CUDA's ordinals are those of NVIDIA"),
        pytest.param({"ROCR_VISIBLE_DEVICES": "0"}, {"amd-x-0"}, id="ROCm's ordinals count partitions"),
        pytest.param({"ROCR_VISIBLE_DEVICES": "1,2"}, {"amd-x-1", "amd-y"}, id="and go on with the next card"),
        pytest.param({"ROCR_VISIBLE_DEVICES": "GPU-abcd"}, {"amd-x-0", "amd-x-1"}, id="ROCm's UUID"),
        pytest.param(
            {"SLURM_JOB_ID": "1", "SLURM_JOB_GPUS": "129", "ROCR_VISIBLE_DEVICES": "0"}, {"amd-x-1"}, id="a render node"
        ),
        pytest.param({"SLURM_JOB_ID": "1", "SLURM_JOB_GPUS": "3"}, {"GPU-a"}, id="a device file of NVIDIA"),
    ],
)
def test_variables_select_devices_of_their_vendor(environment: dict[str, str], expected: set[str]) -> None:
    devices = [
        device(0, uuid="GPU-a", minor=3),
        *(
            device(0, uuid=f"amd-x-{number}", parent="amd-x", names=("GPU-abcd", f"renderD{128 + number}"))
            for number in range(2)
        ),
        device(1, uuid="amd-y", names=("renderD130",)),
        device(0, uuid="intel-z", names=("card5",)),
    ]
    assigned = job_environment_of(environment).assigned
    assert assigned is not None
    assert assigned.choose(devices) == (frozenset(expected), ())


def test_variables_of_two_vendors_select_the_devices_of_the_one_that_is_there() -> None:
    assigned = job_environment_of({"CUDA_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "1"}).assigned
    assert assigned is not None
    for uuid in ("GPU-b", "amd-b"):
        assert assigned.choose([device(0, uuid=uuid[:-1] + "a"), device(1, uuid=uuid)]) == (frozenset({uuid}), ())
