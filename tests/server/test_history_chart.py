# SPDX-License-Identifier: Apache-2.0
"""Tests of the charts of the last hour: gaps, scales, bands, and coordinates within the view box."""

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.server.history_chart import (
    HEIGHT,
    JOIN_STEPS,
    SPARK_HEIGHT,
    SPARK_WIDTH,
    WIDTH,
    Points,
    history_table,
    replica_chart,
    replica_scale,
    span_text,
    sparkline,
    value_chart,
    value_scale,
)
from keda_gpu_scaler.server.workload_history import MAX_POINTS, WorkloadPoint


def points(*values: tuple[int, float | None]) -> Points:
    """Return a history of measured values with the target 80, each with how many steps ago it was."""
    return [(ago, WorkloadPoint(value, 80.0, 2, 3, 1, 6, active=True, ready=1)) for ago, value in values]


def path(chart: str, kind: str) -> str:
    """Return the data of the path of one kind; empty where there is none."""
    found = re.search(rf'<path class={kind} d="([^"]*)"', chart)
    return found[1] if found else ""


def rects(chart: str, kind: str) -> list[tuple[float, ...]]:
    """Return x, y, width and height of each rectangle of one kind."""
    pattern = rf'<rect class={kind} x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/>'
    return [tuple(map(float, found)) for found in re.findall(pattern, chart)]


def value(history: Points) -> str:
    return value_chart(history, "v", "values", "%")


def size(history: Points) -> str:
    return replica_chart(history, "r", "sizes")


@pytest.mark.parametrize(
    ("history", "lines"),
    [
        pytest.param(points((2, 10.0), (1, 20.0), (0, 30.0)), 1, id="an answer in every step is one line"),
        pytest.param(points((9, 10.0), (8, None), (7, 30.0)), 2, id="an answer without a value ends the line"),
        pytest.param(points((4, 10.0), (0, 30.0)), 1, id="answers 40 s apart are joined"),
        pytest.param(points((5, 10.0), (0, 30.0)), 2, id="answers further apart are not joined"),
        pytest.param(points((5, None), (4, None)), 0, id="no line without a value"),
        pytest.param([], 0, id="no line without an answer"),
        pytest.param(points((3, math.inf), (2, 10.0)), 1, id="an infinite value is no value"),
    ],
)
def test_law_1_a_gap_is_a_gap(history: Points, lines: int) -> None:
    assert path(value(history), "measured").count("M") == lines


def test_a_single_answer_is_a_dot() -> None:
    assert path(value(points((0, 40.0))), "measured") == "M359.5 50h0"


def test_a_line_goes_from_the_left_to_the_right_and_up() -> None:
    assert path(value(points((1, 0.0), (0, 80.0))), "measured") == "M358.5 97L359.5 3"


def test_a_size_is_kept_until_the_next_answer() -> None:
    history = [
        (2, WorkloadPoint(None, 80.0, 1, None, 0, 2, active=True)),
        (0, WorkloadPoint(None, 80.0, 2, None, 0, 2, active=True)),
    ]
    assert path(size(history), "replicas") == "M357.5 50H359.5V3"
    assert path(size(history), "wanted") == ""


def test_the_target_is_drawn_where_the_value_is_unknown() -> None:
    assert path(value(points((1, None), (0, None))), "target") == "M358.5 3H359.5"


@pytest.mark.parametrize(
    ("history", "bars"),
    [
        pytest.param(points((3, None), (2, None), (1, 50.0)), [(356, 95, 2, 5)], id="one time without a value"),
        pytest.param(points((9, None), (7, None)), [(350, 95, 3, 5)], id="a step between two answers without a value"),
        pytest.param(
            points((20, None), (10, None)), [(339, 95, 1, 5), (349, 95, 1, 5)], id="a time without an answer is empty"
        ),
        pytest.param(points((1, 50.0)), [], id="nothing where every value is known"),
    ],
)
def test_answers_without_a_value_are_a_bar_at_the_bottom(history: Points, bars: list[tuple[int, ...]]) -> None:
    assert rects(value(history), "no-value") == bars


def test_at_zero_replicas_no_value_is_missing() -> None:
    history = [(0, WorkloadPoint(None, 80.0, 0, 0, 0, 4, active=False))]
    assert rects(value(history), "no-value") == []
    assert "0 of 1 answers have no value" in value(history)
    assert "<td>0 of 1 answers</td>" in "".join(history_table(history, "t", "%"))


