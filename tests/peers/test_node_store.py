# SPDX-License-Identifier: Apache-2.0
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.peers.node_store import MAX_SNAPSHOTS, LongestWindow, NodeStore
from tests.fakes import sample

NOW = 5000.0


def snapshot(node: str, at: float, utilization: float = 0.5) -> Snapshot:
    return Snapshot(node, 1, at, 1.7e9, "fake", (sample(0, utilization),))


def lived(nodes: NodeStore, node: str) -> list[float]:
    return [one.at_seconds for one in nodes.histories[node].snapshots]


def nodes(window_seconds: float = 10.0) -> NodeStore:
    made = NodeStore(stale_after_seconds=10.0)
    made.window_seconds = window_seconds
    return made


def test_two_instances_of_one_node_are_one_history() -> None:
    both = nodes()
    assert both.take("old:1", snapshot("gpu-7", 100.0), NOW, NOW)
    assert both.take("new:1", snapshot("gpu-7", 100.5), NOW + 0.5, NOW + 0.5)
    assert not both.take("old:1", snapshot("gpu-7", 100.2), NOW + 0.6, NOW + 0.6)
    assert both.take("old:1", snapshot("gpu-7", 101.0), NOW + 1, NOW + 1)
    assert lived(both, "gpu-7") == [100.0, 100.5, 101.0]


def test_what_is_told_once_more_is_no_news_and_no_end_of_the_history() -> None:
    some = nodes()
    some.take("a:1", snapshot("gpu-7", 100.0), NOW, NOW)
    some.take("a:1", snapshot("gpu-7", 101.0), NOW + 1, NOW + 1)
    before = some.histories["gpu-7"]
    assert not some.take("a:1", snapshot("gpu-7", 101.0), NOW + 1.5, NOW + 1.5)
    assert some.histories["gpu-7"] is before


def test_clocks_that_hardly_move_do_not_fill_the_memory() -> None:
    slow = nodes()
    for number in range(MAX_SNAPSHOTS + 10):
        slow.take("a:1", snapshot("gpu-7", 100.0 + number / 1e9), NOW, NOW)
    assert len(lived(slow, "gpu-7")) == MAX_SNAPSHOTS


@pytest.mark.parametrize(
    ("questions", "longest"),
    [
        pytest.param([(0, 5.0)], 10.0, id="never less than the default"),
        pytest.param([(0, 300.0), (1, 20.0)], 300.0, id="the longest, whoever asked last"),
        pytest.param([(0, 60.0), (1, 300.0), (599, 60.0), (601, 5.0)], 300.0, id="for ten minutes after the last"),
        pytest.param(
            [(0, 300.0), *((second, 60.0) for second in range(0, 1201, 60)), (1270, 5.0)],
            60.0,
            id="the second longest when the longest is over, whoever asks first",
        ),
        pytest.param([(0, 300.0), (601, 5.0), (1202, 5.0)], 10.0, id="none for ever"),
    ],
)
def test_history_goes_back_as_far_as_somebody_asked_lately(
    questions: list[tuple[float, float]], longest: float
) -> None:
    window = LongestWindow(600.0)
    assert [window.ask(seconds, NOW + at) for at, seconds in questions][-1] == longest


def test_a_machine_that_was_started_anew_begins_a_new_history() -> None:
    rebooted = nodes()
    rebooted.take("a:1", snapshot("gpu-7", 9000.0), NOW, NOW)
    rebooted.take("a:1", snapshot("gpu-7", 12.0), NOW + 1, NOW + 1)
    assert lived(rebooted, "gpu-7") == [12.0]


def test_a_machine_that_comes_back_at_another_address_is_believed_once_the_old_one_is_silent() -> None:
    moved = nodes()
    moved.take("a:1", snapshot("gpu-7", 9000.0), NOW, NOW)
    assert not moved.take("b:1", snapshot("gpu-7", 12.0), NOW + 1, NOW + 1)
    assert moved.take("b:1", snapshot("gpu-7", 22.0), NOW + 11, NOW + 11)
    assert lived(moved, "gpu-7") == [22.0]


def test_two_machines_of_one_name_are_told_apart_once_and_do_not_take_turns(caplog: pytest.LogCaptureFixture) -> None:
    twins = nodes()
    with caplog.at_level(logging.WARNING):
        for second in range(5):
            assert twins.take("a:1", snapshot("gpu-7", 9000.0 + second), NOW + second, NOW + second)
            assert not twins.take("b:1", snapshot("gpu-7", 12.0 + second), NOW + second, NOW + second)
    assert lived(twins, "gpu-7") == [9000.0, 9001.0, 9002.0, 9003.0, 9004.0]
    assert [record.getMessage() for record in caplog.records] == [
        "two instances say that they are node gpu-7, and their clocks differ: give each machine a --node-name of "
        "its own"
    ]


def test_a_node_that_was_silent_long_enough_is_forgotten() -> None:
    some = nodes()
    some.take("a:1", snapshot("gpu-7", 1.0), NOW, NOW)
    some.take("b:1", snapshot("gpu-8", 1.0), NOW + 30, NOW + 30)
    some.forget_since(NOW + 61, 60)
    assert list(some.histories) == ["gpu-8"]


@given(st.permutations([("gpu-7", 1.0), ("gpu-8", 1.0), ("gpu-9", 1.0), ("gpu-8", 1.0)]))
def test_law_5_the_order_in_which_nodes_are_heard_does_not_matter(order: list[tuple[str, float]]) -> None:
    heard = nodes()
    for node, at in order:
        heard.take(node, snapshot(node, at), NOW, NOW)
    assert {node: history.snapshots for node, history in heard.histories.items()} == {
        node: (snapshot(node, 1.0),) for node in ("gpu-7", "gpu-8", "gpu-9")
    }
