# SPDX-License-Identifier: Apache-2.0
"""Tests of devices that schedulers and claims assigned: real agents, kubelets and an API server."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import FakeApiServer
from tests.end_to_end.test_fleet import FleetOfNodes
from tests.kubelet import container, pod_resources

HAMI = "hami.io/vgpu-devices-allocated"
GROUP = "runai-gpu-group"
FAKE_ID = "GPU-8d1c2e66-6c3f-4f5e-9a3e-11111111111"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetOfNodes]:
    """Two nodes of two devices. KEDA calls the first one, and the pods are on the second."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(FakeApiServer())
        nodes = FleetOfNodes(tmp_path, server, stack)
        nodes.build(a=[0, 0], b=[80, 40])
        server.scale("llama", 1)
        server.scaled_object("llama", metric_type="Value")
        yield nodes


def value(fleet: FleetOfNodes) -> Any:
    return fleet.until("a", lambda evaluation: evaluation.HasField("value")).value


def test_the_gpu_of_hamis_annotation_counts_on_another_node(fleet: FleetOfNodes) -> None:
    fleet.nodes["b"].kubelet.pods = [
        pod_resources("llama-0", container("server", "nvidia.com/gpu", FAKE_ID + "1-0")),
        pod_resources("other-0", container("server", "nvidia.com/gpu", FAKE_ID + "1-1"), namespace="other"),
    ]
    for name, namespace, mib in (("llama-0", "ai", 3000), ("other-0", "other", 1000)):
        mark = {HAMI: f"{fleet.nodes['b'].uuid(1)},NVIDIA,{mib},0:;"}
        fleet.server.pod(name, "b", namespace=namespace, app=name.partition("-")[0], annotations=mark)
    assert value(fleet) == pytest.approx(30)


def test_a_gpu_group_of_kai_shares_the_gpu_of_its_reservation(fleet: FleetOfNodes) -> None:
    reserved = "kai-resource-reservation"
    fleet.nodes["b"].kubelet.pods = [
        pod_resources(
            "gpu-reservation-1", container("r", "nvidia.com/gpu", fleet.nodes["b"].uuid(0)), namespace=reserved
        )
    ]
    fleet.server.pod("gpu-reservation-1", "b", namespace=reserved, labels={GROUP: "g"})
    for name, namespace, part in (("llama-0", "ai", "0.5"), ("other-0", "other", "0.3")):
        labels = {"app": name.partition("-")[0], GROUP: "g"}
        fleet.server.pod(name, "b", namespace=namespace, labels=labels, annotations={"gpu-fraction": part})
    assert value(fleet) == pytest.approx(50)


def test_a_claim_counts_where_the_kubelet_lists_none_and_a_monitor_does_not(fleet: FleetOfNodes) -> None:
    spec = {"resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}]}
    fleet.server.pod("llama-0", "b", spec=spec)
    device = {"name": "gpu-5", "attributes": {"uuid": {"string": fleet.nodes["b"].uuid(0)}}}
    slice_spec = {
        "driver": "gpu.nvidia.com",
        "nodeName": "b",
        "pool": {"name": "b", "generation": 1},
        "devices": [device],
    }
    fleet.server.put("resourceslices", "b-gpu", "", spec=slice_spec)
    result = {"driver": "gpu.nvidia.com", "pool": "b", "device": "gpu-5"}
    for claim, pod, more in (("gpu", "llama-0", {}), ("monitor", "exporter", {"adminAccess": True})):
        fleet.server.put(
            "resourceclaims", claim,
            status={
                "allocation": {"devices": {"results": [{**result, **more}]}},
                "reservedFor": [{"resource": "pods", "name": pod, "uid": "1"}],
            },
        )  # fmt: skip
    assert value(fleet) == pytest.approx(80)
