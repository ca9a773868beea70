# SPDX-License-Identifier: Apache-2.0
"""The NVML backend over a driver that does what a test tells it."""

import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.nvml import LIBRARY
from keda_gpu_scaler.devices.nvml import backend as nvml
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from keda_gpu_scaler.devices.nvml.gpu_reader import MIG_LAYOUT_SECONDS
from tests import fake_nvml as codes
from tests.contract.backends import BackendContract
from tests.examples_drawn import examples
from tests.fake_nvml import GIB, Card, FakeNvml, Memory, Slice

A, B, C = "GPU-aaaa", "GPU-bbbb", "GPU-cccc"
PCI_A, PCI_B, PCI_C = "00000000:19:00.0", "00000000:3B:00.0", "00000000:5D:00.0"
BUSY = Card(A, "NVIDIA L4", PCI_A, (92, 40), Memory(6 * GIB, 24 * GIB, GIB), temperature=61, power_milliwatts=70_500)
CARDS = [Card(A, pci_bus_id=PCI_A), Card(B, pci_bus_id=PCI_B), Card(C, pci_bus_id=PCI_C)]
# Slot 1 is empty, and there is a slice behind it.
SLICED = Card(A, "NVIDIA A100", PCI_A, mig=True, slices=[Slice("MIG-1", "1g.10gb"), None, Slice("MIG-2", "2g.20gb")])

FakeMaker = Callable[..., FakeNvml]


@pytest.fixture
def backend(fake_nvml: FakeNvml) -> Iterator[NvmlBackend]:
    backend = NvmlBackend(fake_nvml.library)
    yield backend
    backend.close()


@pytest.fixture
def open_backend(make_fake_nvml: FakeMaker) -> Iterator[Callable[..., tuple[FakeNvml, NvmlBackend]]]:
    """Makes a backend over a driver that lacks some symbols."""
    backends: list[NvmlBackend] = []

    def make(*without: str) -> tuple[FakeNvml, NvmlBackend]:
        fake = make_fake_nvml(*without)
        backends.append(NvmlBackend(fake.library))
        return fake, backends[-1]

    yield make
    for backend in backends:
        backend.close()


def read(backend: NvmlBackend, now: float) -> tuple[Sample, ...]:
    """Read the devices without the reasons of unknown readings, which test_nvml_failures.py covers."""
    return tuple(replace(sample, failures=()) for sample in backend.read(now))


class TestContractOnWholeCards(BackendContract):
    @pytest.fixture
    def backend(self, fake_nvml: FakeNvml, backend: NvmlBackend) -> Backend:
        fake_nvml.devices = [BUSY, *CARDS[1:]]
        return backend


class TestContractOnSlices(BackendContract):
    @pytest.fixture
    def backend(self, fake_nvml: FakeNvml, backend: NvmlBackend) -> Backend:
        fake_nvml.devices = [SLICED, *CARDS[1:]]
        return backend


class TestContractWithAnUnidentifiedCard(BackendContract):
    @pytest.fixture
    def backend(self, fake_nvml: FakeNvml, backend: NvmlBackend) -> Backend:
        fake_nvml.devices = CARDS
        fake_nvml.device(1).refuse("handle", codes.UNKNOWN)
        return backend

    def test_the_device_that_the_driver_does_not_describe_is_listed(self, backend: Backend) -> None:
        assert [sample.has_reading for sample in backend.read(0.0)] == [True, False, True]


class TestContractWithALostCard(BackendContract):
    @pytest.fixture
    def backend(self, fake_nvml: FakeNvml, backend: NvmlBackend) -> Backend:
        fake_nvml.devices = CARDS
        read(backend, 0.0)
        fake_nvml.lose(1)
        return backend


# The readings


def test_the_fake_and_its_mirror_have_one_layout(fake_nvml: FakeNvml) -> None:
    fake_nvml.assert_layout()


