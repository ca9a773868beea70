# SPDX-License-Identifier: Apache-2.0
"""Pages of AMD's device-metrics-exporter, one after the other.

Source of the names and units: ROCm/device-metrics-exporter, ``docs/configuration/metricslist.md``, and a recorded page
of an older version. A prefix (``amd_``) may precede the names. Memory is in MB of 1024² bytes.
"""

import re

from keda_gpu_scaler.core.trigger.metrics import MIB
from keda_gpu_scaler.devices.replay.exporter_log import ExportedDevice, ExporterLog, ExporterTable, Labels
from keda_gpu_scaler.devices.replay.log_fields import LogRow, index_of, name_of, within_limits
from keda_gpu_scaler.devices.replay.log_format import LogFormat, ValueTally, register

_UTILIZATION = ("gpu_gfx_activity", "gpu_usage")
_MEMORY_UTILIZATION = ("gpu_umc_activity",)
_USED = ("gpu_used_vram", "gpu_used_memory")
_TOTAL = ("gpu_total_vram", "gpu_total_memory")
_TEMPERATURE = ("gpu_edge_temperature", "gpu_junction_temperature")
_POWER = ("gpu_average_package_power", "gpu_package_power", "gpu_power_usage")
_PREFIX = "amd_"
_PLAIN = (*_UTILIZATION, *_MEMORY_UTILIZATION, *_USED, *_TOTAL, *_TEMPERATURE, *_POWER)
_NAMES = frozenset((*_PLAIN, *(_PREFIX + name for name in _PLAIN)))
_BEGIN = re.compile(rf"\s*(?:# (?:HELP|TYPE) )?(?:{_PREFIX})?(?:{'|'.join(_PLAIN)})(?:[ {{])")


def _identify(labels: Labels) -> LogRow:
    known = {name.lower(): value for name, value in labels.items() if value}
    uuid = known.get("gpu_uuid") or known.get("serial_number")
    partition = known.get("gpu_partition_id")
    return LogRow(
        index=index_of(known["gpu_id"]) if "gpu_id" in known else None,
        uuid=name_of(uuid) if uuid else None,
        model=name_of(known["card_model"]) if "card_model" in known else None,
        partition=index_of(partition) if partition else None,
    )


def _readings(device: ExportedDevice, impossible: ValueTally) -> dict[str, float | None]:
    def value(name: str, names: tuple[str, ...], factor: float = 1, divisor: float = 1) -> float | None:
        for one in names:
            found = device.values.get(one, device.values.get(_PREFIX + one))
            # A reading that a GPU does not have is 0 here, which temperature and power never are.
            if found is not None and (known := within_limits(name, found * factor / divisor, impossible)) is not None:
                return known
        return None

    return {
        "gpu_utilization_ratio": value("gpu_utilization_ratio", _UTILIZATION, divisor=100),
        "memory_utilization_ratio": value("memory_utilization_ratio", _MEMORY_UTILIZATION, divisor=100),
        "memory_used_bytes": value("memory_used_bytes", _USED, MIB),
        "memory_total_bytes": value("memory_total_bytes", _TOTAL, MIB),
        "temperature_celsius": value("temperature_celsius", _TEMPERATURE),
        "power_watts": value("power_watts", _POWER),
    }


register(
    LogFormat(
        name="AMD's device-metrics-exporter",
        command="while date +%s; do curl -s http://localhost:5000/metrics; sleep 1; done > gpus.log",
        recognises=lambda line: _BEGIN.match(line) is not None,
        open=lambda: ExporterLog(ExporterTable(_NAMES, _identify, _readings), "amd-"),
        note="MB are MiB",
    )
)
