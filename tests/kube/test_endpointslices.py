# SPDX-License-Identifier: Apache-2.0
"""Tests of the discovery through EndpointSlices: which addresses it yields, and when."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest

from keda_gpu_scaler.core.instance_status import WatchState
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube import backoff as backoff_module
from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.endpointslices import EndpointSlices
from tests.apiserver import TOKEN, FakeApiServer
from tests.fakes import ManualClock
from tests.limits import WAIT_SECONDS

SERVICE = {"kubernetes.io/service-name": "agents"}
GRPC = {"name": "grpc", "port": 6000, "protocol": "TCP"}


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff_module, "jittered", lambda seconds: 0.0)


def endpoint(address: str, node: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address, "10.9.9.9"], "nodeName": node, "conditions": conditions}


def put(
    server: FakeApiServer,
    name: str,
    *endpoints: dict[str, Any],
    ports: Any = (GRPC,),
    family: str = "IPv4",
    **labels: str,
) -> None:
    server.put(
        "endpointslices", name, "gpu",
        metadata={"labels": labels or SERVICE}, addressType=family, ports=ports, endpoints=endpoints,
    )  # fmt: skip


def discover(server: FakeApiServer, talk: Callable[[AsyncIterator[Mapping[str, str]]], Awaitable[None]]) -> None:
    async def run() -> None:
        api = ApiClient(ClientConfig(server.url, "gpu", token=TOKEN))
        slices = EndpointSlices(api, "gpu", "agents", ManualClock())
        async with asyncio.timeout(WAIT_SECONDS), contextlib.aclosing(slices.addresses()) as addresses:  # type: ignore[type-var]
            await talk(addresses)
        await api.close()

    asyncio.run(run())


def test_slices_of_the_service_are_merged_and_watched(server: FakeApiServer) -> None:
    put(server, "a", endpoint("10.0.0.1", "gpu-1"), endpoint("10.0.0.2", "gpu-2", ready=False, serving=True))
    put(server, "b", endpoint("fd00::1", "gpu-3"), endpoint("10.0.0.4", "gpu-4", terminating=True))
    put(server, "c", endpoint("10.0.0.5", "gpu-5"), **{"kubernetes.io/service-name": "others"})

    async def talk(addresses: AsyncIterator[Mapping[str, str]]) -> None:
        first = {"10.0.0.1:6000": "gpu-1", "10.0.0.2:6000": "gpu-2", "[fd00::1]:6000": "gpu-3"}
        assert await anext(addresses) == first
        put(server, "a", endpoint("10.0.0.1", "gpu-1"))
        del first["10.0.0.2:6000"]
        assert await anext(addresses) == first
        server.delete("endpointslices", "b", "gpu")
        assert await anext(addresses) == {"10.0.0.1:6000": "gpu-1"}

    discover(server, talk)


def test_a_pod_with_two_addresses_is_one_instance(server: FakeApiServer) -> None:
    def of(pod: str, address: str, node: str) -> dict[str, Any]:
        return {**endpoint(address, node), "targetRef": {"kind": "Pod", "name": pod, "uid": f"uid-{pod}"}}

    put(server, "a-v6", of("one", "fd00::1", "gpu-1"), of("two", "fd00::2", "gpu-2"), family="IPv6")
    put(server, "b-v4", of("one", "10.0.0.1", "gpu-1"), family="IPv4")

    async def talk(addresses: AsyncIterator[Mapping[str, str]]) -> None:
        assert await anext(addresses) == {"10.0.0.1:6000": "gpu-1", "[fd00::2]:6000": "gpu-2"}

    discover(server, talk)


@pytest.mark.parametrize(
    ("ports", "port"),
    [
        ([{"name": "metrics", "port": 9090, "protocol": "TCP"}, GRPC], "6000"),
        ([{"name": "", "port": 7000, "protocol": "TCP"}], "7000"),
        ([{"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 7000}], "7000"),
    ],
)
def test_the_port_is_the_one_named_grpc_or_the_first(server: FakeApiServer, ports: Any, port: str) -> None:
    put(server, "a", endpoint("10.0.0.1", "gpu-1"), ports=ports)

    async def talk(addresses: AsyncIterator[Mapping[str, str]]) -> None:
        assert await anext(addresses) == {f"10.0.0.1:{port}": "gpu-1"}

    discover(server, talk)


def test_a_slice_without_a_port_has_no_address(server: FakeApiServer) -> None:
    put(server, "a", endpoint("10.0.0.1", "gpu-1"), ports=None)

    async def talk(addresses: AsyncIterator[Mapping[str, str]]) -> None:
        assert await anext(addresses) == {}

    discover(server, talk)


def test_the_watch_is_counted_while_it_is_open(server: FakeApiServer) -> None:
    put(server, "a", endpoint("10.0.0.1", "gpu-1"))

    async def run() -> None:
        api = ApiClient(ClientConfig(server.url, "gpu", token=TOKEN))
        slices = EndpointSlices(api, "gpu", "agents", ManualClock())
        assert slices.watches() == {}
        async with asyncio.timeout(WAIT_SECONDS), contextlib.aclosing(slices.addresses()) as addresses:  # type: ignore[type-var]
            await anext(addresses)
            assert slices.watches() == {("endpointslices.discovery.k8s.io", WatchState.WATCHING): 1}
        assert slices.watches() == {}
        await api.close()

    asyncio.run(run())


def test_a_missing_right_is_reported(server: FakeApiServer) -> None:
    server.forbid("list", "endpointslices")

    async def talk(addresses: AsyncIterator[Mapping[str, str]]) -> None:
        with pytest.raises(KubeError) as caught:
            await anext(addresses)
        assert str(caught.value) == (
            '--peers: the API server forbids to list and watch endpointslices.discovery.k8s.io in namespace "gpu": '
            "grant list and watch on endpointslices.discovery.k8s.io (chart: rbac.create)"
        )

    discover(server, talk)
