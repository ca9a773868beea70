# SPDX-License-Identifier: Apache-2.0
"""What do the devices do now? One thread asks the backend at its own pace and publishes what it heard.

The law of this module: a driver call that hangs keeps this thread waiting and nobody else. Whoever wants
to know reads the last published history and sees from its age that nothing new came.
"""

import bisect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from keda_gpu_scaler.core.interfaces import COLLECTION_BUCKETS_SECONDS, Backend, BackendError, CollectionCounts
from keda_gpu_scaler.core.state.fleet import MAX_WINDOW_SECONDS, History
from keda_gpu_scaler.core.types import Allocation, Snapshot

_log = logging.getLogger(__name__)


class Sampler:
    """Reads a backend every ``interval_seconds`` and keeps as much history as a trigger may ask for.

    ``history``, ``failure`` and ``counts`` may be read from any thread: each is one reference, replaced
    as a whole. ``allocations`` says who holds the devices now, or None while nobody can tell; it must not wait.
    ``on_publish`` is called in the sampler's thread after every snapshot and every failure.
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
        self.failure: str | None = None
        self.counts = CollectionCounts(0, 0, 0.0, (0,) * (len(COLLECTION_BUCKETS_SECONDS) + 1))

    def tick(self) -> None:
        """Read every device once and publish the outcome. Never raises."""
        started = self._clock()
        try:
            samples = self._backend.read(started)
        except BackendError as error:
            self._note_failure(str(error))
        except Exception as error:  # a backend's defect must not end sampling for good
            _log.exception("the %s backend broke its contract", self._backend.source)
            self._note_failure(f"unexpected {type(error).__name__} in the {self._backend.source} backend: {error}")
        else:
            self._sequence += 1
            self._publish(
                Snapshot(
                    node=self._node,
                    sequence=self._sequence,
                    at_seconds=started,
                    unix_seconds=self._wall_clock(),
                    source=self._backend.source,
                    samples=samples,
                    allocations=self._allocations(started),
                )
            )
        self._count(self._clock() - started)
        self._on_publish()

    def start(self) -> None:
        """Begin to sample, at once and then at every interval."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 1.0) -> None:
        """End sampling and close the backend; one whose call hangs is left behind with its daemon thread."""
        self._stopping.set()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            _log.warning("a call of the %s backend has not returned; leaving it behind", self._backend.source)

    def _run(self) -> None:
        self._sample_until_stopped()
        # Here, because closing may hang like any other call of a driver.
        self._backend.close()

    def _sample_until_stopped(self) -> None:
        due = self._clock()
        while not self._stopping.is_set():
            self.tick()
            # After an overrun the missed ticks are skipped: catching up would only burden a slow driver more.
            now = self._clock()
            due += self._interval * max(1, -((due - now) // self._interval))
            self._stopping.wait(max(0.0, due - now))

    def _publish(self, snapshot: Snapshot) -> None:
        was_failing, is_first = self.failure is not None, self.history is None
        self._snapshots.append(snapshot)
        while snapshot.at_seconds - self._snapshots[0].at_seconds > MAX_WINDOW_SECONDS:
            self._snapshots.popleft()
        self.history = History(tuple(self._snapshots), snapshot.at_seconds)
        self.failure = None
        # Published first: whoever reads the log and asks must not be told the old state.
        if was_failing:
            _log.info("devices can be read again", extra={"source": snapshot.source})
        elif is_first and not self._backend.deviceless:
            _log.info("first sample: %d device(s)", len(snapshot.samples), extra={"source": snapshot.source})

    def _note_failure(self, sentence: str) -> None:
        is_news, self.failure = sentence != self.failure, sentence
        if is_news:
            _log.warning("%s", sentence)

    def _count(self, duration: float) -> None:
        bucket = bisect.bisect_left(COLLECTION_BUCKETS_SECONDS, duration)
        buckets = list(self.counts.duration_buckets)
        buckets[bucket] += 1
        self.counts = CollectionCounts(
            collections=self.counts.collections + 1,
            errors=self.counts.errors + (self.failure is not None),
            duration_seconds_sum=self.counts.duration_seconds_sum + duration,
            duration_buckets=tuple(buckets),
        )
