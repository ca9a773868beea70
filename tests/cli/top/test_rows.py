# SPDX-License-Identifier: Apache-2.0
import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.top.rows import (
    COLUMNS,
    By,
    Row,
    Sort,
    TopView,
    arranged,
    as_csv,
    as_json,
    device_rows,
    origins,
    together,
    unheard,
)
from keda_gpu_scaler.cli.top.sparklines import GAP, LONGEST_STEPS, SIGNS, STEP_SECONDS, Sparklines
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, Fleet
from tests.fakes import GIB, blind, device, node_history, sample

NOW = 1000.0
BASE = next(device_rows(Fleet(None, 10.0, peers={"a": node_history("a", sample(), held={})}), NOW))


def fleet(**unavailable: str) -> Fleet:
    """Two nodes that are heard, one that is stale and knows no holders, and whoever is silent."""
    return Fleet(
        None,
        10.0,
        peers={
            "gpu-10": node_history(
                "gpu-10", sample(0, 0.9), sample(1, 0.3), held={"GPU-0000": "llama-0", "GPU-0001": "whisper-0"}
            ),
            "gpu-9": node_history("gpu-9", sample(0, 0.6, power_watts=None), blind(1), held={"GPU-0000": "llama-1"}),
            "gpu-11": node_history("gpu-11", sample(0, 0.5), held={"GPU-0000": "old-0"}, at=NOW - 41),
        },
        unavailable=unavailable,
    )


def rows() -> list[Row]:
    return list(device_rows(fleet(), NOW))


def names(arranged: list[Row]) -> list[str]:
    return [f"{row.pod or row.node}:{row.device}".rstrip(":") for row in arranged]


def test_a_row_holds_what_the_device_told() -> None:
    row = rows()[0]
    assert row == Row(
        "gpu-10", "", "0", "GPU-0000", "NVIDIA H100", 1, 1, 90.0, 40 * GIB, 80 * GIB, 55.0, 350.0,
        ("ai/llama-0",), 0.0, "fake", "", (("gpu-10", "GPU-0000"),),
    )  # fmt: skip


def test_what_is_stale_or_blind_is_unknown_and_says_why() -> None:
    stale, blind_one = rows()[2], rows()[-1]
    assert (stale.node, stale.seen, stale.gpu_utilization_percent, stale.held_by) == ("gpu-11", 0, None, None)
    assert stale.unknown == "node gpu-11 last answered 41 s ago (limit 10 s)"
    assert stale.age_seconds == 41.0
    assert (blind_one.seen, blind_one.unknown) == (0, "the driver gives no reading of it")


def test_who_is_not_heard_is_told_with_the_reason() -> None:
    unavailable = fleet(
        **{"gpu-12": "nothing came for 6 s", "gpu-9": "it ended the connection", PEERS_UNKNOWN: "no rights"}
    )
    assert unheard(unavailable) == {"discovery": "no rights", "gpu-12": "nothing came for 6 s"}


def test_a_slice_is_called_by_its_gpu_and_its_instance() -> None:
    slices = (sample(), replace(sample(), device=device(1, gpu_instance=3)))
    found = device_rows(Fleet(None, 10.0, peers={"a": node_history("a", *slices)}), NOW)
    assert [row.device for row in found] == ["0", "1/3"]


def test_where_no_kubelet_tells_whoever_was_given_the_devices_holds_them() -> None:
    peers = {"a": node_history("a", sample())}
    [row] = device_rows(Fleet(None, 10.0, peers=peers), NOW, holder="slurm/4711")
    assert row.held_by == ("slurm/4711",)
    [row] = device_rows(Fleet(None, 10.0, peers=peers), NOW)
    assert row.held_by is None


def test_a_device_that_is_not_meant_is_left_out() -> None:
    kept = device_rows(fleet(), NOW, meant=lambda one: one.index == 1)
    assert [(row.node, row.device) for row in kept] == [("gpu-10", "1"), ("gpu-9", "1")]


