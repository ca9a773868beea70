# SPDX-License-Identifier: Apache-2.0
"""SGLang, which exports series after it was started with ``--enable-metrics``.

Law: each request counts once. Data-parallel ranks have requests of their own, which are added up. Ranks that share a
request (tensor-parallel and pipeline-parallel ranks) may each export it; these are copies.

A pool that only prefills or only decodes has queues of its own. Requests that wait for their admission (bootstrap,
preallocation of the KV cache) wait for capacity; requests whose KV cache is on its way to the other pool (inflight,
transfer) do not. Older versions name the bootstrap queue ``num_prefill_prealloc_queue_reqs``. Before the first request
the gauges are declared without series.

Facts are from SGLang's documentation ("Production Metrics") and its source (srt/observability/metrics_collector.py and
scheduler_components/, earlier srt/metrics/collector.py). ``token_usage`` is a ratio of the KV cache's tokens. With
priorities, the label ``priority`` is empty on the total and names the priority on its parts. With
``--enable-metrics-for-all-schedulers``, and in a pipeline, more than one rank exports the same requests.

``load`` is computed from the time between tokens. ``inter_token_latency_seconds`` observes it when an output comes: for
each of the output's tokens, the time since the output before divided by their number. The process that tokenizes
exports it, so that no rank copies it. The older ``time_per_output_token_seconds`` is not read: it observed the mean
since the first token again with each output, and for some requests the wait in the queue too. Tokens are counted when
the request ends. The limit of running requests is not exported: ``max_running_requests_under_SLO`` is another number,
and nothing sets it.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine, LoadRung
from keda_gpu_scaler.engines.dynamo_queue import dynamo_queue
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, SeriesSource, histogram, share, source

_RANKS_THAT_SHARE = frozenset({"tp_rank", "pp_rank", "moe_ep_rank"})

ENGINE = Engine(
    "sglang",
    "SGLang",
    30000,
    detection_order=20,
    remark="start it with `--enable-metrics`",
    no_queue_hint="SGLang exports its queue from its first request on",
    preallocating_containers=ContainerNames("SGLang", image_words=("sglang",), commands=("sglang",)),
    load_rung=LoadRung.TOKEN_TIME,
    counts_tokens_at_end=True,
    model_labels=("model_name",),
)

GUIDE = EngineGuide(
    switch_on="Start the server with `--enable-metrics`.",
    traps=(
        "The gauges have no series before the first request. Until then the pod has no value, and the reason "
        "names this.",
        "A pool that only prefills or only decodes has queues of its own. Requests that wait for their admission "
        "count; requests whose KV cache is being transferred do not. Older versions name the bootstrap queue "
        "`num_prefill_prealloc_queue_reqs`, which is read where the newer name is not exported.",
        "Tensor-parallel and pipeline-parallel ranks may each export the same requests. The copies are counted "
        "once. Data-parallel ranks are added up.",
        "The older `time_per_output_token_seconds` is not read: it contained the wait in the queue of some requests.",
        "With data-parallel attention, versions before the label `dp_rank` export only the rank that reported last, so "
        "the queue is too small.",
        "The gateway of SGLang repeats the series of its workers under names that begin with `sglang_`. They are not "
        "read: the workers are scraped.",
        "Inside a worker of Dynamo with `--engine-request-limit`, requests above the limit wait in the worker. They "
        "are added. Their series names no model, so they are left out with `engineModel`.",
        "The limit of running requests is not exported: set `maxSeqs`.",
    ),
)


def _queue(name: str, unless: str = "") -> SeriesSource:
    return source(f'sglang:{name}{{priority=""}}', copied_by=_RANKS_THAT_SHARE, unless=unless)


_BOOTSTRAP = "num_prefill_bootstrap_queue_reqs"


METRIC_MAP = MetricMap(
    identifying_series=("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    families=("sglang:cache_hit_rate", "sglang:num_requests_total"),
    waiting=(
        source(
            'sglang:num_queue_reqs{priority=""}',
            copied_by=_RANKS_THAT_SHARE,
            plus=(
                _queue(_BOOTSTRAP),
                _queue("num_prefill_prealloc_queue_reqs", unless=f"sglang:{_BOOTSTRAP}"),
                _queue("num_decode_prealloc_queue_reqs"),
                *dynamo_queue(beside="sglang:num_queue_reqs"),
            ),
        ),
    ),
    deferred=(
        source(
            'sglang:num_prefill_inflight_queue_reqs{priority=""}',
            copied_by=_RANKS_THAT_SHARE,
            plus=(_queue("num_decode_transfer_queue_reqs"),),
        ),
    ),
    running=(source('sglang:num_running_reqs{priority=""}', copied_by=_RANKS_THAT_SHARE),),
    kv_cache_ratio=(share("sglang:token_usage"),),
    requests_total=(source("sglang:num_requests_total"),),
    tokens_total=(source("sglang:generation_tokens_total"),),
    queue_wait_seconds_total=(source("sglang:queue_time_seconds_sum", copied_by=_RANKS_THAT_SHARE),),
    queue_waits_total=(source("sglang:queue_time_seconds_count", copied_by=_RANKS_THAT_SHARE),),
    first_token="sglang:time_to_first_token_seconds",  # noqa: S106 - a metric
    prompt_tokens_total=(source("sglang:prompt_tokens_total"),),
    token_time=(histogram("sglang:inter_token_latency_seconds"),),
)
