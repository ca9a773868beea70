# SPDX-License-Identifier: Apache-2.0
"""NVIDIA NIM for large language models.

Law: its series names have no prefix. It is tried after the engines that may run inside it, so a page with the names of
such an engine counts as that engine's page.

Facts are from NVIDIA's documentation of NIM ("Observability" of 1.x; "Logging and Observability" and "Architecture" of
2.1; "Observability" of NIM for vision language models 1.x). NIM 1.x exports how many requests may run at once, and
success are the requests that end with stop or length. NIM 2.x passes the page of vLLM through at ``/v1/metrics`` and
answers other paths with 404. NIM for vision language models 1.x has its page at ``/metrics``.

``load`` is computed from the mean time per token of each request. The documentation says that the time per output token
is exported per request; it does not say when the time is observed, so the time between tokens is not assumed.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, histogram, share, source

ENGINE = Engine(
    "nim",
    "NVIDIA NIM",
    8000,
    detection_order=60,
    path="/v1/metrics",
    other_paths=("/metrics",),
    behind=("vllm", "sglang", "trtllm-serve"),
    preallocating_containers=ContainerNames("NIM", image_parts=("nvcr.io/nim/",)),
    load_rung=LoadRung.REQUEST_TOKEN_TIME,
    model_labels=("model_name",),
)

GUIDE = EngineGuide(
    switch_on="Nothing. The metrics are at the port of the API.",
    traps=(
        "The series have no prefix, so a NIM is recognised after the engines that may run inside it. A page with "
        "the series of vLLM, SGLang or TensorRT-LLM is read as a page of that engine; `engine: nim` accepts it.",
        "The path is `/v1/metrics`, or `/metrics` in older images for vision language models. Both are tried.",
        "NIM 2.x passes the page of vLLM through, at `/v1/metrics` alone. Use `engine: nim` or `auto`: with "
        "`engine: vllm` also set `enginePath` to `/v1/metrics`.",
        "NIM 2.x does not export how many requests may run at once: set `maxSeqs`.",
        "The documentation does not say when the time per token is observed, so it counts as a mean of each request.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("num_requests_running", "num_requests_waiting"),
    waiting=(source("num_requests_waiting"),),
    running=(source("num_requests_running"),),
    running_limit=(source("num_request_max"),),
    kv_cache_ratio=(share("gpu_cache_usage_perc"),),
    requests_total=(source('request_success_total{finished_reason!="abort",finished_reason!="error"}'),),
    tokens_total=(source("generation_tokens_total"),),
    first_token="time_to_first_token_seconds",  # noqa: S106 - a metric
    prompt_tokens_total=(source("prompt_tokens_total"),),
    token_time=(histogram("time_per_output_token_seconds"),),
)
