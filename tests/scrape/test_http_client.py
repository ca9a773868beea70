# SPDX-License-Identifier: Apache-2.0
"""Tests of concurrency, allowed addresses and tokens."""

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from keda_gpu_scaler.core.urls import Url, parse_url
from keda_gpu_scaler.scrape import tcp_stream
from keda_gpu_scaler.scrape.credentials import Credentials
from keda_gpu_scaler.scrape.dns_resolver import LookupAnswer
from keda_gpu_scaler.scrape.http_client import CREDENTIALS_REFRESH_SECONDS
from keda_gpu_scaler.scrape.types import FailureKind, FetchError, Target
from tests.fakes import ManualClock
from tests.limits import WAIT_SECONDS
from tests.scrape.clients import SHORT_SECONDS, Gate, cancel_all, error_of, http_client, run, target
from tests.scrape.servers import (
    Request,
    Server,
    never_ends,
    page,
    requires_token,
    responds,
)
from tests.scrape.test_credentials import EVERYWHERE, mount

# ---- concurrency ----


def test_at_most_two_fetches_run_at_one_address() -> None:
    async def test() -> None:
        gate = Gate()
        async with Server(gate) as server:
            with contextlib.closing(http_client()) as client:
                fetches = [asyncio.create_task(client.collect(target(server.port))) for _ in range(8)]
                for number in range(2, 8):
                    await gate.wait_for(number)
                    gate.openings[number - 1].set()  # the first request stays open
                await gate.wait_for(8)
                for opening in gate.openings:
                    opening.set()
                await asyncio.gather(*fetches)
                assert gate.most == 2
                assert client._slots._address_slots == {}

    run(test())


def test_a_hanging_address_does_not_delay_other_addresses() -> None:
    async def test() -> None:
        async with Server(never_ends(b"")) as slow, Server(responds(page()), host="127.0.0.2") as quick:
            with contextlib.closing(http_client(concurrency=3)) as client:
                hanging = [asyncio.create_task(client.collect(target(slow.port))) for _ in range(9)]
                await asyncio.sleep(0)
                await client.collect(target(quick.port, address="127.0.0.2"))
                for task in hanging:
                    task.cancel()
                await asyncio.gather(*hanging, return_exceptions=True)

    run(test())


def test_a_hanging_port_does_not_delay_other_ports_of_the_address() -> None:
    async def test() -> None:
        async with Server(never_ends(b"")) as slow, Server(responds(page())) as quick:
            with contextlib.closing(http_client()) as client:
                hanging = [asyncio.create_task(client.collect(target(slow.port))) for _ in range(4)]
                await asyncio.sleep(0)
                await client.collect(target(quick.port))
                await cancel_all(hanging)

    run(test())


def test_a_hanging_url_does_not_delay_a_pod_at_the_same_port() -> None:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        await (never_ends(b"") if request.path == "/slow" else responds(page()))(request, writer)

    async def test() -> None:
        async with Server(handler) as server:
            with contextlib.closing(http_client()) as client:
                slow = target(server.port, path="/slow")
                hanging = [asyncio.create_task(client.collect(slow)) for _ in range(4)]
                await asyncio.sleep(0)
                await client.collect(replace(target(server.port), namespace="ai"))
                await cancel_all(hanging)

    run(test())


def test_the_number_of_concurrent_fetches_is_limited() -> None:
    async def test() -> None:
        gate = Gate()
        async with Server(gate, host="127.0.0.1") as one, contextlib.AsyncExitStack() as others:
            servers = [
                one,
                *[await others.enter_async_context(Server(gate, host=f"127.0.0.{i}")) for i in range(2, 6)],
            ]
            with contextlib.closing(http_client(concurrency=3)) as client:
                fetches = [
                    asyncio.create_task(client.collect(target(server.port, address=f"127.0.0.{i}")))
                    for i, server in enumerate(servers, 1)
                ]
                for number in range(3, 6):
                    await gate.wait_for(number)
                    gate.openings[number - 3].set()
                for opening in gate.openings:
                    opening.set()
                await asyncio.gather(*fetches)
        assert gate.most == 3

    run(test())


def test_the_wait_for_a_slot_does_not_count_for_the_timeout() -> None:
    async def test() -> None:
        gate = Gate()
        async with Server(never_ends(b"")) as slow, Server(gate, host="127.0.0.2") as quick:
            with contextlib.closing(http_client(concurrency=1, timeout_seconds=SHORT_SECONDS)) as client:
                first = asyncio.create_task(error_of(client.collect(target(slow.port))))
                await asyncio.sleep(0)
                client._timeout_seconds = WAIT_SECONDS
                second = asyncio.create_task(client.collect(target(quick.port, address="127.0.0.2")))
                assert str(await first).startswith("no answer within")
                await gate.wait_for(1)
                gate.openings[0].set()
                await second

    run(test())


# ---- allowed addresses ----


@pytest.mark.parametrize(
    ("refused_target", "allowed", "sentence"),
    [
        pytest.param(
            Target(parse_url("http://vllm.ai/"), "169.254.169.254"),
            "*",
            "a link-local or cloud metadata address, which is never scraped",
            id="metadata",
        ),
        pytest.param(
            Target(parse_url("http://vllm.ai/"), "127.0.0.1"), None, "an address of this machine", id="loopback"
        ),
        pytest.param(
            Target(parse_url("http://vllm.ai/"), "10.1.2.3"),
            "*.web",
            "not among the allowed endpoints",
            id="a host that is not listed",
        ),
        pytest.param(
            Target(parse_url("http://169.254.169.254/"), "169.254.169.254", "ai"),
            None,
            "is never scraped",
            id="a pod at a metadata address",
        ),
        pytest.param(
            Target(parse_url("http://127.0.0.1/"), "127.0.0.1", "ai"),
            None,
            "an address of this machine",
            id="a pod on loopback",
        ),
    ],
)
def test_a_refused_address_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, refused_target: Target, allowed: str | None, sentence: str
) -> None:
    async def fail_on_connect(*_: object, **__: object) -> None:
        raise AssertionError("the client connects")

    monkeypatch.setattr(tcp_stream, "connect", fail_on_connect)

    async def test() -> None:
        error = await error_of(http_client(allowed=allowed).collect(refused_target))
        assert error.kind is FailureKind.DENIED
        assert sentence in str(error)

    run(test())


