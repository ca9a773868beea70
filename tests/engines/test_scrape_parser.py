# SPDX-License-Identifier: Apache-2.0
"""Is each engine known by its page, and is what it tells read rightly?"""

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.selectors import SeriesSelector, parse_series
from keda_gpu_scaler.core.trigger.demand_presets import DEMANDS
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.types import EngineSample, Histogram, Series
from keda_gpu_scaler.engines import JSON_READERS, METRIC_MAPS
from keda_gpu_scaler.engines.interceptor import PENDING
from keda_gpu_scaler.engines.metric_map import MetricMap
from keda_gpu_scaler.engines.scrape_parser import ScrapeParseError, UnknownPageError, parse_page
from tests.engines import engine_pages
from tests.engines.vllm_pages import vllm_page

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
JSON = "application/json"
AT = 7.0


def selected(body: bytes, text: str, content_type: str = TEXT) -> Series | None:
    """What a page says of one selector."""
    selector = parse_series(text)
    return parse_page(body, content_type, at_seconds=AT, selectors=[selector]).selected[selector.text]


def test_every_engine_of_the_table_has_a_file_and_the_same_turn() -> None:
    assert [*METRIC_MAPS, *JSON_READERS] == list(ENGINES)


@pytest.mark.parametrize(
    ("page", "readings"),
    [
        pytest.param(
            engine_pages.VLLM,
            EngineSample(
                AT,
                "vllm",
                waiting=7,
                running=23,
                kv_cache_ratio=0.75,
                requests_total=123,
                tokens_total=5006,
                queue_wait_seconds_total=60.75,
                queue_waits_total=123,
                first_token=Histogram((0.1, 2.5, math.inf), (11, 72, 123)),
            ),
            id="vLLM, two ranks",
        ),
        pytest.param(
            engine_pages.VLLM_OLD,
            EngineSample(AT, "vllm", waiting=0, running=5, kv_cache_ratio=0.5),
            id="vLLM before 0.12",
        ),
        pytest.param(
            engine_pages.VLLM_BY_REASON, EngineSample(AT, "vllm", waiting=6), id="vLLM, reasons of waiting alone"
        ),
        pytest.param(
            engine_pages.SGLANG,
            EngineSample(
                AT,
                "sglang",
                waiting=6,
                running=17,
                kv_cache_ratio=0.6,
                requests_total=42,
                tokens_total=900,
                queue_wait_seconds_total=4,
                queue_waits_total=42,
                first_token=Histogram((0.1, math.inf), (30, 42)),
            ),
            id="SGLang, two ranks of two, with priorities",
        ),
        pytest.param(
            engine_pages.SGLANG_OLD,
            EngineSample(AT, "sglang", waiting=1, running=7, kv_cache_ratio=0.28),
            id="SGLang before ranks were told",
        ),
        pytest.param(
            engine_pages.TGI,
            EngineSample(
                AT,
                "tgi",
                waiting=13,
                running=16,
                requests_total=58,
                tokens_total=5800,
                queue_wait_seconds_total=4.5,
                queue_waits_total=60,
            ),
            id="TGI",
        ),
        pytest.param(
            engine_pages.TRITON,
            EngineSample(
                AT, "triton", waiting=6, requests_total=200, queue_wait_seconds_total=2, queue_waits_total=200
            ),
            id="Triton, two models",
        ),
        pytest.param(
            engine_pages.TRITON_TRTLLM,
            EngineSample(
                AT,
                "triton",
                waiting=6,
                running=48,
                running_limit=64,
                kv_cache_ratio=0.4,
                requests_total=12,
                queue_wait_seconds_total=0.002,
                queue_waits_total=12,
            ),
            id="Triton with TensorRT-LLM",
        ),
        pytest.param(
            engine_pages.TRTLLM_SERVE,
            EngineSample(
                AT,
                "trtllm-serve",
                waiting=2,
                running=14,
                running_limit=256,
                kv_cache_ratio=0.35,
                requests_total=90,
                tokens_total=8100,
                queue_wait_seconds_total=9.5,
                queue_waits_total=91,
                first_token=Histogram((0.5, math.inf), (80, 91)),
            ),
            id="trtllm-serve",
        ),
        pytest.param(
            engine_pages.NIM,
            EngineSample(
                AT,
                "nim",
                waiting=1,
                running=21,
                running_limit=2048,
                kv_cache_ratio=0.2,
                requests_total=30,
                tokens_total=997,
                first_token=Histogram((0.25, math.inf), (29, 31)),
            ),
            id="NIM",
        ),
        pytest.param(
            engine_pages.LMDEPLOY,
            EngineSample(
                AT,
                "lmdeploy",
                waiting=5,
                running=7,
                kv_cache_ratio=0.9,
                requests_total=17,
                tokens_total=250,
                queue_wait_seconds_total=0.75,
                queue_waits_total=18,
                first_token=Histogram((1.0, math.inf), (16, 18)),
            ),
            id="LMDeploy, two ranks",
        ),
        pytest.param(
            engine_pages.LLAMA_CPP,
            EngineSample(AT, "llama.cpp", waiting=2, running=4, tokens_total=3400),
            id="llama.cpp, whose cache is not read",
        ),
        pytest.param(engine_pages.OLLAMA, EngineSample(AT, "ollama"), id="Ollama, which tells nothing of requests"),
        pytest.param(engine_pages.INTERCEPTOR, EngineSample(AT), id="an interceptor, which is no engine"),
        pytest.param(
            engine_pages.VLLM_ROUTER,
            EngineSample(AT, "vllm", waiting=1, running=3),
            id="a router, in its engines' words",
        ),
        pytest.param(engine_pages.ENDPOINT_PICKER, EngineSample(AT), id="an endpoint picker, which is no engine"),
        pytest.param(b"process_cpu_seconds_total 1\n", EngineSample(AT), id="a page of nobody's"),
        pytest.param(b"", EngineSample(AT), id="a page without anything"),
    ],
)
def test_what_a_page_tells(page: bytes, readings: EngineSample) -> None:
    assert parse_page(page, JSON if page.startswith(b"{") else TEXT, at_seconds=AT) == readings


