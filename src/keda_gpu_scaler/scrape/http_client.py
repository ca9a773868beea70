# SPDX-License-Identifier: Apache-2.0
"""What is at this URL? One GET over HTTP/1.1, to an address that was judged, within bounds.

The law of this module: whatever answers, or does not, costs a bounded time and a bounded amount of memory; and what is
connected to is what was judged.
"""

import asyncio
import contextlib
import enum
import ipaddress
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import h11

from keda_gpu_scaler import __version__
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.address_policy import AddressPolicy, AddressPolicyError
from keda_gpu_scaler.scrape.credentials import Credentials, CredentialsError, Secret

MAX_BODY_BYTES = 1 << 20
TIMEOUT_SECONDS = 2.0
CONCURRENCY = 128
IDLE_SECONDS = 30.0
MAX_IDLE = 512
"""So many connections are kept open: a process may be given no more than 1024 files."""
REFRESH_SECONDS = 5.0
"""So often is looked whether credentials have changed."""
_AT_ONE_ADDRESS = 2
_DOUBTED = 4  # what did not answer in time has no more than one in so many turns at once
_DOUBTED_SECONDS = 60.0
_CHUNK_BYTES = 1 << 16
_MAX_HEAD_BYTES = 1 << 15
_MAX_HEADS = 8  # the answer's own, and interim ones before it
_MAX_PARTS = 1 << 14  # of a page that is sent in lines; each costs some microseconds
_PARTS_AT_ONCE = 512
_OK = 200
_ABSENT = frozenset({404, 405, 406, 410, 501})
_LOCKED = frozenset({401, 403})
_ACCEPT = "text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.5,application/json;q=0.4,*/*;q=0.1"


class FailureKind(enum.Enum):
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

    def __init__(self, sentence: str, kind: FailureKind = FailureKind.UNREADABLE) -> None:
        self.kind = kind
        super().__init__(sentence)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL and the address to ask; ``namespace`` and ``pod`` are a pod's, None where a trigger named the URL.

    A pod that gets another's address is another target: what that one told is not its own.
    """

    url: Url
    address: str
    namespace: str | None = None
    pod: str | None = None


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """What was at a URL."""

    content: bytes
    content_type: str


MAX_RESOLVING = 32
"""So many names are resolved at once."""
_resolving = threading.BoundedSemaphore(MAX_RESOLVING)
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Name and port to addresses; raises OSError."""


