# SPDX-License-Identifier: Apache-2.0
"""Tests of the attribution of devices to pods, by the ids of the device plugins."""

from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.attribution import DeviceHolder, DeviceShare, PodDevices, attribute, holders, resolve
from keda_gpu_scaler.core.types import Allocation, Device, PodRef, Sample, Snapshot

WHOLE = "GPU-8d1c2e66-6c3f-4f5e-9a3e-111111111111"
CUT = "GPU-8d1c2e66-6c3f-4f5e-9a3e-222222222222"
H100 = Device(WHOLE, 0, "NVIDIA H100", "0000:19:00.0", minor=4)
SLICES = tuple(
    Device(f"MIG-{instance}1c2e66-aaaa-bbbb-cccc-333333333333", 1, "NVIDIA H100 MIG 1g.10gb", "0000:3b:00.0", CUT,
           minor=5, gpu_instance=instance, compute_instance=0)
    for instance in (7, 8)
)  # fmt: skip
NVIDIA = (H100, *SLICES)
AMD = (Device("0xabc", 0, "AMD Instinct MI300X", "0000:19:00.0"), Device("amdgpu_xcp_3", 1, "AMD Instinct MI300X"))
CPX = tuple(
    Device(
        f"amd-e3aa140f9a5f9e31-{partition}", 0, "AMD Instinct MI300X CPX NPS4", f"0000:05:00.{partition}",
        "amd-e3aa140f9a5f9e31", gpu_instance=partition,
        names=(f"renderD{128 + partition}", f"gpu-{40 + partition}-{128 + partition}", "GPU-e3aa140f9a5f9e31",
               *([f"amdgpu_xcp_{29 + partition}"] if partition else [])),
    )
    for partition in range(2)
)  # fmt: skip
XE = (
    Device("intel-0000:04:00.0", 0, "Intel Arc Pro B60", "0000:04:00.0", names=("card1", "0000-04-00-0-0xe211")),
    Device("intel-0000:08:00.0", 1, "Intel Arc Pro B60", "0000:08:00.0", names=("card4", "0000-08-00-0-0xe211")),
)
MIXED = (H100, Device("GPU-0000", 1, "NVIDIA H100", "0000:20:00.0", minor=1), *CPX, *XE)
INTEL = (Device("intel-0", 0, "Intel Flex 170"), Device("intel-1", 1, "Intel Flex 170"))


def allocation(device_id: str, resource: str = "nvidia.com/gpu", pod: str = "llama-0") -> Allocation:
    return Allocation("ai", pod, "server", resource, device_id)


def snapshot(devices: tuple[Device, ...], *allocations: Allocation) -> Snapshot:
    return Snapshot("gpu-7", 1, 1.0, 1.0, "fake", tuple(map(Sample, devices)), allocations)


