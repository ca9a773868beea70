# SPDX-License-Identifier: Apache-2.0
"""NVIDIA Triton Inference Server, with and without the TensorRT-LLM backend.

Law: all models are added up, unless ``engineModel`` selects some of them.

Facts are from Triton's documentation (triton-inference-server/server: docs/user_guide/metrics.md): the time in the
queue is in microseconds, over the requests that ended successfully, cached ones included. With ``--metrics-config`` the
counters of times can be replaced by summaries, whose sums have the same unit. The other facts are from the TensorRT-LLM
backend's documentation ("Triton Metrics") and its source (inflight_batcher_llm/src/model_instance_state.cc and
custom_metrics_reporter). The backend's own queue counts where it exists, because Triton passes requests on to it at
once. The same is true of the vLLM backend (src/utils/metrics.py), which exports series of vLLM. With its gauges, the
page is read as a page of vLLM. Without them its queue is unknown, because Triton's own count of pending requests does
not contain it.

With TensorRT-LLM, ``load`` is computed from running requests and generated tokens, which are counted when a request
ends. The time between tokens is not exported. Without TensorRT-LLM, ``load`` is computed from the time of computation.
It is added up for each request when the request ends, so the requests of a batch each count the whole time of the
batch. Requests are counted by ``nv_inference_request_success``, because ``nv_inference_count`` counts a request of
eight inputs as eight. Requests that the response cache answers are counted too, without a time, so with that cache the
mean is too low. An ensemble counts each request once more and has the times of its steps once more; it has no queue of
its own (ensemble_scheduler.cc). No series and no label says which model is an ensemble. With TensorRT-LLM the time
begins when the backend takes the request, so that it contains the wait in the backend's queue. Executions, each of one
batch, are counted by ``nv_inference_exec_count``.
"""

from keda_gpu_scaler.core.trigger.engines import Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, share, source

MICROSECOND = 1e-6

ENGINE = Engine(
    "triton",
    "NVIDIA Triton, with or without TensorRT-LLM",
    8002,
    detection_order=40,
    behind=("vllm",),
    remark="without TensorRT-LLM, `load` is computed from the time of computation",
    reports_kv_cache=False,
    load_rung=LoadRung.TOKEN_RATE,
    counts_tokens_at_end=True,
    model_labels=("model",),
    has_ensembles=True,
)

GUIDE = EngineGuide(
    switch_on="Nothing: metrics are on by default, at a port of their own. `--allow-metrics=false` switches them off. "
    "For the vLLM backend, set `REPORT_CUSTOM_METRICS` in the model's configuration.",
    traps=(
        "All models are added up. An ensemble counts what its steps count, and no series says which model is an "
        "ensemble: select one of them with `engineModel`. [Triton](../triton.md) has an example.",
        "With TensorRT-LLM, the models before and after it are usually steps of an ensemble too. The queue, the "
        "KV cache and the tokens are those of TensorRT-LLM alone, so `load` is not counted twice. Select its "
        "model with `engineModel` for `request_rate`.",
        "With the vLLM backend, the series of vLLM are read. If its gauges are not exported, the queue is "
        "unknown, because Triton passes requests on to vLLM at once.",
        "Older versions do not export `nv_inference_pending_request_count`. Without traffic `queue_wait_ms` is "
        "then unknown.",
        "`--metrics-config counter_latencies=false` switches the counters of times off. With `summary_latencies=true` "
        "the sums of the summaries are read; without both, `queue_wait_ms` and the time of computation have no value.",
        "Without TensorRT-LLM a request is counted when it ends, and running ones are not exported: set "
        "`windowSeconds` above the longest time of computation, or the server seems idle meanwhile.",
        "Requests that the response cache answers are counted without a time of computation, so the mean time is "
        "too low.",
        "The requests of a batch each count the whole time of the batch.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("nv_inference_request_success", "nv_inference_count", "nv_trt_llm_request_metrics"),
    waiting=(
        source('nv_trt_llm_request_metrics{request_type="waiting"}'),
        source("nv_inference_pending_request_count", unless="vllm:generation_tokens_total"),
    ),
    running=(source('nv_trt_llm_request_metrics{request_type="scheduled"}'),),
    running_limit=(source('nv_trt_llm_request_metrics{request_type="max"}'),),
    kv_cache_ratio=(share('nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}'),),
    requests_total=(source("nv_inference_request_success"),),
    tokens_total=(source("nv_llm_output_token_len_sum"), source("vllm:generation_tokens_total")),
    first_token="vllm:time_to_first_token_seconds",  # noqa: S106 - a metric
    queue_wait_seconds_total=(
        source("nv_inference_queue_duration_us", MICROSECOND),
        source("nv_inference_queue_summary_us_sum", MICROSECOND),
    ),
    queue_waits_total=(source("nv_inference_request_success"),),
    prompt_tokens_total=(source("nv_llm_input_token_len_sum"), source("vllm:prompt_tokens_total")),
    service_seconds_total=(
        source("nv_inference_compute_infer_duration_us", MICROSECOND),
        source("nv_inference_compute_infer_summary_us_sum", MICROSECOND),
    ),
    services_total=(source("nv_inference_request_success"),),
    executions_total=(source("nv_inference_exec_count"),),
)