def test_every_reading_of_every_engine_is_on_some_page() -> None:
    """What no page here tells would be read untested."""
    pages = [page for name, page in vars(engine_pages).items() if name.isupper() and not page.startswith(b"{")]
    told = [parse_page(page, TEXT, at_seconds=AT) for page in pages]
    for engine, metric_map in METRIC_MAPS.items():
        for reading in (field.name for field in fields(MetricMap) if field.name != "signs"):
            is_read = any(getattr(sample, reading) is not None for sample in told if sample.engine == engine)
            assert is_read is bool(getattr(metric_map, reading)), f"{engine}: {reading}"


def test_the_same_page_in_openmetrics_tells_the_same() -> None:
    assert parse_page(engine_pages.VLLM + b"# EOF\n", OPENMETRICS, at_seconds=AT) == parse_page(
        engine_pages.VLLM, TEXT, at_seconds=AT
    )


@pytest.mark.parametrize("engine", METRIC_MAPS)
def test_each_of_its_signs_alone_identifies_an_engine(engine: str) -> None:
    for sign in METRIC_MAPS[engine].signs:
        assert parse_page(f"{sign} 1\n".encode(), TEXT, at_seconds=AT).engine == engine


@pytest.mark.parametrize(
    ("body", "engine"),
    [
        pytest.param(b"vllm:num_requests_running 1\nnv_inference_count 1\n", "vllm", id="vLLM behind Triton is vLLM"),
        pytest.param(b"nv_inference_count 1\n", "triton", id="a count of inferences is Triton's"),
        pytest.param(engine_pages.NIM + engine_pages.VLLM, "vllm", id="a NIM that tells in vLLM's words is vLLM"),
        pytest.param(b"vllm:num_requests_running_max 1\n", "", id="a longer name is no sign"),
        pytest.param(b"# TYPE vllm:num_requests_running gauge\n", "", id="a declaration is no sign"),
        pytest.param(b"# HELP a vllm:num_requests_running 1\n", "", id="help is no sign"),
        pytest.param(b'a{x="vllm:num_requests_running 1"} 1\n', "", id="a label is no sign"),
        pytest.param(b"vllm:num_requests_running NaN\n", "vllm", id="a sign that tells nothing is one all the same"),
    ],
)
def test_whose_page_it_is(body: bytes, engine: str) -> None:
    assert parse_page(body, TEXT, at_seconds=AT).engine == engine