@pytest.mark.parametrize(
    ("by", "sort", "is_reversed", "words", "expected"),
    [
        pytest.param(
            By.DEVICE, Sort.NODE, False, "", ["gpu-9:0", "gpu-9:1", "gpu-10:0", "gpu-10:1", "gpu-11:0"],
            id="names with numbers in the order of the numbers",
        ),
        pytest.param(
            By.DEVICE, Sort.UTILIZATION, False, "", ["gpu-10:0", "gpu-9:0", "gpu-10:1", "gpu-9:1", "gpu-11:0"],
            id="the busiest first, the unknown last",
        ),
        pytest.param(
            By.DEVICE, Sort.UTILIZATION, True, "", ["gpu-10:1", "gpu-9:0", "gpu-10:0", "gpu-9:1", "gpu-11:0"],
            id="the idlest first, the unknown last all the same",
        ),
        pytest.param(
            By.DEVICE, Sort.HOLDER, False, "", ["gpu-10:0", "gpu-9:0", "gpu-10:1", "gpu-9:1", "gpu-11:0"],
            id="by holder, then those of nobody, then those of nobody knows whom",
        ),
        pytest.param(
            By.DEVICE, Sort.AGE, False, "", ["gpu-11:0", "gpu-9:0", "gpu-9:1", "gpu-10:0", "gpu-10:1"],
            id="the oldest first",
        ),
        pytest.param(By.NODE, Sort.NODE, False, "", ["gpu-9", "gpu-10", "gpu-11"], id="nodes"),
        pytest.param(By.NODE, Sort.UTILIZATION, False, "", ["gpu-9", "gpu-10", "gpu-11"], id="nodes by their mean"),
        pytest.param(
            By.POD, Sort.NODE, False, "", ["ai/llama-0", "ai/llama-1", "ai/whisper-0", "gpu-9", "gpu-11"],
            id="pods, then what nobody holds, and what nobody can tell of",
        ),
        pytest.param(By.DEVICE, Sort.NODE, False, "LLAMA h100", ["gpu-9:0", "gpu-10:0"], id="all words, in any case"),
        pytest.param(By.DEVICE, Sort.NODE, False, "unknown", ["gpu-9:1", "gpu-11:0"], id="what is unknown"),
        pytest.param(By.POD, Sort.NODE, False, "gpu-10", ["ai/llama-0", "ai/whisper-0"], id="a node's pods"),
        pytest.param(By.DEVICE, Sort.NODE, False, "nobody", [], id="no row holds the word"),
    ],
)  # fmt: skip
def test_rows_are_put_together_and_in_order(
    by: By, sort: Sort, is_reversed: bool, words: str, expected: list[str]
) -> None:
    assert names(arranged(rows(), by, sort, words, is_reversed=is_reversed)) == expected


def test_a_node_is_the_mean_of_its_devices_that_are_seen() -> None:
    nine, ten, eleven = arranged(rows(), By.NODE, Sort.NODE)
    assert (ten.devices, ten.seen, ten.gpu_utilization_percent, ten.power_watts) == (2, 2, 60.0, 700.0)
    assert (ten.memory_used_bytes, ten.memory_total_bytes, ten.held_by) == (
        80 * GIB,
        160 * GIB,
        ("ai/llama-0", "ai/whisper-0"),
    )
    assert (nine.devices, nine.seen, nine.gpu_utilization_percent) == (2, 1, 60.0)
    assert nine.unknown == "the driver gives no reading of it"
    assert (eleven.seen, eleven.gpu_utilization_percent, eleven.memory_used_bytes) == (0, None, None)


def test_a_sum_that_something_is_missing_from_is_unknown() -> None:
    both = together([BASE, replace(BASE, power_watts=None)])
    assert (both.power_watts, both.memory_used_bytes) == (None, 80 * GIB)


def test_a_pod_has_an_equal_part_of_a_shared_device() -> None:
    shared = replace(BASE, held_by=("ai/one", "ai/two"), gpu_utilization_percent=60.0)
    own = replace(BASE, uuid="GPU-0001", held_by=("ai/two",), gpu_utilization_percent=50.0)
    one, two = arranged([shared, own], By.POD, Sort.NODE)
    assert (one.pod, one.devices, one.gpu_utilization_percent, one.memory_used_bytes) == ("ai/one", 1, 30.0, 20 * GIB)
    assert (two.pod, two.devices, two.gpu_utilization_percent, two.power_watts) == ("ai/two", 2, 40.0, 525.0)


ROWS = st.lists(
    st.builds(
        replace,
        st.just(BASE),
        node=st.sampled_from(["a", "b-2", "b-10"]),
        uuid=st.uuids().map(str),
        seen=st.integers(0, 1),
        gpu_utilization_percent=st.none() | st.floats(0, 100),
        power_watts=st.none() | st.floats(0, 700),
        held_by=st.none() | st.lists(st.sampled_from(["ai/x", "ai/y"]), unique=True).map(tuple),
    ),
    max_size=8,
)


