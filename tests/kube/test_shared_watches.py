# SPDX-License-Identifier: Apache-2.0
"""Tests of watches that several workloads and namespaces share."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.kube import backoff as backoff_module
from keda_gpu_scaler.kube import shared_reflectors as shared_reflectors_module
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.parse import labels
from keda_gpu_scaler.kube.resource_query import ResourceQuery
from keda_gpu_scaler.kube.shared_reflectors import SharedReflectors
from tests.apiserver import FakeApiServer
from tests.fakes import ManualClock
from tests.kube.test_workloads import Client, names, run
from tests.limits import WAIT_SECONDS


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff_module, "jittered", lambda seconds: 0.0)


def add(server: FakeApiServer, namespace: str, *workloads: str) -> None:
    for name in workloads:
        server.scale(name, 1, namespace=namespace)
        server.scaled_object(name, namespace=namespace, targetValue="70")
        server.pod(f"{name}-0", "gpu-0", app=name, namespace=namespace)


async def synced(client: Client, namespace: str, name: str) -> Workload:
    while True:
        client.changed.clear()
        await client.workloads.wait_for_sync(namespace, name)
        known = client.workloads.workload(namespace, name)
        if isinstance(known, Workload):
            return known
        await client.changed.wait()


def test_the_workloads_of_a_namespace_share_one_watch_of_pods(server: FakeApiServer) -> None:
    add(server, "ai", "a", "b", "c")

    async def talk(client: Client) -> None:
        for name in ("a", "b", "c"):
            assert names(await synced(client, "ai", name)) == [f"{name}-0"]
        while server.watches.total() < 3:
            await asyncio.sleep(0)
        assert server.watches == {"scaledobjects": 1, "deployments": 1, "pods": 1}
        server.pod("b-1", "gpu-1", app="b")
        await client.until(lambda workload: names(workload) == ["b-0", "b-1"], "b")
        assert names(await synced(client, "ai", "a")) == ["a-0"]

    run(server, talk)


def test_foreign_pods_are_neither_listed_nor_kept(server: FakeApiServer) -> None:
    add(server, "ai", "a")
    for number in range(3000):
        server.pod(f"foreign-{number}", "cpu-1", app="web")

    async def talk(client: Client) -> None:
        await synced(client, "ai", "a")
        for number in range(100):
            server.pod(f"foreign-{number}", "cpu-2", app="web")
        server.pod("a-1", "gpu-1", app="a")
        await client.until(lambda workload: names(workload) == ["a-0", "a-1"], "a")
        kept = [key for one in client.workloads.reflectors._selections.values() for key in one.items]
        assert sorted(kept) == ["a", "a", "a-0", "a-1"]
        assert server.requests["list pods"] == 1, "one page, with the selector"

    run(server, talk)


def test_further_namespaces_share_one_watch_of_all(server: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reflectors_module, "MAX_NAMESPACE_WATCHES", 1)
    for namespace in ("one", "two", "three"):
        add(server, namespace, "llama")

    async def talk(client: Client) -> None:
        for namespace in ("one", "two", "three"):
            known = await synced(client, namespace, "llama")
            assert [pod.ref.namespace for pod in known.pods] == [namespace]
        while server.watches.total() < 6:
            await asyncio.sleep(0)
        assert server.watches == {"scaledobjects": 2, "deployments": 2, "pods": 2}
        server.pod("llama-1", "gpu-1", namespace="three")
        while len((await synced(client, "three", "llama")).pods) < 2:
            await client.changed.wait()
        assert len((await synced(client, "two", "llama")).pods) == 1

    run(server, talk)


def test_where_all_namespaces_are_forbidden_each_has_a_watch_of_its_own(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared_reflectors_module, "MAX_NAMESPACE_WATCHES", 1)
    for resource in ("pods", "deployments", "scaledobjects"):
        for verb in ("list", "watch"):
            server.forbid_everywhere(verb, resource)
    for namespace in ("one", "two", "three"):
        add(server, namespace, "llama")

    async def talk(client: Client) -> None:
        for namespace in ("one", "two", "three"):
            assert len((await synced(client, namespace, "llama")).pods) == 1
        while server.watches.total() < 9:
            await asyncio.sleep(0)
        assert server.watches == {"scaledobjects": 3, "deployments": 3, "pods": 3}
        tried = [one for one in server.asked if one.verb == "watch" and one.resource == "pods" and not one.namespace]
        assert len(tried) == 1
        server.pod("llama-1", "gpu-1", namespace="two")
        while len((await synced(client, "two", "llama")).pods) < 2:
            await client.changed.wait()

    with caplog.at_level(logging.WARNING):
        run(server, talk)
    assert caplog.records == []


def test_a_selector_that_the_server_alone_understands_has_a_watch_of_its_own(server: FakeApiServer) -> None:
    async def talk(client: Client) -> None:
        shared = client.workloads.reflectors
        one = shared.use(ResourceQuery("pods", namespace="ai", labels="age>3"), labels, "x", _ignore)
        shared.use(ResourceQuery("pods", namespace="ai", labels="app=a"), labels, "x", lambda: None)
        assert one.query in shared._watches
        assert len(shared) == 2

    run(server, talk)


@pytest.mark.parametrize("mishap", [lambda server: server.cut(), lambda server: (server.compact(), server.cut())])
def test_every_selection_is_up_to_date_after_a_fault(
    server: FakeApiServer, mishap: Callable[[FakeApiServer], object]
) -> None:
    add(server, "ai", "a", "b")

    async def talk(client: Client) -> None:
        for name in ("a", "b"):
            await synced(client, "ai", name)
        await asyncio.to_thread(mishap, server)
        for name in ("a", "b"):
            server.delete("pods", f"{name}-0")
            server.pod(f"{name}-9", "gpu-9", app=name)
        for name in ("a", "b"):
            await client.until(lambda workload, name=name: names(workload) == [f"{name}-9"], name)  # type: ignore[misc]

    run(server, talk)


# ---- the order of a list and a watch ----


class TwoLists:
    """An API server whose second list waits for the test, beside a watch whose events the test sends."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.lists = 0
        self.is_second_listed = asyncio.Event()
        self.second: tuple[str, list[dict[str, Any]]] = "", []
        self.fails = False

    async def read_list(
        self, path: str, query: Mapping[str, str], accept: str, receive: Callable[[Mapping[str, Any]], object]
    ) -> Mapping[str, Any]:
        self.lists += 1
        if query.get("labelSelector") != "app=b":
            return {"resourceVersion": "10"}
        await self.is_second_listed.wait()
        if self.fails:
            raise ApiError("the API server answers 403: forbidden", 403)
        version, items = self.second
        for item in items:
            receive(item)
        return {"resourceVersion": version}

    @asynccontextmanager
    async def watch(
        self, path: str, query: Mapping[str, str], accept: str = "", *, seconds: int
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        async def events() -> AsyncIterator[dict[str, Any]]:
            while True:
                yield await self.events.get()
                self.events.task_done()

        yield events()

    async def send(self, kind: str, name: str, version: int, app: str = "b", note: str = "") -> None:
        item = pod(name, version, app, note)
        self.events.put_nowait({"type": kind, "object": item})
        while not self.events.empty():
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)


