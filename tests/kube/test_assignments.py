# SPDX-License-Identifier: Apache-2.0
"""Tests of what the API server knows of assignments: marks of schedulers, claims and ResourceSlices."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from keda_gpu_scaler.core.types import KUBELET_ONLY, AssignedPod, ClaimedDevice, ClusterAssignments, PodRef, Workload
from keda_gpu_scaler.kube import backoff as backoff_module
from keda_gpu_scaler.kube import watched_workload
from keda_gpu_scaler.kube.assignments import device_claim, device_slice, read_assignments
from keda_gpu_scaler.kube.client import ApiClient, ApiError
from keda_gpu_scaler.kube.parse import assigned_pod
from keda_gpu_scaler.kube.workloads import Workloads
from tests import apiserver
from tests.apiserver import FakeApiServer
from tests.fakes import ManualClock, pod
from tests.limits import WAIT_SECONDS

HAMI = "hami.io/vgpu-devices-allocated"
GROUP = "runai-gpu-group"
CLAIM = {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]}
UUID = "GPU-8d1c2e66-6c3f-4f5e-9a3e-111111111111"


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        running.scale("llama", 2)
        running.scaled_object("llama", metric_type="Value", targetValue="70")
        yield running


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff_module, "jittered", lambda seconds: 0.0)
    monkeypatch.setattr(watched_workload, "_RETRY_SECONDS", 0.01)


def claim(
    server: FakeApiServer, name: str, *pods: str, device: str = "gpu-0", namespace: str = "ai", **more: Any
) -> None:
    result = {"driver": "gpu.nvidia.com", "pool": "gpu-1", "device": device, "request": "gpu", **more}
    server.put(
        "resourceclaims", name, namespace,
        status={
            "allocation": {"devices": {"results": [result]}},
            "reservedFor": [{"resource": "pods", "name": pod, "uid": f"uid-of-{pod}"} for pod in pods],
        },
    )  # fmt: skip


def resource_slice(
    server: FakeApiServer, name: str, uuid: str, *, node: str = "gpu-1", generation: int = 1, basic: bool = False
) -> None:
    attributes = {"attributes": {"uuid": {"string": uuid}, "pcieBusID": {"string": "0000:19:00.0"}}}
    device = {"name": "gpu-0", **({"basic": attributes} if basic else attributes)}
    server.put(
        "resourceslices", name, "",
        spec={
            "driver": "gpu.nvidia.com", "nodeName": node, "devices": [device],
            "pool": {"name": node, "generation": generation, "resourceSliceCount": 1},
        },
    )  # fmt: skip


def known(server: FakeApiServer, wanted: Callable[[ClusterAssignments], object] = lambda _: True) -> Workload:
    """Return the workload once its assignments are as wanted."""

    async def talk() -> Workload:
        changed = asyncio.Event()
        workloads = Workloads(ApiClient(server.access), clock=ManualClock(), on_change=changed.set)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await workloads.wait_for_sync("ai", "llama")
                while True:
                    changed.clear()
                    state = workloads.workload("ai", "llama")
                    if isinstance(state, Workload) and wanted(state.assignments):
                        return state
                    await changed.wait()
        finally:
            await workloads.close()

    found: Awaitable[Workload] = talk()
    return asyncio.run(found)  # type: ignore[arg-type]


def test_a_workload_of_the_device_plugin_reads_nothing_else(server: FakeApiServer) -> None:
    server.pod("llama-0", "gpu-1", spec={"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]})
    server.pod("stranger", "gpu-1", namespace="other", app="x", annotations={HAMI: f"{UUID},NVIDIA,1,1:;"})
    workload = known(server)
    assert workload.assignments is KUBELET_ONLY
    assert workload.pods[0].requests == ("nvidia.com/gpu",)
    assert server.requests["list resourceclaims"] == 0
    assert {asked.namespace for asked in server.asked if asked.resource == "pods"} == {"ai"}


def test_the_marks_of_every_pod_on_the_workloads_nodes_are_read(server: FakeApiServer) -> None:
    mark = {HAMI: f"{UUID},NVIDIA,1,1:;", "unrelated": "x"}
    server.pod("llama-0", "gpu-1", annotations=mark)
    server.pod("llama-0", "gpu-1", namespace="other", app="x", annotations=mark)
    server.pod("elsewhere", "gpu-9", namespace="other", app="x", annotations=mark)
    server.pod("ended", "gpu-1", namespace="other", app="x", annotations=mark, phase="Succeeded")
    server.pod("plain", "gpu-1", namespace="other", app="x")
    marks = ((HAMI, f"{UUID},NVIDIA,1,1:;"),)
    assert known(server).assignments == ClusterAssignments(
        tuple(AssignedPod(PodRef(namespace, "llama-0"), "gpu-1", marks) for namespace in ("ai", "other"))
    )


def test_without_the_right_to_all_pods_the_own_marks_remain_and_the_reason_is_known(server: FakeApiServer) -> None:
    server.pod("llama-0", "gpu-1", labels={"app": "llama", GROUP: "g"}, annotations={"gpu-fraction": "0.5"})
    server.forbid_everywhere("list", "pods")
    assignments = known(server).assignments
    assert [pod.marks for pod in assignments.pods] == [(("gpu-fraction", "0.5"), (GROUP, "g"))]
    assert assignments.pods_unavailable == (
        "the pods of other namespaces may share it: the API server forbids to list and watch pods: grant list and "
        "watch on pods (chart: rbac.create)"
    )


@pytest.mark.parametrize(("version", "basic"), [("v1", False), ("v1beta2", False), ("v1beta1", True)])
def test_a_claim_leads_to_the_uuid(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch, version: str, basic: bool
) -> None:
    for resource in ("resourceclaims", "resourceslices"):
        group, _, kind = apiserver.KINDS[resource]
        monkeypatch.setitem(apiserver.KINDS, resource, (group, version, kind))
    server.pod("llama-0", "gpu-1", spec=CLAIM)
    claim(server, "gpu-a", "llama-0")
    claim(server, "monitor", "exporter", namespace="monitoring", adminAccess=True)
    resource_slice(server, "of-gpu-1", UUID, basic=basic)
    assert known(server).assignments.claimed == (
        ClaimedDevice(PodRef("ai", "llama-0"), "gpu-1", "gpu.nvidia.com", "gpu-0", False, UUID, "0000:19:00.0"),
        ClaimedDevice(PodRef("monitoring", "exporter"), "gpu-1", "gpu.nvidia.com", "gpu-0", True, UUID, "0000:19:00.0"),
    )


def test_slices_of_an_older_generation_and_claims_of_other_nodes_do_not_count(server: FakeApiServer) -> None:
    server.pod("llama-0", "gpu-1", spec=CLAIM)
    claim(server, "gpu-a", "llama-0")
    claim(server, "gpu-b", "stranger", namespace="other", pool="gpu-9")
    resource_slice(server, "new", "GPU-new", generation=2)
    resource_slice(server, "old", "GPU-old", generation=1)
    claimed = known(server).assignments.claimed
    assert claimed is not None
    assert [(one.pod.name, one.uuid) for one in claimed] == [("llama-0", "GPU-new")]


def test_a_claim_that_is_allocated_later_is_received(server: FakeApiServer) -> None:
    server.pod("llama-0", "gpu-1", spec=CLAIM)
    assert known(server).assignments == ClusterAssignments(claimed=())
    claim(server, "gpu-a", "llama-0")
    claimed = known(server, lambda assignments: assignments.claimed).assignments.claimed
    assert claimed == (ClaimedDevice(PodRef("ai", "llama-0"), "gpu-1", "gpu.nvidia.com", "gpu-0"),)


@pytest.mark.parametrize("resource", ["resourceclaims", "resourceslices"])
def test_without_the_right_to_claims_the_workload_is_known(server: FakeApiServer, resource: str) -> None:
    server.pod("llama-0", "gpu-1", spec=CLAIM)
    server.forbid("list", resource)
    assignments = known(server).assignments
    assert assignments.claimed is None
    assert assignments.claims_unavailable == (
        f"the API server forbids to list and watch {resource}.resource.k8s.io: grant list and watch on "
        f"{resource}.resource.k8s.io (chart: rbac.create)"
    )


def test_without_the_api_group_the_workload_is_known(server: FakeApiServer) -> None:
    server.pod("llama-0", "gpu-1", spec=CLAIM)
    server.uninstall("resourceclaims")
    server.uninstall("resourceslices")
    assert known(server).assignments.claims_unavailable == (
        "the API server has no version of resource.k8s.io among v1, v1beta2, v1beta1"
    )


@pytest.mark.parametrize("status", [503, 404])
def test_an_api_server_that_does_not_answer_is_asked_again_and_a_missing_group_is_a_reason(status: int) -> None:
    class Versions:
        async def version(self, group: str, known: Sequence[str]) -> str:
            raise ApiError(f"no answer about {group}", status)

    reading = read_assignments(Versions(), lambda *_: "not read", [pod("llama-0", has_claims=True)])
    if status == 404:
        assert asyncio.run(reading).claims_unavailable == "no answer about resource.k8s.io"
    else:
        with pytest.raises(ApiError):
            asyncio.run(reading)


@pytest.mark.parametrize("read", [assigned_pod, device_claim, device_slice])
@pytest.mark.parametrize(
    "item",
    [
        {},
        {"metadata": [], "spec": 7, "status": "x"},
        {"spec": {"nodeName": "n", "devices": [{"name": 7}, {"name": "a", "attributes": 3}], "pool": []}},
        {"status": {"allocation": {"devices": {"results": [{}, 3]}}, "reservedFor": [{"resource": "pods", "name": 3}]}},
        {"metadata": {"annotations": {HAMI: 7}}, "spec": {"nodeName": "n"}},
    ],
)
def test_no_object_makes_a_reader_raise(read: Callable[[Any], object], item: dict[str, Any]) -> None:
    read(item)
