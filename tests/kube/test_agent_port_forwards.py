# SPDX-License-Identifier: Apache-2.0
"""Tests of forwarded agents: each has a local address for as long as its pod runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube import agent_port_forwards
from keda_gpu_scaler.kube.agent_port_forwards import AgentPortForwards
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.port_forward import PortForwarder
from tests.apiserver import FakeApiServer
from tests.limits import WAIT_SECONDS

LABELS = {"app.kubernetes.io/part-of": "keda-gpu-scaler", "app.kubernetes.io/component": "agent"}


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as server:
        yield server


def run(server: FakeApiServer, work: Callable[[AsyncIterator[Mapping[str, str]]], Awaitable[None]]) -> None:
    async def working() -> None:
        api = PortForwarder(server.access)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                listings = AgentPortForwards(api, "gpu").addresses()
                try:
                    await work(listings)
                finally:
                    await listings.aclose()  # type: ignore[attr-defined]
        finally:
            await api.close()

    asyncio.run(working())


def nodes(listing: Mapping[str, str]) -> list[str]:
    assert all(address.startswith("127.0.0.1:") for address in listing)
    return sorted(listing.values())


async def listed(listings: AsyncIterator[Mapping[str, str]], *expected: str) -> Mapping[str, str]:
    while nodes(listing := await anext(listings)) != list(expected):
        pass
    return listing


def test_agents_come_and_go_and_those_that_stay_keep_their_addresses(server: FakeApiServer) -> None:
    server.pod("scaler-a", "a", namespace="gpu", labels=LABELS)
    server.pod("other", "a", namespace="gpu")
    server.pod("scaler-x", "x", namespace="elsewhere", labels=LABELS)

    async def work(listings: AsyncIterator[Mapping[str, str]]) -> None:
        first = await listed(listings, "a")
        server.pod("scaler-b", "b", namespace="gpu", labels=LABELS)
        both = await listed(listings, "a", "b")
        assert first.items() <= both.items()
        server.delete("pods", "scaler-a", "gpu")
        last = await listed(listings, "b")
        assert last.items() <= both.items()

    run(server, work)


def test_without_an_agent_there_is_no_address(server: FakeApiServer) -> None:
    async def work(listings: AsyncIterator[Mapping[str, str]]) -> None:
        assert await anext(listings) == {}

    run(server, work)


@pytest.mark.parametrize(
    ("verb", "resource", "sentence"),
    [
        ("list", "pods", "forbids to list and watch pods.*; or name instances: --address HOST:PORT"),
        ("get", "pods/portforward", "pod gpu/scaler-a: .*forbidden.*; a port-forward needs the right"),
    ],
)
def test_a_missing_right_is_reported(server: FakeApiServer, verb: str, resource: str, sentence: str) -> None:
    server.pod("scaler-a", "a", namespace="gpu", labels=LABELS)
    server.forbid(verb, resource)

    async def work(listings: AsyncIterator[Mapping[str, str]]) -> None:
        with pytest.raises(KubeError, match=sentence):
            await anext(listings)

    run(server, work)


def test_an_agent_that_cannot_be_reached_does_not_affect_the_others_and_is_tried_again(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_port_forwards, "RETRY_SECONDS", 0.0)
    server.pod("scaler-a", "a", namespace="gpu", labels=LABELS)
    server.pod("scaler-b", "b", namespace="gpu", labels=LABELS)
    real = PortForwarder._open
    refused: list[str] = []

    async def open_or_refuse(api: PortForwarder, path: str, port: int) -> Any:
        if "scaler-b" in path and not refused:
            refused.append(path)
            raise ApiError("the API server answers 502: proxy error", 502)
        return await real(api, path, port)

    monkeypatch.setattr(PortForwarder, "_open", open_or_refuse)

    async def work(listings: AsyncIterator[Mapping[str, str]]) -> None:
        assert nodes(await anext(listings)) == ["a"]
        await listed(listings, "a", "b")

    run(server, work)
