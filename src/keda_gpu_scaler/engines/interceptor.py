# SPDX-License-Identifier: Apache-2.0
"""What does the interceptor of KEDA's HTTP add-on tell? How many requests it holds or has handed on, for each host.

The law of this module: a host that it does not list is unknown, and not without requests.

Facts are from the add-on's source (pkg/queue/queue_counts.go and queue_rpc.go, GET /queue on the admin port 9090): at
first a number for each host, then an object with ``Requests``, then for each namespace/name of an HTTPScaledObject one
with ``Concurrency``.
"""

from collections.abc import Mapping

from keda_gpu_scaler.engines.prometheus_text import SeriesSample

PENDING = "http_add_on_pending_requests"
"""The series that a page comes to, by the label ``host``."""
_COUNTS = ("Concurrency", "Requests")


def pending_requests(page: Mapping[str, object]) -> tuple[SeriesSample, ...] | None:
    """Read a page as series; None where it is no page of an interceptor's."""
    samples = []
    for host, count in page.items():
        if isinstance(count, Mapping):
            count = next((count[key] for key in _COUNTS if key in count), None)
        if isinstance(count, bool) or not isinstance(count, int | float):
            return None
        try:
            samples.append(SeriesSample(PENDING, {"host": host}, float(count)))
        except OverflowError:  # JSON's whole numbers have no end
            return None
    return tuple(samples)
