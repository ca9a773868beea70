# SPDX-License-Identifier: Apache-2.0
"""Hugging Face Text Generation Inference (TGI).

Law: TGI exports no KV cache usage, so the KV cache is unknown.

Facts are from TGI's documentation ("Metrics"). Its counters have no suffix. The number of generated tokens is the sum
of its histogram of tokens per request.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine
from keda_gpu_scaler.engines.metric_map import MetricMap, source

ENGINE = Engine(
    "tgi",
    "Hugging Face Text Generation Inference",
    3000,
    detection_order=30,
    remark="exports no KV cache usage",
    reports_kv_cache=False,
    preallocating_containers=ContainerNames(
        "TGI", image_parts=("text-generation-inference",), commands=("text-generation-launcher",)
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("tgi_queue_size", "tgi_batch_current_size"),
    waiting=(source("tgi_queue_size"),),
    running=(source("tgi_batch_current_size"),),
    requests_total=(source("tgi_request_success"),),
    tokens_total=(source("tgi_request_generated_tokens_sum"),),
    queue_wait_seconds_total=(source("tgi_request_queue_duration_sum"),),
    queue_waits_total=(source("tgi_request_queue_duration_count"),),
)
