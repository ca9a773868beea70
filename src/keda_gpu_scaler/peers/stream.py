# SPDX-License-Identifier: Apache-2.0
"""The Watch stream of one peer: connection, timeout, rate limit and decoding.

Law: a peer that sends nothing, too much or invalid data is limited here, and costs other peers nothing.
"""

import asyncio
import math
from types import TracebackType

import grpc

from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire.snapshot_codec import MAX_LENGTH, MAX_NUMBER, CodecError, apply_change, decode
from keda_gpu_scaler.wire.tls import ClientTls

WATCH = "/keda_gpu_scaler.fleet.v1.Fleet/Watch"
REGISTER_INTEREST = "/keda_gpu_scaler.fleet.v1.Fleet/RegisterInterest"
"""The paths of the gRPC methods."""

_MIN_TIMEOUT_SECONDS = 6.0  # three keepalive updates of the server
_INTEREST_TIMEOUT_SECONDS = 1.0  # the next update of this peer waits for it, and no other peer does
_MAX_CONNECT_SECONDS = 0.25  # after this time a peer gives its connection slot to the next one
# A peer may send updates this much faster than requested, and this many at once. Then the client delays its reads.
_MIN_INTERVAL_FACTOR, _MAX_BURST = 0.5, 3
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_LENGTH + 4096),
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

    ``interest_due_at`` is when interest in the performance readings is forwarded again.

    Args:
        address: "HOST:PORT" of the peer.
        interval_seconds: the requested time between two updates.
        tls: the certificates; None for plain text.
    """

    def __init__(self, address: str, interval_seconds: float, tls: ClientTls | None = None) -> None:
        self.address = address
        self.timeout_seconds = max(3 * interval_seconds, _MIN_TIMEOUT_SECONDS)
        self.last: Snapshot | None = None
        self.has_valid_update = False
        self.interest_due_at = -math.inf
        self._interval = interval_seconds
        self._tls = tls
        self._next_read_at = -math.inf
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
            RuntimeError: the stream is not open.
        """
        if self._call is None:
            raise RuntimeError("the stream is not open")
        async with asyncio.timeout(self.timeout_seconds):
            message = await self._call.read()
        return None if message is grpc.aio.EOF else message

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
        """
        snapshot = None
        # NaN compares false with everything, so this check also refuses NaN. A snapshot without a valid age would
        # never become stale.
        if not 0 <= update.age_seconds <= MAX_NUMBER:
            raise CodecError(f"age_seconds: Invalid value: {update.age_seconds:g}: must be from 0 to {MAX_NUMBER:g}")
        if update.snapshot:
            snapshot = decode(update.snapshot)
        elif update.change:
            if self.last is None:
                raise CodecError("change: Invalid value: it came before any snapshot")
            snapshot = apply_change(self.last, update.change)
        self.has_valid_update = True
        self.last = snapshot or self.last
        return snapshot

    async def limit_rate(self) -> None:
        """Wait if the peer sends faster than requested. Flow control stops a peer whose messages are not read."""
        now, step = asyncio.get_running_loop().time(), _MIN_INTERVAL_FACTOR * self._interval
        self._next_read_at = max(self._next_read_at, now - (_MAX_BURST - 1) * step) + step
        if self._next_read_at > now:
            await asyncio.sleep(self._next_read_at - now)

    async def close(self) -> None:
        """Close the connection. Closing twice is harmless."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()
