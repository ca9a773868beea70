# SPDX-License-Identifier: Apache-2.0
"""Tests of the table of who assigned a device: one cluster a row, with the shares of its pods."""

from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.assignment.device_index import DeviceIndex
from keda_gpu_scaler.core.assignment.source import NodeView
from keda_gpu_scaler.core.assignment.sources import SOURCES, by_source
from keda_gpu_scaler.core.evaluate.attribution import PodDevices, attribute, holders_by_device
from keda_gpu_scaler.core.types import (
    KUBELET_ONLY,
    Allocation,
    AssignedPod,
    ClaimedDevice,
    ClusterAssignments,
    Device,
    PodRef,
    Sample,
    Snapshot,
)

NODE = "gpu-7"
A, B = (f"GPU-8d1c2e66-6c3f-4f5e-9a3e-{digit * 12}" for digit in "12")
CUT = "GPU-8d1c2e66-6c3f-4f5e-9a3e-333333333333"
GPU_A = Device(A, 0, "NVIDIA H100", "0000:19:00.0", minor=0)
GPU_B = Device(B, 1, "NVIDIA H100", "0000:3b:00.0", minor=1)
SMALL = Device("MIG-1", 2, "NVIDIA H100 MIG 1g.10gb", "0000:4c:00.0", CUT, minor=2, gpu_instance=7, compute_instance=0)
LARGE = Device("MIG-2", 2, "NVIDIA H100 MIG 3g.40gb", "0000:4c:00.0", CUT, minor=2, gpu_instance=1, compute_instance=0)
OTHER = replace(SMALL, uuid="MIG-3", gpu_instance=8)
XE = Device("intel-0000:04:00.0", 0, "Intel Arc Pro B60", "0000:04:00.0", names=("card1", "0000-04-00-0-0xe211"))
CARD = Device("amd-e3-0", 0, "AMD Instinct MI300X CPX", "0000:05:00.0", "amd-e3", gpu_instance=0, names=("renderD128",))
XCP = Device(
    "amd-e3-1", 0, "AMD Instinct MI300X CPX", "0000:05:00.1", "amd-e3", gpu_instance=1, names=("amdgpu_xcp_30",)
)
GIB = 1 << 30
RESERVED = "kai-resource-reservation"
GROUP = "runai-gpu-group"
HAMI, HAMI_MIG = "hami.io/vgpu-devices-allocated", "hami.io/vgpu-mig-allocations"
VOLCANO = "volcano.sh/vgpu-ids-new"
DRA = "gpu.nvidia.com"
UNITS = "aliyun.com/gpu-mem"


def ref(pod: str, namespace: str = "ai") -> PodRef:
    return PodRef(namespace, pod)


def held(
    pod: str, device_id: str, resource: str = "nvidia.com/gpu", namespace: str = "ai", many: int = 1
) -> Allocation:
    return Allocation(namespace, pod, "server", resource, device_id, many)


def marked(pod: str, namespace: str = "ai", node: str = NODE, **marks: str) -> AssignedPod:
    return AssignedPod(ref(pod, namespace), node, tuple(sorted(marks.items())))


def claimed(pod: str, device: str, *, admin: bool = False, driver: str = DRA, **changes: Any) -> ClaimedDevice:
    return ClaimedDevice(ref(pod), NODE, driver, device, admin, **changes)


def group(pod: str, name: str, namespace: str = "ai", **marks: str) -> AssignedPod:
    return marked(pod, namespace, **{GROUP: name, **marks})


def attributed(
    devices: tuple[Device, ...], listed: list[Allocation], cluster: ClusterAssignments
) -> dict[PodRef, PodDevices]:
    samples = tuple(Sample(device, memory_total_bytes=80 * GIB) for device in devices)
    found = attribute(Snapshot(NODE, 1, 1.0, 1.0, "fake", samples, tuple(listed)), cluster)
    assert found is not None
    return dict(found)


