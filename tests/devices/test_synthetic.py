# SPDX-License-Identifier: Apache-2.0
"""The demonstration load: lively enough to show scaling, and never taken for a measurement."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.synthetic import (
    IDLE_EVERY_SECONDS,
    IDLE_FOR_SECONDS,
    MAX_DEVICES,
    SyntheticBackend,
)
from tests.contract.backends import BackendContract, assert_plausible

SPAN = range(0, 2 * IDLE_EVERY_SECONDS, 3)


@pytest.fixture(scope="module")
def history() -> list[tuple[Sample, ...]]:
    """Ten minutes of eight devices, every three seconds."""
    backend = SyntheticBackend()
    return [backend.read(1000.0 + second) for second in SPAN]


def ratios(samples: tuple[Sample, ...]) -> list[float]:
    return [sample.gpu_utilization_ratio for sample in samples if sample.gpu_utilization_ratio is not None]


class TestSyntheticKeepsTheContract(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return SyntheticBackend()


class TestASingleSyntheticDeviceKeepsTheContract(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return SyntheticBackend(1)


def test_everything_says_that_it_is_synthetic() -> None:
    backend = SyntheticBackend()
    assert backend.source == "synthetic demonstration load, not a real GPU"
    for sample in backend.read(0.0):
        assert sample.device.model.startswith("Synthetic ")
        assert sample.device.uuid.startswith("synthetic-")


def test_a_node_holds_two_models_half_and_half() -> None:
    models = [sample.device.model for sample in SyntheticBackend().read(0.0)]
    assert models == ["Synthetic H100 80GB"] * 4 + ["Synthetic L4 24GB"] * 4


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(1, 9))
@settings(max_examples=50)
def test_the_load_depends_on_the_time_since_the_first_read_and_on_nothing_else(
    start: float, elapsed: float, devices: int
) -> None:
    one, other = SyntheticBackend(devices), SyntheticBackend(devices)
    one.read(0.0)
    other.read(0.0)
    other.read(start)
    samples = one.read(elapsed)
    assert samples == other.read(elapsed)
    for sample in samples:
        assert_plausible(sample)


def test_the_clock_of_whoever_reads_does_not_show() -> None:
    one, other = SyntheticBackend(), SyntheticBackend()
    assert [one.read(5.0), one.read(47.0)] == [other.read(905.0), other.read(947.0)]


def test_every_device_is_busy_at_times_and_idle_at_others(history: list[tuple[Sample, ...]]) -> None:
    for index in range(8):
        shown = [ratios(samples)[index] for samples in history]
        assert max(shown) > 0.9
        assert min(shown) == 0
        assert 0.2 < sum(shown) / len(shown) < 0.8


def test_devices_are_not_busy_all_at_once(history: list[tuple[Sample, ...]]) -> None:
    # Enough that max, avg and min differ in an answer.
    spread = [max(ratios(samples)) - min(ratios(samples)) for samples in history]
    assert sum(spread) / len(spread) > 0.4


def test_the_last_part_of_every_five_minutes_is_idle_on_all_devices(history: list[tuple[Sample, ...]]) -> None:
    for second, samples in zip(SPAN, history, strict=True):
        if second % IDLE_EVERY_SECONDS >= IDLE_EVERY_SECONDS - IDLE_FOR_SECONDS:
            assert set(ratios(samples)) == {0.0}
    assert max(ratios(history[IDLE_EVERY_SECONDS // 3])) > 0


def test_some_memory_stays_taken_and_some_follows_the_load(history: list[tuple[Sample, ...]]) -> None:
    used = [{samples[index].memory_used_bytes for samples in history} for index in range(8)]
    assert [len(values) == 1 for values in used] == [True, False] * 4
    for sample in history[-1]:
        assert sample.memory_used_bytes is not None
        assert sample.memory_total_bytes is not None
        kept = sample.device.index % 2 == 0
        assert (sample.memory_used_bytes / sample.memory_total_bytes > 0.8) is kept


def test_temperature_lags_the_load(history: list[tuple[Sample, ...]]) -> None:
    temperatures = [samples[0].temperature_celsius for samples in history]
    assert all(
        after is not None and before is not None and abs(after - before) <= 6
        for before, after in pairwise(temperatures)
    )
    begins = (IDLE_EVERY_SECONDS - IDLE_FOR_SECONDS) // 3
    cooling = [value for value in temperatures[begins : begins + IDLE_FOR_SECONDS // 3] if value is not None]
    assert cooling == sorted(cooling, reverse=True)
    assert cooling[0] - cooling[-1] >= 5


def test_one_device_does_not_report_power_and_the_others_draw_what_such_a_board_can(
    history: list[tuple[Sample, ...]],
) -> None:
    for samples in history:
        assert [sample.device.index for sample in samples if sample.power_watts is None] == [7]
        assert all(70 <= sample.power_watts <= 690 for sample in samples[:4] if sample.power_watts is not None)
        assert all(16 <= sample.power_watts <= 72 for sample in samples[4:] if sample.power_watts is not None)


@pytest.mark.parametrize("devices", [0, -1, MAX_DEVICES + 1])
def test_the_number_of_devices_is_bounded(devices: int) -> None:
    with pytest.raises(BackendError) as caught:
        SyntheticBackend(devices)
    assert str(caught.value) == (
        f"devices: Invalid value: {devices}: must be from 1 to 64; for an instance without devices use --backend none"
    )
