# SPDX-License-Identifier: Apache-2.0
"""Tests of the Intel backend on trees of sysfs, and of its question for the memory on fake ioctls."""

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from keda_gpu_scaler.core.evaluate.attribution import resolve
from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Allocation, PerformanceReadings, Sample
from keda_gpu_scaler.devices.intel.backend import IntelBackend
from keda_gpu_scaler.devices.intel.counters import LONGEST_SECONDS
from keda_gpu_scaler.devices.intel.memory import may_know_usage, memory_of, read_memory
from keda_gpu_scaler.devices.registry import BackendSettings, find, open_backend
from keda_gpu_scaler.devices.sysfs import DrmCard, UnreadableError
from tests.contract.backends import BackendContract
from tests.devices.sysfs_tree import BATTLEMAGE, FLEX, GIB, INTEL, RADEON, Files, SysfsTree, write

RECORDED = Path(__file__).parents[3] / "shared" / "telemetry" / "accelerators" / "intel"
ADDRESS = "0000:04:00.0"
IDLE = "tile0/gt0/gtidle/idle_residency_ms"
ENERGY = "hwmon/hwmon4/energy1_input"


class Clock:
    """Monotonic seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path / "sys")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refused_memory(card: DrmCard) -> tuple[int | None, int | None]:
    raise UnreadableError("the process has no CAP_PERFMON")


def backend_of(tree: SysfsTree, clock: Clock) -> IntelBackend:
    return IntelBackend(str(tree.root), clock, refused_memory)


def battlemage(tree: SysfsTree, files: Files | None = None) -> Path:
    return tree.card(
        1, ADDRESS, vendor=INTEL, device="0xe211", driver="xe", render=129, files={**BATTLEMAGE, **(files or {})}
    )


def flex(tree: SysfsTree, files: Files | None = None) -> Path:
    return tree.card(
        0, "0000:03:00.0", vendor=INTEL, device="0x56c0", driver="i915", render=128, files={**FLEX, **(files or {})}
    )


def after(backend: IntelBackend, clock: Clock, seconds: float, folder: Path, files: Files) -> Sample:
    """Read once, change the files, and read again later; return the second sample."""
    backend.read(clock.now)
    clock.now += seconds
    write(folder, files)
    [sample] = backend.read(clock.now)
    return sample


class TestIntel(BackendContract):
    @pytest.fixture
    def backend(self, tree: SysfsTree) -> Iterator[Backend]:
        battlemage(tree)
        flex(tree)
        tree.card(2, "0000:09:00.0", files=RADEON)
        opened = IntelBackend(str(tree.root))
        yield opened
        opened.close()


def test_devices_have_the_names_of_the_kubelet(tree: SysfsTree, clock: Clock) -> None:
    battlemage(tree)
    flex(tree)
    first, second = (sample.device for sample in backend_of(tree, clock).read(0.0))
    assert (first.uuid, first.index, first.model) == ("intel-0000:03:00.0", 0, "Intel Data Center GPU Flex 170")
    assert (second.uuid, second.index, second.model) == (f"intel-{ADDRESS}", 1, "Intel Arc Pro B60")
    assert second.names == ("card1", "renderD129", "0000-04-00-0-0xe211")
    for device_id, resource in (("card1-0", "gpu.intel.com/xe"), ("0000-04-00-0-0xe211", "gpu.intel.com")):
        assert resolve(Allocation("ai", "p", "c", resource, device_id), (first, second)) == (second,)


def test_a_device_of_an_unknown_product_is_named_by_its_id(tree: SysfsTree, clock: Clock) -> None:
    tree.card(1, ADDRESS, vendor=INTEL, device="0x7d67", driver="i915")
    assert backend_of(tree, clock).read(0.0)[0].device.model == "Intel GPU 0x7d67"


@pytest.mark.parametrize(
    ("seconds", "idle_ms", "ratio"),
    [
        pytest.param(1.0, 1000, 1.0, id="never idle"),
        pytest.param(1.0, 1750, 0.25, id="idle for three quarters"),
        pytest.param(1.0, 2000, 0.0, id="always idle"),
        pytest.param(1.0, 2004, 0.0, id="read a little later than the clock"),
        pytest.param(2.0, 2000, 0.5, id="over two seconds"),
        pytest.param(1.0, 2500, None, id="idle for longer than the time that passed"),
        pytest.param(1.0, 999, None, id="a counter that fell"),
        pytest.param(LONGEST_SECONDS + 1, 2000, None, id="not read for long: it may have wrapped"),
    ],
)
def test_utilisation_is_the_time_that_is_not_idle(
    tree: SysfsTree, clock: Clock, seconds: float, idle_ms: int, ratio: float | None
) -> None:
    card = battlemage(tree)
    sample = after(backend_of(tree, clock), clock, seconds, card, {IDLE: idle_ms})
    assert sample.gpu_utilization_ratio == (None if ratio is None else pytest.approx(ratio))


def test_law_1_the_first_reading_of_a_counter_is_unknown(tree: SysfsTree, clock: Clock) -> None:
    battlemage(tree)
    [sample] = backend_of(tree, clock).read(0.0)
    assert (sample.gpu_utilization_ratio, sample.power_watts) == (None, None)
    assert sample.temperature_celsius == 44.0


def test_two_reads_at_the_same_time_have_the_same_rates(tree: SysfsTree, clock: Clock) -> None:
    card = battlemage(tree)
    backend = backend_of(tree, clock)
    first = after(backend, clock, 1.0, card, {IDLE: 1500, ENERGY: 55_000_000})
    clock.now += 0.01
    assert backend.read(clock.now) == (first,)
    assert first.gpu_utilization_ratio == pytest.approx(0.5)
    assert first.power_watts == pytest.approx(50.0)


def test_the_media_engines_do_not_count(tree: SysfsTree, clock: Clock) -> None:
    card = battlemage(tree)
    sample = after(backend_of(tree, clock), clock, 1.0, card, {IDLE: 1900})
    assert sample.gpu_utilization_ratio == pytest.approx(0.1)


def test_the_busiest_tile_counts(tree: SysfsTree, clock: Clock) -> None:
    other = "tile1/gt2/gtidle/idle_residency_ms"
    card = battlemage(tree, {"tile1/gt2/gtidle/name": "gt2-rc", other: 0})
    sample = after(backend_of(tree, clock), clock, 1.0, card, {IDLE: 1900, other: 300})
    assert sample.gpu_utilization_ratio == pytest.approx(0.7)


def test_law_1_an_unknown_tile_makes_the_utilisation_unknown(tree: SysfsTree, clock: Clock) -> None:
    other = "tile1/gt2/gtidle/idle_residency_ms"
    card = battlemage(tree, {"tile1/gt2/gtidle/name": "gt2-rc", other: 0})
    assert after(backend_of(tree, clock), clock, 1.0, card, {IDLE: 1900, other: ""}).gpu_utilization_ratio is None


@pytest.mark.parametrize(
    "file",
    [
        pytest.param("drm/card0/gt/gt0/rc6_residency_ms", id="of the GT"),
        pytest.param("drm/card0/power/rc6_residency_ms", id="of an older kernel"),
    ],
)
def test_i915(tree: SysfsTree, clock: Clock, file: str) -> None:
    files = {name: content for name, content in FLEX.items() if "rc6" not in name}
    card = tree.card(0, ADDRESS, vendor=INTEL, driver="i915", files={**files, file: 1000})
    energy = {"hwmon/hwmon2/energy1_input": 80_000_000}
    sample = after(backend_of(tree, clock), clock, 1.0, card, {file: 1600, **energy})
    assert sample.gpu_utilization_ratio == pytest.approx(0.4)
    assert sample.power_watts == pytest.approx(75.0)
    assert sample.temperature_celsius == 39.0


def test_power_is_the_cards_else_its_packages(tree: SysfsTree, clock: Clock) -> None:
    card = battlemage(tree)
    (card / ENERGY).unlink()
    sample = after(backend_of(tree, clock), clock, 2.0, card, {"hwmon/hwmon4/energy2_input": 102_000_000})
    assert sample.power_watts == pytest.approx(50.0)


def test_law_1_a_card_that_is_awake_never_draws_0_watts(tree: SysfsTree, clock: Clock) -> None:
    card = battlemage(tree)
    sample = after(backend_of(tree, clock), clock, 2.0, card, {})
    assert sample.power_watts is None
    assert sample.gpu_utilization_ratio == 1.0  # an idle time that does not grow is possible


@pytest.mark.parametrize(
    ("files", "celsius"),
    [
        pytest.param({}, 44.0, id="the package"),
        pytest.param({"hwmon/hwmon4/temp2_label": "vram", "hwmon/hwmon4/temp3_label": "pkg"}, 52.0, id="by label"),
        pytest.param({"hwmon/hwmon4/temp2_label": "vram"}, None, id="memory only"),
        pytest.param({"hwmon/hwmon4/temp2_input": "?"}, None, id="no number"),
        pytest.param({"hwmon/hwmon4/temp2_input": 200_000}, None, id="impossible"),
    ],
)
def test_the_temperature_is_that_of_the_package(
    tree: SysfsTree, clock: Clock, files: Files, celsius: float | None
) -> None:
    battlemage(tree, files)
    assert backend_of(tree, clock).read(0.0)[0].temperature_celsius == celsius


@pytest.mark.parametrize("content", ["", "?", "-5", "9" * 40, "1.5", b"\xff\xff"])
@pytest.mark.parametrize(("file", "field"), [(IDLE, "gpu_utilization_ratio"), (ENERGY, "power_watts")])
def test_law_1_a_hostile_counter_is_unknown(
    tree: SysfsTree, clock: Clock, file: str, field: str, content: str | bytes
) -> None:
    card = battlemage(tree)
    good: dict[str, str | bytes | int] = {IDLE: 1500, ENERGY: 55_000_000}
    backend = backend_of(tree, clock)
    sample = after(backend, clock, 1.0, card, {**good, file: content})
    assert getattr(sample, field) is None
    assert sample.temperature_celsius == 44.0
    other = {"gpu_utilization_ratio", "power_watts"} - {field}
    assert all(getattr(sample, name) is not None for name in other)


def test_a_card_that_sleeps_is_idle_and_is_not_woken(
    tree: SysfsTree, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = battlemage(tree)
    backend = backend_of(tree, clock)
    after(backend, clock, 1.0, card, {IDLE: 1500})
    write(card, {"power/runtime_status": "suspended"})
    opened: list[str] = []
    real = os.open

    def recording(path: str | Path, *args: int) -> int:
        opened.append(Path(path).name)
        return real(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", recording)
        [sample] = backend.read(clock.now)
    assert sample == Sample(sample.device, gpu_utilization_ratio=0.0)
    assert set(opened) <= {"runtime_status", "name"}
    # The counters stand still while it sleeps: after it woke the growth since then means nothing.
    clock.now += 1.0
    write(card, {"power/runtime_status": "active", IDLE: 1600})
    assert backend.read(clock.now)[0].gpu_utilization_ratio is None


def test_law_1_memory_without_the_right_is_unknown_with_a_reason(
    tree: SysfsTree, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    battlemage(tree)
    [sample] = backend_of(tree, clock).read(0.0)
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == (None, None)
    [record] = caplog.records
    assert record.getMessage().endswith("does not offer memory (the process has no CAP_PERFMON)")


def test_memory_with_the_right(tree: SysfsTree) -> None:
    battlemage(tree)
    [sample] = IntelBackend(str(tree.root), Clock(), lambda card: (3 * GIB, 24 * GIB)).read(0.0)
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == (3 * GIB, 24 * GIB)


def test_the_energy_of_the_card_is_read_every_five_seconds_while_it_is_wanted(tree: SysfsTree, clock: Clock) -> None:
    card = battlemage(tree)
    wanted = [False]
    backend = IntelBackend(str(tree.root), clock, refused_memory, lambda: wanted[0])
    assert backend.read(0.0)[0].performance is None
    wanted[0] = True
    [sample] = backend.read(0.0)
    assert sample.performance == PerformanceReadings(100.0, 0.0, energy_joules=5.0)
    assert {failure.reading for failure in sample.failures} > {"activity", "pcie", "nvlink"}
    for second in range(1, 5):
        (card / "hwmon/hwmon4/energy1_input").write_text(f"{5_000_000 + 1_000_000 * second}")
        clock.now = 100.0 + second
        assert backend.read(0.0)[0].performance is sample.performance
    clock.now = 105.0
    (card / "hwmon/hwmon4/energy1_input").write_text("15000000")
    assert backend.read(0.0)[0].performance == PerformanceReadings(105.0, 5.0, energy_joules=15.0)
    wanted[0] = False
    assert backend.read(0.0)[0].performance is None


@pytest.mark.parametrize("content", ["-1", "nonsense", None])
def test_law_1_an_energy_that_cannot_be_read_is_unknown(tree: SysfsTree, clock: Clock, content: str | None) -> None:
    card = battlemage(tree)
    for number in (1, 2):
        file = card / f"hwmon/hwmon4/energy{number}_input"
        file.unlink() if content is None else file.write_text(content)
    [sample] = IntelBackend(str(tree.root), clock, refused_memory, lambda: True).read(0.0)
    assert sample.performance is None


def test_a_card_that_sleeps_has_no_reading_of_its_energy(tree: SysfsTree, clock: Clock) -> None:
    card = battlemage(tree)
    backend = IntelBackend(str(tree.root), clock, refused_memory, lambda: True)
    assert backend.read(0.0)[0].performance is not None
    (card / "power").mkdir(exist_ok=True)
    (card / "power" / "runtime_status").write_text("suspended")
    assert backend.read(0.0)[0].performance is None


def test_a_node_without_a_card_is_refused_with_a_sentence(tree: SysfsTree, clock: Clock) -> None:
    tree.card(2, "0000:09:00.0", files=RADEON)
    with pytest.raises(BackendError, match=r"no Intel GPU here: .*/class/drm has no card of Intel; load the kernel's"):
        backend_of(tree, clock).read(0.0)


def test_detection(tree: SysfsTree) -> None:
    vendor = find("intel")
    assert vendor is not None
    assert vendor.detect is not None
    assert vendor.detect(BackendSettings(sysfs_root=str(tree.root))) == f"no Intel GPU in {tree.root}/class/drm"
    flex(tree)
    assert vendor.detect(BackendSettings(sysfs_root=str(tree.root))) is None
    opened = open_backend("intel", BackendSettings(sysfs_root=str(tree.root)))
    assert [sample.device.uuid for sample in opened.read(0.0)] == ["intel-0000:03:00.0"]


# ---- the memory ----


def xe_reply(*regions: tuple[int, int, int]) -> bytes:
    """Return the kernel's reply: the class, the total and the used memory of each region."""
    return struct.pack("<II", len(regions), 0) + b"".join(
        struct.pack("<HHIQQ64x", kind, number, 65536, total, used) for number, (kind, total, used) in enumerate(regions)
    )


