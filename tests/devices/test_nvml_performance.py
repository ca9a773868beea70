# SPDX-License-Identifier: Apache-2.0
"""Tests of the expensive readings and of the utilisation of MIG slices, through the C interface."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.interfaces import Backend
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import PerformanceReadings, Sample
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from keda_gpu_scaler.sampler import Sampler
from tests import fake_nvml as codes
from tests.contract.backends import BackendContract
from tests.fake_nvml import GPM, Card, FakeNvml, Slice

A, B = "GPU-aaaa", "GPU-bbbb"
PCI_B = "00000000:3B:00.0"
MIB, KIB = 1 << 20, 1 << 10
HOPPER = Card(A, "NVIDIA H100 80GB HBM3", gpm=True, fields=True)
AMPERE = Card(A, "NVIDIA A100-SXM4-80GB", fields=True)
SLICED = replace(HOPPER, mig=True, slices=[Slice("MIG-1", instances=(7, 0)), None, Slice("MIG-2", instances=(8, 0))])
BUSY: dict[str, float] = dict(zip((name.replace(" ", "_") for name in GPM), (80, 60, 40, 20, 1, 2, 3, 4), strict=True))


class Node:
    """A driver, a backend that reads it, and the sampler's clock."""

    def __init__(self, fake: FakeNvml) -> None:
        self.fake = fake
        self.now = 100.0
        self.wanted = True
        self.backend = NvmlBackend(fake.library, wants_performance=lambda: self.wanted, clock=lambda: self.now)

    def read(self, after: float = 0.0) -> tuple[Sample, ...]:
        self.now += after
        return self.backend.read(self.now)

    def run(self, seconds: float, slot: int | None = None, /, **means: float) -> tuple[Sample, ...]:
        """Let the first card, or a slice of it, work; then read."""
        self.fake.device(0).run(seconds, slot, **means)
        return self.read(seconds)

    def measure(self, seconds: float = 5.0, **means: float) -> PerformanceReadings:
        """Return the readings of the first card after the first reading and one interval."""
        self.read()
        self.fake.device(0).run(seconds, None, **means)
        self.now += seconds
        (sample, *_) = self.read()
        assert sample.performance is not None
        return sample.performance


@pytest.fixture
def node(fake_nvml: FakeNvml) -> Iterator[Node]:
    node = Node(fake_nvml)
    yield node
    node.backend.close()
    assert (fake_nvml.gpm_mismatches, fake_nvml.gpm_samples, fake_nvml.gpm_leaks) == (0, 0, 0)


@pytest.fixture
def open_node(make_fake_nvml: Callable[..., FakeNvml]) -> Iterator[Callable[..., Node]]:
    """Makes a node whose driver lacks some symbols."""
    nodes: list[Node] = []

    def make(*without: str) -> Node:
        nodes.append(Node(make_fake_nvml(*without)))
        return nodes[-1]

    yield make
    for node in nodes:
        node.backend.close()


def reasons(sample: Sample) -> dict[str, str]:
    return {failure.reading: failure.reason for failure in sample.failures}


class TestContractOnAHopperCard(BackendContract):
    @pytest.fixture
    def backend(self, node: Node) -> Backend:
        node.fake.devices = [HOPPER, replace(AMPERE, uuid=B, pci_bus_id=PCI_B)]
        return node.backend


class TestContractOnSlicesWithGpm(BackendContract):
    @pytest.fixture
    def backend(self, node: Node) -> Backend:
        node.fake.devices = [SLICED]
        return node.backend


# Whole GPUs


def test_a_hopper_card_is_measured_by_gpm_with_its_directions_right(node: Node) -> None:
    node.fake.devices = [HOPPER]
    node.fake.device(0).set_field("energy", 250_000)
    assert node.measure(**BUSY) == PerformanceReadings(
        at_seconds=105.0,
        seconds=5.0,
        sm_active_ratio=0.6,
        tensor_active_ratio=0.4,
        dram_active_ratio=0.2,
        pcie_rx_bytes_per_second=2 * MIB,
        pcie_tx_bytes_per_second=1 * MIB,
        nvlink_rx_bytes_per_second=3 * MIB,
        nvlink_tx_bytes_per_second=4 * MIB,
        energy_joules=250.0,
    )
    assert node.fake.calls("pcie throughput") == 0


