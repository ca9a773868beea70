# SPDX-License-Identifier: Apache-2.0
"""NVIDIA devices, read through NVML, the library of NVIDIA's driver."""

import ctypes
import re

from keda_gpu_scaler.core.interfaces import Backend
from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.devices.registry import BackendSettings, DriverCheck, Vendor, VisibleDevices, register

LIBRARY = "libnvidia-ml.so.1"
"""The name under which every NVIDIA driver installs NVML."""


def _open(argument: str, settings: BackendSettings) -> Backend:
    from keda_gpu_scaler.devices.nvml.backend import NvmlBackend

    return NvmlBackend(
        settings.library or LIBRARY,
        wants_performance=settings.wants_performance,
        measure_shares=settings.measure_shares,
    )


def _detect(settings: BackendSettings) -> str | None:
    try:
        ctypes.CDLL(settings.library or LIBRARY)
    except OSError as error:
        return (
            f"no NVIDIA driver library here ({error}); name one with --nvml-library PATH, wait for a driver with "
            "--backend nvml"
        )
    return None


def _describe(backend: Backend, settings: BackendSettings) -> str:
    version = getattr(backend, "driver_version", lambda: None)()
    named = f"version {version}" if version else "of an unknown version"
    return f"NVIDIA's, {named}, through {settings.library or LIBRARY}"


register(
    Vendor(
        name="nvml",
        title="NVIDIA GPUs and MIG slices, through NVML",
        open=_open,
        detect=_detect,
        is_measured=True,
        metrics=tuple(METRICS),
        units="percent of the last sampling period, bytes, °C and milliwatts; traffic and activity by GPM (Hopper and "
        "newer) in MiB/s and percent, else traffic by counters in bytes and KiB; a MIG slice has its memory, and with "
        "GPM its utilisation and activity",
        visible_devices=VisibleDevices("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", ("GPU-", "MIG-"), "nvidia{}"),
        check=DriverCheck(
            "NVIDIA",
            _describe,
            re.compile(r"nvidia(\d+|ctl)", re.ASCII),
            "nvidia-smi",
            resources=("nvidia.com/", "gpu.nvidia.com"),
        ),
    )
)
