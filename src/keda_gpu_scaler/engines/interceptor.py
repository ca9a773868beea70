# SPDX-License-Identifier: Apache-2.0
"""The interceptor of KEDA's HTTP add-on, a source of demand: its pending requests for each host.

Law: a host that the interceptor does not list is unknown. It does not count as a host without requests.

Facts are from the add-on's source (pkg/queue/queue_counts.go and queue_rpc.go, GET /queue on the admin port 9090). The
first version returned a number for each host, the second an object with ``Requests``. Now it returns an object with
``Concurrency`` for each namespace/name of an HTTPScaledObject.
"""

from collections.abc import Mapping

from keda_gpu_scaler.engines.exposition import SeriesSample

PENDING = "http_add_on_pending_requests"
"""The series made of a page, with the label ``host``."""
_COUNTS = ("Concurrency", "Requests")


def pending_requests(page: Mapping[str, object]) -> tuple[SeriesSample, ...] | None:
    """Read a page as series; None where the page is not an interceptor's."""
    samples = []
    for host, count in page.items():
        if isinstance(count, Mapping):
            count = next((count[key] for key in _COUNTS if key in count), None)
        if isinstance(count, bool) or not isinstance(count, int | float):
            return None
        try:
            samples.append(SeriesSample(PENDING, {"host": host}, float(count)))
        except OverflowError:  # a whole number in JSON has no upper bound
            return None
    return tuple(samples)
