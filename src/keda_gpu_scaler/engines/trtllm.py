# SPDX-License-Identifier: Apache-2.0
"""What does TensorRT-LLM's own server, trtllm-serve, export?

The law of this module: as everywhere, what is not exported is unknown.

Facts are from TensorRT-LLM's source (tensorrt_llm/metrics/collector.py; for how many requests may be active at once,
running ones among them, _torch/pyexecutor/py_executor.py).
"""

from keda_gpu_scaler.engines.metric_map import MetricMap, share, source

TRTLLM_SERVE = MetricMap(
    "trtllm-serve",
    signs=("trtllm_num_requests_running", "trtllm_num_requests_waiting", "trtllm_kv_cache_utilization"),
    waiting=(source("trtllm_num_requests_waiting"),),
    running=(source("trtllm_num_requests_running"),),
    running_limit=(source("trtllm_max_num_active_requests"),),
    kv_cache_ratio=(share("trtllm_kv_cache_utilization"),),
    requests_total=(source("trtllm_request_success_total"),),
    tokens_total=(source("trtllm_generation_tokens_total"),),
    queue_wait_seconds_total=(source("trtllm_request_queue_time_seconds_sum"),),
    queue_waits_total=(source("trtllm_request_queue_time_seconds_count"),),
    first_token="trtllm_time_to_first_token_seconds",  # noqa: S106 - a metric
)