def test_a_mean_covers_the_whole_time_between_two_readings(node: Node) -> None:
    node.fake.devices = [HOPPER]
    node.read()
    node.run(1.0, sm=0)
    means = [node.run(1.0, sm=sm)[0].performance for sm in (100, 0, 0, 0, 50)]
    assert means[0] is means[1] is means[2] is means[3]
    assert means[4] is not None
    assert means[4].seconds == 5.0
    assert means[4].sm_active_ratio == pytest.approx(0.3)


def test_the_first_value_needs_one_second_and_the_next_ones_five(node: Node) -> None:
    node.fake.devices = [HOPPER]
    taken = [None if (read := node.run(1.0)[0].performance) is None else read.at_seconds for _ in range(13)]
    assert taken == [None, *[102.0] * 5, *[107.0] * 5, *[112.0] * 2]
    assert node.fake.calls("gpm sample") == 4


def test_nothing_expensive_is_read_while_nobody_wants_it(node: Node) -> None:
    node.wanted = False
    node.fake.devices = [HOPPER, replace(AMPERE, uuid=B, pci_bus_id=PCI_B)]
    for _ in range(20):
        assert [sample.performance for sample in node.run(1.0)] == [None, None]
    assert node.fake.calls("gpm sample", "gpm alloc", "field values", "pcie throughput", "gpm support") == 0


def test_what_was_counted_while_nobody_wanted_it_is_in_no_mean(node: Node) -> None:
    node.fake.devices = [HOPPER]
    node.measure(sm=50)
    node.wanted = False
    assert node.run(100.0, sm=100)[0].performance is None
    node.wanted = True
    assert node.run(1.0, sm=100)[0].performance is None
    (sample,) = node.run(1.0, sm=10)
    assert sample.performance is not None
    assert sample.performance.sm_active_ratio == pytest.approx(0.1)


@pytest.mark.parametrize("what", [("gpm",), ()], ids=["an old driver", "an Ampere card"])
def test_without_gpm_traffic_comes_from_counters_and_activity_is_unknown(
    open_node: Callable[..., Node], what: tuple[str, ...]
) -> None:
    node = open_node(*what)
    node.fake.devices = [HOPPER if what else AMPERE]
    card = node.fake.device(0)
    counts = {
        "pcie tx": (2**64 - 100, 400),  # the counter wraps
        "pcie rx": (0, 1000),
        "nvlink tx": (1, 6),
        "nvlink rx": (1, 11),
    }
    for name, (before, _) in counts.items():
        card.set_field(name, before)
    node.read()
    for name, (_, after) in counts.items():
        card.set_field(name, after)
    (sample,) = node.read(5.0)
    assert sample.performance == PerformanceReadings(
        105.0,
        5.0,
        pcie_rx_bytes_per_second=200.0,
        pcie_tx_bytes_per_second=100.0,
        nvlink_rx_bytes_per_second=2 * KIB,
        nvlink_tx_bytes_per_second=1 * KIB,
        energy_joules=0.0,
    )
    why = "the driver is too old for GPM" if what else "the GPU has no GPM, which needs Hopper or newer"
    assert reasons(sample) == {"activity": why}


def test_traffic_that_gpm_does_not_have_comes_from_counters(node: Node) -> None:
    node.fake.devices = [HOPPER]
    card = node.fake.device(0)
    card.refuse_gpm("nvlink rx")
    card.set_field("nvlink tx", 0)
    node.read()
    node.run(1.0, **BUSY)
    card.set_field("nvlink tx", 5)
    (sample,) = node.run(1.0, **BUSY)
    assert sample.performance is not None
    assert sample.performance.nvlink_tx_bytes_per_second == 5 * KIB
    assert sample.performance.pcie_tx_bytes_per_second == pytest.approx(MIB)


def test_the_links_of_nvlink_5_are_added_up(node: Node) -> None:
    node.fake.devices = [AMPERE]
    card = node.fake.device(0)
    card.refuse_field("nvlink tx")
    card.refuse_field("nvlink rx")
    card.set_field("nvlink links", 3)
    card.set_field("nvlink tx of a link", 0, 0, 0)
    node.read()
    node.read(1.0)
    card.set_field("nvlink tx of a link", 5, 10, 15)
    card.set_field("nvlink rx of a link", 5, 0, 0)
    (sample,) = node.read(5.0)
    assert sample.performance is not None
    assert sample.performance.nvlink_tx_bytes_per_second == 6.0
    assert sample.performance.nvlink_rx_bytes_per_second == 1.0


