# SPDX-License-Identifier: Apache-2.0
"""Ray Serve LLM, which exports vLLM's series through the metrics agent of Ray.

Law: workers are added up. They differ by the label ``WorkerId``, and Ray's agent exports every worker of its node.

Facts are from vLLM's source (vllm/v1/metrics/ray_wrappers.py): the names are those of vLLM with ``_`` instead of the
colon, and Ray puts ``ray_`` in front. Older versions kept the colon. A counter does not exist before it counts. Ray
also exports counters without the suffix ``_total``; those are not read. KubeRay exports metrics on port 8080.

Before vLLM's pull request 40840 (2026-04) all series of a name have the labels that were set last. So each ended
request is counted with one reason, which is abort or error in older versions, and of several engines of a worker only
the last one is seen. Where no request ended well, every end counts.
"""

from keda_gpu_scaler.core.trigger.engines import Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, SeriesSource, histogram, share, source

_PREFIXES = ("ray_vllm_", "ray_vllm:")
_SUCCESS = 'request_success_total{finished_reason!="abort",finished_reason!="error"}'


def _sources(name: str) -> tuple[SeriesSource, ...]:
    return tuple(source(f"{prefix}{name}") for prefix in _PREFIXES)


ENGINE = Engine(
    "ray-serve-llm",
    "Ray Serve LLM, with vLLM",
    8080,
    detection_order=82,
    remark="set `log_engine_metrics`; Ray's metrics agent exports the engines of its node",
    load_rung=LoadRung.TOKEN_TIME,
    model_labels=("model_name",),
)

GUIDE = EngineGuide(
    switch_on="Before Ray 2.51, set `log_engine_metrics: true` in the `LLMConfig`.",
    traps=(
        "Ray's metrics agent exports every engine of its node or pod. Workers are added up.",
        "The names are those of vLLM after `ray_vllm_`; older versions kept the colon. Both are read.",
        "A counter has no series before it counts.",
        "Before vLLM's fix of April 2026, each ended request is counted with one and the same reason. Where no reason "
        "is a success, `request_rate` counts every end. Of several data-parallel engines of a worker only one is seen.",
        "The scale target is a group of Ray workers. Ray Serve has its own autoscaler: let only one of the two decide.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=tuple(
        f"{prefix}{name}" for prefix in _PREFIXES for name in ("num_requests_running", "num_requests_waiting")
    ),
    waiting=(*_sources('num_requests_waiting_by_reason{reason="capacity"}'), *_sources("num_requests_waiting")),
    deferred=_sources('num_requests_waiting_by_reason{reason="deferred"}'),
    running=_sources("num_requests_running"),
    kv_cache_ratio=tuple(
        share(f"{prefix}{name}") for name in ("kv_cache_usage_perc", "gpu_cache_usage_perc") for prefix in _PREFIXES
    ),
    requests_total=(*_sources(_SUCCESS), *_sources("request_success_total")),
    tokens_total=_sources("generation_tokens_total"),
    queue_wait_seconds_total=_sources("request_queue_time_seconds_sum"),
    queue_waits_total=_sources("request_queue_time_seconds_count"),
    first_token="ray_vllm_time_to_first_token_seconds",  # noqa: S106 - a metric
    prompt_tokens_total=_sources("prompt_tokens_total"),
    token_time=tuple(
        histogram(f"{prefix}{name}")
        for name in ("inter_token_latency_seconds", "time_per_output_token_seconds")
        for prefix in _PREFIXES
    ),
)
