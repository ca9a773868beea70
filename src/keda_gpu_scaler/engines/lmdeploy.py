# SPDX-License-Identifier: Apache-2.0
"""LMDeploy.

Law: what it does not export is unknown.

Facts are from LMDeploy's documentation ("Production Metrics"), whose names follow the older ones of vLLM, and its
source (lmdeploy/metrics/loggers.py and stats.py).

A request waits first for a free handle of the API server, and then for the engine. ``request_success_total`` counts
every end of a request; the reason FINISH, with or without all its tokens, is the only success.

``load`` is computed from the time between tokens. ``time_per_output_token_seconds`` observes, when an output of a
request comes, the time since the output before, divided by the output's tokens. ``iter_token_latency``, which is newer,
does not divide it. Prompt tokens are counted with the first token. The limit of running requests is not exported.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, histogram, share, source

ENGINE = Engine(
    "lmdeploy",
    "LMDeploy",
    23333,
    detection_order=70,
    preallocating_containers=ContainerNames("LMDeploy", image_words=("lmdeploy",), commands=("lmdeploy",)),
    load_rung=LoadRung.TOKEN_TIME,
    model_labels=("model_name",),
)

GUIDE = EngineGuide(
    switch_on="Nothing, unless `--disable-metrics` is set. Older versions need `--enable-metrics`.",
    traps=(
        "A request waits first for a free handle of the API server and then for the engine. Both are added up.",
        "Only the reason FINISH is a success.",
        "The limit of running requests is not exported: set `maxSeqs`.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("lmdeploy:num_requests_running", "lmdeploy:num_requests_waiting"),
    waiting=(source("lmdeploy:num_requests_waiting", plus=(source("lmdeploy:num_api_requests_waiting"),)),),
    running=(source("lmdeploy:num_requests_running"),),
    kv_cache_ratio=(share("lmdeploy:gpu_cache_usage_perc"),),
    requests_total=(
        source('lmdeploy:request_success_total{finished_reason="ResponseType.FINISH"}'),
        source('lmdeploy:request_success_total{finished_reason="FINISH"}'),
        source('lmdeploy:request_success_total{finished_reason=""}'),
    ),
    tokens_total=(source("lmdeploy:generation_tokens_total"),),
    queue_wait_seconds_total=(source("lmdeploy:request_queue_time_seconds_sum"),),
    queue_waits_total=(source("lmdeploy:request_queue_time_seconds_count"),),
    first_token="lmdeploy:time_to_first_token_seconds",  # noqa: S106 - a metric
    prompt_tokens_total=(source("lmdeploy:prompt_tokens_total"),),
    token_time=(histogram("lmdeploy:time_per_output_token_seconds"),),
)
