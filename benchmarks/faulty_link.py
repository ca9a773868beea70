# SPDX-License-Identifier: Apache-2.0
"""A TCP connection between two processes that can be cut, blocked, slowed down and corrupted."""

import asyncio
import contextlib
import random
from enum import Enum

_PIECE_BYTES = 1 << 16
_SLOW_SECONDS = 0.4
_CORRUPTED_BYTES = 24


class LinkMode(Enum):
    """What happens to what is sent."""

    WORK = "work"
    DROP = "drop"
    """Nothing arrives and no connection ends, as in a network that is divided."""
    SLOW = "slow"
    """Each piece arrives late."""
    CORRUPT = "corrupt"
    """A part of some pieces has other bytes."""
    CUT = "cut"
    """Each connection ends, and a new one ends at once."""


class FaultyLink:
    """Forwards the connections of one port to another; ``mode`` may change at any time."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._mode = LinkMode.WORK
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._random = random.Random(7)  # noqa: S311 - a simulated fault
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End each connection, and return when all have ended."""
        self._server.close()
        self.become(LinkMode.CUT)
        await asyncio.gather(*self._connections, return_exceptions=True)

    def become(self, mode: LinkMode) -> None:
        """Change what happens from now on."""
        self._mode = mode
        if mode is LinkMode.DROP:
            self._is_open.clear()
        else:
            self._is_open.set()
        if mode is LinkMode.CUT:
            self._abort()

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        if connection is not None:
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)
        await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is LinkMode.CUT:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self._writers -= {writer, far_writer}
            for each in (writer, far_writer):
                each.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                await self._is_open.wait()
                if self._mode is LinkMode.SLOW:
                    await asyncio.sleep(_SLOW_SECONDS)
                if self._mode is LinkMode.CORRUPT and self._random.random() < 0.5:
                    piece = self._corrupted(piece)
                writer.write(piece)
                await writer.drain()

    def _corrupted(self, piece: bytes) -> bytes:
        at = self._random.randrange(len(piece))
        noise = self._random.randbytes(min(_CORRUPTED_BYTES, len(piece) - at))
        return piece[:at] + noise + piece[at + len(noise) :]
