# SPDX-License-Identifier: Apache-2.0
"""HTTP clients, targets and a gate for the tests of the HTTP client."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.address_policy import AddressPolicy
from keda_gpu_scaler.scrape.credentials import Credentials
from keda_gpu_scaler.scrape.dns_resolver import Lookup, LookupAnswer
from keda_gpu_scaler.scrape.http_client import HttpClient
from keda_gpu_scaler.scrape.ownership import Ownership
from keda_gpu_scaler.scrape.types import FetchError, Target
from tests.fakes import ManualClock
from tests.limits import WAIT_SECONDS
from tests.scrape.servers import (
    Request,
    Server,
    page,
)

SHORT_SECONDS = 0.05
LOOPBACK = "127.0.0.0/8"


@dataclass(frozen=True, slots=True)
class CollectedPage:
    """A page as a whole."""

    content: bytes
    content_type: str


class Collector:
    """A reader that keeps the pieces of a page."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def follow(self, piece: bytes) -> bool:
        return False

    def feed(self, piece: bytes) -> None:
        assert isinstance(piece, bytes), "the readers look pieces up, and a bytearray cannot be"
        self.pieces.append(piece)

    def end(self) -> Iterator[None]:
        return iter(())


class CollectingClient(HttpClient):
    """An HTTP client that returns whole pages."""

    async def collect(self, target: Target) -> CollectedPage:
        collector = Collector()
        page = await self.fetch(target, lambda _: collector)
        return CollectedPage(b"".join(collector.pieces), page.content_type)


async def no_lookup(host: str, port: int) -> LookupAnswer:
    raise AssertionError(f"{host} is resolved")


def http_client(
    *,
    allowed: str | None = LOOPBACK,
    credentials: Credentials | None = None,
    ownership: Ownership | None = None,
    timeout_seconds: float = WAIT_SECONDS,
    concurrency: int = 64,
    lookup: Lookup = no_lookup,
    clock: Callable[[], float] | None = None,
) -> CollectingClient:
    return CollectingClient(
        AddressPolicy(allowed),
        credentials or Credentials(),
        ownership=ownership,
        timeout_seconds=timeout_seconds,
        concurrency=concurrency,
        lookup=lookup,
        clock=clock or ManualClock(),
    )


def target(
    port: int,
    *,
    host: str = "127.0.0.1",
    address: str = "127.0.0.1",
    scheme: str = "http",
    path: str = "/metrics",
    trigger_namespace: str | None = "ai",
) -> Target:
    return Target(Url(scheme, host, port, path), address, trigger_namespace=trigger_namespace)


async def error_of(fetched: Awaitable[CollectedPage]) -> FetchError:
    try:
        body = await fetched
    except FetchError as error:
        return error
    raise AssertionError(f"got {body!r}")


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await test

    asyncio.run(bounded())


def connections(server: Server) -> list[int]:
    return [request.connection for request in server.requests]


class Gate:
    """Holds each response until a test opens it; ``most`` is the largest number of requests that waited at once."""

    def __init__(self) -> None:
        self.waiting = self.most = 0
        self.openings: list[asyncio.Event] = []
        self.arrival = asyncio.Condition()

    async def __call__(self, _: Request, writer: asyncio.StreamWriter) -> None:
        opening = asyncio.Event()
        async with self.arrival:
            self.openings.append(opening)
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            self.arrival.notify_all()
        await opening.wait()
        self.waiting -= 1
        writer.write(page())

    async def wait_for(self, count: int) -> None:
        async with self.arrival:
            await self.arrival.wait_for(lambda: len(self.openings) >= count)


async def cancel_all(tasks: list[asyncio.Task[CollectedPage]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
