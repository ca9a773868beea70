# SPDX-License-Identifier: Apache-2.0
"""Sends GET requests over one HTTP/1.1 connection, and pools idle connections.

Law: a response uses a bounded amount of memory, however the server behaves. A page is not kept: its reader gets it in
pieces, and keeps what it needs.
"""

import asyncio
import contextlib
import math
import re
from collections.abc import Iterator
from typing import Protocol

import h11

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.scrape.page_feed import PageFeed, PageWork, ReadingTurns
from keda_gpu_scaler.scrape.plain_response import (
    CHUNK_BYTES,
    MAX_HEAD_BYTES,
    IncompleteResponseError,
    PlainBody,
    PlainHead,
    parse_plain_head,
)
from keda_gpu_scaler.scrape.types import FailureKind, FetchError, OpenReader, RedirectError

MAX_BODY_BYTES = 64 << 20
"""A vLLM with many LoRA adapters serves 22 MB."""
MAX_IDLE_CONNECTIONS = 512
"""The number of idle connections that are kept. The file limit of a process may be as low as 1024."""
CREDENTIALS_STATUSES = frozenset({401, 403})
"""The statuses with which a server asks for credentials, or for others."""
_MAX_HEADS = 8  # the final response, and interim responses before it
_MAX_PARTS = 1 << 17  # of a page that is sent line by line; each part takes some microseconds
_PARTS_PER_TURN = 256
_MAX_NOTICE_BYTES = 1 << 16
_OK = 200
_ABSENT_STATUSES = frozenset({404, 405, 406, 410, 501})
_BAD_REQUEST = 400
_TLS_ALERT = b"\x15\x03"  # the beginning of the record with which a TLS server refuses plain text
_WANTS_HTTPS = re.compile(rb"HTTPS (?:server|port)|requires TLS|SSL-enabled")  # Go, nginx, Tomcat, Apache
_MAX_LOCATION_LENGTH = 2048


class ConnectionClosedError(Exception):
    """The server closed the connection before it sent any part of a response; the client connects again."""


class Stream(Protocol):
    """A stream of bytes to and from a server."""

    async def read(self, limit_bytes: int, /) -> bytes:
        """Return received bytes, none at the end; raises OSError."""

    def write(self, content: bytes, /) -> None:
        """Send bytes; raises OSError."""

    def abort(self) -> None:
        """Close the connection immediately."""


class Connection:
    """One HTTP/1.1 connection, with one request at a time."""

    def __init__(self, stream: Stream, turns: ReadingTurns) -> None:
        self._stream = stream
        self._turns = turns
        self._http = h11.Connection(h11.CLIENT)
        self._request: tuple[str, list[tuple[str, str]], bytes] | None = None
        self.is_reusable = False
        self.idle_since_seconds = 0.0

    def close(self) -> None:
        """Close the connection immediately and drop unread data."""
        self._stream.abort()

    async def get(self, path: str, headers: list[tuple[str, str]], open_reader: OpenReader, work: PageWork) -> str:
        """Send a GET request and give the page to its reader; return the content type of the page.

        Raises:
            FetchError: the server returns no page.
            ConnectionClosedError: the server closed the connection before it sent anything.
            ValueError: the reader refuses the page. The connection stays usable if the page was received completely.
        """
        self.is_reusable = False
        self._send_request(path, headers)
        received = await self._receive_first()
        if (plain := parse_plain_head(received)) is not None:
            page = await self._read_plain(plain, received, open_reader, work)
            content_type = plain.content_type
        else:
            head = await self._read_head(received)
            if head.status_code == _BAD_REQUEST:
                await self._check_notice()
            content_type = _check_response(head)
            page = PageFeed(open_reader(content_type), self._turns, work)
            await self._read_body(page, MAX_BODY_BYTES)
            # Data after the response would be taken for the response to the next request.
            is_ended = self._http.our_state is self._http.their_state is h11.DONE
            self.is_reusable = is_ended and not self._http.trailing_data[0]
        await page.finish()
        return content_type

    async def _read_plain(self, head: PlainHead, received: bytes, open_reader: OpenReader, work: PageWork) -> PageFeed:
        _check_size(head.content_length or 0, 1, MAX_BODY_BYTES)
        page = PageFeed(open_reader(head.content_type), self._turns, work)
        body = PlainBody(head, received, self._stream.read)
        size_bytes = next_pause = 0
        try:
            async for part in body.parts():
                size_bytes += len(part)
                _check_size(size_bytes, body.part_count, MAX_BODY_BYTES)
                await page.feed(part)
                if body.part_count >= next_pause + _PARTS_PER_TURN:
                    next_pause = body.part_count
                    await asyncio.sleep(0)  # lets other tasks and the timeout run
        except (OSError, IncompleteResponseError):
            raise FetchError("the response is incomplete") from None
        self.is_reusable = not body.has_more
        return page

    async def _check_notice(self) -> None:
        """Read the page of a bad request, which may say that the server expects https; raises FetchError then."""
        notice = _Notice()
        with contextlib.suppress(FetchError):
            page = PageFeed(notice, self._turns)
            await self._read_body(page, _MAX_NOTICE_BYTES)
            await page.finish()
        if _WANTS_HTTPS.search(notice.content):
            raise _wants_https(_BAD_REQUEST)

    def _send_request(self, path: str, headers: list[tuple[str, str]]) -> None:
        if self._request is None or self._request[:2] != (path, headers):
            self._request = (path, headers, _sent(h11.Connection(h11.CLIENT), path, headers))
        try:
            self._stream.write(self._request[2])
        except OSError:
            raise ConnectionClosedError from None

    async def _receive_first(self) -> bytes:
        try:
            received = await self._stream.read(CHUNK_BYTES)
        except OSError:
            received = b""
        if not received:
            raise ConnectionClosedError
        return received

    async def _read_head(self, received: bytes) -> h11.Response:
        """Read the head of a response of which this was received, with h11 from here on."""
        is_tls_alert = received.startswith(_TLS_ALERT)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        if self._request is not None:
            _sent(self._http, *self._request[:2])
        heads = 0
        while True:
            if received:
                self._http.receive_data(received)
                received = b""
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                if is_tls_alert:
                    raise _wants_https(None) from None
                raise FetchError("the server does not speak HTTP", FailureKind.ABSENT) from None
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                received = await self._receive_more()
                continue
            heads += 1
            if not isinstance(event, h11.InformationalResponse) or heads >= _MAX_HEADS:
                raise FetchError("the server does not speak HTTP", FailureKind.ABSENT)

    async def _receive_more(self) -> bytes:
        with contextlib.suppress(OSError):
            if received := await self._stream.read(CHUNK_BYTES):
                return received
        raise FetchError("the response is incomplete")

    async def _read_body(self, page: PageFeed, limit_bytes: int) -> None:
        size_bytes = part_count = 0
        try:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._stream.read(CHUNK_BYTES))
                elif isinstance(event, h11.Data):
                    size_bytes += len(event.data)
                    part_count += 1
                    _check_size(size_bytes, part_count, limit_bytes)
                    await page.feed(bytes(event.data))  # h11 has a bytearray, which the reader cannot look up
                    if not part_count % _PARTS_PER_TURN:
                        await asyncio.sleep(0)  # lets other tasks and the timeout run
                else:
                    return
        except (OSError, h11.RemoteProtocolError):
            raise FetchError("the response is incomplete") from None