def pod(name: str, version: int, app: str = "b", note: str = "") -> dict[str, Any]:
    found = {"app": app, **({"note": note} if note else {})}
    return {"metadata": {"name": name, "namespace": "ai", "resourceVersion": str(version), "labels": found}}


async def during_a_list(talk: Callable[[TwoLists, Any], Any]) -> None:
    server = TwoLists()
    shared = SharedReflectors(server, ManualClock())  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            first = shared.use(ResourceQuery("pods", namespace="ai", labels="app=a"), labels, "a", lambda: None)
            while first.unavailable(1000.0):
                await asyncio.sleep(0)
            second = shared.use(ResourceQuery("pods", namespace="ai", labels="app=b"), labels, "b", lambda: None)
            while server.lists < 2:
                await asyncio.sleep(0)
            await talk(server, second)
    finally:
        await shared.close()


def test_what_happens_during_a_list_is_neither_lost_nor_applied_twice() -> None:
    async def talk(server: TwoLists, second: Any) -> None:
        assert second.is_pending
        await server.send("MODIFIED", "changed-before", 15, note="old")
        await server.send("ADDED", "deleted-before", 16)
        await server.send("ADDED", "added-after", 25)
        await server.send("DELETED", "deleted-after", 26)
        await server.send("MODIFIED", "left-after", 27, app="c")
        server.second = "20", [pod(name, 18, note="new") for name in ("changed-before", "deleted-after", "left-after")]
        server.is_second_listed.set()
        while second.is_pending:
            await asyncio.sleep(0)
        assert set(second.items) == {"changed-before", "added-after"}
        assert second.items["changed-before"]["note"] == "new"
        await server.send("MODIFIED", "changed-before", 19, note="older than the list")
        assert second.items["changed-before"]["note"] == "new"
        await server.send("MODIFIED", "changed-before", 30, note="newest")
        assert second.items["changed-before"]["note"] == "newest"

    asyncio.run(during_a_list(talk))


def test_a_selection_that_cannot_be_listed_says_why_and_the_others_go_on() -> None:
    async def talk(server: TwoLists, second: Any) -> None:
        server.fails = True
        server.is_second_listed.set()
        while second.is_pending:
            await asyncio.sleep(0)
        unavailable = second.unavailable(1000.0)
        assert isinstance(unavailable, Unavailable)
        assert "grant list and watch on pods" in unavailable.reason
        server.fails, server.second = False, ("20", [pod("b-0", 18)])
        while second.unavailable(1000.0):
            await asyncio.sleep(0)
        assert set(second.items) == {"b-0"}

    asyncio.run(during_a_list(talk))


# ---- descriptors ----


def test_four_hundred_workloads_in_two_hundred_namespaces_need_less_than_a_hundred_descriptors(
    server: FakeApiServer,
) -> None:
    for number in range(200):
        for workload in range(2):
            server.pod(f"model-{workload}-0", app=f"model-{workload}", namespace=f"team-{number}")

    async def talk(client: Client) -> None:
        before = len(os.listdir("/proc/self/fd"))
        shared, changed = client.workloads.reflectors, asyncio.Event()
        notify = changed.set
        pods = [
            shared.use(ResourceQuery("pods", namespace=f"team-{number}", labels=f"app=model-{it}"), labels, it, notify)
            for number in range(200)
            for it in range(2)
        ]
        for number in range(200):
            for resource, group, version in (("scaledobjects", "keda.sh", "v1alpha1"), ("deployments", "apps", "v1")):
                shared.use(ResourceQuery(resource, group, version, f"team-{number}"), labels, number, notify)
        most = 0
        while not all(len(one.items) == 1 and one.unavailable(client.clock()) is None for one in pods):
            most = max(most, len(os.listdir("/proc/self/fd")) - before)
            changed.clear()
            await changed.wait()
        assert 0 < most / 2 < 100, "this process has both ends of each connection"
        assert len(shared) == 3 * (shared_reflectors_module.MAX_NAMESPACE_WATCHES + 1)
        server.pod("model-1-1", app="model-1", namespace="team-199")
        while len(pods[-1].items) < 2:
            await asyncio.sleep(0)

    run(server, talk)


def _ignore() -> None:
    """Nobody waits for a change."""
