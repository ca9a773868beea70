# SPDX-License-Identifier: Apache-2.0
"""AMD devices, read through the files of the kernel's driver amdgpu; no library of ROCm is needed."""

from pathlib import Path

from keda_gpu_scaler.core.interfaces import Backend
from keda_gpu_scaler.devices.registry import BackendSettings, DriverCheck, HostProblem, Vendor, VisibleDevices, register
from keda_gpu_scaler.devices.sysfs import UnreadableError, drm_cards

PCI_VENDOR = "0x1002"
DRIVERS = ("amdgpu",)


def _open(argument: str, settings: BackendSettings) -> Backend:
    from keda_gpu_scaler.devices.amd.backend import AmdBackend

    return AmdBackend(settings.sysfs_root, wants_performance=settings.wants_performance)


def _detect(settings: BackendSettings) -> str | None:
    try:
        found = drm_cards(Path(settings.sysfs_root), PCI_VENDOR)
    except UnreadableError as error:
        return f"no AMD GPU here ({error})"
    return None if found else f"no AMD GPU in {settings.sysfs_root}/class/drm"


def looks_like_an_apu(path: Path) -> bool:
    """Whether a card without ``gpu_metrics`` is an APU: it has no PCIe traffic and no load of its own memory.

    A virtual function has neither, but it has no ``gpu_busy_percent`` either. The files are not read.
    """
    has_own_memory = (path / "pcie_bw").exists() or (path / "mem_busy_percent").exists()
    return (path / "gpu_busy_percent").exists() and not has_own_memory


def _has_only_integrated(settings: BackendSettings) -> bool:
    return all(looks_like_an_apu(card.path) for card in drm_cards(Path(settings.sysfs_root), PCI_VENDOR))


def _describe(backend: Backend, settings: BackendSettings) -> str:
    sources = getattr(backend, "sources", lambda: "of an unknown version")()
    return f"AMD's amdgpu, through {settings.sysfs_root}: {sources}"


def _host_problems(settings: BackendSettings) -> tuple[HostProblem, ...]:
    from keda_gpu_scaler.devices.sysfs.pci import ACCELERATOR_CLASS, DISPLAY_CLASS, unserved_devices

    classes = (DISPLAY_CLASS, ACCELERATOR_CLASS)
    return tuple(unserved_devices(Path(settings.sysfs_root), PCI_VENDOR, DRIVERS, classes))


register(
    Vendor(
        name="amd",
        title="AMD GPUs, APUs and partitions of Instinct GPUs, through the files of amdgpu",
        open=_open,
        detect=_detect,
        has_only_integrated=_has_only_integrated,
        is_measured=True,
        metrics=(
            "gpu_utilization",
            "memory_utilization",
            "memory_used_mib",
            "memory_used_percent",
            "temperature",
            "power_draw",
            "nvlink_rx_mib_s",
            "nvlink_tx_mib_s",
            "nvlink_throughput",
        ),
        units="percent, bytes, °C and watts; traffic over XGMI (MI300 and newer) in KB of 1,024 bytes; a partition has "
        "its utilisation only; an APU's memory includes the system memory that it may use (GTT)",
        # ROCm names a GPU "GPU-" and its unique id. Its ordinals count the partitions.
        visible_devices=VisibleDevices(
            "ROCR_VISIBLE_DEVICES", "AMD_VISIBLE_DEVICES", ("GPU-",), "renderD{}", ordinals_count_slices=True
        ),
        uuid_prefixes=("amd-",),
        check=DriverCheck(
            "AMD",
            _describe,
            None,
            "amd-smi",
            dict.fromkeys(
                ("memory_used_mib", "memory_used_percent"),
                "the memory in use of one partition is not in amdgpu's files; use gpu_utilization there",
            ),
            host_problems=_host_problems,
            resources=("amd.com/", "gpu.amd.com"),
        ),
    )
)
