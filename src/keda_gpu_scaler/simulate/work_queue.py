# SPDX-License-Identifier: Apache-2.0
"""A queue of work: items wait in one place, and a worker takes the oldest ones when it has room.

Law: an item waits only while no worker has room for it. Events happen in the order of their times.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

from keda_gpu_scaler.simulate.gateway import Server
from keda_gpu_scaler.simulate.requests import NEVER, RequestLog


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker. ``left`` is how many items it may still take; ``is_free`` says that it is listed as free."""

    server: Server
    left: float = NEVER
    on_end: Callable[[float], None] | None = None
    is_open: bool = True
    is_free: bool = False


class WorkQueue:
    """The queue, and the workers that take items from it.

    Args:
        log: what becomes of each item.
    """

    def __init__(self, log: RequestLog) -> None:
        self._log = log
        self._workers: dict[int, _Worker] = {}
        self._free: deque[_Worker] = deque()
        self._events: list[tuple[float, int, _Worker]] = []
        self._event_number = 0
        self._next = 0
        self.gate: deque[int] = deque()

    @property
    def arrived(self) -> int:
        """The number of items that arrived."""
        return self._next

    @property
    def in_flight(self) -> int:
        """The number of items that arrived and are not done."""
        return len(self.gate) + sum([worker.server.load for worker in self._workers.values()])

    @property
    def waiting(self) -> int:
        """The number of items that no worker has taken."""
        return len(self.gate)

    @property
    def running(self) -> int:
        """The number of items that a worker has taken."""
        return sum([worker.server.load for worker in self._workers.values()])

    def add(self, server: Server, now: float) -> None:
        """Let a worker take items from now on, until it drains."""
        self._begin(_Worker(server), now)

    def add_for(self, server: Server, now: float, items: int | None, on_end: Callable[[float], None]) -> None:
        """Let a worker take some items, and end after them, or when it finds the queue empty.

        Args:
            server: the worker.
            now: when it begins.
            items: how many it takes at most, None for any number.
            on_end: is called with the time when it ends.
        """
        self._begin(_Worker(server, NEVER if items is None else items, on_end), now)

    def drain(self, server: Server, on_idle: Callable[[float], None]) -> None:
        """Let a worker take no more items; call ``on_idle`` with the time when it has none left."""
        worker = self._workers[id(server)]
        worker.is_open, worker.left, worker.on_end = False, 0, on_idle

    def kill(self, server: Server, now: float) -> None:
        """End a worker; its items are the first in the queue again, and begin anew."""
        self._workers.pop(id(server), None)
        for request in reversed(server.take_away(now)):
            self._log.begin_anew(request)
            self.gate.appendleft(request)
        self._offer(now)

    def run(self, until: float) -> None:
        """Let everything happen up to a time."""
        arrivals, count, events = self._log.traffic.arrivals, len(self._log.traffic), self._events
        arrival = arrivals[self._next] if self._next < count else NEVER
        while True:
            if events and events[0][0] <= arrival:
                ends_at, _, worker = events[0]
                if ends_at > until:
                    return
                heappop(events)
                if worker.server.ends_at == ends_at:  # else it was given items meanwhile, or it was killed
                    worker.server.finish()
                    self._serve(worker, ends_at)
            elif arrival <= until:
                self.gate.append(self._next)
                self._next += 1
                self._offer(arrival)
                arrival = arrivals[self._next] if self._next < count else NEVER
            else:
                return

    def _begin(self, worker: _Worker, now: float) -> None:
        self._workers[id(worker.server)] = worker
        worker.server.slot = 0
        self._serve(worker, now)

    def _offer(self, now: float) -> None:
        """Let free workers take what waits."""
        while self.gate and self._free:
            worker = self._free.popleft()
            worker.is_free = False
            if worker.is_open:
                self._serve(worker, now)

    def _serve(self, worker: _Worker, now: float) -> None:
        """Let a worker take what it has room for; it then ends, or it is free, or it is full."""
        server, gate = worker.server, self.gate
        count = int(min(server.room, worker.left, len(gate))) if gate else 0
        if count:
            worker.left -= count
            server.give_all([gate.popleft() for _ in range(count)], now)
        if server.ends_at != NEVER:
            self._event_number += 1
            heappush(self._events, (server.ends_at, self._event_number, worker))
        if worker.on_end is not None and not server.load:
            worker.is_open = False
            del self._workers[id(server)]
            worker.on_end(now)
        elif worker.is_open and not worker.is_free and worker.left and server.room:
            worker.is_free = True
            self._free.append(worker)