Part = Fraction
ALL = Part(1)
HALF = Part(1, 2)


CASES = [
    pytest.param(
        [held("r", A, namespace=RESERVED)],
        ClusterAssignments((group("r", "g", RESERVED), group("p", "g"), group("q", "g"))),
        {"p": {A: HALF}, "q": {A: HALF}},
        id="KAI: the pods of a group share the GPU of its reservation pod",
    ),
    pytest.param(
        [held("r", A, namespace=RESERVED)],
        ClusterAssignments(
            (
                group("r", "g", RESERVED),
                group("p", "g", **{"gpu-fraction": "0.2"}),
                group("q", "g", **{"gpu-fraction": "0.6"}),
            )
        ),
        {"p": {A: Part(1, 4)}, "q": {A: Part(3, 4)}},
        id="KAI: in proportion to the stated fractions",
    ),
    pytest.param(
        [held("r", A, namespace=RESERVED)],
        ClusterAssignments(
            (
                group("r", "g", RESERVED),
                group("p", "g", **{"gpu-fraction": "0.25"}),
                group("q", "g", **{"gpu-memory": "61440"}),
            )
        ),
        {"p": {A: Part(1, 4)}, "q": {A: Part(3, 4)}},
        id="KAI: 60 GiB of 80 GiB are three quarters",
    ),
    pytest.param(
        [held("r", A, namespace=RESERVED)],
        ClusterAssignments((group("r", "g", RESERVED), group("p", "g", **{"gpu-fraction": "0.2"}), group("q", "g"))),
        {"p": {A: HALF}, "q": {A: HALF}},
        id="KAI: equal shares where one pod states no fraction",
    ),
    pytest.param(
        [held("r", A, namespace=RESERVED)],
        ClusterAssignments(
            (
                group("r", "g", RESERVED),
                group("p", "g", **{"gpu-fraction": "0.2"}),
                group("q", "g", **{"gpu-fraction": "2"}),
            )
        ),
        {"p": {A: HALF}, "q": {A: HALF}},
        id="KAI: equal shares where a fraction is more than the GPU",
    ),
    pytest.param(
        [held("r", A, namespace=RESERVED), held("s", B, namespace=RESERVED)],
        ClusterAssignments(
            (
                group("r", "g", RESERVED),
                group("s", "h", RESERVED),
                marked("p", **{f"{GROUP}/g": "g", f"{GROUP}/h": "h"}),
                group("q", "h"),
            )
        ),
        {"p": {A: ALL, B: HALF}, "q": {B: HALF}},
        id="KAI: a pod with parts of two GPUs",
    ),
    pytest.param(
        [held("r", A, namespace="reserved")],
        ClusterAssignments((group("r", "g", "reserved", **{"run.ai/reserve_for_gpu_index": A}), group("p", "g"))),
        {"p": {A: ALL}},
        id="KAI: a reservation in a namespace of another name",
    ),
    pytest.param(
        [held("r", A, namespace=RESERVED)],
        ClusterAssignments((group("r", "g", RESERVED), marked("p", node="other", **{GROUP: "g"}))),
        {},
        id="KAI: a pod of another node holds nothing here",
    ),
    pytest.param(
        [held("p", f"{A}-0"), held("q", f"{A}-1")],
        ClusterAssignments(
            (marked("p", **{HAMI: f"{B},NVIDIA,3000,50:;"}), marked("q", **{HAMI: f"{B},NVIDIA,9000,0:;"}))
        ),
        {"p": {B: Part(1, 4)}, "q": {B: Part(3, 4)}},
        id="HAMi: the annotation's GPU counts, and not the kubelet's",
    ),
    pytest.param(
        [held("p", f"{A}-0"), held("p", f"{B}-3")],
        ClusterAssignments((marked("p", **{HAMI: f"{A},NVIDIA,3000,50:{B},NVIDIA,4000,60:;"}),)),
        {"p": {A: ALL, B: ALL}},
        id="HAMi: two GPUs of one container",
    ),
    pytest.param(
        [held("p", f"{A}-0"), held("p", f"{B}-3")],
        ClusterAssignments((marked("p", **{HAMI: f"{A},NVIDIA,3000,50:;{B},NVIDIA,4000,60:;"}),)),
        {"p": {A: ALL, B: ALL}},
        id="HAMi: a GPU for each of two containers",
    ),
    pytest.param(
        [held("p", CUT)],
        ClusterAssignments(
            (
                marked(
                    "p",
                    **{
                        HAMI: f"{CUT}[1-0],NVIDIA,40000,0:;",
                        HAMI_MIG: f'[{{"gpuUUID": "{CUT}", "gpuInstanceID": 1, "computeInstanceID": 0}}]',
                    },
                ),
            )
        ),
        {"p": {"MIG-2": ALL}},
        id="HAMi: with MIG the slice of its own annotation",
    ),
    pytest.param(
        [held("p", f"{A}-1", "volcano.sh/vgpu-number"), held("p", f"{A}-memory-0", "volcano.sh/vgpu-memory")],
        ClusterAssignments((marked("p", **{VOLCANO: f"{B},NVIDIA,1126,0:"}),)),
        {"p": {B: ALL}},
        id="volcano: the annotation's GPU counts",
    ),
    pytest.param(
        [held("p", f"{A}-_-0", UNITS, many=20), held("q", f"{B}-_-3", UNITS, many=60)],
        ClusterAssignments((marked("p", ALIYUN_COM_GPU_MEM_IDX="1"), marked("q", ALIYUN_COM_GPU_MEM_IDX="1"))),
        {"p": {B: Part(1, 4)}, "q": {B: Part(3, 4)}},
        id="gpushare: units of memory on the GPU of the annotation",
    ),
    pytest.param(
        [held("p", f"{A}-_-0", UNITS), held("p", f"{A}-_-7", UNITS)],
        ClusterAssignments((marked("p", **{"scheduler.framework.gpushare.allocation": '{"0":{"0":1},"1":{"1":1}}'}),)),
        {"p": {A: ALL, B: ALL}},
        id="gpushare: the newer annotation, by container",
    ),
    pytest.param(
        [held("p", f"{A}-_-0", "cerit.io/gpu-mem")],
        ClusterAssignments((marked("p", CERIT_IO_GPU_MEM_IDX="0"),)),
        {"p": {A: ALL}},
        id="gpushare: a fork with names of its own",
    ),
    pytest.param(
        [],
        ClusterAssignments(claimed=(claimed("p", "gpu-9", uuid=B),)),
        {"p": {B: ALL}},
        id="DRA: by the UUID of the slice, where the kubelet lists no claims",
    ),
    pytest.param(
        [held("p", "gpu-1", DRA), held("m", "gpu-1", DRA)],
        ClusterAssignments(claimed=(claimed("p", "gpu-1", uuid=B), claimed("m", "gpu-1", admin=True, uuid=B))),
        {"p": {B: ALL}},
        id="DRA: adminAccess has no share",
    ),
    pytest.param(
        [],
        ClusterAssignments(claimed=(claimed("p", "gpu-1", admin=True), claimed("p", "gpu-1"))),
        {"p": {B: ALL}},
        id="DRA: a pod that observes and uses a device holds it",
    ),
    pytest.param(
        [held("q", "gpu-1", DRA)],
        ClusterAssignments(claimed=(claimed("p", "gpu-1"),)),
        {"p": {B: HALF}, "q": {B: HALF}},
        id="DRA: a pod that only the kubelet knows yet is a sharer",
    ),
    pytest.param(
        [],
        ClusterAssignments(claimed=(claimed("p", "gpu-2-mig-3g40gb-9-0"),)),
        {"p": {"MIG-2": ALL}},
        id="DRA: a slice without a UUID, by its profile",
    ),
    pytest.param(
        [],
        ClusterAssignments(claimed=(claimed("p", "gpu-2-mig-1g10gb-19-0", uuid="MIG-3"),)),
        {"p": {"MIG-3": ALL}},
        id="DRA: a slice with a UUID",
    ),
    pytest.param(
        [],
        ClusterAssignments(claimed=(claimed("p", "0000-04-00-0-0xe211", driver="gpu.intel.com"),)),
        {"p": {XE.uuid: ALL}},
        id="DRA: Intel's name",
    ),
    pytest.param(
        [],
        ClusterAssignments(claimed=(claimed("p", "dev-4", driver="gpu.example.com", pci_address="0000:3b:00.0"),)),
        {"p": {B: ALL}},
        id="DRA: another driver, by the PCI address of the slice",
    ),
    pytest.param(
        [held("p", f"{A}::0"), held("q", f"{A}::3")],
        KUBELET_ONLY,
        {"p": {A: HALF}, "q": {A: HALF}},
        id="NVIDIA: replicas are equal shares",
    ),
    pytest.param(
        [held("p", f"{A}::0"), held("q", f"{A}-1")],
        ClusterAssignments((marked("q", **{HAMI: f"{A},NVIDIA,3000,50:;"}),)),
        {"p": {A: HALF}, "q": {A: HALF}},
        id="two sources on one GPU are equal shares",
    ),
    pytest.param(
        [held("p", "nvidia0/vgpu0"), held("q", "nvidia0/vgpu1"), held("r", "nvidia2/gi7")],
        KUBELET_ONLY,
        {"p": {A: HALF}, "q": {A: HALF}, "r": {"MIG-1": ALL}},
        id="GKE: shares of a GPU, and a slice",
    ),
    pytest.param(
        [held("p", "amdgpu_xcp_30", "amd.com/cpx_nps4"), held("q", "0000:05:00.0", "amd.com/gpu")],
        KUBELET_ONLY,
        {"p": {XCP.uuid: ALL}, "q": {CARD.uuid: ALL}},
        id="AMD: a partition, and a PCI address",
    ),
    pytest.param(
        [held("p", "card1-0", "gpu.intel.com/xe"), held("q", "card1-4", "gpu.intel.com/xe")],
        KUBELET_ONLY,
        {"p": {XE.uuid: HALF}, "q": {XE.uuid: HALF}},
        id="Intel: shares of a card",
    ),
    pytest.param(
        [held("m", "card1-0", "gpu.intel.com/xe_monitoring"), held("p", "card1-0", "gpu.intel.com/xe")],
        KUBELET_ONLY,
        {"p": {XE.uuid: ALL}},
        id="Intel: monitoring holds nothing",
    ),
]
DEVICES = (GPU_A, GPU_B, SMALL, LARGE, OTHER, XE, CARD, XCP)