def i915_reply(*regions: tuple[int, int, int]) -> bytes:
    return struct.pack("<I12x", len(regions)) + b"".join(
        struct.pack("<HHIQQ64x", kind, number, 0, total, (total - used) % (1 << 64))
        for number, (kind, total, used) in enumerate(regions)
    )


def xe_kernel(reply: bytes):  # type: ignore[no-untyped-def]
    def ioctl(file: int, request: int, data: bytearray) -> int:
        assert request == 0xC0286440
        extensions, query, size, address, *reserved = struct.unpack("<QIIQQQ", data)
        assert (extensions, query, reserved) == (0, 1, [0, 0])
        if size:
            ctypes.memmove(address, reply, size)
        data[:] = struct.pack("<QIIQQQ", 0, 1, len(reply), address, 0, 0)
        return 0

    return ioctl


def i915_kernel(reply: bytes):  # type: ignore[no-untyped-def]
    def ioctl(file: int, request: int, data: bytearray) -> int:
        assert request == 0xC0106479
        items, flags, address = struct.unpack("<IIQ", data)
        assert (items, flags) == (1, 0)
        query, size, _, buffer = struct.unpack("<QiIQ", ctypes.string_at(address, 24))
        assert query == 4
        if size:
            ctypes.memmove(buffer, reply, size)
        ctypes.memmove(address, struct.pack("<QiIQ", 4, len(reply), 0, buffer), 24)
        return 0

    return ioctl


