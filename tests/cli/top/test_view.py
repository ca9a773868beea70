# SPDX-License-Identifier: Apache-2.0
import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.top.rows import By, Row, Sort, TopView, arranged, device_rows
from keda_gpu_scaler.cli.top.sparklines import STEP_SECONDS, Sparklines
from keda_gpu_scaler.cli.top.view import (
    NARROWEST,
    PLAIN,
    Line,
    Panel,
    Signs,
    Style,
    ViewState,
    pressed,
    screen,
    table_lines,
)
from keda_gpu_scaler.core.state.fleet import Fleet
from tests.fakes import GIB, blind, node_history, sample

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
NOW = 1000.0
PLAINLY = ViewState()
KEYS = ["q", "h", "?", "!", "b", "tab", "d", "n", "p", "s", "left", "right", "r", "/", "x", "enter", "escape"]
KEYS += ["backspace", "up", "down", "page up", "page down", "home", "end", "ü", "\x00", ""]


def rows() -> tuple[Row, ...]:
    """A busy node, one with a blind and a shared device, and one that is stale."""
    holding = {"GPU-0000": "llama-7d9f8b6c5-x2x9p", "GPU-0001": "whisper-0"}
    busy = [sample(index, 0.99 - index / 10, memory_used_bytes=(72 - index) * GIB) for index in range(2)]
    fleet = Fleet(
        None,
        10.0,
        peers={
            "gpu-7": node_history("gpu-7", *busy, held=holding),
            "gpu-8": node_history("gpu-8", sample(0, 0.0, power_watts=None), blind(1), held={}),
            "gpu-9": node_history("gpu-9", sample(0, 0.5), at=NOW - 41),
        },
    )
    found = list(device_rows(fleet, NOW))
    shared = replace(found[2], held_by=("ai/llama-7d9f8b6c5-x2x9p", "batch/embed-0"))
    return (*found[:2], shared, *found[3:])


def view(*found: Row, unheard: int = 1, notes: Sequence[str] = ("gpu-8: replay of gpus.csv",)) -> TopView:
    unavailable = {f"gpu-{10 + number}": "nothing came for 6 s" for number in range(unheard)}
    return TopView(datetime(2026, 1, 2, 12, 0, 3).astimezone(), "fleet", found, unavailable, tuple(notes))


@functools.cache
def trails() -> Sparklines:
    seen = Sparklines()
    for step in range(20):
        at = NOW - (19 - step) * STEP_SECONDS
        seen.note([replace(row, gpu_utilization_percent=None if step == 9 else step * 5.0) for row in rows()[:3]], at)
    return seen


def drawn(look: ViewState = PLAINLY, width: int = 80, height: int = 16, shown: TopView | None = None) -> list[Line]:
    return screen(shown or view(*rows()), look, trails(), NOW, width, height)[0]


def text(lines: list[Line]) -> str:
    return "\n".join(line.text.rstrip() for line in lines) + "\n"


SCREENS = {
    "by device": ViewState(),
    "by node, the busiest first": ViewState(by=By.NODE, sort=Sort.UTILIZATION),
    "by pod": ViewState(by=By.POD),
    "filtered": ViewState(words="llama"),
    "a filter that is being typed": ViewState(typing="whis"),
    "a filter that nothing holds": ViewState(words="nobody"),
    "help": ViewState(page=Panel.HELP),
    "who is not heard": ViewState(page=Panel.UNHEARD),
}


@pytest.mark.parametrize("width", [80, 140])
def test_every_screen_is_as_it_was(width: int) -> None:
    parts = [f"==== {name}\n{text(drawn(look, width, 22))}" for name, look in SCREENS.items()]
    parts.append(f"==== nobody is seen yet\n{text(drawn(width=width, height=8, shown=view(notes=())))}")
    parts.append(f"==== many are not heard\n{text(drawn(width=width, height=12, shown=view(*rows(), unheard=6)))}")
    shown = "".join(parts)
    path = GOLDEN / f"top-{width}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


HOSTILE = st.text(st.characters(codec="utf-8"), max_size=60)


@given(
    HOSTILE, HOSTILE, st.integers(1, 200), st.integers(1, 60), st.sampled_from(By), st.sampled_from(Panel),
    st.none() | HOSTILE,
)  # fmt: skip
def test_no_line_is_too_wide_and_nothing_strange_gets_through(
    name: str, words: str, width: int, height: int, by: By, page: Panel, typing: str | None
) -> None:
    strange = [replace(row, node=name, model=name, held_by=(name,), unknown=name) for row in rows()]
    shown = TopView(view().at, "fleet", tuple(strange), {name: name}, (name,))
    look = ViewState(by=by, page=page, typing=typing)
    lines, _ = screen(shown, look, trails(), NOW, width, height)
    assert len(lines) <= height
    for line in lines:
        assert len(line.text) <= width
        assert line.text.isprintable()


@pytest.mark.parametrize("width", [NARROWEST, 60, 80, 100, 140, 200])
@pytest.mark.parametrize("by", list(By))
def test_the_table_fits_and_keeps_what_matters_most(width: int, by: By) -> None:
    lines = table_lines(arranged(rows(), by, Sort.NODE), by, width)
    assert all(len(line.text) <= width for line in lines)
    head = lines[0].text.split()
    assert {"UTIL", "POD" if by is By.POD else "NODE"} <= set(head)


