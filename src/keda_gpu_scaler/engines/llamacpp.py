# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's server, which exports series after it was started with ``--metrics``.

Law: it no longer exports its KV cache usage, so the KV cache is unknown.

Facts are from llama.cpp's documentation (tools/server/README.md, "GET /metrics") and its source
(tools/server/server-task.cpp and server-context.cpp).

``load`` is computed from the mean time per token of each request. When a request ends, its tokens and its time after
the first token are added to two counters, so that longer requests count more; there is no histogram. Prompt tokens are
counted when the prompt is processed, without those from the cache. The number of slots, which is the limit of running
requests, is not among the metrics.
"""

from keda_gpu_scaler.core.trigger.engines import Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, Observations, source

ENGINE = Engine(
    "llama.cpp",
    "llama.cpp",
    8080,
    detection_order=80,
    remark="start it with `--metrics`; exports no KV cache usage",
    reports_kv_cache=False,
    load_rung=LoadRung.REQUEST_TOKEN_TIME,
)

GUIDE = EngineGuide(
    switch_on="Start the server with `--metrics`.",
    traps=(
        "The KV cache is no longer exported, so `kv_cache_usage` has no value.",
        "The number of slots is not exported: set `maxSeqs` to it.",
        "There is no histogram: the floor of the time per token is a mean over requests. State `itlFloorMs` if "
        "`explain` shows one that is far too low.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("llamacpp:requests_processing", "llamacpp:requests_deferred"),
    waiting=(source("llamacpp:requests_deferred"),),
    running=(source("llamacpp:requests_processing"),),
    tokens_total=(source("llamacpp:tokens_predicted_total"),),
    prompt_tokens_total=(source("llamacpp:prompt_tokens_total"),),
    token_time=(Observations("llamacpp:tokens_predicted_seconds_total", "llamacpp:tokens_predicted_total"),),
)
