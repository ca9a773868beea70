# SPDX-License-Identifier: Apache-2.0
"""Hugging Face Text Embeddings Inference (TEI).

Law: it has no KV cache and no tokens that are generated.

Facts are from TEI's source (huggingface/text-embeddings-inference: core/src/queue.rs and infer.rs, router/src,
Dockerfile; 1.8) and its issues 520 and 729: the gauge of the queue, counters without a suffix, and histograms in
seconds. The router listens on port 3000, and the images set 80. The images for gRPC serve the metrics on
``--prometheus-port``, 9000, which has no effect on those for HTTP. An entry of the queue is one input, so a request
with several inputs counts as several. The time of inference is observed for each request when it ends; the requests of
a batch each count the whole time of the batch. The exporter has each series from its first use on, so that the page is
empty before the first request.

``load`` is computed from the time of computation.
"""

from keda_gpu_scaler.core.trigger.engines import Engine, LoadRung
from keda_gpu_scaler.engines.guide import EngineGuide
from keda_gpu_scaler.engines.metric_map import MetricMap, source

ENGINE = Engine(
    "tei",
    "Hugging Face Text Embeddings Inference",
    3000,
    detection_order=86,
    other_ports=(80, 9000),
    remark="has no KV cache",
    no_queue_hint="TEI exports its queue from its first request on",
    reports_kv_cache=False,
    load_rung=LoadRung.SERVICE_TIME,
)

GUIDE = EngineGuide(
    switch_on="Nothing. The metrics are at the port of the API.",
    traps=(
        "The router's default port is 3000, and the images set it to 80. The images for gRPC serve the metrics on port "
        "9000. These are tried; set `enginePort` where you set another one.",
        "Before the first request the page is empty. Until then the pod has no value, and the reason names this.",
        "The queue counts inputs: a request with 32 texts that wait counts as 32.",
        "The requests of a batch each count the whole time of the batch.",
        "There are no running requests on the page: a request is in the queue, or its batch is computed.",
    ),
)

METRIC_MAP = MetricMap(
    identifying_series=("te_queue_size",),
    families=("te_request_count", "te_request_success", "te_batch_next_size"),
    waiting=(source("te_queue_size"),),
    requests_total=(source("te_request_success"),),
    queue_wait_seconds_total=(source("te_request_queue_duration_sum"),),
    queue_waits_total=(source("te_request_queue_duration_count"),),
    service_seconds_total=(source("te_request_inference_duration_sum"),),
    services_total=(source("te_request_inference_duration_count"),),
    executions_total=(source("te_batch_next_size_count"),),
)