def test_a_wide_screen_leaves_nothing_out() -> None:
    lines = drawn(width=140)
    head = next(line for line in lines if line.style is Style.HEAD)
    assert head.text.split() == ["NODE", "GPU", "MODEL", "UTIL", "LATELY", "MEMORY", "GiB", "°C", "W", "HELD", "BY"]
    assert any("ai/llama-7d9f8b6c5-x2x9p batch/embed-0" in line.text for line in lines)


def test_what_is_unknown_is_shown_as_unknown_and_says_why() -> None:
    [stale] = [line for line in drawn(width=140) if line.text.startswith("gpu-9")]
    assert stale.style is Style.BAD
    assert " ".join(stale.text.split()[3:]) == "? ? ? ? node gpu-9 last answered 41 s ago (limit 10 s)"


def test_a_terminal_that_knows_ascii_alone_is_sent_nothing_else() -> None:
    for look in SCREENS.values():
        lines, _ = screen(view(*rows()), look, trails(), NOW, 60, 30, PLAIN)
        assert all(line.text.isascii() for line in lines)
    assert not all(
        line.text.isascii() for line in screen(view(*rows()), ViewState(), trails(), NOW, 60, 30, Signs())[0]
    )


def test_as_many_rows_as_there_is_room_for_and_the_rest_by_scrolling() -> None:
    assert [line.text[:7] for line in drawn(height=7)][3:5] == ["gpu-7  ", "gpu-7  "]
    lines, look = screen(view(*rows(), unheard=0, notes=()), ViewState(offset=1 << 30), trails(), NOW, 80, 5)
    assert [line.text[:5] for line in lines] == ["fleet", "by de", "NODE ", "gpu-8", "gpu-9"]
    assert look.offset == 3


def after(*keys: str, look: ViewState = PLAINLY) -> ViewState | None:
    return functools.reduce(lambda now, key: pressed(now, key) if now is not None else None, keys, look)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param(["q"], None, id="q quits"),
        pytest.param(["h", "q"], None, id="q quits from the help"),
        pytest.param(["h"], ViewState(page=Panel.HELP), id="h shows the help"),
        pytest.param(["?", "h"], ViewState(), id="and hides it"),
        pytest.param(["!"], ViewState(page=Panel.UNHEARD), id="who is not heard"),
        pytest.param(["!", "escape"], ViewState(), id="Esc goes back"),
        pytest.param(["b"], ViewState(by=By.NODE), id="the next view"),
        pytest.param(["tab", "tab", "tab"], ViewState(), id="round and round"),
        pytest.param(["p"], ViewState(by=By.POD), id="pods"),
        pytest.param(["s"], ViewState(sort=Sort.UTILIZATION), id="the next column"),
        pytest.param(["left"], ViewState(sort=Sort.AGE), id="the column before the first is the last"),
        pytest.param(["r"], ViewState(is_reversed=True), id="the other way round"),
        pytest.param(["r", "s"], ViewState(sort=Sort.UTILIZATION), id="a new column begins at its own end"),
        pytest.param(["/", "q", "x"], ViewState(typing="qx"), id="what is typed is no command"),
        pytest.param(["/", "a", "b", "backspace", "enter"], ViewState(words="a"), id="a filter is kept by Enter"),
        pytest.param(["/", "a", "enter", "/", "b", "enter"], ViewState(words="ab"), id="and typed on"),
        pytest.param(["/", "a", "escape"], ViewState(), id="and dropped by Esc"),
        pytest.param(["/", "a", "enter", "escape"], ViewState(), id="later too"),
        pytest.param(["/", "up", "\x00"], ViewState(typing=""), id="what cannot be typed is not"),
        pytest.param(["down", "down", "up"], ViewState(offset=1), id="lines"),
        pytest.param(["page down", "page down", "page up"], ViewState(offset=10), id="screens"),
        pytest.param(["page down", "home", "up"], ViewState(), id="not above the first"),
        pytest.param(["page down", "n"], ViewState(by=By.NODE), id="another view begins at its top"),
        pytest.param(["h", "p", "s", "/"], ViewState(page=Panel.HELP), id="in the help nothing else changes"),
        pytest.param(["ü", ""], ViewState(), id="other keys do nothing"),
    ],
)
def test_keys(keys: list[str], expected: ViewState | None) -> None:
    assert after(*keys) == expected


@given(st.lists(st.sampled_from(KEYS), max_size=30), st.integers(1, 100), st.integers(1, 30))
def test_whatever_is_pressed_there_is_a_screen(keys: list[str], width: int, height: int) -> None:
    look: ViewState | None = ViewState()
    shown = view(*rows())
    for key in keys:
        if look is None:
            return
        look = pressed(look, key)
        if look is not None:
            lines, look = screen(shown, look, trails(), NOW, width, height)
            assert 0 <= look.offset <= 200
            assert len(lines) <= height


def test_the_help_names_every_key() -> None:
    shown = text(drawn(ViewState(page=Panel.HELP), 140, 60))
    for key in ("q", "Ctrl-C", "h", "?", "b", "Tab", "d", "n", "p", "s", "r", "/", "Enter", "Esc", "PgUp", "Home", "!"):
        assert key in shown