def test_a_link_that_fails_makes_the_sum_unknown_and_not_smaller(node: Node) -> None:
    node.fake.devices = [AMPERE]
    node.measure()
    node.fake.device(0).refuse_field("nvlink tx", codes.UNKNOWN)
    (sample,) = node.read(5.0)
    assert sample.performance is not None
    assert sample.performance.nvlink_tx_bytes_per_second is None
    assert sample.performance.pcie_tx_bytes_per_second == 0.0
    assert reasons(sample)["nvlink"] == "Unknown Error (999)"
    node.fake.device(0).set_field("nvlink tx", 10**9)
    node.read(1.0)
    (sample,) = node.read(1.0)
    assert sample.performance is not None
    assert sample.performance.nvlink_tx_bytes_per_second == 0.0


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(0, id="the counter fell"),
        pytest.param(10**15, id="more than any hardware carries"),
    ],
)
def test_a_counter_that_started_again_has_no_rate(node: Node, after: int) -> None:
    node.fake.devices = [AMPERE]
    node.fake.device(0).set_field("pcie tx", 10**12)
    node.read()
    node.fake.device(0).set_field("pcie tx", after)
    (sample,) = node.read(5.0)
    assert sample.performance is not None
    assert sample.performance.pcie_tx_bytes_per_second is None
    assert sample.performance.pcie_rx_bytes_per_second == 0.0
    assert reasons(sample)["pcie"] == "the counter started again"
    node.fake.device(0).set_field("pcie tx", after + 50)
    (sample,) = node.read(5.0)
    assert sample.performance is not None
    assert sample.performance.pcie_tx_bytes_per_second == pytest.approx(10.0)


@pytest.mark.parametrize("missing", ["no counters", "counters of 32 bits, which wrap in a tick"])
def test_without_counters_of_pcie_the_bus_is_watched(node: Node, missing: str) -> None:
    node.fake.devices = [AMPERE]
    card = node.fake.device(0)
    for name in ("pcie tx", "pcie rx"):
        if missing == "no counters":
            card.refuse_field(name)
        else:
            card.set_field(name, 1, value_type=codes.UNSIGNED_INT)
    card.set_pcie_throughput(tx=7, rx=9)
    node.read()
    (sample,) = node.read(5.0)
    assert sample.performance is not None
    assert sample.performance.pcie_tx_bytes_per_second == 7000.0
    assert sample.performance.pcie_rx_bytes_per_second == 9000.0
    before = node.fake.calls("pcie throughput")
    node.read(4.0)
    assert node.fake.calls("pcie throughput") == before