@pytest.mark.parametrize(("listed", "cluster", "expected"), CASES)
def test_who_assigned_the_device(
    listed: list[Allocation], cluster: ClusterAssignments, expected: dict[str, dict[str, Fraction]]
) -> None:
    found = attributed(DEVICES, listed, cluster)
    assert {pod.name: parts(devices) for pod, devices in found.items()} == expected
    assert not any(devices.unresolved or devices.undetermined for devices in found.values())
    assert not any(share.unknown for devices in found.values() for share in devices.shares)


def parts(devices: PodDevices) -> dict[str, Fraction]:
    return {share.device.uuid: share.part or Fraction(1, share.sharers) for share in devices.shares}


@pytest.mark.parametrize(
    ("listed", "cluster", "why"),
    [
        pytest.param(
            [held("p", f"{A}-0")], KUBELET_ONLY,
            f"its annotation {HAMI} names the device, and is missing or was not read",
            id="HAMi without the annotation",
        ),
        pytest.param(
            [held("p", f"{A}-_-0", UNITS)], ClusterAssignments(pods_unavailable="forbidden"), "forbidden",
            id="gpushare without the right to read pods",
        ),
        pytest.param(
            [], ClusterAssignments((group("p", "g"),)),
            "the kubelet lists no reservation pod of this group", id="KAI without a reservation",
        ),
        pytest.param(
            [held("r", A, namespace=RESERVED), held("s", B, namespace=RESERVED)],
            ClusterAssignments((group("r", "g", RESERVED), group("s", "g", RESERVED), group("p", "g"))),
            "the kubelet lists several reservation pods of this group", id="KAI with two reservations",
        ),
    ],
)  # fmt: skip
def test_law_1_a_device_that_nothing_names_is_not_guessed(
    listed: list[Allocation], cluster: ClusterAssignments, why: str
) -> None:
    found = attributed((GPU_A, GPU_B), [*listed, held("q", B)], cluster)
    assert [reason for _, reason in found[ref("p")].undetermined] == [why]
    assert not found[ref("p")].shares
    [share] = found[ref("q")].shares
    assert "and which device that is is not known" in share.unknown


