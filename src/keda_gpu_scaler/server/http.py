# SPDX-License-Identifier: Apache-2.0
"""A small HTTP server for GET and HEAD, built on h11, and the pages for the kubelet's probes.

Law: a client costs a bounded time and a bounded amount of memory, whatever it sends.
"""

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import h11

from keda_gpu_scaler.file_descriptors import max_page_connections

_PLAIN = "text/plain; charset=utf-8"
_REQUEST_TIMEOUT_SECONDS = 5.0
_MAX_REQUEST_BYTES = 16_384
_MAX_CONNECTIONS = 128


@dataclass(frozen=True, slots=True)
class HttpPage:
    """One response of the HTTP server; ``headers`` are added to the usual ones."""

    body: str
    status: int = 200
    content_type: str = _PLAIN
    headers: tuple[tuple[str, str], ...] = ()


HttpPages = Mapping[str, Callable[[], HttpPage]]
"""The function that makes each page, by path."""
QueryPages = Mapping[str, Callable[[str], HttpPage]]
"""The function that makes each page of its query string, by path."""


def probe_pages(not_ready_reason: Callable[[], str | None]) -> HttpPages:
    """Return the pages for the kubelet's probes.

    Alive: the event loop answers. A hanging driver does not count, because a restart of this pod does not repair it.
    Ready: this instance has data for its answers.

    Args:
        not_ready_reason: returns why this instance is not ready, None when it is ready.
    """

    def alive() -> HttpPage:
        return HttpPage("ok\n")

    def ready() -> HttpPage:
        reason = not_ready_reason()
        return HttpPage("ok\n") if reason is None else HttpPage(f"not ready: {reason}\n", status=503)

    return {"/livez": alive, "/healthz": alive, "/readyz": ready}


class HttpServer:
    """Serves pages to GET and HEAD requests on one port, until it is closed.

    Bounds: the time of a connection, the size of a request's head, and the number of connections.

    Args:
        pages: the pages without a query string; one that is sent is ignored.
        query_pages: the pages that depend on the query string.
    """

    def __init__(self, pages: HttpPages, query_pages: QueryPages | None = None) -> None:
        self._pages = pages
        self._query_pages = query_pages or {}
        self._max_connections = min(_MAX_CONNECTIONS, max_page_connections())
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], str] = {}  # the client's address, oldest first

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port. The operating system chooses one when ``port`` is 0.

        Raises:
            OSError: listening on the address is not possible.
        """
        socket_ = listener(host, port)
        bound: int = socket_.getsockname()[1]
        # asyncio accepts this many connections before the first of them is served, and may be dropped.
        backlog = self._max_connections
        self._server = await asyncio.start_server(self._serve, sock=socket_, limit=_MAX_REQUEST_BYTES, backlog=backlog)
        socket_.listen(_MAX_CONNECTIONS)  # those that wait in the operating system need no descriptor
        return bound

    async def close(self) -> None:
        """Stop listening, and drop the open connections."""
        if self._server is None:
            return
        self._server.close()
        connections = tuple(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served outside of a task")  # asyncio starts one for each connection
        if len(self._connections) >= self._max_connections:
            self._drop_one()
        self._connections[task] = _host(writer)
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_SECONDS):
                await self._handle_request(reader, writer)
                writer.close()
                await writer.wait_closed()  # a client that does not read keeps the connection open
        except (TimeoutError, ConnectionError, asyncio.CancelledError):
            # The client left or does not read. Drop the buffered response, and log nothing.
            writer.transport.abort()
        finally:
            self._connections.pop(task, None)

    def _drop_one(self) -> None:
        """Drop the oldest connection of the client with the most connections.

        The oldest is the least likely to finish. Refusing the newest would let a few idle clients lock the kubelet
        out, and dropping the oldest of all clients would let one client with many connections do the same.
        """
        [(busiest, _)] = Counter(self._connections.values()).most_common(1)
        oldest = next(task for task, host in self._connections.items() if host == busiest)
        del self._connections[oldest]  # before it ends, so that the next connection drops another one
        oldest.cancel()

    async def _handle_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request. There is no keep-alive, because scrapes and probes are seconds apart."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_REQUEST_BYTES)
        try:
            request = await _read_request(connection, reader)
        except h11.RemoteProtocolError as error:
            request = None
            page = HttpPage("the request is not valid HTTP, or its head is too long\n", error.error_status_hint)
        else:
            if request is None:
                return
            page = self._page(request)
        is_head = request is not None and request.method == b"HEAD"
        writer.write(_response(connection, page, without_body=is_head))
        await writer.drain()

    def _page(self, request: h11.Request) -> HttpPage:
        path, _, query = request.target.decode("ascii", "replace").partition("?")
        if request.method not in (b"GET", b"HEAD"):
            return HttpPage("only GET and HEAD are served\n", status=405)
        if path in self._query_pages:
            return self._query_pages[path](query)
        if path not in self._pages:
            known = ", ".join(sorted({*self._pages, *self._query_pages}))
            return HttpPage(f"there is no page {path!a}; the pages are {known}\n", status=404)
        return self._pages[path]()


def _host(writer: asyncio.StreamWriter) -> str:
    address = writer.get_extra_info("peername")
    return str(address[0]) if address else ""  # none where the client has left already


def listener(host: str, port: int) -> socket.socket:
    """Return a listening socket. The host "::" selects every interface, with IPv6 and IPv4.

    Raises:
        OSError: listening on the address is not possible.
    """
    # asyncio makes "::" an IPv6-only socket, and a kubelet on an IPv4 node cannot probe that.
    if host == "::":
        if socket.has_dualstack_ipv6():
            try:
                return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
        host = "0.0.0.0"  # noqa: S104  the caller requests every interface
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


async def _read_request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Read the head of one request. Return None when the client leaves before the head is complete."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await reader.read(_MAX_REQUEST_BYTES))


def _response(connection: h11.Connection, page: HttpPage, *, without_body: bool) -> bytes:
    body = page.body.encode(errors="backslashreplace")
    headers = [
        ("Content-Type", page.content_type),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        *page.headers,
    ]
    parts = [connection.send(h11.Response(status_code=page.status, headers=headers))]
    if not without_body:
        parts.append(connection.send(h11.Data(data=body)))
    parts.append(connection.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part)
