# SPDX-License-Identifier: Apache-2.0
"""LMDeploy.

Law: what it does not export is unknown.

Facts are from LMDeploy's documentation ("Production Metrics"), whose names follow the older ones of vLLM.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine
from keda_gpu_scaler.engines.metric_map import MetricMap, share, source

ENGINE = Engine(
    "lmdeploy",
    "LMDeploy",
    23333,
    detection_order=70,
    preallocating_containers=ContainerNames("LMDeploy", image_words=("lmdeploy",), commands=("lmdeploy",)),
)

METRIC_MAP = MetricMap(
    identifying_series=("lmdeploy:num_requests_running", "lmdeploy:num_requests_waiting"),
    waiting=(source("lmdeploy:num_requests_waiting"),),
    running=(source("lmdeploy:num_requests_running"),),
    kv_cache_ratio=(share("lmdeploy:gpu_cache_usage_perc"),),
    requests_total=(source("lmdeploy:request_success_total"),),
    tokens_total=(source("lmdeploy:generation_tokens_total"),),
    queue_wait_seconds_total=(source("lmdeploy:request_queue_time_seconds_sum"),),
    queue_waits_total=(source("lmdeploy:request_queue_time_seconds_count"),),
    first_token="lmdeploy:time_to_first_token_seconds",  # noqa: S106 - a metric
)