@pytest.mark.parametrize(
    ("listed", "cluster"),
    [
        pytest.param(
            [held("r", A, namespace=RESERVED)],
            ClusterAssignments((group("r", "g", RESERVED), group("p", "g")), pods_unavailable="no right"),
            id="KAI: pods of other namespaces may be in the group",
        ),
        pytest.param(
            [held("p", "gpu-0", DRA), held("m", "gpu-0", DRA)],
            ClusterAssignments(claims_unavailable="no right"),
            id="DRA: another holder may be a monitor",
        ),
    ],
)  # fmt: skip
def test_law_1_a_share_is_unknown_where_the_sharers_are(listed: list[Allocation], cluster: ClusterAssignments) -> None:
    [share] = attributed((GPU_A, GPU_B), listed, cluster)[ref("p")].shares
    assert (share.device, share.unknown) == (GPU_A, "no right")


def test_a_single_holder_by_dra_needs_no_right() -> None:
    cluster = ClusterAssignments(claims_unavailable="no right")
    [share] = attributed((GPU_A, GPU_B), [held("p", "gpu-0", DRA)], cluster)[ref("p")].shares
    assert (share.device, share.unknown) == (GPU_A, "")


@pytest.mark.parametrize(
    ("listed", "resource"),
    [(f"{A}-4", "nvidia.com/gpu"), (f"{A}-_-4", UNITS), (f"{A}-memory-9", "volcano.sh/vgpu-memory")],
)
def test_the_only_device_of_a_node_needs_no_annotation(listed: str, resource: str) -> None:
    found = attributed((GPU_A,), [held("p", listed, resource)], KUBELET_ONLY)
    assert parts(found[ref("p")]) == {A: ALL}


