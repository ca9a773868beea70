# SPDX-License-Identifier: Apache-2.0
"""GPM (GPU Performance Monitoring): means of counters between two samples, on Hopper GPUs and newer.

Law: two samples are compared only if they are of the same GPU or of the same GPU instance. Every sample is freed
before NVML is shut down.

Source: nvml.h. Samples must be at least 100 ms apart. Activities are in percent and traffic is in MiB/s. For PCIe the
metric of sent data comes first, for NVLink that of received data. Sent means from this GPU.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from keda_gpu_scaler.devices.failure_log import ReadingProblem
from keda_gpu_scaler.devices.nvml.errors import CALL_NOT_AVAILABLE, NvmlError, ReadingError, call, call_twice, reason_of
from keda_gpu_scaler.devices.rates import LONGEST_SECONDS, SHORTEST_SECONDS

GRAPHICS, SM, TENSOR, DRAM = 1, 2, 5, 10
PCIE_TX, PCIE_RX = 20, 21
NVLINK_RX, NVLINK_TX = 60, 61

_SYMBOLS = (
    "nvmlGpmQueryDeviceSupport",
    "nvmlGpmSampleAlloc",
    "nvmlGpmSampleFree",
    "nvmlGpmSampleGet",
    "nvmlGpmMigSampleGet",
    "nvmlGpmMetricsGet",
)
_NO_SYMBOLS = ReadingProblem("the driver is too old for GPM", is_lasting=True)
_NO_SUPPORT = ReadingProblem("the GPU has no GPM, which needs Hopper or newer", is_lasting=True)
_SUCCESS = 0

GpmValue = float | ReadingProblem


class GpmSample:
    """The memory of one sample. ``handle`` is NVML's."""

    __slots__ = ("handle",)

    def __init__(self, handle: Any) -> None:
        self.handle = handle


@dataclass(frozen=True, slots=True)
class GpmComparison:
    """What GPM measured between two samples: each metric's value, or why it is unknown, by the metric's id."""

    seconds: float
    values: Mapping[int, GpmValue]


class Gpm:
    """GPM of one driver, and the memory of every sample. A sample that is given back is used again.

    Args:
        nvml: the binding.
        has_symbol: whether the driver's library has a function.
    """

    def __init__(self, nvml: Any, has_symbol: Callable[[str], bool]) -> None:
        self._nvml = nvml
        self._is_known = all(has_symbol(symbol) for symbol in _SYMBOLS)
        self._free: list[GpmSample] = []
        self._taken: set[GpmSample] = set()

    def problem_of(self, handle: Any) -> ReadingProblem | None:
        """Return why a GPU has no GPM; None where it has.

        Raises:
            NvmlError: the GPU does not say it.
        """
        if not self._is_known:
            return _NO_SYMBOLS
        try:
            support = call_twice(self._nvml.nvmlGpmQueryDeviceSupport, handle)
        except ReadingError as error:
            if error.code in CALL_NOT_AVAILABLE:
                return _NO_SUPPORT
            raise
        return None if support.isSupportedDevice else _NO_SUPPORT

    def take(self) -> GpmSample:
        """Return the memory of a sample.

        Raises:
            NvmlError: the driver gives none.
        """
        sample = self._free.pop() if self._free else GpmSample(call_twice(self._nvml.nvmlGpmSampleAlloc))
        self._taken.add(sample)
        return sample

    def give_back(self, sample: GpmSample) -> None:
        """Take back the memory of a sample. One that was freed with the driver is ignored."""
        if sample in self._taken:
            self._taken.remove(sample)
            self._free.append(sample)

    def free_all(self) -> None:
        """Free every sample. No call of the driver may use one, now or later."""
        samples = [*self._free, *self._taken]
        self._free.clear()
        self._taken.clear()
        for sample in samples:
            try:
                call(self._nvml.nvmlGpmSampleFree, sample.handle)
            except NvmlError:
                return  # the driver is lost, and its memory with it

    def compare(self, before: GpmSample, after: GpmSample, metrics: Sequence[int]) -> dict[int, GpmValue]:
        """Return the values of metrics between two samples.

        Raises:
            NvmlError: the driver does not compare the samples.
        """
        request = self._nvml.c_nvmlGpmMetricsGet_t()
        request.version = self._nvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(metrics)
        request.sample1, request.sample2 = before.handle, after.handle
        for position, metric in enumerate(metrics):
            request.metrics[position].metricId = metric
        call_twice(self._nvml.nvmlGpmMetricsGet, request)
        return {metric: self._value(request.metrics[position]) for position, metric in enumerate(metrics)}

    def _value(self, metric: Any) -> GpmValue:
        if metric.nvmlReturn != _SUCCESS:
            reason = reason_of(ReadingError(metric.nvmlReturn, self._nvml.NVMLError(metric.nvmlReturn)))
            return ReadingProblem(reason, is_lasting=metric.nvmlReturn in CALL_NOT_AVAILABLE)
        value = float(metric.value)
        return value if math.isfinite(value) and value >= 0 else ReadingProblem(f"an implausible value: {value}")


class OpenDriver(Protocol):
    """What the meters need of the driver: the binding, and its GPM."""

    nvml: Any
    gpm: Gpm


@dataclass(frozen=True, slots=True)
class _EarlierSample:
    sample: GpmSample
    at_seconds: float
    identity: Hashable


class GpmMeter:
    """Compares each sample of one GPU, or of one GPU instance, with the one before."""

    def __init__(self, gpm: Gpm) -> None:
        self._gpm = gpm
        self._base: _EarlierSample | None = None

    def forget(self) -> None:
        """Start again: the next sample is compared with none."""
        if self._base is not None:
            self._gpm.give_back(self._base.sample)
            self._base = None

    def is_too_early(self, at_seconds: float) -> bool:
        """Whether the last sample is too young to be compared."""
        return self._base is not None and 0 <= at_seconds - self._base.at_seconds < SHORTEST_SECONDS

    def update(
        self, fill: Callable[[Any], object], identity: Hashable, metrics: Sequence[int], at_seconds: float
    ) -> GpmComparison | None:
        """Take a sample; return what was measured since the last one, None without one to compare.

        Args:
            fill: has the driver fill a sample.
            identity: of the GPU or the GPU instance. A sample of another identity is not compared.
            metrics: the ids of the metrics.
            at_seconds: monotonic seconds.

        Raises:
            NvmlError: a call returned an error. The next sample is compared with none.
        """
        base, self._base = self._base, None
        taken = [base.sample] if base is not None else []
        try:
            sample = self._gpm.take()
            taken.append(sample)
            call_twice(fill, sample.handle)
            seconds = 0.0 if base is None else at_seconds - base.at_seconds
            comparison = None
            if base is not None and base.identity == identity and SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
                comparison = GpmComparison(seconds, self._gpm.compare(base.sample, sample, metrics))
            self._base = _EarlierSample(sample, at_seconds, identity)
            taken.remove(sample)
            return comparison
        finally:
            for each in taken:
                self._gpm.give_back(each)
