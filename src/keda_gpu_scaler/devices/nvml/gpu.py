# SPDX-License-Identifier: Apache-2.0
"""One GPU as NVML knows it: its handle, its MIG slices, and the calls that read it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.nvml.errors import CALL_NOT_AVAILABLE, ReadingError, call

# NVML's value for "not available" has all bits set, and some drivers return it as a reading. No die survives this
# temperature, no board draws this power, and memory must fit the wire's int64.
IMPOSSIBLE_CELSIUS = 200
IMPOSSIBLE_WATTS = 100_000
IMPOSSIBLE_BYTES = 1 << 63


class NewestWorkingCall:
    """One reading that newer drivers return through one call and older drivers through another.

    The newest call that this driver has is remembered, so that a read does not probe again.
    """

    def __init__(self, *newest_first: Callable[[Any], Any]) -> None:
        self._calls = newest_first

    def __call__(self, handle: Any) -> Any:
        """Return the reading, through the newest call that this driver has."""
        while len(self._calls) > 1:
            try:
                return call(self._calls[0], handle)
            except ReadingError as error:
                if error.code not in CALL_NOT_AVAILABLE:
                    raise
                self._calls = self._calls[1:]
        return call(self._calls[0], handle)


@dataclass(frozen=True, slots=True)
class VersionedCalls:
    """The readings of one GPU that have an older call."""

    memory: NewestWorkingCall
    temperature: NewestWorkingCall


@dataclass(frozen=True, slots=True)
class ListedGpu:
    """A GPU as the driver lists it."""

    uuid: str
    index: int
    model: str
    pci_address: str
    minor: int | None
    handle: Any


@dataclass(frozen=True, slots=True)
class MigSlice:
    """One entry of the list that replaces a GPU in MIG mode: a slice, or a device that was listed before.

    ``memory`` reads the memory; it is None for a device that cannot be read now.
    """

    device: Device
    memory: Callable[[], Any] | None = None


class Gpu:
    """One GPU, identified by its UUID for the life of the process.

    ``handle`` is None while the GPU cannot be reached. ``slices`` is None only while the GPU is known not to be in MIG
    mode; ``was_in_mig_mode`` is what the GPU last reported. ``listed`` are the devices that were listed last; they stay
    listed while the GPU is lost or does not report its MIG layout.
    """

    def __init__(self, device: Device, calls: VersionedCalls, handle: Any) -> None:
        self.listed: tuple[Device, ...] = (device,)
        self.is_lost = False
        self.is_layout_unknown = False
        self.was_in_mig_mode = False
        self.reset(device, calls, handle)

    def __str__(self) -> str:
        return describe(self.device)

    def reset(self, device: Device, calls: VersionedCalls, handle: Any) -> None:
        """Take over a new handle after the driver was opened; everything that came from the old handle is void."""
        self.device = device
        self.calls = calls
        self.handle = handle
        self.layout_due_at = -math.inf
        self.forget_layout()

    def forget_layout(self) -> None:
        """Keep the listed devices, without any way to read them, until the MIG layout is known."""
        self.slices: list[MigSlice] | None = [MigSlice(device) for device in self.listed]

    def samples_without_readings(self) -> list[Sample]:
        """Return one sample of every listed device, with every reading unknown."""
        return [Sample(device) for device in self.listed]


def describe(device: Device) -> str:
    """Return a device's name for logs."""
    return f"GPU {device.index} ({device.model}, {device.uuid})"


def missing_readings(sample: Sample) -> list[str]:
    """Return the names of the readings that a sample of a whole GPU does not have."""
    return [
        name
        for name, value in (
            ("utilization", sample.gpu_utilization_ratio),
            ("memory", sample.memory_used_bytes),
            ("temperature", sample.temperature_celsius),
            ("power", sample.power_watts),
        )
        if value is None
    ]


def ratio(percent: int | None) -> float | None:
    """Return a percentage as a ratio; None outside 0 to 100."""
    return percent / 100 if percent is not None and 0 <= percent <= 100 else None


def watts(milliwatts: int | None) -> float | None:
    """Return milliwatts as watts; None for an impossible value."""
    return None if milliwatts is None else within(milliwatts / 1000, IMPOSSIBLE_WATTS)


def within(number: float | None, impossible: float) -> float | None:
    """Return a number that is at least 0 and below ``impossible``, else None."""
    return float(number) if number is not None and 0 <= number < impossible else None


def memory_bytes(answer: Any) -> tuple[int | None, int | None]:
    """Return used and total memory; neither, if the driver's answer contradicts itself."""
    if answer is None:
        return None, None
    used, total = int(answer.used), int(answer.total)
    return (used, total) if used <= total and 0 < total < IMPOSSIBLE_BYTES else (None, None)


def normal_pci_address(bus_id: str | bytes) -> str:
    """Return NVML's "00000000:3B:00.0" in the usual spelling, "0000:3b:00.0"."""
    text = bus_id.decode("ascii", "replace") if isinstance(bus_id, bytes) else bus_id
    domain, _, rest = text.lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}"
    except ValueError:
        return ""
