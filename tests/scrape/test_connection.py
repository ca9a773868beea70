# SPDX-License-Identifier: Apache-2.0
"""Tests of the responses that a connection reads."""

import asyncio
import contextlib

import pytest

from keda_gpu_scaler.scrape import connection
from keda_gpu_scaler.scrape.types import FailureKind, FetchError
from tests.limits import WAIT_SECONDS
from tests.scrape.clients import SHORT_SECONDS, CollectedPage, error_of, http_client, run, target
from tests.scrape.servers import (
    TEXT,
    Handler,
    Server,
    chunked,
    never_ends,
    page,
    responds,
    responds_and_closes,
    until_closed,
)

ANSI = b"\x1b[2J"
MAX_BODY_BYTES = 1 << 20


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test reaches in a short time."""
    monkeypatch.setattr(connection, "MAX_BODY_BYTES", MAX_BODY_BYTES)
    monkeypatch.setattr(connection, "_MAX_PARTS", 1 << 14)


def fetch_once(handler: Handler, *, timeout_seconds: float = WAIT_SECONDS) -> CollectedPage | FetchError:
    """Return the result of one fetch from a server with this handler."""

    async def once() -> CollectedPage | FetchError:
        async with Server(handler) as server:
            client = http_client(timeout_seconds=timeout_seconds)
            with contextlib.closing(client):
                try:
                    return await client.collect(target(server.port))
                except FetchError as error:
                    return error

    return asyncio.run(once())


@pytest.mark.parametrize(
    ("handler", "content"),
    [
        pytest.param(responds(page(b"up 1\n")), b"up 1\n", id="with a content length"),
        pytest.param(responds(chunked(b"up", b" 1\n")), b"up 1\n", id="in chunks"),
        pytest.param(responds_and_closes(until_closed(b"up 1\n")), b"up 1\n", id="until the connection is closed"),
        pytest.param(responds_and_closes(b"HTTP/1.0 200 OK\r\n\r\nup 1\n"), b"up 1\n", id="over HTTP/1.0"),
        pytest.param(responds(page(b"")), b"", id="an empty page"),
        pytest.param(responds(page(b"x" * MAX_BODY_BYTES)), b"x" * MAX_BODY_BYTES, id="a page of the maximum size"),
        pytest.param(responds(chunked(*[b"x" * 64] * 4000)), b"x" * 256_000, id="in many chunks"),
        pytest.param(
            responds(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + page(b"up 1\n")), b"up 1\n", id="after interim responses"
        ),
        pytest.param(
            responds_and_closes(page(b"up 1\n", Connection="close")),
            b"up 1\n",
            id="on a connection that the server closes",
        ),
    ],
)
def test_a_page_is_fetched(handler: Handler, content: bytes) -> None:
    got = fetch_once(handler)
    assert isinstance(got, CollectedPage), got
    assert got.content == content


def test_a_request_has_only_the_needed_headers() -> None:
    async def test() -> None:
        async with Server(responds(page())) as server:
            with contextlib.closing(http_client()) as client:
                assert (
                    await client.collect(target(server.port, host="vllm.ai.svc", path="/m?a=b"))
                ).content_type == TEXT
        (request,) = server.requests
        assert (request.method, request.path) == ("GET", "/m?a=b")
        assert request.headers.pop("user-agent").startswith("keda-gpu-scaler/")
        assert request.headers.pop("accept").startswith("text/plain;version=0.0.4,")
        # No other header: with compression a small response could be a large page.
        assert request.headers == {"host": f"vllm.ai.svc:{server.port}"}

    run(test())


TOO_LARGE = "the page is larger than 1 MiB"
INCOMPLETE = "the response is incomplete"
NO_HTTP = "the server does not speak HTTP"
WANTS_HTTPS = "the server expects https, and it is asked by http"


@pytest.mark.parametrize(
    ("handler", "kind", "sentence"),
    [
        *(
            pytest.param(
                responds(page(b"", status=f"{status} {ANSI.decode()}")),
                FailureKind.ABSENT,
                f"the server has no such page (HTTP {status})",
                id=f"HTTP {status}",
            )
            for status in (404, 405, 406, 410, 501)
        ),
        *(
            pytest.param(
                responds(page(b"", status=f"{status} No")),
                FailureKind.UNREADABLE,
                f"the server answers with HTTP {status}",
                id=f"{status}",
            )
            for status in (201, 204, 206, 400, 429, 500, 502, 503)
        ),
        *(
            pytest.param(
                responds(page(b"", status=f"{status} No")),
                FailureKind.UNREADABLE,
                f"the server requires credentials (HTTP {status}): mount them with --endpoint-credentials",
                id=f"HTTP {status}",
            )
            for status in (401, 403)
        ),
        pytest.param(
            responds(page(b"", status="302 Found", Location="http://169.254.169.254/" + "é" * 100)),
            FailureKind.ABSENT,
            "the server redirects to another location (HTTP 302, 223 characters), which is not followed",
            id="a redirect, which is not quoted",
        ),
        pytest.param(
            responds(page(b"", status="308 Permanent Redirect")),
            FailureKind.ABSENT,
            "the server redirects to another location (HTTP 308, 0 characters), which is not followed",
            id="a redirect without a location",
        ),
        *(
            pytest.param(responds(page(notice, status="400 Bad Request")), FailureKind.TLS, WANTS_HTTPS, id=server)
            for server, notice in (
                ("Go's notice", b"Client sent an HTTP request to an HTTPS server.\n"),
                ("nginx's notice", b"<center>The plain HTTP request was sent to HTTPS port</center>"),
                ("Tomcat's notice", b"Bad Request\r\nThis combination of host and port requires TLS.\r\n"),
                ("Apache's notice", b"You're speaking plain HTTP to an SSL-enabled server port.<br />"),
            )
        ),
        pytest.param(responds(b"\x15\x03\x01\0\2\2\x46"), FailureKind.TLS, WANTS_HTTPS, id="a TLS alert"),
        pytest.param(responds(ANSI + b"SSH-2.0-x\r\n"), FailureKind.ABSENT, NO_HTTP, id="another protocol"),
        pytest.param(
            responds(b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x80"),
            FailureKind.ABSENT,
            NO_HTTP,
            id="HTTP/2, as a gRPC server sends it",
        ),
        pytest.param(
            responds(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 99_999), FailureKind.ABSENT, NO_HTTP, id="an endless header"
        ),
        pytest.param(
            responds(b"HTTP/1.1 100 Continue\r\n\r\n" * 99), FailureKind.ABSENT, NO_HTTP, id="endless interim responses"
        ),
        pytest.param(
            responds(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
            FailureKind.ABSENT,
            NO_HTTP,
            id="a switch to another protocol",
        ),
        pytest.param(
            responds(page(Transfer_Encoding="gzip")),
            FailureKind.ABSENT,
            NO_HTTP,
            id="a transfer encoding that is not supported",
        ),
        pytest.param(
            responds_and_closes(b""),
            FailureKind.CLOSED,
            "the server closes the connection without an answer",
            id="a closed connection",
        ),
        pytest.param(
            responds_and_closes(b"HTTP/1.1 200 OK\r\nCont"), FailureKind.UNREADABLE, INCOMPLETE, id="an incomplete head"
        ),
        pytest.param(
            responds_and_closes(page(b"up")[:-1]),
            FailureKind.UNREADABLE,
            INCOMPLETE,
            id="fewer bytes than the content length",
        ),
        pytest.param(
            responds_and_closes(chunked(b"up")[:-5]),
            FailureKind.UNREADABLE,
            INCOMPLETE,
            id="chunks without the last one",
        ),
        pytest.param(
            responds(chunked(b"up").replace(b"2\r\nup", b"x\r\nup")),
            FailureKind.UNREADABLE,
            INCOMPLETE,
            id="an invalid chunk",
        ),
        pytest.param(
            responds(b"HTTP/1.1 200 OK\r\nContent-Length: 2097152\r\n\r\n"),
            FailureKind.UNREADABLE,
            TOO_LARGE,
            id="a content length above the limit",
        ),
        pytest.param(
            responds(chunked(b"x" * (2 << 20))), FailureKind.UNREADABLE, TOO_LARGE, id="a chunk above the limit"
        ),
        pytest.param(
            responds(chunked(*[b"x" * 4096] * 257)), FailureKind.UNREADABLE, TOO_LARGE, id="many chunks above the limit"
        ),
        pytest.param(
            never_ends(until_closed(b""), b"x" * 9999), FailureKind.UNREADABLE, TOO_LARGE, id="an endless page"
        ),
        pytest.param(
            responds(chunked(*[b"x"] * 20_000)),
            FailureKind.UNREADABLE,
            "the page comes in more than 16384 pieces",
            id="too many chunks of one byte",
        ),
    ],
)
def test_a_response_without_a_page_is_an_error(handler: Handler, kind: FailureKind, sentence: str) -> None:
    got = fetch_once(handler)
    assert isinstance(got, FetchError), got
    assert (got.kind, str(got)) == (kind, sentence)


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(never_ends(b""), id="no response"),
        pytest.param(never_ends(b"HTTP/1.1 200 OK\r\n"), id="an endless head"),
        pytest.param(never_ends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nup"), id="a page that stays incomplete"),
        pytest.param(never_ends(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n", b"x"), id="one byte at a time"),
    ],
)
def test_a_slow_response_is_an_error(handler: Handler) -> None:
    got = fetch_once(handler, timeout_seconds=SHORT_SECONDS)
    assert isinstance(got, FetchError), got
    assert (got.kind, str(got)) == (FailureKind.UNREADABLE, "no answer within 0.05 s")


def test_other_tasks_run_while_a_page_is_read() -> None:
    async def test() -> None:
        turn_count = 0

        async def other_task() -> None:
            nonlocal turn_count
            while True:
                turn_count += 1
                await asyncio.sleep(0)

        async with Server(responds(chunked(*[b"x"] * 16_000))) as server:
            with contextlib.closing(http_client()) as client:
                fetching = asyncio.create_task(client.collect(target(server.port)))
                waiting = asyncio.create_task(other_task())
                await fetching
                waiting.cancel()
        assert turn_count >= 16_000 / 1024

    run(test())


def test_a_refused_connection_is_an_error() -> None:
    async def test() -> None:
        async with Server(responds(page())) as server:
            pass
        error = await error_of(http_client().collect(target(server.port)))
        assert (error.kind, str(error)) == (FailureKind.REFUSED, "the connection is refused")

    run(test())


def test_an_invalid_path_is_not_requested() -> None:
    async def test() -> None:
        async with Server(responds(page())) as server:
            with contextlib.closing(http_client()) as client:
                error = await error_of(client.collect(target(server.port, path="/a\r\nHost: other")))
        assert str(error) == '"/a\\r\\nHost: other" is not a valid path: it must have no blanks'
        assert server.requests == []

    run(test())
