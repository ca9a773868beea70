# SPDX-License-Identifier: Apache-2.0
"""Tests every custom kind that is read, on the fake API server and on a real one where one is configured."""

import pytest

from keda_gpu_scaler.core.types import ClaimedDevice, PodRef, Workload
from tests.apiserver import KINDS, SCALE_PATHS
from tests.kube.test_workloads import AnyServer, Client, any_server, names, run

__all__ = ["any_server"]  # a fixture
LWS = "leaderworkerset.sigs.k8s.io"


def target(server: AnyServer, resource: str, *, actual: int = 2, resolved: bool = False) -> None:
    group, version, kind = KINDS[resource]
    server.scale("llama", 3, actual=actual, resource=resource)
    server.scaled_object("llama", kind=kind, api_version=f"{group}/{version}", resolved=resolved)


@pytest.mark.parametrize("resource", SCALE_PATHS)
def test_size_and_selector_are_read_from_the_scale_subresource(any_server: AnyServer, resource: str) -> None:
    target(any_server, resource)
    is_group = resource == "leaderworkersets"
    labels = {f"{LWS}/name": "llama", f"{LWS}/group-index": "0", f"{LWS}/worker-index": "0"} if is_group else None
    any_server.pod("llama-0", "gpu-1", labels=labels)
    any_server.pod("other-0", "gpu-1", app="other")

    async def talk(client: Client) -> None:
        known = await client.until(lambda workload: workload.status_replicas == 2)
        assert known.target == f"{KINDS[resource][2]} llama"
        assert (known.spec_replicas, names(known)) == (3, ["llama-0"])

    run(any_server, talk)


def test_a_leader_worker_set_has_its_workers_and_the_hpa_counts_leaders(any_server: AnyServer) -> None:
    target(any_server, "leaderworkersets")
    for group in range(2):
        for worker in range(2):
            labels = {f"{LWS}/name": "llama", f"{LWS}/group-index": str(group), f"{LWS}/worker-index": str(worker)}
            name = f"llama-{group}-{worker}" if worker else f"llama-{group}"
            owner = f"StatefulSet llama-{group}" if worker else "StatefulSet llama"
            any_server.pod(name, "gpu-1", labels=labels, annotations={f"{LWS}/size": "2"}, owner=owner)

    async def talk(client: Client) -> None:
        known = await client.until(lambda workload: workload.status_replicas == 2 and len(workload.pods) == 4)
        groups = [(pod.group, pod.group_size, pod.is_worker) for pod in known.pods]
        assert groups == [(f"llama-{group}", 2, worker) for group in range(2) for worker in (False, True)]
        assert (known.hpa_ready_pods, known.counts_pods) == (2, False)

    run(any_server, talk)


@pytest.mark.parametrize("resource", ["rayclusters", "jobsets"])
def test_a_kind_without_a_scale_subresource_is_reported(any_server: AnyServer, resource: str) -> None:
    group, version, kind = KINDS[resource]
    # The first field is required by the real definition of a RayCluster.
    head = {"headGroupSpec": {"template": {"spec": {"containers": [{"name": "ray", "image": "example.com/ray"}]}}}}
    any_server.put(resource, "llama", spec=head if resource == "rayclusters" else {})
    any_server.scaled_object("llama", kind=kind, api_version=f"{group}/{version}", resolved=False)

    async def talk(client: Client) -> None:
        await client.until_unavailable(f"{kind} llama has no scale subresource")

    run(any_server, talk)


def test_a_target_whose_controller_has_written_no_status_has_no_selector(any_server: AnyServer) -> None:
    any_server.put("modelservers", "llama", spec={"replicas": 1, "selector": {"matchLabels": {"app": "llama"}}})
    any_server.scaled_object("llama", kind="ModelServer", api_version="example.com/v1", resolved=False)

    async def talk(client: Client) -> None:
        await client.until_unavailable("reports no selector in its scale subresource")

    run(any_server, talk)


def test_the_devices_of_a_claim_are_joined_with_their_slice(any_server: AnyServer) -> None:
    any_server.scale("llama", 1)
    any_server.scaled_object("llama")
    # A name of the test's own, because slices belong to no namespace.
    node = f"gpu-{any_server.namespace}"
    claims = [{"name": "gpu", "resourceClaimName": "llama"}]
    any_server.pod("llama-0", node, spec={"resourceClaims": claims})
    device = {"name": "gpu-0", "attributes": {"uuid": {"string": "GPU-aaa"}}}
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    any_server.put(
        "resourceslices",
        f"{node}-x",
        spec={"driver": "gpu.nvidia.com", "nodeName": node, "pool": pool, "devices": [device]},
    )
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
    result = {"driver": "gpu.nvidia.com", "pool": node, "device": "gpu-0", "request": "gpu"}
    any_server.put(
        "resourceclaims", "llama",
        spec={"devices": {"requests": [request]}},
        status={
            "allocation": {"devices": {"results": [result]}},
            "reservedFor": [{"resource": "pods", "name": "llama-0", "uid": "uid-of-llama-0"}],
        },
    )  # fmt: skip

    async def talk(client: Client) -> None:
        known: Workload = await client.until(lambda workload: workload.assignments.claimed)
        ref = PodRef(any_server.namespace, "llama-0")
        assert known.assignments.claimed == (ClaimedDevice(ref, node, "gpu.nvidia.com", "gpu-0", False, "GPU-aaa", ""),)

    run(any_server, talk)
