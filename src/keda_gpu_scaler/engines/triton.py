# SPDX-License-Identifier: Apache-2.0
"""NVIDIA Triton Inference Server, with and without the TensorRT-LLM backend.

Law: all models are added up. To read one of several models, select its series with ``engineMetric``.

Facts are from Triton's documentation ("Metrics"): the time in the queue is in microseconds, over the requests that
ended successfully, cached ones included. The other facts are from the TensorRT-LLM backend's documentation ("Triton
Metrics"). The backend's own queue counts where it exists, because Triton passes requests on to it at once.
"""

from keda_gpu_scaler.core.trigger.engines import Engine
from keda_gpu_scaler.engines.metric_map import MetricMap, share, source

MICROSECOND = 1e-6

ENGINE = Engine(
    "triton",
    "NVIDIA Triton, with or without TensorRT-LLM",
    8002,
    detection_order=40,
    reports_kv_cache=False,
)

METRIC_MAP = MetricMap(
    identifying_series=("nv_inference_request_success", "nv_inference_count", "nv_trt_llm_request_metrics"),
    waiting=(
        source('nv_trt_llm_request_metrics{request_type="waiting"}'),
        source("nv_inference_pending_request_count"),
    ),
    running=(source('nv_trt_llm_request_metrics{request_type="scheduled"}'),),
    running_limit=(source('nv_trt_llm_request_metrics{request_type="max"}'),),
    kv_cache_ratio=(share('nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}'),),
    requests_total=(source("nv_inference_request_success"),),
    queue_wait_seconds_total=(source("nv_inference_queue_duration_us", MICROSECOND),),
    queue_waits_total=(source("nv_inference_request_success"),),
)
