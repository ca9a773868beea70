# SPDX-License-Identifier: Apache-2.0
"""Reads the devices in a thread of its own, at a fixed interval, and publishes the snapshots.

Law: a hanging driver call blocks only this thread. Readers use the last published history, and its age shows that no
newer snapshot came.
"""

import bisect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from keda_gpu_scaler.core.instance_status import COLLECTION_BUCKETS_SECONDS, CollectionCounts
from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.state.fleet import MAX_WINDOW_SECONDS, History, next_history
from keda_gpu_scaler.core.types import Allocation, Snapshot

_log = logging.getLogger(__name__)


class _Change(NamedTuple):
    """What a line of the log says about a reading that differs from the one before."""

    level: int
    sentence: str


class Sampler:
    """Reads a backend every ``interval_seconds``, and keeps history for the longest window of a trigger.

    ``history``, ``failure`` and ``counts`` may be read from any thread. A snapshot is dated when the devices were read.

    Args:
        backend: reads the devices. The sampler closes it.
        node: the name of this node.
        interval_seconds: the time between two readings.
        allocations: returns the current assignments of devices to pods, None while they are unknown. Must not wait.
        clock: monotonic seconds.
        wall_clock: Unix seconds.
        on_publish: called in the sampler's thread after every snapshot and every failure.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        node: str,
        interval_seconds: float,
        allocations: Callable[[float], tuple[Allocation, ...] | None] = lambda now: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        on_publish: Callable[[], None] = lambda: None,
    ) -> None:
        self._backend = backend
        self._node = node
        self._interval = interval_seconds
        self._allocations = allocations
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_publish = on_publish
        self._snapshots: deque[Snapshot] = deque()
        self._sequence = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.history: History | None = None
        self._failure: str | None = None
        self.counts = CollectionCounts(0, 0, 0.0, (0,) * (len(COLLECTION_BUCKETS_SECONDS) + 1))

    def tick(self) -> None:
        """Read every device once, and publish the snapshot or the failure. Never raises."""
        started = self._clock()
        change, at_end = self._read(started)
        self._count(at_end - started)
        self._on_publish()
        # Logged last, so that a request after the log line gets the new state.
        if change is not None:
            _log.log(change.level, "%s", change.sentence, extra={"source": self._backend.source})

    def _read(self, started: float) -> tuple[_Change | None, float]:
        """Read every device once; return what changed, and when the read ended."""
        try:
            samples = self._backend.read(started)
        except BackendError as error:
            return self._fail(str(error)), self._clock()
        except Exception as error:  # a defect of a backend must not end sampling for good
            _log.exception("the %s backend broke its contract", self._backend.source)
            sentence = f"unexpected {type(error).__name__} in the {self._backend.source} backend: {error}"
            return self._fail(sentence), self._clock()
        self._sequence += 1
        # Dated after the read: a driver that took long to open was read at the end of that time.
        read_at = self._clock()
        return self._add(
            Snapshot(
                node=self._node,
                sequence=self._sequence,
                at_seconds=read_at,
                unix_seconds=self._wall_clock(),
                source=self._backend.source,
                samples=samples,
                allocations=self._allocations(read_at),
            )
        ), read_at

    @property
    def failure(self) -> str | None:
        """Why the last read failed, or which call of the driver keeps it waiting; None while the devices are read."""
        return self._failure or self._backend.overdue_call()

    def start(self) -> None:
        """Start the thread. It reads at once and then at every interval."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 1.0) -> None:
        """Stop the thread and close the backend. After the timeout a hanging call is left to the daemon thread."""
        self._stopping.set()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            _log.warning("a call of the %s backend has not returned; stopping without it", self._backend.source)

    def _run(self) -> None:
        self._sample_until_stopped()
        # In this thread, because close() may hang like any other driver call.
        self._backend.close()

    def _sample_until_stopped(self) -> None:
        due = self._clock()
        while not self._stopping.is_set():
            self.tick()
            # After an overrun the missed ticks are skipped. Catching up would add load to a slow driver.
            now = self._clock()
            due += self._interval * max(1, -((due - now) // self._interval))
            self._stopping.wait(max(0.0, due - now))

    def _add(self, snapshot: Snapshot) -> _Change | None:
        was_failing, is_first = self._failure is not None, self.history is None
        self._snapshots.append(snapshot)
        while snapshot.at_seconds - self._snapshots[0].at_seconds > MAX_WINDOW_SECONDS:
            self._snapshots.popleft()
        self.history = next_history(self.history, tuple(self._snapshots), snapshot.at_seconds)
        self._failure = None
        if was_failing:
            return _Change(logging.INFO, "devices can be read again")
        if is_first and not self._backend.deviceless:
            return _Change(logging.INFO, f"first sample: {len(snapshot.samples)} device(s)")
        return None

    def _fail(self, sentence: str) -> _Change | None:
        is_new, self._failure = sentence != self._failure, sentence
        return _Change(logging.WARNING, sentence) if is_new else None

    def _count(self, duration: float) -> None:
        bucket = bisect.bisect_left(COLLECTION_BUCKETS_SECONDS, duration)
        buckets = list(self.counts.duration_buckets)
        buckets[bucket] += 1
        self.counts = CollectionCounts(
            collections=self.counts.collections + 1,
            errors=self.counts.errors + (self._failure is not None),
            duration_seconds_sum=self.counts.duration_seconds_sum + duration,
            duration_buckets=tuple(buckets),
        )
