# SPDX-License-Identifier: Apache-2.0
"""What is at this URL? One GET over HTTP/1.1, to an address that was judged, within bounds.

The law of this module: whatever answers, or does not, costs a bounded time and a bounded amount of memory; and what is
connected to is what was judged.
"""

import asyncio
import contextlib
import enum
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import h11

from keda_gpu_scaler import __version__
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.core.wording import quoted
from keda_gpu_scaler.engines.credentials import Credentials, CredentialsError, Secret
from keda_gpu_scaler.engines.guard import Guard, GuardError

MAX_BODY_BYTES = 1 << 20
TIMEOUT_SECONDS = 2.0
CONCURRENCY = 128
IDLE_SECONDS = 30.0
_AT_ONE_ADDRESS = 2
_CHUNK_BYTES = 1 << 16
_MAX_HEAD_BYTES = 1 << 15
_OK = 200
_ABSENT = frozenset({404, 405, 406, 410, 501})
_LOCKED = frozenset({401, 403})
_ACCEPT = "text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.5,application/json;q=0.4,*/*;q=0.1"


class Kind(enum.Enum):
    """Why there is no page, as far as it matters."""

    REFUSED = "refused"
    """Nothing listens there."""
    ABSENT = "absent"
    """Something answers, and there is no such page."""
    DENIED = "denied"
    """It may not be asked."""
    UNREADABLE = "unreadable"
    """No answer, or none of use; it may pass."""


