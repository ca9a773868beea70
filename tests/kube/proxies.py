# SPDX-License-Identifier: Apache-2.0
"""Proxies that carry connections to a server: HTTP with CONNECT, and SOCKS5 (RFC 1928, RFC 1929)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self


class Proxy:
    """Carries every connection to ``upstream``, whatever host is asked for; ``asked`` lists the hosts and ports."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self.asked: list[str] = []
        self.port = 0
        self._connections: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Listen while the block lasts; its end ends every connection."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._greet(reader, writer)
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
                writers.append(inner_writer)
                await asyncio.gather(_carry(reader, inner_writer), _carry(inner_reader, writer))
        finally:
            for one in writers:
                one.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class HttpProxy(Proxy):
    """A proxy for CONNECT. ``authorizations`` lists what the clients sent as Proxy-Authorization."""

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self.authorizations: list[str] = []

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = (await reader.readline()).decode().split()
        if method != "CONNECT":
            raise ConnectionError(method)
        self.asked.append(target)
        while (line := (await reader.readline()).decode().strip()) != "":
            name, _, value = line.partition(": ")
            if name.lower() == "proxy-authorization":
                self.authorizations.append(value)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")


class Socks5Proxy(Proxy):
    """A proxy without authentication that resolves names itself."""

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        _, _, _, kind = await reader.readexactly(4)
        length = (await reader.readexactly(1))[0] if kind == 3 else 4  # a domain name, or IPv4
        host = await reader.readexactly(length)
        port = int.from_bytes(await reader.readexactly(2), "big")
        name = host.decode() if kind == 3 else ".".join(map(str, host))
        self.asked.append(f"{name}:{port}")
        writer.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    writer.close()
