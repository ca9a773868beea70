# SPDX-License-Identifier: Apache-2.0
"""What does vLLM export? Both generations of names.

The law of this module: ranks are added up, each replica's data-parallel ones by their label ``engine``; of their caches
the fullest counts.

Facts are from vLLM's documentation ("Production Metrics") and its source (vllm/v1/metrics/loggers.py): the cache was
``gpu_cache_usage_perc`` before 0.12, and says a ratio in spite of its name; newer ones tell the reasons of waiting too.
"""

from keda_gpu_scaler.engines.metric_map import MetricMap, share, source

VLLM = MetricMap(
    "vllm",
    signs=("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:num_requests_waiting_by_reason"),
    # By reason only where the total is not told.
    waiting=(source("vllm:num_requests_waiting"), source('vllm:num_requests_waiting_by_reason{reason="capacity"}')),
    running=(source("vllm:num_requests_running"),),
    kv_cache_ratio=(share("vllm:kv_cache_usage_perc"), share("vllm:gpu_cache_usage_perc")),
    requests_total=(source("vllm:request_success_total"),),
    tokens_total=(source("vllm:generation_tokens_total"),),
    queue_wait_seconds_total=(source("vllm:request_queue_time_seconds_sum"),),
    queue_waits_total=(source("vllm:request_queue_time_seconds_count"),),
    first_token="vllm:time_to_first_token_seconds",  # noqa: S106 - a metric
)