def test_a_card_with_no_traffic_at_all_says_so_once(
    open_node: Callable[..., Node], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    node = open_node("fields")
    node.fake.devices = [AMPERE]
    node.fake.device(0).refuse("pcie throughput")
    for _ in range(20):
        (sample,) = node.read(1.0)
    node.wanted = False
    (quiet,) = node.read(1.0)
    assert sample.performance == PerformanceReadings(117.0, 5.0)
    assert quiet.performance is None
    expected = {
        "activity": "the GPU has no GPM, which needs Hopper or newer",
        "nvlink": "the GPU has no counter of it",
        "pcie": "Not Supported (3)",
    }
    assert reasons(sample) == reasons(quiet) == expected
    assert all(failure.since_seconds is None for failure in sample.failures)
    offered = " ".join(record.getMessage() for record in caplog.records if "does not offer" in record.getMessage())
    assert [offered.count(f"{name} (") for name in expected] == [1, 1, 1]


@pytest.mark.parametrize("call", ["gpm sample", "gpm metrics", "gpm support"])
@pytest.mark.parametrize("code", [codes.UNKNOWN, codes.NO_PERMISSION])
def test_an_error_of_gpm_costs_no_other_reading_and_ends(node: Node, call: str, code: int) -> None:
    node.fake.devices = [HOPPER]
    if call != "gpm support":
        node.measure(**BUSY)
    node.fake.device(0).refuse(call, code)
    node.fake.refuse(call, code)
    (sample,) = node.run(5.0, **BUSY)
    assert sample.temperature_celsius == 30.0
    assert sample.performance is None or sample.performance.sm_active_ratio is None
    assert reasons(sample).keys() == {"activity", "pcie", "nvlink"}
    node.fake.device(0).allow(call)
    node.fake.allow(call)
    node.run(1.0, **BUSY)
    (sample,) = node.run(1.0, **BUSY)
    assert sample.performance is not None
    assert sample.performance.sm_active_ratio == pytest.approx(0.6)
    assert not sample.failures


@pytest.mark.parametrize(
    ("name", "mean", "field"),
    [
        pytest.param("sm", 140.0, "sm_active_ratio", id="more than all multiprocessors"),
        pytest.param("dram", float("nan"), "dram_active_ratio", id="no number"),
        pytest.param("pcie_tx", 1e9, "pcie_tx_bytes_per_second", id="more than PCIe carries"),
        pytest.param("nvlink_rx", -1.0, "nvlink_rx_bytes_per_second", id="negative traffic"),
    ],
)
def test_nonsense_of_gpm_is_unknown(node: Node, name: str, mean: float, field: str) -> None:
    node.fake.devices = [HOPPER]
    measured = node.measure(**{**BUSY, name: mean})
    unknown = [one for one in PerformanceReadings.__dataclass_fields__ if getattr(measured, one) is None]
    assert unknown == [field]


def test_a_card_that_comes_back_is_not_compared_with_the_time_before(node: Node) -> None:
    node.fake.devices = [HOPPER, replace(AMPERE, uuid=B, pci_bus_id=PCI_B)]
    node.measure(sm=50)
    node.fake.lose(0)
    node.run(5.0, sm=100)
    node.fake.find(0)
    readings = [node.run(1.0, sm=10)[0].performance for _ in range(8)]
    activities = [each.sm_active_ratio for each in readings if each is not None]
    assert activities
    assert activities == [pytest.approx(0.1)] * len(activities)


def test_a_driver_that_is_opened_again_needs_two_samples_again(node: Node) -> None:
    node.fake.devices = [HOPPER]
    node.measure(sm=50)
    node.backend.close()
    assert (node.fake.gpm_samples, node.fake.gpm_leaks) == (0, 0)
    assert node.run(5.0, sm=100)[0].performance is None
    (sample,) = node.run(1.0, sm=10)
    assert sample.performance is not None
    assert sample.performance.sm_active_ratio == pytest.approx(0.1)


def test_a_call_of_gpm_that_hangs_costs_no_other_card_and_no_memory(fake_nvml: FakeNvml) -> None:
    node = Node(fake_nvml)
    fake_nvml.devices = [HOPPER, replace(HOPPER, uuid=B, pci_bus_id=PCI_B)]
    node.read()
    fake_nvml.device(0).hang("gpm sample")
    first, second = node.read(1.0)
    assert reasons(first) == {"": "nvmlGpmSampleGet has not returned"}
    assert second.has_reading
    node.backend.close()
    assert fake_nvml.gpm_leaks == 0
    fake_nvml.release()


def test_samples_are_used_again(node: Node) -> None:
    node.fake.devices = [HOPPER]
    for _ in range(100):
        node.run(5.0, **BUSY)
    assert node.fake.calls("gpm alloc") == 2


# MIG slices


def utilizations(samples: tuple[Sample, ...]) -> list[float | None]:
    return [sample.gpu_utilization_ratio for sample in samples]


def test_a_slice_has_the_utilisation_of_its_gpu_instance(node: Node) -> None:
    node.wanted = False
    node.fake.devices = [SLICED]
    assert utilizations(node.read()) == [None, None]
    node.fake.device(0).run(1.0, 0, graphics=80, sm=60)
    assert utilizations(node.run(1.0, 2, graphics=30)) == [0.8, 0.3]
    node.fake.device(0).run(1.0, 0, graphics=10)
    samples = node.run(1.0, 2, graphics=20)
    assert utilizations(samples) == [pytest.approx(0.1), pytest.approx(0.2)]
    assert [sample.performance for sample in samples] == [None, None]
    assert [sample.memory_utilization_ratio for sample in samples] == [None, None]
    assert reasons(samples[0]).keys() == {"temperature", "power"}


def test_the_activity_of_a_slice_is_read_while_it_is_wanted(node: Node) -> None:
    node.fake.devices = [SLICED]
    node.read()
    node.fake.device(0).run(1.0, 2)
    first, _ = node.run(1.0, 0, **BUSY)
    assert first.performance == PerformanceReadings(101.0, 1.0, 0.6, 0.4, 0.2)
    board = "GPM measures it for the whole board, not for a MIG slice"
    assert (reasons(first)["pcie"], reasons(first)["nvlink"]) == (board, board)


def test_a_slice_of_an_ampere_card_has_no_utilisation_and_says_why(node: Node) -> None:
    node.fake.devices = [replace(SLICED, gpm=False)]
    node.read()
    for sample in node.read(1.0):
        assert (sample.gpu_utilization_ratio, sample.memory_used_bytes) == (None, codes.GIB)
        assert reasons(sample)["utilization"] == (
            "NVML has no utilisation of a MIG slice of this GPU: the GPU has no GPM, which needs Hopper or newer"
        )


def test_samples_closer_than_a_tenth_of_a_second_are_not_compared(node: Node) -> None:
    node.fake.devices = [SLICED]
    node.read()
    node.fake.device(0).run(1.0, 2)
    assert utilizations(node.run(1.0, 0, graphics=80))[0] == 0.8
    node.fake.device(0).run(0.05, 2)
    assert utilizations(node.run(0.05, 0, graphics=0))[0] == 0.8
    node.fake.device(0).run(0.95, 2)
    assert utilizations(node.run(0.95, 0, graphics=0))[0] == 0.0


def test_compute_instances_of_one_gpu_instance_have_no_utilisation_of_their_own(node: Node) -> None:
    node.fake.devices = [replace(SLICED, slices=[Slice("MIG-1", instances=(7, 0)), Slice("MIG-2", instances=(7, 1))])]
    node.read()
    for sample in node.run(1.0, 0, graphics=80):
        assert sample.gpu_utilization_ratio is None
        assert "several compute instances share its GPU instance" in reasons(sample)["utilization"]


def test_a_slice_whose_instance_is_not_known_has_no_utilisation(node: Node) -> None:
    node.fake.devices = [replace(SLICED, slices=[Slice("MIG-1")])]
    node.read()
    (sample,) = node.read(1.0)
    assert reasons(sample)["utilization"] == "the driver does not return its GPU instance"


@pytest.mark.parametrize(
    ("uuid", "gap"),
    [
        pytest.param("MIG-1", True, id="with its UUID, after a read without it"),
        pytest.param("MIG-9", True, id="with another UUID, after a read without it"),
        pytest.param("MIG-9", False, id="with another UUID, between two reads"),
    ],
)
def test_a_new_instance_is_never_compared_with_the_one_that_had_its_id(node: Node, uuid: str, gap: bool) -> None:
    node.fake.devices = [replace(SLICED, slices=[Slice("MIG-1", instances=(7, 0))])]
    node.read()
    node.run(1.0, 0, graphics=80)
    if gap:
        node.fake.device(0).slices = [None]
        node.read(1.0)
    node.fake.device(0).slices = [Slice(uuid, instances=(7, 0))]
    node.fake.device(0).run(50.0, 0, graphics=100)
    read = [node.run(1.0, 0, graphics=100)]
    read += [node.run(1.0, 0, graphics=20) for _ in range(12)]
    first_known = next(each for (sample,) in read if (each := sample.gpu_utilization_ratio) is not None)
    assert first_known == pytest.approx(0.2)
    assert {sample.device.uuid for (sample,) in read if sample.gpu_utilization_ratio is not None} == {uuid}
    assert utilizations(read[-1]) == [pytest.approx(0.2)]
    assert node.fake.gpm_mismatches == 0


def test_an_instance_that_is_new_in_the_layout_is_not_compared_with_the_one_that_had_its_id(node: Node) -> None:
    node.fake.devices = [replace(SLICED, slices=[Slice("MIG-1", instances=(7, 0))])]
    node.read()
    node.run(9.0, 0, graphics=80)
    node.fake.device(0).slices = [Slice("MIG-9", instances=(7, 0))]
    (sample,) = node.run(1.0, 0, graphics=20)
    assert (sample.device.uuid, sample.gpu_utilization_ratio) == ("MIG-9", None)
    (sample,) = node.run(1.0, 0, graphics=20)
    assert sample.gpu_utilization_ratio == pytest.approx(0.2)
    assert node.fake.gpm_mismatches == 0


def test_a_replaced_instance_is_listed_at_the_next_read(node: Node) -> None:
    node.fake.devices = [replace(SLICED, slices=[Slice("MIG-1", instances=(7, 0))])]
    node.read()
    node.fake.device(0).slices = [Slice("MIG-9", instances=(7, 0))]
    (sample,) = node.read(1.0)
    assert reasons(sample)["utilization"] == "its instance was replaced by another one"
    (sample,) = node.read(1.0)
    assert sample.device.uuid == "MIG-9"


def test_a_slice_that_gpm_refuses_keeps_its_memory_and_costs_no_other_slice(node: Node) -> None:
    node.fake.devices = [SLICED]
    node.read()
    node.fake.device(0).refuse_slice(0, "gpm mig sample", codes.UNKNOWN)
    first, second = node.run(1.0, 2, graphics=30)
    assert (first.gpu_utilization_ratio, first.memory_used_bytes) == (None, codes.GIB)
    assert reasons(first)["utilization"] == "Unknown Error (999)"
    assert second.gpu_utilization_ratio == 0.3


def test_a_card_that_leaves_mig_mode_gives_its_samples_back(node: Node) -> None:
    node.fake.devices = [SLICED]
    node.read()
    node.fake.device(0).mig = False
    node.read(10.0)
    (sample,) = node.run(1.0, **BUSY)
    assert sample.performance is not None
    assert node.fake.gpm_samples <= 3


def test_two_minutes_of_errors_in_a_twentieth_of_the_calls_give_no_wrong_value_and_few_gaps(node: Node) -> None:
    node.fake.devices = [HOPPER, replace(SLICED, uuid=B, pci_bus_id=PCI_B, slices=[Slice("MIG-1", instances=(7, 0))])]
    node.read()
    node.fake.flap(50, codes.UNKNOWN, codes.NO_PERMISSION, codes.GPU_IS_LOST, codes.NOT_FOUND)
    activities: list[float | None] = []
    utilizations: list[float | None] = []
    for _ in range(120):
        node.fake.device(1).run(1.0, 0, graphics=40)
        card, piece = node.run(1.0, sm=60, nvlink_tx=5)
        activities.append(None if card.performance is None else card.performance.sm_active_ratio)
        utilizations.append(piece.gpu_utilization_ratio)
    assert {round(value, 6) for value in activities if value is not None} == {0.6}
    assert {round(value, 6) for value in utilizations if value is not None} == {0.4}
    assert activities.count(None) < 30
    assert utilizations.count(None) < 30
    node.fake.flap(0)


@pytest.mark.parametrize("window", ["0", "10"])
@pytest.mark.parametrize(
    ("card", "metric", "expected"),
    [
        pytest.param(HOPPER, "sm_active", 60.0, id="activity by GPM"),
        pytest.param(HOPPER, "nvlink_tx_mib_s", 5.0, id="traffic by GPM"),
        pytest.param(AMPERE, "nvlink_tx_mib_s", 5.0, id="traffic by counters"),
        pytest.param(SLICED, "gpu_utilization", 40.0, id="utilisation of a slice"),
        pytest.param(SLICED, "sm_active", 60.0, id="activity of a slice"),
        pytest.param(SLICED, "memory_used_percent", 10.0, id="memory of a slice"),
    ],
)
def test_under_errors_in_a_twentieth_of_the_calls_fewer_than_a_twentieth_of_the_answers_are_unavailable(
    node: Node, caplog: pytest.LogCaptureFixture, card: Card, metric: str, expected: float, window: str
) -> None:
    caplog.set_level(logging.CRITICAL)
    node.fake.devices = [replace(card, slices=card.slices[:1])]
    sampler = Sampler(node.backend, node="gpu-7", interval_seconds=1, clock=lambda: node.now)
    metadata = {"metricType": metric, "targetValue": "50", "scope": "node", "windowSeconds": window}
    trigger = parse_trigger({**metadata, "report": "average", "minCoverage": "1"})
    values: list[float | None] = []
    for second in range(130):
        node.now += 1
        node.fake.device(0).run(1.0, 0 if card.mig else None, graphics=40, sm=60, nvlink_tx=5)
        node.fake.device(0).set_field("nvlink tx", second * 5 * KIB)
        sampler.tick()
        if second == 9:
            node.fake.flap(50, codes.UNKNOWN, codes.GPU_IS_LOST, codes.UNINITIALIZED, codes.NO_PERMISSION, 10)
        elif second > 9:
            fleet = Fleet(sampler.history, 10.0, failure=sampler.failure)
            values.append(evaluate(trigger, fleet, node.now).value)
    node.fake.flap(0)
    assert {round(value, 6) for value in values if value is not None} == {expected}
    assert values.count(None) < 6
