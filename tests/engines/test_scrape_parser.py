# SPDX-License-Identifier: Apache-2.0
"""Tests that each engine is recognised by its page, and that its readings are correct."""

import contextlib
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.selectors import parse_series
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.types import EngineSample, Histogram
from keda_gpu_scaler.engines import JSON_READERS, METRIC_MAPS
from keda_gpu_scaler.engines.metric_map import MetricMap
from keda_gpu_scaler.engines.scrape_parser import ScrapeParseError, UnknownPageError, parse_page
from tests.engines import engine_pages
from tests.engines.vllm_pages import vllm_page

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
JSON = "application/json"
AT = 7.0


def test_the_engines_of_the_table_are_those_whose_pages_are_read() -> None:
    assert [*METRIC_MAPS, *JSON_READERS] == list(ENGINES)


@pytest.mark.parametrize(
    ("page", "readings"),
    [
        pytest.param(
            engine_pages.VLLM,
            EngineSample(
                AT,
                "vllm",
                waiting=6,
                deferred=1,
                running=23,
                kv_cache_ratio=0.75,
                requests_total=123,
                tokens_total=5006,
                queue_wait_seconds_total=60.75,
                queue_waits_total=123,
                first_token=Histogram((0.1, 2.5, math.inf), (11, 72, 123)),
                first_tokens_total=123,
                prompt_tokens_total=30070,
                token_time=Histogram((0.01, 0.025, math.inf), (1000, 4002, 4883)),
                token_time_seconds_total=97.75,
                token_times_total=4883,
            ),
            id="vLLM, two ranks",
        ),
        pytest.param(
            engine_pages.VLLM_OLD,
            EngineSample(
                AT,
                "vllm",
                waiting=0,
                running=5,
                kv_cache_ratio=0.5,
                prompt_tokens_total=500,
                token_time=Histogram((0.05, math.inf), (40, 60)),
                token_time_seconds_total=2.75,
                token_times_total=60,
            ),
            id="vLLM before 0.12",
        ),
        pytest.param(
            engine_pages.VLLM_BY_REASON,
            EngineSample(AT, "vllm", waiting=6, deferred=30),
            id="vLLM, reasons of waiting alone",
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
                first_tokens_total=42,
                prompt_tokens_total=7400,
                token_time=Histogram((0.02, math.inf), (600, 858)),
                token_time_seconds_total=21.5,
                token_times_total=858,
            ),
            id="SGLang, two ranks of two, with priorities",
        ),
        pytest.param(
            engine_pages.SGLANG_OLD,
            EngineSample(AT, "sglang", waiting=1, running=7, kv_cache_ratio=0.28),
            id="SGLang before ranks were exported",
        ),
        pytest.param(
            engine_pages.TGI,
            EngineSample(
                AT,
                "tgi",
                waiting=13,
                kv_cache_ratio=0.5,
                running=16,
                requests_total=58,
                tokens_total=5800,
                queue_wait_seconds_total=4.5,
                queue_waits_total=60,
                prompt_tokens_total=12400,
                token_time=Histogram((0.025, math.inf), (20, 57)),
                token_time_seconds_total=1.75,
                token_times_total=57,
            ),
            id="TGI",
        ),
        pytest.param(
            engine_pages.TRITON,
            EngineSample(
                AT,
                "triton",
                waiting=6,
                requests_total=200,
                queue_wait_seconds_total=2,
                queue_waits_total=200,
                service_seconds_total=7.25,
                services_total=200,
                executions_total=33,
                summed_models=2,
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
                tokens_total=2300,
                queue_wait_seconds_total=0.002,
                queue_waits_total=12,
                prompt_tokens_total=4700,
                service_seconds_total=36,
                services_total=12,
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
                first_tokens_total=91,
                prompt_tokens_total=45000,
                token_time=Histogram((0.01, math.inf), (33, 88)),
                token_time_seconds_total=1.25,
                token_times_total=88,
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
                first_tokens_total=31,
                prompt_tokens_total=603,
                token_time=Histogram((0.05, math.inf), (700, 966)),
                token_time_seconds_total=38.5,
                token_times_total=966,
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
                first_tokens_total=18,
                prompt_tokens_total=3680,
                token_time=Histogram((0.025, math.inf), (150, 232)),
                token_time_seconds_total=5.5,
                token_times_total=232,
            ),
            id="LMDeploy, two ranks",
        ),
        pytest.param(
            engine_pages.LLAMA_CPP,
            EngineSample(
                AT,
                "llama.cpp",
                waiting=2,
                running=4,
                tokens_total=3400,
                prompt_tokens_total=1200,
                token_time_seconds_total=66.25,
                token_times_total=3400,
            ),
            id="llama.cpp, whose KV cache is not read",
        ),
        pytest.param(engine_pages.OLLAMA, EngineSample(AT, "ollama"), id="Ollama, which does not report requests"),
        pytest.param(engine_pages.INTERCEPTOR, EngineSample(AT), id="an interceptor, which is not an engine"),
        pytest.param(
            engine_pages.VLLM_ROUTER,
            EngineSample(AT, "vllm", waiting=1, running=3),
            id="a router, with the series of its engines",
        ),
        pytest.param(engine_pages.ENDPOINT_PICKER, EngineSample(AT), id="an endpoint picker, which is not an engine"),
        pytest.param(b"process_cpu_seconds_total 1\n", EngineSample(AT), id="a page of another program"),
        pytest.param(b"", EngineSample(AT), id="an empty page"),
    ],
)
def test_the_readings_of_a_page(page: bytes, readings: EngineSample) -> None:
    assert parse_page(page, JSON if page.startswith(b"{") else TEXT, at_seconds=AT) == readings