@pytest.mark.parametrize(
    ("driver", "kernel", "reply"),
    [pytest.param("xe", xe_kernel, xe_reply, id="xe"), pytest.param("i915", i915_kernel, i915_reply, id="i915")],
)
def test_the_memory_of_a_card_is_the_sum_of_its_tiles(driver: str, kernel, reply) -> None:  # type: ignore[no-untyped-def]
    regions = ((0, 512 * GIB, 9 * GIB), (1, 64 * GIB, 3 * GIB), (1, 64 * GIB, 2 * GIB))
    assert memory_of(driver, 7, kernel(reply(*regions))) == (5 * GIB, 128 * GIB)
    for wrong, reason in (
        (reply((0, 8 * GIB, GIB)), "the card has no memory of its own"),
        (reply((1, 8 * GIB, 9 * GIB)), "which is impossible"),
        (reply((1, 0, 0)), "0 of 0 bytes are used"),
        (reply((1, 1 << 60, 0)), "which is impossible"),
        (reply((1, GIB, 0))[:40], "reply has 40 bytes for 1 regions"),
        (b"", "announces a reply of 0 bytes"),
    ):
        with pytest.raises(UnreadableError, match=reason):
            memory_of(driver, 7, kernel(wrong))


INIT_NAMESPACE = "         0          0 4294967295"


