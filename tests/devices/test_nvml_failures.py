# SPDX-License-Identifier: Apache-2.0
"""Tests of faults of the NVML driver: what is listed, what is logged, and which reason the answer has."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import ReadingFailure, Sample
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from keda_gpu_scaler.devices.nvml.driver import NvmlDriver
from keda_gpu_scaler.devices.nvml.gpu import ListedGpu
from keda_gpu_scaler.sampler import Sampler
from keda_gpu_scaler.wire.snapshot_codec import decode, encode
from tests import fake_nvml as codes
from tests.devices.test_nvml import BUSY, CARDS, PCI_A, PCI_B, A, B, C, layout, unknown
from tests.fake_nvml import GIB, Card, FakeNvml, Memory, Slice
from tests.fakes import ManualClock

NAME = f"GPU 1 (NVIDIA Fake 80GB, {B})"


@pytest.fixture
def backend(fake_nvml: FakeNvml) -> Iterator[NvmlBackend]:
    fake_nvml.devices = CARDS
    backend = NvmlBackend(fake_nvml.library)
    yield backend
    backend.close()


def failures(sample: Sample) -> list[tuple[str, str, float | None]]:
    return [(each.reading, each.reason, each.since_seconds) for each in sample.failures]


def messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


# A card that refuses when the driver is opened


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (codes.UNKNOWN, "Unknown Error (999)"),
        (codes.GPU_IS_LOST, "GPU is lost (15)"),
        (codes.NO_PERMISSION, "Insufficient Permissions (4)"),
        (4711, "an error of the fake driver (4711)"),
    ],
)
def test_a_card_that_refuses_at_the_start_is_listed_and_the_warning_names_its_index_and_the_code(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture, code: int, reason: str
) -> None:
    fake_nvml.device(1).refuse("handle", code)
    for now in (5.0, 6.0, 7.0):
        first, refused, third = backend.read(now)
    since = None if code == codes.NO_PERMISSION else 5.0
    assert unknown(refused)
    assert failures(refused) == [("", f"it cannot be looked up: {reason}", since)]
    assert [(each.device.index, unknown(each)) for each in (first, third)] == [(0, set()), (2, set())]
    assert [text for level, text in messages(caplog) if level == "WARNING"] == [
        f"GPU 1 (no name, unidentified-1) has no reading: it cannot be looked up: {reason}; its readings are unknown "
        "until it can"
    ]


def test_law_1_a_maximum_is_not_given_while_the_busiest_card_may_be_the_one_that_refuses(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = [replace(CARDS[0], utilisation=(70, 0)), replace(CARDS[1], utilisation=(90, 0))]
    fake_nvml.device(1).refuse("handle", codes.UNKNOWN)
    clock = ManualClock()
    sampler = Sampler(backend, node="gpu-7", interval_seconds=1, clock=clock)
    trigger = parse_trigger({"minCoverage": "1", "report": "average"})
    sampler.tick()
    evaluation = evaluate(trigger, Fleet(sampler.history, 10.0), clock.now)
    assert evaluation.value is None
    assert "GPU 1 (unidentified-1) of node gpu-7 has no reading of gpu_utilization: it cannot be looked up" in (
        evaluation.reason
    )
    fake_nvml.device(1).allow("handle")
    for _ in range(2):
        clock.advance(1)
        sampler.tick()
    assert evaluate(trigger, Fleet(sampler.history, 10.0), clock.now).value == 90


def test_a_card_that_is_identified_after_a_reordering_takes_no_other_cards_index(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    backend.read(0.0)
    backend.close()
    fake_nvml.enumeration = [2, 1, 0]
    fake_nvml.device(0).refuse("handle", codes.UNKNOWN)
    assert [(each.device.index, each.device.uuid, bool(unknown(each))) for each in backend.read(1.0)] == [
        (0, A, True),
        (1, B, False),
        (2, C, False),
    ]


# Identities


@pytest.mark.parametrize("code", [codes.UNKNOWN, codes.NOT_SUPPORTED, codes.NO_PERMISSION])
def test_a_card_whose_uuid_cannot_be_read_is_read(fake_nvml: FakeNvml, backend: NvmlBackend, code: int) -> None:
    fake_nvml.device(1).utilisation = (90, 0)
    fake_nvml.device(1).refuse("uuid", code)
    samples = backend.read(0.0)
    assert layout(samples) == [(0, A), (1, "unidentified-1"), (2, C)]
    assert samples[1].gpu_utilization_ratio == 0.9
    ((reading, reason, _),) = failures(samples[1])
    assert reading == "identity"
    assert reason.startswith("its UUID cannot be read: ")
    fake_nvml.device(1).allow("uuid")
    assert layout(backend.read(10.0)) == [(0, A), (1, B), (2, C)]


@pytest.mark.parametrize(
    ("uuid", "reason"),
    [
        pytest.param(b"\xff\xfe", "its UUID cannot be read: UnicodeDecodeError", id="no text"),
        pytest.param(b"GPU-\x1b[2J", "its UUID is not printable", id="a control sequence"),
        pytest.param(b"", "its UUID is empty", id="empty"),
    ],
)
def test_a_card_whose_uuid_is_no_name_is_read_and_the_warning_says_why(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture, uuid: bytes, reason: str
) -> None:
    fake_nvml.devices = [CARDS[0], Card(uuid, pci_bus_id=PCI_B)]
    samples = backend.read(0.0)
    assert layout(samples) == [(0, A), (1, "unidentified-1")]
    assert not unknown(samples[1])
    assert samples[1].failures[0].reason.startswith(reason)
    assert samples[1].failures[0].reason.isprintable()
    assert f"GPU 1 (NVIDIA Fake 80GB, at 0000:3b:00.0) is listed as unidentified-1: {reason}" in caplog.text


def test_cards_with_one_uuid_are_not_merged(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture
) -> None:
    twin = replace(CARDS[0], pci_bus_id=PCI_B, utilisation=(90, 0))
    fake_nvml.devices = [replace(CARDS[0], utilisation=(70, 0)), twin, CARDS[2]]
    for now in (0.0, 10.0, 20.0):
        samples = backend.read(now)
        assert layout(samples) == [(0, "unidentified-0"), (1, "unidentified-1"), (2, C)]
        assert [sample.gpu_utilization_ratio for sample in samples] == [0.7, 0.9, 0.0]
    assert [failures(sample)[0][:2] for sample in samples[:2]] == [
        ("identity", f"its UUID {A} is also that of another GPU")
    ] * 2
    assert caplog.text.count("is also that of another GPU") == 4  # each card as unidentified, and its identity


def test_a_card_that_was_known_keeps_its_uuid_when_another_one_takes_it(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.devices = [replace(card, utilisation=(10 * slot, 0)) for slot, card in enumerate(CARDS)]
    backend.read(0.0)
    fake_nvml.device(1).uuid = A
    for now in (10.0, 20.0):
        samples = backend.read(now)
        assert layout(samples) == [(0, A), (1, "unidentified-1"), (2, C)]
        assert [sample.gpu_utilization_ratio for sample in samples] == [0, 0.1, 0.2]


@pytest.mark.parametrize("call", ["name", "pci", "minor"])
def test_what_is_known_of_a_card_survives_an_error(fake_nvml: FakeNvml, backend: NvmlBackend, call: str) -> None:
    fake_nvml.devices = [replace(card, minor=slot) for slot, card in enumerate(CARDS)]
    before = [sample.device for sample in backend.read(0.0)]
    fake_nvml.device(1).refuse(call, codes.UNKNOWN)
    backend.close()
    assert [sample.device for sample in backend.read(1.0)] == before


def test_the_name_of_a_slice_survives_an_error(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [Card(A, mig=True, slices=[Slice("MIG-1", "1g.10gb", instances=(7, 0))])]
    before = [sample.device for sample in backend.read(0.0)]
    for call in ("name", "gpu instance", "compute instance"):
        fake_nvml.device(0).refuse_slice(0, call, codes.UNKNOWN)
    assert [sample.device for sample in backend.read(10.0)] == before


def test_a_name_that_could_not_be_read_is_read_at_the_next_listing(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.device(1).refuse("name", codes.UNKNOWN)
    assert backend.read(0.0)[1].device.model == ""
    fake_nvml.device(1).allow("name")
    assert backend.read(9.0)[1].device.model == ""
    assert backend.read(10.0)[1].device.model == "NVIDIA Fake 80GB"


def test_new_and_removed_cards_are_noticed_within_ten_seconds(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.list_live()
    fake_nvml.enumeration = [0, 1]
    assert layout(backend.read(0.0)) == [(0, A), (1, B)]
    fake_nvml.enumeration = [0, 2]
    samples = backend.read(10.0)
    assert layout(samples) == [(0, A), (1, B), (2, C)]
    assert failures(samples[1]) == [("", "the driver does not list it any more", 10.0)]
    assert not unknown(samples[2])
    fake_nvml.enumeration = [0, 1, 2]
    assert not any(map(unknown, backend.read(20.0)))
    assert fake_nvml.inits == 1


def test_a_card_that_is_gone_between_two_listings_has_no_value_of_another(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.list_live()
    fake_nvml.device(2).utilisation = (90, 0)
    backend.read(0.0)
    fake_nvml.lose(1)
    fake_nvml.enumeration = [0, 2]  # the driver's index 1 is another card's now
    for now in (1.0, 2.0, 3.0):
        for sample in backend.read(now):
            assert sample.gpu_utilization_ratio in ({A: 0.0, C: 0.9}.get(sample.device.uuid), None)


# Reasons and the log


def test_a_reading_that_fails_is_logged_when_it_starts_and_when_it_ends(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for start in (0.0, 100.0):
        backend.read(start)
        fake_nvml.device(1).refuse("utilisation", codes.UNKNOWN)
        for second in range(1, 41):
            sample = backend.read(start + second)[1]
        assert failures(sample) == [("utilization", "Unknown Error (999)", start + 1)]
        fake_nvml.device(1).allow("utilisation")
        assert backend.read(start + 41)[1].failures == ()
    assert messages(caplog) == 2 * [
        ("WARNING", f"{NAME} has no reading of utilization (Unknown Error (999))"),
        ("INFO", f"{NAME} has a reading of utilization again, after 40 s"),
    ]


def test_a_failing_reading_costs_one_further_call(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    backend.read(0.0)
    calls = fake_nvml.calls("power")
    fake_nvml.device(1).refuse("power", codes.UNKNOWN)
    backend.read(1.0)
    assert fake_nvml.calls("power") == calls + 4


def test_what_a_card_does_not_offer_is_logged_once_and_is_no_warning(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fake_nvml.devices = [BUSY]
    fake_nvml.device(0).refuse("power")
    fake_nvml.device(0).temperature = -1
    for now in range(20):
        (sample,) = backend.read(float(now))
    backend.close()
    backend.read(20.0)
    name = f"GPU 0 (NVIDIA L4, {A})"
    assert messages(caplog) == [
        ("INFO", f"{name} does not offer power (Not Supported (3))"),
        ("WARNING", f"{name} has no reading of temperature (an implausible value: -1 °C)"),
    ]
    assert sorted(failures(sample)) == [
        ("power", "Not Supported (3)", None),
        ("temperature", "an implausible value: -1 °C", 0.0),
    ]


def test_a_card_that_is_lost_and_comes_back_is_logged_once_each(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backend.read(0.0)
    fake_nvml.lose(1)
    for now in range(1, 41):
        lost = backend.read(float(now))[1]
    assert (failures(lost), lost.device.uuid) == ([("", "it cannot be looked up: GPU is lost (15)", 1.0)], B)
    fake_nvml.find(1)
    backend.read(41.0)
    backend.read(42.0)
    (lost_level, lost_text), back = messages(caplog)
    assert (lost_level, lost_text) == (
        "WARNING",
        f"{NAME} has no reading: it is lost: GPU is lost (15); its readings are unknown until it comes back",
    )
    assert back[1].startswith(f"{NAME} is back, after 4")


def test_a_card_that_does_not_report_its_layout_and_reports_it_again_is_logged_once_each(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    fake_nvml.devices = [Card(A, "NVIDIA A100", PCI_A, mig=True, slices=[Slice("MIG-1")])]
    fake_nvml.device(0).refuse("mig slots", codes.UNKNOWN)
    for now in range(20):
        (sample,) = backend.read(float(now))
    assert failures(sample) == [("", "it does not report its MIG layout: Unknown Error (999)", 0.0)]
    assert [text for _, text in messages(caplog)] == [
        f"GPU 0 (NVIDIA A100, {A}) has no reading: it does not report its MIG layout: Unknown Error (999); its "
        "readings are unknown until it does"
    ]


def test_the_reason_of_a_lost_slice_names_its_slot(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.devices = [Card(A, mig=True, slices=[Slice("MIG-1"), Slice("MIG-2")])]
    backend.read(0.0)
    fake_nvml.device(0).refuse_slice(1, "mig handle", codes.UNKNOWN)
    first, second = backend.read(10.0)
    assert failures(second) == [("", "MIG slot 1 cannot be read: Unknown Error (999)", 10.0)]
    assert first.failure_of("memory") is None
    assert first.failure_of("utilization") == ReadingFailure(
        "utilization",
        "NVML has no utilisation of a MIG slice of this GPU: the GPU has no GPM, which needs Hopper or newer",
    )


@pytest.mark.parametrize(
    ("fault", "metric", "reason"),
    [
        pytest.param(
            lambda card: card.refuse("utilisation", codes.UNKNOWN),
            "gpu_utilization",
            f"GPU 1 ({B}) of node gpu-7 has no reading of gpu_utilization: Unknown Error (999), for 40 s",
            id="a reading fails",
        ),
        pytest.param(
            lambda card: setattr(card, "power_milliwatts", 99_000_000),
            "power_draw",
            f"GPU 1 ({B}) of node gpu-7 has no reading of power_draw: an implausible value: 99000000 mW, for 40 s",
            id="a value is implausible",
        ),
        pytest.param(
            lambda card: card.refuse("temperature v2", codes.UNKNOWN),
            "gpu_utilization",
            None,
            id="another reading fails",
        ),
        pytest.param(
            lambda card: setattr(card, "mig", True),
            "memory_used_percent",
            f"GPU 1 ({B}) of node gpu-7 has no reading of memory_used_percent: it is in MIG mode and has no instance, "
            "for 31 s",
            id="MIG mode without an instance",
        ),
    ],
)
def test_the_answer_carries_the_reason(
    fake_nvml: FakeNvml, backend: NvmlBackend, fault: Callable[[object], None], metric: str, reason: str | None
) -> None:
    fake_nvml.devices = [CARDS[0], replace(CARDS[1], mig=False)]
    clock = ManualClock()
    sampler = Sampler(backend, node="gpu-7", interval_seconds=1, clock=clock)
    sampler.tick()
    fault(fake_nvml.device(1))
    for _ in range(41):
        clock.advance(1)
        sampler.tick()
    history = sampler.history
    assert history is not None
    assert decode(encode(history.newest)) == history.newest
    metadata = {"metricType": metric, "targetValue": "50", "minCoverage": "1", "report": "average"}
    said = evaluate(parse_trigger(metadata), Fleet(history, 10.0), clock.now).reason
    if reason is None:
        assert "has no reading" not in said
    else:
        assert reason in said


# Calls that err now and then


def test_a_card_that_seems_to_be_lost_is_looked_up_and_read_again_at_once(
    fake_nvml: FakeNvml, backend: NvmlBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.read(0.0)
    fake_nvml.device(1).refuse("utilisation", codes.GPU_IS_LOST)
    look_up = NvmlDriver.look_up

    def recovering(driver: NvmlDriver, slot: int, known: ListedGpu | None = None) -> ListedGpu:
        fake_nvml.device(1).allow("utilisation")
        return look_up(driver, slot, known)

    monkeypatch.setattr(NvmlDriver, "look_up", recovering)
    assert not any(map(unknown, backend.read(1.0)))


FLAPS = {
    "a reading": [codes.UNKNOWN],
    "a card": [codes.GPU_IS_LOST, codes.GPU_NOT_FOUND],
    "the driver": [codes.UNINITIALIZED, codes.DRIVER_NOT_LOADED],
    "anything": [codes.UNKNOWN, codes.GPU_IS_LOST, codes.UNINITIALIZED, codes.NO_PERMISSION, codes.NOT_FOUND, 10],
}


@pytest.mark.parametrize("window", ["0", "10"])
@pytest.mark.parametrize("flap", FLAPS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_minutes_of_errors_in_a_twentieth_of_the_calls_give_no_wrong_value_and_few_gaps(
    fake_nvml: FakeNvml, backend: NvmlBackend, caplog: pytest.LogCaptureFixture, flap: str, window: str, seed: int
) -> None:
    caplog.set_level(logging.CRITICAL)
    load = [replace(card, utilisation=(10 * slot, 0), memory=Memory(GIB, 24 * GIB)) for slot, card in enumerate(CARDS)]
    fake_nvml.devices = load
    clock = ManualClock()
    sampler = Sampler(backend, node="gpu-7", interval_seconds=1, clock=clock)
    trigger = parse_trigger({"windowSeconds": window, "report": "average", "aggregation": "sum", "minCoverage": "1"})
    sampler.tick()
    fake_nvml.flap(50, *FLAPS[flap], seed=seed)
    values = []
    for _ in range(120):
        clock.advance(1)
        sampler.tick()
        values.append(evaluate(trigger, Fleet(sampler.history, 10.0, failure=sampler.failure), clock.now).value)
    assert {value for value in values if value is not None} == {30.0}
    assert values.count(None) < 6
    assert sampler.history is not None
    assert layout(sampler.history.newest.samples) == [(0, A), (1, B), (2, C)]
    fake_nvml.flap(0)
    for _ in range(2):
        clock.advance(1)
        sampler.tick()
    assert not any(map(unknown, sampler.history.newest.samples))
