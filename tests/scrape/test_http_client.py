# SPDX-License-Identifier: Apache-2.0
"""One GET: to the address that was judged, within bounds, and with what was mounted."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keda_gpu_scaler.core.urls import Url, parse_url
from keda_gpu_scaler.scrape import http_client as fetch_module
from keda_gpu_scaler.scrape.address_policy import AddressPolicy
from keda_gpu_scaler.scrape.credentials import Credentials
from keda_gpu_scaler.scrape.http_client import (
    IDLE_SECONDS,
    MAX_BODY_BYTES,
    REFRESH_SECONDS,
    FailureKind,
    FetchedPage,
    FetchError,
    HttpClient,
    Target,
)
from tests.certificates import Authority, Pair
from tests.fakes import ManualClock
from tests.scrape.servers import (
    TEXT,
    Answers,
    Asked,
    Server,
    chunked,
    never_ends,
    page,
    says,
    says_and_closes,
    says_and_drops,
    until_closed,
    wants_token,
)
from tests.scrape.test_credentials import mount

WAIT_SECONDS = 30.0  # a bound for what happens at once, so that a defect fails instead of hanging
SHORT_SECONDS = 0.05
LOOPBACK = "127.0.0.0/8"
ANSI = b"\x1b[2J"


async def no_names(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} is resolved")


def fetcher(
    *,
    allowed: str | None = LOOPBACK,
    credentials: Credentials | None = None,
    timeout_seconds: float = WAIT_SECONDS,
    concurrency: int = 64,
    resolve: Callable[[str, int], Awaitable[list[str]]] = no_names,
    clock: Callable[[], float] | None = None,
) -> HttpClient:
    return HttpClient(
        AddressPolicy(allowed),
        credentials or Credentials(),
        timeout_seconds=timeout_seconds,
        concurrency=concurrency,
        resolve=resolve,
        clock=clock or ManualClock(),
    )


def target(
    port: int, *, host: str = "127.0.0.1", address: str = "127.0.0.1", scheme: str = "http", path: str = "/metrics"
) -> Target:
    return Target(Url(scheme, host, port, path), address)


async def refused(fetched: Awaitable[FetchedPage]) -> FetchError:
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


def answered(answers: Answers, *, timeout_seconds: float = WAIT_SECONDS) -> FetchedPage | FetchError:
    """What comes of one fetch from such a server."""

    async def once() -> FetchedPage | FetchError:
        async with Server(answers) as server:
            fetches = fetcher(timeout_seconds=timeout_seconds)
            with contextlib.closing(fetches):
                try:
                    return await fetches.fetch(target(server.port))
                except FetchError as error:
                    return error

    return asyncio.run(once())


# ---- pages ----


@pytest.mark.parametrize(
    ("answers", "content"),
    [
        pytest.param(says(page(b"up 1\n")), b"up 1\n", id="with its length"),
        pytest.param(says(chunked(b"up", b" 1\n")), b"up 1\n", id="in chunks"),
        pytest.param(says_and_closes(until_closed(b"up 1\n")), b"up 1\n", id="until the connection is closed"),
        pytest.param(says_and_closes(b"HTTP/1.0 200 OK\r\n\r\nup 1\n"), b"up 1\n", id="by HTTP/1.0"),
        pytest.param(says(page(b"")), b"", id="an empty one"),
        pytest.param(says(page(b"x" * MAX_BODY_BYTES)), b"x" * MAX_BODY_BYTES, id="as large as may be"),
        pytest.param(says(chunked(*[b"x" * 64] * 4000)), b"x" * 256_000, id="in many lines"),
        pytest.param(
            says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + page(b"up 1\n")), b"up 1\n", id="after interim answers"
        ),
        pytest.param(says_and_closes(page(b"up 1\n", Connection="close")), b"up 1\n", id="and nothing more"),
    ],
)
def test_a_page(answers: Answers, content: bytes) -> None:
    got = answered(answers)
    assert isinstance(got, FetchedPage), got
    assert got.content == content


def test_what_is_asked() -> None:
    async def test() -> None:
        async with Server(says(page())) as server:
            with contextlib.closing(fetcher()) as fetches:
                assert (
                    await fetches.fetch(target(server.port, host="vllm.ai.svc", path="/m?a=b"))
                ).content_type == TEXT
        (asked,) = server.asked
        assert (asked.method, asked.path) == ("GET", "/m?a=b")
        assert asked.headers.pop("user-agent").startswith("keda-gpu-scaler/")
        assert asked.headers.pop("accept").startswith("text/plain;version=0.0.4,")
        # Nothing else: compression above all, behind which a small answer could be a large page.
        assert asked.headers == {"host": f"vllm.ai.svc:{server.port}"}

    run(test())


TOO_LARGE = "its page is larger than 1 MiB"
BREAKS_OFF = "its answer breaks off"
NO_HTTP = "what answers speaks no HTTP"


@pytest.mark.parametrize(
    ("answers", "kind", "sentence"),
    [
        *(
            pytest.param(
                says(page(b"", status=f"{status} {ANSI.decode()}")),
                FailureKind.ABSENT,
                f"it has no such page (HTTP {status})",
                id=f"HTTP {status}",
            )
            for status in (404, 405, 406, 410, 501)
        ),
        *(
            pytest.param(
                says(page(b"", status=f"{status} No")),
                FailureKind.UNREADABLE,
                f"it answers with HTTP {status}",
                id=f"{status}",
            )
            for status in (201, 204, 206, 400, 429, 500, 502, 503)
        ),
        *(
            pytest.param(
                says(page(b"", status=f"{status} No")),
                FailureKind.UNREADABLE,
                f"it wants credentials (HTTP {status}): mount them with --endpoint-credentials",
                id=f"HTTP {status}",
            )
            for status in (401, 403)
        ),
        pytest.param(
            says(page(b"", status="302 Found", Location="http://169.254.169.254/" + "é" * 100)),
            FailureKind.ABSENT,
            'it redirects to "http://169.254.169.254/'
            + "\\ufffd" * 56
            + '\\u2026" (HTTP 302), and no redirect is followed',
            id="a redirect, quoted and cut short",
        ),
        pytest.param(
            says(page(b"", status="308 Permanent Redirect")),
            FailureKind.ABSENT,
            'it redirects to "" (HTTP 308), and no redirect is followed',
            id="a redirect to nowhere",
        ),
        pytest.param(says(ANSI + b"SSH-2.0-x\r\n"), FailureKind.ABSENT, NO_HTTP, id="another protocol"),
        pytest.param(
            says(b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x80"), FailureKind.ABSENT, NO_HTTP, id="HTTP/2, as gRPC has it"
        ),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 99_999), FailureKind.ABSENT, NO_HTTP, id="a header without an end"
        ),
        pytest.param(
            says(b"HTTP/1.1 100 Continue\r\n\r\n" * 99), FailureKind.ABSENT, NO_HTTP, id="interim answers without end"
        ),
        pytest.param(
            says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
            FailureKind.ABSENT,
            NO_HTTP,
            id="another protocol yet",
        ),
        pytest.param(
            says(page(Transfer_Encoding="gzip")), FailureKind.ABSENT, NO_HTTP, id="an encoding nobody asked for"
        ),
        pytest.param(
            says_and_closes(b""),
            FailureKind.UNREADABLE,
            "it closes the connection without an answer",
            id="closed at once",
        ),
        pytest.param(says_and_closes(b"HTTP/1.1 200 OK\r\nCont"), FailureKind.UNREADABLE, BREAKS_OFF, id="half a head"),
        pytest.param(says_and_closes(page(b"up")[:-1]), FailureKind.UNREADABLE, BREAKS_OFF, id="less than its length"),
        pytest.param(
            says_and_closes(chunked(b"up")[:-5]), FailureKind.UNREADABLE, BREAKS_OFF, id="chunks without their end"
        ),
        pytest.param(
            says(chunked(b"up").replace(b"2\r\nup", b"x\r\nup")), FailureKind.UNREADABLE, BREAKS_OFF, id="no chunk"
        ),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\nContent-Length: 2097152\r\n\r\n"),
            FailureKind.UNREADABLE,
            TOO_LARGE,
            id="a length too large",
        ),
        pytest.param(says(chunked(b"x" * (2 << 20))), FailureKind.UNREADABLE, TOO_LARGE, id="a chunk too large"),
        pytest.param(says(chunked(*[b"x" * 4096] * 257)), FailureKind.UNREADABLE, TOO_LARGE, id="chunks too many"),
        pytest.param(
            never_ends(until_closed(b""), b"x" * 9999), FailureKind.UNREADABLE, TOO_LARGE, id="a page without an end"
        ),
        pytest.param(
            says(chunked(*[b"x"] * 20_000)),
            FailureKind.UNREADABLE,
            "its page comes in more than 16384 pieces",
            id="chunks of one byte, which take long to put together",
        ),
    ],
)
def test_what_is_no_page(answers: Answers, kind: FailureKind, sentence: str) -> None:
    got = answered(answers)
    assert isinstance(got, FetchError), got
    assert (got.kind, str(got)) == (kind, sentence)


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(never_ends(b""), id="silence"),
        pytest.param(never_ends(b"HTTP/1.1 200 OK\r\n"), id="a head that does not end"),
        pytest.param(never_ends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nup"), id="a page that does not end"),
        pytest.param(never_ends(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n", b"x"), id="drop by drop"),
    ],
)
def test_what_takes_too_long(answers: Answers) -> None:
    got = answered(answers, timeout_seconds=SHORT_SECONDS)
    assert isinstance(got, FetchError), got
    assert (got.kind, str(got)) == (FailureKind.UNREADABLE, "no answer within 0.05 s")


def test_others_have_their_turn_while_a_page_is_put_together() -> None:
    async def test() -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with Server(says(chunked(*[b"x"] * 16_000))) as server:
            with contextlib.closing(fetcher()) as fetches:
                fetching = asyncio.create_task(fetches.fetch(target(server.port)))
                waiting = asyncio.create_task(others())
                await fetching
                waiting.cancel()
        assert turns >= 16_000 / 1024

    run(test())


def test_nobody_listens() -> None:
    async def test() -> None:
        async with Server(says(page())) as server:
            pass
        error = await refused(fetcher().fetch(target(server.port)))
        assert (error.kind, str(error)) == (FailureKind.REFUSED, "the connection is refused")

    run(test())


def test_a_path_that_is_none_is_a_sentence() -> None:
    async def test() -> None:
        async with Server(says(page())) as server:
            with contextlib.closing(fetcher()) as fetches:
                error = await refused(fetches.fetch(target(server.port, path="/a\r\nHost: other")))
        assert str(error) == '"/a\\r\\nHost: other" cannot be asked for: it must be a path without blanks'
        assert server.asked == []

    run(test())


# ---- connections ----


def connections(server: Server) -> list[int]:
    return [asked.connection for asked in server.asked]


def test_a_connection_is_used_again() -> None:
    async def test() -> None:
        async with Server(says(page())) as server:
            with contextlib.closing(fetcher()) as fetches:
                for path in ("/metrics", "/metrics", "/other"):
                    await fetches.fetch(target(server.port, path=path))
                assert connections(server) == [1, 1, 1]

    run(test())


def test_a_connection_is_not_shared_between_names() -> None:
    async def test() -> None:
        async with Server(says(page())) as server:
            with contextlib.closing(fetcher()) as fetches:
                for host in ("vllm.ai.svc", "vllm.web.svc", "vllm.ai.svc"):
                    await fetches.fetch(target(server.port, host=host))
                assert connections(server) == [1, 2, 1]

    run(test())


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(says_and_closes(page()), id="by a server that does not say so"),
        pytest.param(says_and_closes(page(Connection="close")), id="by a server that says so"),
        pytest.param(says(page() + page(b"evil 1\n")), id="on which something came that nobody asked for"),
        pytest.param(says(page(b"", status="503 No")), id="after an answer of no use"),
    ],
)
def test_a_connection_that_is_closed_is_made_anew(answers: Answers) -> None:
    async def test() -> None:
        async with Server(answers) as server:
            with contextlib.closing(fetcher()) as fetches:
                for _ in range(3):
                    with contextlib.suppress(FetchError):
                        assert (await fetches.fetch(target(server.port))).content == b"up 1\n"
            assert connections(server) == [1, 2, 3]

    run(test())


def test_a_server_that_closes_what_it_kept_is_asked_once_more_and_not_again_and_again() -> None:
    async def answers(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(server.asked) == 1:
            writer.write(page())
        else:
            writer.close()

    server = Server(answers)

    async def test() -> None:
        async with server:
            with contextlib.closing(fetcher()) as fetches:
                await fetches.fetch(target(server.port))
                error = await refused(fetches.fetch(target(server.port)))
            assert str(error) == "it closes the connection without an answer"
            assert connections(server) == [1, 1, 2]

    run(test())


def test_an_idle_connection_is_closed_after_a_while() -> None:
    async def test() -> None:
        clock = ManualClock()
        async with Server(says(page())) as server:
            with contextlib.closing(fetcher(clock=clock)) as fetches:
                await fetches.fetch(target(server.port))
                clock.advance(IDLE_SECONDS - 1)
                fetches.expire_idle()
                await fetches.fetch(target(server.port))
                assert connections(server) == [1, 1]
                clock.advance(IDLE_SECONDS)
                fetches.expire_idle()
                await server.closed.wait()
                await fetches.fetch(target(server.port))
                assert connections(server) == [1, 1, 2]

    run(test())


def test_no_connection_is_left_open() -> None:
    async def test() -> None:
        async with Server(says(page())) as server:
            fetches = fetcher()
            await fetches.fetch(target(server.port))
            fetches.close()
            await server.closed.wait()
            assert server.open == 0

    run(test())


def test_a_fetch_that_is_given_up_leaves_nothing_behind() -> None:
    async def test() -> None:
        begun = asyncio.Event()

        async def answers(_: Asked, __: asyncio.StreamWriter) -> None:
            begun.set()
            await asyncio.Event().wait()

        async with Server(answers) as server:
            with contextlib.closing(fetcher()) as fetches:
                fetching = asyncio.create_task(fetches.fetch(target(server.port)))
                await begun.wait()
                fetching.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await fetching
                assert fetches._busy == {}

    run(test())


def test_no_more_connections_are_kept_than_a_process_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "MAX_IDLE", 2)

    async def test() -> None:
        async with Server(says(page())) as server:
            with contextlib.closing(fetcher()) as fetches:
                for _ in range(2):
                    for host in ("a", "b", "c"):
                        await fetches.fetch(target(server.port, host=host))
                # The first two are kept for those who come round again, and the third has no room.
                assert connections(server) == [1, 2, 3, 1, 2, 4]

    run(test())


# ---- how many at once ----


class Crowd:
    """Answers to nobody before it is told to; ``most`` is how many waited at once."""

    def __init__(self) -> None:
        self.here = self.most = 0
        self.doors: list[asyncio.Event] = []
        self.came = asyncio.Condition()

    async def __call__(self, _: Asked, writer: asyncio.StreamWriter) -> None:
        door = asyncio.Event()
        async with self.came:
            self.doors.append(door)
            self.here += 1
            self.most = max(self.most, self.here)
            self.came.notify_all()
        await door.wait()
        self.here -= 1
        writer.write(page())

    async def wait_for(self, count: int) -> None:
        async with self.came:
            await self.came.wait_for(lambda: len(self.doors) >= count)


def test_two_at_one_address_and_no_more_whoever_ends_first() -> None:
    async def test() -> None:
        crowd = Crowd()
        async with Server(crowd) as server:
            with contextlib.closing(fetcher()) as fetches:
                all_of_them = [asyncio.create_task(fetches.fetch(target(server.port))) for _ in range(8)]
                for number in range(2, 8):
                    await crowd.wait_for(number)
                    crowd.doors[number - 1].set()  # the first one hangs all the while
                await crowd.wait_for(8)
                for door in crowd.doors:
                    door.set()
                await asyncio.gather(*all_of_them)
                assert crowd.most == 2
                assert fetches._busy == {}

    run(test())


def test_an_address_that_hangs_keeps_nobody_from_the_others() -> None:
    async def test() -> None:
        async with Server(never_ends(b"")) as slow, Server(says(page()), host="127.0.0.2") as quick:
            with contextlib.closing(fetcher(concurrency=3)) as fetches:
                hanging = [asyncio.create_task(fetches.fetch(target(slow.port))) for _ in range(9)]
                await asyncio.sleep(0)
                await fetches.fetch(target(quick.port, address="127.0.0.2"))
                for task in hanging:
                    task.cancel()
                await asyncio.gather(*hanging, return_exceptions=True)

    run(test())


def test_a_port_that_hangs_keeps_nobody_from_another_at_its_address() -> None:
    async def test() -> None:
        async with Server(never_ends(b"")) as slow, Server(says(page())) as quick:
            with contextlib.closing(fetcher()) as fetches:
                hanging = [asyncio.create_task(fetches.fetch(target(slow.port))) for _ in range(4)]
                await asyncio.sleep(0)
                await fetches.fetch(target(quick.port))
                await given_up(hanging)

    run(test())


def test_what_a_trigger_names_keeps_nobody_from_a_pod_at_the_same_port() -> None:
    async def answers(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await (never_ends(b"") if asked.path == "/slow" else says(page()))(asked, writer)

    async def test() -> None:
        async with Server(answers) as server:
            with contextlib.closing(fetcher()) as fetches:
                slow = target(server.port, path="/slow")
                hanging = [asyncio.create_task(fetches.fetch(slow)) for _ in range(4)]
                await asyncio.sleep(0)
                await fetches.fetch(replace(target(server.port), namespace="ai"))
                await given_up(hanging)

    run(test())


def test_what_hung_before_takes_few_turns_until_it_answers() -> None:
    async def test() -> None:
        async with Server(never_ends(b"")) as slow, Server(says(page())) as quick:
            with contextlib.closing(fetcher(concurrency=4, timeout_seconds=SHORT_SECONDS)) as fetches:
                slow_ones = [replace(target(slow.port), namespace=f"ai-{number}") for number in range(4)]
                await asyncio.gather(*(refused(fetches.fetch(one)) for one in slow_ones))
                fetches._timeout_seconds = WAIT_SECONDS
                hanging = [asyncio.create_task(fetches.fetch(one)) for one in slow_ones]
                await asyncio.sleep(0)
                await fetches.fetch(target(quick.port))
                await given_up(hanging)

    run(test())


async def given_up(tasks: list[asyncio.Task[FetchedPage]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_so_many_at_once_and_no_more() -> None:
    async def test() -> None:
        crowd = Crowd()
        async with Server(crowd, host="127.0.0.1") as one, contextlib.AsyncExitStack() as others:
            servers = [
                one,
                *[await others.enter_async_context(Server(crowd, host=f"127.0.0.{i}")) for i in range(2, 6)],
            ]
            with contextlib.closing(fetcher(concurrency=3)) as fetches:
                asking = [
                    asyncio.create_task(fetches.fetch(target(server.port, address=f"127.0.0.{i}")))
                    for i, server in enumerate(servers, 1)
                ]
                for number in range(3, 6):
                    await crowd.wait_for(number)
                    crowd.doors[number - 3].set()
                for door in crowd.doors:
                    door.set()
                await asyncio.gather(*asking)
        assert crowd.most == 3

    run(test())


def test_waiting_for_a_turn_takes_none_of_the_time() -> None:
    async def test() -> None:
        crowd = Crowd()
        async with Server(never_ends(b"")) as slow, Server(crowd, host="127.0.0.2") as quick:
            with contextlib.closing(fetcher(concurrency=1, timeout_seconds=SHORT_SECONDS)) as fetches:
                first = asyncio.create_task(refused(fetches.fetch(target(slow.port))))
                await asyncio.sleep(0)
                fetches._timeout_seconds = WAIT_SECONDS
                second = asyncio.create_task(fetches.fetch(target(quick.port, address="127.0.0.2")))
                assert str(await first).startswith("no answer within")
                await crowd.wait_for(1)
                crowd.doors[0].set()
                await second

    run(test())


# ---- what may be asked ----


@pytest.mark.parametrize(
    ("asked", "allowed", "sentence"),
    [
        pytest.param(
            Target(parse_url("http://vllm.ai/"), "169.254.169.254"),
            "*",
            "serves a cloud's metadata, and is never asked",
            id="metadata",
        ),
        pytest.param(Target(parse_url("http://vllm.ai/"), "127.0.0.1"), None, "this machine's own", id="loopback"),
        pytest.param(
            Target(parse_url("http://vllm.ai/"), "10.1.2.3"), "*.web", "not among the endpoints", id="an unlisted host"
        ),
        pytest.param(
            Target(parse_url("http://169.254.169.254/"), "169.254.169.254", "ai"),
            None,
            "is never asked",
            id="a pod with an address that is none of a pod",
        ),
        pytest.param(
            Target(parse_url("http://127.0.0.1/"), "127.0.0.1", "ai"),
            None,
            "this machine's own",
            id="a pod on loopback",
        ),
    ],
)
def test_what_is_refused_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, asked: Target, allowed: str | None, sentence: str
) -> None:
    async def connects(*_: object, **__: object) -> None:
        raise AssertionError("it is connected to")

    monkeypatch.setattr(asyncio, "open_connection", connects)

    async def test() -> None:
        error = await refused(fetcher(allowed=allowed).fetch(asked))
        assert error.kind is FailureKind.DENIED
        assert sentence in str(error)

    run(test())


def test_a_pod_is_asked_whatever_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio, "open_connection", nobody)

    async def test() -> None:
        url = parse_url("http://10.1.2.3:8000/metrics")
        fetches = fetcher(allowed="127.0.0.1,*.web")
        assert (await refused(fetches.fetch(Target(url, "10.1.2.3", "ai")))).kind is FailureKind.REFUSED
        assert (await refused(fetches.fetch(Target(url, "10.1.2.3")))).kind is FailureKind.DENIED

    run(test())


def test_a_name_that_changes_its_mind_leads_nowhere_else() -> None:
    """The address that was judged is connected to; a second look at the name is judged like the first."""
    answers = [["127.0.0.1"], ["169.254.169.254"]]

    async def rebinds(host: str, port: int) -> list[str]:
        return answers.pop(0)

    async def test() -> None:
        async with Server(says(page())) as server:
            url = Url("http", "vllm.ai", server.port, "/metrics")
            with contextlib.closing(fetcher(resolve=rebinds)) as fetches:
                (address,) = await fetches.resolve(url)
                await fetches.fetch(Target(url, address))
                await fetches.fetch(Target(url, address))
                assert len(answers) == 1
                with pytest.raises(FetchError, match="never asked") as told:
                    await fetches.resolve(url)
                assert told.value.kind is FailureKind.DENIED
            assert len(server.asked) == 2

    run(test())


def test_another_machine_than_the_one_that_was_judged_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = asyncio.open_connection

    async def elsewhere(host: str, port: int, **more: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await connect("127.0.0.2", port, **more)

    monkeypatch.setattr(asyncio, "open_connection", elsewhere)

    async def test() -> None:
        async with Server(says(page()), host="127.0.0.2") as server:
            error = await refused(fetcher().fetch(target(server.port)))
            assert error.kind is FailureKind.DENIED
            assert str(error) == f"connected to \"('127.0.0.2', {server.port})\" in place of 127.0.0.1"
            await server.closed.wait()
            assert server.asked == []

    run(test())


# ---- names ----


def resolved(addresses: list[str] | Exception, allowed: str | None = None) -> tuple[str, ...] | FetchError:
    async def resolve(host: str, port: int) -> list[str]:
        if isinstance(addresses, Exception):
            raise addresses
        return addresses

    async def once() -> tuple[str, ...] | FetchError:
        try:
            return await fetcher(allowed=allowed, resolve=resolve).resolve(parse_url("http://vllm.ai:8000/"))
        except FetchError as error:
            return error

    return asyncio.run(once())


@pytest.mark.parametrize(
    ("addresses", "told"),
    [
        pytest.param(["10.1.2.4", "10.1.2.3"], ("10.1.2.4", "10.1.2.3"), id="in their order"),
        pytest.param(["10.1.2.3", "fd00::1", "10.1.2.3"], ("10.1.2.3", "fd00::1"), id="each once"),
        pytest.param(["169.254.169.254", "10.1.2.3"], ("10.1.2.3",), id="but for those that are refused"),
    ],
)
def test_addresses(addresses: list[str], told: tuple[str, ...]) -> None:
    assert resolved(addresses) == told


@pytest.mark.parametrize(
    ("addresses", "kind", "sentence"),
    [
        pytest.param([], FailureKind.UNREADABLE, '"vllm.ai" has no address', id="none"),
        pytest.param(
            OSError(-2, "Name or service not known"),
            FailureKind.UNREADABLE,
            '"vllm.ai" cannot be resolved: name or service not known',
            id="no such name",
        ),
        pytest.param(
            UnicodeError("label too long"),
            FailureKind.UNREADABLE,
            '"vllm.ai" cannot be resolved: label too long',
            id="no name",
        ),
        pytest.param(
            ["127.0.0.1"],
            FailureKind.DENIED,
            '"vllm.ai" (127.0.0.1) is this machine\'s own, and is asked only if --allow-endpoints lists its network: '
            "name another host",
            id="none that may be asked",
        ),
    ],
)
def test_no_addresses(addresses: list[str] | Exception, kind: FailureKind, sentence: str) -> None:
    error = resolved(addresses)
    assert isinstance(error, FetchError), error
    assert (error.kind, str(error)) == (kind, sentence)


def test_a_name_that_takes_too_long() -> None:
    async def hangs(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError("it goes on")

    async def test() -> None:
        with pytest.raises(FetchError, match=r'"vllm\.ai" was not resolved within 0\.05 s'):
            await fetcher(resolve=hangs, timeout_seconds=SHORT_SECONDS).resolve(parse_url("http://vllm.ai/"))

    run(test())


def test_the_system_resolves_addresses_without_asking_anybody() -> None:
    assert asyncio.run(fetch_module.resolve_by_system("127.0.0.1", 80)) == ["127.0.0.1"]


def test_the_system_resolves_names() -> None:
    assert set(asyncio.run(fetch_module.resolve_by_system("localhost", 80))) <= {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror):
        asyncio.run(fetch_module.resolve_by_system("no-such-host.invalid", 80))


def test_names_that_hang_keep_no_other_thread_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    released, resolved = threading.Event(), threading.Barrier(fetch_module.MAX_RESOLVING + 1)

    def hangs(host: str, port: int, **_: object) -> list[object]:
        resolved.wait(20)
        released.wait(20)
        return [(0, 0, 0, "", ("192.0.2.1", port))]

    async def test() -> None:
        loop = asyncio.get_running_loop()
        calls = [
            asyncio.ensure_future(fetch_module.resolve_by_system(f"{number}.ai", 80))
            for number in range(fetch_module.MAX_RESOLVING)
        ]
        # The loop's own threads are free for this, though every name hangs.
        await loop.run_in_executor(None, resolved.wait, 20)
        with pytest.raises(OSError, match="32 names are being resolved, the most there may be"):
            await fetch_module.resolve_by_system("one-more.ai", 80)
        calls[0].cancel()
        released.set()
        assert await asyncio.gather(*calls[1:]) == [["192.0.2.1"]] * (len(calls) - 1)

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    run(test())


# ---- tokens ----


def test_a_token_is_shown_to_those_it_is_for(tmp_path: Path) -> None:
    mount(tmp_path, "one", {"hosts": "*.ai", "token": "word", "insecure-token": ""})

    async def test() -> None:
        async with Server(wants_token("word")) as server:
            with contextlib.closing(fetcher(credentials=Credentials(str(tmp_path)))) as fetches:
                await fetches.fetch(target(server.port, host="vllm.ai"))
                error = await refused(fetches.fetch(target(server.port, host="vllm.web")))
        assert str(error).startswith("it wants credentials (HTTP 401)")
        assert ["authorization" in asked.headers for asked in server.asked] == [True, False]

    run(test())


def test_a_token_is_not_shown_without_tls(tmp_path: Path) -> None:
    mount(tmp_path, "one", {"hosts": "*", "token": "word"})

    async def test() -> None:
        async with Server(says(page())) as server:
            with contextlib.closing(fetcher(credentials=Credentials(str(tmp_path)))) as fetches:
                await fetches.fetch(target(server.port))
        assert "authorization" not in server.asked[0].headers

    run(test())


def test_a_token_that_changes_is_shown_soon_on_another_connection(tmp_path: Path) -> None:
    mount(tmp_path, "one", {"hosts": "*", "token": "word", "insecure-token": ""})
    clock = ManualClock()

    async def test() -> None:
        async with Server(says(page())) as server:
            with contextlib.closing(fetcher(credentials=Credentials(str(tmp_path)), clock=clock)) as fetches:
                await fetches.fetch(target(server.port))
                mount(tmp_path, "one", {"token": "another"})
                await fetches.fetch(target(server.port))
                clock.advance(REFRESH_SECONDS)
                await fetches.fetch(target(server.port))
        shown = [(asked.connection, asked.headers["authorization"]) for asked in server.asked]
        assert shown == [(1, "Bearer word"), (1, "Bearer word"), (2, "Bearer another")]

    run(test())


def test_credentials_that_cannot_be_used_any_more_are_told(tmp_path: Path) -> None:
    mount(tmp_path, "one", {"hosts": "*.ai", "token": "word", "insecure-token": ""})
    clock = ManualClock()

    async def test() -> None:
        async with Server(says(page())) as server:
            with contextlib.closing(fetcher(credentials=Credentials(str(tmp_path)), clock=clock)) as fetches:
                mount(tmp_path, "one", {"hosts": ""})
                clock.advance(REFRESH_SECONDS)
                error = await refused(fetches.fetch(target(server.port, host="vllm.ai")))
                await fetches.fetch(target(server.port, host="vllm.web"))
        assert (error.kind, "one/hosts: Required value" in str(error)) == (FailureKind.UNREADABLE, True)
        assert [asked.headers["host"].partition(":")[0] for asked in server.asked] == ["vllm.web"]

    run(test())


# ---- TLS ----

NAME = "vllm.ai.svc"
MOUNT_ITS_CA = "mount its CA with --endpoint-credentials"


def tls(pair: Pair, clients: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if clients is not None:
        context.load_verify_locations(clients.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def secured(
    mounts: Path | None, context: ssl.SSLContext | None, answers: Answers, asked: Callable[[int], Target]
) -> tuple[FetchedPage | FetchError, Server]:
    """What comes of one fetch with these mounts."""

    async def once() -> tuple[FetchedPage | FetchError, Server]:
        async with Server(answers, tls=context) as server:
            with contextlib.closing(fetcher(credentials=Credentials(str(mounts) if mounts else None))) as fetches:
                try:
                    return await fetches.fetch(asked(server.port)), server
                except FetchError as error:
                    return error, server

    return asyncio.run(once())


def by_name(port: int) -> Target:
    return target(port, scheme="https", host=NAME)


def test_tls_with_a_token(tmp_path: Path, authority: Authority) -> None:
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text(), "token": "word"})
    context = tls(authority.issue("server", host=NAME))
    body, _ = secured(tmp_path / "mounts", context, wants_token("word"), by_name)
    assert isinstance(body, FetchedPage), body


def test_tls_with_a_page_of_many_records(tmp_path: Path, authority: Authority) -> None:
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text()})
    context = tls(authority.issue("server", host=NAME))
    body, _ = secured(tmp_path / "mounts", context, says(page(b"x" * 300_000)), by_name)
    assert isinstance(body, FetchedPage), body
    assert len(body.content) == 300_000


def test_tls_connections_are_used_again(tmp_path: Path, authority: Authority) -> None:
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text()})
    context = tls(authority.issue("server", host=NAME))

    async def test() -> None:
        async with Server(says(page()), tls=context) as server:
            with contextlib.closing(fetcher(credentials=Credentials(str(tmp_path / "mounts")))) as fetches:
                for _ in range(3):
                    await fetches.fetch(by_name(server.port))
                assert connections(server) == [1, 1, 1]

    run(test())


def test_a_name_with_its_last_dot_is_the_name_in_the_certificate(tmp_path: Path, authority: Authority) -> None:
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text()})
    context = tls(authority.issue("server", host=NAME))
    body, _ = secured(
        tmp_path / "mounts", context, says(page()), lambda port: target(port, scheme="https", host=f"{NAME}.")
    )
    assert isinstance(body, FetchedPage), body


def test_a_pod_is_known_by_the_name_that_was_mounted(tmp_path: Path, authority: Authority) -> None:
    files = {"hosts": "pods:ai", "ca.crt": authority.certificate.read_text(), "server-name": NAME}
    mount(tmp_path / "mounts", "one", files)
    context = tls(authority.issue("server", host=NAME))

    def pod(port: int) -> Target:
        return Target(Url("https", "127.0.0.1", port, "/metrics"), "127.0.0.1", "ai")

    body, _ = secured(tmp_path / "mounts", context, says(page()), pod)
    assert isinstance(body, FetchedPage), body


@pytest.mark.parametrize(
    ("names", "days", "mounted", "why"),
    [
        pytest.param(
            NAME, 2, "other", "unable to get local issuer certificate", id="by an authority that is not trusted"
        ),
        pytest.param(NAME, 2, None, "unable to get local issuer certificate", id="by one the system does not know"),
        pytest.param("vllm.web.svc", 2, "ca", "hostname mismatch", id="for another host"),
        pytest.param(NAME, -1, "ca", "certificate has expired", id="and has expired"),
    ],
)
def test_a_certificate_that_was_issued(
    tmp_path: Path, authority: Authority, names: str, days: int, mounted: str | None, why: str
) -> None:
    trusted = {"ca": authority, "other": Authority(tmp_path, "other")}
    if mounted:
        files = {"hosts": NAME, "ca.crt": trusted[mounted].certificate.read_text(), "token": "word"}
        mount(tmp_path / "mounts", "one", files)
    context = tls(authority.issue("server", host=names, days=days))
    error, server = secured(tmp_path / "mounts" if mounted else None, context, says(page()), by_name)
    assert isinstance(error, FetchError)
    assert error.kind is FailureKind.UNREADABLE
    assert str(error).startswith("its certificate is not trusted: ")
    assert why in str(error)
    assert str(error).endswith(MOUNT_ITS_CA)
    assert server.asked == []


def test_a_server_that_wants_a_certificate_is_shown_the_one_that_was_mounted(
    tmp_path: Path, authority: Authority
) -> None:
    context = tls(authority.issue("server", host=NAME), clients=authority)
    client = authority.issue("client")
    files = {"hosts": NAME, "ca.crt": authority.certificate.read_text()}
    mount(tmp_path / "mounts", "one", files)
    without, _ = secured(tmp_path / "mounts", context, says(page()), by_name)
    assert isinstance(without, FetchError), without
    mount(tmp_path / "mounts", "one", {"tls.crt": client.certificate.read_text(), "tls.key": client.key.read_text()})
    body, _ = secured(tmp_path / "mounts", context, says(page()), by_name)
    assert isinstance(body, FetchedPage), body


def test_a_server_without_tls() -> None:
    left = asyncio.Event()

    async def complains(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(page(b"", status="400 Bad Request"))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        left.set()

    async def test() -> None:
        async with await asyncio.start_server(complains, "127.0.0.1", 0) as server:
            error = await refused(fetcher().fetch(by_name(server.sockets[0].getsockname()[1])))
            await left.wait()
        assert (error.kind, str(error)) == (FailureKind.UNREADABLE, "TLS cannot be agreed on: wrong version number")

    run(test())


def test_a_ca_that_is_none_is_told_by_its_file(tmp_path: Path) -> None:
    mounted = mount(tmp_path, "one", {"hosts": NAME, "ca.crt": "no PEM"})
    error, server = secured(tmp_path, None, says(page()), by_name)
    assert isinstance(error, FetchError)
    assert f"{mounted / 'ca.crt'}: cannot be used: " in str(error)
    assert server.asked == []


@pytest.mark.parametrize(
    ("answers", "is_whole"),
    [
        pytest.param(says_and_closes(until_closed(b"up 1\n")), True, id="is a page where the peer says that it ends"),
        pytest.param(says_and_drops(until_closed(b"up 1\n")), False, id="is none where anybody may have cut it"),
        pytest.param(says_and_drops(page(b"up 1\n")), True, id="is a page where its length is known"),
    ],
)
def test_what_ends_with_its_connection(tmp_path: Path, authority: Authority, answers: Answers, is_whole: bool) -> None:
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text()})
    context = tls(authority.issue("server", host=NAME))
    got, _ = secured(tmp_path / "mounts", context, answers, by_name)
    assert (got.content if isinstance(got, FetchedPage) else str(got)) == (b"up 1\n" if is_whole else BREAKS_OFF)


def test_a_server_that_closes_instead_of_speaking_tls() -> None:
    async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.close()

    async def test() -> None:
        async with await asyncio.start_server(leaves, "127.0.0.1", 0) as server:
            error = await refused(fetcher().fetch(by_name(server.sockets[0].getsockname()[1])))
        assert (error.kind, str(error)) == (FailureKind.UNREADABLE, "TLS cannot be agreed on: the connection is closed")

    run(test())


AS_SERVE_DOES = """
import sys
from keda_gpu_scaler.cli import main
main.get_command(None, "serve")
import asyncio
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.credentials import Credentials
from keda_gpu_scaler.scrape.http_client import HttpClient, Target
from keda_gpu_scaler.scrape.address_policy import AddressPolicy

async def run():
    scheme, host, port, mounts = sys.argv[1:]
    fetcher = HttpClient(AddressPolicy("127.0.0.1"), Credentials(mounts))
    body = await fetcher.fetch(Target(Url(scheme, host, int(port), "/metrics"), "127.0.0.1"))
    fetcher.close()
    print(body.content.decode().strip(), "ssl" in sys.modules)

asyncio.run(run())
"""


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_serve_fetches_with_tls_and_loads_openssl_for_nothing_else(
    tmp_path: Path, authority: Authority, scheme: str
) -> None:
    """``serve`` has an asyncio without OpenSSL."""
    mount(tmp_path / "mounts", "one", {"hosts": NAME, "ca.crt": authority.certificate.read_text()})
    context = tls(authority.issue("server", host=NAME)) if scheme == "https" else None

    async def test() -> None:
        async with Server(says(page()), tls=context) as server:
            told = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", AS_SERVE_DOES, scheme, NAME, str(server.port), str(tmp_path / "mounts")],
                capture_output=True,
                text=True,
                timeout=WAIT_SECONDS,
                check=False,
            )
        assert (told.stdout, told.stderr) == (f"up 1 {scheme == 'https'}\n", "")

    run(test())
