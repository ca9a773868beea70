# SPDX-License-Identifier: Apache-2.0
"""Tests of the page about scaling decisions."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.scaling import LABELS, PAGE, PARTS, STANDARD, TRACES, VARIATIONS, Measurement, with_parts
from benchmarks.scaling_timeline import PRODUCT, Timeline, timeline

SCHEDULE = {
    "slo": 99.0,
    "gpu_hours": 8.0,
    "static": 11,
    "static_gpu_hours": 10.0,
    "plan": [1, 2],
    "moves": 34,
    "flaps": 9,
    "max_queue": 96,
    "peak": 12,
    "frontier": [[50.0, 2.0], [80.0, 5.0], [99.0, 8.0]],
}
QUEUE = "queue=5 Prometheus"


def row(trace: str, policy: str, slo: float, gpu_hours: float) -> scaling.Row:
    return {
        "trace": trace,
        "policy": policy,
        "slo": str(slo),
        "gpu_hours": str(gpu_hours),
        "seconds": "61.4",
        "moves": "39",
        "flaps": "6",
        "max_queue": "5967",
        "peak": "50",
    }


class FakeSimulator(scaling.Simulator):
    """A simulator whose runs have already ended."""

    def __init__(self) -> None:
        pass

    def rows(self, variation: scaling.Variation) -> list[scaling.Row]:
        rows = [row(trace, PRODUCT, 80.02, 10.0) for trace in TRACES]
        if variation.concerns_all:
            rows += [row(trace, QUEUE, 99.9, 16.0) for trace in TRACES]
        return rows[::-1]

    def schedules(self) -> dict[str, scaling.Schedule]:
        return {trace: scaling.Schedule(99.0, 8.0, 11, 10.0, SCHEDULE) for trace in TRACES}

    def timelines(self) -> dict[tuple[str, str], Timeline]:
        return {}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the drawing, which needs matplotlib; return the traces that are drawn."""
    traces: list[str] = []
    monkeypatch.setattr(scaling, "_draw_timelines", lambda measured, trace, schedule: traces.append(trace))
    return traces


@pytest.fixture
def parts(drawn: list[str]) -> dict[str, str]:
    measured = Measurement(FakeSimulator(), VARIATIONS)
    return {name: part(measured) for name, part in PARTS.items()}


def lines(text: str, label: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if label in line]


def test_a_policy_is_compared_with_the_clairvoyant_schedule(parts: dict[str, str]) -> None:
    product, queue = (lines(parts["standard"], LABELS[policy])[0] for policy in (PRODUCT, QUEUE))
    # 80.02 % are reached with 5 hours (80 % in the table, which is rounded), and 99.9 % with no known schedule.
    assert product[1:] == ["80.0", "10.00", "1.25", "2.00", "39", "6", "5967", "50"]
    assert queue[1:5] == ["99.9", "16.00", "2.00", "2.00"]


def test_the_schedule_and_the_constant_fleet_are_in_each_table(parts: dict[str, str]) -> None:
    schedules, constants = lines(parts["standard"], "clairvoyant schedule"), lines(parts["standard"], "static peak")
    assert [it[1:] for it in schedules] == [["99.0", "8.00", "1.00", "1.00", "34", "9", "96", "12"]] * len(TRACES)
    assert [it[1:] for it in constants] == [["99 or more", "10.00", "1.25", "", "0", "0", "", "11"]] * len(TRACES)


def test_the_product_comes_first_and_each_row_has_every_column(parts: dict[str, str]) -> None:
    for text in (parts["standard"], parts["variations"]):
        for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
            assert len({line.count("|") for line in table.splitlines()}) == 1
    for line, following in zip(parts["variations"].splitlines(), parts["variations"].splitlines()[1:], strict=False):
        if LABELS[QUEUE] in following:
            assert LABELS[PRODUCT] in line


def test_a_variation_is_compared_with_the_schedule_of_the_standard_machine(parts: dict[str, str]) -> None:
    for variation in VARIATIONS:
        section = parts["variations"].partition(f"### {variation.title}\n")[2].partition("\n### ")[0]
        [*rows] = lines(section, LABELS[PRODUCT])
        assert [it[0] for it in rows] == list(TRACES)
        assert {it[4] for it in rows} == {"1.25"}
        assert bool(lines(section, LABELS[QUEUE])) is variation.concerns_all


def test_a_variation_that_is_not_measured_is_named_as_such(parts: dict[str, str]) -> None:
    part = PARTS["variations"](Measurement(FakeSimulator(), VARIATIONS[:1]))
    assert re.findall("^### (.*)", part, re.MULTILINE) == [VARIATIONS[0].title]
    assert part.startswith(f"Not measured this time: {'; '.join(it.title for it in VARIATIONS[1:])}.")
    assert "Not measured" not in parts["variations"]


def test_each_trace_is_drawn(parts: dict[str, str], drawn: list[str]) -> None:
    assert drawn == list(TRACES)


def test_a_generated_part_is_replaced_and_the_rest_is_kept() -> None:
    page = "before\n<!-- generated: run -->\nold\n<!-- end: run -->\nafter\n"
    replaced = with_parts(page, {"run": "new"})
    assert replaced == "before\n<!-- generated: run -->\n\nnew\n\n<!-- end: run -->\nafter\n"
    assert with_parts(replaced, {"run": "new"}) == replaced


@pytest.mark.parametrize(
    "page",
    [
        pytest.param("", id="no markers"),
        pytest.param("<!-- generated: run -->", id="no end"),
        pytest.param("<!-- end: run --><!-- generated: run -->", id="the wrong order"),
        pytest.param(2 * "<!-- generated: run --><!-- end: run -->", id="two pairs"),
    ],
)
def test_a_page_without_a_place_for_a_part_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="needs the lines <!-- generated: run --> and <!-- end: run -->"):
        with_parts(page, {"run": "new"})


def test_the_page_has_a_place_for_each_part_and_its_drawings() -> None:
    page = PAGE.read_text()
    assert with_parts(page, dict.fromkeys(PARTS, "")) != page
    assert sorted(re.findall(r"\((scaling/[^)]+\.svg)\)", page)) == sorted(
        f"scaling/{file.name}" for file in scaling.DRAWINGS.glob("*.svg")
    )


def test_a_run_that_is_kept_is_read_again(tmp_path: Path) -> None:
    cache = tmp_path / "run.json"
    cache.write_text(json.dumps([[0, 60], [1, 2], [1, 1], [0, 7]]))
    assert timeline("any", PRODUCT, cache) == Timeline(PRODUCT, [0.0, 1.0], [1, 2], [1, 1], [0, 7])


def test_the_standard_machine_has_no_option() -> None:
    assert STANDARD.options == ()
    assert all(variation.options for variation in VARIATIONS)
