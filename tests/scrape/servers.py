# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 server on loopback whose responses a test defines, valid or not."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl

TEXT = "text/plain; version=0.0.4"
Handler = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """One request, with the number of its connection; header names are in lower case."""

    connection: int
    method: str
    path: str
    headers: dict[str, str]


def page(body: bytes = b"up 1\n", *, status: str = "200 OK", **headers: str) -> bytes:
    """A response with a content length."""
    named = {"Content-Type": TEXT, "Content-Length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def chunked(*chunks: bytes) -> bytes:
    """A response in chunks, with the last chunk."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def until_closed(body: bytes) -> bytes:
    """A response that ends with the connection."""
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body


def responds(response: bytes) -> Handler:
    """Send this response to each request."""

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response)

    return handler


def responds_and_closes(response: bytes) -> Handler:
    """Send this response and close the connection."""

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        await writer.drain()
        writer.close()

    return handler


def responds_and_aborts(response: bytes) -> Handler:
    """Send this response and abort the connection, without a TLS close."""

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        await writer.drain()
        writer.transport.abort()

    return handler


def never_ends(beginning: bytes, more: bytes = b"") -> Handler:
    """Send a beginning, then ``more`` again and again; the response never ends."""

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while more:
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    return handler


def requires_token(token: str) -> Handler:
    """Send a page only to requests with this token."""

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        is_known = request.headers.get("authorization") == f"Bearer {token}"
        writer.write(page() if is_known else page(b"", status="401 Unauthorized"))

    return handler


class Server:
    """Listens inside its ``async with`` block.

    ``requests`` has the received requests in order; ``opened`` and ``open`` count connections; ``closed`` is set when a
    connection ends.
    """

    def __init__(self, handler: Handler, *, tls: "ssl.SSLContext | None" = None, host: str = "127.0.0.1") -> None:
        self._handler = handler
        self._tls = tls
        self._host = host
        self._connections: set[asyncio.Task[None]] = set()
        self.requests: list[Request] = []
        self.opened = 0
        self.open = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self.closed = asyncio.Event()
        self._server = await asyncio.start_server(self._serve, self._host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        connections = tuple(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
        self.opened += 1
        self.open += 1
        number = self.opened
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                request = _parse_request(number, await reader.readuntil(b"\r\n\r\n"))
                self.requests.append(request)
                await self._handler(request, writer)
        writer.close()
        if task is not None:
            self._connections.discard(task)
        self.open -= 1
        self.closed.set()


def _parse_request(connection: int, head: bytes) -> Request:
    first, *lines = head.decode().rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    if len(headers) != len(lines):
        raise AssertionError(f"a header occurs twice: {lines}")
    return Request(connection, method, path, {name.lower(): value for name, value in headers.items()})
