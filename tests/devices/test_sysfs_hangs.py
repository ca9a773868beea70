# SPDX-License-Identifier: Apache-2.0
"""Tests of files of sysfs whose read does not return, and of vendors that do not answer."""

import logging
import threading
import time
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
from tests.devices.sysfs_tree import APU, BATTLEMAGE, INSTINCT, INTEL, RADEON, HangingFile, SysfsTree, write
from tests.fake_nvml import FakeNvml
from tests.fakes import ManualClock, device
from tests.limits import WAIT_SECONDS

OVERRUN_SECONDS = 0.2
"""Long enough for the files that answer, on a busy machine. Only the first read of a file that hangs takes it."""
INSTINCT_ADDRESS, RADEON_ADDRESS, APU_ADDRESS = "0000:05:00.0", "0000:27:00.0", "0000:c1:00.0"
RADEON_UUID = f"amd-{RADEON_ADDRESS}"
RADEON_NAME = f"GPU 1 (AMD GPU 0x73bf, {RADEON_UUID})"
INTEL_ADDRESS = "0000:83:00.0"

Hang = Callable[[Path], HangingFile]


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path / "sys")


@pytest.fixture
def hang(tmp_path: Path) -> Iterator[Hang]:
    hanging: list[HangingFile] = []

    def make(path: Path) -> HangingFile:
        hanging.append(HangingFile(path, tmp_path / f"released-{len(hanging)}"))
        return hanging[-1]

    yield make
    for file in hanging:
        file.release()
    wait_for_readers()


def readers(name: str = "device-reader") -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def wait_for_readers() -> None:
    for thread in readers("vendor-reader") + readers():
        thread.join(WAIT_SECONDS)


def three_amd_cards(tree: SysfsTree) -> list[Path]:
    return [
        tree.card(0, INSTINCT_ADDRESS, render=128, files=INSTINCT),
        tree.card(1, RADEON_ADDRESS, device="0x73bf", render=129, files=RADEON),
        tree.card(2, APU_ADDRESS, device="0x15bf", render=130, files=APU),
    ]


def amd(tree: SysfsTree) -> AmdBackend:
    return AmdBackend(str(tree.root), names="/nowhere", overrun_seconds=OVERRUN_SECONDS)


def known(samples: tuple[Sample, ...]) -> list[bool]:
    return [sample.has_reading for sample in samples]


def reasons(samples: tuple[Sample, ...]) -> list[list[str]]:
    return [[each.reason for each in sample.failures if not each.reading] for sample in samples]


# A card of a vendor


@pytest.mark.parametrize(
    "file",
    ["power/runtime_status", "gpu_busy_percent", "mem_info_vram_used", "hwmon/hwmon3/name", "hwmon/hwmon3/temp1_input"],
)
def test_a_card_with_a_file_that_hangs_is_named_and_costs_no_other_card(
    tree: SysfsTree, hang: Hang, caplog: pytest.LogCaptureFixture, file: str
) -> None:
    cards = three_amd_cards(tree)
    backend = amd(tree)
    assert known(backend.read(0.0)) == [True, True, True]
    caplog.clear()
    hang(cards[1] / file)
    named = f"the read of {Path(file).name} has not returned"
    for now in (1.0, 2.0, 3.0, 60.0):
        write(cards[2], {"gpu_busy_percent": int(now)})
        samples = backend.read(now)
        assert [sample.device.index for sample in samples] == [0, 1, 2]
        assert known(samples) == [True, False, True]
        assert samples[2].gpu_utilization_ratio == int(now) / 100
        assert reasons(samples) == [[], [named], []]
        assert samples[1].failures[0].since_seconds == 1.0
        assert backend.overdue_call() is None
    assert len(readers()) == 1
    assert caplog.messages == [
        f"{RADEON_NAME} has no reading: {named}; its readings are unknown until it returns",
    ]


