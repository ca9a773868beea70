# SPDX-License-Identifier: Apache-2.0
"""One replica that computes whole requests in batches, as NVIDIA Triton or an embedding server does.

An instance of the model takes the waiting requests, at most a full batch of them, as soon as it is free. A batch takes
the same time however full it is. The answer is complete when its batch ends: it counts as the first token.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush

from keda_gpu_scaler.simulate.counters import EngineCounters
from keda_gpu_scaler.simulate.engine_model import ServiceModel
from keda_gpu_scaler.simulate.requests import NEVER, RequestLog

MEMORY_RATIO = 0.5


class ServiceReplica:
    """A replica. ``ends_at`` is when its next batch ends, infinite while it is idle.

    Args:
        model: how long a batch takes.
        log: what becomes of each request.
    """

    __slots__ = ("_batches", "_busy_since", "_log", "_model", "_waiting", "counters", "ends_at", "load", "slot")

    def __init__(self, model: ServiceModel, log: RequestLog) -> None:
        self._model = model
        self._log = log
        self._waiting: deque[int] = deque()
        self._batches: list[tuple[float, list[int]]] = []  # a heap of (the end, the requests)
        self._busy_since = 0.0
        self.counters = EngineCounters()
        self.slot = -1
        self.load = 0
        self.ends_at = NEVER

    @property
    def running(self) -> int:
        """The number of requests that are computed."""
        return self.load - len(self._waiting)

    @property
    def queue_length(self) -> int:
        """The number of requests that wait."""
        return len(self._waiting)

    @property
    def kv_ratio(self) -> float:
        """Not a number: it has no KV cache."""
        return float("nan")

    @property
    def seats(self) -> int:
        """The number of requests that may be computed at once."""
        return self._model.max_seqs

    @property
    def room(self) -> int:
        """The number of further requests that it would begin to compute at once."""
        return (self._model.instances - len(self._batches)) * self._model.batch - len(self._waiting)

    @property
    def memory_ratio(self) -> float:
        """The share of the GPU's memory in use; the model is loaded, whatever the load is."""
        return MEMORY_RATIO

    def busy_until(self, now: float) -> float:
        """Return for how many seconds at least one batch was computed until now."""
        return self.counters.busy_seconds + (now - self._busy_since if self._batches else 0.0)

    def settle(self, now: float) -> None:
        """Nothing is left to count: every batch is counted when it ends."""

    def give(self, request: int, now: float) -> None:
        """Take a request from the gateway."""
        self.give_all((request,), now)

    def give_all(self, requests: Sequence[int], now: float) -> None:
        """Take some requests together, so that they may be one batch."""
        for request in requests:
            self._log.given_at[request] = now
        self.load += len(requests)
        self._waiting.extend(requests)
        self._begin(now)

    def finish(self) -> None:
        """End the batch that is due, and begin the next one."""
        now, requests = heappop(self._batches)
        log, counters = self._log, self.counters
        for request in requests:
            log.first_at[request] = log.ended_at[request] = now
            log.overheads[request] = self._model.overhead_seconds
            counters.wait_seconds += log.queue_waits[request]
        counters.ended += len(requests)
        counters.service_seconds += len(requests) * self._model.service_seconds
        counters.executions += 1
        self.load -= len(requests)
        if not self._batches:
            counters.busy_seconds += now - self._busy_since
        self._begin(now)

    def take_away(self, now: float) -> list[int]:
        """Stop, and return the requests that did not end."""
        left = [request for _, requests in self._batches for request in requests] + [*self._waiting]
        self._batches, self.load, self.ends_at = [], 0, NEVER
        self._waiting.clear()
        return left

    def _begin(self, now: float) -> None:
        model = self._model
        while self._waiting and len(self._batches) < model.instances:
            if not self._batches:
                self._busy_since = now
            size = min(model.batch, len(self._waiting))
            requests = [self._waiting.popleft() for _ in range(size)]
            for request in requests:
                self._log.queue_waits[request] = now - self._log.given_at[request]
            heappush(self._batches, (now + model.service_seconds, requests))
        self.ends_at = self._batches[0][0] if self._batches else NEVER
