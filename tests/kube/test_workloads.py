# SPDX-License-Identifier: Apache-2.0
"""Tests of the watched workloads against an API server with every fault of lists and watches.

The tests without faults also run against a real API server, where one is configured (tests/real_apiserver.py).
"""

import asyncio
import json
import math
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keda_gpu_scaler.core.instance_status import WatchState
from keda_gpu_scaler.core.scaling_rules import JobRules
from keda_gpu_scaler.core.types import DeclaredTrigger, Pod, PodRef, Unavailable, Workload
from keda_gpu_scaler.kube import backoff as backoff_module
from keda_gpu_scaler.kube import parse, watched_workload
from keda_gpu_scaler.kube import shared_reflectors as shared_reflectors_module
from keda_gpu_scaler.kube import workloads as workloads_module
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.reflector import TRUSTED_SECONDS, Reflector
from keda_gpu_scaler.kube.workloads import IDLE_TIMEOUT_SECONDS, MAX_WORKLOADS, Workloads
from tests.apiserver import TOKEN, FakeApiServer
from tests.fakes import ManualClock
from tests.limits import WAIT_SECONDS
from tests.real_apiserver import VARIABLE, RealApiServer

AnyServer = FakeApiServer | RealApiServer


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


@pytest.fixture(params=["fake", "real"])
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyServer]:
    if request.param == "fake":
        with FakeApiServer() as fake:
            yield fake
    elif VARIABLE not in os.environ:
        pytest.skip(f"no real API server: {VARIABLE} names no kubeconfig")
    else:
        with RealApiServer(Path(os.environ[VARIABLE]), tmp_path) as real:
            yield real


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff_module, "jittered", lambda seconds: 0.0)
    monkeypatch.setattr(watched_workload, "MIN_SCALE_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(watched_workload, "_RETRY_SECONDS", 0.01)


class Client:
    """The watched workloads, and ways to wait for their states."""

    def __init__(self, server: AnyServer) -> None:
        self.server = server
        self.clock = ManualClock()
        self.changed = asyncio.Event()
        self.workloads = Workloads(
            ApiClient(server.access), clock=self.clock, wall_clock=lambda: 1_700_000_000.0, on_change=self.changed.set
        )

    def state(self, name: str = "llama") -> Workload | Unavailable:
        return self.workloads.workload(self.server.namespace, name)

    async def wait_for_sync(self, name: str = "llama") -> Workload | Unavailable:
        await self.workloads.wait_for_sync(self.server.namespace, name)
        return self.state(name)

    def reflectors(self) -> list[Reflector]:
        return [watch.reflector for watch in self.workloads.reflectors._watches.values()]

    async def wait_for_watches(self) -> None:
        """Wait until the server counts every watch that one workload needs."""
        assert isinstance(self.server, FakeApiServer)
        while self.server.watches.total() < 3:
            await asyncio.sleep(0)

    async def until(self, wanted: Callable[[Workload], object], name: str = "llama") -> Workload:
        while True:
            self.changed.clear()
            known = self.state(name)
            if isinstance(known, Workload) and wanted(known):
                return known
            await self.changed.wait()

    async def until_unavailable(self, reason: str, name: str = "llama") -> Unavailable:
        while True:
            self.changed.clear()
            known = self.state(name)
            if isinstance(known, Unavailable) and reason in known.reason:
                return known
            await self.changed.wait()


def run(server: AnyServer, talk: Callable[[Client], Awaitable[None]]) -> None:
    async def talk_and_close() -> None:
        client = Client(server)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await talk(client)
        finally:
            await client.workloads.close()

    asyncio.run(talk_and_close())


def populate(server: AnyServer, replicas: int = 2) -> None:
    server.scale("llama", replicas)
    server.scaled_object("llama", metric_type="Value", targetValue="70")
    for number in range(replicas):
        server.pod(f"llama-{number}", f"gpu-{number}")


def forbidding(verb: str, resource: str) -> Callable[[FakeApiServer], None]:
    """Prepare a cluster in which RBAC forbids one verb on one resource."""

    def prepare(server: FakeApiServer) -> None:
        populate(server)
        server.forbid(verb, resource)

    return prepare


def names(workload: Workload) -> list[str]:
    return [pod.ref.name for pod in workload.pods]


def test_a_workload_has_its_target_its_size_its_pods_and_its_triggers(server: FakeApiServer) -> None:
    server.scale("llama", 3, actual=2)
    server.scaled_object("llama", metric_type="Value", targetValue="70")
    server.pod("llama-0", "gpu-7", created="2023-11-14T22:13:10Z")
    server.pod("llama-1", None, ready=False)
    server.pod("other-0", "gpu-7", app="other")
    server.pod("llama-0", "gpu-9", namespace="elsewhere")

    async def talk(client: Client) -> None:
        workload = await client.wait_for_sync()
        assert isinstance(workload, Workload)
        assert (workload.kind, workload.target) == ("ScaledObject", "Deployment llama")
        assert (workload.spec_replicas, workload.status_replicas) == (3, 2)
        assert workload.triggers == (DeclaredTrigger({"targetValue": "70"}, "Value"),)
        first, second = workload.pods
        assert (first.ref, first.node, first.phase, first.is_ready) == (
            PodRef("ai", "llama-0"),
            "gpu-7",
            "Running",
            True,
        )
        assert first.created_at_seconds == 1000.0 - 10  # ten seconds before the wall clock's now
        assert (second.node, second.phase, second.is_ready) == (None, "Pending", False)

    run(server, talk)


def test_a_real_cluster_reports_the_same_as_the_fake_one(any_server: AnyServer) -> None:
    any_server.scale("llama", 3, actual=2)
    any_server.scaled_object("llama", metric_type="Value", targetValue="70")
    any_server.pod("llama-0", "gpu-7")
    any_server.pod("llama-1", None, ready=False)
    any_server.pod("other-0", "gpu-7", app="other")

    async def talk(client: Client) -> None:
        known = await client.until(lambda workload: workload.status_replicas == 2 and len(workload.pods) == 2)
        assert (known.kind, known.target, known.spec_replicas) == ("ScaledObject", "Deployment llama", 3)
        assert known.triggers == (DeclaredTrigger({"targetValue": "70"}, "Value"),)
        states = [(pod.ref.name, pod.node, pod.phase, pod.is_ready, pod.is_deleting) for pod in known.pods]
        assert states == [("llama-0", "gpu-7", "Running", True, False), ("llama-1", None, "Pending", False, False)]
        assert client.state() is client.state()

    run(any_server, talk)


def test_an_unchanged_state_is_the_same_object_and_costs_no_request(server: FakeApiServer) -> None:
    populate(server)

    async def talk(client: Client) -> None:
        first = await client.wait_for_sync()
        await client.wait_for_watches()
        requests = server.requests.total()
        server.scale("another", 1)
        server.pod("another-0", "gpu-7", app="another")
        server.bookmark()
        server.pod("llama-0", "gpu-0")  # written again without a difference
        server.pod("marker", "gpu-7", labels={"app": "llama"})
        known = await client.until(lambda workload: "marker" in names(workload))
        assert client.state() is client.state()
        assert isinstance(first, Workload)
        assert known.pods[0] is first.pods[0]
        assert server.requests.total() == requests

    run(server, talk)


def test_changes_of_pods_and_size_are_received(any_server: AnyServer) -> None:
    populate(any_server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        any_server.scale("llama", 3, actual=2)
        await client.until(lambda workload: (workload.spec_replicas, workload.status_replicas) == (3, 2))
        any_server.pod("llama-2", None, ready=False)
        await client.until(lambda workload: "llama-2" in names(workload))
        any_server.pod("llama-2", "gpu-2")
        await client.until(lambda workload: workload.pods[2].node == "gpu-2" and workload.pods[2].is_ready)
        any_server.pod("llama-2", "gpu-2", deleting=True)
        await client.until(lambda workload: workload.pods[2].is_deleting)
        any_server.delete("pods", "llama-2")
        await client.until(lambda workload: names(workload) == ["llama-0", "llama-1"])
        any_server.pod("llama-1", "gpu-1", labels={"app": "llama-quarantined"})
        await client.until(lambda workload: names(workload) == ["llama-0"])
        any_server.scaled_object("llama", metric_type="AverageValue", targetValue="60")
        known = await client.until(lambda workload: workload.triggers[0].metric_type == "AverageValue")
        assert known.triggers[0].metadata == {"targetValue": "60"}

    run(any_server, talk)


def test_the_removal_of_a_ready_pod_is_noted(server: FakeApiServer) -> None:
    populate(server, replicas=3)
    server.pod("llama-2", "gpu-2", ready=False)

    async def talk(client: Client) -> None:
        known = await client.wait_for_sync()
        assert isinstance(known, Workload)
        assert known.removed_at_seconds == -math.inf
        server.delete("pods", "llama-2")
        known = await client.until(lambda workload: len(workload.pods) == 2)
        assert known.removed_at_seconds == -math.inf, "it served nothing"
        client.clock.now = 2000.0
        server.pod("llama-1", "gpu-1", deleting=True)
        known = await client.until(lambda workload: workload.pods[1].is_deleting)
        assert known.removed_at_seconds == 2000.0
        client.clock.now = 2010.0
        server.delete("pods", "llama-1")
        known = await client.until(lambda workload: len(workload.pods) == 1)
        assert known.removed_at_seconds == 2000.0, "it was removed before"
        server.delete("pods", "llama-0")
        known = await client.until(lambda workload: not workload.pods)
        assert known.removed_at_seconds == 2010.0

    run(server, talk)


def test_a_pod_that_is_not_ready_any_more_left_as_a_removed_one(server: FakeApiServer) -> None:
    """The others get its requests. That is no growth of the traffic."""
    populate(server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        client.clock.now = 2000.0
        server.pod("llama-1", "gpu-1", ready=False)
        known = await client.until(lambda workload: not workload.pods[1].is_ready)
        assert known.removed_at_seconds == 2000.0
        client.clock.now = 2010.0
        server.pod("llama-1", "gpu-1")
        known = await client.until(lambda workload: workload.pods[1].is_ready)
        assert known.removed_at_seconds == 2000.0

    run(server, talk)


def test_a_stateful_set_is_a_target_like_a_deployment(any_server: AnyServer) -> None:
    any_server.scale("big", 1, resource="statefulsets")
    any_server.scaled_object("llama", kind="StatefulSet", target="big", resolved=False)
    any_server.pod("big-0", "gpu-7", app="big")

    async def talk(client: Client) -> None:
        workload = await client.wait_for_sync()
        assert isinstance(workload, Workload)
        assert (workload.target, workload.spec_replicas, names(workload)) == ("StatefulSet big", 1, ["big-0"])

    run(any_server, talk)


@pytest.mark.parametrize(
    ("kind", "api_version", "resource"),
    [("StatefulSet", "apps/v1", "statefulsets"), ("Rollout", "argoproj.io/v1alpha1", "rollouts")],
)
@pytest.mark.parametrize("resolved", [True, False], ids=["resolved by KEDA", "resolved by discovery"])
def test_any_kind_with_a_scale_subresource_is_a_target(
    server: FakeApiServer, kind: str, api_version: str, resource: str, resolved: bool
) -> None:
    server.scale("big", 1, resource=resource)
    server.scaled_object("llama", kind=kind, api_version=api_version, target="big", resolved=resolved)
    server.pod("big-0", "gpu-7", app="big")

    async def talk(client: Client) -> None:
        workload = await client.wait_for_sync()
        assert isinstance(workload, Workload)
        assert (workload.target, names(workload)) == (f"{kind} big", ["big-0"])
        assert server.requests["discover"] == (0 if resolved else 1)

    run(server, talk)


def test_the_size_of_a_scaled_job_is_its_unfinished_jobs(any_server: AnyServer) -> None:
    label = {"scaledjob.keda.sh/name": "llama"}
    spec = {"minReplicaCount": 1, "triggers": [{"type": "external", "metadata": {"a": "b"}}]}
    any_server.put("scaledjobs", "llama", spec={**spec, "jobTargetRef": {"template": {"spec": {"containers": []}}}})
    for number, job in enumerate(["first", "first", "second"]):
        key = "job-name" if number else "batch.kubernetes.io/job-name"
        any_server.pod(f"run-{number}", "gpu-7", labels={**label, key: job})
    any_server.pod("alone", None, labels=label, ready=False)
    any_server.pod("run-3", "gpu-7", labels={**label, "job-name": "third"}, phase="Succeeded", ready=False)

    async def talk(client: Client) -> None:
        workload = await client.wait_for_sync()
        assert isinstance(workload, Workload)
        assert (workload.kind, workload.spec_replicas, len(workload.pods)) == ("ScaledJob", 3, 5)
        assert [pod.group for pod in workload.pods] == ["", "first", "first", "second", "third"]
        assert workload.jobs == JobRules(min_jobs=1)

    run(any_server, talk)


def test_long_lists_are_read_in_pages(server: FakeApiServer) -> None:
    populate(server, replicas=7)
    server.page_limit = 3

    async def talk(client: Client) -> None:
        workload = await client.wait_for_sync()
        assert isinstance(workload, Workload)
        assert len(workload.pods) == 7
        assert server.requests["list pods"] == 3

    run(server, talk)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        pytest.param(
            lambda server: None, "ai/llama: there is no ScaledObject and no ScaledJob of this name", id="no such object"
        ),
        pytest.param(
            lambda server: server.scaled_object("llama"),
            "ai/llama: its scale target Deployment llama does not exist",
            id="no target",
        ),
        pytest.param(
            lambda server: (server.put("deployments", "llama", spec={}), server.scaled_object("llama")),
            "ai/llama: Deployment llama reports no selector in its scale subresource, so its pods cannot be found; "
            "set scope: fleet or node",
            id="no selector",
        ),
        pytest.param(
            lambda server: server.put("scaledobjects", "llama", spec={"scaleTargetRef": {"name": "../../secrets"}}),
            "ai/llama: its ScaledObject's scaleTargetRef names no object",
            id="a target named like a path",
        ),
        pytest.param(
            lambda server: server.uninstall("scaledobjects"),
            "the API server has no scaledobjects.keda.sh of version v1alpha1: is its CustomResourceDefinition "
            "installed?",
            id="no KEDA",
        ),
        pytest.param(
            forbidding("list", "scaledobjects"),
            'the API server forbids to list and watch scaledobjects.keda.sh in namespace "ai": grant list and '
            "watch on scaledobjects.keda.sh (chart: rbac.create)",
            id="no right to list ScaledObjects",
        ),
        pytest.param(
            forbidding("watch", "pods"),
            'the API server forbids to list and watch pods in namespace "ai": grant list and watch on pods '
            "(chart: rbac.create)",
            id="no right to watch pods",
        ),
        pytest.param(
            forbidding("get", "deployments/scale"),
            "ai/llama: the API server forbids to read deployments/scale: grant get on deployments/scale of apps "
            "(chart: rbac.create)",
            id="no right to get the scale",
        ),
        pytest.param(
            lambda server: server.tokens.clear(),
            'the API server does not accept the credentials for scaledobjects.keda.sh in namespace "ai": is the '
            "service account's token valid?",
            id="credentials that the server does not accept",
        ),
    ],
)
def test_a_permanent_error_is_reported_with_the_remedy(
    server: FakeApiServer, prepare: Callable[[FakeApiServer], object], reason: str
) -> None:
    prepare(server)

    async def talk(client: Client) -> None:
        known = await client.until_unavailable(reason)
        assert reason in known.reason
        assert known.is_permanent

    run(server, talk)


def test_a_right_that_is_granted_later_takes_effect(server: FakeApiServer) -> None:
    populate(server)
    server.forbid("list", "pods")

    async def talk(client: Client) -> None:
        await client.until_unavailable("forbids to list and watch pods")
        server.allow("list", "pods")
        await client.until(lambda workload: len(workload.pods) == 2)
        server.forbid("get", "deployments/scale")
        server.scale("llama", 5)
        await client.until_unavailable("grant get on deployments/scale")
        server.allow("get", "deployments/scale")
        await client.until(lambda workload: workload.spec_replicas == 5)

    run(server, talk)


def test_an_object_that_is_deleted_and_created_again_is_watched_again(any_server: AnyServer) -> None:
    populate(any_server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        any_server.delete("scaledobjects", "llama")
        await client.until_unavailable("there is no ScaledObject and no ScaledJob of this name")
        any_server.scale("newer", 1)
        any_server.pod("newer-0", "gpu-7", app="newer")
        any_server.scaled_object("llama", target="newer")
        await client.until(lambda workload: names(workload) == ["newer-0"])

    run(any_server, talk)


@pytest.mark.parametrize(
    "mishap",
    [
        pytest.param(lambda server: server.cut(), id="connections cut"),
        pytest.param(lambda server: (server.compact(), server.cut()), id="connections cut and the version dropped"),
        pytest.param(lambda server: (server.stop(), server.start()), id="the server restarts"),
        pytest.param(
            lambda server: (server.stop(), server.compact(), server.start()),
            id="the server restarts and drops the version",
        ),
        pytest.param(lambda server: (server.refuse_next(429, retry_after="0"), server.cut()), id="too many requests"),
        pytest.param(lambda server: (server.refuse_next(500, "InternalError"), server.cut()), id="an internal error"),
        pytest.param(lambda server: (server.bookmark(), server.cut()), id="connections cut after a bookmark"),
    ],
)
def test_changes_during_a_fault_are_received_afterwards(
    server: FakeApiServer, mishap: Callable[[FakeApiServer], object]
) -> None:
    populate(server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        await asyncio.to_thread(mishap, server)
        server.delete("pods", "llama-0")
        server.pod("llama-9", "gpu-9")
        server.scale("llama", 4)
        await client.until(lambda workload: names(workload) == ["llama-1", "llama-9"] and workload.spec_replicas == 4)

    run(server, talk)


def test_a_watch_that_goes_on_from_a_bookmark_does_not_list_again(server: FakeApiServer) -> None:
    populate(server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        await client.wait_for_watches()
        marked = server.bookmark()
        while {one.version for one in client.reflectors()} != {marked}:
            await asyncio.sleep(0)
        lists = server.requests["list pods"]
        server.compact(keep=marked)
        server.cut()
        server.pod("later", "gpu-7")
        await client.until(lambda workload: "later" in names(workload))
        assert server.requests["list pods"] == lists

    run(server, talk)


def test_the_state_is_trusted_for_a_minute_after_the_server_is_gone(server: FakeApiServer) -> None:
    populate(server)

    async def talk(client: Client) -> None:
        known = await client.wait_for_sync()
        await client.wait_for_watches()
        client.clock.advance(300)  # without events, while the watches are open
        await asyncio.to_thread(server.stop)
        while not any(one.failure for one in client.reflectors()):
            await asyncio.sleep(0)
        assert client.state() is known
        client.clock.advance(TRUSTED_SECONDS + 1)
        lost = client.state()
        assert isinstance(lost, Unavailable)
        assert not lost.is_permanent
        assert "the API server last answered 61 s ago (limit 60 s): " in lost.reason
        await asyncio.to_thread(server.start)
        await client.until(lambda workload: len(workload.pods) == 2)

    run(server, talk)


def test_a_change_is_reported_when_a_workload_that_was_reported_as_unknown_is_trusted_again(
    server: FakeApiServer,
) -> None:
    populate(server)

    async def talk(client: Client) -> None:
        known = await client.wait_for_sync()
        await client.wait_for_watches()
        reflectors = client.workloads.reflectors
        watch = next(one for query, one in reflectors._watches.items() if query.kind == "pods")
        reflector = watch.reflector
        trusted = reflector.unavailable
        reflector.unavailable = lambda now: Unavailable("too old", is_permanent=False)  # type: ignore[method-assign]
        assert isinstance(client.state(), Unavailable)
        reflector.unavailable = trusted  # type: ignore[method-assign]
        client.changed.clear()
        watch._availability_changed()
        for _ in range(100):
            await asyncio.sleep(0)
        assert client.changed.is_set()
        assert client.state() is known

    run(server, talk)


def test_a_server_that_never_answers_is_reported_at_once(server: FakeApiServer) -> None:
    server.stop()

    async def talk(client: Client) -> None:
        known = await client.until_unavailable(f"the API server {server.url} does not answer")
        assert not known.is_permanent

    run(server, talk)


def test_an_idle_workload_expires_and_reflectors_end_with_their_last_user(server: FakeApiServer) -> None:
    populate(server)
    server.scale("other", 1)
    server.scaled_object("other")
    server.pod("other-0", "gpu-7", app="other")

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        await client.wait_for_sync("other")
        assert len(client.workloads.reflectors) == 3  # ScaledObjects, Deployments and pods
        client.clock.advance(IDLE_TIMEOUT_SECONDS)
        client.state()
        client.clock.advance(1)
        client.workloads.expire_idle()
        assert len(client.workloads.reflectors) == 3  # for the other one
        client.clock.advance(IDLE_TIMEOUT_SECONDS + 1)
        client.workloads.expire_idle()
        assert len(client.workloads.reflectors) == 0
        while server.watches.total():
            await asyncio.sleep(0)
        assert isinstance(await client.wait_for_sync(), Workload)

    run(server, talk)


def test_an_idle_cluster_receives_no_request(server: FakeApiServer) -> None:
    populate(server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        await client.wait_for_watches()
        requests = server.requests.total()
        for _ in range(100):
            client.state()
            client.workloads.expire_idle()
            await asyncio.sleep(0)
        assert server.requests.total() == requests
        assert dict(server.requests) == {
            "list scaledobjects": 1,
            "list deployments": 1,
            "list pods": 1,
            "watch scaledobjects": 1,
            "watch deployments": 1,
            "watch pods": 1,
            "get scale": 1,
        }

    run(server, talk)


def test_an_invalid_name_is_not_sent_to_the_api_server(server: FakeApiServer) -> None:
    async def talk(client: Client) -> None:
        for namespace, name in (("../../x", "llama"), ("ai", "a/b"), ("AI", "llama"), ("ai", "x" * 300)):
            known = client.workloads.workload(namespace, name)
            assert isinstance(known, Unavailable)
            assert known.is_permanent
            assert "is not a valid name of a Kubernetes object" in known.reason
            await client.workloads.wait_for_sync(namespace, name)
        assert server.requests.total() == 0

    run(server, talk)


def test_a_call_without_a_name_says_what_to_name(server: FakeApiServer) -> None:
    async def talk(client: Client) -> None:
        known = client.workloads.workload("ai", "")
        assert isinstance(known, Unavailable)
        assert known.is_permanent
        assert known.reason.startswith("the call names no ScaledObject: name one (NAMESPACE/NAME), or set scope: ")
        await client.workloads.wait_for_sync("ai", "")
        assert server.requests.total() == 0

    run(server, talk)


def test_the_declarations_of_a_watched_namespace_are_those_of_all_its_objects(server: FakeApiServer) -> None:
    populate(server)
    server.scaled_object("chat", targetValue="60")
    server.scaled_object("far", namespace="elsewhere")

    async def talk(client: Client) -> None:
        assert client.workloads.declarations() == {}
        await client.wait_for_sync()
        known = client.workloads.declarations()
        assert known.keys() == {"ai"}
        assert known["ai"].triggers == {
            "llama": (DeclaredTrigger({"targetValue": "70"}, "Value"),),
            "chat": (DeclaredTrigger({"targetValue": "60"}, "AverageValue"),),
        }
        assert known["ai"].declares("batch", {}) is None  # ScaledJobs are not watched
        again = client.workloads.declarations()["ai"].triggers
        assert again["chat"] is known["ai"].triggers["chat"]
        server.put("scaledjobs", "batch", spec={"triggers": [{"type": "external", "metadata": {"gpuIndex": "1"}}]})
        await client.wait_for_sync("batch")
        known = client.workloads.declarations()
        assert known["ai"].declares("batch", {"gpuIndex": "1"}) is True
        assert known["ai"].declares("absent", {}) is False
        client.clock.advance(IDLE_TIMEOUT_SECONDS + 1)
        client.workloads.expire_idle()
        assert client.workloads.declarations() == {}

    run(server, talk)


def test_declarations_that_are_not_trusted_are_not_known(server: FakeApiServer) -> None:
    populate(server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        await client.wait_for_watches()
        server.stop()
        while client.workloads.watches().get(("scaledobjects.keda.sh", WatchState.WATCHING)):
            await asyncio.sleep(0)
        assert client.workloads.declarations().keys() == {"ai"}
        client.clock.advance(TRUSTED_SECONDS + 1)
        assert client.workloads.declarations() == {}
        server.start()

    run(server, talk)


def test_watches_are_counted_by_resource_and_state(server: FakeApiServer) -> None:
    populate(server)
    server.forbid("watch", "nodes")

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        await client.wait_for_watches()
        client.workloads.node_labels()
        while (counted := client.workloads.watches()).get(("nodes", WatchState.UNKNOWN)) is None:
            await asyncio.sleep(0)
        assert counted == {
            ("scaledobjects.keda.sh", WatchState.WATCHING): 1,
            ("deployments.apps", WatchState.WATCHING): 1,
            ("pods", WatchState.WATCHING): 1,
            ("nodes", WatchState.UNKNOWN): 1,
        }

    run(server, talk)


def test_the_number_of_resources_counted_by_name_is_bounded(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_reflectors_module, "MAX_KINDS", 1)
    populate(server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        await client.wait_for_watches()
        assert client.workloads.watches() == {
            ("scaledobjects.keda.sh", WatchState.WATCHING): 1,
            ("other", WatchState.WATCHING): 2,
        }

    run(server, talk)


def test_the_number_of_workloads_is_bounded(server: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads_module, "MAX_WORKLOADS", 2)
    assert MAX_WORKLOADS > 1000

    for name in ("a", "b"):
        server.scale(name, 1)
        server.scaled_object(name, targetValue="70")

    async def talk(client: Client) -> None:
        for name in ("a", "b"):
            await client.wait_for_sync(name)
        known = client.state("c")
        assert isinstance(known, Unavailable)
        assert known.reason == "the limit of 2 watched workloads is reached"

    run(server, talk)


def test_a_name_without_an_object_gives_its_place_to_another(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads_module, "MAX_WORKLOADS", 3)
    populate(server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync("llama")
        llama = client.state("llama")
        assert isinstance(llama, Workload)
        for number in range(20):
            name = f"invented-{number}"
            await client.wait_for_sync(name)
            known = client.state(name)
            assert isinstance(known, Unavailable)
            assert known.triggers == ()
        assert client.state("llama") is llama
        assert len(client.workloads._workloads) == 3

    run(server, talk)


def test_few_names_without_an_object_stay_watched(server: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads_module, "MAX_ABSENT", 3)
    populate(server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync("llama")
        llama = client.state("llama")
        for number in range(20):
            await client.wait_for_sync(f"invented-{number}")
            client.clock.advance(0.01)
        client.workloads.expire_idle()
        names = [name for _, name, _ in client.workloads._workloads]
        assert names == ["llama", "invented-17", "invented-18", "invented-19"]
        assert client.state("llama") is llama

    run(server, talk)


def test_node_labels_are_watched_after_the_first_request(server: FakeApiServer) -> None:
    server.put("nodes", "gpu-7", "", metadata={"labels": {"pool": "a"}}, status={"images": ["large"] * 100})

    async def talk(client: Client) -> None:
        assert isinstance(client.workloads.node_labels(), Unavailable)
        while isinstance(client.workloads.node_labels(), Unavailable):
            await client.changed.wait()
        assert client.workloads.node_labels() == {"gpu-7": {"pool": "a"}}
        assert client.workloads.node_labels() is client.workloads.node_labels()
        client.changed.clear()
        server.put("nodes", "gpu-8", "", metadata={"labels": {"pool": "b"}})
        await client.changed.wait()
        assert set(client.workloads.node_labels()) == {"gpu-7", "gpu-8"}  # type: ignore[arg-type]
        client.clock.advance(IDLE_TIMEOUT_SECONDS + 1)
        client.workloads.expire_idle()
        assert len(client.workloads.reflectors) == 0

    run(server, talk)


def test_a_renewed_token_is_read_again(server: FakeApiServer, tmp_path: Path) -> None:
    populate(server)
    token = tmp_path / "token"
    token.write_text(TOKEN)

    async def talk(client: Client) -> None:
        config = replace(server.access, token="", token_file=token)
        workloads = Workloads(ApiClient(config), clock=client.clock, on_change=client.changed.set)
        client.workloads, unused = workloads, client.workloads
        await unused.close()
        await client.wait_for_sync()
        server.tokens = {"renewed"}
        token.write_text("renewed\n")
        server.cut()
        server.pod("llama-9", "gpu-9")
        await client.until(lambda workload: "llama-9" in names(workload))

    run(server, talk)


def test_an_unexpected_object_does_not_end_the_watch(server: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    populate(server)
    monkeypatch.setattr(backoff_module, "MAX_BACKOFF_SECONDS", 0.01)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        original = parse.pod

        def failing(item: Mapping[str, Any], to_monotonic: float) -> Pod:
            if item["metadata"]["name"] == "unexpected":
                raise ZeroDivisionError
            return original(item, to_monotonic)

        monkeypatch.setattr(parse, "pod", failing)
        server.pod("unexpected", "gpu-9")
        server.pod("ordinary", "gpu-9")
        monkeypatch.setattr(parse, "pod", original)
        await client.until(lambda workload: {"unexpected", "ordinary"} <= set(names(workload)))

    run(server, talk)


def test_the_last_scale_is_trusted_for_a_minute_while_it_cannot_be_read(server: FakeApiServer) -> None:
    populate(server)

    async def talk(client: Client) -> None:
        before = await client.wait_for_sync()
        await client.wait_for_watches()
        server.break_down("get", "deployments/scale")
        server.scale("llama", 5)
        while server.requests["get scale"] < 4:  # it is read again without a change
            await asyncio.sleep(0)
        server.pod("llama-9", "gpu-9")
        known = await client.until(lambda workload: "llama-9" in names(workload))
        assert isinstance(before, Workload)
        assert (known.spec_replicas, len(known.pods)) == (before.spec_replicas, 3)
        watched = server.requests["watch pods"]
        client.clock.advance(TRUSTED_SECONDS + 1)
        lost = await client.until_unavailable("the API server answers 503")
        assert not lost.is_permanent
        server.repair("get", "deployments/scale")
        await client.until(lambda workload: workload.spec_replicas == 5)
        assert watched == 1
        server.break_down("get", "deployments/scale")  # a second failure has a minute of its own
        tried = server.requests["get scale"]
        server.scale("llama", 6)
        while server.requests["get scale"] < tried + 2:
            await asyncio.sleep(0)
        server.pod("llama-10", "gpu-9")
        known = await client.until(lambda workload: "llama-10" in names(workload))
        assert known.spec_replicas == 5

    run(server, talk)


def test_the_last_scale_is_not_used_for_another_target(server: FakeApiServer) -> None:
    populate(server)
    server.scale("newer", 7)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        server.break_down("get", "deployments/scale")
        server.scaled_object("llama", target="newer")
        lost = await client.until_unavailable("the API server answers 503")
        assert not lost.is_permanent

    run(server, talk)


def test_an_api_that_is_not_installed_is_reported(server: FakeApiServer) -> None:
    server.scaled_object("llama", kind="Rollout", api_version="argoproj.io/v1alpha1", resolved=False)
    server.uninstall("rollouts")

    async def talk(client: Client) -> None:
        known = await client.wait_for_sync()
        assert isinstance(known, Unavailable)
        assert known.is_permanent
        assert known.reason == (
            "ai/llama: the API server has no Rollout of argoproj.io/v1alpha1: "
            "is its CustomResourceDefinition installed?"
        )

    run(server, talk)


def test_setting_the_wall_clock_does_not_change_the_age_of_new_pods(server: FakeApiServer) -> None:
    populate(server)

    async def talk(client: Client) -> None:
        wall = [1_700_000_000.0]
        await client.workloads.close()
        client.workloads = Workloads(
            ApiClient(server.access), clock=client.clock, wall_clock=lambda: wall[0], on_change=client.changed.set
        )
        await client.wait_for_sync()
        wall[0] += 3600  # the clock was an hour behind and is corrected
        server.pod("llama-9", "gpu-9", created="2023-11-14T23:13:20Z")  # the present
        known = await client.until(lambda workload: "llama-9" in names(workload))
        assert known.pods[-1].created_at_seconds == client.clock()
        wall[0] += 0.25  # a small drift must not change the pod
        kept = known.pods[-1]
        server.pod("llama-9", "gpu-9")
        server.pod("marker", "gpu-9")
        known = await client.until(lambda workload: "marker" in names(workload))
        assert known.pods[-2] is kept

    run(server, talk)


def test_a_change_between_pages_is_received_by_the_watch(server: FakeApiServer) -> None:
    populate(server, replicas=6)
    server.page_limit = 3
    server.between_pages = lambda: server.delete("pods", "llama-0")

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        await client.until(lambda workload: names(workload) == [f"llama-{number}" for number in range(1, 6)])

    run(server, talk)


def test_a_dropped_page_does_not_affect_the_list(server: FakeApiServer) -> None:
    populate(server, replicas=6)
    server.page_limit = 3
    server.between_pages = server.compact

    async def talk(client: Client) -> None:
        known = await client.wait_for_sync()
        assert isinstance(known, Workload)
        assert len(known.pods) == 6
        assert server.requests["list pods"] == 3  # a page, a dropped page, and a list without pages

    run(server, talk)


def test_a_selector_of_any_form_is_sent_unchanged(server: FakeApiServer) -> None:
    populate(server)
    expressions = [
        {"key": "tier", "operator": "In", "values": ["a", "b.c"]},
        {"key": "old", "operator": "DoesNotExist"},
    ]
    selector = {"matchLabels": {"app": "llama"}, "matchExpressions": expressions}
    server.put("deployments", "llama", spec={"replicas": 2, "selector": selector})
    server.pod("chosen", "gpu-1", labels={"app": "llama", "tier": "a"})
    server.pod("old", "gpu-1", labels={"app": "llama", "tier": "a", "old": ""})

    async def talk(client: Client) -> None:
        known = await client.wait_for_sync()
        assert isinstance(known, Workload)
        assert names(known) == ["chosen"]

    run(server, talk)


# ---- objects that are not applied ----


def spec(**changes: Any) -> str:
    trigger = {"type": "external", "metricType": "Value", "metadata": {"targetValue": "50"}}
    return json.dumps({"scaleTargetRef": {"name": "llama"}, "maxReplicaCount": 9, "triggers": [trigger], **changes})


def test_a_proposed_object_has_the_workload_that_its_spec_names(server: FakeApiServer) -> None:
    populate(server)
    server.delete("scaledobjects", "llama", server.namespace)

    async def talk(client: Client) -> None:
        await client.workloads.wait_for_sync(server.namespace, "new", spec())
        found = client.workloads.workload(server.namespace, "new", spec())
        assert isinstance(found, Workload)
        assert (found.target, found.spec_replicas) == ("Deployment llama", 2)
        assert found.limits is not None
        assert found.limits.max_replicas == 9
        assert found.triggers == (DeclaredTrigger({"targetValue": "50"}, "Value"),)
        # The object itself does not exist, whatever is proposed for its name.
        assert isinstance(await client.wait_for_sync("new"), Unavailable)
        assert client.workloads.pod_addresses(server.namespace) == frozenset()

    run(server, talk)


@pytest.mark.parametrize(
    ("proposed", "reason"),
    [
        pytest.param("{", "spec: Invalid value: must be a JSON object", id="no JSON"),
        pytest.param("[]", "scaleTargetRef names no object", id="no object"),
        pytest.param(" " * 70_000, "spec: Too long", id="too long"),
        pytest.param(spec(scaleTargetRef={"name": "nothing"}), "Deployment nothing does not exist", id="no target"),
    ],
)
def test_a_proposal_that_names_no_workload_says_why(server: FakeApiServer, proposed: str, reason: str) -> None:
    async def talk(client: Client) -> None:
        await client.workloads.wait_for_sync(server.namespace, "new", proposed)
        found = client.workloads.workload(server.namespace, "new", proposed)
        assert isinstance(found, Unavailable)
        assert found.is_permanent
        assert reason in found.reason

    run(server, talk)


def test_the_number_of_proposals_is_limited_and_they_expire_soon(server: FakeApiServer) -> None:
    populate(server)

    async def talk(client: Client) -> None:
        await client.wait_for_sync()
        for number in range(workloads_module.MAX_PROPOSALS + 3):
            client.workloads.workload(server.namespace, "new", spec(maxReplicaCount=number))
        assert len(client.workloads._workloads) == workloads_module.MAX_PROPOSALS + 1
        client.clock.advance(workloads_module.PROPOSAL_IDLE_SECONDS + 1)
        client.state()
        client.workloads.expire_idle()
        assert [key[2] for key in client.workloads._workloads] == [""]

    run(server, talk)
