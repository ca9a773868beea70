# SPDX-License-Identifier: Apache-2.0
"""Tests of the comparison by which the soak decides whether a figure grew."""

import pytest

from benchmarks.soak import compare


def samples(what: str, *values: float) -> list[dict[str, float]]:
    return [{what: value} for value in values]


@pytest.mark.parametrize(
    ("what", "values", "grew"),
    [
        pytest.param("RSS, MiB", (80, 81, 80, 81, 80, 81), False, id="memory stays"),
        pytest.param("RSS, MiB", (80, 84, 88, 92, 96, 100), True, id="memory grows"),
        pytest.param("RSS, MiB", (80, 80, 80, 80, 200, 80, 80, 80, 80), False, id="one high sample is noise"),
        pytest.param("descriptors", (40, 40, 42, 42, 43, 43), False, id="three descriptors more are noise"),
        pytest.param("descriptors", (40, 41, 43, 45, 47, 49), True, id="descriptors grow"),
        pytest.param("tasks", (100, 104, 108, 112, 116, 120), True, id="tasks grow"),
        pytest.param("malloc, free, MiB", (1, 5, 10, 20, 40, 80), False, id="free memory of malloc has no limit"),
        pytest.param("entries of a cache", (0, 100, 200, 300, 400, 500), True, id="a cache grows"),
        pytest.param("entries of a cache", (500, 400, 300, 200, 100, 0), False, id="a cache shrinks"),
    ],
)
def test_what_grew(what: str, values: tuple[float, ...], grew: bool) -> None:
    (line,) = compare(samples(what, *values))
    assert (line.what, line.grew) == (what, grew)


def test_a_cache_that_appears_later_counts_from_nothing() -> None:
    (line,) = compare([{}, {}, {"entries of a cache": 90.0}])
    assert (line.before, line.after, line.grew) == (0.0, 90.0, True)
