# SPDX-License-Identifier: Apache-2.0
"""Reads one GPU: its MIG layout, and its readings or those of its slices. It runs in a reader thread.

Law: every reading is independent. A call that returns an error makes one reading unknown, and affects no other
reading and no other device.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.failure_log import ReadingProblem
from keda_gpu_scaler.devices.nvml.driver import NvmlDriver
from keda_gpu_scaler.devices.nvml.errors import (
    CALL_NOT_AVAILABLE,
    NOT_FOUND,
    DriverLostError,
    GpuLostError,
    NvmlError,
    ReadingError,
    call_twice,
    reason_of,
)
from keda_gpu_scaler.devices.nvml.gpu import (
    IMPOSSIBLE_CELSIUS,
    DeviceReading,
    Gpu,
    MigSlice,
    memory_bytes,
    problem_of,
    ratio,
    watts,
    within,
)
from keda_gpu_scaler.devices.nvml.process_shares import ProcessShares
from keda_gpu_scaler.devices.nvml.slice_meters import REPLACED, ReadableSlice, SliceReading

MIG_LAYOUT_SECONDS = 10.0
"""How often the MIG layout is read: it takes two dozen calls a GPU, and an administrator changes it by hand."""
ATTEMPTS = 3
"""How often a GPU is read that seems to be lost. A driver under load returns such an error once, and then works."""

_MIG_ENABLED = 1
_NOT_OF_A_SLICE = {
    "temperature": ReadingProblem("a sensor of the whole board, not of a MIG slice", is_lasting=True),
    "power": ReadingProblem("a sensor of the whole board, not of a MIG slice", is_lasting=True),
}
_TRAFFIC_OF_A_SLICE = dict.fromkeys(
    ("pcie", "nvlink"), ReadingProblem("GPM measures it for the whole board, not for a MIG slice", is_lasting=True)
)
_NO_INSTANCE = ReadingProblem("it is in MIG mode and has no instance", until="it has one, or MIG mode is off")


class GpuReader:
    """Reads GPUs through a driver that is open.

    Args:
        driver: the driver.
        wants_performance: whether the expensive readings are wanted now. Reader threads call it.
        clock: monotonic seconds, the sampler's.
        shares: measures what pods use of GPUs, None where that is not requested.
    """

    def __init__(
        self,
        driver: NvmlDriver,
        wants_performance: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        shares: ProcessShares | None = None,
    ) -> None:
        self._driver = driver
        self._wants_performance = wants_performance
        self._clock = clock
        self._shares = shares

    def read(self, gpu: Gpu, now: float) -> list[DeviceReading]:
        """Read every device of a GPU that has a handle.

        Args:
            gpu: the GPU; nothing else may change it meanwhile.
            now: monotonic seconds, for the age of the MIG layout.

        Raises:
            GpuLostError: the GPU is lost.
            DriverLostError: the driver is lost.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                return self._read(gpu, now)
            except (GpuLostError, DriverLostError):
                self._look_up_again(gpu)
        return self._read(gpu, now)

    def _look_up_again(self, gpu: Gpu) -> None:
        """Fetch the handle again, unless another GPU is at the driver's index now."""
        if gpu.slot is None:
            return
        try:
            listing = self._driver.look_up(gpu.slot, gpu.listing)
        except NvmlError:
            return  # the next attempt has the same result
        if listing.uuid == gpu.listing.uuid:
            gpu.handle = listing.handle
            gpu.layout_due_at = -math.inf

    def _read(self, gpu: Gpu, now: float) -> list[DeviceReading]:
        if now >= gpu.layout_due_at:
            self._read_layout(gpu, now)
        if gpu.slices is None:
            gpu.slice_meters.forget()
            readings = [self._with_performance(gpu, self._read_whole_gpu(gpu))]
        else:
            gpu.performance.stop()
            readings = self._read_slices_of(gpu, gpu.slices)
        if self._shares is not None:
            readings = [self._shares.add_to(reading, gpu.handle) for reading in readings]
        gpu.listed = tuple([reading.sample.device for reading in readings])
        return readings

    def _with_performance(self, gpu: Gpu, reading: DeviceReading) -> DeviceReading:
        """Add the expensive readings, which are taken last: they may take long."""
        if self._wants_performance():
            performance = gpu.performance.read(self._driver, gpu.handle, self._clock())
        else:
            gpu.performance.stop()
            performance = None
        problems = gpu.performance.problems
        if performance is None and not problems:
            return reading
        sample = reading.sample if performance is None else replace(reading.sample, performance=performance)
        return DeviceReading(sample, {**reading.problems, **problems})

    def _read_whole_gpu(self, gpu: Gpu) -> DeviceReading:
        problems: dict[str, ReadingProblem] = {}
        calls = gpu.calls or self._driver.versioned_calls()

        def reading(name: str, function: Callable[[Any], Any]) -> Any:
            try:
                return call_twice(function, gpu.handle)
            except ReadingError as error:
                problems[name] = problem_of(error)
                return None

        def plausible(name: str, value: float | None, answer: object, unit: str) -> float | None:
            if value is None and answer is not None:
                problems[name] = ReadingProblem(f"an implausible value: {answer} {unit}")
            return value

        rates = reading("utilization", self._driver.nvml.nvmlDeviceGetUtilizationRates)
        memory = reading("memory", calls.memory)
        celsius = reading("temperature", calls.temperature)
        milliwatts = reading("power", self._driver.nvml.nvmlDeviceGetPowerUsage)
        used, total = memory_bytes(memory)
        if memory is not None:
            plausible("memory", used, f"{memory.used} of {memory.total}", "bytes")
        gpu_ratio = memory_ratio = None
        if rates is not None:
            memory_ratio = plausible("utilization", ratio(rates.memory), rates.memory, "% of the memory")
            gpu_ratio = plausible("utilization", ratio(rates.gpu), rates.gpu, "%")
        sample = Sample(
            gpu.device,
            gpu_utilization_ratio=gpu_ratio,
            memory_utilization_ratio=memory_ratio,
            memory_used_bytes=used,
            memory_total_bytes=total,
            temperature_celsius=plausible("temperature", within(celsius, IMPOSSIBLE_CELSIUS), celsius, "°C"),
            power_watts=plausible("power", watts(milliwatts), milliwatts, "mW"),
        )
        return DeviceReading(sample, problems)

    def _read_slices_of(self, gpu: Gpu, slices: list[MigSlice]) -> list[DeviceReading]:
        if not slices:
            gpu.slice_meters.forget()
            return [DeviceReading(Sample(gpu.device), {"": _NO_INSTANCE})]
        # All memory first: there are drivers of which GPM of a slice disturbs the next reading of memory.
        readings = [self._read_slice(each) for each in slices]
        readable = [
            ReadableSlice(each.device, each.handle)
            for each, reading in zip(slices, readings, strict=True)
            if reading.sample.memory_used_bytes is not None
        ]
        is_wanted = self._wants_performance()
        found = gpu.slice_meters.read(self._driver, gpu.handle, readable, self._clock(), is_wanted=is_wanted)
        if any(each.utilization_problem is REPLACED for each in found.values()):
            gpu.layout_due_at = -math.inf
        return [_with_utilization(reading, found.get(reading.sample.device.uuid), is_wanted) for reading in readings]

    def _read_slice(self, each: MigSlice) -> DeviceReading:
        # The handle of a slice returns its memory only. Temperature and power belong to the whole board: they are
        # never divided, and repeating them for every slice would count them several times.
        if each.memory is None:
            return DeviceReading(Sample(each.device), {"": each.problem} if each.problem else {})
        try:
            answer = call_twice(each.memory)
        except ReadingError as error:
            return DeviceReading(Sample(each.device), {**_NOT_OF_A_SLICE, "memory": problem_of(error)})
        used, total = memory_bytes(answer)
        sample = Sample(each.device, memory_used_bytes=used, memory_total_bytes=total)
        if used is None:
            implausible = ReadingProblem(f"an implausible value: {answer.used} of {answer.total} bytes")
            return DeviceReading(sample, {**_NOT_OF_A_SLICE, "memory": implausible})
        return DeviceReading(sample, _NOT_OF_A_SLICE)

    # MIG

    def _read_layout(self, gpu: Gpu, now: float) -> None:
        try:
            is_in_mig_mode = self._is_in_mig_mode(gpu)
            gpu.was_in_mig_mode = bool(is_in_mig_mode)
            gpu.slices = self._read_slices(gpu) if is_in_mig_mode else None
        except ReadingError as error:
            # A GPU in MIG mode returns the memory of the whole GPU too. To read it as a whole GPU, or through handles
            # of slices that may have changed, would give a wrong number. The next read asks for the layout again.
            gpu.forget_layout(ReadingProblem(f"it does not report its MIG layout: {reason_of(error)}", until="it does"))
            return
        if is_in_mig_mode is None:
            gpu.layout_due_at = math.inf  # this model has no MIG, and never will
        elif gpu.slices is None or all(each.memory for each in gpu.slices):
            gpu.layout_due_at = now + MIG_LAYOUT_SECONDS
        # While a slice cannot be read, the next read asks for the layout again.

    def _is_in_mig_mode(self, gpu: Gpu) -> bool | None:
        """Return whether the GPU is in MIG mode; None if the model or the driver has no MIG."""
        try:
            mode, _ = call_twice(self._driver.nvml.nvmlDeviceGetMigMode, gpu.handle)
        except ReadingError as error:
            # A GPU that was in MIG mode has MIG, whatever the driver returns now.
            if error.code in CALL_NOT_AVAILABLE and not gpu.was_in_mig_mode:
                return None
            raise
        return bool(mode == _MIG_ENABLED)

    def _read_slices(self, gpu: Gpu) -> list[MigSlice]:
        slices: dict[str, MigSlice] = {}
        problem: ReadingProblem | None = None
        for slot in range(call_twice(self._driver.nvml.nvmlDeviceGetMaxMigDeviceCount, gpu.handle)):
            try:
                each = self._slice_in(gpu, slot)
            except ReadingError as error:
                if error.code != NOT_FOUND:  # NOT_FOUND is an empty slot; a later slot may hold a slice
                    problem = ReadingProblem(f"MIG slot {slot} cannot be read: {reason_of(error)}", until="it can")
            else:
                slices[each.device.uuid] = each
        if problem is None:
            return list(slices.values())
        # A slice that was listed before may be in the slot that returned the error, so it stays listed. If no slice
        # was read at all, the GPU itself stays listed in their place.
        kept = [device for device in gpu.listed if device.parent or not slices]
        return [
            *slices.values(),
            *(MigSlice(device, problem=problem) for device in kept if device.uuid not in slices),
        ]

    def _slice_in(self, gpu: Gpu, slot: int) -> MigSlice:
        driver = self._driver
        handle = call_twice(driver.nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu.handle, slot)
        uuid = call_twice(driver.nvml.nvmlDeviceGetUUID, handle)
        if not uuid:
            raise ReadingError(None, ValueError("its UUID is empty"))
        known = next((device for device in gpu.listed if device.uuid == uuid), None)
        gpu_instance = driver.number("nvmlDeviceGetGpuInstanceId", handle)
        compute_instance = driver.number("nvmlDeviceGetComputeInstanceId", handle)
        if known is not None:
            # One error of the driver does not erase what is known of the slice.
            gpu_instance = known.gpu_instance if gpu_instance is None else gpu_instance
            compute_instance = known.compute_instance if compute_instance is None else compute_instance
        device = Device(
            uuid,
            gpu.device.index,
            driver.text(driver.nvml.nvmlDeviceGetName, handle) or (known.model if known else ""),
            gpu.device.pci_address,
            parent=gpu.device.uuid,
            minor=gpu.device.minor,
            gpu_instance=gpu_instance,
            compute_instance=compute_instance,
        )
        return MigSlice(device, partial(driver.versioned_calls().memory, handle), handle=handle)


def _with_utilization(reading: DeviceReading, found: SliceReading | None, is_wanted: bool) -> DeviceReading:
    """Add to the reading of a slice what GPM measured."""
    if found is None:
        return reading
    problems = dict(reading.problems)
    if found.utilization_problem is not None:
        problems["utilization"] = found.utilization_problem
    if is_wanted:
        problems |= _TRAFFIC_OF_A_SLICE
    sample = replace(reading.sample, gpu_utilization_ratio=found.utilization_ratio, performance=found.performance)
    return DeviceReading(sample, problems)
