# SPDX-License-Identifier: Apache-2.0
"""A worker of NVIDIA Dynamo whose page has no series of the engine inside it.

Law: what the worker does not export is unknown. A page with the series of the engine counts as that engine's page.

Facts are from Dynamo's documentation and source (ai-dynamo/dynamo: docs/observability/metrics.md and metrics_examples,
lib/runtime/src/metrics/prometheus_names.rs; 1.2): a worker exports ``dynamo_component_*`` on ``DYN_SYSTEM_PORT``, which
the operator sets to 9090 and the documentation to 8081, and passes the series of vLLM, SGLang or TensorRT-LLM through.
Requests of the endpoint ``generate`` are inference requests; others are requests for its state.
``gpu_cache_usage_percent`` is a ratio in spite of its name, and older versions name it
``kvstats_gpu_cache_usage_percent``. The queue inside the engine is not exported; the queue before it is read by
``dynamo_queue.py``. Without ``enable_iter_perf_stats`` a worker of
TensorRT-LLM passes times and ended requests through, and neither a queue nor running requests. Its page is read as a
page of Dynamo, with these times.
"""

from keda_gpu_scaler.core.trigger.engines import Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, histogram, share, source

ENGINE = Engine(
    "dynamo",
    "NVIDIA Dynamo, a worker",
    9090,
    detection_order=87,
    other_ports=(8081,),
    remark="set `DYN_SYSTEM_PORT`; a page with the series of the engine inside is read as that engine's",
    behind=("vllm", "sglang", "trtllm-serve"),
    reports_queue=False,
    load_rung=LoadRung.REQUEST_TOKEN_TIME,
)

GUIDE = EngineGuide(
    switch_on="Set `DYN_SYSTEM_PORT` in the workers (the operator sets 9090). Without it there are no metrics.",
    traps=(
        "A worker usually passes the series of its engine through. Such a page is read as a page of vLLM, SGLang "
        "or TensorRT-LLM.",
        "With `--engine-request-limit` requests above the limit wait in the worker, before the engine. This queue "
        "(`dynamo_backend_admission_request_queue_count`, before 1.6 `dynamo_request_queue`) is added to the queue of "
        "the engine, and without that one the queue is unknown. The frontend counts the requests that have no first "
        "token yet: set `demand` to `dynamo`.",
        "`gpu_cache_usage_percent` is a ratio in spite of its name. Older versions name it "
        "`kvstats_gpu_cache_usage_percent`; both are read.",
        "Only requests of the endpoint `generate` count.",
        "A worker of TensorRT-LLM passes its queue through only with `enable_iter_perf_stats`. Without it, the page is "
        "read as a page of Dynamo: running requests, the KV cache, and the times per token.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("dynamo_component_inflight_requests",),
    running=(source('dynamo_component_inflight_requests{dynamo_endpoint="generate"}'),),
    kv_cache_ratio=(
        share("dynamo_component_gpu_cache_usage_percent"),
        share("dynamo_component_kvstats_gpu_cache_usage_percent"),
    ),
    requests_total=(source('dynamo_component_requests_total{dynamo_endpoint="generate"}'),),
    tokens_total=(source("trtllm_generation_tokens_total"),),
    queue_wait_seconds_total=(source("trtllm_request_queue_time_seconds_sum"),),
    queue_waits_total=(source("trtllm_request_queue_time_seconds_count"),),
    first_token="trtllm_time_to_first_token_seconds",  # noqa: S106 - a metric
    prompt_tokens_total=(source("trtllm_prompt_tokens_total"),),
    token_time=(histogram("trtllm_time_per_output_token_seconds"),),
)