RUNNING = b"vllm:num_requests_running 1\n"


@pytest.mark.parametrize(
    ("body", "waiting"),
    [
        pytest.param(b"vllm:num_requests_waiting 0\n", 0, id="zero is known"),
        pytest.param(b"", None, id="a series that is missing is unknown"),
        pytest.param(b"# TYPE vllm:num_requests_waiting gauge\n", None, id="a gauge that is declared only"),
        pytest.param(b"vllm:num_requests_waiting NaN\n", None, id="no number"),
        pytest.param(b"vllm:num_requests_waiting +Inf\n", None, id="infinity"),
        pytest.param(
            b'vllm:num_requests_waiting{engine="0"} 3\nvllm:num_requests_waiting{engine="1"} NaN\n',
            None,
            id="one rank is unknown, and so is the sum",
        ),
        pytest.param(
            b'vllm:num_requests_waiting{engine="0"} 1e308\nvllm:num_requests_waiting{engine="1"} 1e308\n',
            None,
            id="a sum that no float holds",
        ),
        pytest.param(
            b'vllm:num_requests_waiting NaN\nvllm:num_requests_waiting_by_reason{reason="capacity"} 4\n',
            4,
            id="the reasons, where the total tells nothing",
        ),
        pytest.param(
            b'vllm:num_requests_waiting_by_reason{reason="deferred"} 4\n', None, id="another reason says nothing"
        ),
    ],
)
def test_what_is_not_told_is_unknown(body: bytes, waiting: float | None) -> None:
    assert parse_page(RUNNING + body, TEXT, at_seconds=AT).waiting == waiting


def test_of_caches_the_fullest_counts_unless_one_is_unknown() -> None:
    caches = b'vllm:kv_cache_usage_perc{engine="0"} 0.5\nvllm:kv_cache_usage_perc{engine="1"} %s\n'
    assert parse_page(RUNNING + caches % b"0.25", TEXT, at_seconds=AT).kv_cache_ratio == 0.5
    assert parse_page(RUNNING + caches % b"NaN", TEXT, at_seconds=AT).kv_cache_ratio is None


@pytest.mark.parametrize("values", [(b"1", b"NaN"), (b"NaN", b"1")])
def test_a_copy_that_is_unknown_leaves_the_sum_unknown(values: tuple[bytes, bytes]) -> None:
    body = b'sglang:num_queue_reqs{tp_rank="0"} %s\nsglang:num_queue_reqs{tp_rank="1"} %s\n' % values
    assert parse_page(body, TEXT, at_seconds=AT).waiting is None


@pytest.mark.parametrize(
    ("buckets", "histogram"),
    [
        pytest.param({"1": "2", "+Inf": "3"}, Histogram((1.0, math.inf), (2, 3)), id="as it should be"),
        pytest.param({"+Inf": "3", "1e1": "2", "2": "1"}, Histogram((2, 10, math.inf), (1, 2, 3)), id="in any order"),
        pytest.param({"1": "2", "2": "3"}, None, id="without an infinite bound"),
        pytest.param({"1": "NaN", "+Inf": "3"}, None, id="with a count that is unknown"),
        pytest.param({"one": "2", "+Inf": "3"}, None, id="with a bound that is no number"),
        pytest.param({"NaN": "2", "+Inf": "3"}, None, id="with a bound that is NaN"),
        pytest.param({"1": "2", "1.0": "2", "+Inf": "3"}, None, id="with one bound in two spellings"),
        pytest.param({}, None, id="without any bucket"),
    ],
)
def test_histograms(buckets: dict[str, str], histogram: Histogram | None) -> None:
    name = "vllm:time_to_first_token_seconds_bucket"
    lines = "".join(f'{name}{{le="{bound}"}} {count}\n' for bound, count in buckets.items()).encode()
    assert parse_page(RUNNING + lines, TEXT, at_seconds=AT).first_token == histogram


