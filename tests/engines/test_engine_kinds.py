# SPDX-License-Identifier: Apache-2.0
"""Tests pages with several processes, reasons, other units and other queues.

The pages are made for the tests. Names, types and labels are those of the engines' sources.
"""

import pytest

from keda_gpu_scaler.core.evaluate.engine_load import engine_load
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.demand_presets import DEMANDS
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS
from keda_gpu_scaler.core.types import EngineSample, Series
from keda_gpu_scaler.engines.scrape_parser import parse_page
from tests.engines import engine_pages


def read(text: str) -> EngineSample:
    return parse_page(text.encode(), "text/plain; version=0.0.4", at_seconds=7.0)


VLLM = 'vllm:num_requests_running{engine="0",model_name="m"} 3\n'


@pytest.mark.parametrize(
    ("series", "ratio"),
    [
        pytest.param(
            'vllm:kv_cache_usage_perc{engine="0",pid="271"} 0.95\n'
            'vllm:kv_cache_usage_perc{engine="0",pid="273"} 0.1\n'
            'vllm:gpu_cache_usage_perc{engine="0"} 0.1\n',
            0.1,
            id="a process that ended, and the older series",
        ),
        pytest.param(
            'vllm:kv_cache_usage_perc{engine="0",pid="271"} 0.95\nvllm:kv_cache_usage_perc{engine="0",pid="273"} 0.1\n',
            None,
            id="a process that ended: it is not known which value is current",
        ),
        pytest.param(
            'vllm:kv_cache_usage_perc{engine="0",pid="271"} 0.95\nvllm:gpu_cache_usage_perc{engine="0"} 0.1\n',
            0.1,
            id="only a process that ended, and the older series",
        ),
        pytest.param('vllm:kv_cache_usage_perc{engine="0",pid="271"} 0.4\n', 0.4, id="one process"),
        pytest.param(
            'vllm:kv_cache_usage_perc{engine="0"} 0.1\nvllm:gpu_cache_usage_perc{engine="0",pid="271"} 0.95\n',
            0.1,
            id="the older series of a process that ended",
        ),
        pytest.param(
            'vllm:kv_cache_usage_perc{engine="0",pid="271"} 0\nvllm:kv_cache_usage_perc{engine="0",pid="273"} 0\n',
            0.0,
            id="processes that agree",
        ),
        pytest.param(
            'vllm:kv_cache_usage_perc{engine="0"} 0.2\nvllm:kv_cache_usage_perc{engine="1"} 0.7\n',
            0.7,
            id="ranks of one process, of which the fullest counts",
        ),
    ],
)
def test_the_kv_cache_of_vllm_with_several_processes(series: str, ratio: float | None) -> None:
    assert read(VLLM + series).kv_cache_ratio == ratio


@pytest.mark.parametrize(
    ("value", "ratio", "is_percent"),
    [
        pytest.param("0.425", 0.425, False, id="a ratio"),
        pytest.param("1.004", 1.004, False, id="a full cache"),
        pytest.param("42.5", 0.425, True, id="per cent"),
        pytest.param("100", 1.0, True, id="a full cache in per cent"),
    ],
)
def test_a_kv_cache_in_per_cent_is_read_as_a_ratio(value: str, ratio: float, is_percent: bool) -> None:
    sample = read(VLLM + f"vllm:kv_cache_usage_perc {value}\n")
    assert sample.kv_cache_ratio == pytest.approx(ratio)
    assert sample.is_kv_percent is is_percent


@pytest.mark.parametrize(
    ("series", "ratio"),
    [
        pytest.param("tgi_batch_current_max_tokens 300\ntgi_batch_max_total_tokens 400\n", 0.75, id="three quarters"),
        pytest.param("tgi_batch_current_max_tokens 0\ntgi_batch_max_total_tokens 400\n", 0.0, id="idle"),
        pytest.param("tgi_batch_current_max_tokens 300\n", None, id="an older version without the budget"),
        pytest.param("tgi_batch_max_total_tokens 400\n", None, id="before the first request"),
        pytest.param("tgi_batch_current_max_tokens 3\ntgi_batch_max_total_tokens 0\n", None, id="no budget"),
    ],
)
def test_the_kv_cache_of_tgi_is_its_reserved_budget_of_tokens(series: str, ratio: float | None) -> None:
    assert read("tgi_queue_size 0\n" + series).kv_cache_ratio == ratio


