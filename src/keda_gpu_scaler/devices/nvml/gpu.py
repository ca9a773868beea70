# SPDX-License-Identifier: Apache-2.0
"""One GPU as NVML knows it: its handle, its slices, the calls that read it, the ranges of readings."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.failure_log import ReadingProblem, describe
from keda_gpu_scaler.devices.nvml.errors import CALL_NOT_AVAILABLE, NvmlError, ReadingError, call, reason_of
from keda_gpu_scaler.devices.nvml.performance import PerformanceReader
from keda_gpu_scaler.devices.nvml.slice_meters import SliceMeters
from keda_gpu_scaler.devices.reader_threads import ReaderJob

# NVML's value for "not available" has all bits set, and some drivers return it as a reading. Others return 0 for a
# sensor that does not answer: a die that works is warmer than 0 °C, and a board that works draws power. A GPU shuts
# down far below this temperature, no board draws this power, and memory must fit the wire's int64.
IMPOSSIBLE_CELSIUS = 150
IMPOSSIBLE_WATTS = 10_000
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
    """A GPU as the driver lists it. ``problem`` says why it has no identity of its own, empty where it has one."""

    uuid: str
    index: int
    model: str
    pci_address: str
    minor: int | None
    handle: Any
    problem: str = ""


def problem_of(error: NvmlError) -> ReadingProblem:
    """Return the problem of one reading whose call returned an error."""
    return ReadingProblem(reason_of(error), is_lasting=error.code in CALL_NOT_AVAILABLE)


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """A sample of one device, and the problems of its unknown readings by their names ("" for all of them)."""

    sample: Sample
    problems: Mapping[str, ReadingProblem] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MigSlice:
    """One entry of the list that replaces a GPU in MIG mode: a slice, or a device that was listed before.

    ``memory`` reads the memory, and ``handle`` is the slice's. They are None for a device that cannot be read now, for
    the reason in ``problem``.
    """

    device: Device
    memory: Callable[[], Any] | None = None
    problem: ReadingProblem | None = None
    handle: Any = None


class Gpu:
    """One GPU, identified by its UUID for the life of the process.

    ``slot`` is the driver's index, None where the driver does not list the GPU. ``handle`` is None while the GPU cannot
    be reached, for the reason in ``problem``. ``slices`` is None only while the GPU is known not to be in MIG mode;
    ``was_in_mig_mode`` is what the GPU last reported. ``listed`` are the devices that were listed last; they stay
    listed while no reading is known. ``job`` is the work of a reader thread that has not been collected. While it is
    not done, only that thread changes the GPU. ``is_slow`` says that the last job overran, so no other GPU waits for
    the next one. ``is_void`` says that the driver was opened while a job was at work. ``skips_look_up`` spaces the
    look-ups of a GPU that cannot be reached. ``performance`` and ``slice_meters`` compare
    readings with earlier ones.
    """

    def __init__(self, device: Device, listing: ListedGpu) -> None:
        self.listed: tuple[Device, ...] = (device,)
        self.device = device
        self.listing = listing
        self.slot: int | None = listing.index
        self.handle: Any = None
        self.calls: VersionedCalls | None = None
        self.problem: ReadingProblem | None = None
        self.lost_at: float | None = None
        self.was_in_mig_mode = False
        self.job: ReaderJob | None = None
        self.is_slow = False
        self.is_void = False
        self.skips_look_up = False
        self.layout_due_at = -math.inf
        self.performance = PerformanceReader()
        self.slice_meters = SliceMeters()
        self.forget_layout(None)

    def __str__(self) -> str:
        return describe(self.device)

    @property
    def is_busy(self) -> bool:
        """Whether a reader thread is at work on this GPU."""
        return self.job is not None and not self.job.is_done

    def reset(self, calls: VersionedCalls) -> None:
        """Void everything that came from an earlier opening of the driver. The GPU may have been moved since then."""
        self.calls = calls
        self.listing = ListedGpu("", self.listing.index, "", "", None, None)
        self.handle = None
        self.layout_due_at = -math.inf
        self._forget_counts()
        self.forget_layout(None)

    def found(self, device: Device, listing: ListedGpu) -> None:
        """Take over the GPU's handle and its place in the driver's list."""
        if self.listed == (self.device,):
            self.listed = (device,)
        self.device, self.listing, self.slot, self.handle = device, listing, listing.index, listing.handle
        self.problem = self.lost_at = None
        self.skips_look_up = False

    def lose(self, problem: ReadingProblem, now: float) -> None:
        """Give up the handle. The devices stay listed without readings."""
        self.handle = None
        self.problem = problem
        self._forget_counts()
        if self.lost_at is None:
            self.lost_at = now

    def forget_layout(self, problem: ReadingProblem | None) -> None:
        """Keep the listed devices, without any way to read them, until the MIG layout is known."""
        self.slices: list[MigSlice] | None = [MigSlice(device, problem=problem) for device in self.listed]

    def _forget_counts(self) -> None:
        """Compare the next reading with none: what was counted meanwhile is not known."""
        self.performance.forget()
        self.slice_meters.forget()

    def without_readings(self, problem: ReadingProblem) -> list[DeviceReading]:
        """Return every listed device with every reading unknown."""
        return [DeviceReading(Sample(device), {"": problem}) for device in self.listed]


def ratio(percent: int | None) -> float | None:
    """Return a percentage as a ratio; None outside 0 to 100."""
    return percent / 100 if percent is not None and 0 <= percent <= 100 else None


def watts(milliwatts: int | None) -> float | None:
    """Return milliwatts as watts; None for an impossible value."""
    return None if milliwatts is None else within(milliwatts / 1000, IMPOSSIBLE_WATTS)


def within(number: float | None, impossible: float) -> float | None:
    """Return a number that is above 0 and below ``impossible``, else None."""
    return float(number) if number is not None and 0 < number < impossible else None


def memory_bytes(answer: Any) -> tuple[int | None, int | None]:
    """Return used and total memory; neither, if the driver's answer contradicts itself."""
    if answer is None:
        return None, None
    used, total = int(answer.used), int(answer.total)
    return (used, total) if used <= total and 0 < total < IMPOSSIBLE_BYTES else (None, None)


def normal_pci_address(bus_id: str) -> str:
    """Return NVML's "00000000:3B:00.0" in the usual spelling, "0000:3b:00.0"."""
    domain, _, rest = bus_id.lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}"
    except ValueError:
        return ""
