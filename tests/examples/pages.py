# SPDX-License-Identifier: Apache-2.0
"""Serves the pages of the examples' engines and demand sources over HTTP on loopback.

Each example has an engine of its own, as busy as ``BUSY`` says; what its first lines call a server it is one. Where
each shape is from stands in tests/engines/engine_pages.py.
"""

import contextlib
import http.server
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tests.examples.documents import Example

WAITING, RUNNING, KV_CACHE_RATIO = 8, 16, 0.5
WAIT_MS = 30.0
COMPUTED_MS = 120.0
FIRST_TOKEN_MS = 3000.0
REQUESTS_PER_SECOND = 100.0
TOKEN_SECONDS = 0.04
TOKENS_PER_SECOND = RUNNING / TOKEN_SECONDS
TOKENS_ALONE = 50.0
"""Tokens from the time when the engine had one request; each came within 10 ms."""
HELD = 3
"""Requests that wait before a workload that sleeps."""

Page = Callable[[float], str]
"""A page by the seconds that the server has run: counters grow with them."""


def _token_times(name: str, labels: str, seconds: float) -> str:
    """Return a histogram of times between tokens that all are TOKEN_SECONDS, but for the first ones."""
    tokens = TOKENS_ALONE + TOKENS_PER_SECOND * seconds
    between = f"{labels}," if labels else ""
    return f"""\
# TYPE {name} histogram
{name}_bucket{{{between}le="0.01"}} {TOKENS_ALONE}
{name}_bucket{{{between}le="{TOKEN_SECONDS}"}} {tokens}
{name}_bucket{{{between}le="+Inf"}} {tokens}
{name}_sum{{{labels}}} {0.01 * TOKENS_ALONE + TOKEN_SECONDS * (tokens - TOKENS_ALONE)}
{name}_count{{{labels}}} {tokens}
"""


def _vllm(seconds: float) -> str:
    counted = REQUESTS_PER_SECOND * seconds
    # Everybody's first token comes between 2.9 and 3 s, so that every quantile is about as long.
    return f"""\
vllm:num_requests_running{{engine="0",model_name="m"}} {RUNNING}
vllm:num_requests_waiting{{engine="0",model_name="m"}} {WAITING}
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} {KV_CACHE_RATIO}
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{{engine="0",le="2.9",model_name="m"}} 0
vllm:time_to_first_token_seconds_bucket{{engine="0",le="3.0",model_name="m"}} {counted}
vllm:time_to_first_token_seconds_bucket{{engine="0",le="+Inf",model_name="m"}} {counted}
vllm:time_to_first_token_seconds_count{{engine="0",model_name="m"}} {counted}
vllm:request_success_total{{engine="0",finished_reason="stop",model_name="m"}} {counted}
vllm:prompt_tokens_total{{engine="0",model_name="m"}} {7 * TOKENS_PER_SECOND * seconds}
vllm:generation_tokens_total{{engine="0",model_name="m"}} {TOKENS_ALONE + TOKENS_PER_SECOND * seconds}
{_token_times("vllm:inter_token_latency_seconds", 'engine="0",model_name="m"', seconds)}"""


def _sglang(seconds: float) -> str:
    return f"""\
sglang:num_running_reqs{{model_name="m"}} {RUNNING}
sglang:num_queue_reqs{{model_name="m"}} {WAITING}
sglang:token_usage{{model_name="m"}} {KV_CACHE_RATIO}
sglang:num_requests_total{{model_name="m"}} {REQUESTS_PER_SECOND * seconds}
sglang:prompt_tokens_total{{model_name="m"}} {7 * TOKENS_PER_SECOND * seconds}
sglang:generation_tokens_total{{model_name="m"}} {TOKENS_PER_SECOND * seconds}
{_token_times("sglang:inter_token_latency_seconds", 'model_name="m"', seconds)}"""


def _tgi(seconds: float) -> str:
    return f"""\
tgi_queue_size {WAITING}
tgi_batch_current_size {RUNNING}
tgi_request_success {REQUESTS_PER_SECOND * seconds}
tgi_request_input_length_sum {7 * TOKENS_PER_SECOND * seconds}
tgi_request_generated_tokens_sum {TOKENS_PER_SECOND * seconds}
{_token_times("tgi_request_mean_time_per_token_duration", "", seconds)}"""


def _triton(seconds: float) -> str:
    counted = REQUESTS_PER_SECOND * seconds
    return f"""\
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="detector",version="1"}} {counted}
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{{model="detector",version="1"}} {1000 * WAIT_MS * counted}
nv_inference_compute_infer_duration_us{{model="detector",version="1"}} {1000 * COMPUTED_MS * counted}
nv_inference_pending_request_count{{model="detector",version="1"}} {WAITING}
nv_inference_pending_request_count{{model="ocr",version="1"}} 100
"""


