# SPDX-License-Identifier: Apache-2.0
"""A client of HTTP/2 frames (RFC 9113) that pings as often as a test wants."""

import asyncio
import struct
from dataclasses import dataclass

SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 0x1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    payload: bytes


class Http2Client:
    """One connection. ``connected`` makes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connected(cls, port: int) -> "Http2Client":
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        client._writer.write(_PREFACE + _frame(SETTINGS))
        return client

    def ping(self) -> None:
        self._writer.write(_frame(PING, payload=bytes(8)))

    async def frame(self) -> Frame:
        """Return the next frame that is sent."""
        head = await self._reader.readexactly(9)
        return Frame(head[3], head[4], await self._reader.readexactly(int.from_bytes(head[:3], "big")))

    def close(self) -> None:
        self._writer.close()


def _frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload
