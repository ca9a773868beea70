# SPDX-License-Identifier: Apache-2.0
"""Tests of the resolution of host names."""

import asyncio
import socket
import threading

import pytest

from keda_gpu_scaler.core.urls import parse_url
from keda_gpu_scaler.scrape.dns_resolver import MAX_CONCURRENT_LOOKUPS, LookupAnswer, system_lookup
from keda_gpu_scaler.scrape.types import FailureKind, FetchError
from tests.scrape.clients import (
    SHORT_SECONDS,
    http_client,
    run,
)


def resolve_once(addresses: list[str] | Exception, allowed: str | None = None) -> tuple[str, ...] | FetchError:
    async def resolve(host: str, port: int) -> LookupAnswer:
        if isinstance(addresses, Exception):
            raise addresses
        return LookupAnswer(tuple(addresses))

    async def once() -> tuple[str, ...] | FetchError:
        try:
            client = http_client(allowed=allowed, lookup=resolve)
            return (await client.resolve(parse_url("http://vllm.ai:8000/"))).addresses
        except FetchError as error:
            return error

    return asyncio.run(once())


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        pytest.param(["10.1.2.4", "10.1.2.3"], ("10.1.2.4", "10.1.2.3"), id="in the order of the answer"),
        pytest.param(["10.1.2.3", "fd00::1", "10.1.2.3"], ("10.1.2.3", "fd00::1"), id="each once"),
        pytest.param(["169.254.169.254", "10.1.2.3"], ("10.1.2.3",), id="without those that are refused"),
    ],
)
def test_a_name_resolves_to_its_allowed_addresses(addresses: list[str], expected: tuple[str, ...]) -> None:
    assert resolve_once(addresses) == expected


@pytest.mark.parametrize(
    ("addresses", "kind", "sentence"),
    [
        pytest.param([], FailureKind.UNREADABLE, '"vllm.ai" has no address', id="no address"),
        pytest.param(
            OSError(-2, "Name or service not known"),
            FailureKind.UNREADABLE,
            '"vllm.ai" cannot be resolved: name or service not known',
            id="a name that does not exist",
        ),
        pytest.param(
            UnicodeError("label too long"),
            FailureKind.UNREADABLE,
            '"vllm.ai" cannot be resolved: label too long',
            id="an invalid name",
        ),
        pytest.param(
            ["127.0.0.1"],
            FailureKind.DENIED,
            '"vllm.ai" (127.0.0.1) is an address of this machine, which is scraped only if --allow-endpoints lists its '
            "network: name another host",
            id="only a refused address",
        ),
    ],
)
def test_a_name_without_an_allowed_address_is_an_error(
    addresses: list[str] | Exception, kind: FailureKind, sentence: str
) -> None:
    error = resolve_once(addresses)
    assert isinstance(error, FetchError), error
    assert (error.kind, str(error)) == (kind, sentence)


def test_a_slow_resolution_is_an_error() -> None:
    async def hangs(host: str, port: int) -> LookupAnswer:
        await asyncio.Event().wait()
        raise AssertionError("the lookup ends")

    async def test() -> None:
        with pytest.raises(FetchError, match=r'"vllm\.ai" was not resolved within 0\.05 s'):
            await http_client(lookup=hangs, timeout_seconds=SHORT_SECONDS).resolve(parse_url("http://vllm.ai/"))

    run(test())


def test_the_system_lookup_returns_an_address_unchanged() -> None:
    assert asyncio.run(system_lookup("127.0.0.1", 80)) == LookupAnswer(("127.0.0.1",))


def test_the_system_lookup_resolves_names() -> None:
    assert set(asyncio.run(system_lookup("localhost", 80)).addresses) <= {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror):
        asyncio.run(system_lookup("no-such-host.invalid", 80))


def test_hanging_lookups_use_their_own_threads_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    released, resolved = threading.Event(), threading.Barrier(MAX_CONCURRENT_LOOKUPS + 1)

    def hangs(host: str, port: int, **_: object) -> list[object]:
        resolved.wait(20)
        released.wait(20)
        return [(0, 0, 0, "vllm.ai", ("192.0.2.1", port)), (0, 0, 0, "", ("192.0.2.2", port))]

    async def test() -> None:
        loop = asyncio.get_running_loop()
        calls = [asyncio.ensure_future(system_lookup(f"{number}.ai", 80)) for number in range(MAX_CONCURRENT_LOOKUPS)]
        # The threads of the event loop are free, although each lookup hangs.
        await loop.run_in_executor(None, resolved.wait, 20)
        with pytest.raises(OSError, match="32 names are being resolved, which is the limit"):
            await system_lookup("one-more.ai", 80)
        calls[0].cancel()
        released.set()
        assert await asyncio.gather(*calls[1:]) == [LookupAnswer(("192.0.2.1", "192.0.2.2"), "vllm.ai")] * (
            len(calls) - 1
        )

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    run(test())
