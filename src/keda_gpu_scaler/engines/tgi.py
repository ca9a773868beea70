# SPDX-License-Identifier: Apache-2.0
"""What does Hugging Face's Text Generation Inference export?

The law of this module: it tells nothing of a KV cache, so nothing is told of one.

Facts are from TGI's documentation ("Metrics"): counters there have no suffix, and the tokens generated are what its
histogram of them adds up to.
"""

from keda_gpu_scaler.engines.metric_map import MetricMap, source

TGI = MetricMap(
    "tgi",
    signs=("tgi_queue_size", "tgi_batch_current_size"),
    waiting=(source("tgi_queue_size"),),
    running=(source("tgi_batch_current_size"),),
    requests_total=(source("tgi_request_success"),),
    tokens_total=(source("tgi_request_generated_tokens_sum"),),
    queue_wait_seconds_total=(source("tgi_request_queue_duration_sum"),),
    queue_waits_total=(source("tgi_request_queue_duration_count"),),
)
