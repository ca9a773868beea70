# SPDX-License-Identifier: Apache-2.0
"""Tests the table and the live view of ``top`` against golden files, and their limits."""

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.top.arrangement import RowKind, SortKey, arrange
from keda_gpu_scaler.cli.top.columns import ASCII_GLYPHS, LineStyle, StyledLine
from keda_gpu_scaler.cli.top.rows import FleetReadings, TopRow, device_rows
from keda_gpu_scaler.cli.top.sparklines import STEP_SECONDS, Sparklines
from keda_gpu_scaler.cli.top.table import MIN_WIDTH, table_lines
from keda_gpu_scaler.cli.top.view import view_lines
from keda_gpu_scaler.cli.top.view_state import ViewPage, ViewState, state_after
from keda_gpu_scaler.core.state.fleet import Fleet
from tests.fakes import GIB, node_history, sample, sample_without_readings

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
NOW = 1000.0
DEFAULT_STATE = ViewState()
KEYS = ["q", "h", "?", "!", "b", "tab", "d", "n", "p", "s", "left", "right", "r", "/", "x", "enter", "escape"]
KEYS += ["backspace", "up", "down", "page up", "page down", "home", "end", "ü", "\x00", ""]


def rows() -> tuple[TopRow, ...]:
    """A busy node, one with a shared device and a device without a reading, and one that is stale."""
    holding = {"GPU-0000": "llama-7d9f8b6c5-x2x9p", "GPU-0001": "whisper-0"}
    busy = [sample(index, 0.99 - index / 10, memory_used_bytes=(72 - index) * GIB) for index in range(2)]
    fleet = Fleet(
        None,
        10.0,
        peers={
            "gpu-7": node_history("gpu-7", *busy, held=holding),
            "gpu-8": node_history("gpu-8", sample(0, 0.0, power_watts=None), sample_without_readings(1), held={}),
            "gpu-9": node_history("gpu-9", sample(0, 0.5), at=NOW - 41),
        },
    )
    found = list(device_rows(fleet, NOW))
    shared = replace(found[2], held_by=("ai/llama-7d9f8b6c5-x2x9p", "batch/embed-0"))
    return (*found[:2], shared, *found[3:])


def readings(
    *found: TopRow, unavailable: int = 1, notes: Sequence[str] = ("gpu-8: replay of gpus.csv",)
) -> FleetReadings:
    reasons = {f"gpu-{10 + number}": "nothing came for 6 s" for number in range(unavailable)}
    return FleetReadings(datetime(2026, 1, 2, 12, 0, 3).astimezone(), "fleet", found, reasons, tuple(notes))


@functools.cache
def sparklines() -> Sparklines:
    recorded = Sparklines()
    for step in range(20):
        at = NOW - (19 - step) * STEP_SECONDS
        value = None if step == 9 else step * 5.0
        recorded.record([replace(row, gpu_utilization_percent=value) for row in rows()[:3]], at)
    return recorded


def drawn(
    state: ViewState = DEFAULT_STATE, width: int = 80, height: int = 16, shown: FleetReadings | None = None
) -> list[StyledLine]:
    return view_lines(shown or readings(*rows()), state, sparklines(), NOW, width, height)[0]


def text(lines: list[StyledLine]) -> str:
    return "\n".join(line.text.rstrip() for line in lines) + "\n"


VIEWS = {
    "by device": ViewState(),
    "by node, the busiest first": ViewState(kind=RowKind.NODE, sort=SortKey.UTILIZATION),
    "by pod": ViewState(kind=RowKind.POD),
    "filtered": ViewState(words="llama"),
    "a filter that is being typed": ViewState(typing="whis"),
    "a filter without a matching row": ViewState(words="nowhere"),
    "help": ViewState(page=ViewPage.HELP),
    "unavailable instances": ViewState(page=ViewPage.UNAVAILABLE),
}


@pytest.mark.parametrize("width", [80, 140])
def test_every_view_is_as_in_the_golden_file(width: int) -> None:
    parts = [f"==== {name}\n{text(drawn(state, width, 22))}" for name, state in VIEWS.items()]
    parts.append(f"==== no device yet\n{text(drawn(width=width, height=8, shown=readings(notes=())))}")
    many = readings(*rows(), unavailable=6)
    parts.append(f"==== many unavailable instances\n{text(drawn(width=width, height=12, shown=many))}")
    shown = "".join(parts)
    path = GOLDEN / f"top-{width}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


