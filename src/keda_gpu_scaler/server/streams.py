# SPDX-License-Identifier: Apache-2.0
"""The open StreamIsActive calls: notifies a stream when the activity of its trigger changes.

Law: a stream reports an observed state. While the state is unknown, nothing is sent, and the last state stands. A
trigger that its ScaledObject declares always gets a stream, however many others are open.
"""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator

from keda_gpu_scaler.core.interfaces import MAX_STREAMS
from keda_gpu_scaler.server.request_resolver import ResolvedTrigger, Standing
from keda_gpu_scaler.server.stream_limit import TooManyStreamsError

HEARTBEAT_SECONDS = 60.0
"""A stream repeats an unchanged state after this time; every ``true`` costs KEDA a status write."""
MAX_UNDECLARED_STREAMS = 64
"""The number of streams of all triggers that no ScaledObject declares. KEDA opens none of them for long."""
MAX_STREAMS_PER_TRIGGER = 8
"""The number of streams of one trigger that one client may have open; KEDA has one, and another after a restart."""
_TURN_SECONDS = 0.005
_COMPARE_SECONDS = 1.0


class ActivityStream:
    """One open StreamIsActive: its trigger and client, the state that was sent last, and an event that resumes it."""

    __slots__ = ("client", "resolved", "sent", "wake")

    def __init__(self, resolved: ResolvedTrigger, client: str) -> None:
        self.resolved = resolved
        self.client = client
        self.sent: bool | None = None
        self.wake = asyncio.Event()


class ActivityStreams:
    """All open streams, by trigger.

    Args:
        activity: returns whether a resolved's workload is active at a time, or None while that is unknown.
        clock: monotonic seconds.
        settle: returns a trigger with the standing that it has now; without it every trigger keeps its own.
    """

    def __init__(
        self,
        activity: Callable[[ResolvedTrigger, float], bool | None],
        clock: Callable[[], float],
        settle: Callable[[ResolvedTrigger, float], ResolvedTrigger] = lambda resolved, now: resolved,
    ) -> None:
        self._activity = activity
        self._clock = clock
        self._settle = settle
        self._streams: dict[ResolvedTrigger, set[ActivityStream]] = {}
        self._is_stopping = False
        self._compared_at = -math.inf

    def __len__(self) -> int:
        return sum(map(len, self._streams.values()))

    @contextlib.contextmanager
    def opened(self, resolved: ResolvedTrigger, client: str) -> Iterator[ActivityStream]:
        """Count a stream as open for the duration of the ``with`` block.

        Args:
            resolved: the trigger with its standing.
            client: identifies the client: its address without the port.

        Raises:
            TooManyStreamsError: a limit is reached; the stream is not counted.
        """
        self._check_limits(resolved, client)
        stream = ActivityStream(resolved, client)
        self._add(stream)
        try:
            yield stream
        finally:
            self._remove(stream)

    async def states(self, stream: ActivityStream) -> AsyncGenerator[bool, None]:
        """Yield the state at once, on every change, and as a slow heartbeat, until ``stop``."""
        resolved, sent_at = stream.resolved, 0.0
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

    def _check_limits(self, resolved: ResolvedTrigger, client: str) -> None:
        declared = sum(len(streams) for it, streams in self._streams.items() if it.standing.counts)
        if not resolved.standing.counts:
            if len(self) - declared >= MAX_UNDECLARED_STREAMS and not self._has_freed_undeclared():
                raise TooManyStreamsError(
                    f"{MAX_UNDECLARED_STREAMS} streams of triggers that no ScaledObject declares are open, which is "
                    "the limit; apply the ScaledObject, or try later"
                )
            return
        own = Counter(stream.client for stream in self._streams.get(resolved, ()))[client]
        is_declared = resolved.standing is Standing.DECLARED
        if is_declared and own >= MAX_STREAMS_PER_TRIGGER:
            raise TooManyStreamsError(
                f"this client has {MAX_STREAMS_PER_TRIGGER} streams of this trigger open, which is the limit; does it "
                "leak streams?"
            )
        if declared >= MAX_STREAMS and (own or not is_declared):
            raise TooManyStreamsError(
                f"{MAX_STREAMS} streams are open, which is the limit; does a client leak streams?"
            )

    def _has_freed_undeclared(self) -> bool:
        """Compare the streams of undeclared triggers again; return whether there is room for another one.

        At the limit each refused stream would compare all of them, so this is done once a second.
        """
        now = self._clock()
        if now - self._compared_at < _COMPARE_SECONDS:
            return False
        self._compared_at = now
        for resolved in [it for it in self._streams if not it.standing.counts]:
            settled = self._settle(resolved, now)
            for stream in list(self._streams[resolved]) if settled is not resolved else ():
                self._remove(stream)
                stream.resolved = settled
                self._add(stream)
        undeclared = sum(len(streams) for it, streams in self._streams.items() if not it.standing.counts)
        return undeclared < MAX_UNDECLARED_STREAMS

    def _add(self, stream: ActivityStream) -> None:
        self._streams.setdefault(stream.resolved, set()).add(stream)

    def _remove(self, stream: ActivityStream) -> None:
        streams = self._streams[stream.resolved]
        streams.discard(stream)
        if not streams:
            del self._streams[stream.resolved]