def test_a_card_of_intel_with_a_file_that_hangs_costs_no_other_card(tree: SysfsTree, hang: Hang) -> None:
    cards = [
        tree.card(number, f"0000:8{number}:00.0", vendor=INTEL, device="0xe211", driver="xe", files=BATTLEMAGE)
        for number in range(2)
    ]
    backend = IntelBackend(str(tree.root), overrun_seconds=OVERRUN_SECONDS)
    backend.read(0.0)
    hang(cards[0] / "hwmon/hwmon4/energy1_input")
    for now in (1.0, 2.0):
        samples = backend.read(now)
        assert known(samples) == [False, True]
        assert reasons(samples) == [["the read of energy1_input has not returned"], []]


def test_a_card_whose_file_answers_is_read_within_two_reads(
    tree: SysfsTree, hang: Hang, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cards = three_amd_cards(tree)
    backend = amd(tree)
    backend.read(0.0)
    file = hang(cards[1] / "mem_info_vram_used")
    backend.read(1.0)
    write(cards[1], {"gpu_busy_percent": 90})
    file.release()
    wait_for_readers()
    # The first read has what the late job read, which began before the change.
    assert known(backend.read(2.0)) == [True, True, True]
    wait_for_readers()
    second = backend.read(3.0)[1]
    assert (second.gpu_utilization_ratio, second.lag_seconds) == (0.9, 0)
    assert caplog.messages[-1] == f"{RADEON_NAME} is back, after 1 s"


def test_a_late_reading_is_dated_when_it_was_begun(
    tree: SysfsTree, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = three_amd_cards(tree)
    backend = amd(tree)
    backend.read(0.0)
    file = hang(cards[1] / "gpu_busy_percent")
    backend.read(1.0)
    file.release()
    wait_for_readers()
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 40)
    lags = [sample.lag_seconds for sample in backend.read(41.0)]
    assert lags[0] == lags[2] == 0
    assert lags[1] in (0, 40)  # 0 where the new reading was quicker than this thread


def test_every_card_may_hang_and_each_keeps_one_thread(tree: SysfsTree, hang: Hang) -> None:
    cards = three_amd_cards(tree)
    backend = amd(tree)
    backend.read(0.0)
    for card in cards:
        hang(card / "mem_info_vram_used")
    for now in range(1, 30):
        assert known(backend.read(float(now))) == [False, False, False]
    assert len(readers()) == 3


def test_between_two_reads_no_thread_is_left(tree: SysfsTree) -> None:
    three_amd_cards(tree)
    amd(tree).read(0.0)
    wait_for_readers()
    assert readers() == []


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


def test_a_list_that_hangs_is_named_and_costs_no_card(
    tree: SysfsTree, hang: Hang, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cards = three_amd_cards(tree)
    backend = amd(tree)
    backend.read(0.0)
    caplog.clear()
    file = hang(cards[1] / "vendor")
    for now in (LISTING_SECONDS, LISTING_SECONDS + 1, 3 * LISTING_SECONDS):
        assert known(backend.read(now)) == [True, True, True]
    assert len(readers()) == 1
    named = (
        "the list of AMD's cards: the read of vendor has not returned; new and removed cards are not noticed until it "
        "returns"
    )
    assert caplog.messages == [named]
    file.release()
    wait_for_readers()
    tree.card(7, "0000:e1:00.0", files=RADEON)
    for now in (4 * LISTING_SECONDS, 5 * LISTING_SECONDS):
        samples = backend.read(now)
    assert known(samples) == [True, True, True, True]
    assert [message.partition(", after")[0] for message in caplog.messages] == [
        named,
        "the list of AMD's cards: the read has returned",
    ]


def test_a_first_list_that_hangs_is_an_error_with_its_file(tree: SysfsTree, hang: Hang) -> None:
    cards = three_amd_cards(tree)
    file = hang(cards[1] / "uevent")
    backend = amd(tree)
    for now in (0.0, 1.0):
        with pytest.raises(BackendError, match=r"^the list of AMD's cards: the read of uevent has not returned; "):
            backend.read(now)
    assert len(readers()) == 1
    file.release()
    wait_for_readers()
    assert known(backend.read(2.0)) == [True, True, True]


# A vendor of a node with several


class StuckBackend:
    """A backend whose read waits for an event that a test sets."""

    source = "stuck"
    deviceless = False

    def __init__(self, *samples: Sample) -> None:
        self.samples = samples
        self.may_return = threading.Event()
        self.may_return.set()
        self.reads = self.closed = 0

    def read(self, now: float) -> tuple[Sample, ...]:
        self.reads += 1
        self.may_return.wait(WAIT_SECONDS)
        return self.samples

    def overdue_call(self) -> str | None:
        return None

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def stuck() -> Iterator[StuckBackend]:
    backend = StuckBackend(Sample(device(0, uuid="amd-0"), gpu_utilization_ratio=0.5))
    yield backend
    backend.may_return.set()
    wait_for_readers()


@pytest.fixture
def free() -> StuckBackend:
    return StuckBackend(Sample(device(0, uuid="GPU-0"), gpu_utilization_ratio=0.25))


def combined(first: Backend, second: Backend) -> CombinedBackend:
    return CombinedBackend({"amd": first, "nvml": second}, overrun_seconds=OVERRUN_SECONDS)


def test_law_1_a_vendor_that_hangs_keeps_its_devices_without_readings_and_costs_no_other_vendor(
    stuck: StuckBackend, free: StuckBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    both = combined(stuck, free)
    assert [sample.gpu_utilization_ratio for sample in both.read(0.0)] == [0.25, 0.5]
    stuck.may_return.clear()
    for now in (1.0, 2.0, 60.0):
        first, second = both.read(now)
        assert (first.gpu_utilization_ratio, second.gpu_utilization_ratio) == (0.25, None)
        assert [(each.reading, each.reason, each.since_seconds) for each in second.failures] == [
            ("", "a call of the driver has not returned", 1.0)
        ]
        assert both.overdue_call() is None
    assert (stuck.reads, free.reads, len(readers("vendor-reader"))) == (2, 4, 1)
    stuck.may_return.set()
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
    stuck: StuckBackend, free: StuckBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = combined(stuck, free)
    both.read(0.0)
    stuck.may_return.clear()
    both.read(1.0)
    stuck.may_return.set()
    wait_for_readers()
    stuck.may_return.clear()  # so that the new read is not the one whose samples are used
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 40)
    assert [sample.lag_seconds for sample in both.read(41.0)] == [0, 40]


def test_where_every_vendor_hangs_the_error_has_every_reason(stuck: StuckBackend) -> None:
    stuck.may_return.clear()
    other = StuckBackend()
    other.may_return = stuck.may_return
    with pytest.raises(BackendError, match=r"^(a call of the driver has not returned(; )?){2}$"):
        combined(stuck, other).read(0.0)
    assert len(readers("vendor-reader")) == 2


def test_a_vendor_that_hangs_is_not_closed_and_the_others_are(stuck: StuckBackend, free: StuckBackend) -> None:
    both = combined(stuck, free)
    stuck.may_return.clear()
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
    nvml = NvmlBackend(driver.library, overrun_seconds=OVERRUN_SECONDS)
    both = CombinedBackend({"nvml": nvml, "amd": amd(tree)}, overrun_seconds=OVERRUN_SECONDS)
    assert len(both.read(0.0)) == 4
    driver.wait_until_hanging()
    for now in (1.0, 2.0):
        samples = both.read(now)
        assert [sample.device.uuid for sample in samples if not sample.has_reading] == ["nvml-unlisted"]
        assert reasons(samples) == [[], [f"{function} has not returned"], [], []]
    assert f"the devices of nvml cannot be read: {function} has not returned" in caplog.messages
    assert len(readers("vendor-reader")) == 1
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
    nvml = NvmlBackend(driver.library, overrun_seconds=OVERRUN_SECONDS)
    both = CombinedBackend({"amd": amd(tree), "nvml": nvml}, overrun_seconds=2 * OVERRUN_SECONDS)
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
