# SPDX-License-Identifier: Apache-2.0
"""What does llama.cpp's server export, once it was started with ``--metrics``?

The law of this module: its KV cache is no longer told, so nothing is told of one.

Facts are from llama.cpp's documentation (tools/server/README.md, "GET /metrics").
"""

from keda_gpu_scaler.engines.metric_map import MetricMap, source

LLAMA_CPP = MetricMap(
    "llama.cpp",
    signs=("llamacpp:requests_processing", "llamacpp:requests_deferred"),
    waiting=(source("llamacpp:requests_deferred"),),
    running=(source("llamacpp:requests_processing"),),
    tokens_total=(source("llamacpp:tokens_predicted_total"),),
)