@pytest.mark.parametrize(
    ("other", "count"),
    [
        pytest.param("2", "1", id="other bounds"),
        pytest.param("1", "1e308", id="more than a float holds"),
    ],
)
def test_histograms_that_do_not_fit_together_are_unknown(other: str, count: str) -> None:
    name = "vllm:time_to_first_token_seconds_bucket"
    lines = [
        f'{name}{{engine="{engine}",le="{bound}"}} {count}'
        for engine, finite in (("0", "1"), ("1", other))
        for bound in (finite, "+Inf")
    ]
    assert parse_page(RUNNING + "\n".join(lines).encode(), TEXT, at_seconds=AT).first_token is None


def test_a_bucket_without_a_bound_makes_no_histogram() -> None:
    lines = b'vllm:time_to_first_token_seconds_bucket 1\nvllm:time_to_first_token_seconds_bucket{le="+Inf"} 1\n'
    assert parse_page(RUNNING + lines, TEXT, at_seconds=AT).first_token is None


@pytest.mark.parametrize(
    ("body", "selector", "series"),
    [
        pytest.param(engine_pages.ENDPOINT_PICKER, "inference_extension_flow_control_queue_size", 69, id="every pool"),
        pytest.param(
            engine_pages.ENDPOINT_PICKER,
            'inference_extension_flow_control_queue_size{inference_pool="llama"}',
            9,
            id="one pool, all its queues",
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
            None,
            id="a pool that there is not",
        ),
        pytest.param(engine_pages.ENDPOINT_PICKER, "inference_extension_flow_control_queue", None, id="a shorter name"),
        pytest.param(engine_pages.VLLM, 'vllm:num_requests_running{engine="1"}', 12, id="one rank of an engine"),
        pytest.param(engine_pages.INTERCEPTOR, "http_add_on_pending_requests", 3, id="an interceptor, every host"),
        pytest.param(
            engine_pages.INTERCEPTOR, 'http_add_on_pending_requests{host="blog/web"}', 0, id="a host without requests"
        ),
        pytest.param(
            engine_pages.INTERCEPTOR, 'http_add_on_pending_requests{host="none/web"}', None, id="a host it lists not"
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
        pytest.param(b"{}\n", "http_add_on_pending_requests", None, id="an interceptor that knows no host"),
        pytest.param(engine_pages.OLLAMA, "ollama_loaded_models", 2, id="how many models Ollama has loaded"),
        pytest.param(
            engine_pages.OLLAMA, 'ollama_loaded_models{model="llama3:8b"}', 1, id="whether Ollama has loaded this one"
        ),
        pytest.param(b'{"models": []}', "ollama_loaded_models", 0, id="that Ollama has loaded none"),
        pytest.param(b"a NaN\n", "a", None, id="no number"),
        pytest.param(b'a{x="1"} 1\na{x="2"} NaN\n', "a", None, id="a sum, of which a part is unknown"),
        pytest.param(b'a{x="1"} 1e308\na{x="2"} 1e308\n', "a", None, id="a sum that no float holds"),
        pytest.param(b"# TYPE a gauge\n", "a", None, id="a gauge without a series"),
    ],
)
def test_what_is_selected_as_it_stands(body: bytes, selector: str, series: float | None) -> None:
    found = selected(body, selector, JSON if body.startswith(b"{") else TEXT)
    assert found == (None if series is None else Series(series, is_counter=False))


@pytest.mark.parametrize(
    ("body", "selector", "series"),
    [
        pytest.param(engine_pages.VLLM_ROUTER, "vllm:num_incoming_requests_total", 50, id="a router, every model"),
        pytest.param(engine_pages.VLLM_ROUTER, 'vllm:num_incoming_requests_total{model="m"}', 42, id="one model"),
        pytest.param(engine_pages.VLLM_ROUTER, 'vllm:num_incoming_requests_total{model="o"}', None, id="one unseen"),
        pytest.param(engine_pages.VLLM, "vllm:time_to_first_token_seconds_count", 123, id="a histogram's count"),
        pytest.param(engine_pages.VLLM, "vllm:request_generation_tokens_sum", 7777, id="a histogram's sum"),
        pytest.param(
            engine_pages.VLLM, 'vllm:time_to_first_token_seconds_bucket{le="0.1"}', 11, id="a histogram's bucket"
        ),
        pytest.param(b"# TYPE a_total counter\n", "a_total", 0, id="a counter that never counted"),
        pytest.param(b"# TYPE a_total counter\n", 'a_total{x="1"}', 0, id="such a counter, with labels"),
        pytest.param(b"# TYPE a counter\na 5\n", "a", 5, id="a counter without the suffix"),
        pytest.param(b"a_total 5\n", "a_total", 5, id="a counter by its name only"),
    ],
)
def test_what_is_selected_and_counts_up(body: bytes, selector: str, series: float | None) -> None:
    assert selected(body, selector) == (None if series is None else Series(series, is_counter=True))


@pytest.mark.parametrize(
    ("preset", "page", "name"),
    [
        ("epp", engine_pages.ENDPOINT_PICKER, "inference_extension_flow_control_queue_size"),
        ("vllm-router", engine_pages.VLLM_ROUTER, "vllm:num_incoming_requests_total"),
        ("http-add-on", engine_pages.INTERCEPTOR, "http_add_on_pending_requests"),
    ],
)
def test_every_preset_of_demand_names_what_its_source_tells(preset: str, page: bytes, name: str) -> None:
    assert name in DEMANDS[preset].series
    assert selected(page, name, JSON if page.startswith(b"{") else TEXT) is not None


def test_selecting_changes_nothing_else() -> None:
    selectors = [parse_series(text) for text in ("up", 'vllm:num_requests_waiting{engine="0"}')]
    with_them = parse_page(engine_pages.VLLM, TEXT, at_seconds=AT, selectors=selectors)
    assert set(with_them.selected) == {"up", 'vllm:num_requests_waiting{engine="0"}'}
    assert replace(with_them, selected={}) == parse_page(engine_pages.VLLM, TEXT, at_seconds=AT)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(engine_pages.INTERCEPTOR, JSON, id="said to be JSON"),
        pytest.param(engine_pages.INTERCEPTOR, "text/plain; charset=utf-8", id="JSON that is said to be text"),
        pytest.param(b"\n  " + engine_pages.INTERCEPTOR, "", id="JSON behind blanks, and nothing said"),
    ],
)
def test_json_is_known_as_such(body: bytes, content_type: str) -> None:
    assert selected(body, "http_add_on_pending_requests", content_type) == Series(3, is_counter=False)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[]", id="a list"),
        pytest.param(b"3", id="a number"),
        pytest.param(b'{"a": "b"}', id="words"),
        pytest.param(b'{"a": true}', id="a truth, which is no number"),
        pytest.param(b'{"a": null}', id="nothing"),
        pytest.param(b'{"a": {"Requests": "3"}}', id="a number in quotes"),
        pytest.param(b'{"a": {"RPS": 3}}', id="an object without what is counted"),
        pytest.param(b'{"a": 3, "b": "c"}', id="a number, and a word"),
        pytest.param(b'{"a": 1' + b"0" * 400 + b"}", id="a number that no float holds"),
        pytest.param(b'{"a": 1' + b"0" * 5000 + b"}", id="a number that Python does not read"),
        pytest.param(b'{"models": {}}', id="models that are no list"),
        pytest.param(b'{"models": [3]}', id="models that are numbers"),
        pytest.param(b'{"models": [{"id": "a"}]}', id="models without a name, of another server"),
        pytest.param(b'{"object": "list", "models": []}', id="models of another server"),
        pytest.param(b'{"detail":"Not Found"}', id="an error"),
        pytest.param(b'{"a": 3', id="JSON that was cut off"),
        pytest.param(b"{" * 100_000, id="braces without end"),
        pytest.param(b"[" * 100_000, id="brackets without end"),
        pytest.param(b'{"\xff": 3}', id="what is not UTF-8"),
        pytest.param(b"", id="nothing at all"),
    ],
)
def test_json_of_no_kind_that_is_known(body: bytes) -> None:
    with pytest.raises(UnknownPageError) as error:
        parse_page(body, JSON, at_seconds=AT)
    assert str(error.value) == ("it is JSON of an unknown kind: neither Ollama's /api/ps nor the HTTP add-on's /queue")


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_a_number_of_json_that_is_not_finite_tells_nothing(number: bytes) -> None:
    assert selected(b'{"a": %s}' % number, "http_add_on_pending_requests", JSON) is None


