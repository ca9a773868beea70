# SPDX-License-Identifier: Apache-2.0
"""Pages of NVIDIA's dcgm-exporter, one after the other.

Source of the names and units: NVIDIA/dcgm-exporter, ``etc/default-counters.csv`` and
``etc/1.x-compatibility-metrics.csv``; of the labels, its renderer. A series of a MIG slice has the UUID of its GPU, and
the id of the GPU instance. DCGM writes values far out of range where it has none. The total memory is the sum of used,
free and reserved memory.
"""

import re

from keda_gpu_scaler.core.trigger.metrics import MIB
from keda_gpu_scaler.devices.replay.exporter_log import ExportedDevice, ExporterLog, ExporterTable, Labels
from keda_gpu_scaler.devices.replay.log_fields import LogRow, index_of, name_of, pci_address_of, within_limits
from keda_gpu_scaler.devices.replay.log_format import LogFormat, ValueTally, register

_UTILIZATION = ("DCGM_FI_DEV_GPU_UTIL", "dcgm_gpu_utilization")
_ENGINE = ("DCGM_FI_PROF_GR_ENGINE_ACTIVE",)
_MEMORY_UTILIZATION = ("DCGM_FI_DEV_MEM_COPY_UTIL", "dcgm_mem_copy_utilization")
_USED = ("DCGM_FI_DEV_FB_USED", "dcgm_fb_used")
_FREE = ("DCGM_FI_DEV_FB_FREE", "dcgm_fb_free")
_RESERVED = ("DCGM_FI_DEV_FB_RESERVED",)
_TOTAL = ("DCGM_FI_DEV_FB_TOTAL",)
_TEMPERATURE = ("DCGM_FI_DEV_GPU_TEMP", "dcgm_gpu_temp")
_POWER = ("DCGM_FI_DEV_POWER_USAGE", "dcgm_power_usage")
_NAMES = frozenset(
    (*_UTILIZATION, *_ENGINE, *_MEMORY_UTILIZATION, *_USED, *_FREE, *_RESERVED, *_TOTAL, *_TEMPERATURE, *_POWER)
)
_BEGIN = re.compile(r"\s*(?:# (?:HELP|TYPE) )?(?:DCGM_FI_|dcgm_(?:gpu|fb|power|sm|mem)_)")


def _identify(labels: Labels) -> LogRow:
    uuid = labels.get("UUID") or labels.get("uuid") or None
    instance = labels.get("GPU_I_ID") or None
    index = index_of(labels["gpu"]) if labels.get("gpu") else None
    model = labels.get("modelName") or None
    address = labels.get("pci_bus_id") or None
    if instance is None:
        return LogRow(
            index=index,
            uuid=name_of(uuid) if uuid else None,
            model=name_of(model) if model else None,
            pci_address=pci_address_of(address) if address else None,
        )
    profile = labels.get("GPU_I_PROFILE", "")
    return LogRow(
        index=index,
        uuid=name_of(f"MIG-{uuid or index}/{instance}"),
        model=name_of(f"{model or 'unknown'} MIG {profile}".strip()),
        parent=name_of(uuid) if uuid else None,
        instances=(index_of(instance), None),
    )


def _readings(device: ExportedDevice, impossible: ValueTally) -> dict[str, float | None]:
    def value(names: tuple[str, ...], factor: float = 1) -> float | None:
        found = next((device.values[name] for name in names if name in device.values), None)
        return None if found is None else found * factor

    percent = value(_UTILIZATION)
    memory = value(_MEMORY_UTILIZATION)
    used, free, total = value(_USED, MIB), value(_FREE, MIB), value(_TOTAL, MIB)
    if total is None and used is not None and free is not None:
        total = used + free + (value(_RESERVED, MIB) or 0)
    readings = {
        "gpu_utilization_ratio": value(_ENGINE) if percent is None else percent / 100,
        "memory_utilization_ratio": None if memory is None else memory / 100,
        "memory_used_bytes": used,
        "memory_total_bytes": total,
        # Temperature and power of a slice are those of its GPU.
        "temperature_celsius": None if device.row.parent else value(_TEMPERATURE),
        "power_watts": None if device.row.parent else value(_POWER),
    }
    return {name: within_limits(name, one, impossible) for name, one in readings.items()}


register(
    LogFormat(
        name="dcgm-exporter",
        command="while date +%s; do curl -s http://localhost:9400/metrics; sleep 1; done > gpus.log",
        recognises=lambda line: _BEGIN.match(line) is not None,
        open=lambda: ExporterLog(ExporterTable(_NAMES, _identify, _readings)),
        note="slices of a GPU in MIG mode are devices; their utilisation is `DCGM_FI_PROF_GR_ENGINE_ACTIVE`",
    )
)
