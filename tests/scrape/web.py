# SPDX-License-Identifier: Apache-2.0
"""A client without a network: a test sets its pages and its host names."""

import asyncio
from collections.abc import Callable

from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.types import FailureKind, FetchedPage, FetchError, OpenReader, ResolvedHost, Target

TEXT = "text/plain; version=0.0.4"
REFUSED = FetchError("the connection is refused", FailureKind.REFUSED)
ABSENT = FetchError("the server has no such page (HTTP 404)", FailureKind.ABSENT, status=404)
DENIED = FetchError("10.1.2.3 is refused", FailureKind.DENIED)
WANTS_HTTPS = FetchError("the server expects https, and it is asked by http", FailureKind.TLS, status=400)
WANTS_HTTP = FetchError("the server expects http, and it is asked by https", FailureKind.PLAIN)
CLOSES = FetchError("the server closes the connection without an answer", FailureKind.CLOSED)
UNTRUSTED = FetchError("the certificate is not trusted", FailureKind.UNTRUSTED)
NO_ANSWER = FetchError("no answer within 2 s", FailureKind.UNREADABLE)

Answer = bytes | Exception | Callable[[], "bytes | Exception"]


def vllm(running: float = 0, waiting: float = 0, kv: float = 0.1, more: str = "") -> bytes:
    gauges = {"num_requests_running": running, "num_requests_waiting": waiting, "kv_cache_usage_perc": kv}
    return ("".join(f"vllm:{name} {value}\n" for name, value in gauges.items()) + more).encode()


def sglang(running: float = 0, waiting: float = 0) -> bytes:
    return f"sglang:num_running_reqs {running}\nsglang:num_queue_reqs {waiting}\nsglang:token_usage 0.1\n".encode()


class Web:
    """Pages by "10.1.2.3:8000/metrics" or "https://10.1.2.3:8000/metrics", and addresses by name.

    Every other address refuses the connection.
    """

    def __init__(self) -> None:
        self.pages: dict[str, Answer] = {}
        self.names: dict[str, tuple[str, ...] | Exception] = {}
        self.content_types: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.work_seconds: dict[str, float] = {}
        self.fetched: list[tuple[float, str]] = []
        self.resolved: list[tuple[float, str]] = []
        self.running: dict[str, int] = {}
        self.most_running = 0
        self.expired = 0
        self.is_closed = False

    def times(self, url: str) -> list[float]:
        """The times at which a page was fetched."""
        return [at for at, fetched in self.fetched if fetched == url]

    @property
    def urls(self) -> list[str]:
        """The fetched pages, in order."""
        return [url for _, url in self.fetched]

    async def resolve(self, url: Url, namespace: str | None) -> ResolvedHost:
        self.resolved.append((asyncio.get_running_loop().time(), url.host))
        found = self.names.get(url.host, (url.host,))
        if isinstance(found, Exception):
            raise found
        return ResolvedHost(found)

    async def fetch(self, target: Target, open_reader: OpenReader) -> FetchedPage:
        scheme = "https://" if target.url.scheme == "https" else ""
        page_url = f"{scheme}{target.address}:{target.url.port}{target.url.path}"
        self.fetched.append((asyncio.get_running_loop().time(), page_url))
        self.running[page_url] = self.running.get(page_url, 0) + 1
        self.most_running = max(self.most_running, self.running[page_url])
        seconds = self.seconds.get(page_url, 0.005)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.running[page_url] -= 1
        answer = self.pages.get(page_url, REFUSED)
        if callable(answer):
            answer = answer()
        if isinstance(answer, FetchError):
            answer.answer_seconds = seconds
        if isinstance(answer, Exception):
            raise answer
        content_type = self.content_types.get(page_url, TEXT)
        open_reader(content_type).feed(answer)
        return FetchedPage(content_type, answer_seconds=seconds, work_seconds=self.work_seconds.get(page_url, 0.0))

    def expire_idle(self) -> None:
        self.expired += 1

    def close(self) -> None:
        self.is_closed = True
