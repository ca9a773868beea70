# SPDX-License-Identifier: Apache-2.0
"""What does the API server answer? Requests as they are, and each refusal as a sentence.

The law of this module: every request has a deadline, and a connection on which nothing comes is given up.

httpx, and with it ``ssl``, are imported by the first instance of ``ApiClient``: an agent that KEDA does not ask needs
neither, and they take 15 MiB.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.auth import ClientConfig

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
METADATA_LIST_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json"
REQUEST_SECONDS = 10.0
ANSWER_SECONDS = 30.0
"""The longest that an answer may take as a whole, however steadily it drips."""
SILENCE_SECONDS = 90.0
"""A watch on which nothing came for so long is given up: the server sends a bookmark about once a minute."""
MAX_LINE_BYTES = 8 << 20

_OK, _CREATED = 200, 201
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404


class ApiError(KubeError):
    """A request that was not answered as wished. ``status`` is HTTP's, 0 where there was no answer at all."""

    def __init__(self, sentence: str, status: int = 0, retry_after_seconds: float = 0.0) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    @property
    def is_permanent(self) -> bool:
        """Whether somebody must change something before it goes away."""
        return self.status in (_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND)


class WatchSilentError(ApiError):
    """A watch on which nothing came for so long that nobody may be there."""


def preload() -> None:
    """Import the HTTP client and TLS.

    This takes as long as a few hundred calls of KEDA do. A server therefore runs it in a thread before it makes its
    first ``ApiClient`` in the event loop.
    """
    import httpx  # noqa: F401 - imported for the effect


class ApiClient:
    """One API server, asked with one identity.

    Raises:
        KubeError: the certificates cannot be used.
    """

    def __init__(self, access: ClientConfig) -> None:
        import httpx

        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request helps nobody
        self._errors, self._silence = httpx.HTTPError, httpx.ReadTimeout
        self._access = access
        self._http = httpx.AsyncClient(
            base_url=access.server,
            verify=_tls(access),
            trust_env=False,  # the API server is never behind a web proxy of the environment
            timeout=httpx.Timeout(REQUEST_SECONDS, read=SILENCE_SECONDS),
            # A watch holds a connection for as long as it lasts, and there may be hundreds.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )
        self._patience = httpx.Timeout(REQUEST_SECONDS)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def get(self, path: str, query: Mapping[str, str] | None = None, accept: str = "") -> dict[str, Any]:
        """Return one JSON object.

        Raises:
            ApiError: there is none.
        """
        asked = self._http.get(path, params=dict(query or {}), headers=self._headers(accept), timeout=self._patience)
        content = await self._answered(asked, _OK)
        try:
            found = json.loads(content)
        except ValueError as error:
            raise ApiError(f"the API server answers {path} with what is no JSON") from error
        if not isinstance(found, dict):
            raise ApiError(f"the API server answers {path} with what is no object")
        return found

    async def create(self, path: str, document: Mapping[str, Any]) -> None:
        """Add an object to a collection.

        Raises:
            ApiError: it was not created, or nobody knows whether it was.
        """
        asked = self._http.post(path, json=dict(document), headers=self._headers(""), timeout=self._patience)
        await self._answered(asked, _CREATED)

    async def _answered(self, asked: Awaitable[Any], expected: int) -> bytes:
        """Return what an answer holds.

        Raises:
            ApiError: it is not the answer that was expected.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await asked
        except TimeoutError as error:
            raise self._unreachable(f"not within {ANSWER_SECONDS:g} s") from error
        except self._errors as error:
            raise self._unreachable(error) from error
        if answer.status_code != expected:
            raise _refusal(answer.status_code, answer.content, answer.headers)
        content: bytes = answer.content
        return content

    @asynccontextmanager
    async def watch(
        self, path: str, query: Mapping[str, str], accept: str = ""
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Open a watch; its events come one by one, until the server ends it.

        Raises:
            ApiError: on entering, when it is refused; while iterating, when the connection breaks or what comes is no
                event.
        """
        try:
            async with self._http.stream(
                "GET", path, params={**query, "watch": "true"}, headers=self._headers(accept)
            ) as answer:
                if answer.status_code != 200:
                    raise _refusal(answer.status_code, await answer.aread(), answer.headers)
                yield _events(answer.aiter_bytes(), self._silence)
        except self._errors as error:
            raise self._unreachable(error) from error

    def _headers(self, accept: str) -> dict[str, str]:
        try:
            authorization = self._access.authorization()
        except KubeError as error:
            raise ApiError(str(error)) from error
        return {"Accept": accept or "application/json", **authorization}

    def _unreachable(self, error: Exception | str) -> ApiError:
        return ApiError(f"the API server {self._access.server} does not answer: {str(error) or type(error).__name__}")


async def _events(chunks: AsyncIterator[bytes], silence: type[Exception]) -> AsyncIterator[dict[str, Any]]:
    """Cut a stream into lines, and read each as an event; half a line at the end is no event."""
    rest = b""
    try:
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield _event(line)
            if len(rest) > MAX_LINE_BYTES:
                raise ApiError(f"the API server sends an object of more than {MAX_LINE_BYTES} bytes")
    except silence as error:
        raise WatchSilentError(f"the API server said nothing for {SILENCE_SECONDS:g} s") from error


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise ApiError("the API server sends an event that is no JSON") from error
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise ApiError("the API server sends an event without an object")
    return event


def _refusal(status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    try:
        said = json.loads(body)
        message = str(said["message"])
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode("utf-8", "replace")
    try:
        retry_after = float(headers.get("retry-after", "0"))
    except ValueError:
        retry_after = 0.0
    sentence = f"the API server answers {status}: {ascii(message[:300])[1:-1]}"
    return ApiError(sentence, status, min(max(retry_after, 0.0), 60.0))


def _tls(access: ClientConfig) -> Any:
    import ssl

    if access.server.startswith("http://"):
        return False
    try:
        context = ssl.create_default_context(cadata=access.ca_data or None)
        if not access.is_verified:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if access.client_certificate is not None:
            context.load_cert_chain(access.client_certificate, access.client_key)
    except (OSError, ValueError) as error:
        raise KubeError(f"--kubeconfig: the certificates cannot be used: {error}") from error
    return context