def test_every_reading_of_every_engine_is_on_some_page() -> None:
    """A reading that is on no page would not be tested."""
    pages = [page for name, page in vars(engine_pages).items() if name.isupper() and not page.startswith(b"{")]
    parsed = [parse_page(page, TEXT, at_seconds=AT) for page in pages]
    for engine, metric_map in METRIC_MAPS.items():
        for reading in (it.name for it in fields(MetricMap) if it.name not in ("identifying_series", "families")):
            # Not every engine has a histogram of the times between tokens.
            read = "token_times_total" if reading == "token_time" else reading
            is_read = any(getattr(sample, read) is not None for sample in parsed if sample.engine == engine)
            assert is_read is bool(getattr(metric_map, reading)), f"{engine}: {reading}"


def test_the_same_page_in_openmetrics_gives_the_same_readings() -> None:
    assert parse_page(engine_pages.VLLM + b"# EOF\n", OPENMETRICS, at_seconds=AT) == parse_page(
        engine_pages.VLLM, TEXT, at_seconds=AT
    )


@pytest.mark.parametrize("engine", METRIC_MAPS)
def test_each_of_its_identifying_series_alone_identifies_an_engine(engine: str) -> None:
    for sign in METRIC_MAPS[engine].identifying_series:
        assert parse_page(f"{sign} 1\n".encode(), TEXT, at_seconds=AT).engine == engine


@pytest.mark.parametrize(
    ("body", "engine"),
    [
        pytest.param(
            b"vllm:num_requests_running 1\nnv_inference_count 1\n", "vllm", id="a page of vLLM and Triton is vLLM's"
        ),
        pytest.param(b"nv_inference_count 1\n", "triton", id="a count of inferences is a sign of Triton"),
        pytest.param(engine_pages.NIM + engine_pages.VLLM, "vllm", id="a NIM with the series of vLLM is vLLM"),
        pytest.param(b"vllm:num_requests_running_max 1\n", "", id="a longer name is not a sign"),
        pytest.param(b"# TYPE vllm:num_requests_running gauge\n", "", id="a declaration is not a sign"),
        pytest.param(b"# HELP a vllm:num_requests_running 1\n", "", id="a help text is not a sign"),
        pytest.param(b'a{x="vllm:num_requests_running 1"} 1\n', "", id="a label is not a sign"),
        pytest.param(b"vllm:num_requests_running NaN\n", "vllm", id="a sign with the value NaN is a sign"),
    ],
)
def test_the_engine_of_a_page(body: bytes, engine: str) -> None:
    assert parse_page(body, TEXT, at_seconds=AT).engine == engine


RUNNING = b"vllm:num_requests_running 1\n"


@pytest.mark.parametrize(
    ("body", "waiting"),
    [
        pytest.param(b"vllm:num_requests_waiting 0\n", 0, id="zero is known"),
        pytest.param(b"", None, id="a series that is missing is unknown"),
        pytest.param(b"# TYPE vllm:num_requests_waiting gauge\n", None, id="a gauge that is only declared is unknown"),
        pytest.param(b"vllm:num_requests_waiting NaN\n", None, id="NaN is unknown"),
        pytest.param(b"vllm:num_requests_waiting +Inf\n", None, id="infinity is unknown"),
        pytest.param(
            b'vllm:num_requests_waiting{engine="0"} 3\nvllm:num_requests_waiting{engine="1"} NaN\n',
            None,
            id="if one rank is unknown, the sum is unknown",
        ),
        pytest.param(
            b'vllm:num_requests_waiting{engine="0"} 1e308\nvllm:num_requests_waiting{engine="1"} 1e308\n',
            None,
            id="a sum too large for a float is unknown",
        ),
        pytest.param(
            b'vllm:num_requests_waiting NaN\nvllm:num_requests_waiting_by_reason{reason="capacity"} 4\n',
            4,
            id="the reasons count where the total is unknown",
        ),
        pytest.param(
            b'vllm:num_requests_waiting_by_reason{reason="deferred"} 4\n', None, id="another reason does not count"
        ),
    ],
)
def test_what_is_not_exported_is_unknown(body: bytes, waiting: float | None) -> None:
    assert parse_page(RUNNING + body, TEXT, at_seconds=AT).waiting == waiting