def test_a_busy_card_is_read_in_full(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [BUSY]
    assert read(backend, 0.0) == (
        Sample(
            Device(A, 0, "NVIDIA L4", "0000:19:00.0"),
            gpu_utilization_ratio=0.92,
            memory_utilization_ratio=0.4,
            memory_used_bytes=6 * GIB,
            memory_total_bytes=24 * GIB,
            temperature_celsius=61.0,
            power_watts=70.5,
        ),
    )


def test_every_read_asks_anew(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [BUSY]
    read(backend, 0.0)
    fake_nvml.device(0).utilisation = (7, 3)
    assert read(backend, 1.0)[0].gpu_utilization_ratio == 0.07
    assert fake_nvml.inits == 1


READINGS = {
    "utilisation": ("gpu_utilization_ratio", "memory_utilization_ratio"),
    "memory": ("memory_used_bytes", "memory_total_bytes"),
    "temperature": ("temperature_celsius",),
    "power": ("power_watts",),
}
FIELDS = {field for fields in READINGS.values() for field in fields}


def unknown(sample: Sample) -> set[str]:
    return {field for field in FIELDS if getattr(sample, field) is None}


@pytest.mark.parametrize("code", [3, 4, 6, 13, 16, 999, 4711])
@pytest.mark.parametrize("reading", READINGS)
def test_a_refused_reading_is_unknown_and_takes_nothing_with_it(
    fake_nvml: FakeNvml, backend: NvmlBackend, reading: str, code: int
) -> None:
    fake_nvml.devices = [BUSY, CARDS[1]]
    for call in codes.CALLS:
        if call.startswith(reading):
            fake_nvml.device(0).refuse(call, code)
    refused, other = read(backend, 0.0)
    assert unknown(refused) == set(READINGS[reading])
    assert not unknown(other)


@pytest.mark.parametrize(
    ("nonsense", "expected"),
    [
        pytest.param({"utilisation": (101, 40)}, {"gpu_utilization_ratio"}, id="gpu utilisation above 100"),
        pytest.param({"utilisation": (92, 2**32 - 1)}, {"memory_utilization_ratio"}, id="memory utilisation: all bits"),
        pytest.param({"memory": Memory(25, 24)}, set(READINGS["memory"]), id="more memory used than there is"),
        pytest.param({"memory": Memory(0, 0)}, set(READINGS["memory"]), id="no memory at all"),
        pytest.param({"memory": Memory(0, 2**64 - 1)}, set(READINGS["memory"]), id="memory: all bits"),
        pytest.param({"temperature": -1}, {"temperature_celsius"}, id="a temperature below zero"),
        pytest.param({"temperature": 255}, {"temperature_celsius"}, id="a temperature no die survives"),
        pytest.param({"temperature": 150}, {"temperature_celsius"}, id="a temperature far above the shutdown"),
        pytest.param({"temperature": 0}, {"temperature_celsius"}, id="a die that works at the freezing point"),
        pytest.param({"power_milliwatts": 0}, {"power_watts"}, id="a board that works without power"),
        pytest.param({"power_milliwatts": 99_000_000}, {"power_watts"}, id="99 kW"),
        pytest.param({"power_milliwatts": 2**32 - 1}, {"power_watts"}, id="power: all bits"),
    ],
)
def test_nonsense_is_unknown(
    fake_nvml: FakeNvml, backend: NvmlBackend, nonsense: dict[str, object], expected: set[str]
) -> None:
    fake_nvml.devices = [BUSY]
    for name, value in nonsense.items():
        setattr(fake_nvml.device(0), name, value)
    assert unknown(read(backend, 0.0)[0]) == expected


def test_nonsense_from_the_older_temperature_call_is_unknown(
    open_backend: Callable[..., tuple[FakeNvml, NvmlBackend]],
) -> None:
    fake, backend = open_backend("temperature_v")
    fake.devices = [BUSY]
    fake.device(0).temperature = -1
    assert unknown(read(backend, 0.0)[0]) == {"temperature_celsius"}


def test_the_extremes_are_believed(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [Card(A, utilisation=(100, 0), memory=Memory(24, 24), temperature=1, power_milliwatts=1)]
    (sample,) = read(backend, 0.0)
    assert not unknown(sample)
    assert (sample.gpu_utilization_ratio, sample.memory_utilization_ratio) == (1.0, 0.0)
    fake_nvml.device(0).temperature, fake_nvml.device(0).power_milliwatts = 149, 9_999_999
    assert not unknown(read(backend, 1.0)[0])


# Older drivers


@pytest.mark.parametrize(
    ("without", "newer", "older", "field", "value"),
    [
        # The older call counts the reserved gibibyte as used.
        pytest.param("memory_v2", "memory v2", "memory v1", "memory_used_bytes", 7 * GIB, id="memory"),
        pytest.param(
            "temperature_v", "temperature v2", "temperature v1", "temperature_celsius", 61.0, id="temperature"
        ),
    ],
)
class TestOlderCalls:
    def test_a_library_without_the_newer_call_is_asked_through_the_older(
        self,
        open_backend: Callable[..., tuple[FakeNvml, NvmlBackend]],
        without: str,
        newer: str,
        older: str,
        field: str,
        value: float,
    ) -> None:
        fake, backend = open_backend(without)
        fake.devices = [BUSY]
        assert getattr(read(backend, 0.0)[0], field) == value

    @pytest.mark.parametrize("code", [codes.NOT_SUPPORTED, codes.ARGUMENT_VERSION_MISMATCH])
    def test_a_card_that_refuses_the_newer_call_is_probed_once(
        self,
        fake_nvml: FakeNvml,
        backend: NvmlBackend,
        without: str,
        newer: str,
        older: str,
        field: str,
        value: float,
        code: int,
    ) -> None:
        fake_nvml.devices = [BUSY]
        fake_nvml.device(0).refuse(newer, code)
        assert [getattr(read(backend, now)[0], field) for now in (0.0, 1.0, 2.0)] == [value] * 3
        assert (fake_nvml.calls(newer), fake_nvml.calls(older)) == (1, 3)

    def test_a_passing_error_of_the_newer_call_changes_nothing_for_good(
        self,
        fake_nvml: FakeNvml,
        backend: NvmlBackend,
        without: str,
        newer: str,
        older: str,
        field: str,
        value: float,
    ) -> None:
        fake_nvml.devices = [BUSY]
        fake_nvml.device(0).refuse(newer, codes.UNKNOWN)
        assert getattr(read(backend, 0.0)[0], field) is None
        fake_nvml.device(0).allow(newer)
        assert getattr(read(backend, 1.0)[0], field) is not None
        assert (fake_nvml.calls(newer), fake_nvml.calls(older)) == (3, 0)  # twice after the error, then once


def test_a_library_without_mig_serves_whole_cards(open_backend: Callable[..., tuple[FakeNvml, NvmlBackend]]) -> None:
    fake, backend = open_backend("mig")
    fake.devices = [BUSY]
    assert not unknown(read(backend, 0.0)[0])


# Identity


@pytest.mark.parametrize(
    ("bus_id", "expected"),
    [
        ("00000000:19:00.0", "0000:19:00.0"),
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("00010000:C1:00.0", "10000:c1:00.0"),
        ("0000:19:00.0", "0000:19:00.0"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_pci_addresses_are_written_as_everybody_writes_them(
    fake_nvml: FakeNvml, backend: NvmlBackend, bus_id: str, expected: str
) -> None:
    fake_nvml.devices = [Card(A, pci_bus_id=bus_id)]
    assert read(backend, 0.0)[0].device.pci_address == expected


@pytest.mark.parametrize("call", ["name", "pci"])
def test_a_card_that_hides_its_name_or_place_is_served(fake_nvml: FakeNvml, backend: NvmlBackend, call: str) -> None:
    fake_nvml.device(0).refuse(call, codes.UNKNOWN)
    hidden, other = (sample.device for sample in read(backend, 0.0))
    assert (hidden.model == "", hidden.pci_address == "") == (call == "name", call == "pci")
    assert other.model
    assert other.pci_address


def test_a_name_that_is_no_text_is_unknown(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [Card(A, model=b"\xff\xfe")]
    assert read(backend, 0.0)[0].device.model == ""


def layout(samples: tuple[Sample, ...]) -> list[tuple[int, str]]:
    return [(sample.device.index, sample.device.uuid) for sample in samples]


def reopen(backend: NvmlBackend, now: float = 0.0) -> tuple[Sample, ...]:
    backend.close()
    return read(backend, now)


def test_a_card_keeps_its_index_when_the_driver_changes_its_order(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = CARDS
    before = layout(read(backend, 0.0))
    fake_nvml.enumeration = [2, 0, 1]
    fake_nvml.device(2).utilisation = (55, 0)
    after = reopen(backend)
    assert layout(after) == before == [(0, A), (1, B), (2, C)]
    assert [sample.gpu_utilization_ratio for sample in after] == [0, 0, 0.55]


def test_a_card_that_was_moved_is_known_at_its_new_place(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [Card(A, pci_bus_id=PCI_A)]
    read(backend, 0.0)
    fake_nvml.devices = [Card(A, pci_bus_id=PCI_C)]
    assert [sample.device.pci_address for sample in reopen(backend)] == ["0000:5d:00.0"]


def test_a_new_card_takes_the_drivers_index_when_it_is_free(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = CARDS
    fake_nvml.enumeration = [0, 1]
    read(backend, 0.0)
    fake_nvml.enumeration = [0, 1, 2]
    assert layout(reopen(backend)) == [(0, A), (1, B), (2, C)]


def test_a_new_card_takes_the_lowest_free_index_when_the_drivers_is_not(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = CARDS
    fake_nvml.enumeration = [0, 2]
    read(backend, 0.0)
    fake_nvml.enumeration = [1, 0, 2]
    assert layout(reopen(backend)) == [(0, A), (1, C), (2, B)]


# A card that falls off the bus


def test_a_lost_card_stays_listed_and_takes_no_other_with_it(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = CARDS
    read(backend, 0.0)
    fake_nvml.lose(1)
    for now in (0.5, 1.0, 60.0):
        first, lost, third = read(backend, now)
        assert lost == Sample(Device(B, 1, "NVIDIA Fake 80GB", "0000:3b:00.0"))
        assert not unknown(first)
        assert not unknown(third)


@pytest.mark.parametrize("call", ["utilisation", "memory v2", "temperature v2", "power", "mig mode"])
def test_a_card_that_is_lost_between_two_readings_is_wholly_unknown(
    fake_nvml: FakeNvml, backend: NvmlBackend, call: str
) -> None:
    fake_nvml.device(0).refuse(call, codes.GPU_IS_LOST)
    lost, other = read(backend, 0.0)
    assert unknown(lost) == FIELDS
    assert not unknown(other)


def test_while_one_card_stays_lost_the_driver_is_left_open(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = CARDS
    fake_nvml.lose(1)
    assert opened_at(fake_nvml, backend, until=130) == [0]
    assert fake_nvml.shutdowns == 0


def test_while_every_card_stays_lost_the_driver_is_opened_anew_ever_less_often(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = CARDS
    read(backend, 0.0)
    for slot in range(3):
        fake_nvml.lose(slot)
    opened = opened_at(fake_nvml, backend, until=130)
    assert opened == [1, 3, 7, 15, 31, 61, 91, 121]
    assert fake_nvml.shutdowns == len(opened)


@pytest.mark.parametrize(("open_seconds", "expected"), [(2.0, [300, 600]), (2.1, [])])
def test_a_card_that_stays_lost_is_a_reason_to_open_a_driver_that_opens_quickly(
    fake_nvml: FakeNvml,
    backend: NvmlBackend,
    monkeypatch: pytest.MonkeyPatch,
    open_seconds: float,
    expected: list[int],
) -> None:
    fake_nvml.devices = CARDS
    read(backend, 0.0)
    fake_nvml.lose(1)
    read(backend, 0.0)
    # As long as the driver takes, whatever this machine measures.
    forced = property(lambda _: open_seconds, lambda _, value: None)
    monkeypatch.setattr(type(backend._driver), "open_seconds", forced, raising=False)
    assert opened_at(fake_nvml, backend, until=700) == expected


def test_the_handle_of_a_lost_card_is_looked_up_at_every_second_read_and_no_others(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = CARDS
    read(backend, 0.0)
    fake_nvml.lose(1)
    read(backend, 0.5)
    calls = fake_nvml.calls("handle")
    for half_seconds in range(2, 18):
        read(backend, half_seconds / 2)
    assert fake_nvml.calls("handle") == calls + 16  # eight look-ups of two attempts


@pytest.mark.parametrize("reads_while_lost", range(1, 5))
def test_a_lost_card_that_comes_back_is_read_within_two_reads(
    fake_nvml: FakeNvml, backend: NvmlBackend, reads_while_lost: int
) -> None:
    fake_nvml.devices = CARDS
    read(backend, 0.0)
    fake_nvml.lose(1)
    for number in range(reads_while_lost):
        assert unknown(read(backend, 0.1 * number)[1]) == FIELDS
    fake_nvml.find(1)
    read(backend, 1.0)
    assert not any(map(unknown, read(backend, 1.1)))
    assert fake_nvml.inits == 1


def test_a_card_that_cannot_be_looked_up_is_listed_and_identified_later(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = CARDS
    fake_nvml.lose(1)
    assert layout(read(backend, 0.0)) == [(0, A), (1, "unidentified-1"), (2, C)]
    fake_nvml.find(1)
    read(backend, 0.5)
    samples = read(backend, 1.0)
    assert layout(samples) == [(0, A), (1, B), (2, C)]
    assert not any(map(unknown, samples))


@pytest.mark.parametrize("code", [codes.NO_PERMISSION, codes.GPU_NOT_FOUND, codes.UNKNOWN])
def test_a_card_that_cannot_be_looked_up_costs_no_other_card(
    fake_nvml: FakeNvml, backend: NvmlBackend, code: int
) -> None:
    fake_nvml.device(0).refuse("handle", code)
    first, second = read(backend, 0.0)
    assert (first.device.uuid, first.device.index, unknown(first)) == ("unidentified-0", 0, FIELDS)
    assert (second.device.index, unknown(second)) == (1, set())


def test_a_card_withheld_by_permission_is_no_reason_to_open_the_driver_anew(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.device(0).refuse("handle", codes.NO_PERMISSION)
    assert opened_at(fake_nvml, backend, until=700) == [0]


def test_a_card_that_is_no_longer_listed_stays_unknown_and_keeps_its_index(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = CARDS
    read(backend, 0.0)
    fake_nvml.enumeration = [0, 2]
    samples = reopen(backend)
    assert layout(samples) == [(0, A), (1, B), (2, C)]
    assert [unknown(sample) == FIELDS for sample in samples] == [False, True, False]
    fake_nvml.enumeration = [1, 0, 2]
    assert not any(map(unknown, reopen(backend, 1.0)))


def test_a_card_that_was_replaced_is_forgotten_and_its_index_passes_on(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = CARDS[:2]
    read(backend, 0.0)
    fake_nvml.device(1).become(Card(C, pci_bus_id=PCI_B))
    samples = reopen(backend)
    assert layout(samples) == [(0, A), (1, C)]
    assert not any(map(unknown, samples))


def test_cards_without_a_pci_address_do_not_replace_each_other(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [Card(A, pci_bus_id=""), Card(B, pci_bus_id="")]
    fake_nvml.enumeration = [0]
    read(backend, 0.0)
    fake_nvml.enumeration = [1]
    assert layout(reopen(backend)) == [(0, A), (1, B)]


def test_a_node_whose_only_card_is_lost_lists_it_as_unknown(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = CARDS[:1]
    read(backend, 0.0)
    fake_nvml.lose(0)
    for now in (1.0, 2.0, 3.0, 60.0):
        (lost,) = read(backend, now)
        assert lost.device.uuid == A
        assert unknown(lost) == FIELDS


# The loss of the driver


def opened_at(fake: FakeNvml, backend: NvmlBackend, until: int) -> list[int]:
    """Read once a second, whatever comes of it: at which seconds was the driver initialised?"""
    opened = []
    for second in range(until):
        inits = fake.inits
        with contextlib.suppress(BackendError):
            read(backend, float(second))
        if fake.inits > inits:
            opened.append(second)
    return opened


def sentence(backend: NvmlBackend, now: float) -> str:
    with pytest.raises(BackendError) as caught:
        read(backend, now)
    return str(caught.value)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        pytest.param(codes.DRIVER_NOT_LOADED, "not loaded", id="the kernel module is not loaded"),
        pytest.param(codes.NO_PERMISSION, "/dev/nvidia", id="access is refused"),
        pytest.param(codes.LIB_RM_VERSION_MISMATCH, "restart the pod", id="the driver was upgraded"),
        pytest.param(codes.GPU_IS_LOST, "fallen off the bus", id="every card is lost"),
        pytest.param(codes.INSUFFICIENT_POWER, "NVML code 8", id="something else"),
        pytest.param(4711, "NVML code 4711", id="a code we never heard of"),
    ],
)
@pytest.mark.parametrize("call", ["init", "count", "handle"])
def test_a_driver_that_cannot_be_opened_says_why(
    fake_nvml: FakeNvml, backend: NvmlBackend, call: str, code: int, says: str
) -> None:
    fake_nvml.refuse(call, code)
    assert says in sentence(backend, 0.0)


def test_a_driver_without_a_device_says_so(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = []
    assert "lists no device; set NVIDIA_VISIBLE_DEVICES=all" in sentence(backend, 0.0)
    assert fake_nvml.shutdowns == 1


def test_a_driver_that_cannot_be_opened_is_tried_ever_less_often(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.driver_gone()
    assert opened_at(fake_nvml, backend, until=130) == [0, 1, 3, 7, 15, 31, 61, 91, 121]


def test_between_two_tries_the_sentence_is_said_again_and_the_driver_left_alone(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.driver_gone()
    said = sentence(backend, 10.0)
    calls = fake_nvml.calls()
    assert sentence(backend, 10.0) == said
    assert sentence(backend, 10.99) == said
    assert fake_nvml.calls() == calls


def test_a_driver_that_opens_well_but_cannot_be_read_is_tried_ever_less_often(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.refuse("mig mode", codes.DRIVER_NOT_LOADED)
    assert opened_at(fake_nvml, backend, until=40) == [0, 1, 3, 7, 15, 31]


DRIVER_CODES = [codes.UNINITIALIZED, codes.DRIVER_NOT_LOADED, codes.LIB_RM_VERSION_MISMATCH]


@pytest.mark.parametrize("code", [*DRIVER_CODES, codes.GPU_NOT_FOUND])
def test_a_card_whose_calls_say_that_the_driver_is_lost_costs_no_other_card(
    fake_nvml: FakeNvml, backend: NvmlBackend, code: int
) -> None:
    devices = layout(read(backend, 0.0))
    fake_nvml.device(1).refuse("power", code)
    other, lost = read(backend, 1.0)
    assert (unknown(other), unknown(lost)) == (set(), FIELDS)
    fake_nvml.device(1).allow("power")
    read(backend, 2.0)
    samples = read(backend, 3.0)
    assert layout(samples) == devices
    assert not any(map(unknown, samples))
    assert fake_nvml.inits == 1


@pytest.mark.parametrize("code", DRIVER_CODES)
def test_the_loss_of_the_driver_ends_the_read_and_it_is_opened_anew(
    fake_nvml: FakeNvml, backend: NvmlBackend, code: int
) -> None:
    devices = layout(read(backend, 0.0))
    fake_nvml.driver_gone(code)
    said = sentence(backend, 1.0)
    assert (fake_nvml.inits, fake_nvml.shutdowns) == (2, 1)
    fake_nvml.driver_back()
    assert sentence(backend, 1.5) == said
    assert layout(read(backend, 2.0)) == devices
    assert fake_nvml.inits == 3


def test_a_short_loss_of_the_driver_costs_nothing_even_while_a_card_is_lost(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    import pynvml

    fake_nvml.devices = CARDS
    read(backend, 0.0)
    fake_nvml.lose(1)
    opened_at(fake_nvml, backend, until=120)
    pynvml.nvmlShutdown()
    assert blind(read(backend, 121.0)) == [False, True, False]
    assert fake_nvml.inits == 2


def test_somebody_elses_shutdown_costs_no_reading(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    import pynvml

    read(backend, 0.0)
    pynvml.nvmlShutdown()
    assert not any(map(unknown, read(backend, 1.0)))
    assert fake_nvml.inits == 2


def test_a_driver_that_comes_back_ends_the_back_off(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.driver_gone()
    assert opened_at(fake_nvml, backend, until=8) == [0, 1, 3, 7]
    fake_nvml.driver_back()
    read(backend, 15.0)
    fake_nvml.driver_gone()
    sentence(backend, 16.0)
    fake_nvml.driver_back()
    assert read(backend, 17.0)


def test_closing_ends_the_back_off(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.driver_gone()
    sentence(backend, 0.0)
    fake_nvml.driver_back()
    backend.close()
    assert read(backend, 0.0)


# The library


def test_a_missing_library_is_named_with_the_ways_out(tmp_path: Path) -> None:
    path = str(tmp_path / "libnvidia-ml.so.1")
    said = sentence(NvmlBackend(path), 0.0)
    for part in (path, "No such file", "runtimeClassName: nvidia", "--nvml-library PATH", "--backend"):
        assert part in said
    assert said.count(path) == 1


def test_a_library_that_appears_later_is_found(fake_nvml: FakeNvml, tmp_path: Path) -> None:
    path = tmp_path / "later.so"
    backend = NvmlBackend(str(path))
    sentence(backend, 0.0)
    path.symlink_to(fake_nvml.library)
    sentence(backend, 0.5)
    assert read(backend, 1.0)
    backend.close()


def test_a_file_that_is_no_library_says_so(tmp_path: Path) -> None:
    path = tmp_path / "libnvidia-ml.so.1"
    path.write_text("not a library")
    assert str(path) in sentence(NvmlBackend(str(path)), 0.0)


def test_a_library_without_initialisation_names_what_it_lacks(
    open_backend: Callable[..., tuple[FakeNvml, NvmlBackend]],
) -> None:
    _, backend = open_backend("init")
    said = sentence(backend, 0.0)
    assert "has no nvmlInit" in said
    assert "--nvml-library" in said


def test_without_a_path_the_drivers_own_name_is_used(fake_nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LIBRARY == "libnvidia-ml.so.1"
    monkeypatch.setattr(nvml, "LIBRARY", fake_nvml.library)
    backend = NvmlBackend()
    assert read(backend, 0.0)
    backend.close()


def test_another_librarys_functions_are_not_called(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    import pynvml

    def stranger(*_: object) -> int:
        raise AssertionError("a function of the library that was open before")

    pynvml._nvmlGetFunctionPointer_cache["nvmlDeviceGetCount_v2"] = stranger
    assert read(backend, 0.0)


def test_a_card_has_the_number_of_its_device_file_where_the_driver_tells(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = [replace(CARDS[0], minor=3), CARDS[1]]
    assert [sample.device.minor for sample in read(backend, 0.0)] == [3, None]


def test_importing_the_backend_loads_no_binding() -> None:
    code = (
        "import sys, keda_gpu_scaler.devices.nvml.backend as n; n.NvmlBackend().close(); "
        "sys.exit('pynvml' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_closing_shuts_down_once(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    read(backend, 0.0)
    backend.close()
    backend.close()
    assert (fake_nvml.inits, fake_nvml.shutdowns) == (1, 1)


# MIG


def test_a_slice_has_the_numbers_of_its_instances_and_of_its_cards_device_file(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = [replace(SLICED, minor=3, slices=[Slice("MIG-1", instances=(7, 0)), Slice("MIG-2")])]
    first, second = (sample.device for sample in read(backend, 0.0))
    assert (first.minor, first.gpu_instance, first.compute_instance) == (3, 7, 0)
    assert (second.minor, second.gpu_instance, second.compute_instance) == (3, None, None)


def test_a_card_in_mig_mode_is_listed_as_its_slices(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [CARDS[1], SLICED]
    whole, *slices = read(backend, 0.0)
    assert whole.device.uuid == B
    memory = Sample(whole.device, memory_used_bytes=GIB, memory_total_bytes=10 * GIB)
    assert slices == [
        replace(memory, device=Device("MIG-1", 1, "1g.10gb", "0000:19:00.0", parent=A)),
        replace(memory, device=Device("MIG-2", 1, "2g.20gb", "0000:19:00.0", parent=A)),
    ]


def test_a_slice_is_read_by_its_own_handle(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [SLICED]
    fake_nvml.device(0).slices = [Slice("MIG-1", memory=Memory(3, 10)), Slice("MIG-2", memory=Memory(4, 20))]
    assert [(s.memory_used_bytes, s.memory_total_bytes) for s in read(backend, 0.0)] == [(3, 10), (4, 20)]
    assert fake_nvml.calls("utilisation", "temperature v1", "temperature v2", "power") == 0


def test_a_slice_of_an_older_driver_is_read_through_the_older_call(
    open_backend: Callable[..., tuple[FakeNvml, NvmlBackend]],
) -> None:
    fake, backend = open_backend("memory_v2")
    fake.devices = [SLICED]
    assert [sample.memory_used_bytes for sample in read(backend, 0.0)] == [GIB, GIB]


@pytest.mark.parametrize("slots", [[], [None, None]], ids=["no slots", "empty slots"])
def test_a_card_in_mig_mode_without_slices_is_listed_as_unknown(
    fake_nvml: FakeNvml, backend: NvmlBackend, slots: list[None]
) -> None:
    fake_nvml.devices = [Card(A, mig=True, slices=slots)]
    (sample,) = backend.read(0.0)
    assert (sample.device.uuid, unknown(sample)) == (A, FIELDS)
    assert [failure.reason for failure in sample.failures] == ["it is in MIG mode and has no instance"]


def test_a_card_that_could_be_cut_but_is_not_is_read_whole(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [Card(A, mig=False, slices=[None] * 7)]
    assert not unknown(read(backend, 0.0)[0])


def test_a_new_layout_is_seen_within_ten_seconds_and_not_looked_for_more_often(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = [SLICED]
    read(backend, 0.0)
    fake_nvml.device(0).slices = [Slice("MIG-1"), Slice("MIG-3"), Slice("MIG-2")]
    looked = fake_nvml.calls("mig mode", "mig slots", "mig handle")
    read(backend, 9.9)
    assert fake_nvml.calls("mig mode", "mig slots", "mig handle") == looked
    assert layout(read(backend, 10.0)) == [(0, "MIG-1"), (0, "MIG-2"), (0, "MIG-3")]
    assert fake_nvml.inits == 1


def test_mig_mode_may_be_switched_on_and_off(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [Card(A, mig=False, slices=[Slice("MIG-1")])]
    assert layout(read(backend, 0.0)) == [(0, A)]
    fake_nvml.device(0).mig = True
    assert layout(read(backend, 10.0)) == [(0, "MIG-1")]
    fake_nvml.device(0).mig = False
    assert layout(read(backend, 20.0)) == [(0, A)]


def test_a_model_without_mig_is_asked_about_it_once(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [BUSY]
    for now in range(100):
        read(backend, float(now))
    assert fake_nvml.calls("mig mode") == 1


# What a slice or a card says nothing of, at one look, is not gone, and not a whole board either.
SURPRISES = [codes.UNKNOWN, codes.NO_PERMISSION, 4711]
NO_MIG = [codes.NOT_SUPPORTED, codes.FUNCTION_NOT_FOUND, codes.ARGUMENT_VERSION_MISMATCH]


def blind(samples: tuple[Sample, ...]) -> list[bool]:
    return [unknown(sample) == FIELDS for sample in samples]


@pytest.mark.parametrize("code", [*SURPRISES, *NO_MIG])
@pytest.mark.parametrize("call", ["mig handle", "uuid"])
def test_a_slice_that_was_seen_stays_listed_as_unknown_while_its_slot_is_refused(
    fake_nvml: FakeNvml, backend: NvmlBackend, call: str, code: int
) -> None:
    fake_nvml.devices = [SLICED]
    before = read(backend, 0.0)
    fake_nvml.device(0).refuse_slice(0, call, code)
    for now in (10.0, 11.0, 60.0):
        assert read(backend, now) == (Sample(before[0].device), before[1])
    fake_nvml.device(0).refuse_slice(0, call, 0)
    assert read(backend, 61.0) == before


def test_a_slice_is_gone_only_when_every_slot_was_answered(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [SLICED]
    read(backend, 0.0)
    fake_nvml.device(0).slices = [None, Slice("MIG-3"), Slice("MIG-4")]
    fake_nvml.device(0).refuse_slice(2, "uuid", codes.UNKNOWN)
    samples = read(backend, 10.0)
    assert layout(samples) == [(0, "MIG-1"), (0, "MIG-2"), (0, "MIG-3")]
    assert blind(samples) == [True, True, False]
    fake_nvml.device(0).refuse_slice(2, "uuid", 0)
    assert layout(read(backend, 11.0)) == [(0, "MIG-3"), (0, "MIG-4")]


def test_a_slice_that_does_not_answer_after_the_driver_was_opened_anew_stays_listed(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = [SLICED]
    before = read(backend, 0.0)
    fake_nvml.device(0).refuse_slice(2, "mig handle", codes.UNKNOWN)
    assert reopen(backend, now=1.0) == (before[0], Sample(before[1].device))


UNTOLD = pytest.mark.parametrize(
    ("call", "code"),
    [(call, code) for call in ("mig mode", "mig slots") for code in (*SURPRISES, codes.NOT_FOUND)],
)


@UNTOLD
def test_a_card_that_does_not_tell_how_it_is_cut_is_unknown_until_it_does(
    fake_nvml: FakeNvml, backend: NvmlBackend, call: str, code: int
) -> None:
    fake_nvml.devices = [SLICED, CARDS[1]]
    fake_nvml.device(0).refuse(call, code)
    for now in (0.0, 1.0, 60.0):
        card, other = read(backend, now)
        assert card == Sample(Device(A, 0, "NVIDIA A100", "0000:19:00.0"))
        assert not unknown(other)
    fake_nvml.device(0).allow(call)
    assert layout(read(backend, 61.0)) == [(0, "MIG-1"), (0, "MIG-2"), (1, B)]
    assert fake_nvml.inits == 1


@UNTOLD
@pytest.mark.parametrize("opened_anew", [False, True], ids=["at a later look", "after the driver was opened anew"])
def test_slices_that_were_seen_are_unknown_while_the_card_does_not_tell_of_them(
    fake_nvml: FakeNvml, backend: NvmlBackend, call: str, code: int, opened_anew: bool
) -> None:
    fake_nvml.devices = [SLICED]
    before = read(backend, 0.0)
    fake_nvml.device(0).refuse(call, code)
    if opened_anew:
        backend.close()
    for now in (10.0, 11.0, 60.0):
        assert read(backend, now) == tuple(Sample(sample.device) for sample in before)
    fake_nvml.device(0).allow(call)
    assert read(backend, 61.0) == before


def test_a_whole_card_is_unknown_while_it_does_not_tell_whether_it_still_is(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = [Card(A, mig=False)]
    before = read(backend, 0.0)
    fake_nvml.device(0).refuse("mig mode", codes.UNKNOWN)
    assert read(backend, 9.9) == before
    assert read(backend, 10.0) == (Sample(before[0].device),)
    fake_nvml.device(0).allow("mig mode")
    assert read(backend, 11.0) == before


@pytest.mark.parametrize("code", NO_MIG)
def test_a_card_that_has_no_mig_is_read_whole(fake_nvml: FakeNvml, backend: NvmlBackend, code: int) -> None:
    fake_nvml.devices = CARDS
    fake_nvml.device(0).refuse("mig mode", code)
    assert not unknown(read(backend, 0.0)[0])


@pytest.mark.parametrize("code", NO_MIG)
def test_a_card_that_was_seen_in_mig_mode_is_not_believed_to_have_none(
    fake_nvml: FakeNvml, backend: NvmlBackend, code: int
) -> None:
    fake_nvml.devices = [SLICED]
    before = read(backend, 0.0)
    fake_nvml.device(0).refuse("mig mode", code)
    assert read(backend, 10.0) == tuple(Sample(sample.device) for sample in before)
    assert reopen(backend, now=11.0) == tuple(Sample(sample.device) for sample in before)


@pytest.mark.parametrize("call", ["mig handle", "uuid"])
def test_a_card_of_which_no_slice_was_found_but_one_refused_stays_listed_as_unknown(
    fake_nvml: FakeNvml, backend: NvmlBackend, call: str
) -> None:
    fake_nvml.devices = [Card(A, mig=True, slices=[None, Slice("MIG-1")])]
    fake_nvml.device(0).refuse_slice(1, call, codes.UNKNOWN)
    samples = read(backend, 0.0)
    assert (layout(samples), blind(samples)) == ([(0, A)], [True])
    fake_nvml.device(0).refuse_slice(1, call, 0)
    assert layout(read(backend, 1.0)) == [(0, "MIG-1")]


@pytest.mark.parametrize("call", ["mig handle", "uuid"])
def test_a_slice_that_cannot_be_looked_up_costs_no_other_slice(
    fake_nvml: FakeNvml, backend: NvmlBackend, call: str
) -> None:
    fake_nvml.devices = [SLICED]
    fake_nvml.device(0).refuse_slice(0, call, codes.NO_PERMISSION)
    assert layout(read(backend, 0.0)) == [(0, "MIG-2")]


def test_a_slice_that_is_taken_away_is_unknown_until_the_next_look(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [SLICED]
    read(backend, 0.0)
    fake_nvml.device(0).slices = [Slice("MIG-1"), None, None]
    kept, gone = read(backend, 1.0)
    assert gone == Sample(gone.device)
    assert kept.has_reading
    assert layout(read(backend, 10.0)) == [(0, "MIG-1")]


def test_slices_are_looked_up_anew_when_the_driver_is_opened_anew(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [SLICED]
    before = read(backend, 0.0)
    assert reopen(backend, now=1.0) == before


def test_the_slices_of_a_lost_card_stay_listed_as_unknown(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [SLICED, CARDS[1]]
    before = read(backend, 0.0)
    fake_nvml.lose(0)
    for now in (0.5, 1.0, 30.0):
        first, second, other = read(backend, now)
        assert (first, second) == (Sample(before[0].device), Sample(before[1].device))
        assert not unknown(other)
    fake_nvml.find(0)
    assert read(backend, 60.0) == before


class MigUnderFire(RuleBasedStateMachine):
    """One card that may be cut and whose calls may err, next to one that is well; read at any time."""

    LAYOUTS = (
        [Slice("MIG-1", memory=Memory(1, 101)), None, Slice("MIG-2", memory=Memory(2, 102))],
        [None, Slice("MIG-2", memory=Memory(2, 102)), Slice("MIG-3", memory=Memory(3, 103))],
        [Slice("MIG-4", memory=Memory(4, 104)), None, None],
        [None, None, None],
    )
    # What the card may answer instead. NOT_FOUND is an empty slot, and so an answer.
    CODES = (*SURPRISES, codes.GPU_IS_LOST)
    CARD_CALLS = ("handle", "uuid", "mig mode", "mig slots")
    SLICE_CALLS = ("mig handle", "uuid", "memory v2")

    fake: FakeNvml

    def __init__(self) -> None:
        super().__init__()
        self.fake.driver_back()
        self.fake.devices = [Card(A, pci_bus_id=PCI_A, mig=True, slices=self.LAYOUTS[0]), CARDS[1]]
        self.card = self.fake.device(0)
        self.backend = NvmlBackend(self.fake.library)
        self.now = 0.0
        self.card_refusals: set[str] = set()
        self.slot_refusals: set[tuple[int, str]] = set()
        self.driver_was_gone = self.layout_is_new = False
        self.listed: set[str] = set()

    def teardown(self) -> None:
        try:
            self.when_all_is_well_the_layout_is_the_drivers()
        finally:
            self.backend.close()

    @rule(call=st.sampled_from(CARD_CALLS), code=st.sampled_from(CODES))
    def refuse(self, call: str, code: int) -> None:
        self.card.refuse(call, code)
        self.card_refusals.add(call)

    @rule(slot=st.integers(0, 2), call=st.sampled_from(SLICE_CALLS), code=st.sampled_from(CODES))
    def refuse_slice(self, slot: int, call: str, code: int) -> None:
        self.card.refuse_slice(slot, call, code)
        self.slot_refusals.add((slot, call))

    @rule(layout=st.sampled_from(LAYOUTS))
    def cut(self, layout: list[Slice | None]) -> None:
        self.card.slices = layout
        self.slot_refusals.clear()
        self.layout_is_new = True

    @rule(enabled=st.booleans())
    def switch(self, enabled: bool) -> None:
        self.card.mig = enabled
        self.layout_is_new = True

    @rule()
    def lose_driver(self) -> None:
        self.fake.driver_gone()
        self.driver_was_gone = True

    @rule()
    def heal(self) -> None:
        for call in self.card_refusals:
            self.card.allow(call)
        for slot, call in self.slot_refusals:
            self.card.refuse_slice(slot, call, 0)
        self.card_refusals.clear()
        self.slot_refusals.clear()
        self.fake.driver_back()

    @rule()
    def close(self) -> None:
        self.backend.close()

    # Several rules, for Hypothesis to read as often as it does harm.

    @rule()
    def read_soon(self) -> None:
        self.read(after=1.0)

    @rule()
    def read_at_the_next_look(self) -> None:
        self.read(after=MIG_LAYOUT_SECONDS)

    @rule()
    def read_when_every_wait_is_over(self) -> None:
        self.read(after=nvml.LONGEST_WAIT_SECONDS)

    def read(self, after: float) -> None:
        # A layout is believed for ten seconds, so a new one gets no reading before.
        self.now += after + MIG_LAYOUT_SECONDS * self.layout_is_new
        self.layout_is_new = False
        try:
            healthy, *others = self.backend.read(self.now)[::-1]
        except BackendError:
            # Nothing but the driver's loss costs the healthy card its readings.
            assert self.driver_was_gone
            return
        self.driver_was_gone = self.driver_was_gone and not self.fake.driver_is_there
        assert healthy.device.uuid == B
        assert not unknown(healthy)
        for sample in others:
            self.check(sample)
        listed = {sample.device.uuid for sample in others}
        assert len(listed) == len(others)
        if self.may_hide():
            assert self.listed - {A, "unidentified-0"} <= listed
        self.listed = listed

    def check(self, sample: Sample) -> None:
        if not sample.has_reading:
            assert sample.memory_total_bytes is None
        elif sample.device.parent is None:
            assert not self.card.mig
        else:
            held = {each.uuid: each.memory for each in self.card.slices if each}
            assert self.card.mig
            assert (sample.memory_used_bytes, sample.memory_total_bytes) == held[sample.device.uuid][:2]
            assert unknown(sample) == FIELDS - {"memory_used_bytes", "memory_total_bytes"}

    def may_hide(self) -> bool:
        """Whether a look at the card's layout is bound to meet a refusal."""
        if "mig mode" in self.card_refusals:
            return True
        if not self.card.mig:
            return False
        present = {slot for slot, each in enumerate(self.card.slices) if each}
        refused = {slot for slot, call in self.slot_refusals if call in ("mig handle", "uuid")}
        return "mig slots" in self.card_refusals or bool(present & refused)

    def when_all_is_well_the_layout_is_the_drivers(self) -> None:
        self.heal()
        if not self.listed:
            self.backend.close()  # a card withheld by permission from the start is not looked for again
        for _ in range(2):
            self.now += nvml.LONGEST_WAIT_SECONDS
            samples = self.backend.read(self.now)
        slices = {each.uuid for each in self.card.slices if each} if self.card.mig else set()
        assert {sample.device.uuid for sample in samples} == (slices or {A}) | {B}
        assert blind(samples) == [self.card.mig and not slices and sample.device.uuid == A for sample in samples]


def test_whatever_mig_refuses_no_slice_is_forgotten_and_no_value_is_anothers(
    fake_nvml: FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    class OnThisDriver(MigUnderFire):
        fake = fake_nvml

    caplog.set_level(logging.CRITICAL)
    run_state_machine_as_test(
        OnThisDriver, settings=settings(derandomize=True, max_examples=examples(100), deadline=None)
    )