@pytest.mark.parametrize(
    ("cluster", "unresolved"),
    [
        (ClusterAssignments((marked("p", **{HAMI: "GPU-gone,NVIDIA,1,1:;"}),)), "GPU-gone"),
        (ClusterAssignments(claimed=(claimed("p", "gpu-2-mig-1g10gb-19-0"),)), "gpu-2-mig-1g10gb-19-0"),
    ],
)
def test_law_1_a_named_device_that_the_node_does_not_list_is_unresolved(
    cluster: ClusterAssignments, unresolved: str
) -> None:
    found = attributed((GPU_A, SMALL, OTHER), [held("p", f"{A}-0")] if cluster.pods else [], cluster)
    assert found[ref("p")].unresolved == (unresolved,)


@pytest.mark.parametrize(
    "text", ["", ";", "GPU-1", "GPU-1,NVIDIA", ",,,", "GPU-1,NVIDIA,x,1:", "GPU-1,NVIDIA,-5,1", "[" * 50_000]
)
def test_annotations_that_cannot_be_read_state_nothing(text: str) -> None:
    marks = (
        marked("p", **{HAMI: text, HAMI_MIG: text}),
        marked("q", **{"scheduler.framework.gpushare.allocation": text}),
    )
    listed = [held("p", f"{A}-0"), held("q", f"{A}-_-0", UNITS)]
    found = attributed((GPU_A, GPU_B), listed, ClusterAssignments(marks))
    assert all(devices.undetermined for devices in found.values())