def test_requests_of_vllm_that_were_aborted_or_failed_are_no_success() -> None:
    counts = {"stop": 10, "length": 20, "repetition": 3, "abort": 400, "error": 5000}
    series = "".join(f'vllm:request_success_total{{finished_reason="{it}"}} {count}\n' for it, count in counts.items())
    assert read(VLLM + series).requests_total == 33


def test_requests_of_trtllm_that_were_cancelled_or_timed_out_are_no_success() -> None:
    counts = {"stop": 10, "length": 20, "cancelled": 400, "timeout": 5000}
    series = "".join(f'trtllm_request_success_total{{finished_reason="{it}"}} {n}\n' for it, n in counts.items())
    assert read("trtllm_num_requests_running 1\n" + series).requests_total == 30


def test_requests_that_are_deferred_wait_for_no_capacity() -> None:
    sample = read(
        VLLM
        + "vllm:num_requests_waiting 42\n"
        + 'vllm:num_requests_waiting_by_reason{reason="capacity"} 2\n'
        + 'vllm:num_requests_waiting_by_reason{reason="deferred"} 40\n'
    )
    assert (sample.waiting, sample.deferred) == (2.0, 40.0)


def test_a_gauge_below_zero_counts_as_zero() -> None:
    sample = read('vllm:num_requests_running{engine="0"} -1\nvllm:num_requests_running{engine="1"} 4\n')
    assert sample.running == 4.0


def test_a_gauge_that_is_not_a_number_makes_the_sum_unknown() -> None:
    assert read('vllm:num_requests_running{engine="0"} NaN\nvllm:num_requests_running{engine="1"} 4\n').running is None


@pytest.mark.parametrize(
    ("series", "waiting", "deferred"),
    [
        pytest.param(
            {"num_queue_reqs": 1, "num_prefill_bootstrap_queue_reqs": 20, "num_prefill_inflight_queue_reqs": 300},
            21,
            300,
            id="a pool that prefills",
        ),
        pytest.param(
            {"num_queue_reqs": 1, "num_decode_prealloc_queue_reqs": 20, "num_decode_transfer_queue_reqs": 300},
            21,
            300,
            id="a pool that decodes",
        ),
        pytest.param(
            {"num_queue_reqs": 1, "num_prefill_prealloc_queue_reqs": 20}, 21, None, id="an older pool that prefills"
        ),
        pytest.param(
            {"num_queue_reqs": 1, "num_prefill_bootstrap_queue_reqs": 20, "num_prefill_prealloc_queue_reqs": 20},
            21,
            None,
            id="both names of the bootstrap queue",
        ),
        pytest.param({"num_queue_reqs": 4}, 4, None, id="a pool that does both"),
        pytest.param({"num_queue_reqs": 4, "num_decode_prealloc_queue_reqs": "NaN"}, None, None, id="an unknown queue"),
    ],
)
def test_the_queues_of_a_disaggregated_sglang(
    series: dict[str, float | str], waiting: float | None, deferred: float | None
) -> None:
    lines = "".join(
        f'sglang:{name}{{priority="{priority}",tp_rank="{rank}"}} {value}\n'
        for name, value in series.items()
        for rank in (0, 1)
        for priority in ("", "3")
    )
    sample = read("sglang:num_running_reqs 0\n" + lines)
    assert (sample.waiting, sample.deferred) == (waiting, deferred)


def test_requests_that_wait_for_a_handle_of_lmdeploy_wait_too() -> None:
    sample = read(
        'lmdeploy:num_requests_waiting{engine="0"} 3\nlmdeploy:num_api_requests_waiting{engine="0"} 40\n'
        'lmdeploy:request_success_total{finished_reason="ResponseType.FINISH"} 7\n'
        'lmdeploy:request_success_total{finished_reason="ResponseType.INTERNAL_ENGINE_ERROR"} 100\n'
    )
    assert (sample.waiting, sample.requests_total) == (43.0, 7.0)


TRITON = 'nv_inference_request_success{model="m",version="1"} 5\nnv_inference_pending_request_count{model="m"} 0\n'


def test_triton_with_the_vllm_backend_is_read_by_the_series_of_vllm() -> None:
    gauges = "vllm:num_requests_waiting 9\nvllm:num_requests_running 4\nvllm:gpu_cache_usage_perc 0.5\n"
    sample = read(TRITON + gauges)
    assert (sample.engine, sample.waiting, sample.running, sample.kv_cache_ratio) == ("vllm", 9.0, 4.0, 0.5)
    assert "vllm" in ENGINES["triton"].behind


