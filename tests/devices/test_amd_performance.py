# SPDX-License-Identifier: Apache-2.0
"""Tests of the traffic over XGMI and of the energy of AMD cards."""

from pathlib import Path

import pytest

from keda_gpu_scaler.core.types import PerformanceReadings, Sample
from keda_gpu_scaler.devices.amd.backend import AmdBackend
from tests.devices.sysfs_tree import INSTINCT, LINKS, RADEON, SysfsTree, gpu_metrics, write

ADDRESS = "0000:05:00.0"
KIB = 1024


class Node:
    """One card, a backend that reads it, and the sampler's clock."""

    def __init__(self, folder: Path, **files: object) -> None:
        self.now = 100.0
        self.wanted = True
        self.tree = SysfsTree(folder / "sys")
        self.card = self.tree.card(0, ADDRESS, files={**INSTINCT, **files})  # type: ignore[dict-item]
        self.backend = AmdBackend(
            str(self.tree.root), "/nowhere", wants_performance=lambda: self.wanted, clock=lambda: self.now
        )

    def read(self, after: float = 0.0, **files: bytes | str) -> Sample:
        self.now += after
        write(self.card, files)
        (sample,) = self.backend.read(self.now)
        return sample


def reasons(sample: Sample) -> dict[str, str]:
    return {failure.reading: failure.reason for failure in sample.failures}


@pytest.mark.parametrize("version", LINKS, ids=lambda version: f"version {version[0]}.{version[1]}")
def test_what_all_links_read_comes_to_the_card_and_what_they_write_leaves_it(
    tmp_path: Path, version: tuple[int, int]
) -> None:
    node = Node(tmp_path)
    first = gpu_metrics(version, energy=1 << 16, read=[0, 100, 7], written=[5, 0, 7])
    second = gpu_metrics(version, energy=3 << 16, read=[50, 150, 7], written=[10, 5, 7])
    assert node.read(gpu_metrics=first).performance is None
    sample = node.read(5.0, gpu_metrics=second)
    assert sample.performance == PerformanceReadings(
        105.0,
        5.0,
        nvlink_rx_bytes_per_second=20 * KIB,
        nvlink_tx_bytes_per_second=2 * KIB,
        energy_joules=3.0,
    )
    assert reasons(sample) == {
        "pcie": "amdgpu's files do not have the traffic in a known unit",
        "activity": "amdgpu's files do not have it",
    }


def test_a_reading_is_taken_every_five_seconds_while_it_is_wanted(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.wanted = False
    assert [node.read(1.0).performance for _ in range(3)] == [None] * 3
    assert not node.read(1.0).failures
    node.wanted = True
    start = node.now
    taken = [None if (found := node.read(1.0).performance) is None else found.at_seconds - start for _ in range(12)]
    assert taken == [None, *[2.0] * 5, *[7.0] * 5, 12.0]
    node.wanted = False
    quiet = node.read(1.0)
    assert quiet.performance is None
    assert reasons(quiet).keys() == {"pcie", "activity", "nvlink"}


@pytest.mark.parametrize(
    ("table", "why"),
    [
        pytest.param(gpu_metrics((1, 8)), "gpu_metrics has no traffic of XGMI links", id="no link"),
        pytest.param(gpu_metrics((1, 3)), "gpu_metrics has no traffic of XGMI links", id="an older table"),
        pytest.param(b"", "gpu_metrics: it is empty", id="no table"),
    ],
)
def test_a_card_without_counters_of_links_says_so(tmp_path: Path, table: bytes, why: str) -> None:
    node = Node(tmp_path, gpu_metrics=table, **RADEON) if not table else Node(tmp_path)
    node.read(gpu_metrics=table)
    sample = node.read(5.0)
    assert sample.performance is not None
    assert sample.performance.nvlink_tx_bytes_per_second is None
    assert reasons(sample)["nvlink"] == why


def test_counters_that_fell_have_no_rate(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.read(gpu_metrics=gpu_metrics((1, 8), read=[1000], written=[1000]))
    sample = node.read(5.0, gpu_metrics=gpu_metrics((1, 8), read=[0], written=[0]))
    assert sample.performance is not None
    assert sample.performance.nvlink_rx_bytes_per_second is None
    assert reasons(sample)["nvlink"] == "the counter started again"


def test_a_card_that_slept_is_not_compared_with_the_time_before(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.read(gpu_metrics=gpu_metrics((1, 8), read=[0], written=[0]))
    node.read(5.0)
    write(node.card, {"power/runtime_status": "suspended"})
    assert node.read(60.0).performance is None
    write(node.card, {"power/runtime_status": "active"})
    node.read(1.0, gpu_metrics=gpu_metrics((1, 8), read=[10**9], written=[0]))
    sample = node.read(1.0)
    assert sample.performance is not None
    assert sample.performance.nvlink_rx_bytes_per_second == 0.0
