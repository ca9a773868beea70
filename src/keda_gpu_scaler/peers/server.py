# SPDX-License-Identifier: Apache-2.0
"""Serves the snapshots of this node to the instances that follow it.

Law: a slow follower costs nothing. It gets the newest snapshot when it can receive one, and the snapshots that it
missed were never encoded for it.
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
"""KEDA calls one or two instances. Others follow only while KEDA changes its connection."""
KEEPALIVE_SECONDS = 2.0
"""Without a new snapshot the server sends an update after this time. It carries the failure, if there is one."""
MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS = 0.1, 60.0
# Below 1, because the jitter of the sampler would otherwise make a follower miss every other snapshot.
_PAUSE_FACTOR = 0.8


class FleetServer(pb_grpc.FleetServicer):
    """Implements the Fleet service.

    Args:
        history: returns this node's history, None before the first snapshot.
        failure: returns why there is no newer snapshot, None without a failure.
        clock: monotonic seconds, the clock of the history.
        instance: the random name of this instance.
        deviceless: whether this instance has no device by design.
        on_interest: called with the number of seconds for which a follower wants the performance readings.
    """

    def __init__(
        self,
        history: Callable[[], History | None],
        failure: Callable[[], str | None],
        clock: Callable[[], float],
        instance: str,
        *,
        deviceless: bool = False,
        on_interest: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._history = history
        self._failure = failure
        self._clock = clock
        self._instance = instance
        self._deviceless = deviceless
        self._on_interest = on_interest
        self._followers: set[asyncio.Event] = set()
        self._stopping = asyncio.Event()
        # Encoded once for all followers.
        self._encoded_snapshot: Snapshot | None = None
        self._whole = b""
        self._changes: dict[int, bytes | None] = {}

    def published(self) -> None:
        """Send an update to the followers. The caller runs this in the event loop after every snapshot and failure."""
        for news in self._followers:
            news.set()

    def stop(self) -> None:
        """End every Watch with OK, now and from now on."""
        self._stopping.set()
        self.published()

    async def Watch(self, request: pb.WatchRequest, context: ServicerContext) -> AsyncIterator[pb.Update]:  # noqa: N802
        """Send the newest snapshot at once, and every newer one at the requested interval."""
        if len(self._followers) >= MAX_FOLLOWERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_FOLLOWERS} instances follow this one, the maximum"
            )
        # With the arguments in this order NaN becomes the minimum.
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
                # The first snapshot is sent without a pause. Failures are sent at the requested interval.
                if history is not None or update.failure or self._deviceless:
                    await self._pause(_PAUSE_FACTOR * interval)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(KEEPALIVE_SECONDS):
                        await news.wait()
        finally:
            self._followers.discard(news)

    async def RegisterInterest(  # noqa: N802
        self, request: pb.InterestRequest, context: ServicerContext
    ) -> pb.InterestReply:
        """Note that a follower wants the performance readings. The sampler takes them later, in its own thread."""
        self._on_interest(request.seconds)
        return pb.InterestReply()

    async def _pause(self, seconds: float) -> None:
        """Wait, or return early when the server stops."""
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
            change = self._encode_change(sent, history.newest) if sent is not None else None
            if change is not None:
                update.change = change
            else:
                update.snapshot = self._encode_whole(history.newest)
        except CodecError as error:
            update.failure = f"its snapshot cannot be encoded: {error}"
        return update

    def _encode_whole(self, newest: Snapshot) -> bytes:
        self._reset_cache_for(newest)
        if not self._whole:
            self._whole = encode(newest).encode("ascii")
        return self._whole

    def _encode_change(self, sent: Snapshot, newest: Snapshot) -> bytes | None:
        """Encode a change once for all followers that have the same previous snapshot."""
        self._reset_cache_for(newest)
        if sent.sequence not in self._changes:
            change = encode_change(sent, newest)
            self._changes[sent.sequence] = None if change is None else change.encode("ascii")
        return self._changes[sent.sequence]

    def _reset_cache_for(self, newest: Snapshot) -> None:
        if self._encoded_snapshot is not newest:
            self._encoded_snapshot, self._whole = newest, b""
            self._changes.clear()
