# SPDX-License-Identifier: Apache-2.0
"""LightLLM.

Law: what it does not export is unknown.

Facts are from LightLLM's source (ModelTC/lightllm: lightllm/server/metrics/metrics.py, server/router/manager.py and
server/httpserver/manager.py, 2026): gauges that the router sets in each step while it has requests, and clears after
some hundred idle steps. A name with ``_bucket`` at its end is the name of a histogram. Requests of the health check are
not observed. Newer versions have the label ``model_name``.

``load`` is computed from the mean time per token of each request, which is observed when the request ends. The limit of
running requests is not exported.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, histogram, share, source

ENGINE = Engine(
    "lightllm",
    "LightLLM",
    8000,
    detection_order=88,
    remark="older versions export no KV cache usage",
    reports_kv_cache=False,
    preallocating_containers=ContainerNames("LightLLM", image_words=("lightllm",), commands=("lightllm",)),
    load_rung=LoadRung.REQUEST_TOKEN_TIME,
    model_labels=("model_name",),
)

GUIDE = EngineGuide(
    switch_on="Nothing. The metrics are at the port of the API.",
    traps=(
        "Older versions export no KV cache.",
        "The gauges are cleared some seconds after the last request.",
        "Older versions name no model in their series: `engineModel` then selects nothing.",
        "The master of a disaggregated deployment has the series of its nodes at `/pd/metrics`. They are not read: the "
        "nodes are scraped.",
        "A series whose name ends with `duration_bucket` is a histogram of that name, which adds `_bucket` once more.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("lightllm_queue_size", "lightllm_batch_current_size", "lightllm_num_running_reqs"),
    waiting=(source("lightllm_queue_size"),),
    running=(source("lightllm_num_running_reqs"), source("lightllm_batch_current_size")),
    kv_cache_ratio=(share("lightllm_kv_cache_utilization_ratio"),),
    requests_total=(source("lightllm_request_success_total"),),
    tokens_total=(source("lightllm_request_generated_tokens_sum"),),
    queue_wait_seconds_total=(source("lightllm_request_queue_duration_bucket_sum"),),
    queue_waits_total=(source("lightllm_request_queue_duration_bucket_count"),),
    first_token="lightllm_request_first_token_duration",  # noqa: S106 - a metric
    prompt_tokens_total=(source("lightllm_request_input_length_sum"),),
    token_time=(histogram("lightllm_request_mean_time_per_token_duration"),),
)
