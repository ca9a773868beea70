# SPDX-License-Identifier: Apache-2.0
"""Runs TLS over an asyncio connection, with OpenSSL between two memory buffers.

Law: no request is sent before the identity of the server is verified.

``serve`` loads an asyncio without its TLS support. This module is imported by the first https connection, because
OpenSSL takes 4 MiB of memory and most instances scrape no https.
"""

import ssl
from typing import cast

from keda_gpu_scaler.scrape.tcp_stream import TcpStream

_RECEIVED_BYTES = 1 << 16
_buffer = memoryview(bytearray(_RECEIVED_BYTES))  # of all sessions: what is read is copied out of it at once


class TlsStream:
    """A TLS session over a TCP connection.

    Args:
        tcp: the connection.
        context: trusted CAs and the client certificate.
        server_name: the name that the certificate of the server must have.
    """

    def __init__(self, tcp: TcpStream, context: ssl.SSLContext, server_name: str) -> None:
        self._tcp = tcp
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    async def handshake(self) -> None:
        """Run the TLS handshake, which verifies the identity of the server.

        Raises:
            OSError: the handshake ends with an error (``ssl.SSLError``), or the connection is lost.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush_and_receive()
            else:
                self._flush()
                return

    async def read(self, limit_bytes: int) -> bytes:
        """Return received bytes, none at the end.

        Raises:
            OSError: the connection ends without a TLS close. An attacker on the network could have cut it.
        """
        size = 0
        limit_bytes = min(limit_bytes, len(_buffer))
        while not size:
            try:
                size = self._read_record(0, limit_bytes)
            except ssl.SSLWantReadError:
                await self._flush_and_receive()
                continue
            if not size:
                return b""
        # Each read returns one record. Where a part of a record is left, the next call waits for the rest.
        while size < limit_bytes and (self._tls.pending() or self._incoming.pending):
            try:
                record_bytes = self._read_record(size, limit_bytes)
            except ssl.SSLWantReadError:
                break
            if not record_bytes:
                break
            size += record_bytes
        return bytes(_buffer[:size])

    def write(self, content: bytes) -> None:
        """Send bytes.

        Raises:
            OSError: the server closed the session.
        """
        self._tls.write(content)
        self._flush()

    def abort(self) -> None:
        """Close the connection immediately."""
        self._tcp.abort()

    def _read_record(self, at: int, end: int) -> int:
        """Read one record into this part of the buffer and return its size; raises ``ssl.SSLWantReadError``."""
        return cast("int", self._tls.read(end - at, cast("bytearray", _buffer[at:end])))

    def _flush(self) -> None:
        if pending := self._outgoing.read():
            self._tcp.write(pending)

    async def _flush_and_receive(self) -> None:
        """Send pending records, then wait for received ones."""
        self._flush()
        received = await self._tcp.read(_RECEIVED_BYTES)
        if not received:
            raise ConnectionResetError("the connection is closed")
        self._incoming.write(received)
