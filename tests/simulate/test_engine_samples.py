# SPDX-License-Identifier: Apache-2.0
"""The sample of a simulated engine is the one that the page parser reads from the engine's own page."""

import math
from collections.abc import Iterator
from itertools import accumulate

import pytest

from keda_gpu_scaler.core.trigger.engines import ENGINES, LoadRung
from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.engines import METRIC_MAPS
from keda_gpu_scaler.engines.scrape_parser import parse_page
from keda_gpu_scaler.simulate.counters import FIRST_TOKEN_BOUNDS, TOKEN_TIME_BOUNDS
from keda_gpu_scaler.simulate.engine_model import EngineModel, ServiceModel, SimulationError
from keda_gpu_scaler.simulate.engine_samples import sample_maker, simulated_engine
from keda_gpu_scaler.simulate.gateway import Gateway, Server
from keda_gpu_scaler.simulate.requests import RequestLog, RequestTraffic
from keda_gpu_scaler.simulate.servers import make_server

MODEL = EngineModel("test", 0.01, 0.001, 1e-4, 1e-6, kv_tokens=2000, max_seqs=4, token_budget=64)
AT_SECONDS = 3.0


def server_at_work(model: EngineModel | ServiceModel) -> Server:
    """A replica that has served some requests, serves some, and has some in its queue."""
    count = 60
    arrivals = [0.05 * number for number in range(count)]
    traffic = RequestTraffic(
        "test", arrivals, [20 + 3 * one for one in range(count)], [5 + one for one in range(count)], 3.0
    )
    log = RequestLog(traffic)
    server, fleet = make_server(model, log), Gateway(log)
    fleet.add(server, 0.0)
    fleet.run(AT_SECONDS)
    server.settle(AT_SECONDS)
    return server


def vllm_page(server: Server) -> Iterator[str]:
    """The page in the names and types of vLLM (vllm/v1/metrics/loggers.py)."""
    counters, labels = server.counters, '{engine="0",model_name="m"}'
    for name, value in (
        ("num_requests_running", server.running),
        ("num_requests_waiting", server.queue_length),
        ("kv_cache_usage_perc", server.kv_ratio),
    ):
        yield f"# TYPE vllm:{name} gauge\nvllm:{name}{labels} {value!r}"
    for name, count in (("prompt_tokens", counters.prompt_tokens), ("generation_tokens", counters.tokens)):
        yield f"# TYPE vllm:{name} counter\nvllm:{name}_total{labels} {count}"
    yield "# TYPE vllm:request_success counter"
    yield f'vllm:request_success_total{{engine="0",finished_reason="stop",model_name="m"}} {counters.ended}'
    yield "# TYPE vllm:request_queue_time_seconds histogram"
    yield f"vllm:request_queue_time_seconds_count{labels} {counters.ended}"
    yield f"vllm:request_queue_time_seconds_sum{labels} {counters.wait_seconds!r}"
    for name, bounds, counts, total in (
        ("inter_token_latency_seconds", TOKEN_TIME_BOUNDS, counters.token_histogram, counters.token_seconds),
        ("time_to_first_token_seconds", FIRST_TOKEN_BOUNDS, counters.first_token_histogram, 0.0),
    ):
        yield f"# TYPE vllm:{name} histogram"
        for bound, below in zip(bounds, accumulate(counts), strict=True):
            shown = "+Inf" if math.isinf(bound) else repr(bound)
            yield f'vllm:{name}_bucket{{engine="0",le="{shown}",model_name="m"}} {below}'
        yield f"vllm:{name}_count{labels} {sum(counts)}"
        yield f"vllm:{name}_sum{labels} {total!r}"


def test_the_sample_is_what_the_parser_reads_from_the_page_of_vllm() -> None:
    server = server_at_work(MODEL)
    assert server.counters.ended > 5
    assert server.running
    assert server.queue_length
    page = "\n".join(vllm_page(server)) + "\n"
    parsed = parse_page(page.encode(), "text/plain; version=0.0.4", at_seconds=AT_SECONDS, selectors=())
    assert sample_maker("vllm").sample(server, AT_SECONDS) == parsed


GENERATING = [name for name in METRIC_MAPS if ENGINES[name].load_rung is not LoadRung.NONE]


@pytest.mark.parametrize("engine", GENERATING)
def test_a_sample_has_only_readings_that_the_engine_exports(engine: str) -> None:
    sample = sample_maker(engine).sample(server_at_work(MODEL), AT_SECONDS)
    exported = METRIC_MAPS[engine]
    for name in ("waiting", "running", "running_limit", "kv_cache_ratio", "tokens_total", "prompt_tokens_total"):
        is_exported = bool(getattr(exported, name))
        assert (getattr(sample, name) is not None) == is_exported, name
    assert (sample.token_times_total is not None) == bool(exported.token_time)
    assert sample.service_seconds_total is None


def test_an_engine_that_observes_means_of_requests_has_one_for_each_request() -> None:
    server = server_at_work(MODEL)
    sample = sample_maker("tgi").sample(server, AT_SECONDS)
    assert sample.token_times_total == server.counters.ended
    assert sample.token_time_seconds_total == pytest.approx(server.counters.request_mean_seconds)


def test_triton_without_tokens_exports_its_queue_and_its_time_of_computation_alone() -> None:
    server = server_at_work(ServiceModel("test", 0.4, batch=2))
    sample = sample_maker("triton", is_service=True).sample(server, AT_SECONDS)
    assert sample == EngineSample(
        AT_SECONDS,
        "triton",
        waiting=float(server.queue_length),
        requests_total=float(server.counters.ended),
        queue_wait_seconds_total=server.counters.wait_seconds,
        queue_waits_total=float(server.counters.ended),
        service_seconds_total=server.counters.service_seconds,
        services_total=float(server.counters.ended),
        executions_total=float(server.counters.executions),
    )


@pytest.mark.parametrize(
    ("engine", "is_service", "words"),
    [
        pytest.param("ollama", False, "exports no load", id="an engine without a load"),
        pytest.param("vllm", True, "generates tokens", id="an engine of tokens where requests are computed whole"),
    ],
)
def test_an_engine_that_cannot_be_simulated_is_refused(engine: str, is_service: bool, words: str) -> None:
    with pytest.raises(SimulationError, match=words):
        simulated_engine(engine, is_service=is_service)
