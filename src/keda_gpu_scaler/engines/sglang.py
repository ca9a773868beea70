# SPDX-License-Identifier: Apache-2.0
"""SGLang, which exports series after it was started with ``--enable-metrics``.

Law: each request counts once. Data-parallel ranks have requests of their own, which are added up. Ranks that share a
request (tensor-parallel and pipeline-parallel ranks) may each export it; these are copies.

Facts are from SGLang's documentation ("Production Metrics") and its source (srt/observability/metrics_collector.py and
scheduler_components/, earlier srt/metrics/collector.py). ``token_usage`` is a ratio of the KV cache's tokens. With
priorities, the label ``priority`` is empty on the total and names the priority on its parts. With
``--enable-metrics-for-all-schedulers``, and in a pipeline, more than one rank exports the same requests.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine
from keda_gpu_scaler.engines.metric_map import MetricMap, share, source

_RANKS_THAT_SHARE = frozenset({"tp_rank", "pp_rank", "moe_ep_rank"})

ENGINE = Engine(
    "sglang",
    "SGLang",
    30000,
    detection_order=20,
    remark="start it with `--enable-metrics`",
    preallocating_containers=ContainerNames("SGLang", image_words=("sglang",), commands=("sglang",)),
)

METRIC_MAP = MetricMap(
    identifying_series=("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    waiting=(source('sglang:num_queue_reqs{priority=""}', copied_by=_RANKS_THAT_SHARE),),
    running=(source('sglang:num_running_reqs{priority=""}', copied_by=_RANKS_THAT_SHARE),),
    kv_cache_ratio=(share("sglang:token_usage"),),
    requests_total=(source("sglang:num_requests_total"),),
    tokens_total=(source("sglang:generation_tokens_total"),),
    queue_wait_seconds_total=(source("sglang:queue_time_seconds_sum", copied_by=_RANKS_THAT_SHARE),),
    queue_waits_total=(source("sglang:queue_time_seconds_count", copied_by=_RANKS_THAT_SHARE),),
    first_token="sglang:time_to_first_token_seconds",  # noqa: S106 - a metric
)
