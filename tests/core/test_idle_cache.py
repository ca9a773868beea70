# SPDX-License-Identifier: Apache-2.0
"""Tests of the caches that release what is not used."""

import gc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.idle_cache import CacheInfo, cached_while_used, release_unused


class Squares:
    """A cached function, and how often it was computed for each argument."""

    def __init__(self, max_entries: int = 8) -> None:
        self.computed: Counter[int] = Counter()
        self.square = cached_while_used(max_entries)(self._square)

    def _square(self, number: int) -> int:
        if number < 0:
            raise ValueError(number)
        self.computed[number] += 1
        return number * number

    @property
    def info(self) -> CacheInfo:
        found: CacheInfo = self.square.cache_info()  # type: ignore[attr-defined]
        return found


def test_an_entry_that_is_used_between_two_releases_is_computed_once() -> None:
    squares = Squares()
    for _ in range(5):
        assert squares.square(3) == 9
        release_unused()
    assert squares.computed == {3: 1}


def test_an_entry_is_released_by_the_second_release_after_its_last_use() -> None:
    squares = Squares()
    squares.square(3)
    release_unused()
    assert squares.info.currsize == 1
    release_unused()
    assert squares.info.currsize == 0
    assert squares.square(3) == 9
    assert squares.computed == {3: 2}


def test_a_full_cache_keeps_what_is_used_and_at_most_twice_the_limit() -> None:
    squares = Squares(max_entries=8)
    for number in range(1000):
        squares.square(number)
        squares.square(0)
        assert squares.info.currsize <= squares.info.maxsize == 16
    assert squares.computed[0] == 1


def test_an_error_is_not_kept() -> None:
    squares = Squares()
    for _ in range(2):
        with pytest.raises(ValueError, match="-1"):
            squares.square(-1)
    assert squares.info.currsize == 0


def test_a_cache_without_a_user_is_freed_with_its_entries() -> None:
    class Held:
        """An object of which the cache keeps one."""

    @cached_while_used(8)
    def make(number: int) -> Held:
        return Held()

    make(1)
    del make
    gc.collect()
    assert not [it for it in gc.get_objects() if isinstance(it, Held)]


@given(st.lists(st.one_of(st.integers(0, 12), st.none()), max_size=200), st.integers(1, 6))
def test_results_are_those_of_the_function_whatever_is_released(calls: list[int | None], max_entries: int) -> None:
    squares = Squares(max_entries)
    for number in calls:
        if number is None:
            release_unused()
        else:
            assert squares.square(number) == number * number
        assert squares.info.currsize <= 2 * max_entries
