# SPDX-License-Identifier: Apache-2.0
"""Fetches pages over HTTP/1.1 from addresses that the address policy allows.

Law: a fetch takes a bounded time, and it connects only to the address that was checked. The time for which a costly
page waits for its turns is not the server's: it is no reason to give the page up.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urljoin

from keda_gpu_scaler import __version__
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.urls import Url, parse_url
from keda_gpu_scaler.file_descriptors import shortage
from keda_gpu_scaler.scrape import tcp_stream
from keda_gpu_scaler.scrape.address_policy import AddressPolicy, AddressPolicyError
from keda_gpu_scaler.scrape.connection import (
    CREDENTIALS_STATUSES,
    Connection,
    ConnectionClosedError,
    ConnectionPool,
    Stream,
)
from keda_gpu_scaler.scrape.credentials import Credentials, CredentialsError, Secret
from keda_gpu_scaler.scrape.dns_resolver import HostResolver, Lookup, system_lookup
from keda_gpu_scaler.scrape.ownership import Ownership
from keda_gpu_scaler.scrape.page_feed import PageWork, ReadingTurns
from keda_gpu_scaler.scrape.slots import FetchSlots
from keda_gpu_scaler.scrape.tcp_stream import TcpStream
from keda_gpu_scaler.scrape.types import (
    FailureKind,
    FetchedPage,
    FetchError,
    OpenReader,
    RedirectError,
    ResolvedHost,
    Target,
)

TIMEOUT_SECONDS = 5.0
"""An overloaded vLLM answers after 2.6 s (vllm#38157), and its page shows the load that matters most."""
CONCURRENCY = 128
SLOW_CONCURRENCY = 192
IDLE_SECONDS = 30.0
CREDENTIALS_REFRESH_SECONDS = 5.0
"""The interval between two checks for changed credentials."""
_NO_TLS = "wrong version number"  # OpenSSL's word for an answer that is no TLS, such as that of an HTTP server
_ACCEPT = "text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.5,application/json;q=0.4,*/*;q=0.1"


class HttpClient:
    """Fetches pages concurrently, within a limit.

    Args:
        policy: the addresses that are allowed.
        credentials: the credentials for each host.
        ownership: what the namespace of a trigger owns.
        timeout_seconds: limit for one fetch, including the connection, without the waits of a costly page.
        concurrency: limit of concurrent fetches. The timeout of a fetch starts when it gets its slot.
        slow_concurrency: limit of concurrent fetches of slow targets, in addition.
        lookup: resolves host names.
        clock: monotonic seconds, for the age of idle connections.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        credentials: Credentials,
        *,
        ownership: Ownership | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        concurrency: int = CONCURRENCY,
        slow_concurrency: int = SLOW_CONCURRENCY,
        lookup: Lookup = system_lookup,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._credentials = credentials
        self._timeout_seconds = timeout_seconds
        self._slots = FetchSlots(concurrency, slow_concurrency)
        self._resolver = HostResolver(policy, ownership or Ownership(), lookup, timeout_seconds)
        self._clock = clock
        self._pool = ConnectionPool()
        self._turns = ReadingTurns(clock)
        self._refreshed_at_seconds = clock()

    async def resolve(self, url: Url, namespace: str | None = None) -> ResolvedHost:
        """Return the allowed addresses of the host of a URL that a trigger of a namespace names, each once.

        Raises:
            FetchError: there is no such address.
        """
        found = await self._resolver.resolve(url, namespace)
        return replace(found, has_credentials=self._credentials.are_for_host(url.host))

    async def fetch(self, target: Target, open_reader: OpenReader) -> FetchedPage:
        """Fetch the page of a target and give it to its reader, which ``open_reader`` makes.

        Raises:
            FetchError: there is no page, it is too large, or the fetch takes too long.
            ValueError: the reader refuses the page.
        """
        self._check_allowed(target)
        async with self._slots.of(target, self._clock()) as work:
            began_at_seconds = self._clock()
            try:
                async with asyncio.timeout(self._timeout_seconds) as work.timeout:
                    content_type = await self._follow(target, open_reader, work)
            except TimeoutError:
                raise self._timeout_failure(work) from None
            except FetchError as error:
                error.answer_seconds = max(0.0, self._clock() - began_at_seconds - work.own_seconds())
                raise
            answer_seconds = max(0.0, self._clock() - began_at_seconds - work.own_seconds())
            return FetchedPage(content_type, answer_seconds, work.seconds)

    def expire_idle(self) -> None:
        """Close connections that were not used recently. The caller calls this regularly."""
        now = self._clock()
        self._pool.close(before=now - IDLE_SECONDS)
        self._slots.forget(now)

    def close(self) -> None:
        """Close every idle connection."""
        self._pool.close()

    def _timeout_failure(self, work: PageWork) -> FetchError:
        limit_seconds = self._timeout_seconds
        if work.own_seconds() > limit_seconds / 2:
            return FetchError(
                f"the page takes longer than {limit_seconds:g} s to read, beside other large pages; it gets more time "
                "in the next scrape",
                answer_seconds=max(0.0, limit_seconds - work.own_seconds()),
            )
        return FetchError(f"no answer within {limit_seconds:g} s", answer_seconds=limit_seconds)

    def _check_allowed(self, target: Target) -> None:
        try:
            if target.is_own:
                self._policy.check_own(target.url.host, target.address, target.url.port)
            elif target.namespace is None:
                self._policy.check(target.url.host, target.address, target.url.port, None)
            else:
                self._policy.check_pod(target.address, target.url.port)
        except AddressPolicyError as error:
            raise FetchError(str(error), FailureKind.DENIED) from None

    async def _follow(self, target: Target, open_reader: OpenReader, work: PageWork) -> str:
        """Get a page and return its content type; follow one redirect to the same scheme, host, port and credentials.

        Such a redirect needs no new check of the address. A redirect to a path for which other credentials or none are
        mounted is not followed.
        """
        try:
            return await self._get(target, open_reader, work)
        except RedirectError as redirect:
            try:
                url = parse_url(urljoin(str(target.url), redirect.location))
            except ValueError:
                raise redirect from None
            moved = replace(target, url=url)
            is_elsewhere = replace(url, path="/") != replace(target.url, path="/")
            if url == target.url or is_elsewhere or self._secret(moved) is not self._secret(target):
                raise
            return await self._get(moved, open_reader, work)

    async def _get(self, target: Target, open_reader: OpenReader, work: PageWork) -> str:
        secret = self._secret(target)
        try:
            return await self._get_with(secret, target, open_reader, work)
        except FetchError as error:
            misfit = self._credentials.misfit(target) if error.status in CREDENTIALS_STATUSES and not secret else None
            if misfit is None:
                raise
            raise FetchError(
                f"the server requires credentials (HTTP {error.status}), and those of --endpoint-credentials for this "
                f"host are not for {misfit}",
                status=error.status,
            ) from None

    async def _get_with(self, secret: Secret | None, target: Target, open_reader: OpenReader, work: PageWork) -> str:
        url = target.url
        # A connection that was opened with other credentials is not reused.
        credentials_key = secret and (secret.name, secret.fingerprint)
        key = (url.scheme, url.host, target.port, target.address, credentials_key)
        headers = _headers(url, secret)
        while connection := self._pool.take(key):
            try:
                return await self._exchange(key, connection, _Request(url.path, headers, open_reader, work))
            except ConnectionClosedError:
                continue  # servers may close idle connections
        connection = await self._connect(target, secret)
        try:
            return await self._exchange(key, connection, _Request(url.path, headers, open_reader, work))
        except ConnectionClosedError:
            raise FetchError("the server closes the connection without an answer", FailureKind.CLOSED) from None

    def _secret(self, target: Target) -> Secret | None:
        now = self._clock()
        if now - self._refreshed_at_seconds >= CREDENTIALS_REFRESH_SECONDS:
            self._refreshed_at_seconds = now
            self._credentials.refresh()
        secret = self._credentials.find(target)
        if secret is not None and secret.fault is not None:
            raise FetchError(secret.fault)
        return secret

    async def _connect(self, target: Target, secret: Secret | None) -> Connection:
        if reason := shortage():
            raise FetchError(reason)
        try:
            tcp = await tcp_stream.connect(target.address, target.port)
        except ConnectionRefusedError:
            raise FetchError("the connection is refused", FailureKind.REFUSED) from None
        except OSError as error:
            raise FetchError(f"cannot connect: {(error.strerror or str(error)).lower()}") from None
        try:
            _check_peer(tcp, target.address)
            if target.url.scheme == "http":
                return Connection(tcp, self._turns)
            return Connection(await self._start_tls(tcp, target, secret), self._turns)
        except BaseException:
            tcp.abort()
            raise

    async def _start_tls(self, tcp: TcpStream, target: Target, secret: Secret | None) -> Stream:
        from keda_gpu_scaler.scrape.tls import TlsStream

        server_name = (secret and secret.server_name) or target.url.host.rstrip(".")
        try:
            stream = TlsStream(tcp, self._credentials.context(secret), server_name)
            await stream.handshake()
        except CredentialsError as error:
            raise FetchError(str(error)) from None
        except OSError as error:
            raise _tls_failure(error) from None
        return stream

    async def _exchange(self, key: object, connection: Connection, request: "_Request") -> str:
        try:
            return await connection.get(request.path, request.headers, request.open_reader, request.work)
        finally:
            if not (connection.is_reusable and self._pool.put(key, connection, self._clock())):
                connection.close()


class _Request(NamedTuple):
    path: str
    headers: list[tuple[str, str]]
    open_reader: OpenReader
    work: PageWork


def _headers(url: Url, secret: Secret | None) -> list[tuple[str, str]]:
    headers = [("Host", url.authority), ("Accept", _ACCEPT), ("User-Agent", f"keda-gpu-scaler/{__version__}")]
    if secret is not None and secret.token and (url.scheme == "https" or secret.is_token_for_http):
        headers.append(("Authorization", f"Bearer {secret.token}"))
    return headers


def _check_peer(stream: TcpStream, address: str) -> None:
    """Check that the connected address is the address that the policy allowed.

    Raises:
        FetchError: it is another address.
    """
    peer = stream.peer
    if not peer or ipaddress.ip_address(peer[0]) != ipaddress.ip_address(address):
        raise FetchError(f"connected to {quoted(str(peer), 80)} instead of {address}", FailureKind.DENIED)


def _tls_failure(error: OSError) -> FetchError:
    verification = getattr(error, "verify_message", None)
    if verification:
        why = f"the certificate is not trusted: {str(verification).lower()}; mount its CA with --endpoint-credentials"
        return FetchError(why, FailureKind.UNTRUSTED)
    reason = str(getattr(error, "reason", None) or error).lower().replace("_", " ")
    if reason == _NO_TLS:
        return FetchError("the server expects http, and it is asked by https", FailureKind.PLAIN)
    return FetchError(f"the TLS handshake does not succeed: {reason}")