class _Notice:
    """Keeps the page of a bad request."""

    def __init__(self) -> None:
        self.content = b""

    def follow(self, piece: bytes) -> bool:
        return False

    def feed(self, piece: bytes) -> None:
        self.content += piece

    def end(self) -> Iterator[None]:
        return iter(())


class ConnectionPool:
    """Idle connections by key. A key stands for one server and one set of credentials."""

    def __init__(self) -> None:
        self._connections: dict[object, list[Connection]] = {}
        self._count = 0

    def take(self, key: object) -> Connection | None:
        """Remove and return the connection that was used last, None if there is none."""
        idle = self._connections.get(key)
        if idle is None:
            return None
        connection = idle.pop()
        self._count -= 1
        if not idle:
            del self._connections[key]
        return connection

    def put(self, key: object, connection: Connection, now: float) -> bool:
        """Keep a connection, unless the pool is full; return whether it was kept.

        A full pool keeps its old connections: targets are scraped in turn, so the oldest connection is needed next.
        """
        if self._count >= MAX_IDLE_CONNECTIONS:
            return False
        connection.idle_since_seconds = now
        self._connections.setdefault(key, []).append(connection)
        self._count += 1
        return True

    def close(self, before: float = math.inf) -> None:
        """Close the connections that are idle since ``before`` or longer."""
        for key, idle in list(self._connections.items()):
            for connection in [it for it in idle if it.idle_since_seconds <= before]:
                idle.remove(connection)
                connection.close()
                self._count -= 1
            if not idle:
                del self._connections[key]


def _sent(http: h11.Connection, path: str, headers: list[tuple[str, str]]) -> bytes:
    """Send a request with h11 and return its text; raises FetchError."""
    try:
        request = http.send(h11.Request(method="GET", target=path, headers=headers))
        return (request or b"") + (http.send(h11.EndOfMessage()) or b"")
    except h11.LocalProtocolError:
        raise FetchError(f"{quoted(path, 80)} is not a valid path: it must have no blanks") from None


def _check_size(size_bytes: int, parts: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise FetchError(f"the page is larger than {limit_bytes >> 20} MiB", status=_OK)
    if parts > _MAX_PARTS:
        raise FetchError(f"the page comes in more than {_MAX_PARTS} pieces")


def _check_response(head: h11.Response) -> str:
    """Return the content type of a response with a page.

    Raises:
        FetchError: the response has no page, or the page is too large.
    """
    status = head.status_code
    headers = {name: value for name, value in head.headers if name in (b"content-type", b"content-length", b"location")}
    if status in _ABSENT_STATUSES:
        raise FetchError(f"the server has no such page (HTTP {status})", FailureKind.ABSENT, status=status)
    if 300 <= status < 400:
        location = headers.get(b"location", b"").decode("ascii", "replace")
        raise RedirectError(location[:_MAX_LOCATION_LENGTH], status)
    if status in CREDENTIALS_STATUSES:
        raise FetchError(
            f"the server requires credentials (HTTP {status}): mount them with --endpoint-credentials", status=status
        )
    if status != _OK:
        raise FetchError(f"the server answers with HTTP {status}", status=status)
    _check_size(int(headers.get(b"content-length", b"0")), 1, MAX_BODY_BYTES)
    return headers.get(b"content-type", b"").decode("ascii", "replace")


def _wants_https(status: int | None) -> FetchError:
    return FetchError("the server expects https, and it is asked by http", FailureKind.TLS, status=status)
