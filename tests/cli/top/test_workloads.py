# SPDX-License-Identifier: Apache-2.0
"""Tests the view by workload: its rows, its table against golden files, and its client."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.top.arrangement import RowKind, SortKey, arrange_workloads
from keda_gpu_scaler.cli.top.columns import ALL_GLYPHS, ASCII_GLYPHS, LineStyle
from keda_gpu_scaler.cli.top.export import as_csv, as_json
from keda_gpu_scaler.cli.top.rows import FleetReadings
from keda_gpu_scaler.cli.top.sparklines import BARS, Sparklines
from keda_gpu_scaler.cli.top.view import view_lines
from keda_gpu_scaler.cli.top.view_state import ViewState, state_after
from keda_gpu_scaler.cli.top.workload_client import ListedAddresses, asked_workloads
from keda_gpu_scaler.cli.top.workload_rows import WorkloadRow, newest_rows, refused_row, workload_row
from keda_gpu_scaler.cli.top.workload_table import meter, replicas_text, sparkline, workload_lines
from keda_gpu_scaler.core.comparison import Comparison, ReplicaLimit
from keda_gpu_scaler.core.instance_status import RecentAnswer, RefusedTrigger
from keda_gpu_scaler.peers.discovery import StaticDiscovery
from keda_gpu_scaler.server.workload_history import WorkloadHistories, history_key, point_of
from keda_gpu_scaler.server.workload_list import workload_list
from keda_gpu_scaler.wire import evaluation_pb2 as pb
from keda_gpu_scaler.wire import evaluation_pb2_grpc as pb_grpc
from tests.limits import WAIT_SECONDS

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
NOW = 10_000.0
LLAMA = RecentAnswer(
    "ai", "llama", "keda_gpu_llama", "load", 100.0, 390.0, True, 3, 3, at_seconds=NOW - 4,
    comparison=Comparison(130.0, 390.0, 390.0, "total", "", 3, 4, ReplicaLimit.NONE, "8 requests are running"),
)  # fmt: skip
RULES = "the resource-metric rules of the pods lead to 3 replicas, and so does 160"
TRITON = RecentAnswer(
    "ai", "triton", "keda_gpu_triton", "gpu_utilization", 75.0, 160.0, True, 2, 3, at_seconds=NOW - 2,
    comparison=Comparison(61.5, 123.0, 160.0, "total", RULES, 3, 3, ReplicaLimit.NONE, "92 is above 10"),
)  # fmt: skip
EMBED = RecentAnswer(
    "batch", "embed", "keda_gpu_embed", "gpu_utilization", 80.0, None, True, 0, 2, at_seconds=NOW - 2,
    reason="no fresh sample for 2 of 2 ready pods: node gpu-c last answered 41 s ago (limit 10 s)",
    comparison=Comparison(current_replicas=2, activity="it is not known whether the workload is idle"),
)  # fmt: skip
REFUSED = RefusedTrigger("ai", "whisper", ("metadata.profile: Unsupported value",), NOW - 60)


def histories() -> WorkloadHistories:
    """Half an hour in which llama climbs, and embed loses its value."""
    found = WorkloadHistories()
    for minute in range(30):
        at = NOW - 60 * (29 - minute)
        for answer in (LLAMA, TRITON, EMBED):
            value = None if answer is EMBED and minute > 20 else answer.target * (0.3 + minute / 30)
            known = replace(answer, value=value, comparison=replace(answer.comparison, measured=value))
            found.record(history_key(answer), point_of(known), at)
    return found


def listed() -> pb.WorkloadList:
    return workload_list([LLAMA, TRITON, EMBED], [REFUSED], "front", NOW, histories(), 360)


def rows() -> tuple[WorkloadRow, ...]:
    return newest_rows({"front": [workload_row(one, "front") for one in listed().answers]})


def readings(*workloads: WorkloadRow) -> FleetReadings:
    return FleetReadings(datetime(2026, 1, 2, 12, 0, 3, tzinfo=UTC).astimezone(), "fleet", (), {}, (), workloads)


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_is_as_in_the_golden_file(width: int) -> None:
    shown = "".join(
        f"{line.text.rstrip()}\n" for line in workload_lines(arrange_workloads(rows(), SortKey.NODE), width)
    )
    path = GOLDEN / f"top-workloads-{width}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 100, 140])
def test_measured_and_reported_are_two_columns_and_the_limit_is_named(width: int) -> None:
    limited = replace(rows()[0], limit=ReplicaLimit.MAX.value, why="8 requests are running")
    head, line = (line.text for line in workload_lines([limited], width))
    assert {"VALUE", "TARGET", "RECENT", "REPORTED", "REPLICAS", "ACTIVE", "WHY"} <= set(head.split())
    assert ALL_GLYPHS.full in line
    assert ReplicaLimit.MAX.value in line


def test_a_trigger_without_a_value_comes_first_and_is_marked() -> None:
    first, *_ = arrange_workloads(rows(), SortKey.NODE)
    assert first.name == "embed"
    assert workload_lines([first], 80)[1].style is LineStyle.BAD


@pytest.mark.parametrize(
    ("sort", "words", "names"),
    [
        (SortKey.UTILIZATION, "", ["llama", "triton", "embed"]),
        (SortKey.AGE, "", ["llama", "triton", "embed"]),
        (SortKey.NODE, "gpu_util", ["embed", "triton"]),
        (SortKey.NODE, "unknown", ["embed"]),
    ],
)
def test_workloads_are_sorted_and_filtered(sort: SortKey, words: str, names: list[str]) -> None:
    assert [row.name for row in arrange_workloads(rows(), sort, words)] == names


@pytest.mark.parametrize(
    ("replicas", "wanted", "text"), [(3, 4, "3→4"), (3, 3, "3"), (3, None, "3→?"), (None, None, "?"), (0, 1, "0→1")]
)
def test_the_replicas_are_those_now_and_those_wanted(replicas: int | None, wanted: int | None, text: str) -> None:
    assert replicas_text(replace(rows()[0], replicas=replicas, wanted=wanted), ALL_GLYPHS) == text


@pytest.mark.parametrize(
    ("ratio", "bar"), [(None, ""), (0.0, "      │ "), (0.5, "███   │ "), (1.0, "██████│ "), (9.0, "████████")]
)
def test_the_meter_marks_the_target(ratio: float | None, bar: str) -> None:
    assert meter(ratio, ALL_GLYPHS) == bar


def test_the_sparkline_comes_from_the_instance_and_bridges_no_gap() -> None:
    history = ((180.0, 0.0), (120.0, None), (0.0, 100.0))
    assert sparkline(replace(rows()[0], target=75.0, history=history), 5, BARS) == " ▁? █"


@given(st.text(max_size=40), st.integers(20, 200))
def test_no_line_is_too_wide_and_untrusted_text_is_printable(name: str, width: int) -> None:
    untrusted = [replace(row, name=name, metric=name, unit=name, limit=name, why=name) for row in rows()]
    state = ViewState(kind=RowKind.WORKLOAD)
    lines, _ = view_lines(readings(*untrusted), state, Sparklines(), NOW, width, 12)
    assert all(len(line.text) <= width and line.text.isprintable() for line in lines)


def test_a_terminal_of_ascii_gets_ascii() -> None:
    plain = replace(rows()[0], why="x")
    assert all(line.text.isascii() for line in workload_lines([plain], 140, ASCII_GLYPHS))


def test_without_a_workload_the_view_says_so_and_names_the_key_of_the_devices() -> None:
    lines, _ = view_lines(readings(), ViewState(kind=RowKind.WORKLOAD), Sparklines(), NOW, 100, 12)
    assert any("no instance has answered for a workload" in line.text for line in lines)
    after = state_after(ViewState(kind=RowKind.WORKLOAD), "d")
    assert after is not None
    assert after.kind is RowKind.DEVICE


def test_json_and_csv_have_measured_and_reported_apart() -> None:
    shown = as_json(readings(), RowKind.WORKLOAD, rows())
    assert '"measured": 130.0' in shown
    assert '"reported": 390.0' in shown
    head, *lines = as_csv(RowKind.WORKLOAD, rows()).splitlines()
    assert head.startswith("namespace,name,metric_name")
    assert len(lines) == 3


def test_of_two_instances_the_last_answer_counts() -> None:
    older, newer = replace(rows()[0], age_seconds=9.0, instance="a"), replace(rows()[0], age_seconds=1.0, instance="b")
    assert newest_rows({"a": [older], "b": [newer]}) == (newer,)


def test_each_refused_trigger_of_an_object_has_a_row_and_two_instances_share_it() -> None:
    problems = ("metadata.profile: Unsupported value", "metadata.targetvalue: Forbidden")
    refused = [RefusedTrigger("ai", "whisper", (problem,), NOW - 60) for problem in problems]
    listed_refused = workload_list([], refused, "front", NOW).refused
    by_instance = {name: [refused_row(one, name) for one in listed_refused] for name in ("a", "b")}
    assert [row.why for row in newest_rows(by_instance)] == [f"refused: {problem}" for problem in problems]


def test_a_reason_does_not_repeat_the_name_of_the_row() -> None:
    answer = replace(EMBED, reason="batch/embed: none of its pods holds a device")
    [message] = workload_list([answer], [], "front", NOW).answers
    assert workload_row(message, "front").why == "none of its pods holds a device"


def test_a_refused_trigger_has_a_row_with_its_problem() -> None:
    row = refused_row(listed().refused[0], "front")
    assert (row.name, row.reported, row.active, row.limit) == ("whisper", None, None, "none")
    shown = workload_lines([row], 140)[1]
    assert "refused: metadata.profile: Unsupported value" in shown.text
    assert shown.style is LineStyle.BAD


def test_a_refused_trigger_has_the_whole_line_for_its_sentence() -> None:
    why = 'refused: metadata.targetValu: Forbidden: it is not a key, but almost "targetValue"; rename it'
    refused = replace(refused_row(listed().refused[0], "front"), why=why)
    [_, line, *_] = workload_lines([refused, *rows()], 80)
    assert line.text == "ai/whisper  refused: metadata.targetValu: Forbidden: it is not a key, but almos…"
    assert line.style is LineStyle.BAD


# ---- the client ----


class Lists(pb_grpc.EvaluationsServicer):
    """A server that lists the workloads of this test."""

    async def ListWorkloads(  # noqa: N802
        self, request: pb.ListWorkloadsRequest, context: grpc.aio.ServicerContext
    ) -> pb.WorkloadList:
        return listed()


class NoInstance:
    """A discovery that finds nothing."""

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        yield {}
        await asyncio.Event().wait()


@pytest.mark.parametrize("has_front_end", [True, False], ids=["the front end is asked", "without one the agents are"])
def test_the_instances_that_answer_keda_are_asked(has_front_end: bool) -> None:
    async def run() -> None:
        server = grpc.aio.server()
        pb_grpc.add_EvaluationsServicer_to_server(Lists(), server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        agents, front_ends = StaticDiscovery(("127.0.0.1:1",)), NoInstance()
        listing = ListedAddresses(agents if has_front_end else StaticDiscovery((f"127.0.0.1:{port}",)))
        called = ListedAddresses(StaticDiscovery((f"127.0.0.1:{port}",)) if has_front_end else front_ends)
        following = asyncio.create_task(listing.keep_listing())
        async with asyncio.timeout(WAIT_SECONDS), asked_workloads(listing, called, None) as client:
            await client.is_synced.wait()
            assert [row.name for row in client.rows()] == ["llama", "triton", "whisper", "embed"]
            assert client.unavailable == {}
        following.cancel()
        await server.stop(None)

    asyncio.run(run())


def test_an_instance_that_does_not_answer_is_reported_without_grpc_s_text() -> None:
    async def run() -> None:
        agents = ListedAddresses(StaticDiscovery(("127.0.0.1:1",)))
        following = asyncio.create_task(agents.keep_listing())
        async with asyncio.timeout(WAIT_SECONDS), asked_workloads(agents, None, None) as client:
            await client.is_synced.wait()
            [reason] = client.unavailable.values()
            assert reason == (
                "127.0.0.1:1: nothing listens there (connection refused): is it running, and is the port right?"
            )
        following.cancel()

    asyncio.run(run())


def test_the_table_in_the_guide_is_that_of_the_golden_file() -> None:
    guide = GOLDEN.parents[1] / "docs" / "guides" / "watching.md"
    shown = re.findall(r"```text\n(.*?)```", guide.read_text(), re.DOTALL)
    assert (GOLDEN / "top-workloads-80.txt").read_text() in shown
