# SPDX-License-Identifier: Apache-2.0
"""Tests how ``top`` groups, sorts and filters its rows."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.top.arrangement import RowKind, SortKey, arrange, merged
from keda_gpu_scaler.cli.top.rows import TopRow
from tests.cli.top.fleets import BASE, rows
from tests.fakes import GIB


def names(arranged: list[TopRow]) -> list[str]:
    return [f"{row.pod or row.node}:{row.device}".rstrip(":") for row in arranged]


@pytest.mark.parametrize(
    ("kind", "sort", "is_reversed", "words", "expected"),
    [
        pytest.param(
            RowKind.DEVICE, SortKey.NODE, False, "", ["gpu-9:0", "gpu-9:1", "gpu-10:0", "gpu-10:1", "gpu-11:0"],
            id="numbers in names sort as numbers",
        ),
        pytest.param(
            RowKind.DEVICE, SortKey.UTILIZATION, False, "", ["gpu-10:0", "gpu-9:0", "gpu-10:1", "gpu-9:1", "gpu-11:0"],
            id="the busiest first and the unknown last",
        ),
        pytest.param(
            RowKind.DEVICE, SortKey.UTILIZATION, True, "", ["gpu-10:1", "gpu-9:0", "gpu-10:0", "gpu-9:1", "gpu-11:0"],
            id="the least busy first and the unknown still last",
        ),
        pytest.param(
            RowKind.DEVICE, SortKey.HOLDER, False, "", ["gpu-10:0", "gpu-9:0", "gpu-10:1", "gpu-9:1", "gpu-11:0"],
            id="by holder, then devices without a holder, then unknown holders",
        ),
        pytest.param(
            RowKind.DEVICE, SortKey.AGE, False, "", ["gpu-11:0", "gpu-9:0", "gpu-9:1", "gpu-10:0", "gpu-10:1"],
            id="the oldest first",
        ),
        pytest.param(RowKind.NODE, SortKey.NODE, False, "", ["gpu-9", "gpu-10", "gpu-11"], id="nodes"),
        pytest.param(RowKind.NODE, SortKey.UTILIZATION, False, "", ["gpu-9", "gpu-10", "gpu-11"], id="nodes by mean"),
        pytest.param(
            RowKind.POD, SortKey.NODE, False, "", ["ai/llama-0", "ai/llama-1", "ai/whisper-0", "gpu-9", "gpu-11"],
            id="pods, then devices without a pod, then unknown holders",
        ),
        pytest.param(
            RowKind.DEVICE, SortKey.NODE, False, "LLAMA h100", ["gpu-9:0", "gpu-10:0"], id="all words in any case",
        ),
        pytest.param(RowKind.DEVICE, SortKey.NODE, False, "unknown", ["gpu-9:1", "gpu-11:0"], id="unknown devices"),
        pytest.param(
            RowKind.POD, SortKey.NODE, False, "gpu-10", ["ai/llama-0", "ai/whisper-0"], id="the pods of a node",
        ),
        pytest.param(RowKind.DEVICE, SortKey.NODE, False, "nowhere", [], id="no row contains the word"),
    ],
)  # fmt: skip
def test_rows_are_grouped_and_sorted(
    kind: RowKind, sort: SortKey, is_reversed: bool, words: str, expected: list[str]
) -> None:
    assert names(arrange(rows(), kind, sort, words, is_reversed=is_reversed)) == expected


def test_a_node_has_the_mean_of_its_devices_with_readings() -> None:
    nine, ten, eleven = arrange(rows(), RowKind.NODE, SortKey.NODE)
    assert (ten.devices, ten.with_value, ten.gpu_utilization_percent, ten.power_watts) == (2, 2, 60.0, 700.0)
    assert (ten.memory_used_bytes, ten.memory_total_bytes, ten.held_by) == (
        80 * GIB,
        160 * GIB,
        ("ai/llama-0", "ai/whisper-0"),
    )
    assert (nine.devices, nine.with_value, nine.gpu_utilization_percent) == (2, 1, 60.0)
    assert nine.unknown == "the driver returns no reading"
    assert (eleven.with_value, eleven.gpu_utilization_percent, eleven.memory_used_bytes) == (0, None, None)


def test_an_incomplete_sum_is_unknown() -> None:
    both = merged([BASE, replace(BASE, power_watts=None)])
    assert (both.power_watts, both.memory_used_bytes) == (None, 80 * GIB)


def test_a_pod_has_an_equal_part_of_a_shared_device() -> None:
    shared = replace(BASE, held_by=("ai/one", "ai/two"), gpu_utilization_percent=60.0)
    own = replace(BASE, uuid="GPU-0001", held_by=("ai/two",), gpu_utilization_percent=50.0)
    one, two = arrange([shared, own], RowKind.POD, SortKey.NODE)
    assert (one.pod, one.devices, one.gpu_utilization_percent, one.memory_used_bytes) == ("ai/one", 1, 30.0, 20 * GIB)
    assert (two.pod, two.devices, two.gpu_utilization_percent, two.power_watts) == ("ai/two", 2, 40.0, 525.0)


ROWS = st.lists(
    st.builds(
        replace,
        st.just(BASE),
        node=st.sampled_from(["a", "b-2", "b-10"]),
        uuid=st.uuids().map(str),
        with_value=st.integers(0, 1),
        gpu_utilization_percent=st.none() | st.floats(0, 100),
        power_watts=st.none() | st.floats(0, 700),
        held_by=st.none() | st.lists(st.sampled_from(["ai/x", "ai/y"]), unique=True).map(tuple),
    ),
    max_size=8,
)


@given(ROWS, st.sampled_from(RowKind), st.sampled_from(SortKey), st.booleans(), st.randoms())
def test_the_order_of_the_input_does_not_matter_and_no_device_is_lost(
    rows: list[TopRow], kind: RowKind, sort: SortKey, is_reversed: bool, random: Any
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    found = arrange(rows, kind, sort, is_reversed=is_reversed)
    assert names(found) == names(arrange(shuffled, kind, sort, is_reversed=is_reversed))
    assert {key for row in found for key in row.device_keys} == {key for row in rows for key in row.device_keys}
    if kind is not RowKind.POD:
        assert sum(row.devices for row in found) == len(rows)


@given(ROWS, st.sampled_from(RowKind))
def test_a_mean_lies_within_its_values_and_does_not_count_the_unknown(rows: list[TopRow], kind: RowKind) -> None:
    highest = max((row.gpu_utilization_percent or 0.0 for row in rows), default=0.0)
    for row in arrange(rows, kind, SortKey.NODE):
        if row.gpu_utilization_percent is not None:
            assert 0 <= row.gpu_utilization_percent <= highest + 1e-9
    if all(row.gpu_utilization_percent is None for row in rows):
        assert all(row.gpu_utilization_percent is None for row in arrange(rows, kind, SortKey.NODE))
