# SPDX-License-Identifier: Apache-2.0
"""The utilisation of the MIG slices of one GPU, by GPM: of their GPU instances.

Law: a GPU instance is never compared with an earlier one that had its id. Before each sample the driver is asked
which instance a slice is in, and after any error or change the next sample is compared with none.

GPM measures a GPU instance. Where several compute instances share one, the part of each is not known. Traffic of PCIe
and NVLink is not measured for an instance.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keda_gpu_scaler.core.types import Device, PerformanceReadings
from keda_gpu_scaler.devices.failure_log import ReadingProblem
from keda_gpu_scaler.devices.nvml import gpm
from keda_gpu_scaler.devices.nvml.errors import CALL_NOT_AVAILABLE, ReadingError, call_twice, reason_of
from keda_gpu_scaler.devices.nvml.gpm import GpmComparison, GpmMeter, OpenDriver
from keda_gpu_scaler.devices.nvml.performance import first_problem, known, ratio_of

_NO_GPM = "NVML has no utilisation of a MIG slice of this GPU: {}"
_SHARED = ReadingProblem("several compute instances share its GPU instance, which GPM measures as one", is_lasting=True)
_NO_INSTANCE = ReadingProblem("the driver does not return its GPU instance")
REPLACED = ReadingProblem("its instance was replaced by another one")
_METRICS = (gpm.GRAPHICS,)
_ALL_METRICS = (gpm.GRAPHICS, gpm.SM, gpm.TENSOR, gpm.DRAM)


@dataclass(frozen=True, slots=True)
class SliceReading:
    """What GPM measured of a slice. All is None after the first sample."""

    utilization_ratio: float | None = None
    utilization_problem: ReadingProblem | None = None
    performance: PerformanceReadings | None = None


@dataclass(frozen=True, slots=True)
class ReadableSlice:
    """A slice and its handle."""

    device: Device
    handle: Any


class SliceMeters:
    """The meters of one GPU: one for each GPU instance with one slice."""

    def __init__(self) -> None:
        self._meters: dict[int, GpmMeter] = {}
        self._last: dict[int, SliceReading] = {}
        self._gpm_problem: ReadingProblem | None = None
        self._is_gpm_known = False

    def forget(self) -> None:
        """Start again: the GPU was lost, the driver was opened again, or the GPU left MIG mode."""
        for instance in list(self._meters):
            self._forget(instance)
        self._gpm_problem, self._is_gpm_known = None, False

    def keep(self, instances: set[int | None]) -> None:
        """Forget the GPU instances that are not in the layout any more."""
        for instance in self._meters.keys() - instances:
            self._forget(instance)

    def read(
        self, driver: OpenDriver, parent: Any, slices: Sequence[ReadableSlice], at_seconds: float, *, is_wanted: bool
    ) -> Mapping[str, SliceReading]:
        """Return what GPM measured of each slice since the read before, by the slice's UUID.

        Args:
            driver: the open driver.
            parent: the handle of the GPU.
            slices: those whose memory was read.
            at_seconds: monotonic seconds.
            is_wanted: whether the expensive readings are wanted too.

        Raises:
            GpuLostError: the GPU is lost.
            DriverLostError: the driver is lost.
        """
        problem = self._find_gpm(driver, parent)
        if problem is not None:
            unknown = SliceReading(utilization_problem=problem)
            return {each.device.uuid: unknown for each in slices}
        self.keep({each.device.gpu_instance for each in slices})
        counts = Counter(each.device.gpu_instance for each in slices)
        readings: dict[str, SliceReading] = {}
        for each in slices:
            instance = each.device.gpu_instance
            if instance is None:
                readings[each.device.uuid] = SliceReading(utilization_problem=_NO_INSTANCE)
            elif counts[instance] > 1:
                readings[each.device.uuid] = SliceReading(utilization_problem=_SHARED)
            else:
                metrics = _ALL_METRICS if is_wanted else _METRICS
                readings[each.device.uuid] = self._read(driver, parent, each, instance, metrics, at_seconds)
        return readings

    def _find_gpm(self, driver: OpenDriver, parent: Any) -> ReadingProblem | None:
        if not self._is_gpm_known:
            try:
                problem = driver.gpm.problem_of(parent)
            except ReadingError as error:
                return ReadingProblem(_NO_GPM.format(reason_of(error)))
            self._gpm_problem = None if problem is None else ReadingProblem(
                _NO_GPM.format(problem.reason), is_lasting=True
            )  # fmt: skip
            self._is_gpm_known = True
        return self._gpm_problem

    def _read(
        self,
        driver: OpenDriver,
        parent: Any,
        each: ReadableSlice,
        instance: int,
        metrics: Sequence[int],
        at_seconds: float,
    ) -> SliceReading:
        def nvmlGpmMigSampleGet(sample: Any) -> None:  # noqa: N802 - a call that hangs is named in messages
            driver.nvml.nvmlGpmMigSampleGet(parent, instance, sample)

        meter = self._meters.setdefault(instance, GpmMeter(driver.gpm))
        try:
            identity = _identity(driver, each)
            if identity != (each.device.uuid, instance):
                self._forget(instance)
                return SliceReading(utilization_problem=REPLACED)
            if meter.is_too_early(at_seconds):
                return self._last.get(instance, SliceReading())
            comparison = meter.update(nvmlGpmMigSampleGet, identity, metrics, at_seconds)
        except ReadingError as error:
            self._forget(instance)
            is_lasting = error.code in CALL_NOT_AVAILABLE
            return SliceReading(utilization_problem=ReadingProblem(reason_of(error), is_lasting=is_lasting))
        reading = SliceReading() if comparison is None else _reading(comparison, at_seconds)
        self._last[instance] = reading
        return reading

    def _forget(self, instance: int) -> None:
        self._last.pop(instance, None)
        if (meter := self._meters.pop(instance, None)) is not None:
            meter.forget()


def _identity(driver: OpenDriver, each: ReadableSlice) -> Hashable:
    """Return the UUID and the GPU instance of a slice, as the driver has them now: handles and ids are used again."""
    uuid = call_twice(driver.nvml.nvmlDeviceGetUUID, each.handle)
    return uuid, call_twice(driver.nvml.nvmlDeviceGetGpuInstanceId, each.handle)


def _reading(comparison: GpmComparison, at_seconds: float) -> SliceReading:
    utilization = ratio_of(comparison.values[gpm.GRAPHICS])
    performance = None
    if gpm.SM in comparison.values:
        sm, tensor, dram = (known(ratio_of(comparison.values[metric])) for metric in (gpm.SM, gpm.TENSOR, gpm.DRAM))
        performance = PerformanceReadings(at_seconds, comparison.seconds, sm, tensor, dram)
    return SliceReading(known(utilization), first_problem(utilization), performance)
