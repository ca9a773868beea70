# SPDX-License-Identifier: Apache-2.0
"""What does this instance tell the others? Its own snapshots, to whoever follows it.

The law of this module: a follower that is slow costs nothing. It gets the newest snapshot when it can take it, and
what it missed in between was never written.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import grpc
from grpc.aio import ServicerContext

from keda_gpu_scaler.core.state.fleet import History
from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire import fleet_pb2_grpc as pb_grpc
from keda_gpu_scaler.wire.snapshot_codec import CodecError, encode, encode_change

MAX_FOLLOWERS = 64
"""KEDA asks one instance or two; more follow only while connections move."""
WORD_SECONDS = 2.0
"""An instance without anything new says that it is there so often, and by that why."""
MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS = 0.1, 60.0
# Sent a little before it is due, or a sampler's jitter would make a follower miss every other snapshot.
_EARLY = 0.8


class FleetServer(pb_grpc.FleetServicer):
    """Serves Watch.

    Args:
        history: returns this node's history, None before the first snapshot.
        failure: returns why there is nothing newer, None while all is well.
        clock: monotonic seconds, the clock that dated the history.
        instance: this instance's random name.
        deviceless: whether having no device is by design.
    """

    def __init__(
        self,
        history: Callable[[], History | None],
        failure: Callable[[], str | None],
        clock: Callable[[], float],
        instance: str,
        *,
        deviceless: bool = False,
    ) -> None:
        self._history = history
        self._failure = failure
        self._clock = clock
        self._instance = instance
        self._deviceless = deviceless
        self._followers: set[asyncio.Event] = set()
        self._stopping = asyncio.Event()
        self._newest: Snapshot | None = None
        self._whole = b""
        self._changes: dict[int, bytes | None] = {}

    def published(self) -> None:
        """Wake the followers; to be called in the event loop after every snapshot and every failure."""
        for news in self._followers:
            news.set()

    def stop(self) -> None:
        """End every Watch with OK, at once and from now on."""
        self._stopping.set()
        self.published()

    async def Watch(self, request: pb.WatchRequest, context: ServicerContext) -> AsyncIterator[pb.Update]:  # noqa: N802
        """Tell the newest snapshot at once, and then every newer one at the pace that was asked for."""
        if len(self._followers) >= MAX_FOLLOWERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_FOLLOWERS} instances follow this one, the most there may be"
            )
        # In this order NaN becomes the shortest.
        interval = min(max(MIN_INTERVAL_SECONDS, request.interval_seconds or 1.0), MAX_INTERVAL_SECONDS)
        news = asyncio.Event()
        self._followers.add(news)
        try:
            sent: Snapshot | None = None
            while not self._stopping.is_set():
                news.clear()
                history = self._history() if not self._deviceless else None
                update = self._update(history, sent)
                yield update
                if history is not None and (update.snapshot or update.change):
                    sent = history.newest
                # The first snapshot is not waited for longer than it takes; a failure is told at the same pace as news.
                if history is not None or update.failure or self._deviceless:
                    await self._pause(_EARLY * interval)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(WORD_SECONDS):
                        await news.wait()
        finally:
            self._followers.discard(news)

    async def _pause(self, seconds: float) -> None:
        """Let time pass, unless the end comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _update(self, history: History | None, sent: Snapshot | None) -> pb.Update:
        update = pb.Update(instance=self._instance, failure=self._failure() or "", deviceless=self._deviceless)
        if history is None:
            return update
        update.age_seconds = history.age_seconds(self._clock())
        if history.newest is sent:
            return update
        try:
            change = self._change(sent, history.newest) if sent is not None else None
            if change is not None:
                update.change = change
            else:
                update.snapshot = self._encoded(history.newest)
        except CodecError as error:
            update.failure = f"its snapshot cannot be told: {error}"
        return update

    def _encoded(self, newest: Snapshot) -> bytes:
        self._turn_to(newest)
        if not self._whole:
            self._whole = encode(newest).encode("ascii")
        return self._whole

    def _change(self, sent: Snapshot, newest: Snapshot) -> bytes | None:
        """Write a change once for all followers that were told the same before."""
        self._turn_to(newest)
        if sent.sequence not in self._changes:
            change = encode_change(sent, newest)
            self._changes[sent.sequence] = None if change is None else change.encode("ascii")
        return self._changes[sent.sequence]

    def _turn_to(self, newest: Snapshot) -> None:
        if self._newest is not newest:
            self._newest, self._whole = newest, b""
            self._changes.clear()