@pytest.mark.parametrize(
    ("devices", "device_id", "resource", "found"),
    [
        pytest.param(NVIDIA, WHOLE, "nvidia.com/gpu", [H100], id="NVIDIA: a whole GPU"),
        pytest.param(NVIDIA, WHOLE.upper(), "nvidia.com/gpu", [H100], id="NVIDIA: in capitals"),
        pytest.param(NVIDIA, WHOLE, "example.com/fast-gpu", [H100], id="NVIDIA: a renamed resource"),
        pytest.param(NVIDIA, f"{WHOLE}::3", "nvidia.com/gpu.shared", [H100], id="NVIDIA: one replica of a shared GPU"),
        pytest.param(NVIDIA, SLICES[0].uuid, "nvidia.com/mig-1g.10gb", [SLICES[0]], id="NVIDIA: a MIG slice"),
        pytest.param(NVIDIA, f"{SLICES[0].uuid}::0", "nvidia.com/gpu", [SLICES[0]], id="NVIDIA: a shared MIG slice"),
        pytest.param(NVIDIA, f"MIG-{CUT}/8/0", "nvidia.com/gpu", [SLICES[1]], id="NVIDIA: an old MIG name"),
        pytest.param(NVIDIA, CUT, "nvidia.com/gpu", list(SLICES), id="NVIDIA: a GPU that was cut is all its slices"),
        pytest.param(NVIDIA, "nvidia4", "nvidia.com/gpu", [H100], id="GKE: by the device file's number"),
        pytest.param(NVIDIA, "nvidia0", "nvidia.com/gpu", [], id="GKE: the index is another number"),
        pytest.param(NVIDIA, "nvidia5/gi7", "nvidia.com/gpu", [SLICES[0]], id="GKE: a GPU instance"),
        pytest.param(NVIDIA, "nvidia4/vgpu2", "nvidia.com/gpu", [H100], id="GKE: a share"),
        pytest.param(NVIDIA, "nvidia5/gi8/vgpu0", "nvidia.com/gpu", [SLICES[1]], id="GKE: a share of a GPU instance"),
        pytest.param(
            (Device(WHOLE, 0, "NVIDIA L4"),), "nvidia0", "nvidia.com/gpu", [Device(WHOLE, 0, "NVIDIA L4")],
            id="GKE: by the index where no number is known",
        ),
        pytest.param(
            (Device(WHOLE, 0, "NVIDIA L4", minor=1), Device(CUT, 1, "NVIDIA L4")), "nvidia1", "nvidia.com/gpu",
            [Device(WHOLE, 0, "NVIDIA L4", minor=1)], id="GKE: an index is no number while one minor is known",
        ),
        pytest.param(NVIDIA, "gpu-4", "gpu.nvidia.com", [H100], id="DRA: by the device file's number"),
        pytest.param(NVIDIA, "gpu-4", "nvidia.com/gpu", [], id="DRA: only under NVIDIA's driver"),
        pytest.param(NVIDIA, "gpu-4", "gpu.intel.com", [], id="DRA: other drivers use other numbers"),
        pytest.param(NVIDIA, "gpu-5-mig-1g10gb-0-1", "gpu.nvidia.com", [], id="DRA: a slice has no unique name"),
        pytest.param(NVIDIA, "channel-4", "compute-domain.nvidia.com", [], id="DRA: a channel is no device"),
        pytest.param(AMD, "0000:19:00.0", "amd.com/gpu", [AMD[0]], id="AMD: PCI address"),
        pytest.param(AMD, "00000000:19:00.0", "amd.com/gpu", [AMD[0]], id="AMD: PCI address with a long domain"),
        pytest.param(AMD, "amdgpu_xcp_3", "amd.com/cpx_nps4", [AMD[1]], id="AMD: a partition"),
        pytest.param(AMD, "renderD128", "amd.com/gpu", [], id="AMD: an id that is no PCI address"),
        pytest.param(INTEL, "card1-0", "gpu.intel.com/xe", [INTEL[1]], id="Intel: card and share"),
        pytest.param(INTEL, "all", "gpu.intel.com/xe_monitoring", [], id="Intel: monitoring is no allocation"),
        pytest.param(INTEL, "card1-0", "gpu.intel.com/monitoring", [], id="Intel: monitoring under another resource"),
        pytest.param(INTEL, "card1-0", "gpu.intel.com/i915_monitoring", [], id="Intel: monitoring of the older driver"),
        pytest.param(MIXED, "0000:05:00.0", "amd.com/cpx_nps4", [CPX[0]], id="AMD: in CPX an address is partition 0"),
        pytest.param(MIXED, "amdgpu_xcp_30", "amd.com/cpx_nps4", [CPX[1]], id="AMD: a platform device"),
        pytest.param(MIXED, "gpu-41-129", "gpu.amd.com", [CPX[1]], id="AMD DRA: the numbers of card and render node"),
        pytest.param(MIXED, "gpu-41-128", "gpu.amd.com", [], id="AMD DRA: numbers of two devices"),
        pytest.param(MIXED, "gpu-4", "gpu.amd.com", [], id="AMD DRA: NVIDIA's form of a name"),
        pytest.param(MIXED, "renderD129", "", [CPX[1]], id="AMD: a job's device file"),
        pytest.param(MIXED, "GPU-e3aa140f9a5f9e31", "", list(CPX), id="AMD: ROCm's UUID is every partition"),
        pytest.param(MIXED, "card1-3", "gpu.intel.com/xe", [XE[0]], id="Intel: card 1, beside an NVIDIA device file 1"),
        pytest.param(MIXED, "card4-0", "gpu.intel.com/xe", [XE[1]], id="Intel: the card's number is no index"),
        pytest.param(MIXED, "card0-0", "gpu.intel.com/xe", [], id="Intel: a card that the node does not list"),
        pytest.param(MIXED, "0000-04-00-0-0xe211", "gpu.intel.com", [XE[0]], id="Intel DRA: address and id"),
        pytest.param(MIXED, "0000-04-00-0-0x56c0", "gpu.intel.com", [], id="Intel DRA: another device id"),
        pytest.param(MIXED, "gpu-1", "gpu.nvidia.com", [MIXED[1]], id="NVIDIA: minor 1, beside an Intel index 1"),
        pytest.param((XE[1],), "nvidia1", "nvidia.com/gpu", [], id="an Intel index is no NVIDIA device file"),
        pytest.param(NVIDIA, "card4-0", "gpu.intel.com/i915", [], id="an Intel card is no NVIDIA device"),
        pytest.param(NVIDIA, "0000:19:00.0", "openshift.io/sriov", [], id="a network card's PCI address"),
        pytest.param(NVIDIA, "mlx5_0", "rdma/hca", [], id="an adapter"),
        pytest.param(NVIDIA, "", "nvidia.com/gpu", [], id="nothing"),
        pytest.param((Device("replay-gpu-0", 0, "x"),), "replay-gpu-0::1", "nvidia.com/gpu",
                     [Device("replay-gpu-0", 0, "x")], id="a recording's device"),
    ],
)  # fmt: skip
def test_ids_are_matched_by_their_shape(
    devices: tuple[Device, ...], device_id: str, resource: str, found: list[Device]
) -> None:
    assert list(resolve(allocation(device_id, resource), devices)) == found


