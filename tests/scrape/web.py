# SPDX-License-Identifier: Apache-2.0
"""What answers where: a fetcher without a network, of which a test sets every page and every name."""

import asyncio
from collections.abc import Callable

from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.http_client import FailureKind, FetchedPage, FetchError, Target

TEXT = "text/plain; version=0.0.4"
REFUSED = FetchError("the connection is refused", FailureKind.REFUSED)
ABSENT = FetchError("it has no such page (HTTP 404)", FailureKind.ABSENT)
DENIED = FetchError("10.1.2.3 is refused", FailureKind.DENIED)
SILENT = FetchError("no answer within 2 s", FailureKind.UNREADABLE)

Answer = bytes | Exception | Callable[[], "bytes | Exception"]


def vllm(running: float = 0, waiting: float = 0, kv: float = 0.1, more: str = "") -> bytes:
    gauges = {"num_requests_running": running, "num_requests_waiting": waiting, "kv_cache_usage_perc": kv}
    return ("".join(f"vllm:{name} {value}\n" for name, value in gauges.items()) + more).encode()


def sglang(running: float = 0, waiting: float = 0) -> bytes:
    return f"sglang:num_running_reqs {running}\nsglang:num_queue_reqs {waiting}\nsglang:token_usage 0.1\n".encode()


class Web:
    """Pages by "10.1.2.3:8000/metrics", addresses by name; whatever is not set refuses the connection."""

    def __init__(self) -> None:
        self.pages: dict[str, Answer] = {}
        self.names: dict[str, tuple[str, ...] | Exception] = {}
        self.content_types: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.asked: list[tuple[float, str]] = []
        self.resolved: list[tuple[float, str]] = []
        self.at_once: dict[str, int] = {}
        self.most_at_once = 0
        self.tidied = 0
        self.is_closed = False

    def times(self, where: str) -> list[float]:
        """When a page was asked for."""
        return [at for at, asked in self.asked if asked == where]

    @property
    def places(self) -> list[str]:
        """What was asked for, in order."""
        return [where for _, where in self.asked]

    async def resolve(self, url: Url) -> tuple[str, ...]:
        self.resolved.append((asyncio.get_running_loop().time(), url.host))
        found = self.names.get(url.host, (url.host,))
        if isinstance(found, Exception):
            raise found
        return found

    async def fetch(self, target: Target) -> FetchedPage:
        where = f"{target.address}:{target.url.port}{target.url.path}"
        self.asked.append((asyncio.get_running_loop().time(), where))
        self.at_once[where] = self.at_once.get(where, 0) + 1
        self.most_at_once = max(self.most_at_once, self.at_once[where])
        try:
            await asyncio.sleep(self.seconds.get(where, 0.005))
        finally:
            self.at_once[where] -= 1
        answer = self.pages.get(where, REFUSED)
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return FetchedPage(answer, self.content_types.get(where, TEXT))

    def expire_idle(self) -> None:
        self.tidied += 1

    def close(self) -> None:
        self.is_closed = True
