# SPDX-License-Identifier: Apache-2.0
"""Tests of the series that selectors select from a page, text or JSON."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.selectors import SeriesSelector, parse_series
from keda_gpu_scaler.core.trigger.demand_presets import DEMANDS
from keda_gpu_scaler.core.types import Series
from keda_gpu_scaler.engines.bound_readings import MAX_BUCKETS
from keda_gpu_scaler.engines.interceptor import PENDING
from keda_gpu_scaler.engines.prometheus_text import MAX_LINE_BYTES, MAX_LINES, MAX_SAMPLES, MAX_SERIES_BYTES
from keda_gpu_scaler.engines.scrape_parser import (
    MAX_JSON_BYTES,
    PageParser,
    ScrapeParseError,
    UnknownPageError,
    parse_page,
)
from keda_gpu_scaler.engines.series_selection import MAX_COMPARISONS
from tests.engines import engine_pages

TEXT = "text/plain; version=0.0.4; charset=utf-8"
JSON = "application/json"
AT = 7.0
ABSENT_GAUGE = Series(0.0, is_counter=False, is_absent=True)
ABSENT_COUNTER = Series(0.0, is_counter=True, is_absent=True)


def at_least(value: float) -> Series:
    """Return a gauge of which only this much is known."""
    return Series(value, is_counter=False, is_partial=True)


def selected(body: bytes, text: str, content_type: str = TEXT) -> Series | None:
    """Return what one selector selects from a page."""
    selector = parse_series(text)
    return parse_page(body, content_type, at_seconds=AT, selectors=[selector]).selected[selector.text]


@pytest.mark.parametrize(
    ("body", "selector", "series"),
    [
        pytest.param(engine_pages.ENDPOINT_PICKER, "inference_extension_flow_control_queue_size", 69, id="every pool"),
        pytest.param(
            engine_pages.ENDPOINT_PICKER,
            'inference_extension_flow_control_queue_size{inference_pool="llama"}',
            9,
            id="one pool, with all its queues",
        ),
        pytest.param(
            engine_pages.ENDPOINT_PICKER,
            'inference_extension_flow_control_queue_size{inference_pool!="llama"}',
            60,
            id="all but one pool",
        ),
        pytest.param(
            engine_pages.ENDPOINT_PICKER,
            'inference_extension_flow_control_queue_size{inference_pool="none"}',
            ABSENT_GAUGE,
            id="a pool without a queue",
        ),
        pytest.param(
            b'llm_d_epp_flow_control_pool_saturation{inference_pool="llama"} 0\n',
            'llm_d_epp_flow_control_queue_size{inference_pool="llama"}',
            ABSENT_GAUGE,
            id="a picker that deleted the gauge of an idle flow",
        ),
        pytest.param(
            b'llm_d_epp_ready_endpoints{name="llama"} 2\n',
            "llm_d_epp_flow_control_queue_size",
            None,
            id="a picker whose flow control is not switched on",
        ),
        pytest.param(
            b"# TYPE inference_extension_flow_control_dispatch_cycle_duration_seconds histogram\n",
            "other_queue_size",
            None,
            id="a page of another source",
        ),
        pytest.param(engine_pages.ENDPOINT_PICKER, "inference_extension_flow_control_queue", None, id="a shorter name"),
        pytest.param(engine_pages.VLLM, 'vllm:num_requests_running{engine="1"}', 12, id="one rank of an engine"),
        pytest.param(engine_pages.INTERCEPTOR, "http_add_on_pending_requests", 3, id="an interceptor, every host"),
        pytest.param(
            engine_pages.INTERCEPTOR, 'http_add_on_pending_requests{host="blog/web"}', 0, id="a host without requests"
        ),
        pytest.param(
            engine_pages.INTERCEPTOR,
            'http_add_on_pending_requests{host="none/web"}',
            None,
            id="a host that it does not list",
        ),
        pytest.param(
            engine_pages.INTERCEPTOR_OLD, 'http_add_on_pending_requests{host="shop/web"}', 3, id="an older interceptor"
        ),
        pytest.param(
            engine_pages.INTERCEPTOR_OLDEST,
            'http_add_on_pending_requests{host="shop.example.com"}',
            3,
            id="the oldest interceptor",
        ),
        pytest.param(b"{}\n", "http_add_on_pending_requests", None, id="an interceptor without any host"),
        pytest.param(engine_pages.OLLAMA, "ollama_loaded_models", 2, id="the number of loaded models of Ollama"),
        pytest.param(
            engine_pages.OLLAMA, 'ollama_loaded_models{model="llama3:8b"}', 1, id="one loaded model of Ollama"
        ),
        pytest.param(b'{"models": []}', "ollama_loaded_models", 0, id="Ollama without a loaded model"),
        pytest.param(b"a NaN\n", "a", at_least(0.0), id="NaN"),
        pytest.param(b'a{x="1"} 1\na{x="2"} NaN\na{x="3"} -5\n', "a", at_least(1.0), id="a sum with an unknown part"),
        pytest.param(b'a{x="1"} 1e308\na{x="2"} 1e308\n', "a", at_least(0.0), id="a sum that no float holds"),
        pytest.param(b"# TYPE a gauge\n", "a", ABSENT_GAUGE, id="a gauge without a series"),
        pytest.param(b"b 1\n", "a", None, id="a page without the family"),
        pytest.param(
            b'a{x="1"} -1\na{x="2"} 1\n',
            "a",
            Series(0.0, is_counter=False, above_zero=1.0),
            id="a negative gauge beside another one",
        ),
    ],
)
def test_a_selected_gauge(body: bytes, selector: str, series: float | Series | None) -> None:
    found = selected(body, selector, JSON if body.startswith(b"{") else TEXT)
    assert found == (Series(series, is_counter=False) if isinstance(series, int | float) else series)


@pytest.mark.parametrize(
    ("body", "selector", "series"),
    [
        pytest.param(engine_pages.VLLM_ROUTER, "vllm:num_incoming_requests_total", 50, id="a router, every model"),
        pytest.param(engine_pages.VLLM_ROUTER, 'vllm:num_incoming_requests_total{model="m"}', 42, id="one model"),
        pytest.param(
            engine_pages.VLLM_ROUTER,
            'vllm:num_incoming_requests_total{model="o"}',
            ABSENT_COUNTER,
            id="an unknown model",
        ),
        pytest.param(engine_pages.VLLM, "vllm:time_to_first_token_seconds_count", 123, id="a histogram's count"),
        pytest.param(engine_pages.VLLM, "vllm:request_generation_tokens_sum", 7777, id="a histogram's sum"),
        pytest.param(
            engine_pages.VLLM, 'vllm:time_to_first_token_seconds_bucket{le="0.1"}', 11, id="a histogram's bucket"
        ),
        pytest.param(b"# TYPE a_total counter\n", "a_total", 0, id="a counter that never counted"),
        pytest.param(b"# TYPE a_total counter\n", 'a_total{x="1"}', 0, id="a counter that never counted, with labels"),
        pytest.param(b"# TYPE a counter\na 5\n", "a", 5, id="a counter without the suffix"),
        pytest.param(b"a_total 5\n", "a_total", 5, id="a counter by its name alone"),
    ],
)
def test_a_selected_counter(body: bytes, selector: str, series: float | Series) -> None:
    assert selected(body, selector) == (series if isinstance(series, Series) else Series(series, is_counter=True))


@pytest.mark.parametrize(
    ("preset", "page", "name"),
    [
        ("epp", engine_pages.ENDPOINT_PICKER, "inference_extension_flow_control_queue_size"),
        ("vllm-router", engine_pages.VLLM_ROUTER, "vllm:num_incoming_requests_total"),
        ("http-add-on", engine_pages.INTERCEPTOR, "http_add_on_pending_requests"),
    ],
)
def test_every_demand_preset_names_a_series_of_its_source(preset: str, page: bytes, name: str) -> None:
    assert name in DEMANDS[preset].series
    assert selected(page, name, JSON if page.startswith(b"{") else TEXT) is not None


def test_selectors_do_not_change_the_other_readings() -> None:
    selectors = [parse_series(text) for text in ("up", 'vllm:num_requests_waiting{engine="0"}')]
    with_them = parse_page(engine_pages.VLLM, TEXT, at_seconds=AT, selectors=selectors)
    assert set(with_them.selected) == {"up", 'vllm:num_requests_waiting{engine="0"}'}
    assert replace(with_them, selected={}) == parse_page(engine_pages.VLLM, TEXT, at_seconds=AT)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(engine_pages.INTERCEPTOR, JSON, id="JSON by its content type"),
        pytest.param(engine_pages.INTERCEPTOR, "text/plain; charset=utf-8", id="JSON with the content type of text"),
        pytest.param(b"\n  " + engine_pages.INTERCEPTOR, "", id="JSON after blanks, without a content type"),
    ],
)
def test_json_is_recognised(body: bytes, content_type: str) -> None:
    assert selected(body, "http_add_on_pending_requests", content_type) == Series(3, is_counter=False)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[]", id="a list"),
        pytest.param(b"3", id="a number"),
        pytest.param(b'{"a": "b"}', id="a text value"),
        pytest.param(b'{"a": true}', id="a boolean, which is not a number"),
        pytest.param(b'{"a": null}', id="a null value"),
        pytest.param(b'{"a": {"Requests": "3"}}', id="a number in quotes"),
        pytest.param(b'{"a": {"RPS": 3}}', id="an object without a count"),
        pytest.param(b'{"a": 3, "b": "c"}', id="a number and a text"),
        pytest.param(b'{"a": 1' + b"0" * 400 + b"}", id="a number too large for a float"),
        pytest.param(b'{"a": 1' + b"0" * 5000 + b"}", id="a number that Python refuses to read"),
        pytest.param(b'{"models": {}}', id="models that are not a list"),
        pytest.param(b'{"models": [3]}', id="models that are numbers"),
        pytest.param(b'{"models": [{"id": "a"}]}', id="models without a name, of another server"),
        pytest.param(b'{"object": "list", "models": []}', id="models of another server"),
        pytest.param(b'{"detail":"Not Found"}', id="an error"),
        pytest.param(b'{"a": 3', id="JSON that was cut off"),
        pytest.param(b"{" * 100_000, id="braces without end"),
        pytest.param(b"[" * 100_000, id="brackets without end"),
        pytest.param(b'{"\xff": 3}', id="JSON that is not UTF-8"),
        pytest.param(b"", id="an empty page"),
    ],
)
def test_json_of_an_unknown_kind_is_refused(body: bytes) -> None:
    with pytest.raises(UnknownPageError) as error:
        parse_page(body, JSON, at_seconds=AT)
    assert str(error.value) == ("it is JSON of an unknown kind: neither Ollama's /api/ps nor the HTTP add-on's /queue")


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_a_number_in_json_that_is_not_finite_is_unknown(number: bytes) -> None:
    assert selected(b'{"a": %s}' % number, "http_add_on_pending_requests", JSON) == at_least(0.0)


@given(
    st.lists(st.tuples(*[st.sampled_from(["", "a", "b"])] * 2), max_size=6, unique=True),
    st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["=", "!="]), st.sampled_from(["", "a", "b"]))),
)
def test_the_index_finds_exactly_the_series_that_a_selector_matches(
    series: list[tuple[str, str]], conditions: list[tuple[str, str, str]]
) -> None:
    selector = parse_series("depth{" + ",".join(f'{key}{how}"{value}"' for key, how, value in conditions) + "}")
    body = "".join(f'depth{{x="{x}",y="{y}"}} {number}\n' for number, (x, y) in enumerate(series))
    expected = [number for number, (x, y) in enumerate(series) if selector.matches("depth", {"x": x, "y": y})]
    has_labels = all(key != "z" or how == "!=" or not value for key, how, value in conditions)
    absent = ABSENT_GAUGE if series and has_labels else None
    assert selected(body.encode(), selector.text) == (Series(sum(expected), is_counter=False) if expected else absent)


def test_a_label_that_no_series_has_is_unknown_and_not_zero() -> None:
    selectors = [parse_series(text) for text in ('depth{queue="b"}', 'depth{pool="b"}', 'depth{pool!="b"}')]
    sample = parse_page(b'depth{queue="a"} 3\n', TEXT, at_seconds=AT, selectors=selectors)
    assert sample.selected == {
        'depth{queue="b"}': ABSENT_GAUGE,
        'depth{pool="b"}': None,
        'depth{pool!="b"}': Series(3, is_counter=False),
    }
    assert sample.unread == {'depth{pool="b"}': "no series depth has the label pool"}


def test_each_series_of_a_page_is_compared_once_with_hundreds_of_selectors(monkeypatch: pytest.MonkeyPatch) -> None:
    comparisons = 0
    matches = SeriesSelector.matches

    def counted(selector: SeriesSelector, name: str, labels: Mapping[str, str]) -> bool:
        nonlocal comparisons
        comparisons += 1
        return matches(selector, name, labels)

    monkeypatch.setattr(SeriesSelector, "matches", counted)
    selectors = [parse_series(f'{PENDING}{{host="ai/{number}"}}') for number in range(300)]
    body = json.dumps({f"ai/{number}": {"Concurrency": 0} for number in range(300)}).encode()
    found = parse_page(body, JSON, at_seconds=AT, selectors=selectors).selected
    assert comparisons == 300
    assert len(set(map(id, found.values()))) == 1, "the same reading is kept once"


def test_a_selector_that_selects_too_much_is_unknown_for_its_trigger_alone() -> None:
    many = "".join(f'many{{x="{number}"}} 1\n' for number in range(MAX_SAMPLES + 1)).encode()
    body = many + engine_pages.VLLM + b"few 3\n"
    selectors = [parse_series(text) for text in ("many", 'many{x="1"}', "few")]
    sample = parse_page(body, TEXT, at_seconds=AT, selectors=selectors)
    assert (sample.engine, sample.waiting) == ("vllm", parse_page(engine_pages.VLLM, TEXT, at_seconds=AT).waiting)
    assert sample.selected == {"many": None, 'many{x="1"}': None, "few": Series(3, is_counter=False)}
    assert set(sample.unread) == {"many", 'many{x="1"}'}
    assert sample.unread["many"] == f'"many" has too many series: at most {MAX_SAMPLES} of a page are read'


@pytest.mark.parametrize("piece_bytes", [1 << 10, 1 << 13, 3000])
def test_why_a_selector_selects_too_much_does_not_depend_on_the_pieces_of_the_page(piece_bytes: int) -> None:
    body = "".join(f'many{{x="{number}"}} 1\n' for number in range(2 * MAX_SAMPLES)).encode() + engine_pages.VLLM
    selectors = [parse_series("many")]
    parser = PageParser(TEXT, selectors=selectors)
    for start in range(0, len(body), piece_bytes):
        parser.feed(body[start : start + piece_bytes])
    assert parser.finish(at_seconds=AT) == parse_page(body, TEXT, at_seconds=AT, selectors=selectors)


def test_the_largest_histogram_of_a_page_that_is_too_large_is_left_out_and_the_queue_is_read() -> None:
    buckets = "".join(
        f'vllm:inter_token_latency_seconds_bucket{{le="1",model_name="{number}"}} 1\n' for number in range(MAX_SAMPLES)
    )
    body = buckets.encode() + b"vllm:num_requests_waiting 4\nvllm:num_requests_running 5\n"
    sample = parse_page(body, TEXT, at_seconds=AT)
    assert (sample.waiting, sample.running, sample.token_time) == (4.0, 5.0, None)


def test_a_page_whose_engine_has_lines_without_end_is_refused() -> None:
    body = b"vllm:num_requests_waiting 4\n" * (MAX_LINES + 1)
    with pytest.raises(ScrapeParseError, match=f"more than {MAX_LINES} lines of its engine"):
        parse_page(body, TEXT, at_seconds=AT)


def test_requested_series_with_lines_without_end_are_left_out_and_the_engine_is_read() -> None:
    body = b"a 1\n" * (MAX_LINES + 1) + b"vllm:num_requests_waiting 4\n"
    sample = parse_page(body, TEXT, at_seconds=AT, selectors=[parse_series("a")])
    assert (sample.waiting, sample.selected) == (4.0, {"a": None})
    assert f"more than {MAX_LINES} lines" in sample.unread["a"]


@pytest.mark.parametrize("line", [b"a\n", b"a one\n", b'a{x="1\n', b"a 1\na 2\n", b'a{x="\xff"} 1\n'])
def test_a_requested_series_that_cannot_be_read_costs_its_own_trigger_alone(line: bytes) -> None:
    body = b"b 7\n" + line + b"vllm:num_requests_waiting 4\na 1\n"
    sample = parse_page(body, TEXT, at_seconds=AT, selectors=[parse_series("a"), parse_series("b")])
    assert (sample.waiting, sample.selected) == (4.0, {"a": None, "b": Series(7, is_counter=False)})
    assert sample.unread["a"].startswith("line ")


def test_the_comparisons_of_a_page_are_bounded_and_cheap_selectors_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    comparisons = 0
    matches = SeriesSelector.matches

    def counted(selector: SeriesSelector, name: str, labels: Mapping[str, str]) -> bool:
        nonlocal comparisons
        comparisons += 1
        return matches(selector, name, labels)

    monkeypatch.setattr(SeriesSelector, "matches", counted)
    body = "few 3\n" + "".join(f'many{{x="{number}"}} 1\n' for number in range(5_000))
    negated = [parse_series(f'many{{x!="{number}"}}') for number in range(200)]
    exact = [parse_series(f'many{{x="{number}"}}') for number in range(200)]
    sample = parse_page(body.encode(), TEXT, at_seconds=AT, selectors=[*negated, *exact, parse_series("few")])
    assert comparisons <= MAX_COMPARISONS
    assert sample.selected["few"] == Series(3, is_counter=False)
    assert all(sample.selected[it.text] == Series(1, is_counter=False) for it in exact)
    assert len(sample.unread) > 150
    assert set(sample.unread) <= {it.text for it in negated}


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(engine_pages.VLLM, TEXT, id="text"),
        pytest.param(b"\n \n" + engine_pages.SGLANG.rstrip(b"\n"), TEXT, id="text that begins with blank lines"),
        pytest.param(engine_pages.INTERCEPTOR, "", id="JSON"),
        pytest.param(engine_pages.VLLM + b"# EOF\n\n", "application/openmetrics-text", id="OpenMetrics"),
        pytest.param(b"x" * 70_000 + b" 1\n" + engine_pages.VLLM, TEXT, id="a long line that nobody requests"),
    ],
)
def test_a_page_in_pieces_is_read_as_the_whole_page(body: bytes, content_type: str, size: int) -> None:
    selectors = [parse_series("vllm:num_requests_running"), parse_series(PENDING)]
    parser = PageParser(content_type, selectors=selectors)
    for at in range(0, len(body), size):
        parser.feed(body[at : at + size])
    whole = parse_page(body, content_type, at_seconds=AT, selectors=selectors)
    assert parser.finish(at_seconds=AT) == whole
    assert whole.engine or whole.selected[PENDING]


def test_an_error_in_a_piece_names_the_line_of_the_page() -> None:
    parser = PageParser(TEXT)
    parser.feed(b"# HELP a b\nx 1\n")
    parser.feed(b"y 1\n")
    with pytest.raises(ScrapeParseError, match="line 4: "):
        parser.feed(b"vllm:num_requests_waiting\n")


def test_json_without_end_is_refused() -> None:
    parser = PageParser(JSON)
    parser.feed(b"{" + b" " * (MAX_JSON_BYTES - 1))
    with pytest.raises(ScrapeParseError, match=f"more than {MAX_JSON_BYTES} bytes"):
        parser.feed(b"}")


def test_a_requested_line_without_end_costs_its_own_trigger_alone() -> None:
    parser = PageParser(TEXT, selectors=[parse_series("a"), parse_series("b")])
    for piece in (b'b 7\na{x="', b"x" * (MAX_LINE_BYTES + 1), b'"} 1\n', b"vllm:num_requests_waiting 4\na 1\n"):
        parser.feed(piece)
    sample = parser.finish(at_seconds=AT)
    assert (sample.waiting, sample.selected) == (4.0, {"a": None, "b": Series(7, is_counter=False)})
    assert sample.unread["a"] == f'line 2: the line of "a" is longer than {MAX_LINE_BYTES} bytes'


def test_a_name_with_very_long_labels_is_left_out_alone() -> None:
    filler = "x" * 60_000
    long = "".join(
        f'long{{x="{number}{filler}"}} 1\n' for number in range(MAX_SERIES_BYTES // len(filler) + 1)
    ).encode()
    sample = parse_page(long + b"vllm:num_requests_waiting 4\n", "", at_seconds=1.0, selectors=[parse_series("long")])
    assert sample.waiting == 4.0
    assert sample.selected["long"] is None
    assert sample.unread["long"] == 'the labels of "long" are too long to be read'


@pytest.mark.parametrize(
    ("buckets", "is_known"),
    [
        pytest.param(MAX_BUCKETS, True, id="as many buckets as are read"),
        pytest.param(MAX_BUCKETS + 1, False, id="one bucket more"),
    ],
)
def test_a_histogram_with_very_many_buckets_is_unknown(buckets: int, is_known: bool) -> None:
    bounds = [*map(str, range(buckets - 1)), "+Inf"]
    lines = [f'vllm:time_to_first_token_seconds_bucket{{le="{bound}"}} 7\n' for bound in bounds]
    sample = parse_page(f"vllm:num_requests_waiting 4\n{''.join(lines)}".encode(), "", at_seconds=1.0)
    assert sample.waiting == 4.0
    assert (sample.first_token is not None) is is_known