async def resolve_by_system(host: str, port: int) -> list[str]:
    """Ask the system's resolver, which asks the cluster's DNS.

    In a thread of its own: a DNS that keeps silent holds one for half a minute. In the loop's own pool a few such names
    would keep everybody's from being resolved, and the process from ending.

    Raises:
        OSError: it has no address, or too many others are being resolved.
    """
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    if not _resolving.acquire(blocking=False):
        raise OSError(f"{MAX_RESOLVING} names are being resolved, the most there may be")
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[list[str]] = loop.create_future()

    def resolve() -> None:
        found: list[str] = []
        failure: Exception | None = None
        try:
            found = [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            failure = error
        finally:
            _resolving.release()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(_settle, outcome, found, failure)

    threading.Thread(target=resolve, name="resolve", daemon=True).start()
    return await outcome


def _settle(outcome: asyncio.Future[list[str]], found: list[str], failure: Exception | None) -> None:
    if outcome.done():
        return  # nobody waits any more
    if failure is not None:
        outcome.set_exception(failure)
    else:
        outcome.set_result(found)


class HttpClient:
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
        guard: AddressPolicy,
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
        self._slots_of_the_doubted = asyncio.Semaphore(max(1, concurrency // _DOUBTED))
        self._doubted: dict[Target, float] = {}
        self._resolve = resolve
        self._clock = clock
        self._idle = _Idle()
        self._busy: dict[object, _Turns] = {}
        self._refreshed_at_seconds = clock()

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
            except AddressPolicyError as error:
                refused = error
        if not allowed:
            if refused is not None:
                raise FetchError(str(refused), FailureKind.DENIED)
            raise FetchError(f"{quoted(url.host, 80)} has no address")
        return tuple(allowed)

    async def fetch(self, target: Target) -> FetchedPage:
        """Get a page.

        Raises:
            FetchError: there is none, it is too large, or it takes too long.
        """
        self._check(target)
        async with self._slot(target):
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    body = await self._get(target)
            except TimeoutError:
                self._doubted[target] = self._clock()
                raise FetchError(f"no answer within {self._timeout_seconds:g} s") from None
            self._doubted.pop(target, None)
            return body

    def expire_idle(self) -> None:
        """Close connections that were idle for long; to be called now and then."""
        now = self._clock()
        self._idle.close(before=now - IDLE_SECONDS)
        self._doubted = {target: at for target, at in self._doubted.items() if now - at <= _DOUBTED_SECONDS}

    def close(self) -> None:
        """Close every connection."""
        self._idle.close()

    def _check(self, target: Target) -> None:
        try:
            if target.namespace is None:
                self._guard.check(target.url.host, target.address)
            else:
                self._guard.check_pod(target.address)
        except AddressPolicyError as error:
            raise FetchError(str(error), FailureKind.DENIED) from None

    @contextlib.asynccontextmanager
    async def _slot(self, target: Target) -> AsyncIterator[None]:
        """Wait for a turn, so that what hangs takes none from others: few at one address, and few of its kind.

        What a trigger names takes none from the pods at the same address either.
        """
        peer = (target.address, target.url.port, target.namespace)
        turns = self._busy.setdefault(peer, _Turns())
        turns.wanted += 1
        doubt = self._slots_of_the_doubted if target in self._doubted else contextlib.nullcontext()
        try:
            async with turns.semaphore, doubt, self._slots:
                yield
        finally:
            turns.wanted -= 1
            if not turns.wanted:
                del self._busy[peer]

    async def _get(self, target: Target) -> FetchedPage:
        secret = self._secret(target)
        # What was agreed on with other credentials is not gone on with.
        key = (
            target.url.scheme,
            target.url.host,
            target.url.port,
            target.address,
            secret and (secret.name, secret.stamp),
        )
        headers = _headers(target.url, secret)
        while connection := self._idle.take(key):
            try:
                return await self._converse(key, connection, target.url.path, headers)
            except _Gone:
                continue  # it was closed while it was idle, which is nobody's fault
        connection = await self._connect(target, secret)
        try:
            return await self._converse(key, connection, target.url.path, headers)
        except _Gone:
            raise FetchError("it closes the connection without an answer") from None

    def _secret(self, target: Target) -> Secret | None:
        now = self._clock()
        if now - self._refreshed_at_seconds >= REFRESH_SECONDS:
            self._refreshed_at_seconds = now
            self._credentials.refresh()
        secret = self._credentials.find(target.url.host, target.namespace)
        if secret is not None and secret.fault is not None:
            raise FetchError(secret.fault)
        return secret

    async def _connect(self, target: Target, secret: Secret | None) -> "_Connection":
        try:
            reader, writer = await asyncio.open_connection(target.address, target.url.port, limit=_CHUNK_BYTES)
        except ConnectionRefusedError:
            raise FetchError("the connection is refused", FailureKind.REFUSED) from None
        except OSError as error:
            raise FetchError(_why_not_connected(error)) from None
        try:
            _check_peer(writer, target.address)
            if target.url.scheme == "http":
                return _Connection(_Plain(reader, writer))
            return _Connection(await self._secured(reader, writer, target, secret))
        except BaseException:
            writer.transport.abort()
            raise

    async def _secured(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Target, secret: Secret | None
    ) -> "Stream":
        from keda_gpu_scaler.scrape.tls import Secured

        name = (secret and secret.server_name) or target.url.host.rstrip(".")
        try:
            stream = Secured(reader, writer, self._credentials.context(secret), name)
            await stream.shake_hands()
        except CredentialsError as error:
            raise FetchError(str(error)) from None
        except OSError as error:
            raise FetchError(_why_not_secured(error)) from None
        return stream

    async def _converse(
        self, key: object, connection: "_Connection", path: str, headers: list[tuple[str, str]]
    ) -> FetchedPage:
        try:
            body = await connection.get(path, headers)
        except BaseException:
            connection.close()
            raise
        if not (connection.is_reusable and self._idle.put(key, connection, self._clock())):
            connection.close()
        return body


class _Turns:
    """Who may ask at one address now; ``wanted`` counts those who do and those who wait."""

    def __init__(self) -> None:
        self.semaphore = asyncio.Semaphore(_AT_ONE_ADDRESS)
        self.wanted = 0


class _Idle:
    """Connections that wait for the next request to the same peer, with the same credentials."""

    def __init__(self) -> None:
        self._connections: dict[object, list[_Connection]] = {}
        self._count = 0

    def take(self, key: object) -> "_Connection | None":
        """Return the one that was used last, None where there is none."""
        waiting = self._connections.get(key)
        if waiting is None:
            return None
        connection = waiting.pop()
        self._count -= 1
        if not waiting:
            del self._connections[key]
        return connection

    def put(self, key: object, connection: "_Connection", now: float) -> bool:
        """Keep one, and return whether there is room: pages come round, so the one to come next is the oldest here."""
        if self._count >= MAX_IDLE:
            return False
        connection.idle_since_seconds = now
        self._connections.setdefault(key, []).append(connection)
        self._count += 1
        return True

    def close(self, before: float = math.inf) -> None:
        """Close those that wait since then or longer."""
        for key, waiting in list(self._connections.items()):
            for connection in [it for it in waiting if it.idle_since_seconds <= before]:
                waiting.remove(connection)
                connection.close()
                self._count -= 1
            if not waiting:
                del self._connections[key]


class _Gone(Exception):  # noqa: N818 - whoever hears of it tries again
    """The connection was closed before anything was answered."""


class Stream(Protocol):
    """Bytes to a peer and from it."""

    async def read(self, limit_bytes: int, /) -> bytes:
        """Return what came, nothing at the end; raises OSError."""

    def write(self, content: bytes, /) -> None:
        """Send this; raises OSError."""

    def abort(self) -> None:
        """Drop the connection."""


class _Plain:
    """A connection as it is."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.read = reader.read
        self.write = writer.write

    def abort(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()


class _Connection:
    """One connection, on which one request at a time is answered."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self.is_reusable = False
        self.idle_since_seconds = 0.0

    def close(self) -> None:
        """Drop it, with whatever is on its way."""
        self._stream.abort()

    async def get(self, path: str, headers: list[tuple[str, str]]) -> FetchedPage:
        """Ask for a page.

        Raises:
            FetchError: there is none.
            _Gone: the connection was closed before anything came.
        """
        self.is_reusable = False
        self._ask(path, headers)
        content_type = _judge(await self._head())
        content = await self._content()
        # What came unasked would be taken for the next answer.
        if self._http.our_state is self._http.their_state is h11.DONE and not self._http.trailing_data[0]:
            self._http.start_next_cycle()
            self.is_reusable = True
        return FetchedPage(content, content_type)

    def _ask(self, path: str, headers: list[tuple[str, str]]) -> None:
        try:
            request = self._http.send(h11.Request(method="GET", target=path, headers=headers))
            end = self._http.send(h11.EndOfMessage())
        except h11.LocalProtocolError:
            raise FetchError(f"{quoted(path, 80)} cannot be asked for: it must be a path without blanks") from None
        try:
            self._stream.write((request or b"") + (end or b""))
        except OSError:
            raise _Gone from None

    async def _head(self) -> h11.Response:
        has_begun = False
        heads = 0
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                raise FetchError("what answers speaks no HTTP", FailureKind.ABSENT) from None
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                has_begun = await self._receive(has_begun)
                continue
            heads += 1
            if not isinstance(event, h11.InformationalResponse) or heads >= _MAX_HEADS:
                raise FetchError("what answers speaks no HTTP", FailureKind.ABSENT)

    async def _receive(self, has_begun: bool) -> bool:
        try:
            received = await self._stream.read(_CHUNK_BYTES)
        except OSError:
            received = b""
        if not received:
            raise FetchError("its answer breaks off") if has_begun else _Gone
        self._http.receive_data(received)
        return True

    async def _content(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._stream.read(_CHUNK_BYTES))
                elif isinstance(event, h11.Data):
                    size += len(event.data)
                    parts.append(bytes(event.data))
                    _check_size(size, len(parts))
                    if not len(parts) % _PARTS_AT_ONCE:
                        await asyncio.sleep(0)  # others have their turn, and so has the deadline
                else:
                    return b"".join(parts)
        except (OSError, h11.RemoteProtocolError):
            raise FetchError("its answer breaks off") from None


def _headers(url: Url, secret: Secret | None) -> list[tuple[str, str]]:
    headers = [("Host", url.authority), ("Accept", _ACCEPT), ("User-Agent", f"keda-gpu-scaler/{__version__}")]
    if secret is not None and secret.token and (url.scheme == "https" or secret.is_token_for_http):
        headers.append(("Authorization", f"Bearer {secret.token}"))
    return headers


def _check_peer(writer: asyncio.StreamWriter, address: str) -> None:
    """See that what was connected to is what was judged.

    Raises:
        FetchError: it is not.
    """
    peer = writer.get_extra_info("peername")
    if not peer or ipaddress.ip_address(peer[0]) != ipaddress.ip_address(address):
        raise FetchError(f"connected to {quoted(str(peer), 80)} in place of {address}", FailureKind.DENIED)


def _check_size(size_bytes: int, parts: int) -> None:
    if size_bytes > MAX_BODY_BYTES:
        raise FetchError(f"its page is larger than {MAX_BODY_BYTES >> 20} MiB")
    if parts > _MAX_PARTS:
        raise FetchError(f"its page comes in more than {_MAX_PARTS} pieces")


def _judge(head: h11.Response) -> str:
    """Return the content type of an answer of use.

    Raises:
        FetchError: it is of none.
    """
    status = head.status_code
    headers = {name: value for name, value in head.headers if name in (b"content-type", b"content-length", b"location")}
    if status in _ABSENT:
        raise FetchError(f"it has no such page (HTTP {status})", FailureKind.ABSENT)
    if 300 <= status < 400:
        where = quoted(headers.get(b"location", b"").decode("ascii", "replace"), 80)
        raise FetchError(f"it redirects to {where} (HTTP {status}), and no redirect is followed", FailureKind.ABSENT)
    if status in _LOCKED:
        raise FetchError(f"it wants credentials (HTTP {status}): mount them with --endpoint-credentials")
    if status != _OK:
        raise FetchError(f"it answers with HTTP {status}")
    _check_size(int(headers.get(b"content-length", b"0")), 1)
    return headers.get(b"content-type", b"").decode("ascii", "replace")


def _why_not_connected(error: OSError) -> str:
    return f"it cannot be connected to: {(error.strerror or str(error)).lower()}"


def _why_not_secured(error: OSError) -> str:
    verification = getattr(error, "verify_message", None)
    if verification:
        return f"its certificate is not trusted: {str(verification).lower()}; mount its CA with --endpoint-credentials"
    return f"TLS cannot be agreed on: {str(getattr(error, 'reason', None) or error).lower().replace('_', ' ')}"
