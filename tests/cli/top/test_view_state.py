# SPDX-License-Identifier: Apache-2.0
"""Tests what each key does to the live view."""

import functools

import pytest

from keda_gpu_scaler.cli.top.arrangement import RowKind, SortKey
from keda_gpu_scaler.cli.top.view_state import ViewPage, ViewState, state_after


def after(*keys: str) -> ViewState | None:
    def press(state: ViewState | None, key: str) -> ViewState | None:
        return state_after(state, key) if state is not None else None

    first: ViewState | None = ViewState()
    return functools.reduce(press, keys, first)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param(["q"], None, id="q quits"),
        pytest.param(["h", "q"], None, id="q quits from the help"),
        pytest.param(["h"], ViewState(page=ViewPage.HELP), id="h shows the help"),
        pytest.param(["?", "h"], ViewState(), id="a second key hides the help"),
        pytest.param(["!"], ViewState(page=ViewPage.UNAVAILABLE), id="! shows the unavailable instances"),
        pytest.param(["!", "escape"], ViewState(), id="Esc goes back"),
        pytest.param(["b"], ViewState(kind=RowKind.NODE), id="b switches to nodes"),
        pytest.param(["tab", "tab", "tab", "tab"], ViewState(), id="Tab returns to devices after pods and workloads"),
        pytest.param(["p"], ViewState(kind=RowKind.POD), id="p shows pods"),
        pytest.param(["s"], ViewState(sort=SortKey.UTILIZATION), id="s sorts by the next column"),
        pytest.param(["left"], ViewState(sort=SortKey.AGE), id="the column before the first is the last"),
        pytest.param(["r"], ViewState(is_reversed=True), id="r reverses the order"),
        pytest.param(["r", "s"], ViewState(sort=SortKey.UTILIZATION), id="a new column is not reversed"),
        pytest.param(["/", "q", "x"], ViewState(typing="qx"), id="a letter of the filter is not a command"),
        pytest.param(["/", "a", "b", "backspace", "enter"], ViewState(words="a"), id="Enter applies the filter"),
        pytest.param(["/", "a", "enter", "/", "b", "enter"], ViewState(words="ab"), id="a filter can be continued"),
        pytest.param(["/", "a", "escape"], ViewState(), id="Esc removes the filter"),
        pytest.param(["/", "a", "enter", "escape"], ViewState(), id="Esc removes an applied filter"),
        pytest.param(["/", "up", "\x00"], ViewState(typing=""), id="other keys do not change the filter"),
        pytest.param(["down", "down", "up"], ViewState(offset=1), id="arrows scroll by a line"),
        pytest.param(["page down", "page down", "page up"], ViewState(offset=10), id="PgUp and PgDn scroll by a page"),
        pytest.param(["page down", "home", "up"], ViewState(), id="scrolling ends at the first row"),
        pytest.param(["page down", "n"], ViewState(kind=RowKind.NODE), id="another kind of rows begins at its first"),
        pytest.param(["h", "p", "s", "/"], ViewState(page=ViewPage.HELP), id="the help ignores keys of the table"),
        pytest.param(["ü", ""], ViewState(), id="other keys do nothing"),
    ],
)
def test_keys(keys: list[str], expected: ViewState | None) -> None:
    assert after(*keys) == expected
