# SPDX-License-Identifier: Apache-2.0
"""vLLM, with the older and the newer generation of its series names.

Law: ranks are added up; the data-parallel ranks of a replica differ by the label ``engine``. Of their KV caches, the
fullest counts.

Facts are from vLLM's documentation ("Production Metrics") and its source (vllm/v1/metrics/loggers.py). Before 0.12 the
cache was named ``gpu_cache_usage_perc``, which is a ratio in spite of its name. Some versions export the newer series
once for each process (label ``pid``) if there are several API servers, also for a process that ended; the older series
is then the right one. Newer versions also export the reasons of waiting. A request waits for capacity, or it is
deferred by something that a further replica does not change, such as the transfer of its KV cache in a pool that only
decodes. Requests end with the reasons stop, length and repetition, or with abort and error, which are no success
(vllm/v1/engine/__init__.py).

``load`` is computed from the time between tokens. ``inter_token_latency_seconds`` was named
``time_per_output_token_seconds`` before; both observe the time between two outputs of a request when the second one
comes. With speculative decoding an output has several tokens. Prompt tokens are counted with the first token, those
from the prefix cache included. The limit of running requests (``max_num_seqs``) is not exported: ``cache_config_info``
has the settings of the cache alone.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine, LoadRung
from keda_gpu_scaler.engines.dynamo_queue import dynamo_queue
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, histogram, share, source

_PROCESS = frozenset({"pid"})

ENGINE = Engine(
    "vllm",
    "vLLM",
    8000,
    detection_order=10,
    preallocating_containers=ContainerNames("vLLM", image_words=("vllm",), commands=("vllm",)),
    load_rung=LoadRung.TOKEN_TIME,
    model_labels=("model_name", "model"),
    observes_outputs=True,
)

GUIDE = EngineGuide(
    switch_on="Nothing. `vllm serve` exports its metrics at the port of its API, unless `--disable-log-stats` is set.",
    traps=(
        "Before 0.12 the KV cache is named `gpu_cache_usage_perc`, which is a ratio in spite of its name. Both "
        "names are read.",
        "With several processes of the API server, some versions export the KV cache once for each process, also "
        "for one that ended (label `pid`). Where the values differ, the older name counts, and without it the KV "
        "cache is unknown.",
        "Newer versions export why requests wait. Requests that wait for capacity count. Deferred ones, such as "
        "those of a pool that only decodes and that wait for their KV cache, do not: another replica does not "
        "help them.",
        "Aborted and failed requests are no success: `request_rate` counts only requests that ended with stop, "
        "length or repetition.",
        "Each data-parallel rank may have a port of its own. Set `enginePort: 8000-8007`, so that no rank is missed.",
        "An overloaded server may answer `/metrics` only after seconds. A late answer counts, up to "
        "`--scrape-timeout`; a pod that times out while its last page was busy is not idle.",
        "The limit of running requests is not exported. Set `maxSeqs` to the value of `--max-num-seqs`.",
        "Inside a worker of Dynamo with `--engine-request-limit`, requests above the limit wait in the worker. They "
        "are added. Their series names no model, so they are left out with `engineModel`.",
        "With speculative decoding one output has several tokens. `load` takes this into account.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=(
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:num_requests_waiting_by_reason",
    ),
    # The total, in which deferred requests count too, is read only where the reasons are not exported.
    waiting=(
        source(
            'vllm:num_requests_waiting_by_reason{reason="capacity"}',
            plus=dynamo_queue(beside="vllm:num_requests_waiting_by_reason"),
        ),
        source("vllm:num_requests_waiting", plus=dynamo_queue(beside="vllm:num_requests_waiting")),
    ),
    deferred=(source('vllm:num_requests_waiting_by_reason{reason="deferred"}'),),
    running=(source("vllm:num_requests_running"),),
    kv_cache_ratio=(
        # With a process number, the series may be that of a process that ended.
        share('vllm:kv_cache_usage_perc{pid=""}'),
        share("vllm:gpu_cache_usage_perc", stale_by=_PROCESS),
        share("vllm:kv_cache_usage_perc", stale_by=_PROCESS),
    ),
    requests_total=(source('vllm:request_success_total{finished_reason!="abort",finished_reason!="error"}'),),
    tokens_total=(source("vllm:generation_tokens_total"),),
    queue_wait_seconds_total=(source("vllm:request_queue_time_seconds_sum"),),
    queue_waits_total=(source("vllm:request_queue_time_seconds_count"),),
    first_token="vllm:time_to_first_token_seconds",  # noqa: S106 - a metric
    prompt_tokens_total=(source("vllm:prompt_tokens_total"),),
    token_time=(histogram("vllm:inter_token_latency_seconds"), histogram("vllm:time_per_output_token_seconds")),
)
