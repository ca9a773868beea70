# SPDX-License-Identifier: Apache-2.0
"""Sends requests to the API server, and turns every refusal into a sentence.

Law: every request has a deadline. A watch too: the server ends it after the requested time, also if nothing happens.

The first instance of ``ApiClient`` imports httpx, and with it ``ssl``. They take 15 MiB, and an agent that KEDA never
calls needs neither. ``preload`` imports them ahead of time.
"""

import asyncio
import errno
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.file_descriptors import shortage
from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.kube.list_reader import ListError, ListReader
from keda_gpu_scaler.kube.proxy import without_credentials
from keda_gpu_scaler.wire.ssl_context import client_context

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
METADATA_LIST_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json"
REQUEST_TIMEOUT_SECONDS = 10.0
"""The limit of each step of a request: to connect, to send, to receive the next bytes."""
RESPONSE_TIMEOUT_SECONDS = 30.0
"""The limit of a whole response, which a server that sends a few bytes at a time would never reach otherwise."""
LIST_TIMEOUT_SECONDS = 65.0
"""The limit of one page of a list. The API server ends it after 60 s by default (--request-timeout)."""
WATCH_GRACE_SECONDS = 10.0
"""How much later than requested the server may end a watch in which nothing happens."""
MAX_CONCURRENT_REQUESTS = 16
"""Requests besides watches that are sent at the same time. Each may need a connection."""
MAX_LINE_BYTES = 8 << 20

_OK, _CREATED = 200, 201
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_MAX_MESSAGE_LENGTH = 300
_MAX_CAUSES = 8
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH)
_MAX_RETRY_AFTER_SECONDS = 60.0


class ApiError(KubeError):
    """A request did not succeed. ``status`` is HTTP's, 0 where there was no response."""

    def __init__(self, sentence: str, status: int = 0, retry_after_seconds: float = 0.0) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    @property
    def is_permanent(self) -> bool:
        """Whether the error stays until an operator changes something."""
        return self.status in (_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND)


class WatchTimeoutError(ApiError):
    """The server did not end a quiet watch in time, so the connection may be dead."""


def preload() -> None:
    """Import the HTTP client and TLS.

    This takes as long as a few hundred calls of KEDA do. A server therefore runs it in a thread before it makes its
    first ``ApiClient`` in the event loop.
    """
    import httpx  # noqa: F401 - imported for the effect