def test_the_list_of_endpoints_does_not_apply_to_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(tcp_stream, "connect", refuse)

    async def test() -> None:
        url = parse_url("http://10.1.2.3:8000/metrics")
        client = http_client(allowed="127.0.0.1,*.web")
        assert (await error_of(client.collect(Target(url, "10.1.2.3", "ai")))).kind is FailureKind.REFUSED
        assert (await error_of(client.collect(Target(url, "10.1.2.3")))).kind is FailureKind.DENIED

    run(test())


def test_a_changed_dns_answer_does_not_redirect_a_fetch() -> None:
    """The client connects to the address that was checked. Each new answer of the DNS is checked too."""
    answers = [["127.0.0.1"], ["169.254.169.254"]]

    async def changing_lookup(host: str, port: int) -> LookupAnswer:
        return LookupAnswer(tuple(answers.pop(0)))

    async def test() -> None:
        async with Server(responds(page())) as server:
            url = Url("http", "vllm.ai", server.port, "/metrics")
            with contextlib.closing(http_client(lookup=changing_lookup)) as client:
                (address,) = (await client.resolve(url)).addresses
                await client.collect(Target(url, address))
                await client.collect(Target(url, address))
                assert len(answers) == 1
                with pytest.raises(FetchError, match="never scraped") as raised:
                    await client.resolve(url)
                assert raised.value.kind is FailureKind.DENIED
            assert len(server.requests) == 2

    run(test())


def test_no_request_is_sent_to_an_address_that_was_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = tcp_stream.connect

    async def connect_elsewhere(address: str, port: int) -> tcp_stream.TcpStream:
        return await connect("127.0.0.2", port)

    monkeypatch.setattr(tcp_stream, "connect", connect_elsewhere)

    async def test() -> None:
        async with Server(responds(page()), host="127.0.0.2") as server:
            error = await error_of(http_client().collect(target(server.port)))
            assert error.kind is FailureKind.DENIED
            assert str(error) == f"connected to \"('127.0.0.2', {server.port})\" instead of 127.0.0.1"
            await server.closed.wait()
            assert server.requests == []

    run(test())


# ---- tokens ----


def mount_token(folder: Path, server: Server, **files: str) -> None:
    """Mount a token for every host, for the port of the server, which may be sent without TLS."""
    mount(folder, "one", {**EVERYWHERE, "token": "word", "insecure-token": "", "ports": str(server.port), **files})


def test_a_token_is_sent_only_to_its_hosts(tmp_path: Path) -> None:
    async def test() -> None:
        async with Server(requires_token("word")) as server:
            mount_token(tmp_path, server, hosts="*.ai")
            with contextlib.closing(http_client(credentials=Credentials(str(tmp_path)))) as client:
                await client.collect(target(server.port, host="vllm.ai"))
                error = await error_of(client.collect(target(server.port, host="vllm.web")))
        assert str(error).startswith("the server requires credentials (HTTP 401)")
        assert ["authorization" in request.headers for request in server.requests] == [True, False]

    run(test())


def test_a_token_is_not_sent_without_tls(tmp_path: Path) -> None:
    async def test() -> None:
        async with Server(responds(page())) as server:
            mount_token(tmp_path, server)
            (tmp_path / "one" / "insecure-token").unlink()
            with contextlib.closing(http_client(credentials=Credentials(str(tmp_path)))) as client:
                await client.collect(target(server.port))
        assert "authorization" not in server.requests[0].headers

    run(test())


def test_a_changed_token_is_sent_on_a_new_connection(tmp_path: Path) -> None:
    clock = ManualClock()

    async def test() -> None:
        async with Server(responds(page())) as server:
            mount_token(tmp_path, server)
            with contextlib.closing(http_client(credentials=Credentials(str(tmp_path)), clock=clock)) as client:
                await client.collect(target(server.port))
                mount(tmp_path, "one", {"token": "another"})
                await client.collect(target(server.port))
                clock.advance(CREDENTIALS_REFRESH_SECONDS)
                await client.collect(target(server.port))
        sent = [(request.connection, request.headers["authorization"]) for request in server.requests]
        assert sent == [(1, "Bearer word"), (1, "Bearer word"), (2, "Bearer another")]

    run(test())


def test_unusable_credentials_are_reported_and_not_sent(tmp_path: Path) -> None:
    clock = ManualClock()

    async def test() -> None:
        async with Server(responds(page())) as server:
            mount_token(tmp_path, server, hosts="*.ai")
            with contextlib.closing(http_client(credentials=Credentials(str(tmp_path)), clock=clock)) as client:
                mount(tmp_path, "one", {"hosts": ""})
                clock.advance(CREDENTIALS_REFRESH_SECONDS)
                error = await error_of(client.collect(target(server.port, host="vllm.ai")))
                await client.collect(target(server.port, host="vllm.web"))
        assert (error.kind, "one/hosts: Required value" in str(error)) == (FailureKind.UNREADABLE, True)
        assert [request.headers["host"].partition(":")[0] for request in server.requests] == ["vllm.web"]

    run(test())
