# SPDX-License-Identifier: Apache-2.0
"""How is TLS spoken over a connection? By OpenSSL between two buffers, since ``serve`` has an asyncio without it.

The law of this module: nothing is said before the peer is who it must be.

Imported by the first connection that needs it: OpenSSL takes 4 MiB, which whoever asks no https need not pay for.
"""

import asyncio
import ssl

_RECORD_BYTES = 1 << 14


class Secured:
    """A connection with TLS over it.

    Args:
        reader: what comes from the peer.
        writer: what goes to it.
        context: whom to believe, and what to show.
        server_name: who the peer must be.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, server_name: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    async def shake_hands(self) -> None:
        """Agree on keys, and see who the peer is.

        Raises:
            OSError: they do not agree (``ssl.SSLError``), or the connection breaks.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
            else:
                self._send()
                return

    async def read(self, limit_bytes: int) -> bytes:
        """Return what came, nothing at the end.

        Raises:
            OSError: it ends without the peer's saying so, which anybody on the way could bring about.
        """
        while True:
            try:
                return self._tls.read(min(limit_bytes, _RECORD_BYTES))
            except ssl.SSLWantReadError:
                await self._exchange()

    def write(self, content: bytes) -> None:
        """Send this.

        Raises:
            OSError: the peer ended it.
        """
        self._tls.write(content)
        self._send()

    def abort(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()

    def _send(self) -> None:
        if pending := self._outgoing.read():
            self._writer.write(pending)

    async def _exchange(self) -> None:
        """Send what is to be sent, and wait for what comes."""
        self._send()
        received = await self._reader.read(_RECORD_BYTES)
        if not received:
            raise ConnectionResetError("the connection is closed")
        self._incoming.write(received)
