# SPDX-License-Identifier: Apache-2.0
"""Intel devices, read through the files of the kernel's drivers i915 and xe; no Level Zero is needed."""

from pathlib import Path

from keda_gpu_scaler.core.interfaces import Backend
from keda_gpu_scaler.devices.registry import BackendSettings, DriverCheck, HostProblem, Vendor, register
from keda_gpu_scaler.devices.sysfs import UnreadableError, drm_cards

PCI_VENDOR = "0x8086"
DRIVERS = ("i915", "xe")
_INTEGRATED = "0000:00:02.0"
_MEMORY_REMEDY = (
    "the kernel shows the memory in use only to processes with CAP_PERFMON that may open /dev/dri/renderD*: grant both "
    "to the container (chart: driver.intel.perfmon and monitoringResource), or use gpu_utilization"
)


def _open(argument: str, settings: BackendSettings) -> Backend:
    from keda_gpu_scaler.devices.intel.backend import IntelBackend

    return IntelBackend(settings.sysfs_root, wants_performance=settings.wants_performance)


def _detect(settings: BackendSettings) -> str | None:
    try:
        found = drm_cards(Path(settings.sysfs_root), PCI_VENDOR)
    except UnreadableError as error:
        return f"no Intel GPU here ({error})"
    return None if found else f"no Intel GPU in {settings.sysfs_root}/class/drm"


def _has_only_integrated(settings: BackendSettings) -> bool:
    """Whether every card is the GPU of a processor, which Intel always puts at the same place of the first bus."""
    return all(card.pci_address == _INTEGRATED for card in drm_cards(Path(settings.sysfs_root), PCI_VENDOR))


def _describe(backend: Backend, settings: BackendSettings) -> str:
    sources = getattr(backend, "sources", lambda: "of an unknown version")()
    return f"Intel's, through {settings.sysfs_root}: {sources}"


def _host_problems(settings: BackendSettings) -> tuple[HostProblem, ...]:
    from keda_gpu_scaler.devices.sysfs.pci import unserved_devices

    return tuple(unserved_devices(Path(settings.sysfs_root), PCI_VENDOR, DRIVERS))


register(
    Vendor(
        name="intel",
        title="Intel GPUs, through the files of i915 and xe",
        open=_open,
        detect=_detect,
        has_only_integrated=_has_only_integrated,
        is_measured=True,
        metrics=("gpu_utilization", "memory_used_mib", "memory_used_percent", "temperature", "power_draw"),
        units="the share of time in which the busiest compute part was not idle, which is more than the time in which "
        "a kernel ran; bytes (with CAP_PERFMON only), °C, and joules over time",
        # The ordinals of ZE_AFFINITY_MASK are those of Level Zero, whose order of the devices is not in sysfs.
        visible_devices=None,
        uuid_prefixes=("intel-",),
        check=DriverCheck(
            "Intel",
            _describe,
            None,
            "xpu-smi",
            {"memory_used_mib": _MEMORY_REMEDY, "memory_used_percent": _MEMORY_REMEDY},
            seconds_between_reads=0.2,
            host_problems=_host_problems,
            resources=("gpu.intel.com/", "gpu.intel.com"),
        ),
    )
)