def test_the_holders_by_the_kubelet_alone_have_the_possible_ones() -> None:
    listed = (held("p", A), held("q", f"{A}-0"), held("r", "mlx5_0", "rdma/hca"))
    snapshot = Snapshot(NODE, 1, 1.0, 1.0, "fake", (Sample(GPU_A), Sample(GPU_B)), listed)
    assert holders_by_device(snapshot) == {A: ("ai/p", "ai/q (perhaps)"), B: ("ai/q (perhaps)",)}
    assert holders_by_device(replace(snapshot, allocations=None)) is None


def test_a_source_is_one_row_with_a_name_of_its_own() -> None:
    assert len({source.name for source in SOURCES}) == len(SOURCES)
    assert SOURCES[-1].owns(held("p", "anything"), None)  # type: ignore[arg-type]


def test_every_source_has_a_row_of_the_table_of_clusters() -> None:
    owners = set()
    for case in CASES:
        listed, cluster, _ = cast("tuple[list[Allocation], ClusterAssignments, object]", case.values)
        view = NodeView(NODE, DeviceIndex(DEVICES), pods={pod.ref: pod for pod in cluster.pods})
        owners |= {source.name for source, owned in by_source(view, listed) if owned}
    assert owners == {source.name for source in SOURCES}


NAMES = st.sampled_from(["p", "q", "r", "s"])
IDS = st.sampled_from(
    [A, f"{A}::1", f"{A}-0", f"{B}-1", f"{A}-_-3", "gpu-0", "gpu-2-mig-3g40gb-9-0", "nvidia1", CUT, "mlx5_0"]
)
RESOURCES = st.sampled_from(["nvidia.com/gpu", DRA, UNITS, "volcano.sh/vgpu-memory", "x/monitoring"])
MARKS = st.dictionaries(
    st.sampled_from([GROUP, f"{GROUP}/g", "gpu-fraction", "gpu-memory", HAMI, VOLCANO, "ALIYUN_COM_GPU_MEM_IDX"]),
    st.sampled_from(["g", "0.5", "0.25", "1", f"{A},NVIDIA,3000,50:;", f"{A},N,1,1:{B},N,7,1:", "4000"]),
    max_size=4,
)
CLAIMED = st.builds(claimed, NAMES, st.sampled_from(["gpu-0", "gpu-1"]), admin=st.booleans())
CLUSTERS = st.builds(
    ClusterAssignments,
    st.lists(
        st.builds(
            lambda name, namespace, marks: marked(name, namespace, **marks),
            NAMES, st.sampled_from(["ai", RESERVED]), MARKS,
        ),
        max_size=5,
        unique_by=lambda pod: pod.ref,
    ).map(tuple),
    st.none() | st.lists(CLAIMED).map(tuple),
    st.sampled_from(["", "no right"]),
    st.sampled_from(["", "no right"]),
)  # fmt: skip


@given(
    st.lists(
        st.builds(held, NAMES, IDS, RESOURCES, st.sampled_from(["ai", RESERVED]), st.integers(1, 30)), max_size=10
    ),
    CLUSTERS,
)
def test_law_4_shares_add_up_to_the_device_whoever_assigned_it(
    listed: list[Allocation], cluster: ClusterAssignments
) -> None:
    found = attributed((GPU_A, GPU_B, SMALL, LARGE), listed, cluster)
    total: dict[str, Fraction] = {}
    for devices in found.values():
        assert devices.shares or devices.unresolved or devices.undetermined
        for uuid, part in parts(devices).items():
            total[uuid] = total.get(uuid, Fraction(0)) + part
    assert set(total.values()) <= {ALL}
    assert attributed((GPU_A, GPU_B, SMALL, LARGE), [*reversed(listed)], cluster) == found