def test_the_fullest_kv_cache_counts_unless_one_is_unknown() -> None:
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
        pytest.param({"1": "2", "+Inf": "3"}, Histogram((1.0, math.inf), (2, 3)), id="two buckets"),
        pytest.param(
            {"+Inf": "3", "1e1": "2", "2": "1"}, Histogram((2, 10, math.inf), (1, 2, 3)), id="buckets in another order"
        ),
        pytest.param({"1": "2", "2": "3"}, None, id="without an infinite bound"),
        pytest.param({"1": "NaN", "+Inf": "3"}, None, id="with an unknown count"),
        pytest.param({"one": "2", "+Inf": "3"}, None, id="with a bound that is not a number"),
        pytest.param({"NaN": "2", "+Inf": "3"}, None, id="with a bound that is NaN"),
        pytest.param({"1": "2", "1.0": "2", "+Inf": "3"}, None, id="with one bound in two spellings"),
        pytest.param({}, None, id="without any bucket"),
    ],
)
def test_a_histogram(buckets: dict[str, str], histogram: Histogram | None) -> None:
    name = "vllm:time_to_first_token_seconds_bucket"
    lines = "".join(f'{name}{{le="{bound}"}} {count}\n' for bound, count in buckets.items()).encode()
    assert parse_page(RUNNING + lines, TEXT, at_seconds=AT).first_token == histogram


@pytest.mark.parametrize(
    ("other", "count"),
    [
        pytest.param("2", "1", id="different bounds"),
        pytest.param("1", "1e308", id="counts too large for a float"),
    ],
)
def test_histograms_that_cannot_be_added_up_are_unknown(other: str, count: str) -> None:
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
    ("body", "content_type", "message"),
    [
        pytest.param(
            b"a 1\nvllm:num_requests_running what\n",
            TEXT,
            "its metrics cannot be read: line 2: its value is not a number (4 bytes)",
            id="a malformed wanted line",
        ),
        pytest.param(
            b"vllm:num_requests_running 1\n",
            OPENMETRICS,
            'its metrics cannot be read: the end mark "# EOF" is missing: the page was cut off',
            id="OpenMetrics that was cut off",
        ),
    ],
)
def test_a_page_that_cannot_be_read_is_refused_as_a_whole(body: bytes, content_type: str, message: str) -> None:
    with pytest.raises(ScrapeParseError) as error:
        parse_page(body, content_type, at_seconds=AT)
    assert str(error.value) == message
    assert not isinstance(error.value, UnknownPageError)


def test_a_page_in_html_has_no_readings() -> None:
    assert parse_page(
        b"<!doctype html>\n<html><body>Hello</body></html>\n", "text/html", at_seconds=AT
    ) == EngineSample(AT)


@given(st.binary(max_size=200), st.sampled_from([TEXT, OPENMETRICS, JSON, ""]))
def test_any_bytes_give_a_page_or_an_error(body: bytes, content_type: str) -> None:
    with contextlib.suppress(ScrapeParseError):
        parse_page(body, content_type, at_seconds=AT, selectors=[parse_series("a")])


COUNTS = st.integers(0, 10**6)


@given(
    waiting=COUNTS,
    running=COUNTS,
    kv=st.floats(0, 1),
    requests=COUNTS,
    tokens=COUNTS,
    wait=st.floats(0, 1e6),
    token_time=st.floats(0, 100),
)
def test_the_readings_of_a_generated_page_are_the_numbers_it_was_made_of(
    waiting: int, running: int, kv: float, requests: int, tokens: int, wait: float, token_time: float
) -> None:
    page = vllm_page(
        waiting=waiting,
        running=running,
        kv=kv,
        requests=requests,
        tokens=tokens,
        queue_seconds=wait,
        first_tokens=requests,
        token_times=tokens,
        token_time=token_time,
    )
    readings = parse_page(page, TEXT, at_seconds=AT)
    assert (readings.waiting, readings.running, readings.kv_cache_ratio) == (waiting, running, kv)
    assert (readings.requests_total, readings.tokens_total) == (requests, tokens)
    assert (readings.queue_wait_seconds_total, readings.queue_waits_total) == (wait, requests)
    assert readings.first_token is not None
    assert readings.first_token.counts[-1] == readings.first_tokens_total == requests
    assert readings.token_time is not None
    assert readings.token_time.counts[-1] == readings.token_times_total == tokens
    assert readings.token_time_seconds_total == tokens * token_time
    assert readings.prompt_tokens_total == 7 * tokens


@given(st.permutations(engine_pages.VLLM.decode().splitlines()))
def test_the_order_of_lines_does_not_matter(lines: list[str]) -> None:
    page = "\n".join(lines).encode()
    assert parse_page(page, TEXT, at_seconds=AT) == parse_page(engine_pages.VLLM, TEXT, at_seconds=AT)
