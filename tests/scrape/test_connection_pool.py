# SPDX-License-Identifier: Apache-2.0
"""Tests of the reuse and the end of connections."""

import asyncio
import contextlib

import pytest

from keda_gpu_scaler.scrape import connection as connection_module
from keda_gpu_scaler.scrape.http_client import IDLE_SECONDS
from keda_gpu_scaler.scrape.types import FetchError
from tests.fakes import ManualClock
from tests.scrape.clients import (
    connections,
    error_of,
    http_client,
    run,
    target,
)
from tests.scrape.servers import (
    Handler,
    Request,
    Server,
    page,
    responds,
    responds_and_closes,
)


def test_a_connection_is_reused() -> None:
    async def test() -> None:
        async with Server(responds(page())) as server:
            with contextlib.closing(http_client()) as client:
                for path in ("/metrics", "/metrics", "/other"):
                    await client.collect(target(server.port, path=path))
                assert connections(server) == [1, 1, 1]

    run(test())


def test_a_connection_is_not_shared_between_hosts() -> None:
    async def test() -> None:
        async with Server(responds(page())) as server:
            with contextlib.closing(http_client()) as client:
                for host in ("vllm.ai.svc", "vllm.web.svc", "vllm.ai.svc"):
                    await client.collect(target(server.port, host=host))
                assert connections(server) == [1, 2, 1]

    run(test())


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(responds_and_closes(page()), id="by the server without notice"),
        pytest.param(responds_and_closes(page(Connection="close")), id="by the server with notice"),
        pytest.param(responds(page() + page(b"evil 1\n")), id="by the client after an unexpected second response"),
        pytest.param(responds(page(b"", status="503 No")), id="by the client after an error response"),
    ],
)
def test_a_closed_connection_is_replaced(handler: Handler) -> None:
    async def test() -> None:
        async with Server(handler) as server:
            with contextlib.closing(http_client()) as client:
                for _ in range(3):
                    with contextlib.suppress(FetchError):
                        assert (await client.collect(target(server.port))).content == b"up 1\n"
            assert connections(server) == [1, 2, 3]

    run(test())


def test_a_request_on_a_closed_idle_connection_is_repeated_once() -> None:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            writer.write(page())
        else:
            writer.close()

    server = Server(handler)

    async def test() -> None:
        async with server:
            with contextlib.closing(http_client()) as client:
                await client.collect(target(server.port))
                error = await error_of(client.collect(target(server.port)))
            assert str(error) == "the server closes the connection without an answer"
            assert connections(server) == [1, 1, 2]

    run(test())


def test_an_idle_connection_is_closed_after_its_timeout() -> None:
    async def test() -> None:
        clock = ManualClock()
        async with Server(responds(page())) as server:
            with contextlib.closing(http_client(clock=clock)) as client:
                await client.collect(target(server.port))
                clock.advance(IDLE_SECONDS - 1)
                client.expire_idle()
                await client.collect(target(server.port))
                assert connections(server) == [1, 1]
                clock.advance(IDLE_SECONDS)
                client.expire_idle()
                await server.closed.wait()
                await client.collect(target(server.port))
                assert connections(server) == [1, 1, 2]

    run(test())


def test_close_closes_every_connection() -> None:
    async def test() -> None:
        async with Server(responds(page())) as server:
            client = http_client()
            await client.collect(target(server.port))
            client.close()
            await server.closed.wait()
            assert server.open == 0

    run(test())


def test_a_cancelled_fetch_releases_its_slot() -> None:
    async def test() -> None:
        begun = asyncio.Event()

        async def handler(_: Request, __: asyncio.StreamWriter) -> None:
            begun.set()
            await asyncio.Event().wait()

        async with Server(handler) as server:
            with contextlib.closing(http_client()) as client:
                fetching = asyncio.create_task(client.collect(target(server.port)))
                await begun.wait()
                fetching.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await fetching
                assert client._slots._address_slots == {}

    run(test())


def test_the_number_of_idle_connections_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_IDLE_CONNECTIONS", 2)

    async def test() -> None:
        async with Server(responds(page())) as server:
            with contextlib.closing(http_client()) as client:
                for _ in range(2):
                    for host in ("a", "b", "c"):
                        await client.collect(target(server.port, host=host))
                # The pool keeps the first two connections; the third one has no room.
                assert connections(server) == [1, 2, 3, 1, 2, 4]

    run(test())
