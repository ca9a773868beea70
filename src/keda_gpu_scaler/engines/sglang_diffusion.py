# SPDX-License-Identifier: Apache-2.0
"""SGLang's server of diffusion models, for images and videos.

Law: requests are counted as clients sent them. It has no KV cache and no tokens.

Facts are from SGLang's source (multimodal_gen/runtime, ``DiffusionMetricsCollector``): gauges of the scheduler's queue
and of dispatched requests, with the labels ``role`` and ``replica`` in newer versions. ``status`` is success or
error, and ``is_warmup`` marks requests of the server itself. The gauges contain these too. In disaggregated
serving, the head counts the requests, with the role ``server``, and workers report their stages alone (SGLang's
documentation of diffusion, "Production Metrics").
"""

from keda_gpu_scaler.core.trigger.engines import Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, source

ENGINE = Engine(
    "sglang-diffusion",
    "SGLang, diffusion models",
    30000,
    detection_order=84,
    remark="has no KV cache; start it with `--enable-metrics`",
    reports_kv_cache=False,
    load_rung=LoadRung.RUNNING,
)

GUIDE = EngineGuide(
    switch_on="Start the server with `--enable-metrics`.",
    traps=(
        "It has neither a KV cache nor tokens. GPU utilisation is a good second signal for images and videos.",
        "`request_rate` and `queue_wait_ms` do not count warm-up requests of the server. They wait and run like other "
        "requests. `request_rate` does not count failed ones.",
        'In disaggregated serving the head has the requests (`role="server"`). The pages of the roles have times of '
        "their stages alone, so their pods have no value.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("sglang:diffusion_num_queue_reqs", "sglang:diffusion_num_running_reqs"),
    waiting=(source("sglang:diffusion_num_queue_reqs"),),
    running=(source("sglang:diffusion_num_running_reqs"),),
    requests_total=(source('sglang:diffusion_requests_total{is_warmup!="true",status!="error"}'),),
    queue_wait_seconds_total=(source('sglang:diffusion_queue_time_seconds_sum{is_warmup!="true"}'),),
    queue_waits_total=(source('sglang:diffusion_queue_time_seconds_count{is_warmup!="true"}'),),
)
