# SPDX-License-Identifier: Apache-2.0
"""Tests that a page is read by the layout of the last page exactly as it is read without one."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.selectors import parse_series
from keda_gpu_scaler.core.types import EngineSample, Series
from keda_gpu_scaler.engines import page_layout
from keda_gpu_scaler.engines.scrape_parser import PageParser, ScrapeCache, ScrapeParseError, parse_page
from tests.engines import engine_pages
from tests.engines.vllm_pages import vllm_page
from tests.examples_drawn import examples

TEXT = "text/plain; version=0.0.4"
AT = 5.0
SELECTORS = tuple(map(parse_series, ("vllm:num_requests_running", "depth", 'inference_pool_x{a="b"}')))
PAGES = [
    page.rstrip(b"\n").split(b"\n")
    for page in (
        engine_pages.VLLM,
        engine_pages.SGLANG,
        engine_pages.TGI,
        engine_pages.TRITON,
        engine_pages.LLAMA_CPP,
        engine_pages.BENTOML,
        engine_pages.XINFERENCE,
    )
]
MODELS: tuple[tuple[str, ...], ...] = ((), (), ("detect",), ("chat", "embed"), ("Gateway",), ("another",))
ODD_LINES = (
    b"",
    b" vllm:num_requests_waiting 3",
    b"vllm:num_requests_waiting 3",
    b"vllm:num_requests_waiting",
    b"vllm:num_requests_waiting{",
    b'vllm:num_requests_waiting{engine="7"} 3 1700000000000',
    b'vllm:num_requests_waiting{engine="8"} 3 # {a="b"} 1',
    b'vllm:num_requests_waiting{engine="9"}\t3',
    b"depth 1",
    b"depth 1_0",
    b"depth1 1",
    b"# TYPE depth counter",
    b"# TYPE depth gauge",
    b"# TYPE inference_pool_x gauge",
    b"#",
    b"# EOF",
    b"x" * 70_000,
    b"\xff",
)
VALUES = (
    b"0",
    b"1.0",
    b"7",
    b"-2",
    b"1e3",
    b"NaN",
    b"+Inf",
    b"1E2",
    b".5",
    b"1_0",
    b"one",
    b"",
    b"1\r",
    b"1 2",
    b"+-1",
)


def changed_value(line: bytes, value: bytes) -> bytes:
    return line if line.startswith(b"#") else line.rpartition(b" ")[0] + b" " + value


@st.composite
def next_pages(draw: st.DrawFn, lines: list[bytes]) -> list[bytes]:
    """Draw a page like this one: with other values, and sometimes with other lines."""
    lines = list(lines)
    for number in draw(st.lists(st.integers(0, len(lines) - 1), max_size=8)) if lines else ():
        usual = st.sampled_from(VALUES[:5]) if draw(st.booleans()) else st.sampled_from(VALUES)
        lines[number] = changed_value(lines[number], draw(usual))
    if lines and draw(st.integers(0, 3)) == 0:
        number = draw(st.integers(0, len(lines) - 1))
        other = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(("add", "remove", "swap", "copy", "cut", "rename", "shorten")))
        if kind == "add":
            lines.insert(number, draw(st.sampled_from(ODD_LINES)))
        elif kind == "remove":
            del lines[number]
        elif kind == "swap":
            lines[number], lines[other] = lines[other], lines[number]
        elif kind == "copy":
            lines.insert(number, lines[other])
        elif kind == "cut":
            del lines[number:]
        elif kind == "rename":
            lines[number] = lines[number].replace(b"0", b"1").replace(b"gauge", b"counter")
        else:
            lines[number] = lines[number][: draw(st.integers(0, len(lines[number])))]
    return lines


@st.composite
def scrapes(draw: st.DrawFn) -> list[bytes]:
    """Draw the pages of several scrapes of one target."""
    lines = draw(st.sampled_from(PAGES))
    pages = []
    for _ in range(draw(st.integers(2, 6))):
        lines = draw(next_pages(lines))
        pages.append(b"\n".join(lines) + draw(st.sampled_from((b"\n", b"\n", b"", b"\n\n"))))
    return pages


def read(
    page: bytes, cache: ScrapeCache | None, size: int, selectors: bool, models: tuple[str, ...] = ()
) -> EngineSample | str:
    """Read a page in pieces as the scraper does; return the message where it is refused."""
    parser = PageParser(TEXT, selectors=SELECTORS if selectors else (), models=models, cache=cache)
    try:
        is_followed = True
        for at in range(0, len(page), size):
            piece = page[at : at + size]
            is_followed = is_followed and parser.follow(piece)
            if not is_followed:
                parser.feed(piece)
        return parser.finish(at_seconds=AT)
    except ScrapeParseError as error:
        return str(error)


def plain(page: bytes, selectors: bool, models: tuple[str, ...] = ()) -> EngineSample | str:
    try:
        return parse_page(page, TEXT, at_seconds=AT, selectors=SELECTORS if selectors else (), models=models)
    except ScrapeParseError as error:
        return str(error)


@settings(max_examples=examples(400))
@given(scrapes(), st.sampled_from((7, 64, 500, 1 << 16)), st.booleans(), st.sampled_from(MODELS))
def test_each_page_is_read_as_without_the_pages_before_it(
    pages: list[bytes], size: int, selectors: bool, models: tuple[str, ...]
) -> None:
    cache = ScrapeCache()
    for page in pages:
        expected = repr(plain(page, selectors, models))  # NaN equals NaN here
        assert repr(read(page, cache, size, selectors, models)) == expected


@given(scrapes(), scrapes(), st.lists(st.booleans(), min_size=12, max_size=12))
def test_the_pages_of_one_target_do_not_change_those_of_another(
    first: list[bytes], second: list[bytes], order: list[bool]
) -> None:
    targets = [(iter(first), ScrapeCache()), (iter(second), ScrapeCache())]
    for is_second in order:
        pages, cache = targets[is_second]
        if page := next(pages, b""):
            assert repr(read(page, cache, 1 << 16, selectors=False)) == repr(plain(page, selectors=False))


@given(st.lists(st.booleans(), min_size=2, max_size=8))
def test_a_layout_serves_only_the_series_that_were_requested_with_it(requested: list[bool]) -> None:
    cache = ScrapeCache()
    page = engine_pages.VLLM + b"depth 3\n"
    for selectors in requested:
        assert read(page, cache, 1 << 16, selectors) == plain(page, selectors)


@given(st.lists(st.sampled_from(MODELS), min_size=2, max_size=8))
def test_a_layout_serves_only_the_models_that_were_selected_with_it(selected: list[tuple[str, ...]]) -> None:
    cache = ScrapeCache()
    for models in selected:
        page = engine_pages.TRITON
        assert read(page, cache, 1 << 16, False, models) == plain(page, False, models)


@pytest.mark.parametrize(
    ("before", "after", "reading", "values"),
    [
        pytest.param(b"max_total_tokens 65536", b"max_total_tokens 0", "kv_cache_ratio", (0.5, None), id="no budget"),
        pytest.param(b"max_total_tokens 65536", b"max_total_tokens NaN", "kv_cache_ratio", (0.5, None), id="unknown"),
        pytest.param(
            b"max_total_tokens 65536",
            b"max_total_tokens 5e-324",
            "kv_cache_ratio",
            (0.5, None),
            id="too small a budget",
        ),
        pytest.param(
            b"current_max_tokens 32768", b"current_max_tokens 0", "kv_cache_ratio", (0.5, 0), id="nothing used"
        ),
        pytest.param(b" 32\n", b" -1\n", "running_limit", (40, None), id="one of two models has no limit any more"),
        pytest.param(b" 58.0\n", b" 0.0\n", "summed_models", (2, 0), id="one of two models has served no request"),
    ],
)
def test_what_depends_on_values_is_computed_for_each_page_that_follows(
    before: bytes, after: bytes, reading: str, values: tuple[float | None, float | None]
) -> None:
    page = next(it for it in (engine_pages.TGI, engine_pages.XINFERENCE, engine_pages.BENTOML) if before in it)
    cache = ScrapeCache()
    first = read(page, cache, 1 << 16, selectors=False)
    layout = cache.layout
    second = read(page.replace(before, after), cache, 1 << 16, selectors=False)
    assert layout is not None
    assert cache.layout is layout
    assert (getattr(first, reading), getattr(second, reading)) == values


def loaded(running: float) -> bytes:
    return vllm_page(running=running, waiting=running, kv=running / 100, requests=10 * running, tokens=99 * running)


def followed(page: bytes, after: bytes) -> bool:
    """Whether a page follows the layout of another one to its end."""
    cache = ScrapeCache()
    read(after, cache, 1 << 16, selectors=False)
    layout = cache.layout
    read(page, cache, 1 << 16, selectors=False)
    return layout is not None and cache.layout is layout


@pytest.mark.parametrize(
    ("change", "is_followed"),
    [
        pytest.param(lambda page: page, True, id="the same page"),
        pytest.param(lambda page: page.rstrip(b"\n"), True, id="without its last line feed"),
        pytest.param(lambda page: page.replace(b"} 8213.0", b"} 9.1e+09"), True, id="another value of another series"),
        pytest.param(lambda page: page.replace(b"} 8213.0", b"} no number"), True, id="text after an unwanted series"),
        pytest.param(lambda page: page.replace(b"gc_objects_collected_total", b"x"), False, id="another name"),
        pytest.param(lambda page: page + b"a 1\n", False, id="one more line"),
        pytest.param(lambda page: page[:-200], False, id="fewer lines"),
        pytest.param(lambda page: page.replace(b"engine=", b"rank=", 40), False, id="another label of a wanted series"),
        pytest.param(
            lambda page: page.replace(b"_requests_running gauge", b"_requests_running gaugex"), False, id="type"
        ),
        pytest.param(lambda page: b"\n" + page, False, id="an empty line"),
    ],
)
def test_which_pages_follow_a_layout(change: Callable[[bytes], bytes], is_followed: bool) -> None:
    page = change(loaded(8))
    assert followed(page, after=loaded(3)) is is_followed


def test_all_of_a_usual_page_is_read_in_the_cheap_way() -> None:
    cache = ScrapeCache()
    read(loaded(3), cache, 1 << 16, selectors=False)
    parser = PageParser(TEXT, cache=cache)
    page = loaded(8)
    assert all(parser.follow(page[at : at + 5_000]) for at in range(0, len(page), 5_000))
    assert parser.finish(at_seconds=AT) == plain(page, selectors=False)


@pytest.mark.parametrize("limit", ["MAX_LAYOUT_LINES", "MAX_LAYOUT_SERIES", "MAX_LAYOUT_BYTES"])
def test_a_page_above_a_limit_has_no_layout(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_layout, limit, 10)
    cache = ScrapeCache()
    assert read(loaded(3), cache, 1 << 16, selectors=False) == plain(loaded(3), selectors=False)
    assert cache.layout is None


def changing_pages() -> Iterator[bytes]:
    for number in range(1000):
        yield b'vllm:num_requests_waiting{engine="%d"} 1\n' % number


def test_the_layout_of_a_target_whose_pages_change_is_recorded_more_and_more_rarely() -> None:
    cache = ScrapeCache()
    recorded = 0
    for page in changing_pages():
        recorded += cache.is_recording
        read(page, cache, 1 << 16, selectors=False)
    assert 10 <= recorded <= 30


def test_after_the_pages_changed_their_layout_is_recorded_again() -> None:
    cache = ScrapeCache()
    for page in changing_pages():
        read(page, cache, 1 << 16, selectors=False)
    for _ in range(130):
        read(loaded(3), cache, 1 << 16, selectors=False)
    assert cache.layout is not None


def test_what_needs_the_whole_page_is_done_in_many_steps() -> None:
    line = 'sglang:num_running_reqs{{tp_rank="{0}"}} 1\nsglang:inter_token_latency_seconds_bucket{{le="{0}"}} 1\n'
    body = "".join(line.format(number) for number in range(4_999)).encode()
    parser = PageParser(TEXT, selectors=[parse_series('sglang:num_running_reqs{tp_rank!="1"}')])
    parser.feed(body)
    assert sum(1 for _ in parser.end()) > 25
    assert parser.finish(at_seconds=AT).running == 1.0


def test_a_series_that_is_missing_at_zero_is_still_known_from_its_siblings_when_a_page_is_followed() -> None:
    selector = parse_series("inference_extension_flow_control_queue_size")
    page = b"inference_extension_flow_control_pool_saturation 0\n"
    cache = ScrapeCache()
    for _ in range(3):
        parser = PageParser(TEXT, selectors=[selector], cache=cache)
        if not parser.follow(page):
            parser.feed(page)
        assert parser.finish(at_seconds=AT).selected[selector.text] == Series(0.0, is_counter=False, is_absent=True)


def wanted_page(first: int, lines: int = 5_000) -> bytes:
    return b"".join(b'vllm:num_requests_waiting{engine="%d"} 1\n' % number for number in range(first, first + lines))


def test_a_page_that_is_being_read_leaves_few_objects_for_the_cycle_collection() -> None:
    PageParser(TEXT).feed(wanted_page(0))  # the caches of series are full now
    parser, page = PageParser(TEXT), wanted_page(1_000_000, 9_000)
    before = len(gc.get_objects())
    parser.feed(page)
    assert len(gc.get_objects()) - before < 4_500  # a key of the cache of series is one, and it has 4,096
    assert parser.finish(at_seconds=AT).waiting == 9_000.0


def test_a_page_that_is_being_read_keeps_little_more_than_the_text_of_its_series() -> None:
    PageParser(TEXT).feed(wanted_page(0))
    parser, page = PageParser(TEXT), wanted_page(1_000_000)
    tracemalloc.start()
    try:
        parser.feed(page)
        assert tracemalloc.get_traced_memory()[0] < 5_000 * 300
    finally:
        tracemalloc.stop()
    assert parser.finish(at_seconds=AT).waiting == 5_000.0


def test_a_page_without_a_layout_has_no_readings_for_the_next_page() -> None:
    cache = ScrapeCache()
    read(wanted_page(0), cache, 1 << 16, selectors=False)  # more series than a layout may have
    assert cache.known is None
