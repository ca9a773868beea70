# SPDX-License-Identifier: Apache-2.0
"""Tests of files of sysfs whose read does not return, and of vendors that do not answer."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.amd.backend import AmdBackend, AmdCard
from keda_gpu_scaler.devices.combined import CombinedBackend
from keda_gpu_scaler.devices.intel.backend import IntelBackend
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from keda_gpu_scaler.devices.sysfs.backend import LISTING_SECONDS, CardReading
from keda_gpu_scaler.sampler import Sampler
from keda_gpu_scaler.wire.snapshot_codec import decode, encode
from tests.contract.hangs import HangContract, HangingNode, known, readers_left, reasons, wait_for_readers
from tests.devices.sysfs_tree import APU, BATTLEMAGE, INSTINCT, INTEL, RADEON, HangingFiles, SysfsTree, write
from tests.fake_nvml import FakeNvml
from tests.fakes import ManualClock, device
from tests.reader_time import Hold, ReaderTime

INSTINCT_ADDRESS, RADEON_ADDRESS, APU_ADDRESS = "0000:05:00.0", "0000:27:00.0", "0000:c1:00.0"
RADEON_UUID = f"amd-{RADEON_ADDRESS}"

Hang = Callable[[Path], Hold]


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path / "sys")


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, reader_time: ReaderTime) -> Iterator[HangingFiles]:
    files = HangingFiles()
    reader_time.holders.append(files)
    monkeypatch.setattr(os, "open", files.open)
    yield files
    files.release()
    wait_for_readers()


@pytest.fixture
def hang(files: HangingFiles) -> Hang:
    return files.hang


def three_amd_cards(tree: SysfsTree) -> list[Path]:
    return [
        tree.card(0, INSTINCT_ADDRESS, render=128, files=INSTINCT),
        tree.card(1, RADEON_ADDRESS, device="0x73bf", render=129, files=RADEON),
        tree.card(2, APU_ADDRESS, device="0x15bf", render=130, files=APU),
    ]


def amd(tree: SysfsTree) -> AmdBackend:
    return AmdBackend(str(tree.root), names="/nowhere")


# A card of a vendor


class SysfsNode(HangingNode):
    """Three cards of one vendor, each in a folder of its own."""

    until = "it returns"

    def __init__(self, backend: Backend, cards: list[Path], files: HangingFiles) -> None:
        self.backend, self.cards, self.files = backend, cards, files

    def hang(self, slot: int, call: str) -> None:
        self.files.hang(self.cards[slot] / call)

    def hang_list(self) -> None:
        self.files.hang(self.cards[1] / "vendor")

    def release(self) -> None:
        self.files.release()


def reads_of(*files: str) -> dict[str, str]:
    return {file: f"the read of {Path(file).name}" for file in files}


def listing_of(maker: str) -> tuple[str, str]:
    subject = f"the list of {maker}'s cards"
    hangs = f"{subject}: the read of vendor has not returned; new and removed cards are not noticed until it returns"
    return hangs, f"{subject}: the read has returned"


class AmdNode(SysfsNode):
    calls = reads_of(
        "mem_info_vram_used",
        "power/runtime_status",
        "gpu_busy_percent",
        "hwmon/hwmon3/name",
        "hwmon/hwmon3/temp1_input",
    )
    listing = listing_of("AMD")

    def set_reading(self, slot: int, number: int) -> None:
        write(self.cards[slot], {"gpu_busy_percent": number})

    def reading(self, sample: Sample) -> float | None:
        ratio = sample.gpu_utilization_ratio
        return None if ratio is None else ratio * 100


class IntelNode(SysfsNode):
    calls = reads_of("hwmon/hwmon4/energy1_input", "hwmon/hwmon4/temp2_input", "tile0/gt0/gtidle/idle_residency_ms")
    listing = listing_of("Intel")

    def set_reading(self, slot: int, number: int) -> None:
        write(self.cards[slot], {"hwmon/hwmon4/temp2_input": number * 1000})

    def reading(self, sample: Sample) -> float | None:
        return sample.temperature_celsius


class TestAmd(HangContract):
    @pytest.fixture
    def node(self, tree: SysfsTree, files: HangingFiles) -> HangingNode:
        cards = three_amd_cards(tree)
        return AmdNode(amd(tree), cards, files)

    @pytest.fixture(params=AmdNode.calls)
    def call(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)


class TestIntel(HangContract):
    @pytest.fixture
    def node(self, tree: SysfsTree, files: HangingFiles) -> HangingNode:
        cards = [
            tree.card(number, f"0000:8{number}:00.0", vendor=INTEL, device="0xe211", driver="xe", files=BATTLEMAGE)
            for number in range(3)
        ]
        # The counters of the files never grow, so no time passes between two readings of them.
        return IntelNode(IntelBackend(str(tree.root), ManualClock()), cards, files)

    @pytest.fixture(params=IntelNode.calls)
    def call(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)


def test_a_card_whose_first_read_hangs_is_listed_and_identified_later(tree: SysfsTree, hang: Hang) -> None:
    cards = three_amd_cards(tree)
    file = hang(cards[0] / "current_compute_partition")
    backend = amd(tree)
    for now in (0.0, 1.0, 2 * LISTING_SECONDS):
        samples = backend.read(now)
        assert samples[0].device.uuid == f"amd-{INSTINCT_ADDRESS}"
        assert (samples[0].device.pci_address, samples[0].device.names) == (INSTINCT_ADDRESS, ("card0",))
        assert known(samples) == [False, True, True]
        assert reasons(samples)[0] == ["the read of current_compute_partition has not returned"]
    file.release()
    wait_for_readers()
    samples = backend.read(3 * LISTING_SECONDS)
    assert samples[0].device.model == "AMD Instinct MI300X OAM"
    assert known(samples) == [True, True, True]


def test_a_card_that_hangs_and_is_removed_and_comes_back_is_read(tree: SysfsTree, hang: Hang) -> None:
    cards = three_amd_cards(tree)
    backend = amd(tree)
    backend.read(0.0)
    file = hang(cards[1] / "gpu_busy_percent")
    backend.read(1.0)
    links = {link: link.readlink() for link in (tree.root / "class" / "drm").iterdir() if link.name == "card1"}
    for link in links:
        link.unlink()
    samples = backend.read(LISTING_SECONDS)
    assert reasons(samples)[1] == ["the read of gpu_busy_percent has not returned"]
    file.release()
    wait_for_readers()
    backend.read(2 * LISTING_SECONDS)
    samples = backend.read(3 * LISTING_SECONDS)
    assert reasons(samples)[1] == ["it is lost: the kernel does not list it"]
    for link, target in links.items():
        link.symlink_to(target)
    backend.read(4 * LISTING_SECONDS)
    wait_for_readers()
    assert known(backend.read(4 * LISTING_SECONDS + 1)) == [True, True, True]


def test_a_defect_of_a_card_costs_no_other_card(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    three_amd_cards(tree)
    backend = amd(tree)
    backend.read(0.0)
    caplog.clear()
    read_whole = backend._read_whole

    def defect(card: AmdCard, *arguments: Any) -> CardReading:
        if card.index == 1:
            raise ZeroDivisionError("a defect\n")
        return read_whole(card, *arguments)

    monkeypatch.setattr(backend, "_read_whole", defect)
    for now in (1.0, 2.0):
        samples = backend.read(now)
        assert known(samples) == [True, False, True]
        assert reasons(samples)[1] == ["unexpected ZeroDivisionError: a defect?"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert caplog.records[0].exc_info is not None
    monkeypatch.undo()
    assert known(backend.read(3.0)) == [True, True, True]


def test_doctor_describes_the_sources_while_a_card_hangs(tree: SysfsTree, hang: Hang) -> None:
    cards = three_amd_cards(tree)
    hang(cards[0] / "gpu_metrics")
    backend = amd(tree)
    backend.read(0.0)
    assert backend.sources() == "1 from not read yet; 2 from sysfs"


# The list of the cards


def test_a_card_that_is_new_while_the_list_hangs_is_listed_afterwards(tree: SysfsTree, hang: Hang) -> None:
    cards = three_amd_cards(tree)
    backend = amd(tree)
    backend.read(0.0)
    file = hang(cards[1] / "vendor")
    backend.read(LISTING_SECONDS)
    file.release()
    wait_for_readers()
    tree.card(7, "0000:e1:00.0", files=RADEON)
    for now in (2 * LISTING_SECONDS, 3 * LISTING_SECONDS):
        samples = backend.read(now)
    assert known(samples) == [True, True, True, True]


def test_a_first_list_that_hangs_is_an_error_with_its_file(tree: SysfsTree, hang: Hang) -> None:
    cards = three_amd_cards(tree)
    file = hang(cards[1] / "uevent")
    backend = amd(tree)
    for now in (0.0, 1.0):
        with pytest.raises(BackendError, match=r"^the list of AMD's cards: the read of uevent has not returned; "):
            backend.read(now)
    assert readers_left(1) == 1
    file.release()
    wait_for_readers()
    assert known(backend.read(2.0)) == [True, True, True]


# A vendor of a node with several


class StuckBackend:
    """A backend whose read a test holds."""

    source = "stuck"
    deviceless = False

    def __init__(self, *samples: Sample) -> None:
        self.samples = samples
        self.hold = Hold()
        self.reads = self.closed = 0

    def read(self, now: float) -> tuple[Sample, ...]:
        self.reads += 1
        self.hold.stay()
        return self.samples

    def overdue_call(self) -> str | None:
        return None

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def stuck(reader_time: ReaderTime) -> Iterator[StuckBackend]:
    backend = StuckBackend(Sample(device(0, uuid="amd-0"), gpu_utilization_ratio=0.5))
    reader_time.holders.append(backend.hold)
    yield backend
    backend.hold.release()
    wait_for_readers()


@pytest.fixture
def free() -> StuckBackend:
    return StuckBackend(Sample(device(0, uuid="GPU-0"), gpu_utilization_ratio=0.25))


def combined(first: Backend, second: Backend) -> CombinedBackend:
    return CombinedBackend({"amd": first, "nvml": second})


def test_law_1_a_vendor_that_hangs_keeps_its_devices_without_readings_and_costs_no_other_vendor(
    stuck: StuckBackend, free: StuckBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    both = combined(stuck, free)
    assert [sample.gpu_utilization_ratio for sample in both.read(0.0)] == [0.25, 0.5]
    stuck.hold.hold()
    for now in (1.0, 2.0, 60.0):
        first, second = both.read(now)
        assert (first.gpu_utilization_ratio, second.gpu_utilization_ratio) == (0.25, None)
        assert [(each.reading, each.reason, each.since_seconds) for each in second.failures] == [
            ("", "a call of the driver has not returned", 1.0)
        ]
        assert both.overdue_call() is None
    assert (stuck.reads, free.reads, readers_left(1, "vendor-reader")) == (2, 4, 1)
    stuck.hold.release()
    wait_for_readers()
    for now in (61.0, 62.0):
        samples = both.read(now)
        wait_for_readers()
    assert [sample.gpu_utilization_ratio for sample in samples] == [0.25, 0.5]
    assert caplog.messages == [
        "the devices of amd cannot be read: a call of the driver has not returned",
        "the devices of amd can be read again",
    ]


def test_a_late_sample_of_a_vendor_is_dated_when_its_read_began(
    stuck: StuckBackend, free: StuckBackend, reader_time: ReaderTime
) -> None:
    both = combined(stuck, free)
    both.read(0.0)
    stuck.hold.hold()
    began = reader_time.now
    both.read(1.0)
    stuck.hold.release()
    wait_for_readers()
    stuck.hold.hold()  # so that the new read is not the one whose samples are used
    reader_time.advance(40)
    assert [sample.lag_seconds for sample in both.read(41.0)] == [0, int(reader_time.now - began)]


def test_where_every_vendor_hangs_the_error_has_every_reason(stuck: StuckBackend) -> None:
    stuck.hold.hold()
    other = StuckBackend()
    other.hold = stuck.hold
    with pytest.raises(BackendError, match=r"^(a call of the driver has not returned(; )?){2}$"):
        combined(stuck, other).read(0.0)
    assert readers_left(2, "vendor-reader") == 2


def test_a_vendor_that_hangs_is_not_closed_and_the_others_are(stuck: StuckBackend, free: StuckBackend) -> None:
    both = combined(stuck, free)
    stuck.hold.hold()
    both.read(0.0)
    both.close()
    assert (stuck.closed, free.closed) == (0, 1)


@pytest.fixture
def driver(fake_nvml: FakeNvml) -> Iterator[FakeNvml]:
    """A driver of NVIDIA whose calls return at the end of the test. Name it after the fixture ``hang``."""
    yield fake_nvml
    fake_nvml.release()


@pytest.mark.parametrize(("call", "function"), [("init", "nvmlInit"), ("count", "nvmlDeviceGetCount")])
def test_a_driver_of_nvidia_that_does_not_open_costs_no_amd_card_and_is_named(
    tree: SysfsTree, driver: FakeNvml, caplog: pytest.LogCaptureFixture, call: str, function: str
) -> None:
    three_amd_cards(tree)
    driver.hang(call)
    both = CombinedBackend({"nvml": NvmlBackend(driver.library), "amd": amd(tree)})
    assert len(both.read(0.0)) == 4
    driver.wait_until_hanging()
    for now in (1.0, 2.0):
        samples = both.read(now)
        assert [sample.device.uuid for sample in samples if not sample.has_reading] == ["nvml-unlisted"]
        assert reasons(samples) == [[], [f"{function} has not returned"], [], []]
    assert f"the devices of nvml cannot be read: {function} has not returned" in caplog.messages
    assert readers_left(1, "vendor-reader") == 1
    driver.release()
    wait_for_readers()
    samples = both.read(3.0)
    wait_for_readers()
    assert len(samples) == 5
    both.close()


@pytest.mark.parametrize("vendor", ["nvml", "amd"])
def test_law_1_a_maximum_is_not_given_while_a_driver_hangs_that_has_listed_no_device(
    tree: SysfsTree, hang: Hang, driver: FakeNvml, vendor: str
) -> None:
    cards = three_amd_cards(tree)
    if vendor == "nvml":
        driver.hang("init")
    else:
        hang(cards[0] / "vendor")
    both = CombinedBackend({"amd": amd(tree), "nvml": NvmlBackend(driver.library)})
    clock = ManualClock()
    sampler = Sampler(both, node="gpu-7", interval_seconds=1, clock=clock)
    sampler.tick()
    assert sampler.history is not None
    newest = sampler.history.newest
    assert decode(encode(newest)) == newest
    trigger = parse_trigger({"minCoverage": "1", "report": "average"})
    said = evaluate(trigger, Fleet(sampler.history, 10.0), clock.now)
    driver.release()
    assert said.value is None
    assert f"GPU 0 ({vendor}-unlisted) of node gpu-7 has no reading of gpu_utilization: " in said.reason
    assert "has not returned" in said.reason


def test_law_1_the_answer_of_a_node_with_two_vendors_has_the_file_that_hangs(
    tree: SysfsTree, hang: Hang, driver: FakeNvml
) -> None:
    cards = three_amd_cards(tree)
    nvml = NvmlBackend(driver.library)
    both = CombinedBackend({"amd": amd(tree), "nvml": nvml})
    clock = ManualClock()
    sampler = Sampler(both, node="gpu-7", interval_seconds=1, clock=clock)
    sampler.tick()
    hang(cards[1] / "gpu_busy_percent")
    for _ in range(41):
        clock.advance(1)
        sampler.tick()
    history = sampler.history
    assert history is not None
    assert (sampler.failure, history.age_seconds(clock.now)) == (None, 0)
    assert known(history.newest.samples) == [True, True, True, False, True]
    metadata = {"metricType": "gpu_utilization", "targetValue": "50", "minCoverage": "1", "report": "average"}
    said = evaluate(parse_trigger(metadata), Fleet(history, 10.0), clock.now).reason
    assert (
        f"GPU 1 ({RADEON_UUID}) of node gpu-7 has no reading of gpu_utilization: the read of gpu_busy_percent has not "
        "returned, for 40 s"
    ) in said
    both.close()
