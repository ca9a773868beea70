# SPDX-License-Identifier: Apache-2.0
"""What does SGLang export, once it was started with ``--enable-metrics``?

The law of this module: as everywhere, what is not exported is unknown.

Facts are from SGLang's documentation ("Production Metrics") and its source (managers/scheduler_metrics_mixin.py and
srt/metrics/collector.py): ``token_usage`` is a ratio of the KV cache's tokens.
"""

from keda_gpu_scaler.engines.series import Exported, share, source

SGLANG = Exported(
    "sglang",
    signs=("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    waiting=(source("sglang:num_queue_reqs"),),
    running=(source("sglang:num_running_reqs"),),
    kv_cache_ratio=(share("sglang:token_usage"),),
    requests_total=(source("sglang:num_requests_total"),),
    tokens_total=(source("sglang:generation_tokens_total"),),
    queue_wait_seconds_total=(source("sglang:queue_time_seconds_sum"),),
    queue_waits_total=(source("sglang:queue_time_seconds_count"),),
    first_token="sglang:time_to_first_token_seconds",  # noqa: S106 - a metric
)