def test_a_pod_that_lists_a_device_twice_holds_it_once() -> None:
    held = attribute(
        snapshot(
            NVIDIA,
            allocation(f"{WHOLE}::0"),
            allocation(f"{WHOLE}::1"),
            Allocation("ai", "llama-0", "sidecar", "nvidia.com/gpu", WHOLE),
        )
    )
    assert held is not None
    assert held[PodRef("ai", "llama-0")].shares == (DeviceShare(H100, 1),)


def test_a_pod_may_hold_a_listed_and_an_unresolved_device() -> None:
    unresolved = "GPU-8d1c2e66-6c3f-4f5e-9a3e-999999999999"
    held = attribute(snapshot(NVIDIA, allocation(WHOLE), allocation(WHOLE, pod="p"), allocation(unresolved, pod="p")))
    assert held == {
        PodRef("ai", "llama-0"): PodDevices((DeviceShare(H100, 2),)),
        PodRef("ai", "p"): PodDevices((DeviceShare(H100, 2),), (unresolved,)),
    }


def test_several_holders_share_evenly() -> None:
    held = attribute(snapshot(NVIDIA, *(allocation(f"{WHOLE}::{one}", pod=f"p{one}") for one in range(3))))
    assert held is not None
    assert {holding.shares for holding in held.values()} == {(DeviceShare(H100, 3),)}


def test_pods_of_one_name_in_two_namespaces_are_two() -> None:
    held = attribute(snapshot(NVIDIA, Allocation("a", "p", "c", "r", WHOLE), Allocation("b", "p", "c", "r", WHOLE)))
    assert held is not None
    assert set(held) == {PodRef("a", "p"), PodRef("b", "p")}


def test_law_1_unknown_allocations_are_not_empty_allocations() -> None:
    assert attribute(Snapshot("gpu-7", 1, 1.0, 1.0, "fake", ())) is None
    assert attribute(snapshot(NVIDIA)) == {}


