# SPDX-License-Identifier: Apache-2.0
"""Tests of the device metrics and of the profiles."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.core.trigger.parser import METRIC_TYPES
from keda_gpu_scaler.core.trigger.profiles import PROFILES
from keda_gpu_scaler.core.types import PerformanceReadings
from tests.fakes import GIB, sample, sample_without_readings


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("gpu_utilization", 92.0),
        ("memory_utilization", 25.0),
        ("memory_used_mib", 40 * 1024.0),
        ("memory_used_percent", 50.0),
        ("temperature", 55.0),
        ("power_draw", 350.0),
    ],
)
def test_each_metric_reads_its_own_reading_in_its_own_unit(metric: str, expected: float) -> None:
    assert METRICS[metric].read(sample(utilization=0.92)) == expected


PERFORMANCE = PerformanceReadings(1000.0, 5.0, 0.57, 0.07, 0.2, 1 << 20, 2 << 20, 3 << 20, 4 << 20, 1.0)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("sm_active", 57.0),
        ("tensor_active", 7.0),
        ("dram_active", 20.0),
        ("pcie_rx_mib_s", 1.0),
        ("pcie_tx_mib_s", 2.0),
        ("pcie_throughput", 3.0),
        ("nvlink_rx_mib_s", 3.0),
        ("nvlink_tx_mib_s", 4.0),
        ("nvlink_throughput", 7.0),
        pytest.param("pcie_rx_kbps", 1048.576, id="the original's name, in kilobytes of 1,000 bytes"),
        pytest.param("pcie_tx_kbps", 2097.152, id="and of the other direction"),
    ],
)
def test_each_metric_of_performance_reads_its_own_reading(metric: str, expected: float) -> None:
    assert METRICS[metric].read(sample(performance=PERFORMANCE)) == expected
    assert METRICS[metric].read(sample(performance=PerformanceReadings(1000.0, 5.0))) is None
    assert METRICS[metric].is_divided is (METRICS[metric].unit == "%")


@pytest.mark.parametrize("missing", ["pcie_rx_bytes_per_second", "pcie_tx_bytes_per_second"])
def test_a_throughput_with_one_direction_unknown_is_unknown(missing: str) -> None:
    known = replace(PERFORMANCE, **{missing: None})  # type: ignore[arg-type]
    assert METRICS["pcie_throughput"].read(sample(performance=known)) is None


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_a_reading_that_the_driver_did_not_return_is_unknown_and_not_zero(metric: str) -> None:
    assert METRICS[metric].read(sample_without_readings()) is None


@pytest.mark.parametrize(
    ("used", "total"),
    [
        pytest.param(GIB, None, id="total unknown"),
        pytest.param(None, GIB, id="used unknown"),
        pytest.param(0, 0, id="a device without memory of its own, with unified memory"),
    ],
)
def test_a_share_of_unknown_memory_is_unknown(used: int | None, total: int | None) -> None:
    assert METRICS["memory_used_percent"].read(sample(memory_used_bytes=used, memory_total_bytes=total)) is None


@given(st.integers(0, 100))
def test_a_whole_per_cent_from_the_driver_stays_whole(percent: int) -> None:
    assert METRICS["gpu_utilization"].read(sample(utilization=percent / 100)) == percent


def test_a_temperature_below_zero_is_reported_as_zero() -> None:
    assert METRICS["temperature"].read(sample(temperature_celsius=-40.0)) == 0.0


def test_every_profile_names_a_metric_that_exists() -> None:
    assert {profile.metric for profile in PROFILES.values()} <= METRIC_TYPES.keys()


@pytest.mark.parametrize(
    "profile",
    [profile for profile in PROFILES.values() if profile.metric == "memory_used_percent"],
    ids=lambda p: p.name,
)
def test_a_profile_by_memory_has_a_caveat_that_names_an_alternative(profile: object) -> None:
    caveat: str = profile.caveat  # type: ignore[attr-defined]
    assert "`metricType: gpu_utilization`" in caveat or "`profile: llm`" in caveat
