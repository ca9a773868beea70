# SPDX-License-Identifier: Apache-2.0
"""Tests of the store of node histories."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.peers.node_store import MAX_HISTORY_BYTES, MAX_SNAPSHOTS, LongestWindow, NodeStore
from tests.fakes import sample

NOW = 5000.0


def snapshot(node: str, at: float, utilization: float = 0.5) -> Snapshot:
    return Snapshot(node, 1, at, 1.7e9, "fake", (sample(0, utilization),))


def times(nodes: NodeStore, node: str) -> list[float]:
    return [one.at_seconds for one in nodes.histories[node].snapshots]


def nodes(window_seconds: float = 10.0) -> NodeStore:
    made = NodeStore(stale_after_seconds=10.0, sample_interval_seconds=1.0)
    made.window_seconds = window_seconds
    return made


def test_two_instances_of_one_node_are_one_history() -> None:
    both = nodes()
    assert both.add("old:1", snapshot("gpu-7", 100.0), NOW, NOW)
    assert both.add("new:1", snapshot("gpu-7", 100.5), NOW + 0.5, NOW + 0.5)
    assert not both.add("old:1", snapshot("gpu-7", 100.2), NOW + 0.6, NOW + 0.6)
    assert both.add("old:1", snapshot("gpu-7", 101.0), NOW + 1, NOW + 1)
    assert times(both, "gpu-7") == [100.0, 100.5, 101.0]


def test_a_repeated_snapshot_is_not_new_and_leaves_the_history_unchanged() -> None:
    some = nodes()
    some.add("a:1", snapshot("gpu-7", 100.0), NOW, NOW)
    some.add("a:1", snapshot("gpu-7", 101.0), NOW + 1, NOW + 1)
    before = some.histories["gpu-7"]
    assert not some.add("a:1", snapshot("gpu-7", 101.0), NOW + 1.5, NOW + 1.5)
    assert some.histories["gpu-7"] is before


@pytest.mark.parametrize(
    ("step_seconds", "kept"),
    [
        pytest.param(1e-6, [100.0], id="a microsecond"),
        pytest.param(0.4, [100.0, 100.8, 101.6, 102.4, 103.2], id="less than half a sample interval"),
        pytest.param(0.5, [100.0 + n / 2 for n in range(10)], id="half a sample interval"),
    ],
)
def test_snapshots_that_are_too_close_by_their_own_clock_are_not_kept(step_seconds: float, kept: list[float]) -> None:
    some = nodes()
    for number in range(10):
        some.add("a:1", snapshot("gpu-7", 100.0 + number * step_seconds), NOW + number, NOW + number)
    assert times(some, "gpu-7") == pytest.approx(kept)


@given(
    st.lists(st.tuples(st.floats(0.5, 20), st.integers(0, MAX_HISTORY_BYTES // 20)), min_size=1, max_size=200),
    st.sampled_from([10.0, 300.0]),
)
def test_the_snapshots_of_a_node_are_limited_in_bytes_whatever_their_sizes(
    steps: list[tuple[float, int]], window: float
) -> None:
    some, sizes, at = nodes(window), {}, 100.0
    for step, size in steps:
        at += step
        sizes[at] = size
        some.add("a:1", snapshot("gpu-7", at), NOW, NOW, size)
    assert sum(sizes[one] for one in times(some, "gpu-7")[1:]) <= MAX_HISTORY_BYTES * 1.001


def test_large_snapshots_are_kept_less_often_and_the_history_stays_as_long() -> None:
    some, size = nodes(300.0), MAX_HISTORY_BYTES // 30
    for number in range(301):
        some.add("a:1", snapshot("gpu-7", 100.0 + number), NOW, NOW, size)
    kept = times(some, "gpu-7")
    assert (len(kept) - 1) * size <= MAX_HISTORY_BYTES
    assert kept[-1] - kept[0] > 280


def test_the_snapshots_of_a_node_are_limited_in_number() -> None:
    some = NodeStore(stale_after_seconds=10.0, sample_interval_seconds=0.1)
    some.window_seconds = 300.0
    for number in range(MAX_SNAPSHOTS + 100):
        some.add("a:1", snapshot("gpu-7", 100.0 + number / 16), NOW, NOW)  # a peer may send twice as often
    assert len(times(some, "gpu-7")) == MAX_SNAPSHOTS


def test_the_snapshots_of_an_ordinary_node_are_all_kept() -> None:
    some = NodeStore(stale_after_seconds=10.0, sample_interval_seconds=0.1)
    some.window_seconds = 300.0
    for number in range(3001):
        some.add("a:1", snapshot("gpu-7", 100.0 + number / 10), NOW, NOW, 8000)
    assert len(times(some, "gpu-7")) == 3001


def test_a_source_has_one_node() -> None:
    some = nodes()
    for number in range(100):
        some.add("a:1", snapshot(f"gpu-{number}", 1.0 + number), NOW, NOW)
    assert list(some.histories) == ["gpu-99"]


def test_a_node_that_moved_to_another_source_outlives_the_first_one() -> None:
    some = nodes()
    some.add("a:1", snapshot("gpu-7", 100.0), NOW, NOW)
    some.add("b:1", snapshot("gpu-7", 101.0), NOW + 1, NOW + 1)
    some.add("a:1", snapshot("gpu-8", 102.0), NOW + 2, NOW + 2)
    assert sorted(some.histories) == ["gpu-7", "gpu-8"]
    some.expire(NOW + 62, 60.5)
    assert list(some.histories) == ["gpu-8"]


@pytest.mark.parametrize(
    ("windows", "longest"),
    [
        pytest.param([(0, 5.0)], 10.0, id="never less than the default"),
        pytest.param([(0, 300.0), (1, 20.0)], 300.0, id="the longest, not the last"),
        pytest.param([(0, 60.0), (1, 300.0), (599, 60.0), (601, 5.0)], 300.0, id="for ten minutes after the last"),
        pytest.param(
            [(0, 300.0), *((second, 60.0) for second in range(0, 1201, 60)), (1270, 5.0)],
            60.0,
            id="the second longest when the longest has expired",
        ),
        pytest.param([(0, 300.0), (601, 5.0), (1202, 5.0)], 10.0, id="every window expires"),
    ],
)
def test_the_longest_window_of_the_last_ten_minutes_counts(windows: list[tuple[float, float]], longest: float) -> None:
    window = LongestWindow(600.0)
    assert [window.register(seconds, NOW + at) for at, seconds in windows][-1] == longest


def test_a_reboot_starts_a_new_history() -> None:
    rebooted = nodes()
    rebooted.add("a:1", snapshot("gpu-7", 9000.0), NOW, NOW)
    rebooted.add("a:1", snapshot("gpu-7", 12.0), NOW + 1, NOW + 1)
    assert times(rebooted, "gpu-7") == [12.0]


def test_a_reboot_with_another_address_starts_a_new_history_once_the_old_one_is_stale() -> None:
    moved = nodes()
    moved.add("a:1", snapshot("gpu-7", 9000.0), NOW, NOW)
    assert not moved.add("b:1", snapshot("gpu-7", 12.0), NOW + 1, NOW + 1)
    assert moved.add("b:1", snapshot("gpu-7", 22.0), NOW + 11, NOW + 11)
    assert times(moved, "gpu-7") == [22.0]


def test_two_machines_with_one_name_are_logged_once_and_do_not_alternate(caplog: pytest.LogCaptureFixture) -> None:
    twins = nodes()
    with caplog.at_level(logging.WARNING):
        for second in range(5):
            assert twins.add("a:1", snapshot("gpu-7", 9000.0 + second), NOW + second, NOW + second)
            assert not twins.add("b:1", snapshot("gpu-7", 12.0 + second), NOW + second, NOW + second)
    assert times(twins, "gpu-7") == [9000.0, 9001.0, 9002.0, 9003.0, 9004.0]
    assert [record.getMessage() for record in caplog.records] == [
        "two instances report the node name gpu-7, and their clocks differ: give each machine its own --node-name"
    ]


def test_a_node_without_snapshots_expires() -> None:
    some = nodes()
    some.add("a:1", snapshot("gpu-7", 1.0), NOW, NOW)
    some.add("b:1", snapshot("gpu-8", 1.0), NOW + 30, NOW + 30)
    some.expire(NOW + 61, 60)
    assert list(some.histories) == ["gpu-8"]


@given(st.permutations([("gpu-7", 1.0), ("gpu-8", 1.0), ("gpu-9", 1.0), ("gpu-8", 1.0)]))
def test_law_5_the_order_of_the_nodes_does_not_matter(order: list[tuple[str, float]]) -> None:
    store = nodes()
    for node, at in order:
        store.add(node, snapshot(node, at), NOW, NOW)
    assert {node: history.snapshots for node, history in store.histories.items()} == {
        node: (snapshot(node, 1.0),) for node in ("gpu-7", "gpu-8", "gpu-9")
    }
