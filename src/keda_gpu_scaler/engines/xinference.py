# SPDX-License-Identifier: Apache-2.0
"""Xinference, by the page of its worker.

Law: the queue inside an engine that Xinference runs is not exported, so it is unknown.

Facts are from Xinference's source (xorbitsai/inference: xinference/core/metrics.py and model.py, 2026) and its
documentation ("Metrics"): a worker exports the requests and tokens of its models at the port that
``--metrics-exporter-port`` sets. The supervisor exports the cluster, without requests, at the port of the API, 9997. A
model without a limit of requests has the limit -1. ``model_request_total`` counts failed requests too. The label of a
model is ``model_uid``, and ``model`` in older versions, which export tokens and no requests.

``load`` is computed from running requests and generated tokens. A model that generates no tokens, such as one for
embeddings, has none; on the page of several models, select one.
"""

from keda_gpu_scaler.core.trigger.engines import ContainerNames, Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, limit, source

_PREFIX = "xinference:"

ENGINE = Engine(
    "xinference",
    "Xinference, a worker",
    9997,
    detection_order=83,
    remark="set `--metrics-exporter-port`, and `enginePort` to the same port; exports neither its queue nor a KV cache",
    no_queue_hint="Xinference exports its requests on the page of the worker, at the port of --metrics-exporter-port, "
    "from the first request on",
    reports_queue=False,
    reports_kv_cache=False,
    preallocating_containers=ContainerNames(
        "Xinference",
        image_words=("xinference",),
        commands=("xinference", "xinference-local", "xinference-worker", "xinference-supervisor"),
    ),
    load_rung=LoadRung.TOKEN_RATE,
    counts_tokens_at_end=True,
    model_labels=("model_uid", "model"),
)

GUIDE = EngineGuide(
    switch_on="Start the worker (or `xinference-local`) with `--metrics-exporter-host` and `--metrics-exporter-port`, "
    "and set `enginePort` to that port. `XINFERENCE_DISABLE_METRICS=1` switches metrics off.",
    traps=(
        "The page of the supervisor, at the port of the API, has no requests. The page of the worker has none before "
        "the first request. The reason names both.",
        "The queue inside the engine is not exported. `load` sees the requests that run, and those that wait "
        "inside the engine as running ones.",
        "A model without a limit has the limit -1. Then there is no limit, and `maxSeqs` states one.",
        "A worker may serve models of several kinds. Select one with `engineModel`, by its `model_uid`.",
        "Older versions export tokens and no requests: `load` then has no value.",
        "`request_rate` contains failed requests.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=(
        f"{_PREFIX}model_serve_count",
        f"{_PREFIX}model_request_total",
        f"{_PREFIX}output_tokens_total_counter",
    ),
    families=(f"{_PREFIX}generate_tokens_per_s", f"{_PREFIX}supervisor_uptime_seconds", f"{_PREFIX}workers_total"),
    running=(source(f"{_PREFIX}model_serve_count"),),
    running_limit=(limit(f"{_PREFIX}model_request_limit"),),
    requests_total=(source(f"{_PREFIX}model_request_total"),),
    tokens_total=(source(f"{_PREFIX}generate_tokens_total"), source(f"{_PREFIX}output_tokens_total_counter")),
    prompt_tokens_total=(source(f"{_PREFIX}input_tokens_total_counter"),),
    first_token=f"{_PREFIX}time_to_first_token_seconds",
)