@given(ROWS, st.sampled_from(By), st.sampled_from(Sort), st.booleans(), st.randoms())
def test_the_order_of_what_came_does_not_matter_and_no_device_is_lost(
    rows: list[Row], by: By, sort: Sort, is_reversed: bool, random: Any
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    found = arranged(rows, by, sort, is_reversed=is_reversed)
    assert names(found) == names(arranged(shuffled, by, sort, is_reversed=is_reversed))
    assert {key for row in found for key in row.trails} == {key for row in rows for key in row.trails}
    if by is not By.POD:
        assert sum(row.devices for row in found) == len(rows)


@given(ROWS, st.sampled_from(By))
def test_a_mean_lies_within_what_it_is_of_and_never_counts_the_unknown(rows: list[Row], by: By) -> None:
    highest = max((row.gpu_utilization_percent or 0.0 for row in rows), default=0.0)
    for row in arranged(rows, by, Sort.NODE):
        if row.gpu_utilization_percent is not None:
            assert 0 <= row.gpu_utilization_percent <= highest + 1e-9
    if all(row.gpu_utilization_percent is None for row in rows):
        assert all(row.gpu_utilization_percent is None for row in arranged(rows, by, Sort.NODE))


def test_json_holds_everything_and_null_where_it_is_unknown() -> None:
    view = TopView(datetime(2026, 1, 2, tzinfo=UTC), "fleet", tuple(rows()), {"gpu-12": "why"}, ("a note",))
    told = json.loads(as_json(view, By.DEVICE, view.rows))
    assert (told["at"], told["place"], told["by"]) == ("2026-01-02T00:00:00+00:00", "fleet", "device")
    assert (told["unheard"], told["notes"]) == ({"gpu-12": "why"}, ["a note"])
    assert tuple(told["rows"][0]) == COLUMNS
    assert told["rows"][0]["held_by"] == ["ai/llama-0"]
    assert told["rows"][2]["gpu_utilization_percent"] is None
    assert told["rows"][2]["held_by"] is None


def test_csv_has_the_same_columns_and_nothing_where_it_is_unknown() -> None:
    found = list(csv.DictReader(io.StringIO(as_csv(rows()))))
    assert tuple(found[0]) == COLUMNS
    assert (found[0]["held_by"], found[0]["gpu_utilization_percent"]) == ("ai/llama-0", "90.0")
    assert found[2]["gpu_utilization_percent"] == ""
    assert len(found) == 5


def test_what_no_driver_gave_is_pointed_out() -> None:
    demo = [replace(BASE, node=node, source="synthetic load") for node in "abcd"]
    assert origins([replace(BASE, source="nvml")]) == ()
    assert origins([*demo[:2], replace(BASE, source="nvml")]) == ("a, b: synthetic load",)
    assert origins(demo) == ("4 nodes: synthetic load",)


# ---- trails ----


def drawn(
    *seen: float | None, length: int = 6, each: Callable[[int], float] = lambda place: place * STEP_SECONDS
) -> str:
    trails = Sparklines()
    for place, value in enumerate(seen):
        trails.note([replace(BASE, gpu_utilization_percent=value)], each(place))
    return trails.drawn(BASE.trails, each(len(seen) - 1), length)


def test_a_trail_grows_at_the_right_and_is_blank_before_anybody_looked() -> None:
    assert drawn(0.0, 50.0, 100.0) == f"   {SIGNS[0]}{SIGNS[4]}{SIGNS[-1]}"


def test_what_was_unknown_leaves_a_gap() -> None:
    assert drawn(10.0, None, 10.0) == f"   {SIGNS[0]}{GAP}{SIGNS[0]}"


def test_what_nobody_looked_at_for_a_while_is_a_gap_too() -> None:
    assert drawn(10.0, 10.0, each=lambda place: place * 3 * STEP_SECONDS) == f"  {SIGNS[0]}{GAP}{GAP}{SIGNS[0]}"


def test_a_sign_is_the_mean_of_its_step() -> None:
    assert drawn(0.0, 100.0, length=1, each=lambda place: place * STEP_SECONDS / 2) == SIGNS[4]


def test_several_devices_are_one_trail_of_their_mean() -> None:
    trails = Sparklines()
    other = replace(BASE, uuid="GPU-0001", trails=(("a", "GPU-0001"),), gpu_utilization_percent=100.0)
    trails.note([replace(BASE, gpu_utilization_percent=0.0), other], 0.0)
    assert trails.drawn((*BASE.trails, *other.trails), 0.0, 1) == SIGNS[4]


def test_a_device_that_is_gone_is_forgotten() -> None:
    trails = Sparklines()
    trails.note([BASE], 0.0)
    trails.note([], (LONGEST_STEPS + 1) * STEP_SECONDS)
    assert trails.drawn(BASE.trails, 0.0, 1) == " "


@given(st.lists(st.none() | st.floats(-10, 200), min_size=1, max_size=100), st.integers(0, 80))
def test_a_trail_is_always_as_long_as_it_was_asked_for(seen: list[float | None], length: int) -> None:
    assert len(drawn(*seen, length=length)) == length
