# SPDX-License-Identifier: Apache-2.0
"""Tests of the comparison by which the soak decides whether an instance grows."""

import pytest

from benchmarks.soak import compare


@pytest.mark.parametrize(
    ("what", "start", "values", "idle", "problem"),
    [
        pytest.param("RSS, MiB", 40, (80, 81, 80, 81, 80, 81), 80, "", id="memory stays"),
        pytest.param("RSS, MiB", 40, (80, 84, 88, 92, 96, 100), 80, "grows", id="memory grows"),
        pytest.param("RSS, MiB", 40, (80, 80, 80, 80, 200, 80, 80, 80, 80), 80, "", id="one high sample is noise"),
        pytest.param("descriptors", 20, (40, 60, 80, 90, 100, 120), 24, "", id="descriptors follow the load"),
        pytest.param("descriptors", 20, (40, 40, 40, 40, 40, 40), 40, "stays", id="descriptors stay open"),
        pytest.param("tasks", 10, (100, 104, 108, 112, 116, 120), 60, "stays", id="tasks stay"),
        pytest.param("malloc, free, MiB", 1, (1, 5, 10, 20, 40, 80), 80, "", id="free memory of malloc has no limit"),
        pytest.param("expiring entries of a cache", 0, (100,) * 6, 100, "stays", id="a cache that should expire"),
        pytest.param("of 4096 entries of a cache", 0, (0, 100, 200, 300, 400, 500), 500, "", id="a cache that fills"),
    ],
)
def test_what_is_a_problem(what: str, start: float, values: tuple[float, ...], idle: float, problem: str) -> None:
    (line,) = compare({what: start}, [{what: value} for value in values], {what: idle})
    assert (line.what, line.problem) == (what, problem)


def test_a_cache_that_appears_later_counts_from_nothing() -> None:
    (line,) = compare({}, [{}, {}, {"of 9 entries of a cache": 9.0}], {"of 9 entries of a cache": 9.0})
    assert (line.start, line.first, line.last, line.idle) == (0.0, 0.0, 9.0, 9.0)
