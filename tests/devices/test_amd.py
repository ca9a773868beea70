# SPDX-License-Identifier: Apache-2.0
"""Tests of the AMD backend on trees of sysfs, and on recorded ones."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.attribution import resolve
from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Allocation, Sample
from keda_gpu_scaler.devices.amd.backend import AmdBackend
from keda_gpu_scaler.devices.amd.gpu_metrics import parse
from keda_gpu_scaler.devices.registry import BackendSettings, find, open_backend
from keda_gpu_scaler.devices.sysfs import MOST_FAILURES, UnreadableError
from keda_gpu_scaler.devices.sysfs.backend import LISTING_SECONDS
from tests.contract.backends import BackendContract
from tests.devices.sysfs_tree import (
    APU,
    ASPEED,
    GIB,
    INSTINCT,
    PARTITIONS,
    RADEON,
    TABLES,
    SysfsTree,
    gpu_metrics,
    write,
    xcp_metrics,
)

RECORDED = Path(__file__).parents[3] / "shared" / "telemetry" / "accelerators" / "amd"
ADDRESS = "0000:05:00.0"
UNIQUE_ID = "e3aa140f9a5f9e31"


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path / "sys")


def backend_of(tree: SysfsTree) -> AmdBackend:
    return AmdBackend(str(tree.root), names="/nowhere")


def one_sample(tree: SysfsTree, now: float = 0.0) -> Sample:
    [sample] = backend_of(tree).read(now)
    return sample


def readings(sample: Sample) -> tuple[float | None, ...]:
    return (
        sample.gpu_utilization_ratio,
        sample.memory_utilization_ratio,
        sample.memory_used_bytes,
        sample.memory_total_bytes,
        sample.temperature_celsius,
        sample.power_watts,
    )


def partitioned(tree: SysfsTree, busy: list[list[int]] | None = None, version: tuple[int, int] = (1, 8)) -> Path:
    """Add an Instinct card in CPX with three partitions, of which two are platform devices."""
    table = gpu_metrics(version, partitions=busy or [[10], [20], [30]])
    files = {**INSTINCT, "current_compute_partition": "CPX", "current_memory_partition": "NPS4", "gpu_metrics": table}
    card = tree.card(40, ADDRESS, render=128, files=files)
    tree.kfd_node(0, cpu_cores_count=96, drm_render_minor=0)
    for number in range(3):
        tree.kfd_node(
            1 + number, drm_render_minor=128 + number, location_id=0x500 + number, domain=0, simd_count=152
        )  # fmt: skip
    for number in (1, 2):
        tree.partition(f"amdgpu_xcp_{29 + number}", 40 + number, 128 + number)
    tree.partition("amdgpu_xcp_5", 60, 160)  # KFD does not know it: it is no partition
    return card


class TestWholeCards(BackendContract):
    @pytest.fixture
    def backend(self, tree: SysfsTree) -> Iterator[Backend]:
        tree.card(1, "0000:27:00.0", render=129, files={**INSTINCT, "unique_id": "0abc" * 4})
        tree.card(0, ADDRESS, render=128, files=INSTINCT)
        tree.card(2, "0000:83:00.0", files=RADEON)
        tree.card(3, "0000:c1:00.0", files=APU)
        tree.card(4, "0000:d1:00.0", vendor=ASPEED, driver="ast")
        opened = backend_of(tree)
        yield opened
        opened.close()


class TestPartitions(BackendContract):
    @pytest.fixture
    def backend(self, tree: SysfsTree) -> Iterator[Backend]:
        partitioned(tree)
        tree.card(9, "0000:27:00.0", render=150, files=RADEON)
        opened = backend_of(tree)
        yield opened
        opened.close()


def test_cards_are_counted_in_the_order_of_their_pci_addresses(tree: SysfsTree) -> None:
    tree.card(0, "0000:27:00.0", files=RADEON)
    tree.card(1, ADDRESS, render=128, files=INSTINCT)
    first, second = (sample.device for sample in backend_of(tree).read(0.0))
    assert (first.uuid, first.index, first.model) == (f"amd-{UNIQUE_ID}", 0, "AMD Instinct MI300X OAM")
    assert first.pci_address == ADDRESS
    assert first.names == (f"GPU-{UNIQUE_ID}", "renderD128", "gpu-1-128")
    assert (second.uuid, second.index, second.model) == ("amd-0000:27:00.0", 1, "AMD GPU 0x74a1")


@pytest.mark.parametrize("version", TABLES, ids=lambda version: f"version {version[0]}.{version[1]}")
def test_a_table_of_a_known_size_gives_the_readings(tree: SysfsTree, version: tuple[int, int]) -> None:
    tree.card(0, ADDRESS, files={**INSTINCT, "gpu_metrics": gpu_metrics(version)})
    assert readings(one_sample(tree)) == (0.57, 0.21, 283 << 20, 196592 << 20, 61.0, 433.0)


def test_a_table_of_another_size_is_not_believed(tree: SysfsTree) -> None:
    files = {**RADEON, "gpu_metrics": gpu_metrics((1, 6), size=1660)}
    tree.card(0, ADDRESS, files=files)
    assert readings(one_sample(tree)) == (0.42, 0.07, 3 * GIB, 12 * GIB, 51.0, 123.5)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x60", id="one byte"),
        pytest.param(gpu_metrics((1, 3))[:119], id="torn"),
        pytest.param(gpu_metrics((1, 8))[:2000], id="half of it"),
        pytest.param(gpu_metrics((1, 3))[:4] + bytes(116), id="zeros after the header"),
        pytest.param(b"\xff" * 4096, id="all bits set"),
        pytest.param(bytes(4096), id="zeros"),
        pytest.param(b"\x80\x0e\x01\x09" + bytes(range(1, 200)) * 20, id="version 1.9, a list of attributes"),
        pytest.param(gpu_metrics((1, 3), gfx=101, memory=0xFFFF, celsius=0xFFFF, watts=0xFFFF), id="no value in it"),
        pytest.param(gpu_metrics((1, 3), gfx=20000, memory=300, celsius=300, watts=0), id="impossible values"),
    ],
)
def test_a_table_without_values_is_replaced_by_the_files(tree: SysfsTree, table: bytes) -> None:
    tree.card(0, ADDRESS, files={**RADEON, "gpu_metrics": table})
    sample = one_sample(tree)
    assert (sample.gpu_utilization_ratio, sample.memory_utilization_ratio) == (0.42, 0.07)
    # The hottest spot of the die has no value in these tables either.
    assert (sample.temperature_celsius, sample.power_watts) == (51.0, 123.5)


def test_the_hottest_spot_replaces_a_missing_edge(tree: SysfsTree) -> None:
    table = bytearray(gpu_metrics((1, 3), celsius=0xFFFF))
    table[6:8] = (77).to_bytes(2, "little")
    tree.card(0, ADDRESS, files={**RADEON, "gpu_metrics": bytes(table)})
    assert one_sample(tree).temperature_celsius == 77.0


@pytest.mark.parametrize(
    ("files", "celsius"),
    [
        pytest.param({}, 51.0, id="edge first"),
        pytest.param({"hwmon/hwmon3/temp1_label": "junction", "hwmon/hwmon3/temp2_label": "edge"}, 66.0, id="by label"),
        pytest.param({"hwmon/hwmon3/temp1_label": "mem"}, 66.0, id="no edge: the junction"),
        pytest.param({"hwmon/hwmon3/temp1_label": "mem", "hwmon/hwmon3/temp2_label": "mem"}, None, id="memory only"),
        pytest.param({"hwmon/hwmon3/temp1_label": "", "hwmon/hwmon3/temp2_label": ""}, None, id="empty labels"),
        pytest.param({"hwmon/hwmon3/temp1_input": "hot"}, 66.0, id="an edge that is no number"),
        pytest.param({"hwmon/hwmon3/name": "nct6775"}, None, id="the sensors of another chip"),
    ],
)
def test_the_temperature_is_chosen_by_its_label(
    tree: SysfsTree, files: dict[str, str], celsius: float | None
) -> None:  # fmt: skip
    tree.card(0, ADDRESS, files={**RADEON, **files})
    assert one_sample(tree).temperature_celsius == celsius


def test_without_labels_the_first_temperature_is_the_dies(tree: SysfsTree) -> None:
    files = {name: content for name, content in RADEON.items() if "label" not in name}
    tree.card(0, ADDRESS, files=files)
    assert one_sample(tree).temperature_celsius == 51.0


def test_the_average_power_is_read_before_the_current_power(tree: SysfsTree) -> None:
    card = tree.card(0, ADDRESS, files=RADEON)
    assert one_sample(tree).power_watts == 123.5
    (card / "hwmon/hwmon3/power1_average").unlink()
    assert one_sample(tree).power_watts == 140.0
    write(card, {"hwmon/hwmon3/power1_input": 0})
    assert one_sample(tree).power_watts is None


HOSTILE = {
    "garbage": "\x00\x1b[2J<html>",
    "empty": b"",
    "a negative number": "-1",
    "a huge number": "9" * 4000,
    "a number above 64 bits": str(1 << 65),
    "a fraction": "1.5",
    "two numbers": "1 2",
    "digits of another script": "٤٢",
    "not UTF-8": b"\xff\xfe42",
}
FIELDS = {
    "gpu_busy_percent": "gpu_utilization_ratio",
    "mem_busy_percent": "memory_utilization_ratio",
    "mem_info_vram_used": "memory_used_bytes",
    "mem_info_vram_total": "memory_total_bytes",
    "hwmon/hwmon3/power1_average": "power_watts",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(("file", "field"), FIELDS.items(), ids=FIELDS.values())
def test_law_1_a_hostile_file_makes_its_reading_unknown(
    tree: SysfsTree, file: str, field: str, content: str | bytes
) -> None:
    files = {name: value for name, value in RADEON.items() if not name.endswith("power1_input")}
    tree.card(0, ADDRESS, files={**files, file: content})
    sample = one_sample(tree)
    assert getattr(sample, field) is None
    others = {"gpu_utilization_ratio": 0.42, "temperature_celsius": 51.0, "power_watts": 123.5}
    assert all(getattr(sample, other) == value for other, value in others.items() if other != field)


@pytest.mark.parametrize("file", [*FIELDS, "hwmon/hwmon3/temp1_input"])
def test_law_1_a_missing_file_is_unknown_with_a_reason(
    tree: SysfsTree, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    gone = ("power1_input", "temp2_input")
    card = tree.card(0, ADDRESS, files={name: value for name, value in RADEON.items() if not name.endswith(gone)})
    (card / file).unlink()
    backend = backend_of(tree)
    [sample] = backend.read(0.0)
    backend.read(1.0)
    unknown = [value for value in readings(sample) if value is None]
    assert len(unknown) == (2 if "vram" in file else 1)
    [record] = caplog.records
    assert "does not offer" in record.getMessage()
    assert f"{Path(file).name}: No such file or directory" in record.getMessage()


@pytest.mark.parametrize("percent", [100, 101, 255, 65535])
def test_law_1_more_than_100_percent_is_unknown(tree: SysfsTree, percent: int) -> None:
    tree.card(0, ADDRESS, files={**RADEON, "gpu_busy_percent": percent})
    assert one_sample(tree).gpu_utilization_ratio == (1.0 if percent == 100 else None)


def test_law_1_a_refusal_in_reset_is_unknown_with_a_reason(
    tree: SysfsTree, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    tree.card(0, ADDRESS, files=RADEON)
    backend = backend_of(tree)
    backend.read(0.0)
    refuse_sensors(monkeypatch)
    [sample] = backend.read(1.0)
    assert readings(sample) == (None, None, 3 * GIB, 12 * GIB, None, None)
    assert "gpu_busy_percent: Operation not permitted: the device is in reset or suspended" in caplog.text


def refuse_sensors(monkeypatch: pytest.MonkeyPatch, *allowed: str) -> list[str]:
    """Let every read of a sensor fail with EPERM, as drivers do in reset; return the names of the files."""
    real, opened = os.open, []

    def refusing(path: str | Path, *args: int) -> int:
        name = Path(path).name
        opened.append(name)
        if name.endswith(("percent", "input", "average", "gpu_metrics")) and name not in allowed:
            raise PermissionError(1, "Operation not permitted", str(path))
        return real(path, *args)

    monkeypatch.setattr(os, "open", refusing)
    return opened


@pytest.mark.parametrize("status", ["suspended", "suspending"])
def test_a_card_that_sleeps_is_idle_and_is_not_woken(
    tree: SysfsTree, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.card(0, ADDRESS, files={**RADEON, "power/runtime_status": status})
    backend = backend_of(tree)
    backend.read(0.0)
    opened = refuse_sensors(monkeypatch)
    [sample] = backend.read(1.0)
    assert readings(sample) == (0.0, 0.0, None, None, None, None)
    assert opened == ["runtime_status"]


def test_listing_a_card_that_sleeps_reads_no_sensor(tree: SysfsTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.card(0, ADDRESS, files={**RADEON, "power/runtime_status": "suspended", "unique_id": "e3aa140f9a5f9e31"})
    backend = backend_of(tree)
    opened = refuse_sensors(monkeypatch)
    for now in (0.0, 100.0):  # the second read lists the cards again
        assert readings(*backend.read(now)) == (0.0, 0.0, None, None, None, None)
    constants = {"vendor", "device", "revision", "uevent", "unique_id", "product_name", "amdgpu.ids"}
    assert set(opened) <= {*constants, "runtime_status"}


def test_law_1_a_card_that_sleeps_has_no_reading_that_it_lacks_awake(tree: SysfsTree) -> None:
    tree.card(0, ADDRESS, files={**APU, "power/runtime_status": "suspended"})
    assert readings(one_sample(tree)) == (0.0, None, None, None, None, None)


def test_the_file_that_sleeps_for_a_second_is_never_read(tree: SysfsTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.card(0, ADDRESS, files=RADEON)
    opened = refuse_sensors(monkeypatch)
    backend_of(tree).read(0.0)
    assert "gpu_busy_percent" in opened
    assert "pcie_bw" not in opened


@pytest.mark.parametrize(
    ("files", "used", "total"),
    [
        pytest.param(APU, 3.5, 16, id="an APU without the table: carve-out and system memory"),
        pytest.param({**APU, "gpu_metrics": b"\x80\x00\x02\x02" + b"\xff" * 124}, 3.5, 16, id="a table of an APU"),
        pytest.param({**APU, "gpu_metrics": b"\x08\x01\x03\x00" + b"\xff" * 260}, 3.5, 16, id="a table of a newer APU"),
        pytest.param({**APU, "gpu_metrics": gpu_metrics((1, 3))}, 0.5, 1, id="the table of a card: its own memory"),
        pytest.param(RADEON, 3, 12, id="a card without the table"),
        pytest.param({name: APU[name] for name in APU if "busy" not in name}, 0.5, 1, id="a virtual function"),
        pytest.param({name: APU[name] for name in APU if "vram" not in name}, 3, 15, id="an APU without a carve-out"),
        pytest.param({**APU, "mem_info_gtt_used": "?"}, None, None, id="half of an APU's memory"),
        pytest.param({**RADEON, "mem_info_vram_used": 13 * GIB}, None, None, id="more used than there is"),
        pytest.param({**RADEON, "mem_info_vram_used": 0, "mem_info_vram_total": 0}, None, None, id="no memory"),
    ],
)
def test_memory(tree: SysfsTree, files: dict[str, str], used: float | None, total: float | None) -> None:
    tree.card(0, ADDRESS, files=files)
    sample = one_sample(tree)
    assert sample.memory_used_bytes == (None if used is None else used * GIB)
    assert sample.memory_total_bytes == (None if total is None else total * GIB)


def test_law_1_memory_is_unknown_until_it_is_known_whether_a_card_is_an_apu(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.card(0, ADDRESS, files={**APU, "gpu_metrics": b"\x80\x00\x02\x02" + b"\xff" * 124})
    backend = backend_of(tree)
    with monkeypatch.context() as patch:
        refuse_sensors(patch)
        assert backend.read(0.0)[0].memory_used_bytes is None
    assert backend.read(1.0)[0].memory_used_bytes == 3.5 * GIB
    with monkeypatch.context() as patch:
        refuse_sensors(patch)
        assert backend.read(2.0)[0].memory_used_bytes == 3.5 * GIB


@pytest.mark.parametrize("table", [b"", None], ids=["empty", "gone"])
def test_a_card_stays_what_its_table_said(tree: SysfsTree, table: bytes | None) -> None:
    # Without a table its files would be those of an APU.
    card = tree.card(0, ADDRESS, files={**APU, "gpu_metrics": gpu_metrics((1, 3))})
    backend = backend_of(tree)
    backend.read(0.0)
    if table is None:
        (card / "gpu_metrics").unlink()
    else:
        (card / "gpu_metrics").write_bytes(table)
    assert backend.read(1.0)[0].memory_total_bytes == GIB


def test_two_sources_that_differ_are_named_for_doctor(tree: SysfsTree) -> None:
    card = tree.card(0, ADDRESS, files={**RADEON, "gpu_metrics": gpu_metrics((1, 3), gfx=57)})
    backend = backend_of(tree)
    backend.read(0.0)
    assert backend.sources() == (
        "1 from gpu_metrics 1.3; GPU 0 at 0000:05:00.0: gpu_metrics says 57% and gpu_busy_percent says 42%; "
        "the first is reported"
    )
    write(card, {"gpu_busy_percent": 55})
    assert backend.sources() == "1 from gpu_metrics 1.3"
    write(card, {"gpu_busy_percent": 0, "power/runtime_status": "suspended"})
    assert backend.sources() == "1 from gpu_metrics 1.3"


def test_partitions_replace_their_card(tree: SysfsTree) -> None:
    partitioned(tree)
    samples = backend_of(tree).read(0.0)
    assert [sample.gpu_utilization_ratio for sample in samples] == [0.1, 0.2, 0.3]
    # Memory, temperature and power of the board are never those of a partition.
    assert all(readings(sample)[1:] == (None,) * 5 for sample in samples)
    devices = [sample.device for sample in samples]
    assert [device.uuid for device in devices] == [f"amd-{UNIQUE_ID}-{number}" for number in range(3)]
    assert {(device.parent, device.index) for device in devices} == {(f"amd-{UNIQUE_ID}", 0)}
    assert {device.model for device in devices} == {"AMD Instinct MI300X OAM CPX NPS4"}
    assert [device.gpu_instance for device in devices] == [0, 1, 2]
    assert [device.pci_address for device in devices] == [f"0000:05:00.{number}" for number in range(3)]


@pytest.mark.parametrize(
    ("device_id", "resource", "partition"),
    [
        (ADDRESS, "amd.com/cpx_nps4", 0),
        ("amdgpu_xcp_30", "amd.com/cpx_nps4", 1),
        ("amdgpu_xcp_31", "amd.com/gpu", 2),
        ("gpu-40-128", "gpu.amd.com", 0),
        ("gpu-42-130", "gpu.amd.com", 2),
        ("amdgpu_xcp_5", "amd.com/gpu", None),
        ("gpu-60-160", "gpu.amd.com", None),
    ],
)
def test_ids_of_the_kubelet_are_those_of_partitions(
    tree: SysfsTree, device_id: str, resource: str, partition: int | None
) -> None:
    partitioned(tree)
    devices = [sample.device for sample in backend_of(tree).read(0.0)]
    found = resolve(Allocation("ai", "p", "c", resource, device_id), devices)
    assert [device.gpu_instance for device in found] == ([] if partition is None else [partition])


@pytest.mark.parametrize("version", PARTITIONS, ids=lambda version: f"version {version[0]}.{version[1]}")
def test_a_partitions_utilisation_is_the_mean_of_its_dies(tree: SysfsTree, version: tuple[int, int]) -> None:
    partitioned(tree, [[10, 30, 0xFFFFFFFF, 101], [0xFFFFFFFF] * 8, [0] * 8], version)
    assert [sample.gpu_utilization_ratio for sample in backend_of(tree).read(0.0)] == [0.2, None, 0.0]


def test_a_partitions_own_table_replaces_the_cards(tree: SysfsTree) -> None:
    card = partitioned(tree, [[0xFFFFFFFF]])
    write(card, {"xcp/xcp_metrics": xcp_metrics([11])})
    write(tree.root / "devices/platform/amdgpu_xcp_30", {"xcp/xcp_metrics": xcp_metrics([22, 44])})
    write(tree.root / "devices/platform/amdgpu_xcp_31", {"xcp/xcp_metrics": xcp_metrics([55], size=480)})
    assert [sample.gpu_utilization_ratio for sample in backend_of(tree).read(0.0)] == [0.11, 0.33, None]


def test_law_1_partitions_of_a_topology_that_cannot_be_read_are_not_invented(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    partitioned(tree)
    shutil.rmtree(tree.root / "class" / "kfd")
    backend = backend_of(tree)
    [sample] = backend.read(0.0)
    assert (sample.device.uuid, sample.gpu_utilization_ratio) == (f"amd-{UNIQUE_ID}-0", 0.1)
    assert "its partitions are not all known" in backend.sources()


def test_partitions_stay_listed_while_the_topology_cannot_be_read(tree: SysfsTree) -> None:
    partitioned(tree)
    backend = backend_of(tree)
    devices = [sample.device for sample in backend.read(0.0)]
    shutil.rmtree(tree.root / "class" / "kfd")
    assert [sample.device for sample in backend.read(LISTING_SECONDS)] == devices


def test_a_change_of_the_mode_replaces_the_devices(tree: SysfsTree) -> None:
    card = partitioned(tree)
    write(card, {"current_compute_partition": "SPX"})
    backend = backend_of(tree)
    assert [sample.device.uuid for sample in backend.read(0.0)] == [f"amd-{UNIQUE_ID}"]
    write(card, {"current_compute_partition": "CPX"})
    assert len(backend.read(LISTING_SECONDS / 2)) == 1
    assert len(backend.read(LISTING_SECONDS)) == 3
    write(card, {"current_compute_partition": "SPX"})
    assert [sample.device.uuid for sample in backend.read(2 * LISTING_SECONDS)] == [f"amd-{UNIQUE_ID}"]


@pytest.mark.parametrize("mode", ["", "XPX", "\x1b[2J"])
def test_law_1_a_card_of_an_unknown_mode_has_no_reading(tree: SysfsTree, mode: str) -> None:
    tree.card(0, ADDRESS, files={**INSTINCT, "current_compute_partition": mode})
    assert not one_sample(tree).has_reading


@pytest.mark.parametrize("units", [1, 2])
def test_the_topology_decides_on_a_card_of_an_unknown_mode(tree: SysfsTree, units: int) -> None:
    tree.card(0, ADDRESS, render=128, files={**INSTINCT, "current_compute_partition": "UNKNOWN"})
    for number in range(units):
        tree.kfd_node(number, drm_render_minor=128 + number, location_id=0x500 + number, domain=0)
    assert one_sample(tree).gpu_utilization_ratio == (0.57 if units == 1 else None)


def test_a_card_that_is_gone_stays_listed_and_comes_back(
    tree: SysfsTree, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    tree.card(0, ADDRESS, files=INSTINCT)
    gone = tree.card(1, "0000:27:00.0", files=RADEON)
    backend = backend_of(tree)
    backend.read(0.0)
    tree.remove(gone)
    for now in (1.0, LISTING_SECONDS, 2 * LISTING_SECONDS):
        kept, lost = backend.read(now)
        assert (kept.has_reading, lost.has_reading) == (True, False)
    (failure,) = lost.failures
    assert (failure.reading, failure.since_seconds) == ("", LISTING_SECONDS)
    assert failure.reason == "it is lost: the kernel does not list it"
    tree.card(1, "0000:27:00.0", files=RADEON)
    assert backend.read(3 * LISTING_SECONDS)[1].gpu_utilization_ratio == 0.42
    texts = [record.getMessage().partition("0000:27:00.0) ")[2] for record in caplog.records]
    assert (
        "has no reading: it is lost: the kernel does not list it; its readings are unknown until it comes back" in texts
    )
    assert f"is back, after {2 * LISTING_SECONDS:.0f} s" in texts


def test_cards_that_share_a_unique_id_are_two_devices(tree: SysfsTree) -> None:
    tree.card(0, ADDRESS, files=INSTINCT)
    tree.card(1, "0000:05:02.0", files=INSTINCT)
    backend = backend_of(tree)
    for now in (0.0, LISTING_SECONDS, 2 * LISTING_SECONDS):
        assert [one.device.uuid for one in backend.read(now)] == [f"amd-{UNIQUE_ID}", "amd-0000:05:02.0"]


@pytest.mark.parametrize(
    ("given", "model"),
    [
        pytest.param("AMD Instinct MI210", "AMD Instinct MI210", id="of the card"),
        pytest.param("Instinct MI210\x07", "AMD Instinct MI210", id="without the maker, with a control character"),
        pytest.param("", "AMD Radeon RX Vega", id="of libdrm's list"),
    ],
)
def test_the_model_is_the_products_name(tree: SysfsTree, tmp_path: Path, given: str, model: str) -> None:
    names = tmp_path / "amdgpu.ids"
    names.write_text("# List of AMDGPU IDs\n1.0.0\n687F,\tC0,\tAMD Radeon X\n687F,\tC1,\tAMD Radeon RX Vega\n")
    tree.card(0, ADDRESS, device="0x687f", files={**RADEON, "product_name": given})
    [sample] = AmdBackend(str(tree.root), str(names)).read(0.0)
    assert sample.device.model == model


def test_a_node_without_a_card_is_refused_with_a_sentence(tree: SysfsTree) -> None:
    tree.card(0, ADDRESS, vendor=ASPEED, driver="ast")
    with pytest.raises(
        BackendError, match=r"no AMD GPU here: .*/class/drm has no card of AMD; load the kernel's driver"
    ):
        backend_of(tree).read(0.0)
    with pytest.raises(BackendError, match=r"no AMD GPU here: .*No such file or directory; load"):
        AmdBackend("/nowhere").read(0.0)


def test_detection(tree: SysfsTree) -> None:
    vendor = find("amd")
    assert vendor is not None
    assert vendor.detect is not None
    assert vendor.detect(BackendSettings(sysfs_root=str(tree.root))) == f"no AMD GPU in {tree.root}/class/drm"
    tree.card(0, ADDRESS, files=RADEON)
    assert vendor.detect(BackendSettings(sysfs_root=str(tree.root))) is None
    assert vendor.detect(BackendSettings(sysfs_root="/nowhere")) is not None
    opened = open_backend("amd", BackendSettings(sysfs_root=str(tree.root)))
    assert opened.read(0.0)[0].gpu_utilization_ratio == 0.42


@given(st.binary(max_size=300), st.sampled_from(sorted(TABLES)), st.integers(0, 4096), st.integers(0, 4096))
def test_no_table_causes_another_error(noise: bytes, version: tuple[int, int], at: int, cut: int) -> None:
    table = gpu_metrics(version)
    torn = (table[:at] + noise + table[at + len(noise) :])[: len(table) - cut if cut < len(table) else 0]
    with contextlib.suppress(UnreadableError):
        found = parse(torn)
        ratios = (found.gfx_ratio, found.memory_ratio, *found.partitions)
        assert all(ratio is None or 0 <= ratio <= 1 for ratio in ratios)
        assert len(torn) >= TABLES[version][0] or noise


# ---- recorded trees ----

recorded = pytest.mark.skipif(not RECORDED.is_dir(), reason="needs the recorded trees in shared/telemetry")


@recorded
def test_a_recorded_vega(tmp_path: Path) -> None:
    root = RECORDED / "vega10-sysfs-procfs" / "sys"
    device = root / "class" / "drm" / "card0" / "device"
    [sample] = AmdBackend(str(root), "/nowhere").read(0.0)
    assert sample.device.pci_address == "0000:09:00.0"
    assert sample.device.uuid == f"amd-{(device / 'unique_id').read_text().strip()}"
    assert sample.device.model == "AMD GPU 0x687f"
    assert sample.gpu_utilization_ratio == int((device / "gpu_busy_percent").read_text()) / 100
    assert sample.memory_used_bytes == int((device / "mem_info_vram_used").read_text())
    assert sample.memory_total_bytes == int((device / "mem_info_vram_total").read_text())
    # The recording has neither hwmon nor the load of the memory.
    assert (sample.memory_utilization_ratio, sample.temperature_celsius, sample.power_watts) == (None, None, None)


@recorded
def test_a_recorded_topology_in_cpx(tree: SysfsTree) -> None:
    nodes = RECORDED / "kfd-topology-mi300-cpx" / "nodes"
    (tree.root / "class" / "kfd" / "kfd" / "topology").mkdir(parents=True)
    (tree.root / "class" / "kfd" / "kfd" / "topology" / "nodes").symlink_to(nodes)
    table = gpu_metrics((1, 8), partitions=[[number] for number in range(8)])
    files = {**INSTINCT, "current_compute_partition": "CPX", "gpu_metrics": table}
    expected = {}
    for path in nodes.glob("*/properties"):
        properties = dict(line.split() for line in path.read_text().splitlines())
        if properties["drm_render_minor"] != "0":
            location = int(properties["location_id"])
            key = f"0000:{location >> 8:02x}:00.{location & 7}"
            expected[key] = (properties["drm_render_minor"], f"{int(properties['unique_id']):016x}")
    cards = sorted({key[:-1] + "0" for key in expected})
    for number, address in enumerate(cards):
        render, unique_id = expected[address]
        tree.card(number, address, render=int(render), files={**files, "unique_id": unique_id})
    samples = backend_of(tree).read(0.0)
    assert len(cards) == 8
    assert len(samples) == len(expected) == 63
    for sample in samples:
        device = sample.device
        render, unique_id = expected[device.pci_address]
        assert f"renderD{render}" in device.names
        assert device.uuid == f"amd-{unique_id}-{device.gpu_instance}"
        assert sample.gpu_utilization_ratio == (device.gpu_instance or 0) / 100


@recorded
def test_a_recorded_topology_of_whole_cards(tree: SysfsTree) -> None:
    nodes = RECORDED / "kfd-topology-mi210" / "nodes"
    (tree.root / "class" / "kfd" / "kfd" / "topology").mkdir(parents=True)
    (tree.root / "class" / "kfd" / "kfd" / "topology" / "nodes").symlink_to(nodes)
    expected = []
    for path in nodes.glob("*/properties"):
        properties = {key: int(value) for key, value in (line.split() for line in path.read_text().splitlines())}
        if properties["drm_render_minor"]:
            location = properties["location_id"]
            address = f"{properties.get('domain', 0):04x}:{location >> 8:02x}:{location >> 3 & 31:02x}.{location & 7}"
            expected.append((address, properties["drm_render_minor"], f"{properties['unique_id']:016x}"))
    expected.sort()
    for number, (address, render, unique_id) in enumerate(expected):
        tree.card(number, address, device="0x740f", render=render, files={**INSTINCT, "unique_id": unique_id})
    samples = backend_of(tree).read(0.0)
    assert len(samples) == len(expected) > 1
    for sample, (address, render, unique_id) in zip(samples, expected, strict=True):
        assert (sample.device.uuid, sample.device.pci_address) == (f"amd-{unique_id}", address)
        assert (sample.device.parent, f"renderD{render}" in sample.device.names) == (None, True)
        assert not sample.failures


@recorded
def test_a_device_of_a_recorded_resource_slice(tree: SysfsTree) -> None:
    """The slice was cut by its author: its device has the name of another card, and its attributes are of one card."""
    lines = (RECORDED / "dra-resourceslice" / "resourceslice-mi300x.yaml").read_text().splitlines()
    titles = {line.strip(): lines[number + 1].split()[-1].strip('"') for number, line in enumerate(lines[:-1])}
    card, render, address = int(titles["cardIndex:"]), int(titles["renderIndex:"]), titles["pciAddr:"]
    unique_id = f"{int(titles['deviceID:']):016x}"
    tree.card(card, address, render=render, files={**INSTINCT, "unique_id": unique_id})
    tree.card(0, ADDRESS, render=128, files=INSTINCT)
    devices = [sample.device for sample in backend_of(tree).read(0.0)]
    (found,) = resolve(Allocation("ai", "p", "c", "gpu.amd.com", f"gpu-{card}-{render}"), devices)
    assert (found.pci_address, found.uuid) == (address, f"amd-{unique_id}")


@pytest.mark.parametrize(
    ("file", "reading", "why"),
    [
        ("hwmon/hwmon3/temp1_input", "temperature", "temp1_input: it is empty"),
        ("gpu_busy_percent", "utilization", "gpu_busy_percent: it is empty"),
        ("mem_info_vram_used", "memory", "mem_info_vram_used: it is empty"),
    ],
)
def test_a_reading_that_was_known_fails_with_a_warning_and_its_onset_and_recovers(
    tree: SysfsTree, caplog: pytest.LogCaptureFixture, file: str, reading: str, why: str
) -> None:
    caplog.set_level(logging.INFO)
    card = tree.card(0, ADDRESS, device="0x73bf", files=RADEON)
    backend = backend_of(tree)
    backend.read(0.0)
    caplog.clear()
    write(card, {file: ""})
    for now in (1.0, 41.0):
        [sample] = backend.read(now)
        assert [(each.reading, each.reason, each.since_seconds) for each in sample.failures] == [(reading, why, 1.0)]
    write(card, {file: RADEON[file]})
    assert backend.read(42.0)[0].failures == ()
    name = f"GPU 0 (AMD GPU 0x73bf, amd-{ADDRESS})"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"{name} has no reading of {reading} ({why})"),
        ("INFO", f"{name} has a reading of {reading} again, after 41 s"),
    ]


def test_what_a_card_never_had_is_no_fault_also_after_it_slept(
    tree: SysfsTree, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    without = {key: value for key, value in RADEON.items() if "power1" not in key}
    card = tree.card(0, ADDRESS, device="0x73bf", files={**without, "power/runtime_status": "suspended"})
    backend = backend_of(tree)
    backend.read(0.0)
    write(card, {"power/runtime_status": "active"})
    [sample] = backend.read(1.0)
    assert [(each.reading, each.since_seconds) for each in sample.failures] == [("power", None)]
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize(
    ("file", "failing", "field", "value", "other"),
    [
        pytest.param("gpu_metrics", b"\x60", "gpu_utilization_ratio", 0.57, 0.42, id="a torn table"),
        pytest.param("gpu_metrics", b"", "power_watts", 433.0, 123.5, id="an empty table"),
        pytest.param("hwmon/hwmon3/temp1_input", "hot", "temperature_celsius", 51.0, 66.0, id="the edge of the die"),
        pytest.param("hwmon/hwmon3/power1_average", "", "power_watts", 123.5, 140.0, id="the average power"),
    ],
)
def test_law_1_a_source_that_fails_for_a_moment_is_not_replaced_by_another_quantity(
    tree: SysfsTree, file: str, failing: str | bytes, field: str, value: float, other: float
) -> None:
    table = {"gpu_metrics": gpu_metrics((1, 3))} if file == "gpu_metrics" else {}
    card = tree.card(0, ADDRESS, files={**RADEON, **table})
    content = (card / file).read_bytes()
    backend = backend_of(tree)

    def read(now: int) -> float | None:
        [sample] = backend.read(now)
        value: float | None = getattr(sample, field)
        return value

    assert read(0) == value
    write(card, {file: failing})
    assert {read(now) for now in range(1, MOST_FAILURES)} == {None}
    (card / file).write_bytes(content)
    assert read(100) == value
    # A source that fails for long does not come back.
    write(card, {file: failing})
    assert {read(101 + now) for now in range(MOST_FAILURES)} == {None}
    assert {read(200), read(201)} == {other}


def test_after_a_card_was_lost_its_sources_are_chosen_again(tree: SysfsTree) -> None:
    card = tree.card(0, ADDRESS, files=RADEON)
    backend = backend_of(tree)
    assert backend.read(0.0)[0].gpu_utilization_ratio == 0.42
    tree.remove(card)
    assert not backend.read(LISTING_SECONDS)[0].has_reading
    tree.card(0, ADDRESS, files={**RADEON, "gpu_metrics": gpu_metrics((1, 3))})
    assert backend.read(2 * LISTING_SECONDS)[0].gpu_utilization_ratio == 0.57
