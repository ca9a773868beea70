# SPDX-License-Identifier: Apache-2.0
"""Tests that the layouts of all targets take bounded memory, and that equal ones are kept once."""

import pytest

from keda_gpu_scaler.engines import layout_store
from keda_gpu_scaler.engines.layout_store import MAX_UNUSUAL_BYTES, MAX_USUAL_BYTES, USUAL_LAYOUT_BYTES, LayoutStore
from keda_gpu_scaler.engines.scrape_parser import PageParser, ScrapeCache
from tests.engines.vllm_pages import vllm_page

TEXT = "text/plain; version=0.0.4"


def read(page: bytes, store: LayoutStore, models: tuple[str, ...] = ()) -> ScrapeCache:
    """Read the page of a new target."""
    cache = ScrapeCache(store)
    parser = PageParser(TEXT, cache=cache, models=models)
    parser.feed(page)
    parser.finish(at_seconds=1.0)
    return cache


def unusual_page(number: int) -> bytes:
    return b"".join(b'vllm:num_requests_waiting{engine="%d-%d"} 1\n' % (number, it) for it in range(1_000))


def test_a_usual_page_has_its_layout_beside_any_number_of_unusual_ones() -> None:
    store = LayoutStore()
    unusual = [read(unusual_page(number), store) for number in range(100)]
    kept = [cache for cache in unusual if cache.layout is not None]
    assert 10 < len(kept) < 50
    assert USUAL_LAYOUT_BYTES * len(kept) < store.size_bytes <= MAX_UNUSUAL_BYTES
    assert read(vllm_page(), store).layout is not None


def test_usual_pages_have_a_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_store, "MAX_USUAL_BYTES", MAX_USUAL_BYTES // 100)
    store = LayoutStore()
    pages = [vllm_page().replace(b"Llama", b"Llama-%d" % number) for number in range(100)]
    caches = [read(page, store) for page in pages]
    kept = [cache for cache in caches if cache.layout is not None]
    assert 5 < len(kept) < len(pages)
    assert store.size_bytes <= MAX_USUAL_BYTES // 100


def test_the_replicas_of_a_model_share_what_is_known_of_their_pages() -> None:
    store = LayoutStore()
    first = read(vllm_page(running=1), store)
    size_bytes = store.size_bytes
    others = [read(vllm_page(running=number), store) for number in range(20)]
    assert all(cache.known is first.known for cache in others)
    assert store.size_bytes == size_bytes < USUAL_LAYOUT_BYTES


def test_targets_of_which_other_models_are_read_share_no_readings() -> None:
    store = LayoutStore()
    model = "meta-llama/Llama-3.3-70B-Instruct"
    every, one = read(vllm_page(), store), read(vllm_page(), store, (model,))
    assert every.layout == one.layout
    assert every.known is not one.known


def test_the_room_of_a_target_that_is_gone_is_free_again() -> None:
    store = LayoutStore()
    first, second = read(vllm_page(), store), read(vllm_page(), store)
    assert store.size_bytes > 0
    del first
    assert store.size_bytes > 0
    del second
    assert store.size_bytes == 0


def test_a_target_without_room_is_recorded_more_and_more_rarely() -> None:
    store = LayoutStore()
    others = [read(unusual_page(number), store) for number in range(100)]
    cache = next(cache for cache in others if cache.layout is None)
    recorded = 0
    for number in range(200):
        recorded += cache.is_recording
        parser = PageParser(TEXT, cache=cache)
        parser.feed(unusual_page(1_000 + number % 2))
        parser.finish(at_seconds=1.0)
    assert 2 < recorded < 12