@pytest.mark.parametrize(
    ("body", "content_type", "complaint"),
    [
        pytest.param(
            b"a 1\nvllm:num_requests_running what\n",
            TEXT,
            'its metrics cannot be read: line 2: "what" is not a number',
            id="a wanted line that is malformed",
        ),
        pytest.param(
            b"vllm:num_requests_running 1\n",
            OPENMETRICS,
            'its metrics cannot be read: the end mark "# EOF" is missing: the page was cut off',
            id="OpenMetrics that was cut off",
        ),
    ],
)
def test_a_page_that_cannot_be_read_is_refused_whole(body: bytes, content_type: str, complaint: str) -> None:
    with pytest.raises(ScrapeParseError) as error:
        parse_page(body, content_type, at_seconds=AT)
    assert str(error.value) == complaint
    assert not isinstance(error.value, UnknownPageError)


def test_a_page_in_html_tells_nothing() -> None:
    assert parse_page(
        b"<!doctype html>\n<html><body>Hello</body></html>\n", "text/html", at_seconds=AT
    ) == EngineSample(AT)


@given(st.binary(max_size=200), st.sampled_from([TEXT, OPENMETRICS, JSON, ""]))
def test_whatever_comes_is_a_page_or_an_error(body: bytes, content_type: str) -> None:
    with contextlib.suppress(ScrapeParseError):
        parse_page(body, content_type, at_seconds=AT, selectors=[parse_series("a")])


