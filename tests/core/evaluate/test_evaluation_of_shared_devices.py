# SPDX-License-Identifier: Apache-2.0
"""Tests the evaluation of devices that a scheduler or a claim assigned, and the advice without one."""

from dataclasses import replace
from typing import Any

import pytest

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, NoValue, evaluate
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import (
    KUBELET_ONLY,
    Allocation,
    AssignedPod,
    ClaimedDevice,
    ClusterAssignments,
    Pod,
    PodRef,
    Snapshot,
)
from tests.fakes import pod, sample, workload

NOW = 1000.0
NODE = "gpu-7"
RESERVED = "kai-resource-reservation"
GROUP = "runai-gpu-group"
HAMI = "hami.io/vgpu-devices-allocated"
UUIDS = ("GPU-0000", "GPU-0001")
FAKE_ID = "GPU-8d1c2e66-6c3f-4f5e-9a3e-111111111111-0"


def history(*listed: Allocation, utilizations: tuple[float, ...] = (0.8, 0.4), at: float = NOW) -> History:
    samples = tuple(sample(index, value) for index, value in enumerate(utilizations))
    return History((Snapshot(NODE, 1, at, 1.7e9, "fake", samples, tuple(sorted(listed))),), at)


def evaluated(pods: list[Pod], node: History, cluster: ClusterAssignments, **metadata: str) -> Evaluation:
    known = replace(workload(*pods, metric_type="Value"), assignments=cluster)
    fleet = Fleet(None, 10.0, deviceless=True, peers={NODE: node})
    return evaluate(parse_trigger(metadata), fleet, NOW, known, metadata)


def held(name: str, device_id: str, resource: str = "nvidia.com/gpu", namespace: str = "ai") -> Allocation:
    return Allocation(namespace, name, "server", resource, device_id)


def marked(name: str, namespace: str = "ai", **marks: str) -> AssignedPod:
    return AssignedPod(PodRef(namespace, name), NODE, tuple(sorted(marks.items())))


def kai(**fractions: str) -> ClusterAssignments:
    sharers = [marked(name, **{GROUP: "g", "gpu-fraction": part}) for name, part in fractions.items()]
    return ClusterAssignments((marked("r", RESERVED, **{GROUP: "g"}), *sharers))


RESERVATION = held("r", UUIDS[0], namespace=RESERVED)


def test_law_4_stated_fractions_weigh_the_shares() -> None:
    values = {}
    for name in ("small", "large"):
        evaluation = evaluated([pod(name)], history(RESERVATION), kai(small="0.2", large="0.6"))
        values[name] = evaluation.value
        percent = {"small": "25", "large": "75"}[name]
        assert f"shared by 2 pods (this one has {percent} % of it, by gpu-fraction)" in " ".join(evaluation.steps)
    assert values == {"small": 20, "large": 60}


def test_a_reading_that_is_not_divided_ignores_the_fractions() -> None:
    evaluation = evaluated(
        [pod("small")], history(RESERVATION), kai(small="0.2", large="0.6"), metricType="temperature", targetValue="80"
    )
    assert evaluation.value == 55
    assert "shared by 2 pods (each counts the whole value)" in " ".join(evaluation.steps)


def test_law_1_without_the_sharers_a_share_is_missing_and_a_temperature_is_not() -> None:
    cluster = replace(kai(p="0.5"), pods_unavailable="no right to read the pods of other namespaces")
    evaluation = evaluated([pod("p")], history(RESERVATION), cluster)
    assert evaluation.value is None
    assert evaluation.reason.endswith(
        "its share of GPU 0 of node gpu-7 is not known: no right to read the pods of other namespaces"
    )
    metadata = {"metricType": "temperature", "targetValue": "80"}
    assert evaluated([pod("p")], history(RESERVATION), cluster, **metadata).value == 55


def test_law_1_the_kubelets_id_of_a_vgpu_is_not_used() -> None:
    node = history(held("p", FAKE_ID))
    unknown = evaluated([pod("p")], node, KUBELET_ONLY)
    assert unknown.no_value_reason is NoValue.UNAVAILABLE
    assert f"holds {FAKE_ID}, and which device of node gpu-7 that is is not known: its annotation" in unknown.reason
    cluster = ClusterAssignments((marked("p", **{HAMI: f"{UUIDS[1]},NVIDIA,3000,0:;"}),))
    assert evaluated([pod("p")], node, cluster).value == 40


def test_law_3_each_state_of_the_assignments_has_its_own_answer() -> None:
    node = history(RESERVATION)
    first, second = kai(p="0.2", q="0.6"), kai(p="0.5")
    answers = [evaluated([pod("p")], node, cluster).value for cluster in (first, second, first, second)]
    assert answers == [20, 80, 20, 80]


def test_the_load_of_an_earlier_pod_whose_annotation_is_gone_does_not_count() -> None:
    listed = (held("gone", FAKE_ID.removesuffix("0") + "1"), held("p", FAKE_ID))
    before = Snapshot(NODE, 0, NOW - 5, 1.7e9, "fake", (sample(0, 1.0), sample(1, 1.0)), listed)
    now = history(held("p", FAKE_ID)).newest
    cluster = ClusterAssignments((marked("p", **{HAMI: f"{UUIDS[1]},NVIDIA,3000,0:;"}),))
    assert evaluated([pod("p")], History((before, now), NOW), cluster, windowSeconds="30").value == 40


def test_a_monitor_with_admin_access_takes_nothing_of_the_load() -> None:
    claimed = (
        ClaimedDevice(PodRef("ai", "p"), NODE, "gpu.nvidia.com", "gpu-7", uuid=UUIDS[0]),
        ClaimedDevice(PodRef("monitoring", "m"), NODE, "gpu.nvidia.com", "gpu-7", True, UUIDS[0]),
    )
    node = history(held("m", "gpu-7", "gpu.nvidia.com", "monitoring"))
    assert evaluated([pod("p")], node, ClusterAssignments(claimed=claimed)).value == 80


@pytest.mark.parametrize(
    ("changes", "cluster", "advice"),
    [
        pytest.param(
            {}, KUBELET_ONLY, "request one in the pod template, with a device plugin's resource (nvidia.com/gpu,",
            id="no request",
        ),
        pytest.param(
            {"requests": ("amd.com/gpu",)}, KUBELET_ONLY,
            "they request amd.com/gpu, and the kubelet lists no GPU of it",
            id="a request of another vendor",
        ),
        pytest.param(
            {"has_claims": True}, ClusterAssignments(claimed=()),
            "they have resource claims, and no claim has a GPU of their nodes without adminAccess", id="a claim",
        ),
        pytest.param(
            {"has_claims": True, "requests": ("rdma/hca",)}, ClusterAssignments(claims_unavailable="no right"),
            "cannot be read from the API server: no right (chart: rbac.resourceClaims)", id="a claim without the right",
        ),
        pytest.param(
            {"assigned": marked("p", **{HAMI: "x"})}, KUBELET_ONLY, "a scheduler that shares GPUs has marked them",
            id="a scheduler's mark",
        ),
    ],
)  # fmt: skip
def test_the_advice_without_a_device_is_by_the_cause(
    changes: dict[str, Any], cluster: ClusterAssignments, advice: str
) -> None:
    evaluation = evaluated([pod("p", **changes)], history(held("stranger", UUIDS[0])), cluster)
    assert evaluation.no_value_reason is NoValue.MISCONFIGURED
    assert evaluation.reason.startswith("ai/llama: none of its 1 pods holds a device: ")
    assert advice in evaluation.reason
    assert ("nvidia.com/gpu" in evaluation.reason) == (not changes)