@pytest.mark.parametrize(
    ("device_id", "resource"),
    [
        ("GPU-8d1c2e66-6c3f-4f5e-9a3e-999999999999", "nvidia.com/gpu"),
        ("MIG-8d1c2e66-6c3f-4f5e-9a3e-999999999999", "nvidia.com/mig-1g.5gb"),
        ("nvidia9", "nvidia.com/gpu"),
        ("gpu-9-mig-1g5gb-0", "gpu.nvidia.com"),
        ("amdgpu_xcp_9", "amd.com/gpu"),
        ("0000:ff:00.0", "amd.com/gpu"),
        ("card9-0", "gpu.intel.com/xe"),
        ("gpu-56-184", "gpu.amd.com"),
        ("0000-03-00-0-0x56c0", "gpu.intel.com"),
    ],
)
def test_law_1_an_accelerator_that_the_node_does_not_list_is_held_unresolved(device_id: str, resource: str) -> None:
    held = attribute(snapshot(NVIDIA, allocation(device_id, resource)))
    assert held is not None
    assert held[PodRef("ai", "llama-0")].unresolved == (device_id,)


def test_a_device_that_is_no_accelerator_is_not_held() -> None:
    assert attribute(snapshot(NVIDIA, allocation("mlx5_0", "rdma/hca"), allocation("0000:ff:00.0", "intel/nic"))) == {}
    assert attribute(snapshot(NVIDIA, allocation("card9-0", "gpu.intel.com/xe_monitoring"))) == {}
    assert attribute(snapshot(NVIDIA, allocation("channel-0", "compute-domain.nvidia.com"))) == {}
    assert attribute(snapshot(AMD, allocation("renderD128", "amd.com/gpu"))) == {}


def test_shares_are_in_the_order_of_the_devices() -> None:
    held = attribute(snapshot(NVIDIA, *(allocation(device.uuid) for device in reversed(NVIDIA))))
    assert held is not None
    assert [share.device for share in held[PodRef("ai", "llama-0")].shares] == list(NVIDIA)


IDS = st.sampled_from([WHOLE, f"{WHOLE}::1", CUT, SLICES[0].uuid, "nvidia5/gi8", "gpu-9", "mlx5_0"]) | st.text(
    max_size=9
)
ALLOCATIONS = st.lists(
    st.builds(
        Allocation,
        st.sampled_from("ab"),
        st.sampled_from("pq"),
        st.sampled_from("cd"),
        st.sampled_from(["nvidia.com/gpu", "gpu.nvidia.com", "amd.com/gpu", "x/monitoring"]) | st.text(max_size=9),
        IDS,
    ),
    max_size=12,
)


@given(ALLOCATIONS, st.randoms(use_true_random=False))
def test_law_4_shares_add_up_to_the_device(allocations: list[Allocation], random: Random) -> None:
    held = attribute(snapshot(NVIDIA, *allocations))
    assert held is not None
    total: dict[str, Fraction] = {}
    for holding in held.values():
        assert holding.shares or holding.unresolved
        for share in holding.shares:
            total[share.device.uuid] = total.get(share.device.uuid, Fraction(0)) + Fraction(1, share.sharers)
    assert set(total.values()) <= {Fraction(1)}
    again = [*allocations, *allocations[:3]]
    random.shuffle(again)
    assert attribute(snapshot(NVIDIA, *again)) == held


def test_a_holder_has_its_containers_and_the_number_of_sharers() -> None:
    taken = snapshot(
        NVIDIA,
        Allocation("ai", "b", "two", "nvidia.com/gpu", f"{WHOLE}::1"),
        Allocation("ai", "b", "one", "nvidia.com/gpu", f"{WHOLE}::0"),
        Allocation("ai", "a", "one", "nvidia.com/gpu", f"{WHOLE}::2"),
        Allocation("ai", "c", "one", "nvidia.com/gpu", "GPU-ffffffff-0000"),
    )
    a, b = PodRef("ai", "a"), PodRef("ai", "b")
    assert holders(taken) == {WHOLE: (DeviceHolder(a, ("one",), 2), DeviceHolder(b, ("one", "two"), 2))}
    assert holders(Snapshot("gpu-7", 1, 1.0, 1.0, "fake", taken.samples, None)) is None


@given(ALLOCATIONS)
def test_holders_and_shares_are_the_same_relation(allocations: list[Allocation]) -> None:
    taken = snapshot(NVIDIA, *allocations)
    by_pod = {
        (pod, share.device.uuid): share.sharers
        for pod, devices in (attribute(taken) or {}).items()
        for share in devices.shares
    }
    by_device = {
        (holder.pod, uuid): holder.sharers for uuid, found in (holders(taken) or {}).items() for holder in found
    }
    assert by_device == by_pod