def test_the_queue_behind_triton_is_unknown_without_the_gauges_of_vllm() -> None:
    sample = read(TRITON + "vllm:generation_tokens_total 50\nvllm:prompt_tokens_total 70\n")
    assert (sample.engine, sample.waiting, sample.requests_total) == ("triton", None, 5.0)
    assert (sample.tokens_total, sample.prompt_tokens_total) == (50.0, 70.0)
    assert read(TRITON).waiting == 0.0


@pytest.mark.parametrize(
    ("page", "engine", "hint"),
    [
        pytest.param("# TYPE tgi_request_count counter\ntgi_request_count 0\n", "tgi", "first request", id="TGI"),
        pytest.param(
            '# TYPE trtllm_request_success_total counter\ntrtllm_request_success_total{finished_reason="stop"} 3\n',
            "trtllm-serve",
            "`enable_iter_perf_stats`",
            id="trtllm-serve after a request",
        ),
        pytest.param(
            "# TYPE trtllm_num_requests_waiting gauge\n# TYPE trtllm_kv_cache_hit_rate gauge\n",
            "trtllm-serve",
            "`enable_iter_perf_stats`",
            id="trtllm-serve before a request",
        ),
        pytest.param("# TYPE sglang:num_queue_reqs gauge\n", "sglang", "first request", id="SGLang"),
    ],
)
def test_an_engine_is_recognised_before_its_first_request_and_the_reason_is_named(
    page: str, engine: str, hint: str
) -> None:
    sample = read(page)
    assert (sample.engine, sample.waiting) == (engine, None)
    assert hint in ENGINES[engine].no_queue_hint
    scraped = ScrapeResult((TargetHistory("http://10.1.2.3/metrics", (sample,)),))
    load = engine_load(
        EngineQuery(),
        ENGINE_METRICS["saturation"],
        scraped,
        window_seconds=10.0,
        stale_after_seconds=10.0,
        now=sample.at_seconds,
    )
    assert (load.value, load.is_no_engine) == (None, False)
    assert load.sentence.endswith(ENGINES[engine].no_queue_hint)


