# SPDX-License-Identifier: Apache-2.0
"""What answers on loopback: an HTTP/1.1 server that says whatever a test wants it to, good or bad."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl

TEXT = "text/plain; version=0.0.4"
Answers = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, on the connection of this number; header names in lower case."""

    connection: int
    method: str
    path: str
    headers: dict[str, str]


def page(body: bytes = b"up 1\n", *, status: str = "200 OK", **headers: str) -> bytes:
    """An answer with its length."""
    named = {"Content-Type": TEXT, "Content-Length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def chunked(*chunks: bytes) -> bytes:
    """An answer in chunks, with its end."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def until_closed(body: bytes) -> bytes:
    """An answer that ends with its connection."""
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body


def says(answer: bytes) -> Answers:
    """Answer so, and go on."""

    async def answers(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return answers


def says_and_closes(answer: bytes) -> Answers:
    """Answer so, and close."""

    async def answers(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    return answers


def says_and_drops(answer: bytes) -> Answers:
    """Answer so, and let go of the connection without another word."""

    async def answers(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.transport.abort()

    return answers


def never_ends(beginning: bytes, more: bytes = b"") -> Answers:
    """Begin so, and then add a little, again and again."""

    async def answers(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while more:
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    return answers


def wants_token(token: str) -> Answers:
    """Answer only to this token."""

    async def answers(asked: Asked, writer: asyncio.StreamWriter) -> None:
        is_known = asked.headers.get("authorization") == f"Bearer {token}"
        writer.write(page() if is_known else page(b"", status="401 Unauthorized"))

    return answers


class Server:
    """Listens while it is entered.

    ``asked`` is what came, in order; ``opened`` and ``open`` count connections; ``closed`` is set when one ends.
    """

    def __init__(self, answers: Answers, *, tls: "ssl.SSLContext | None" = None, host: str = "127.0.0.1") -> None:
        self._answers = answers
        self._tls = tls
        self._host = host
        self._connections: set[asyncio.Task[None]] = set()
        self.asked: list[Asked] = []
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
        assert task is not None
        self._connections.add(task)
        self.opened += 1
        self.open += 1
        number = self.opened
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                asked = _read(number, await reader.readuntil(b"\r\n\r\n"))
                self.asked.append(asked)
                await self._answers(asked, writer)
        writer.close()
        self._connections.discard(task)
        self.open -= 1
        self.closed.set()


def _read(connection: int, head: bytes) -> Asked:
    first, *lines = head.decode().rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines), lines
    return Asked(connection, method, path, {name.lower(): value for name, value in headers.items()})
