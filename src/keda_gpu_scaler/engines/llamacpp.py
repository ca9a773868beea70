# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's server, which exports series after it was started with ``--metrics``.

Law: it no longer exports its KV cache usage, so the KV cache is unknown.

Facts are from llama.cpp's documentation (tools/server/README.md, "GET /metrics").
"""

from keda_gpu_scaler.core.trigger.engines import Engine
from keda_gpu_scaler.engines.metric_map import MetricMap, source

ENGINE = Engine(
    "llama.cpp",
    "llama.cpp",
    8080,
    detection_order=80,
    remark="start it with `--metrics`; exports no KV cache usage",
    reports_kv_cache=False,
)

METRIC_MAP = MetricMap(
    identifying_series=("llamacpp:requests_processing", "llamacpp:requests_deferred"),
    waiting=(source("llamacpp:requests_deferred"),),
    running=(source("llamacpp:requests_processing"),),
    tokens_total=(source("llamacpp:tokens_predicted_total"),),
)