def test_the_limits_are_a_band_and_a_change_begins_another_one() -> None:
    history = [
        (2, WorkloadPoint(None, 80.0, 2, 2, 1, 4, active=True)),
        (1, WorkloadPoint(None, 80.0, 2, 2, 1, 3, active=True)),
        (0, WorkloadPoint(None, 80.0, 2, 2, None, None, active=True)),
    ]
    assert rects(size(history), "limits") == [(357, 3, 1, 70.5), (358, 26.5, 1, 47)]


def test_an_inactive_time_is_a_band_over_the_limits() -> None:
    history = [
        (2, WorkloadPoint(None, 80.0, 0, 0, 0, 4, active=False)),
        (1, WorkloadPoint(None, 80.0, 0, 0, 0, 4, active=False)),
        (0, WorkloadPoint(None, 80.0, 1, 1, 0, 4, active=True)),
    ]
    chart = size(history)
    assert rects(chart, "inactive") == [(357, 0, 2, 100)]
    assert rects(chart, "inactive-bar") == [(357, 95, 2, 5)]
    assert chart.index("class=limits") < chart.index("class=inactive ")


@pytest.mark.parametrize(
    ("sizes", "top"),
    [
        pytest.param((3, 4, 0, 6), 6, id="the maximum where it is near"),
        pytest.param((3, 4, 0, 100), 4, id="the largest size where the maximum is far above"),
        pytest.param((None, None, None, None), 1, id="one where nothing is known"),
        pytest.param((0, 0, 0, 2), 2, id="the maximum of a workload at zero"),
    ],
)
def test_the_top_of_the_chart_of_replicas(
    sizes: tuple[int | None, int | None, int | None, int | None], top: int
) -> None:
    replicas, wanted, lowest, highest = sizes
    history = [(0, WorkloadPoint(None, 80.0, replicas, wanted, lowest, highest, active=True))]
    assert replica_scale(history) == top
    assert all(y >= 0 for _, y, _, _ in rects(size(history), "limits"))


@pytest.mark.parametrize(
    ("measured", "top"),
    [
        pytest.param(10.0, 80.0, id="the target where it is the highest"),
        pytest.param(105.0, 120.0, id="a round number above the highest value"),
        pytest.param(None, 80.0, id="the target where no value is known"),
        pytest.param(1234567.0, 1500000.0, id="a large number"),
    ],
)
def test_the_top_of_the_chart_of_values(measured: float | None, top: float) -> None:
    assert value_scale(points((0, measured))) == top


def test_a_chart_has_a_name_and_a_description() -> None:
    chart = value_chart(points((1, 50.0), (0, None)), "v", "a <b> & c", "%")
    assert chart.startswith("<svg class=chart role=img aria-labelledby=v-title aria-describedby=v-desc ")
    assert "<title id=v-title>a &lt;b&gt; &amp; c</title>" in chart
    assert "<desc id=v-desc>Measured: 50 %; last: unknown. Target: 80 %. 1 of 2 answers have no value.</desc>" in chart
    assert (
        "<desc id=r-desc>Replicas: 2; last: 2. Ready: 1; last: 1. Wanted: 3; last: 3. Limits: 1 to 6. Inactive in 0 "
        "of 2 answers.</desc>"
    ) in size(points((1, 50.0), (0, None)))


def test_the_table_has_a_row_for_each_five_minutes() -> None:
    history = points((40, 10.0), (31, 20.0), (5, None), (3, 90.0))
    rows = re.findall(r"<tr><th scope=row>.*?</tr>", "".join(history_table(history, "t", "%")))
    texts = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]
    assert len(texts) == 12
    assert texts[0] == "0 to 5 90 % 80 % 1 of 2 answers 2 1 3 1 to 6 active"
    assert texts[1] == "5 to 10 10 to 20 % 80 % 0 of 2 answers 2 1 3 1 to 6 active"
    assert texts[2] == "10 to 15 no answer — — — — — — —"


def test_the_ready_replicas_have_a_line_of_their_own() -> None:
    chart = size([(2, WorkloadPoint(50.0, 80.0, 2, 3, 1, 4, active=True, ready=1)),
                  (0, WorkloadPoint(50.0, 80.0, 2, 3, 1, 4, active=True, ready=2))])  # fmt: skip
    assert path(chart, "ready") == "M357.5 73.5H359.5V50"
    assert path(size(points((1, 50.0), (0, None))), "replicas") == "M358.5 65.7H359.5"
    assert path(size([(0, WorkloadPoint(50.0, 80.0, 2, 3, 1, 4, active=True))]), "ready") == ""