class FetchError(Exception):
    """There is no page; the text is a sentence for a person."""

    def __init__(self, sentence: str, kind: Kind = Kind.UNREADABLE) -> None:
        self.kind = kind
        super().__init__(sentence)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL and the address to ask; ``namespace`` is a pod's, None where a trigger named the URL."""

    url: Url
    address: str
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """What was at a URL."""

    content: bytes
    content_type: str


Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Name and port to addresses; raises OSError."""


async def resolve_by_system(host: str, port: int) -> list[str]:
    """Ask the system's resolver, which asks the cluster's DNS.

    Raises:
        OSError: it has no address.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Fetcher:
    """Fetches pages; all at once, but not too many.

    Args:
        guard: judges addresses.
        credentials: what is shown to whom.
        timeout_seconds: for one fetch, connecting included.
        concurrency: so many fetches at once; the others wait, and their time does not run meanwhile.
        resolve: resolves names.
        clock: monotonic seconds, by which idle connections age.
    """

    def __init__(
        self,
        guard: Guard,
        credentials: Credentials,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        concurrency: int = CONCURRENCY,
        resolve: Resolve = resolve_by_system,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guard = guard
        self._credentials = credentials
        self._timeout_seconds = timeout_seconds
        self._slots = asyncio.Semaphore(concurrency)
        self._resolve = resolve
        self._clock = clock
        self._idle: dict[tuple[object, ...], list[_Connection]] = {}
        self._busy: dict[str, asyncio.Semaphore] = {}

    async def resolve(self, url: Url) -> tuple[str, ...]:
        """Return the addresses that a URL's host has and that may be asked, each once.

        Raises:
            FetchError: there is none.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                addresses = list(dict.fromkeys(await self._resolve(url.host, url.port)))
        except TimeoutError:
            raise FetchError(f"{quoted(url.host, 80)} was not resolved within {self._timeout_seconds:g} s") from None
        except (OSError, UnicodeError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise FetchError(f"{quoted(url.host, 80)} cannot be resolved: {reason}") from None
        allowed, refused = [], None
        for address in addresses:
            try:
                self._guard.check(url.host, address)
                allowed.append(address)
            except GuardError as error:
                refused = error
        if not allowed:
            if refused is not None:
                raise FetchError(str(refused), Kind.DENIED)
            raise FetchError(f"{quoted(url.host, 80)} has no address")
        return tuple(allowed)

    async def fetch(self, target: Target) -> Body:
        """Get a page.

        Raises:
            FetchError: there is none, it is too large, or it takes too long.
        """
        self._check(target)
        async with self._slot(target.address):
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    return await self._get(target)
            except TimeoutError:
                raise FetchError(f"no answer within {self._timeout_seconds:g} s") from None

    def tidy(self) -> None:
        """Close connections that were idle for long; to be called now and then."""
        now = self._clock()
        for key, connections in list(self._idle.items()):
            for connection in [it for it in connections if now - it.idle_since_seconds > IDLE_SECONDS]:
                connections.remove(connection)
                connection.close()
            if not connections:
                del self._idle[key]

    def close(self) -> None:
        """Close every connection."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def _check(self, target: Target) -> None:
        try:
            if target.namespace is None:
                self._guard.check(target.url.host, target.address)
            else:
                self._guard.check_pod(target.address)
        except GuardError as error:
            raise FetchError(str(error), Kind.DENIED) from None

    @contextlib.asynccontextmanager
    async def _slot(self, address: str) -> AsyncIterator[None]:
        """Wait for a turn: few at one address, so that one that hangs takes no turns from others."""
        busy = self._busy.setdefault(address, asyncio.Semaphore(_AT_ONE_ADDRESS))
        try:
            async with busy, self._slots:
                yield
        finally:
            if not busy.locked() and self._busy.get(address) is busy:
                del self._busy[address]

    async def _get(self, target: Target) -> Body:
        secret = self._secret(target)
        key = (target.url.scheme, target.url.host, target.url.port, target.address, secret and secret.stamp)
        while idle := self._idle.get(key):
            connection = idle.pop()
            try:
                return await self._converse(key, connection, target, secret)
            except _Gone:
                continue  # it was closed while it was idle, which is nobody's fault
        connection = await self._connect(target, secret)
        try:
            return await self._converse(key, connection, target, secret)
        except _Gone:
            raise FetchError("it closes the connection without an answer") from None

    def _secret(self, target: Target) -> Secret | None:
        return self._credentials.find(target.url.host, target.namespace)

    async def _connect(self, target: Target, secret: Secret | None) -> "_Connection":
        context = name = None
        try:
            if target.url.scheme == "https":
                self._credentials.refresh()
                secret = self._secret(target)
                context = self._credentials.context(secret)
                name = (secret and secret.server_name) or target.url.host
            reader, writer = await asyncio.open_connection(
                target.address, target.url.port, ssl=context, server_hostname=name, limit=_CHUNK_BYTES
            )
        except CredentialsError as error:
            raise FetchError(str(error)) from None
        except ConnectionRefusedError:
            raise FetchError("the connection is refused", Kind.REFUSED) from None
        except OSError as error:
            raise FetchError(_why_not_connected(error)) from None
        connected = writer.get_extra_info("peername")
        if not connected or connected[0].partition("%")[0] != target.address.partition("%")[0]:
            writer.transport.abort()
            raise FetchError(f"connected to {quoted(str(connected), 80)} in place of {target.address}", Kind.DENIED)
        return _Connection(reader, writer)

    async def _converse(
        self, key: tuple[object, ...], connection: "_Connection", target: Target, secret: Secret | None
    ) -> Body:
        headers = [
            ("Host", target.url.authority),
            ("Accept", _ACCEPT),
            ("User-Agent", f"keda-gpu-scaler/{__version__}"),
        ]
        if secret is not None and secret.token and (target.url.scheme == "https" or secret.is_token_for_http):
            headers.append(("Authorization", f"Bearer {secret.token}"))
        try:
            body = await connection.get(target.url.path, headers)
        except BaseException:
            connection.close()
            raise
        if connection.is_reusable:
            connection.idle_since_seconds = self._clock()
            self._idle.setdefault(key, []).append(connection)
        else:
            connection.close()
        return body


class _Gone(Exception):  # noqa: N818 - whoever hears of it tries again
    """The connection was closed before anything was answered."""


class _Connection:
    """One connection, on which one request at a time is answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self.is_reusable = False
        self.idle_since_seconds = 0.0

    def close(self) -> None:
        """Drop it, with whatever is on its way."""
        self._writer.transport.abort()

    async def get(self, path: str, headers: list[tuple[str, str]]) -> Body:
        """Ask for a page.

        Raises:
            FetchError: there is none.
            _Gone: the connection was closed.
        """
        self.is_reusable = False
        request = self._http.send(h11.Request(method="GET", target=path, headers=headers))
        end = self._http.send(h11.EndOfMessage())
        try:
            self._writer.write((request or b"") + (end or b""))
            head = await self._head()
            content_type = _judge(head)
            content = await self._content()
        except h11.RemoteProtocolError:
            if self._http.their_state is h11.SEND_BODY:
                raise FetchError("its answer breaks off") from None
            raise FetchError("what answers speaks no HTTP", Kind.ABSENT) from None
        except (OSError, EOFError):
            raise _Gone from None
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self.is_reusable = True
        return Body(content, content_type)

    async def _head(self) -> h11.Response:
        has_begun = False
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                received = await self._reader.read(_CHUNK_BYTES)
                if not received and not has_begun:
                    raise EOFError
                has_begun = True
                self._http.receive_data(received)
            elif not isinstance(event, h11.InformationalResponse):
                raise EOFError

    async def _content(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                try:
                    received = await self._reader.read(_CHUNK_BYTES)
                except OSError:
                    raise FetchError("its answer breaks off") from None
                self._http.receive_data(received)
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > MAX_BODY_BYTES:
                    raise FetchError(f"its page is larger than {MAX_BODY_BYTES >> 20} MiB")
                parts.append(bytes(event.data))
            else:
                return b"".join(parts)


def _judge(head: h11.Response) -> str:
    """Return the content type of an answer of use.

    Raises:
        FetchError: it is of none.
    """
    status = head.status_code
    headers = {name: value for name, value in head.headers if name in (b"content-type", b"content-length", b"location")}
    if status in _ABSENT:
        raise FetchError(f"it has no such page (HTTP {status})", Kind.ABSENT)
    if 300 <= status < 400:
        where = quoted(headers.get(b"location", b"").decode("ascii", "replace"), 80)
        raise FetchError(f"it redirects to {where} (HTTP {status}), and no redirect is followed", Kind.ABSENT)
    if status in _LOCKED:
        raise FetchError(f"it wants credentials (HTTP {status}): mount them with --endpoint-credentials")
    if status != _OK:
        raise FetchError(f"it answers with HTTP {status}")
    if int(headers.get(b"content-length", b"0")) > MAX_BODY_BYTES:
        raise FetchError(f"its page is larger than {MAX_BODY_BYTES >> 20} MiB")
    return headers.get(b"content-type", b"").decode("ascii", "replace")


def _why_not_connected(error: OSError) -> str:
    verification = getattr(error, "verify_message", None)
    if verification:
        return f"its certificate is not trusted: {str(verification).lower()}; mount its CA with --endpoint-credentials"
    if type(error).__name__.startswith("SSL"):
        return f"TLS cannot be agreed on: {str(getattr(error, 'reason', None) or error).lower().replace('_', ' ')}"
    return f"it cannot be connected to: {(error.strerror or str(error)).lower()}"
