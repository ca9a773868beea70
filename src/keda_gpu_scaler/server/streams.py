# SPDX-License-Identifier: Apache-2.0
"""The open StreamIsActive calls: notifies a stream when the activity of its trigger changes.

Law: a stream reports an observed state. While the state is unknown, nothing is sent, and the last state stands.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator

from keda_gpu_scaler.server.request_resolver import ResolvedTrigger

HEARTBEAT_SECONDS = 60.0
"""A stream repeats an unchanged state after this time; every ``true`` costs KEDA a status write."""
_TURN_SECONDS = 0.005


class ActivityStream:
    """One open StreamIsActive: the state that was sent last, and an event that resumes it."""

    __slots__ = ("sent", "wake")

    def __init__(self) -> None:
        self.sent: bool | None = None
        self.wake = asyncio.Event()


class ActivityStreams:
    """All open streams, by trigger.

    Args:
        activity: returns whether a resolved's workload is active at a time, or None while that is unknown.
        clock: monotonic seconds.
    """

    def __init__(self, activity: Callable[[ResolvedTrigger, float], bool | None], clock: Callable[[], float]) -> None:
        self._activity = activity
        self._clock = clock
        self._streams: dict[ResolvedTrigger, set[ActivityStream]] = defaultdict(set)
        self._is_stopping = False

    def __len__(self) -> int:
        return sum(map(len, self._streams.values()))

    @contextlib.contextmanager
    def opened(self, resolved: ResolvedTrigger) -> Iterator[ActivityStream]:
        """Count a stream as open for the duration of the ``with`` block."""
        stream = ActivityStream()
        self._streams[resolved].add(stream)
        try:
            yield stream
        finally:
            self._streams[resolved].discard(stream)
            if not self._streams[resolved]:
                del self._streams[resolved]

    async def states(self, resolved: ResolvedTrigger, stream: ActivityStream) -> AsyncGenerator[bool, None]:
        """Yield the state at once, on every change, and as a slow heartbeat, until ``stop``."""
        sent_at = 0.0
        while not self._is_stopping:
            stream.wake.clear()
            now = self._clock()
            active = self._activity(resolved, now)
            if active is not None and (active != stream.sent or now - sent_at >= HEARTBEAT_SECONDS):
                stream.sent, sent_at = active, now
                yield active
            try:
                async with asyncio.timeout(resolved.trigger.poll_interval_seconds):
                    await stream.wake.wait()
            except TimeoutError:
                continue

    async def wake_changed(self) -> None:
        """Wake the streams whose state changed; called in the event loop after every snapshot or report.

        Each trigger is evaluated once, however many streams share it. Other calls get their turn every few
        milliseconds.
        """
        turn_began = now = self._clock()
        for resolved in list(self._streams):
            active = self._activity(resolved, now)
            for stream in self._streams.get(resolved, ()):
                if active is not None and stream.sent != active:
                    stream.wake.set()
            now = self._clock()
            if now - turn_began > _TURN_SECONDS:
                await asyncio.sleep(0)
                turn_began = now = self._clock()

    def stop(self) -> None:
        """End every stream, now and from now on."""
        self._is_stopping = True
        for streams in self._streams.values():
            for stream in streams:
                stream.wake.set()
