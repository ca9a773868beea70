# SPDX-License-Identifier: Apache-2.0
"""The queue of a worker of NVIDIA Dynamo, before the engine inside the worker.

Law: it is a part of the engine's queue. Where the engine's own queue is not exported, the whole is unknown.

Facts are from Dynamo's documentation and source (ai-dynamo/dynamo: "Admission Control Architecture", "Request
Rejection", lib/runtime/src/metrics; 2026). With ``--engine-request-limit`` a worker passes no more requests than that
to its engine, and the others wait in the worker. The engine's own count of waiting requests then stays near 0. Versions
before 1.6 name the gauge ``dynamo_request_queue``, and 1.6.0 has neither the limit nor the gauge. Newer versions name
it ``dynamo_backend_admission_request_queue_count``. No label of it is a model, and it is 0 below the limit.
"""

from keda_gpu_scaler.engines.metric_map import SeriesSource, source

_QUEUE = "dynamo_backend_admission_request_queue_count"


def dynamo_queue(beside: str) -> tuple[SeriesSource, ...]:
    """Describe the queue of the worker as a part of the engine's queue.

    Args:
        beside: the name of the series that has the engine's own queue.
    """
    return (
        source(_QUEUE, beside=beside),
        source("dynamo_request_queue", unless=_QUEUE, beside=beside),
    )
