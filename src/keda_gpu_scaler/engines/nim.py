# SPDX-License-Identifier: Apache-2.0
"""What does NVIDIA NIM for LLMs export?

The law of this module: its names have no prefix, so a page that is another engine's is never taken for its own; pages
are held against it last of all that have such names.

Facts are from NIM's documentation ("Observability"); it tells how many requests may run at once.
"""

from keda_gpu_scaler.engines.metric_map import MetricMap, share, source

NIM = MetricMap(
    "nim",
    signs=("num_requests_running", "num_requests_waiting"),
    waiting=(source("num_requests_waiting"),),
    running=(source("num_requests_running"),),
    running_limit=(source("num_request_max"),),
    kv_cache_ratio=(share("gpu_cache_usage_perc"),),
    requests_total=(source("request_success_total"),),
    tokens_total=(source("generation_tokens_total"),),
    first_token="time_to_first_token_seconds",  # noqa: S106 - a metric
)