ENGINES: Mapping[str, Page] = {
    "sglang": _sglang,
    "tgi-queue": _tgi,
    "triton-queue-wait": _triton,
    "engine-metric": _triton,
}
"""By the example's file; every other one about engines is about vLLM."""


def _picker(held: int) -> Page:
    queue = "inference_extension_flow_control_queue_size"
    pools = {"llama-pool": held, "another": 100}
    return lambda _: "".join(f'{queue}{{inference_pool="{pool}"}} {size}\n' for pool, size in pools.items())


def _interceptor(held: int) -> Page:
    return lambda _: f'{{"ai/llama-on-request": {{"Concurrency": {held}, "RPS": 1}}, "ai/other": {{"Concurrency": 9}}}}'


def _router(held: int) -> Page:
    name = "vllm:num_incoming_requests_total"
    return lambda seconds: (
        f'# TYPE {name} counter\n{name}{{model="meta-llama/Llama-3.1-70B-Instruct"}} {held * seconds}\n'
        f'{name}{{model="another"}} {100 * seconds}\n'
    )


def _dynamo(held: int) -> Page:
    name = "dynamo_frontend_requests_total"
    return lambda seconds: (
        f'# TYPE {name} counter\n{name}{{error_type="not_found",model="unknown_model"}} {held * seconds}\n'
        f'{name}{{error_type="",model="another"}} {100 * seconds}\n'
    )


def _counted(name: str, one: str, another: str) -> Callable[[int], Page]:
    """Return the pages of a counter of requests: of one workload as many a second as are held, and of another one."""
    return lambda held: (
        lambda seconds: (
            f"# TYPE {name} counter\n{name}{{{one}}} {held * seconds}\n{name}{{{another}}} {100 * seconds}\n"
        )
    )


def _gauges(series: Mapping[str, int]) -> str:
    return "".join(f"# TYPE {text.partition('{')[0]} gauge\n{text} {value}\n" for text, value in series.items())


def _envoy(held: int) -> Page:
    cluster = '{envoy_cluster_name="httproute/ai/llama/rule/0"}'
    refused = "envoy_cluster_upstream_cx_none_healthy"
    names = [f"envoy_cluster_upstream_rq_{state}{cluster}" for state in ("active", "pending_active")]
    return lambda seconds: (
        _gauges(dict.fromkeys(names, 0)) + f"# TYPE {refused} counter\n{refused}{cluster} {held * seconds}\n"
    )


def _activator(held: int) -> Page:
    labels = '{k8s_namespace_name="ai",kn_revision_name="llama-00001"}'
    return lambda _: _gauges({f"kn_revision_request_concurrency{labels}": held})


def _scheduler(held: int) -> Page:
    return lambda _: _gauges({'llm_d_epp_flow_control_queue_size{inference_pool="llama-inference-pool"}': held})


DEMANDS: Mapping[str, Callable[[int], Page]] = {
    "scale-to-zero-http-add-on": _interceptor,
    "scale-to-zero-endpoint-picker": _picker,
    "scale-to-zero-vllm-router": _router,
    "scale-to-zero-dynamo": _dynamo,
    "scale-to-zero-litellm": _counted(
        "litellm_proxy_total_requests_metric_total", 'requested_model="llama"', 'requested_model="another"'
    ),
    "scale-to-zero-envoy": _envoy,
    "scale-to-zero-istio": _counted(
        "istio_requests_total",
        'destination_service_name="llama",destination_service_namespace="ai"',
        'destination_service_name="another",destination_service_namespace="ai"',
    ),
    "scale-to-zero-nginx": _counted(
        "nginx_ingress_controller_requests", 'namespace="ai",ingress="llama"', 'namespace="ai",ingress="another"'
    ),
    "scale-to-zero-traefik": _counted(
        "traefik_service_requests_total", 'service="ai-llama-80@kubernetes"', 'service="ai-other-80@kubernetes"'
    ),
    "scale-to-zero-knative": _activator,
    "scale-to-zero-kserve": _scheduler,
}
"""What holds requests, by the example's file."""


def engine_of(example: Example) -> Page:
    """Return the page of the engine that an example is about."""
    return ENGINES.get(example.name, _vllm)


class Site:
    """A server on a port of loopback's that is its own; ``pages`` are by path."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        began = time.monotonic()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                page = pages.get(self.path)
                body = page(time.monotonic() - began).encode() if page else b""
                self.send_response(200 if page else 404)
                self.send_header("Content-Type", "application/json" if body.startswith(b"{") else "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
