# SPDX-License-Identifier: Apache-2.0
"""What was seen: devices, their samples, and the snapshots that hold them.

The law of this module: a reading the driver did not give is ``None``. It is never 0, and nothing
downstream may turn it into one.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """What the kubelet hands out: a whole GPU, or a slice of one.

    ``uuid`` is the identity ("GPU-…", "MIG-…"). ``index`` is the driver's ordinal, a convenience that
    may change at reboot; a slice has the index of the GPU it was cut from, whose UUID is ``parent``.
    ``pci_address`` looks like "0000:19:00.0" and is empty where the source does not tell.
    """

    uuid: str
    index: int
    model: str
    pci_address: str = ""
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One device's readings at one instant; every reading may be unknown.

    Utilisations are ratios from 0 to 1: the share of time in which a kernel ran, or in which memory was
    being read or written.
    """

    device: Device
    gpu_utilization_ratio: float | None = None
    memory_utilization_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None

    @property
    def is_blind(self) -> bool:
        """Whether not one reading is known, as for a card that fell off the bus."""
        return (
            self.gpu_utilization_ratio is None
            and self.memory_utilization_ratio is None
            and self.memory_used_bytes is None
            and self.temperature_celsius is None
            and self.power_watts is None
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One node's samples at one instant: immutable, numbered, dated.

    ``sequence`` grows by one with every snapshot of a run. ``at_seconds`` is the sampling node's monotonic
    clock, good for differences only; ``unix_seconds`` is the wall clock, for people. ``source`` says where
    the readings come from ("nvml", "replay of …", "synthetic …"), so that no demonstration passes for a
    measurement.
    """

    node: str
    sequence: int
    at_seconds: float
    unix_seconds: float
    source: str
    samples: tuple[Sample, ...]