def test_a_sparkline_shows_the_last_value_of_each_minute_and_the_target() -> None:
    line = sparkline([(13, 80.0), (12, 10.0), (11, 80.0), (6, 0.0), (0, 40.0)], 80.0, "<b>")
    assert "<title>&lt;b&gt;</title>" in line
    assert path(line, "measured") == "M57.5 15.2L58.5 17L59.5 10"
    assert path(line, "target") == f"M0 3H{SPARK_WIDTH}"


def test_a_sparkline_has_a_gap_where_a_minute_has_no_answer_or_no_value() -> None:
    assert path(sparkline([(12, 10.0), (0, 40.0)], 80.0, ""), "measured").count("M") == 2
    assert path(sparkline([(12, 10.0), (6, None), (0, 40.0)], 80.0, ""), "measured").count("M") == 2


@pytest.mark.parametrize(
    ("values", "text"),
    [
        pytest.param((None, math.nan), "", id="nothing known"),
        pytest.param((1.0, None, 98.44), "1 to 98.4 %", id="several values"),
        pytest.param((98.41, 98.39), "98.4 %", id="values that look the same"),
    ],
)
def test_the_text_of_a_span(values: tuple[float | None, ...], text: str) -> None:
    assert span_text(values, "%") == text


# ---- properties ----

_COUNTS = st.none() | st.integers(0, 2**31 - 1)
_HISTORIES = st.lists(
    st.tuples(
        st.integers(0, MAX_POINTS - 1),
        st.builds(
            WorkloadPoint,
            st.none() | st.floats(width=32),
            st.floats(2**-100, 2.0**100, width=32),
            _COUNTS,
            _COUNTS,
            _COUNTS,
            _COUNTS,
            st.booleans(),
        ),
    ),
    unique_by=lambda pair: pair[0],
    max_size=12,
).map(lambda pairs: sorted(pairs, key=lambda pair: -pair[0]))


def places(data: str) -> list[tuple[float, float]]:
    """Return every place that the data of a path goes to."""
    x = y = 0.0
    found = []
    for command, first, second in re.findall(r"([MLHVh])(-?[\d.]+)(?: (-?[\d.]+))?", data):
        if command in "ML":
            x, y = float(first), float(second)
        elif command == "H":
            x = float(first)
        elif command == "V":
            y = float(first)
        found.append((x, y))
    return found


@given(_HISTORIES)
def test_every_coordinate_is_within_the_view_box(history: Points) -> None:
    spark = sparkline(((ago, point.measured) for ago, point in history), 80.0, "")
    for chart, width, height in (
        (value(history), WIDTH, HEIGHT),
        (size(history), WIDTH, HEIGHT),
        (spark, SPARK_WIDTH, SPARK_HEIGHT),
    ):
        shapes = re.sub(r"<(title|desc).*?</\1>", "", chart)
        assert not re.search(r"nan|inf\b|\de", shapes)
        for data in re.findall(r' d="([^"]*)"', shapes):
            assert re.fullmatch(r"([MLHV][\d.]+( [\d.]+)?|h0)+", data)
            assert all(0 <= x <= width and 0 <= y <= height for x, y in places(data))
        for kind in ("no-value", "inactive", "inactive-bar", "limits"):
            for x, y, wide, high in rects(shapes, kind):
                assert 0 <= x <= x + wide <= width
                assert 0 <= y <= y + high <= height + 0.11


@given(_HISTORIES)
def test_law_1_no_line_crosses_a_gap_and_every_known_value_is_drawn(history: Points) -> None:
    known = {ago: point for ago, point in history if point.measured is not None and math.isfinite(point.measured)}
    data = path(value(history), "measured")
    drawn = {MAX_POINTS - 1 - math.floor(x) for x, _ in places(data)}
    assert drawn == set(known)
    answered = [ago for ago, _ in history]
    for line in data.split("M")[1:]:
        agos = [MAX_POINTS - 1 - math.floor(x) for x, _ in places("M" + line)]
        agos = list(dict.fromkeys(agos))
        for older, newer in itertools.pairwise(agos):
            assert older - newer <= JOIN_STEPS
            assert not [ago for ago in answered if newer < ago < older]


@given(_HISTORIES)
def test_two_bands_of_a_kind_never_overlap(history: Points) -> None:
    for chart, kind in ((value(history), "no-value"), (size(history), "inactive"), (size(history), "limits")):
        bands = rects(chart, kind)
        assert all(left[0] + left[2] <= right[0] for left, right in itertools.pairwise(bands))
