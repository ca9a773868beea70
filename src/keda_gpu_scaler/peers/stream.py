# SPDX-License-Identifier: Apache-2.0
"""The Watch stream of one peer: connection, timeout, limits and decoding.

Law: a peer that sends nothing, too much or invalid data is limited here, and costs other peers nothing.
"""

import asyncio
import math
from types import TracebackType

import grpc

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.peers.limits import MAX_MESSAGE_BYTES, PeerClock, PeerError, RateLimit, check_size
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire.snapshot_codec import MAX_NUMBER, CodecError, apply_change, decode
from keda_gpu_scaler.wire.tls import ClientTls

WATCH = "/keda_gpu_scaler.fleet.v1.Fleet/Watch"
REGISTER_INTEREST = "/keda_gpu_scaler.fleet.v1.Fleet/RegisterInterest"
"""The paths of the gRPC methods."""

_MIN_TIMEOUT_SECONDS = 6.0  # three keepalive updates of the server
_INTEREST_TIMEOUT_SECONDS = 1.0  # the next update of this peer waits for it, and no other peer does
_MAX_CONNECT_SECONDS = 0.25  # after this time a peer gives its connection slot to the next one
# A sample without readings is short as JSON, and has about ten times that length in memory.
_DECODED_FACTOR, _REFERENCE_BYTES = 10, 8
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # each attempt is a new connection, without the back-off of gRPC
)


class ConnectionSlot:
    """One of a bounded number of connection attempts at the same time.

    The slot is released when the block ends, or after ``_MAX_CONNECT_SECONDS``: hundreds of peers that do not answer
    must not delay those that do.
    """

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._slots.acquire()
        self._timer = asyncio.get_running_loop().call_later(_MAX_CONNECT_SECONDS, self._release)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._slots.release()


class PeerStream:
    """One open Watch stream, and the last snapshot that it carried.

    ``decoded_bytes`` is an estimate of the memory that this snapshot adds to those before it. ``interest_due_at`` is
    when interest in the performance readings is forwarded again.

    Args:
        address: "HOST:PORT" of the peer.
        interval_seconds: the requested time between two updates.
        max_delay_seconds: how late an update may be.
        tls: the certificates; None for plain text.
    """

    def __init__(
        self, address: str, interval_seconds: float, max_delay_seconds: float, tls: ClientTls | None = None
    ) -> None:
        self.address = address
        self.timeout_seconds = max(3 * interval_seconds, _MIN_TIMEOUT_SECONDS)
        self.last: Snapshot | None = None
        self.has_valid_update = False
        self.decoded_bytes = 0
        self.interest_due_at = -math.inf
        self._interval = interval_seconds
        self._tls = tls
        self._clock = PeerClock(max_delay_seconds)
        self._rate_limit: RateLimit | None = None
        self._channel: grpc.aio.Channel | None = None
        self._call: grpc.aio.UnaryStreamCall | None = None

    async def open(self) -> None:
        """Start the connection, with the current certificates.

        Raises:
            TlsError: the certificates cannot be used.
        """
        if self._tls is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=_CHANNEL_OPTIONS)
        else:
            options = (*_CHANNEL_OPTIONS, *self._tls.options())
            self._channel = grpc.aio.secure_channel(self.address, self._tls.credentials(), options=options)
        # Bytes, because gRPC would replace an invalid message by None and log a traceback.
        watch = self._channel.unary_stream(WATCH)
        self._call = watch(pb.WatchRequest(interval_seconds=self._interval).SerializeToString())

    async def read(self) -> bytes | None:
        """Return the next message, None at the end of the stream.

        Raises:
            TimeoutError: no message came for ``timeout_seconds``.
            AioRpcError: the call ended with an error.
            PeerError: the peer sends too much.
            RuntimeError: the stream is not open.
        """
        if self._call is None:
            raise RuntimeError("the stream is not open")
        async with asyncio.timeout(self.timeout_seconds):
            message: bytes = await self._call.read()
        if message is grpc.aio.EOF:
            return None
        now = asyncio.get_running_loop().time()
        if self._rate_limit is None:
            self._rate_limit = RateLimit(self._interval, now)
        self._rate_limit.check(message, now)
        return message

    async def register_interest(self, seconds: float) -> None:
        """Have the peer take its performance readings for a while.

        Raises:
            AioRpcError: the peer does not answer in time, or does not have the method.
            RuntimeError: the stream is not open.
        """
        if self._channel is None:
            raise RuntimeError("the stream is not open")
        register = self._channel.unary_unary(REGISTER_INTEREST)
        request = pb.InterestRequest(seconds=seconds).SerializeToString()
        await register(request, timeout=_INTEREST_TIMEOUT_SECONDS)

    def decode(self, update: pb.Update) -> Snapshot | None:
        """Return the snapshot of an update, None if it carries none.

        Raises:
            CodecError: the update is invalid.
            PeerError: the snapshot is too large, or of another node than the one before.
        """
        snapshot = None
        # NaN compares false with everything, so this check also refuses NaN. A snapshot without a valid age would
        # never become stale.
        if not 0 <= update.age_seconds <= MAX_NUMBER:
            raise CodecError(f"age_seconds: Invalid value: {update.age_seconds:g}: must be from 0 to {MAX_NUMBER:g}")
        if update.snapshot:
            snapshot = decode(update.snapshot)
            self.decoded_bytes = _DECODED_FACTOR * len(update.snapshot)
        elif update.change:
            if self.last is None:
                raise CodecError("change: Invalid value: it came before any snapshot")
            snapshot = apply_change(self.last, update.change)
            self.decoded_bytes = _DECODED_FACTOR * len(update.change) + _REFERENCE_BYTES * len(snapshot.samples)
        if snapshot is not None:
            self._check(snapshot)
        self.has_valid_update = True
        self.last = snapshot or self.last
        return snapshot

    def _check(self, snapshot: Snapshot) -> None:
        if self.last is not None and snapshot.node != self.last.node:
            raise PeerError(f"it changed its node name from {quoted(self.last.node)} to {quoted(snapshot.node)}")
        check_size(snapshot)

    def taken_at(self, snapshot: Snapshot, age_seconds: float, now: float) -> float:
        """Return when a snapshot was taken, on the clock of this instance.

        Raises:
            PeerError: the clock of the peer cannot be right.
        """
        return self._clock.to_local(snapshot.at_seconds, age_seconds, now)

    async def close(self) -> None:
        """Close the connection. Closing twice is harmless."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()