@pytest.mark.parametrize(
    ("capabilities", "uid_map", "expected"),
    [
        pytest.param("0000004000000000", INIT_NAMESPACE, True, id="CAP_PERFMON"),
        pytest.param("0000000000200000", INIT_NAMESPACE, True, id="CAP_SYS_ADMIN"),
        pytest.param("000001ffffffffff", INIT_NAMESPACE, True, id="privileged"),
        pytest.param("00000000a80425fb", INIT_NAMESPACE, False, id="a container's default"),
        pytest.param("000001ffffffffff", "0 100000 65536", False, id="a user namespace of its own"),
        pytest.param("?", INIT_NAMESPACE, False, id="no number"),
        pytest.param("", "", False, id="nothing"),
    ],
)
def test_law_1_usage_is_known_only_with_the_capability(
    tmp_path: Path, capabilities: str, uid_map: str, expected: bool
) -> None:
    write(tmp_path, {"status": f"Name:\tpython\nCapEff:\t{capabilities}\nSeccomp:\t0", "uid_map": uid_map})
    assert may_know_usage(tmp_path) is expected
    assert may_know_usage(tmp_path / "none") is False


def test_a_card_without_a_render_node_has_no_memory_reading() -> None:
    card = DrmCard(0, None, Path("/nowhere"), ADDRESS, "0xe211", "0x00", "xe")
    with pytest.raises(UnreadableError, match="no render node"):
        read_memory(card)


