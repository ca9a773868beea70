# SPDX-License-Identifier: Apache-2.0
"""Tests of the bounded cache."""

from keda_gpu_scaler.server.bounded_cache import BoundedCache


def test_the_entry_that_was_not_used_for_the_longest_time_is_evicted() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2, 10.0)
    cache.put("a", 1, 0.0)
    cache.put("b", 2, 0.0)
    assert cache.get("a", 0.0) == 1
    cache.put("c", 3, 0.0)
    assert (cache.get("a", 0.0), cache.get("b", 0.0), cache.get("c", 0.0)) == (1, None, 3)
    assert len(cache) == 2


def test_an_idle_entry_expires_and_a_used_one_stays() -> None:
    cache: BoundedCache[str, int] = BoundedCache(9, 10.0)
    cache.put("a", 1, 0.0)
    cache.put("b", 2, 0.0)
    cache.get("a", 5.0)
    cache.expire(10.0)
    assert len(cache) == 2
    cache.expire(10.5)
    assert cache.values() == [(5.0, 1)]


def test_an_entry_that_is_discarded_is_gone() -> None:
    cache: BoundedCache[str, int] = BoundedCache(9, 10.0)
    cache.put("a", 1, 0.0)
    cache.discard("a")
    cache.discard("a")
    assert cache.get("a", 0.0) is None
