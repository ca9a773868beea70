# SPDX-License-Identifier: Apache-2.0
"""TensorRT-LLM's own server, ``trtllm-serve``.

Law: what it does not export is unknown.

Facts are from TensorRT-LLM's source (NVIDIA/TensorRT-LLM: tensorrt_llm/metrics/collector.py, and its pull requests 5785
and 12545, which added the page and the queue). The limit of active requests, running ones included, is from
_torch/pyexecutor/py_executor.py.

``request_success_total`` counts requests by the reason of their end: stop and length, or timeout and cancelled, which
are no success (tensorrt_llm/executor/result.py).

``load`` is computed from the mean time per token of each request. It is observed when the request ends, and so are its
first token and its tokens: the time between its first and last token, divided by the number of tokens less one
(metrics/perf_utils.py). These series need ``return_perf_metrics``, and those of the queue and of running requests need
``enable_iter_perf_stats``.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine, LoadRung
from keda_gpu_scaler.engines.dynamo_queue import dynamo_queue
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, histogram, share, source

ENGINE = Engine(
    "trtllm-serve",
    "TensorRT-LLM's own server",
    8000,
    detection_order=50,
    path="/prometheus/metrics",
    remark="set `return_perf_metrics` and `enable_iter_perf_stats`",
    no_queue_hint="trtllm-serve exports its queue and its KV cache with `enable_iter_perf_stats`",
    # A Triton image with this backend has the word trtllm in its tag: tritonserver:25.08-trtllm-python-py3.
    preallocating_containers=ContainerNames(
        "TensorRT-LLM",
        image_words=("trtllm",),
        image_parts=("tensorrt-llm", "tensorrtllm"),
        commands=("trtllm-serve",),
    ),
    load_rung=LoadRung.REQUEST_TOKEN_TIME,
    model_labels=("model_name",),
)

GUIDE = EngineGuide(
    switch_on="Set `return_perf_metrics: true` and `enable_iter_perf_stats: true` in the file of extra options of the "
    "LLM API.",
    traps=(
        "Without `enable_iter_perf_stats` the page has no queue, no running requests and no KV cache. The reason "
        "names the option.",
        "Without `return_perf_metrics` the page has no times, so `load` is computed from running requests alone.",
        "The path is `/prometheus/metrics`. `/metrics` of the same server is another page, of JSON.",
        "The first versions with this page export times and ended requests alone, in series without the prefix "
        "`trtllm_`. Such a page is not recognised: use a newer version.",
        "Inside a worker of Dynamo with `--engine-request-limit`, requests above the limit wait in the worker. They "
        "are added. Their series names no model, so they are left out with `engineModel`.",
        "Cancelled requests and those that timed out are no success.",
        "Behind Triton the names are other ones: see [Triton](triton.md).",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("trtllm_num_requests_running", "trtllm_num_requests_waiting", "trtllm_kv_cache_utilization"),
    families=(
        "trtllm_request_success_total",
        "trtllm_e2e_request_latency_seconds",
        "trtllm_e2e_request_latency_seconds_count",
        "trtllm_kv_cache_hit_rate",
        "trtllm_model_config_info",
    ),
    waiting=(source("trtllm_num_requests_waiting", plus=dynamo_queue(beside="trtllm_num_requests_waiting")),),
    running=(source("trtllm_num_requests_running"),),
    running_limit=(source("trtllm_max_num_active_requests"),),
    kv_cache_ratio=(share("trtllm_kv_cache_utilization"),),
    requests_total=(source('trtllm_request_success_total{finished_reason!="cancelled",finished_reason!="timeout"}'),),
    tokens_total=(source("trtllm_generation_tokens_total"),),
    queue_wait_seconds_total=(source("trtllm_request_queue_time_seconds_sum"),),
    queue_waits_total=(source("trtllm_request_queue_time_seconds_count"),),
    first_token="trtllm_time_to_first_token_seconds",  # noqa: S106 - a metric
    prompt_tokens_total=(source("trtllm_prompt_tokens_total"),),
    token_time=(histogram("trtllm_time_per_output_token_seconds"),),
)
