# SPDX-License-Identifier: Apache-2.0
"""The exported series of every vendor's devices name the vendor, and the pod that holds the device."""

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keda_gpu_scaler.core.interfaces import Backend
from keda_gpu_scaler.core.types import Allocation
from keda_gpu_scaler.devices.amd.backend import AmdBackend
from keda_gpu_scaler.devices.intel.backend import IntelBackend
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from keda_gpu_scaler.devices.registry import maker_of
from keda_gpu_scaler.server.metrics import render
from tests.devices.sysfs_tree import BATTLEMAGE, INSTINCT, INTEL, SysfsTree
from tests.devices.test_amd import partitioned
from tests.fake_nvml import Card, FakeNvml, Slice
from tests.fakes import fleet_of
from tests.server.test_metrics import ANSWERS, CERTIFICATES, COUNTS, NOW, PEERS, REQUESTS, SCRAPES, WATCHES

ADDRESS = "0000:04:00.0"


def labels_of(backend: Backend, allocation: Allocation) -> dict[str, list[dict[str, str]]]:
    """The labels of the device series that have a pod, by the name of the series."""
    fleet = fleet_of(backend.read(NOW), last_at=NOW)
    backend.close()
    assert fleet.history is not None
    taken = tuple(replace(one, allocations=(allocation,)) for one in fleet.history.snapshots)
    held = replace(fleet, history=replace(fleet.history, snapshots=taken))
    page = render(
        held, NOW, COUNTS, REQUESTS, ANSWERS, SCRAPES, PEERS, WATCHES, lambda uuid: maker_of(uuid).lower(), CERTIFICATES
    )
    return {
        family.name: [one.labels for one in family.samples if one.labels["pod"]]
        for family in text_string_to_metric_families(page)
        if family.samples and "gpu_uuid" in family.samples[0].labels
    }


def amd(root: Path) -> Backend:
    SysfsTree(root).card(1, ADDRESS, render=129, files=INSTINCT)
    return AmdBackend(str(root), "/nowhere")


def amd_partitions(root: Path) -> Backend:
    partitioned(SysfsTree(root))
    return AmdBackend(str(root), "/nowhere")


def intel(root: Path) -> Backend:
    SysfsTree(root).card(1, ADDRESS, vendor=INTEL, device="0xe211", driver="xe", render=129, files=BATTLEMAGE)
    return IntelBackend(str(root))


SYSFS = {
    "AMD's device plugin": (amd, "amd.com/gpu", ADDRESS, "amd"),
    "AMD's resource claims": (amd, "gpu.amd.com", "gpu-1-129", "amd"),
    "AMD's device plugin, a partition": (amd_partitions, "amd.com/cpx_nps4", "amdgpu_xcp_30", "amd"),
    "Intel's device plugin": (intel, "gpu.intel.com/xe", "card1-0", "intel"),
    "Intel's resource claims": (intel, "gpu.intel.com", "0000-04-00-0-0xe211", "intel"),
}


@pytest.mark.parametrize("case", SYSFS)
def test_series_of_sysfs_have_the_vendor_and_the_pod(tmp_path: Path, case: str) -> None:
    make, resource, device_id, vendor = SYSFS[case]
    check(labels_of(make(tmp_path / "sys"), Allocation("ai", "llama-0", "server", resource, device_id)), vendor)


@pytest.mark.parametrize("device_id", ["GPU-a", "MIG-1"])
def test_series_of_nvml_have_the_vendor_and_the_pod(fake_nvml: FakeNvml, device_id: str) -> None:
    sliced = Card("GPU-b", mig=True, pci_bus_id="00000000:3B:00.0", slices=[Slice("MIG-1", instances=(7, 0))])
    fake_nvml.devices = [Card("GPU-a"), sliced]
    allocation = Allocation("ai", "llama-0", "server", "nvidia.com/gpu", device_id)
    check(labels_of(NvmlBackend(fake_nvml.library), allocation), "nvidia")


def check(found: dict[str, list[dict[str, str]]], vendor: str) -> None:
    series = {name: labels for name, labels in found.items() if labels}
    assert len(series) > 1
    for name, each in series.items():
        (labels,) = each
        held = (labels["vendor"], labels["namespace"], labels["pod"], labels["container"])
        assert held == (vendor, "ai", "llama-0", "server"), name
