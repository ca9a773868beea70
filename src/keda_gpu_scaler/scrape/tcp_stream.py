# SPDX-License-Identifier: Apache-2.0
"""A TCP connection as a stream of bytes.

Law: what is received and not read yet is bounded. Above the bound nothing is received until it is read.

asyncio's own streams allocate 256 KiB for each receive and wake their reader through more steps. A front end receives
hundreds of pages a second.
"""

import asyncio
from typing import cast

RECEIVE_BYTES = 1 << 16
_MAX_UNREAD_BYTES = 2 * RECEIVE_BYTES
_buffer = memoryview(bytearray(RECEIVE_BYTES))  # of all connections: what is received is copied out of it at once


class TcpStream(asyncio.BufferedProtocol):
    """A TCP connection without TLS."""

    def __init__(self) -> None:
        self._unread: bytes | bytearray = b""
        self._is_paused = self._is_ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def peer(self) -> tuple[str, int] | None:
        """The address and port of the server, None where the connection is lost already."""
        return cast("tuple[str, int] | None", self._transport.get_extra_info("peername"))

    async def read(self, limit_bytes: int) -> bytes:
        """Return received bytes, none at the end; raises OSError."""
        if not self._unread and not self._is_ended:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None:
            raise self._error
        content = self._unread if len(self._unread) <= limit_bytes else self._unread[:limit_bytes]
        self._unread = self._unread[len(content) :]
        if self._is_paused and len(self._unread) <= RECEIVE_BYTES:
            self._is_paused = False
            self._transport.resume_reading()
        return bytes(content)

    def write(self, content: bytes) -> None:
        """Send bytes."""
        self._transport.write(content)

    def abort(self) -> None:
        """Close the connection immediately."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes are received."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Keep the received bytes until they are read."""
        if not self._unread:
            self._unread = bytes(_buffer[:nbytes])  # the usual case, without a second copy
        else:
            if isinstance(self._unread, bytes):
                self._unread = bytearray(self._unread)
            self._unread += _buffer[:nbytes]
        if len(self._unread) > _MAX_UNREAD_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """Note that the server sends no more; the caller closes the connection."""
        self._is_ended = True
        self._wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is lost."""
        self._is_ended = True
        self._error = exc
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def connect(address: str, port: int) -> TcpStream:
    """Connect to an address; raises OSError."""
    _, stream = await asyncio.get_running_loop().create_connection(TcpStream, address, port)
    return stream