recorded = pytest.mark.skipif(not RECORDED.is_dir(), reason="needs the recorded trees in shared/telemetry")


@recorded
def test_names_of_a_recorded_resource_slice(tree: SysfsTree, clock: Clock) -> None:
    """The names that Intel's DRA driver gave two devices belong to the devices at their addresses."""
    text = (RECORDED / "dra-resourceslice" / "gpu.yaml").read_text()
    named = [line.split()[-1] for line in text.splitlines() if line.startswith("    name: 0000-")]
    assert len(named) == 2
    for number, name in enumerate(named):
        *address, function, device_id = name.split("-")
        tree.card(number, f"{':'.join(address)}.{function}", vendor=INTEL, device=device_id, driver="xe")
    devices = [sample.device for sample in backend_of(tree, clock).read(0.0)]
    for name, device in zip(named, devices, strict=True):
        assert f'string: "{device.pci_address}"' in text
        assert resolve(Allocation("ai", "p", "c", "gpu.intel.com", name), devices) == (device,)


def test_a_counter_that_stops_after_it_had_a_rate_is_a_fault_and_one_that_never_had_is_none(
    tree: SysfsTree, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    folder = battlemage(tree)
    backend = backend_of(tree, clock)
    energy = 5_000_000
    levels: list[str | None] = []
    for growth in (0, 0, 40_000_000, 0):
        write(folder, {ENERGY: (energy := energy + growth)})
        [sample] = backend.read(clock.now)
        failure = sample.failure_of("power")
        levels.append(None if failure is None else "lasting" if failure.since_seconds is None else "passing")
        clock.now += 1
    assert levels == [None, "lasting", None, "passing"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
