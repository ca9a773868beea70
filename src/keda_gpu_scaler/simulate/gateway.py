# SPDX-License-Identifier: Apache-2.0
"""The gateway of a workload: which replica gets a request, and what happens until when.

Law: events happen in the order of their times, whatever the caller's steps are.
"""

from collections import deque
from collections.abc import Callable, Sequence
from enum import StrEnum
from heapq import heappop, heappush, heapreplace
from random import Random
from typing import Protocol

from keda_gpu_scaler.simulate.counters import EngineCounters
from keda_gpu_scaler.simulate.requests import NEVER, RequestLog


class Router(StrEnum):
    """How the gateway chooses the replica of a request."""

    LEAST_REQUESTS = "least-requests"
    """The one with the fewest requests; of equal ones each in its turn."""
    RANDOM = "random"


class Server(Protocol):
    """What the gateway needs of a replica of whatever kind."""

    slot: int
    load: int
    ends_at: float
    counters: EngineCounters

    @property
    def running(self) -> int:
        """The number of requests that run."""

    @property
    def queue_length(self) -> int:
        """The number of requests that wait."""

    @property
    def kv_ratio(self) -> float:
        """The share of the KV cache in use; not a number where there is none."""

    @property
    def seats(self) -> int:
        """The number of requests that may run at once."""

    @property
    def room(self) -> int:
        """The number of further requests that it would begin to serve at once."""

    @property
    def memory_ratio(self) -> float:
        """The share of the GPU's memory in use."""

    def busy_until(self, now: float) -> float:
        """Return for how many seconds it worked until now, after ``settle``."""

    def give(self, request: int, now: float) -> None:
        """Take a request."""

    def give_all(self, requests: Sequence[int], now: float) -> None:
        """Take some requests together."""

    def finish(self) -> None:
        """Do what is due at ``ends_at``."""

    def settle(self, now: float) -> None:
        """Bring the counters up to date."""

    def take_away(self, now: float) -> list[int]:
        """Stop, and return the requests that did not end."""


class Dispatcher(Protocol):
    """What brings requests to replicas: a gateway, or a queue from which they take them."""

    gate: deque[int]

    @property
    def arrived(self) -> int:
        """The number of requests that arrived."""

    @property
    def in_flight(self) -> int:
        """The number of requests that arrived and did not end."""

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""

    @property
    def running(self) -> int:
        """The number of requests that run."""

    def add(self, server: Server, now: float) -> None:
        """Let a replica serve from now on."""

    def drain(self, server: Server, on_idle: Callable[[float], None]) -> None:
        """Let a replica end; call ``on_idle`` with the time when it has no request left."""

    def kill(self, server: Server, now: float) -> None:
        """End a replica that drains; its requests are served again from the start."""

    def run(self, until: float) -> None:
        """Let everything happen up to a time."""


class Gateway:
    """The ready replicas, those that drain, and the requests that wait at the gateway because none is ready."""

    def __init__(self, log: RequestLog, router: Router = Router.LEAST_REQUESTS, seed: int = 1) -> None:
        self._log = log
        self._router = router
        self._random = Random(seed)  # noqa: S311 - a simulation, reproducible by its seed
        self._ready: list[Server] = []
        self._loads: list[int] = []
        self._turn = 0
        self._events: list[tuple[float, int, Server]] = []
        self._event_number = 0
        self._next = 0
        self._drained: dict[int, tuple[Server, Callable[[float], None]]] = {}
        self.gate: deque[int] = deque()

    @property
    def arrived(self) -> int:
        """The number of requests that arrived."""
        return self._next

    @property
    def in_flight(self) -> int:
        """The number of requests that arrived and did not end."""
        return len(self.gate) + sum(self._loads) + sum([server.load for server, _ in self._drained.values()])

    @property
    def waiting(self) -> int:
        """The number of requests that wait, at the gateway or in the queues of ready replicas."""
        return len(self.gate) + sum([server.queue_length for server in self._ready])

    @property
    def running(self) -> int:
        """The number of requests that run on ready replicas."""
        return sum([server.running for server in self._ready])

    def add(self, server: Server, now: float) -> None:
        """Send requests to a replica from now on."""
        server.slot = len(self._ready)
        self._ready.append(server)
        self._loads.append(server.load)
        self._flush_gate(now)

    def drain(self, server: Server, on_idle: Callable[[float], None]) -> None:
        """Send no more requests to a replica; call ``on_idle`` with the time when it has none left."""
        last = self._ready.pop()
        self._loads.pop()
        if last is not server:
            last.slot = server.slot
            self._ready[last.slot], self._loads[last.slot] = last, last.load
        server.slot = -1
        self._drained[id(server)] = (server, on_idle)

    def kill(self, server: Server, now: float) -> None:
        """End a replica that drains; its requests are sent again from the start."""
        self._drained.pop(id(server), None)
        for request in server.take_away(now):
            self._log.begin_anew(request)
            self.gate.append(request)
        self._flush_gate(now)

    def run(self, until: float) -> None:
        """Let everything happen up to a time."""
        arrivals, count = self._log.traffic.arrivals, len(self._log.traffic)
        events, loads, give = self._events, self._loads, self._give
        arrival = arrivals[self._next] if self._next < count else NEVER
        while True:
            if events and events[0][0] <= arrival:
                ends_at, _, server = events[0]
                if ends_at > until:
                    return
                if server.ends_at != ends_at:
                    heappop(events)  # the replica was given a request meanwhile, and its next event came earlier
                    continue
                server.finish()
                if server.ends_at != NEVER:
                    self._event_number += 1
                    heapreplace(events, (server.ends_at, self._event_number, server))
                else:
                    heappop(events)
                if server.slot >= 0:
                    loads[server.slot] = server.load
                elif not server.load and (drained := self._drained.pop(id(server), None)) is not None:
                    drained[1](ends_at)
            elif arrival <= until:
                request = self._next
                self._next = request + 1
                if loads and not self.gate:
                    give(request, arrival)
                else:
                    self.gate.append(request)
                arrival = arrivals[request + 1] if request + 1 < count else NEVER
            else:
                return

    def _give(self, request: int, now: float) -> None:
        loads = self._loads
        if self._router is Router.RANDOM:
            slot = int(self._random.random() * len(loads))
        else:
            least, turn = min(loads), self._turn
            try:
                slot = loads.index(least, turn)
            except ValueError:
                slot = loads.index(least)
            self._turn = slot + 1
        server = self._ready[slot]
        before = server.ends_at
        server.give(request, now)
        loads[slot] += 1
        if server.ends_at != before:
            self._event_number += 1
            heappush(self._events, (server.ends_at, self._event_number, server))

    def _flush_gate(self, now: float) -> None:
        while self.gate and self._ready:
            self._give(self.gate.popleft(), now)
