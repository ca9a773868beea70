# SPDX-License-Identifier: Apache-2.0
"""TensorRT-LLM's own server, ``trtllm-serve``.

Law: what it does not export is unknown.

Facts are from TensorRT-LLM's source (tensorrt_llm/metrics/collector.py). The limit of active requests, running ones
included, is from _torch/pyexecutor/py_executor.py.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine
from keda_gpu_scaler.engines.metric_map import MetricMap, share, source

ENGINE = Engine(
    "trtllm-serve",
    "TensorRT-LLM's own server",
    8000,
    detection_order=50,
    path="/prometheus/metrics",
    # A Triton image with this backend has the word trtllm in its tag: tritonserver:25.08-trtllm-python-py3.
    preallocating_containers=ContainerNames(
        "TensorRT-LLM",
        image_words=("trtllm",),
        image_parts=("tensorrt-llm", "tensorrtllm"),
        commands=("trtllm-serve",),
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("trtllm_num_requests_running", "trtllm_num_requests_waiting", "trtllm_kv_cache_utilization"),
    waiting=(source("trtllm_num_requests_waiting"),),
    running=(source("trtllm_num_requests_running"),),
    running_limit=(source("trtllm_max_num_active_requests"),),
    kv_cache_ratio=(share("trtllm_kv_cache_utilization"),),
    requests_total=(source("trtllm_request_success_total"),),
    tokens_total=(source("trtllm_generation_tokens_total"),),
    queue_wait_seconds_total=(source("trtllm_request_queue_time_seconds_sum"),),
    queue_waits_total=(source("trtllm_request_queue_time_seconds_count"),),
    first_token="trtllm_time_to_first_token_seconds",  # noqa: S106 - a metric
)
