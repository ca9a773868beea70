# SPDX-License-Identifier: Apache-2.0
"""What does NVIDIA Triton export, with and without TensorRT-LLM behind it?

The law of this module: all models are added up; one of several is a series of its own for ``engineMetric``.

Facts are from Triton's documentation ("Metrics"): the time in the queue is in microseconds, over the requests that
ended well, cached ones among them; and from the TensorRT-LLM backend's ("Triton Metrics"), whose own queue counts where
there is one, as it hands requests on from Triton's at once.
"""

from keda_gpu_scaler.engines.metric_map import MetricMap, share, source

MICROSECOND = 1e-6

TRITON = MetricMap(
    "triton",
    signs=("nv_inference_request_success", "nv_inference_count", "nv_trt_llm_request_metrics"),
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