def test_a_page_with_the_series_of_another_engine_is_not_recognised_by_a_family() -> None:
    assert read("# TYPE tgi_request_count counter\nlightllm_unrelated 1\n" + VLLM).engine == "vllm"
    assert read("# TYPE other_request_count counter\nother_request_count 0\n").engine == ""


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        pytest.param(
            engine_pages.RAY,
            {
                "engine": "ray-serve-llm",
                "waiting": 6.0,
                "deferred": 21.0,
                "running": 12.0,
                "kv_cache_ratio": 0.5,
                "requests_total": 150.0,
                "tokens_total": 1800.0,
                "queue_wait_seconds_total": 4.5,
                "token_time_seconds_total": 16.5,
            },
            id="Ray Serve LLM, two workers",
        ),
        pytest.param(
            b'ray_vllm_num_requests_running{WorkerId="w1"} 1\n'
            b'ray_vllm_request_success_total{WorkerId="w1",finished_reason="abort"} 5\n'
            b'ray_vllm_request_success_total{WorkerId="w2",finished_reason="abort"} 7\n',
            {"engine": "ray-serve-llm", "requests_total": 12.0},
            id="Ray Serve LLM, each end with the reason that was set last",
        ),
        pytest.param(
            engine_pages.RAY.replace(b"ray_vllm_", b"ray_vllm:"),
            {"engine": "ray-serve-llm", "waiting": 6.0, "running": 12.0, "kv_cache_ratio": 0.5, "tokens_total": 1800.0},
            id="Ray Serve LLM, older names",
        ),
        pytest.param(
            engine_pages.TRITON_SUMMARIES,
            {
                "engine": "triton",
                "waiting": 3.0,
                "queue_wait_seconds_total": 1.5,
                "queue_waits_total": 50.0,
                "service_seconds_total": 6.25,
                "services_total": 50.0,
            },
            id="Triton with summaries of its times",
        ),
        pytest.param(
            engine_pages.DYNAMO,
            {"engine": "dynamo", "waiting": None, "running": 12.0, "kv_cache_ratio": 0.75, "requests_total": 300.0},
            id="a worker of Dynamo",
        ),
        pytest.param(
            engine_pages.DYNAMO.replace(b"kvstats_gpu", b"gpu"),
            {"engine": "dynamo", "running": 12.0, "kv_cache_ratio": 0.75},
            id="a worker of Dynamo, newer name of the cache",
        ),
        pytest.param(
            engine_pages.DYNAMO_TRTLLM,
            {
                "engine": "dynamo",
                "waiting": None,
                "running": 12.0,
                "kv_cache_ratio": 0.75,
                "requests_total": 300.0,
                "tokens_total": 8800.0,
                "prompt_tokens_total": 1500.0,
                "queue_wait_seconds_total": 3.5,
                "queue_waits_total": 291.0,
                "first_tokens_total": 292.0,
                "token_time_seconds_total": 4.25,
                "token_times_total": 289.0,
            },
            id="a worker of Dynamo with the times of TensorRT-LLM",
        ),
        pytest.param(
            engine_pages.DYNAMO + engine_pages.TRTLLM_SERVE,
            {"engine": "trtllm-serve", "waiting": 2.0, "running": 14.0},
            id="a worker of Dynamo that passes the queue of TensorRT-LLM through",
        ),
        pytest.param(
            engine_pages.DYNAMO + engine_pages.VLLM,
            {"engine": "vllm", "waiting": 6.0, "running": 23.0},
            id="a worker of Dynamo that passes the series of vLLM through",
        ),
        pytest.param(
            engine_pages.SGLANG_DIFFUSION,
            {
                "engine": "sglang-diffusion",
                "waiting": 6.0,
                "running": 1.0,
                "requests_total": 40.0,
                "queue_wait_seconds_total": 82.0,
                "queue_waits_total": 41.0,
            },
            id="SGLang, diffusion models",
        ),
        pytest.param(
            engine_pages.LIGHTLLM,
            {
                "engine": "lightllm",
                "waiting": 8.0,
                "running": 5.0,
                "kv_cache_ratio": 0.5,
                "requests_total": 30.0,
                "tokens_total": 3000.0,
                "queue_waits_total": 29.0,
                "token_time_seconds_total": 0.75,
            },
            id="LightLLM",
        ),
        pytest.param(
            engine_pages.LIGHTLLM_NEW,
            {"engine": "lightllm", "waiting": 4.0, "running": 6.0, "kv_cache_ratio": None, "requests_total": 20.0},
            id="LightLLM with the name of its model",
        ),
        pytest.param(
            engine_pages.TEI,
            {
                "engine": "tei",
                "waiting": 17.0,
                "running": None,
                "requests_total": 200.0,
                "service_seconds_total": 4.5,
                "services_total": 201.0,
                "executions_total": 33.0,
            },
            id="TEI",
        ),
        pytest.param(
            engine_pages.XINFERENCE,
            {
                "engine": "xinference",
                "waiting": None,
                "running": 8.0,
                "running_limit": 40.0,
                "requests_total": 570.0,
                "tokens_total": 9000.0,
                "prompt_tokens_total": 44000.0,
                "first_tokens_total": 67.0,
            },
            id="a worker of Xinference",
        ),
        pytest.param(
            engine_pages.XINFERENCE_SUPERVISOR,
            {"engine": "xinference", "running": None, "requests_total": None},
            id="the supervisor of Xinference",
        ),
        pytest.param(
            engine_pages.BENTOML,
            {"engine": "bentoml", "waiting": None, "running": 9.0, "requests_total": 118.0, "kv_cache_ratio": None},
            id="BentoML, without the probes",
        ),
        pytest.param(
            engine_pages.BENTOML_NEW,
            {"engine": "bentoml", "waiting": None, "running": 0.0, "requests_total": 0.0},
            id="BentoML before its first request",
        ),
        pytest.param(
            engine_pages.BENTOML_NEW.replace(b"bentoml_service", b"bentoml_api_server"),
            {"engine": "bentoml", "running": 0.0, "requests_total": 0.0},
            id="BentoML before 1.2, before its first request",
        ),
    ],
)
def test_the_readings_of_further_engines(page: bytes, expected: dict[str, object]) -> None:
    sample = read(page.decode())
    assert {name: getattr(sample, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("preset", "page", "series"),
    [
        pytest.param(
            "dynamo", 'dynamo_frontend_queued_requests{model="m"} 4\n', Series(4.0, is_counter=False), id="Dynamo"
        ),
        pytest.param(
            "dynamo",
            "# TYPE dynamo_frontend_requests_total counter\n",
            Series(0.0, is_counter=False, is_absent=True),
            id="Dynamo without a request",
        ),
        pytest.param("dynamo", "go_goroutines 9\n", None, id="a page without the source"),
    ],
)
def test_the_demand_of_a_preset(preset: str, page: str, series: Series | None) -> None:
    selector = SeriesSelector(DEMANDS[preset].series[0])
    sample = parse_page(page.encode(), "text/plain", at_seconds=7.0, selectors=[selector])
    assert sample.selected[selector.text] == series
