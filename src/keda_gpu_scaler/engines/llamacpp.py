# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's server, which exports series after it was started with ``--metrics``.

Law: it no longer exports its KV cache usage, so the KV cache is unknown.

Facts are from llama.cpp's documentation (ggml-org/llama.cpp: tools/server/README.md, "GET /metrics", 2026-05), its
source (tools/server/server-task.cpp and server-context.cpp), and its pull requests 13660, which removed the usage of
the KV cache, and 22879. An older version exports ``kv_cache_usage_ratio``. It is not read: the cells of idle slots,
whose prompts are kept for the next request, count as used, so that an idle server would look full.

A server of several models (router mode) has a page for each model, ``/metrics?model=NAME``, and none without a name. A
request for this page loads the model, and it counts as use of the model (issues 19346 and 20227).

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
        "The KV cache is no longer exported, so `kv_cache_usage` has no value. The ratio of older versions is not "
        "read: it counts the kept prompts of idle slots, so an idle server looks full.",
        "In router mode (several models) the page of a model is `/metrics?model=NAME`: set `enginePath`. Each scrape "
        "loads the model and counts as its use, so `--sleep-idle-seconds` has no effect while the trigger is asked.",
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