class ApiClient:
    """Sends requests to one API server with one identity.

    Raises:
        KubeError: the certificates cannot be used.
    """

    def __init__(self, config: ClientConfig) -> None:
        import httpx

        logging.getLogger("httpx").setLevel(logging.WARNING)  # httpx logs every request at level INFO
        self._http_errors, self._read_timeout = httpx.HTTPError, httpx.ReadTimeout
        self._config = config
        self._http = httpx.AsyncClient(
            base_url=config.server,
            verify=_tls_context(config),
            trust_env=False,  # the proxy is that of the kubeconfig (``kube.proxy``)
            proxy=config.proxy or None,
            headers=list(config.impersonation),
            event_hooks={"request": [_named(config.server_name)] if config.server_name else []},
            timeout=httpx.Timeout(REQUEST_TIMEOUT_SECONDS),
            # A watch keeps a connection for as long as it lasts; ``_slots`` limits the others.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=MAX_CONCURRENT_REQUESTS),
        )
        self._timeout = httpx.Timeout(REQUEST_TIMEOUT_SECONDS)
        self._timeout_type = httpx.Timeout
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def get(self, path: str, query: Mapping[str, str] | None = None, accept: str = "") -> dict[str, Any]:
        """Return one JSON object.

        Raises:
            ApiError: the request did not succeed, or the response is not a JSON object.
        """
        headers = self._headers(accept)
        response = await self._response(
            lambda: self._http.get(path, params=dict(query or {}), headers=headers, timeout=self._timeout), _OK
        )
        try:
            document = json.loads(response.content)
        except ValueError as error:
            raise ApiError(f"the API server's response to {path} is not JSON") from error
        if not isinstance(document, dict):
            raise ApiError(f"the API server's response to {path} is not a JSON object")
        return document

    async def read_list(
        self, path: str, query: Mapping[str, str], accept: str, receive: Callable[[Mapping[str, Any]], object]
    ) -> Mapping[str, Any]:
        """Read a list, give each object to ``receive`` as soon as it is complete, and return the list's metadata.

        Raises:
            ApiError: the request did not succeed, or the response is not a list; some objects may be received already.
        """
        # The size of a compressed piece would not limit the size of its content.
        headers = {**self._headers(accept), "Accept-Encoding": "identity"}
        reader = ListReader()
        try:
            async with (
                self._slots,
                asyncio.timeout(LIST_TIMEOUT_SECONDS),
                self._http.stream("GET", path, params=dict(query), headers=headers, timeout=self._timeout) as response,
            ):
                if response.status_code != _OK:
                    raise refusal(response.status_code, await response.aread(), response.headers)
                async for piece in response.aiter_bytes():
                    for item in reader.feed(piece):
                        receive(item)
            for item in reader.end():
                receive(item)
        except ListError as error:
            raise ApiError(f"the API server's list of {path} cannot be read: {error}") from error
        except TimeoutError as error:
            raise self._unreachable(f"no complete list within {LIST_TIMEOUT_SECONDS:g} s") from error
        except self._http_errors as error:
            raise self._unreachable(error) from error
        return reader.metadata

    async def create(self, path: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add an object to a collection; return it as the server does, empty where that is not a JSON object.

        Raises:
            ApiError: the object was not created, or it is not known whether it was.
        """
        headers = self._headers("")
        response = await self._response(
            lambda: self._http.post(path, json=dict(document), headers=headers, timeout=self._timeout), _CREATED
        )
        try:
            created = json.loads(response.content)
        except ValueError:
            return {}
        return created if isinstance(created, dict) else {}

    async def patch(self, path: str, document: Mapping[str, Any]) -> None:
        """Change the fields of an object that a JSON merge patch has; None removes a field.

        Raises:
            ApiError: the object was not changed, or it is not known whether it was.
        """
        headers = {**self._headers(""), "Content-Type": "application/merge-patch+json"}
        content = json.dumps(document).encode()
        await self._response(
            lambda: self._http.patch(path, content=content, headers=headers, timeout=self._timeout), _OK
        )

    async def _response(self, send: Callable[[], Awaitable[Any]], *expected: int) -> Any:
        """Return the whole response of the request that ``send`` sends.

        Raises:
            ApiError: there is no response within the limit, or its status is none of the expected ones.
        """
        try:
            async with self._slots, asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
                response = await send()
        except TimeoutError as error:
            raise self._unreachable(f"not within {RESPONSE_TIMEOUT_SECONDS:g} s") from error
        except self._http_errors as error:
            raise self._unreachable(error) from error
        if response.status_code not in expected:
            raise refusal(response.status_code, response.content, response.headers)
        return response

    @asynccontextmanager
    async def watch(
        self, path: str, query: Mapping[str, str], accept: str = "", *, seconds: int
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Open a watch, and yield an iterator of its events, which ends when the server ends the watch.

        Args:
            path: the collection.
            query: the parameters.
            accept: the media types.
            seconds: when the server ends the watch, whether or not anything has happened.

        Raises:
            ApiError: on entering, when the server refuses the watch; while iterating, when the connection breaks, a
                line is not an event, or (``WatchTimeoutError``) nothing was received for longer than ``seconds``.
        """
        if reason := shortage():
            raise ApiError(reason)
        parameters = {**query, "watch": "true", "timeoutSeconds": str(seconds)}
        limit = seconds + WATCH_GRACE_SECONDS
        timeout = self._timeout_type(REQUEST_TIMEOUT_SECONDS, read=limit)
        try:
            async with self._http.stream(
                "GET", path, params=parameters, headers=self._headers(accept), timeout=timeout
            ) as response:
                if response.status_code != _OK:
                    raise refusal(response.status_code, await response.aread(), response.headers)
                yield _events(response.aiter_bytes(), self._read_timeout, limit)
        except self._http_errors as error:
            raise self._unreachable(error) from error

    def _headers(self, accept: str) -> dict[str, str]:
        try:
            authorization = self._config.authorization()
        except KubeError as error:
            raise ApiError(str(error)) from error
        return {"Accept": accept or "application/json", **authorization}

    def _unreachable(self, error: Exception | str) -> ApiError:
        cause = shortage() or _network_reason(error) or str(error) or type(error).__name__
        if self._config.proxy:
            cause += f", through the proxy {without_credentials(self._config.proxy)}"
        return ApiError(f"the API server {self._config.server} does not answer: {cause}")


def _network_reason(error: Exception | str) -> str:
    """Return the system's reason behind an error of the HTTP client; empty where there is none."""
    cause: object = error  # httpcore chains some errors by their context only
    for _ in range(_MAX_CAUSES):
        if isinstance(cause, ExceptionGroup):  # one error for each address of a host
            cause = cause.exceptions[0]
        if isinstance(cause, socket.gaierror):
            return str(cause.strerror or cause).lower()
        if isinstance(cause, ConnectionError) or getattr(cause, "errno", None) in _NO_ROUTE:
            return os.strerror(number).lower() if (number := getattr(cause, "errno", None)) else ""
        cause = getattr(cause, "__cause__", None) or getattr(cause, "__context__", None)
    return ""


def refusal(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> ApiError:
    """Return the error of a response, with the message of the Kubernetes Status in its body, or else with its text."""
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode("utf-8", "replace")
    try:
        retry_after = float((headers or {}).get("retry-after", "0"))
    except ValueError:
        retry_after = 0.0
    sentence = f"the API server answers {status}: {escaped(message)}"
    return ApiError(sentence, status, min(max(retry_after, 0.0), _MAX_RETRY_AFTER_SECONDS))


def escaped(text: str) -> str:
    """Return untrusted text as printable ASCII of bounded length, without quotes around it."""
    return ascii(text[:_MAX_MESSAGE_LENGTH])[1:-1]


async def _events(
    chunks: AsyncIterator[bytes], read_timeout: type[Exception], limit_seconds: float
) -> AsyncIterator[dict[str, Any]]:
    """Cut a stream into lines, and read each as an event. An incomplete line at the end is dropped."""
    rest = b""
    try:
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield _event(line)
            if len(rest) > MAX_LINE_BYTES:
                raise ApiError(f"the API server sends an object of more than {MAX_LINE_BYTES} bytes")
    except read_timeout as error:
        raise WatchTimeoutError(f"the API server sent nothing for {limit_seconds:g} s") from error


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise ApiError("the API server sends an event that is not JSON") from error
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise ApiError("the API server sends an event without an object")
    return event


def _named(server_name: str) -> Callable[[Any], Awaitable[None]]:
    """Return a hook that has a request's connection ask for, and verify, this name instead of the URL's host."""

    async def name(request: Any) -> None:
        request.extensions["sni_hostname"] = server_name

    return name


def _tls_context(config: ClientConfig) -> Any:
    import ssl

    if config.server.startswith("http://"):
        return False
    try:
        context = client_context(ca_data=config.ca_data)
        if not config.is_verified:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if config.client_certificate is not None:
            context.load_cert_chain(config.client_certificate, config.client_key)
    except (OSError, ValueError) as error:
        raise KubeError(f"--kubeconfig: the certificates cannot be used: {error}") from error
    return context