COUNTS = st.integers(0, 10**6)


@given(waiting=COUNTS, running=COUNTS, kv=st.floats(0, 1), requests=COUNTS, tokens=COUNTS, wait=st.floats(0, 1e6))
def test_a_page_of_vllm_tells_what_it_was_made_of(
    waiting: int, running: int, kv: float, requests: int, tokens: int, wait: float
) -> None:
    page = vllm_page(
        waiting=waiting,
        running=running,
        kv=kv,
        requests=requests,
        tokens=tokens,
        queue_seconds=wait,
        first_tokens=requests,
    )
    readings = parse_page(page, TEXT, at_seconds=AT)
    assert (readings.waiting, readings.running, readings.kv_cache_ratio) == (waiting, running, kv)
    assert (readings.requests_total, readings.tokens_total) == (requests, tokens)
    assert (readings.queue_wait_seconds_total, readings.queue_waits_total) == (wait, requests)
    assert readings.first_token is not None
    assert readings.first_token.counts[-1] == requests


@given(st.permutations(engine_pages.VLLM.decode().splitlines()))
def test_the_order_of_lines_does_not_matter(lines: list[str]) -> None:
    page = "\n".join(lines).encode()
    assert parse_page(page, TEXT, at_seconds=AT) == parse_page(engine_pages.VLLM, TEXT, at_seconds=AT)


@given(
    st.lists(st.tuples(*[st.sampled_from(["", "a", "b"])] * 2), max_size=6, unique=True),
    st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["=", "!="]), st.sampled_from(["", "a", "b"]))),
)
def test_what_a_selector_means_is_found_however_it_is_looked_for(
    told: list[tuple[str, str]], conditions: list[tuple[str, str, str]]
) -> None:
    selector = parse_series("depth{" + ",".join(f'{key}{how}"{value}"' for key, how, value in conditions) + "}")
    body = "".join(f'depth{{x="{x}",y="{y}"}} {number}\n' for number, (x, y) in enumerate(told))
    meant = [number for number, (x, y) in enumerate(told) if selector.matches("depth", {"x": x, "y": y})]
    assert selected(body.encode(), selector.text) == (Series(sum(meant), is_counter=False) if meant else None)


def test_hundreds_of_series_of_one_page_cost_no_more_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    all_observations = 0
    matches = SeriesSelector.matches

    def counted(selector: SeriesSelector, name: str, labels: Mapping[str, str]) -> bool:
        nonlocal all_observations
        all_observations += 1
        return matches(selector, name, labels)

    monkeypatch.setattr(SeriesSelector, "matches", counted)
    selectors = [parse_series(f'{PENDING}{{host="ai/{number}"}}') for number in range(300)]
    body = json.dumps({f"ai/{number}": {"Concurrency": 0} for number in range(300)}).encode()
    told = parse_page(body, JSON, at_seconds=AT, selectors=selectors).selected
    assert all_observations == 300
    assert len(set(map(id, told.values()))) == 1, "the same reading is kept once"
