# SPDX-License-Identifier: Apache-2.0
"""The expensive readings of a whole GPU: its activity and its traffic, by GPM and else by counters.

Law: they are taken every ``PERFORMANCE_SECONDS`` and only while they are wanted. A mean covers the whole time between
two of these readings, so short bursts count in it.

Traffic comes from GPM; where GPM has none, from the counters of the field values. Where PCIe has no counters, it comes
from ``nvmlDeviceGetPcieThroughput``, which watches the bus for 20 ms a direction and blocks as long.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keda_gpu_scaler.core.types import PerformanceReadings
from keda_gpu_scaler.devices.failure_log import ReadingProblem
from keda_gpu_scaler.devices.nvml import gpm
from keda_gpu_scaler.devices.nvml.errors import CALL_NOT_AVAILABLE, ReadingError, call_twice, reason_of
from keda_gpu_scaler.devices.nvml.field_values import ENERGY, Traffic, nvlink_counters, pcie_counters, read_fields
from keda_gpu_scaler.devices.nvml.gpm import GpmMeter, GpmValue, OpenDriver
from keda_gpu_scaler.devices.rates import (
    IMPOSSIBLE_LINK_BYTES_PER_SECOND,
    IMPOSSIBLE_PCIE_BYTES_PER_SECOND,
    Count,
)

PERFORMANCE_SECONDS = 5.0
"""How often the readings are taken, so that a window of ten seconds has two of them."""
FIRST_SECONDS = 1.0
"""After this time a first sample is compared, so that the first value does not need five seconds."""

_EARLY_SECONDS = 0.25  # the sampler's ticks jitter, and a reading that is due a millisecond later is due now
_METRICS = (gpm.SM, gpm.TENSOR, gpm.DRAM, gpm.PCIE_RX, gpm.PCIE_TX, gpm.NVLINK_RX, gpm.NVLINK_TX)
_PCIE = (gpm.PCIE_RX, gpm.PCIE_TX)
_NVLINK = (gpm.NVLINK_RX, gpm.NVLINK_TX)
_MIB = 1 << 20
_KB = 1000
_PCIE_TX_COUNTER, _PCIE_RX_COUNTER = 0, 1
_MOST_PERCENT = 100.5  # the quotient of two counters that are not read at one instant


def ratio_of(value: GpmValue | None) -> float | ReadingProblem | None:
    """Return a percentage of GPM as a ratio, or why it is unknown."""
    if value is None or isinstance(value, ReadingProblem):
        return value
    if value > _MOST_PERCENT:
        return ReadingProblem(f"an implausible value: {value:.6g} %")
    return min(1.0, value / 100)


def known(value: float | ReadingProblem | None) -> float | None:
    """Return a value that is known, else None."""
    return None if isinstance(value, ReadingProblem) else value


def first_problem(*values: float | ReadingProblem | None) -> ReadingProblem | None:
    """Return the first problem among some values."""
    return next((value for value in values if isinstance(value, ReadingProblem)), None)


@dataclass(slots=True)
class _Reading:
    """What one reading found so far. ``is_first`` says that something needs a second reading to have a value."""

    traffic: dict[str, Traffic] = field(default_factory=dict)
    problems: dict[str, ReadingProblem] = field(default_factory=dict)
    is_first: bool = False


class PerformanceReader:
    """The expensive readings of one GPU. ``problems`` says why readings are unknown, by their names."""

    def __init__(self) -> None:
        self.problems: Mapping[str, ReadingProblem] = {}
        self._readings: PerformanceReadings | None = None
        self._start()

    def _start(self) -> None:
        self._meter: GpmMeter | None = None
        self._has_gpm: bool | None = None
        self._gpm_problem: ReadingProblem | None = None
        self._by_counter: set[str] = set()
        self._pcie = pcie_counters()
        self._nvlink = nvlink_counters()
        self._pause()

    def _pause(self) -> None:
        if self._meter is not None:
            self._meter.forget()
        self._pcie.forget()
        self._nvlink.forget()
        self._due_at: float | None = None
        self._last_at: float | None = None
        self._readings = None

    def forget(self) -> None:
        """Start again, as with a GPU that was never read: it was lost, or the driver was opened again."""
        self._pause()
        self._start()
        self.problems = {}

    def stop(self) -> None:
        """End the readings, because they are not wanted any more. What the GPU does not have stays known."""
        if self._last_at is not None:
            self._pause()
            self.problems = {name: each for name, each in self.problems.items() if each.is_lasting}

    def read(self, driver: OpenDriver, handle: Any, at_seconds: float) -> PerformanceReadings | None:
        """Return the readings, which are taken if they are due; None until there are any.

        Args:
            driver: the open driver.
            handle: of the GPU.
            at_seconds: monotonic seconds.

        Raises:
            GpuLostError: the GPU is lost.
            DriverLostError: the driver is lost.
        """
        if self._due_at is not None and at_seconds < self._due_at:
            return self._readings
        reading = _Reading()
        values = self._measure(driver, handle, at_seconds, reading)
        energy = self._count(driver, handle, at_seconds, reading)
        self._readings = self._combine(at_seconds, values, reading, energy)
        self._last_at = at_seconds
        self._due_at = at_seconds + (FIRST_SECONDS if reading.is_first else PERFORMANCE_SECONDS) - _EARLY_SECONDS
        self.problems = reading.problems
        return self._readings

    def _combine(
        self, at_seconds: float, values: Mapping[int, GpmValue], reading: _Reading, energy: float | None
    ) -> PerformanceReadings | None:
        activity = [ratio_of(values.get(metric)) for metric in (gpm.SM, gpm.TENSOR, gpm.DRAM)]
        if problem := first_problem(*activity):
            reading.problems["activity"] = problem
        pcie = reading.traffic.get("pcie", Traffic())
        nvlink = reading.traffic.get("nvlink", Traffic())
        sm, tensor, dram = [known(each) for each in activity]
        if self._last_at is None:
            reading.is_first = True
            return None
        return PerformanceReadings(
            at_seconds, max(0.0, at_seconds - self._last_at), sm, tensor, dram,
            pcie.rx, pcie.tx, nvlink.rx, nvlink.tx, energy,
        )  # fmt: skip

    # GPM

    def _measure(self, driver: OpenDriver, handle: Any, at_seconds: float, reading: _Reading) -> Mapping[int, GpmValue]:
        """Return the values of GPM; none without GPM, and none after the first sample."""

        def nvmlGpmSampleGet(sample: Any) -> None:  # noqa: N802 - a call that hangs is named in messages
            driver.nvml.nvmlGpmSampleGet(handle, sample)

        try:
            if not self._find_gpm(driver, handle, reading) or self._meter is None:
                return {}
            comparison = self._meter.update(nvmlGpmSampleGet, None, _METRICS, at_seconds)
        except ReadingError as error:
            problem = ReadingProblem(reason_of(error), is_lasting=error.code in CALL_NOT_AVAILABLE)
            if problem.is_lasting:
                self._has_gpm, self._gpm_problem, self._by_counter = False, problem, {"pcie", "nvlink"}
            reading.is_first = True
            reading.problems |= dict.fromkeys(["activity", *({"pcie", "nvlink"} - self._by_counter)], problem)
            return {}
        if comparison is None:
            reading.is_first = True
            return {}
        self._take_traffic("pcie", _PCIE, IMPOSSIBLE_PCIE_BYTES_PER_SECOND, comparison.values, reading)
        self._take_traffic("nvlink", _NVLINK, IMPOSSIBLE_LINK_BYTES_PER_SECOND, comparison.values, reading)
        return comparison.values

    def _find_gpm(self, driver: OpenDriver, handle: Any, reading: _Reading) -> bool:
        if self._has_gpm is None:
            problem = driver.gpm.problem_of(handle)
            self._has_gpm = problem is None
            self._meter = GpmMeter(driver.gpm)
            self._gpm_problem = problem
            self._by_counter = set() if problem is None else {"pcie", "nvlink"}
        if not self._has_gpm and self._gpm_problem is not None:
            reading.problems["activity"] = self._gpm_problem
        return self._has_gpm

    def _take_traffic(
        self, name: str, metrics: tuple[int, int], impossible: float, values: Mapping[int, GpmValue], reading: _Reading
    ) -> None:
        """Take the traffic of GPM. Where GPM does not have it, the counters are used from now on."""
        if name in self._by_counter:
            return
        rx, tx = (_bytes_per_second(values[metric], impossible) for metric in metrics)
        problem = first_problem(rx, tx)
        if problem is not None and problem.is_lasting:
            self._by_counter.add(name)
            return
        if problem is not None:
            reading.problems[name] = problem
        reading.traffic[name] = Traffic(known(rx), known(tx))

    # Counters

    def _count(self, driver: OpenDriver, handle: Any, at_seconds: float, reading: _Reading) -> float | None:
        """Read the counters that GPM does not replace; return the energy in joules."""
        counters = {"pcie": self._pcie, "nvlink": self._nvlink}
        used = {name: counters[name] for name in sorted(self._by_counter) if not counters[name].is_absent}
        wanted = [ENERGY, *(each for one in used.values() for each in one.fields)]
        values = read_fields(driver.nvml, handle, wanted)
        for name in sorted(self._by_counter):
            one = counters[name]
            traffic = one.update(values, at_seconds)
            if traffic is None and name == "pcie" and one.is_absent:
                traffic = self._pcie_throughput(driver, handle, reading)
            elif one.problem is not None:
                reading.problems[name] = one.problem
                reading.is_first = reading.is_first or not one.problem.is_lasting
            elif traffic is None:
                reading.is_first = True
            if traffic is not None:
                reading.traffic[name] = traffic
        energy = values[ENERGY]
        return energy.value / 1000 if isinstance(energy, Count) else None

    def _pcie_throughput(self, driver: OpenDriver, handle: Any, reading: _Reading) -> Traffic | None:
        """Watch the bus for 20 ms a direction."""
        function = driver.nvml.nvmlDeviceGetPcieThroughput
        rates: list[float] = []
        for counter in (_PCIE_RX_COUNTER, _PCIE_TX_COUNTER):
            try:
                rates.append(float(_KB * call_twice(function, handle, counter)))
            except ReadingError as error:
                reading.problems["pcie"] = ReadingProblem(reason_of(error), is_lasting=error.code in CALL_NOT_AVAILABLE)
                return None
        if max(rates) >= IMPOSSIBLE_PCIE_BYTES_PER_SECOND:
            reading.problems["pcie"] = ReadingProblem(f"an implausible value: {max(rates):.3g} bytes/s")
            return None
        return Traffic(*rates)


def _bytes_per_second(value: GpmValue, impossible: float) -> float | ReadingProblem:
    if isinstance(value, ReadingProblem):
        return value
    if value * _MIB >= impossible:
        return ReadingProblem(f"an implausible value: {value:.6g} MiB/s")
    return value * _MIB