UNTRUSTED = st.text(st.characters(codec="utf-8"), max_size=60)


@given(
    UNTRUSTED, UNTRUSTED, st.integers(1, 200), st.integers(1, 60), st.sampled_from(RowKind),
    st.sampled_from(ViewPage), st.none() | UNTRUSTED,
)  # fmt: skip
def test_no_line_is_too_wide_and_untrusted_text_is_printable(
    name: str, words: str, width: int, height: int, kind: RowKind, page: ViewPage, typing: str | None
) -> None:
    untrusted = [replace(row, node=name, model=name, held_by=(name,), unknown=name) for row in rows()]
    shown = FleetReadings(readings().at, "fleet", tuple(untrusted), {name: name}, (name,))
    state = ViewState(kind=kind, page=page, typing=typing)
    lines, _ = view_lines(shown, state, sparklines(), NOW, width, height)
    assert len(lines) <= height
    for line in lines:
        assert len(line.text) <= width
        assert line.text.isprintable()


@pytest.mark.parametrize("width", [MIN_WIDTH, 60, 80, 100, 140, 200])
@pytest.mark.parametrize("kind", list(RowKind))
def test_the_table_fits_and_keeps_the_most_important_columns(width: int, kind: RowKind) -> None:
    lines = table_lines(arrange(rows(), kind, SortKey.NODE), kind, width)
    assert all(len(line.text) <= width for line in lines)
    head = lines[0].text.split()
    assert {"UTIL", "POD" if kind is RowKind.POD else "NODE"} <= set(head)


def test_a_wide_view_has_every_column() -> None:
    lines = drawn(width=140)
    head = next(line for line in lines if line.style is LineStyle.HEAD)
    assert head.text.split() == ["NODE", "GPU", "MODEL", "UTIL", "RECENT", "MEMORY", "GiB", "°C", "W", "HELD", "BY"]
    assert any("ai/llama-7d9f8b6c5-x2x9p batch/embed-0" in line.text for line in lines)


def test_an_unknown_device_has_question_marks_and_the_reason() -> None:
    [stale] = [line for line in drawn(width=140) if line.text.startswith("gpu-9")]
    assert stale.style is LineStyle.BAD
    assert " ".join(stale.text.split()[3:]) == "? ? ? ? node gpu-9 last answered 41 s ago (limit 10 s)"


def test_a_terminal_that_shows_ascii_only_gets_ascii_only() -> None:
    for state in VIEWS.values():
        lines, _ = view_lines(readings(*rows()), state, sparklines(), NOW, 60, 30, ASCII_GLYPHS)
        assert all(line.text.isascii() for line in lines)
    assert not all(
        line.text.isascii() for line in view_lines(readings(*rows()), ViewState(), sparklines(), NOW, 60, 30)[0]
    )


def test_the_rows_that_fit_are_shown_and_the_rest_by_scrolling() -> None:
    assert [line.text[:7] for line in drawn(height=7)][3:5] == ["gpu-7  ", "gpu-7  "]
    shown = readings(*rows(), unavailable=0, notes=())
    lines, state = view_lines(shown, ViewState(offset=1 << 30), sparklines(), NOW, 80, 5)
    assert [line.text[:5] for line in lines] == ["fleet", "by de", "NODE ", "gpu-8", "gpu-9"]
    assert state.offset == 3


@given(st.lists(st.sampled_from(KEYS), max_size=30), st.integers(1, 100), st.integers(1, 30))
def test_every_sequence_of_keys_has_a_view(keys: list[str], width: int, height: int) -> None:
    state: ViewState | None = ViewState()
    shown = readings(*rows())
    for key in keys:
        if state is None:
            return
        state = state_after(state, key)
        if state is not None:
            lines, state = view_lines(shown, state, sparklines(), NOW, width, height)
            assert 0 <= state.offset <= 200
            assert len(lines) <= height


def test_the_help_names_every_key() -> None:
    shown = text(drawn(ViewState(page=ViewPage.HELP), 140, 60))
    for key in ("q", "Ctrl-C", "h", "?", "b", "Tab", "d", "n", "p", "s", "r", "/", "Enter", "Esc", "PgUp", "Home", "!"):
        assert key in shown
