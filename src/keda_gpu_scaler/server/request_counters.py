# SPDX-License-Identifier: Apache-2.0
"""Counts the calls of the ExternalScaler service, their errors and their durations."""

import bisect
from collections import Counter
from collections.abc import Mapping

from keda_gpu_scaler.core.instance_status import REQUEST_BUCKETS_SECONDS, RequestCounts

METHODS = ("IsActive", "StreamIsActive", "GetMetricSpec", "GetMetrics")
_STREAMS = ("StreamIsActive",)  # the client decides how long a stream lasts


class RequestCounters:
    """The counters, by method."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._seconds = {method: 0.0 for method in METHODS if method not in _STREAMS}
        self._buckets = {method: [0] * (len(REQUEST_BUCKETS_SECONDS) + 1) for method in self._seconds}

    def count_request(self, method: str) -> None:
        """Count a call that arrived."""
        self._requests[method] += 1

    def count_error(self, method: str) -> None:
        """Count a call that was answered with an error."""
        self._errors[method] += 1

    def count_duration(self, method: str, seconds: float) -> None:
        """Count the duration of an answered call, an error included."""
        self._seconds[method] += seconds
        self._buckets[method][bisect.bisect_left(REQUEST_BUCKETS_SECONDS, seconds)] += 1

    def counts(self) -> Mapping[str, RequestCounts]:
        """Return the counts of every method."""
        return {
            method: RequestCounts(
                self._requests[method],
                self._errors[method],
                self._seconds.get(method, 0.0),
                tuple(self._buckets.get(method, ())),
            )
            for method in METHODS
        }
