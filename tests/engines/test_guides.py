# SPDX-License-Identifier: Apache-2.0
"""Each registered engine has a page in the guide, which agrees with its table."""

import pytest
from scripts.engine_guides import FOLDER, file_name, pages, unnamed_readings

from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.engines import GUIDES, METRIC_MAPS
from keda_gpu_scaler.engines.metric_map import SeriesSource

INDEX = "README.md"


def test_each_engine_has_a_page_and_no_other_page_exists() -> None:
    assert set(pages()) == {file_name(engine) for engine in ENGINES.values()} | {INDEX}
    assert {path.name for path in FOLDER.glob("*")} == set(pages())


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == pages()[name], "stale: run `make docs`"


@pytest.mark.parametrize("name", list(ENGINES))
def test_an_engine_says_what_to_switch_on_and_what_misleads(name: str) -> None:
    guide = GUIDES[name]
    assert guide.switch_on.endswith(".")
    assert guide.traps
    assert all(trap.endswith(".") for trap in guide.traps)
    assert len(set(guide.traps)) == len(guide.traps)
    assert bool(guide.reads) is (name not in METRIC_MAPS), "a page of JSON has no table of series"


@pytest.mark.parametrize("name", list(METRIC_MAPS))
def test_a_page_lists_every_series_that_is_read(name: str) -> None:
    page = pages()[file_name(ENGINES[name])]
    sources = [one for field in ("waiting", "running", "tokens_total") for one in getattr(METRIC_MAPS[name], field)]
    for source in sources:
        assert isinstance(source, SeriesSource)
        assert source.selector.text in page


def test_no_reading_is_left_out_of_the_pages() -> None:
    assert unnamed_readings() == set()


def test_the_index_lists_the_engines_in_the_order_in_which_they_are_tried() -> None:
    rows = [line for line in pages()[INDEX].splitlines() if line.startswith("| [")]
    assert [row.split("]")[0].removeprefix("| [") for row in rows] == list(ENGINES)
