# SPDX-License-Identifier: Apache-2.0
"""Hugging Face Text Generation Inference (TGI).

Law: a version that exports no budget of tokens has no known KV cache.

Facts are from TGI's documentation ("Metrics") and its source (huggingface/text-generation-inference:
router/src/server.rs, backends/v3/src/queue.rs, backend.rs and lib.rs, Dockerfile; 3.x). Its counters have no suffix.
The launcher listens on port 3000, and the image sets 80. The exporter has each series from its first use on, so that
the page is empty before the first request. The number of generated tokens is the sum of its histogram of tokens per
request. The server reserves cache for the tokens of the running requests, with those that they may still generate
(``batch_current_max_tokens``), up to a budget that it measures when it starts (``batch_max_total_tokens``). A request
waits where the budget does not suffice, so the reserved share of the budget is the usage of the cache. The router of
3.x sets the budget before it installs the exporter, so a page may have no budget.

``load`` is computed from the mean time per token of each request, which is observed when the request ends: its time
after the queue, divided by its generated tokens. So the time of its prompt is part of it. The length of a prompt is
observed when the request arrives. The first token and the limit of running requests are not exported.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, histogram, share_of, source

ENGINE = Engine(
    "tgi",
    "Hugging Face Text Generation Inference",
    3000,
    detection_order=30,
    other_ports=(80,),
    remark="older versions export no budget of tokens, which shows the KV cache usage",
    no_queue_hint="TGI exports its queue from its first request on",
    reports_kv_cache=False,
    preallocating_containers=ContainerNames(
        "TGI", image_parts=("text-generation-inference",), commands=("text-generation-launcher",)
    ),
    load_rung=LoadRung.REQUEST_TOKEN_TIME,
)

GUIDE = EngineGuide(
    switch_on="Nothing. The metrics are at the port of the API.",
    traps=(
        "The launcher's default port is 3000, and the image sets it to 80. Both are tried; set `enginePort` where you "
        "set `PORT` or `--port`.",
        "Before the first request the page is empty or has no queue. Until then the pod has no value, and the reason "
        "names this.",
        "The KV cache is the reserved share of the budget of tokens. Older versions do not export the budget. Some "
        "newer ones set it before their exporter is installed, and do not export it either. `kv_cache_usage` then "
        "has no value.",
        "The time per token is a mean of each request, and it contains the time of the prompt. With long prompts "
        "`load` is too high.",
        "The limit of running requests is not exported: set `maxSeqs`.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("tgi_queue_size", "tgi_batch_current_size"),
    families=("tgi_request_count", "tgi_request_success", "tgi_request_failure", "tgi_batch_inference_count"),
    waiting=(source("tgi_queue_size"),),
    running=(source("tgi_batch_current_size"),),
    kv_cache_ratio=(share_of("tgi_batch_current_max_tokens", "tgi_batch_max_total_tokens"),),
    requests_total=(source("tgi_request_success"),),
    tokens_total=(source("tgi_request_generated_tokens_sum"),),
    queue_wait_seconds_total=(source("tgi_request_queue_duration_sum"),),
    queue_waits_total=(source("tgi_request_queue_duration_count"),),
    prompt_tokens_total=(source("tgi_request_input_length_sum"),),
    token_time=(histogram("tgi_request_mean_time_per_token_duration"),),
)
