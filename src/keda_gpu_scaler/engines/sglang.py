# SPDX-License-Identifier: Apache-2.0
"""What does SGLang export, once it was started with ``--enable-metrics``?

The law of this module: each request counts once. Data-parallel ranks have requests of their own and are added up; ranks
that share a request (tensor and pipeline parallel ones) may each tell of it, and are copies.

Facts are from SGLang's documentation ("Production Metrics") and its source (srt/observability/metrics_collector.py and
scheduler_components/, before that srt/metrics/collector.py): ``token_usage`` is a ratio of the KV cache's tokens; with
priorities the label ``priority`` is empty on the total, and says which on its parts; with
``--enable-metrics-for-all-schedulers``, and in a pipeline, more than one rank tells of the same requests.
"""

from keda_gpu_scaler.engines.metric_map import MetricMap, share, source

_SHARING = frozenset({"tp_rank", "pp_rank", "moe_ep_rank"})

SGLANG = MetricMap(
    "sglang",
    signs=("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    waiting=(source('sglang:num_queue_reqs{priority=""}', copied_by=_SHARING),),
    running=(source('sglang:num_running_reqs{priority=""}', copied_by=_SHARING),),
    kv_cache_ratio=(share("sglang:token_usage"),),
    requests_total=(source("sglang:num_requests_total"),),
    tokens_total=(source("sglang:generation_tokens_total"),),
    queue_wait_seconds_total=(source("sglang:queue_time_seconds_sum", copied_by=_SHARING),),
    queue_waits_total=(source("sglang:queue_time_seconds_count", copied_by=_SHARING),),
    first_token="sglang:time_to_first_token_seconds",  # noqa: S106 - a metric
)
