# SPDX-License-Identifier: Apache-2.0
"""The devices of one output of ``nvidia-smi -q``, from the names that its XML gives to the values.

A GPU in MIG mode is replaced by its slices, whose memory is the only reading. Without a UUID of its own, a slice has
NVIDIA's older name: MIG-, the UUID of the GPU, and the ids of its GPU instance and compute instance.

Source: NVIDIA's DTDs v10 to v13 in recorded outputs. The power is that of the GPU, never that of its memory or module.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keda_gpu_scaler.devices.replay.log_fields import (
    LogRow,
    has_no_reading,
    index_of,
    measure,
    name_of,
    pci_address_of,
)
from keda_gpu_scaler.devices.replay.log_format import LogError, ValueTally

MAX_PAGE_LENGTH = 4 << 20
"""The longest output of all GPUs together, in characters."""

PATHS: Mapping[str, tuple[str, ...]] = {
    "gpu_utilization_ratio": ("utilization/gpu_util",),
    "memory_utilization_ratio": ("utilization/memory_util",),
    "memory_used_bytes": ("fb_memory_usage/used",),
    "memory_total_bytes": ("fb_memory_usage/total",),
    "temperature_celsius": ("temperature/gpu_temp",),
    "power_watts": tuple(
        f"{section}/{name}"
        for section in ("gpu_power_readings", "power_readings")
        for name in ("power_draw", "average_power_draw", "instant_power_draw")
    ),
}
IDENTITY = ("product_name", "uuid", "gpu_instance_id", "compute_instance_id")
WANTED = frozenset((*(path for paths in PATHS.values() for path in paths), *IDENTITY))
"""The paths of the values that are read, below a GPU or a slice."""
SLICE = "mig_device"


@dataclass(slots=True)
class QueriedGpu:
    """One GPU of an output: its PCI address, its values by their paths, and those of its slices."""

    pci_address: str
    values: dict[str, str] = field(default_factory=dict)
    slices: list[dict[str, str]] = field(default_factory=list)


def rows(gpus: Sequence[QueriedGpu], impossible: ValueTally) -> list[LogRow]:
    """Return the devices of an output.

    Raises:
        LogError: the identity of a device cannot be read.
    """
    found = []
    for index, gpu in enumerate(gpus):
        whole = _row(gpu.values, index, gpu.pci_address, impossible)
        found += [_slice(values, whole, impossible) for values in gpu.slices] or [whole]
    return found


def _row(values: Mapping[str, str], index: int, pci_address: str, impossible: ValueTally) -> LogRow:
    return LogRow(
        index=index,
        uuid=_name(values, "uuid"),
        model=_name(values, "product_name"),
        pci_address=pci_address_of(pci_address) if pci_address else None,
        readings={name: _reading(values, name, impossible) for name in PATHS},
    )


def _slice(values: Mapping[str, str], whole: LogRow, impossible: ValueTally) -> LogRow:
    instances = (_instance(values, "gpu_instance_id"), _instance(values, "compute_instance_id"))
    own = _name(values, "uuid")
    if own is None and (whole.uuid is None or None in instances):
        raise LogError("has a MIG device without a name: must have the UUID of its GPU and the ids of its instances")
    return LogRow(
        index=whole.index,
        uuid=own or f"MIG-{whole.uuid}/{instances[0]}/{instances[1]}",
        model=f"{whole.model} MIG" if whole.model else None,
        parent=whole.uuid,
        instances=instances,
        readings={name: _reading(values, name, impossible) for name in ("memory_used_bytes", "memory_total_bytes")},
    )


def _reading(values: Mapping[str, str], name: str, impossible: ValueTally) -> float | None:
    known = (measure(name, values[path], impossible) for path in PATHS[name] if path in values)
    return next((value for value in known if value is not None), None)


def _name(values: Mapping[str, str], key: str) -> str | None:
    text = values.get(key, "").strip()
    return None if has_no_reading(text) else name_of(text)


def _instance(values: Mapping[str, str], key: str) -> int | None:
    text = values.get(key, "").strip()
    return None if has_no_reading(text) else index_of(text)
