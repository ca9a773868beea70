# SPDX-License-Identifier: Apache-2.0
"""Tests of the HTTP server over real connections on loopback."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import pytest

from keda_gpu_scaler.server import http as http_module
from keda_gpu_scaler.server.http import HttpPage, HttpServer, probe_pages
from keda_gpu_scaler.server.metrics import metrics_page
from keda_gpu_scaler.server.status_view import html_page
from tests.limits import WAIT_SECONDS

PAGES = {
    **probe_pages(lambda: None),
    "/metrics": lambda: metrics_page("metric 1\n"),
    "/": lambda: html_page("<p>fine</p>", "default-src 'none'"),
    "/broken": lambda: HttpPage("out of order\n", status=503),
}


QUERY_PAGES = {"/query": lambda query: HttpPage(f"{query}\n", status=404 if query == "none" else 200)}


def with_server(scenario: Callable[[int], Awaitable[None]], host: str = "127.0.0.1") -> None:
    async def run() -> None:
        server = HttpServer(PAGES, QUERY_PAGES)
        port = await server.start(host, 0)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await scenario(port)
        finally:
            await server.close()

    asyncio.run(run())


async def exchange(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        pytest.param(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"ok\n", id="liveness"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"ok\n", id="liveness under its older name"),
        pytest.param(
            b"GET /readyz?verbose HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"ok\n", id="a query string is ignored"
        ),
        pytest.param(
            b"GET /query?a=1&b=%20? HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"a=1&b=%20?\n", id="a page of its query"
        ),
        pytest.param(b"GET /query HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"\n", id="a page of an empty query"),
        pytest.param(b"GET /query?none HTTP/1.1\r\nHost: x\r\n\r\n", b"404", b"none\n", id="a page that is not found"),
        pytest.param(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"", id="HEAD has no body"),
        pytest.param(b"GET /metrics HTTP/1.0\r\n\r\n", b"200", b"metric 1\n", id="HTTP/1.0"),
        pytest.param(b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n", b"503", b"out of order\n", id="a page with a status"),
        pytest.param(
            b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
            b"404",
            b"there is no page '/nothing'; the pages are /, /broken, /healthz, /livez, /metrics, /query, /readyz\n",
            id="an unknown page",
        ),
        pytest.param(
            b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            b"405",
            b"only GET and HEAD are served\n",
            id="a method that is not served",
        ),
        pytest.param(
            b"\x16\x03\x01 nonsense\r\n\r\n",
            b"400",
            b"the request is not valid HTTP, or its head is too long\n",
            id="no HTTP",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000,
            b"431",
            b"the request is not valid HTTP, or its head is too long\n",
            id="headers that are too long",
        ),
    ],
)
def test_a_request_gets_its_page_or_an_error_sentence(request_: bytes, status: bytes, body: bytes) -> None:
    async def scenario(port: int) -> None:
        head, _, found = (await exchange(port, request_)).partition(b"\r\n\r\n")
        assert head.split()[1] == status
        assert found == body

    with_server(scenario)


def test_readiness_reports_the_reason_when_not_ready() -> None:
    assert probe_pages(lambda: "no sample yet")["/readyz"]() == HttpPage("not ready: no sample yet\n", status=503)


def test_liveness_does_not_depend_on_the_driver() -> None:
    assert probe_pages(lambda: "no sample yet")["/livez"]().status == 200


def test_metrics_are_served_as_prometheus_text() -> None:
    async def scenario(port: int) -> None:
        head, _, _ = (await exchange(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head

    with_server(scenario)


def test_the_status_page_has_its_security_headers() -> None:
    async def scenario(port: int) -> None:
        head, _, body = (await exchange(port, b"GET /?x HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0].split()[1] == b"200"
        assert body == b"<p>fine</p>"
        for expected in (
            b"Content-Type: text/html; charset=utf-8",
            b"Content-Security-Policy: default-src 'none'",
            b"X-Content-Type-Options: nosniff",
            b"Referrer-Policy: no-referrer",
            b"Cross-Origin-Resource-Policy: same-origin",
            b"Cache-Control: no-store",
        ):
            assert expected in lines

    with_server(scenario)


def test_a_client_that_sends_no_complete_request_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "_REQUEST_TIMEOUT_SECONDS", 0.001)

    async def scenario(port: int) -> None:
        with contextlib.suppress(ConnectionResetError):
            assert await exchange(port, b"GET /livez") == b""

    with_server(scenario)


def test_above_the_connection_limit_the_oldest_is_dropped_and_the_newest_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_module, "_MAX_CONNECTIONS", 1)

    async def scenario(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\n")
        await writer.drain()
        assert b"200" in await exchange(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()

    with_server(scenario)


def test_the_host_for_every_interface_includes_ipv4() -> None:
    async def scenario(port: int) -> None:
        assert b"200" in await exchange(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")

    with_server(scenario, host="::")


def test_a_host_without_ipv6_is_served_over_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)

    async def scenario(port: int) -> None:
        assert b"200" in await exchange(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")

    with_server(scenario, host="::")


def test_closing_drops_open_connections() -> None:
    async def run() -> None:
        server = HttpServer(PAGES)
        port = await server.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET")
        await writer.drain()
        while not server._connections:
            await asyncio.sleep(0)
        await server.close()
        with contextlib.suppress(ConnectionResetError):  # a reset is a drop too
            assert await reader.read() == b""
        assert not server._connections
        writer.close()

    asyncio.run(run())


def test_one_client_with_many_connections_does_not_displace_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "_MAX_CONNECTIONS", 3)

    async def scenario(port: int) -> None:
        kubelet_reader, kubelet = await asyncio.open_connection("127.0.0.1", port)
        kubelet.write(b"GET /livez HTTP/1.1\r\n")
        await kubelet.drain()
        greedy = [await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0)) for _ in range(8)]
        for reader, _ in greedy[:5]:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        kubelet.write(b"Host: x\r\n\r\n")
        assert (await kubelet_reader.read()).startswith(b"HTTP/1.1 200")
        for writer in (kubelet, *(writer for _, writer in greedy)):
            writer.close()
            with contextlib.suppress(ConnectionResetError):
                await writer.wait_closed()

    with_server(scenario)


def test_a_client_that_does_not_read_its_page_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a page that the kernel does not take stays in the server. It is small enough for drain to return."""
    monkeypatch.setattr(http_module, "_REQUEST_TIMEOUT_SECONDS", 0.05)
    transports: list[asyncio.WriteTransport] = []

    class Recording(HttpServer):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            transports.append(writer.transport)
            await super()._serve(reader, writer)

    async def run() -> None:
        server = Recording({"/": lambda: HttpPage("x" * 60_000)})
        port = await server.start("127.0.0.1", 0)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while not transports or server._connections:
            await asyncio.sleep(0)
        assert transports[0].get_write_buffer_size() == 0
        await server.close()
        client.close()

    asyncio.run(asyncio.wait_for(run(), WAIT_SECONDS))
