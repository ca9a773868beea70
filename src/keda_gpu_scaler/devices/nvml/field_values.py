# SPDX-License-Identifier: Apache-2.0
"""Field values of NVML: counters of energy and of the traffic of PCIe and NVLink.

Law: a sum over links is known only if every link that has the counter returned it.

Source: nvml.h. The counters of NVLink's data are in KiB, with a scope that means all links of the GPU. NVLink 5 has
counters in bytes, each of one link. The counters of PCIe are in bytes and may wrap. Energy is in millijoules. Each
field value has a type and a return code of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keda_gpu_scaler.devices.failure_log import ReadingProblem
from keda_gpu_scaler.devices.nvml.errors import CALL_NOT_AVAILABLE, NOT_FOUND, ReadingError, call_twice, reason_of
from keda_gpu_scaler.devices.rates import (
    IMPOSSIBLE_LINK_BYTES_PER_SECOND,
    IMPOSSIBLE_PCIE_BYTES_PER_SECOND,
    Count,
    NarrowCounterError,
    RateMeter,
    UnknownRateError,
)

INVALID_ARGUMENT = 2
NOT_SUPPORTED_PROBLEM = ReadingProblem("the GPU has no counter of it", is_lasting=True)

Field = tuple[int, int]
"""The id of a field value, and its scope: a link, ``_ALL_LINKS``, or 0 where the field has none."""

ENERGY: Field = (83, 0)
_ALL_LINKS = 0xFFFFFFFF
_MAX_LINKS = 18
_ABSENT = CALL_NOT_AVAILABLE | {NOT_FOUND, INVALID_ARGUMENT}
# By NVML's value types: the member of the union, and the number of its bits.
_VALUE_TYPES = {1: ("uiVal", 32), 2: ("ulVal", 64), 3: ("ullVal", 64), 6: ("usVal", 16)}
_SUCCESS = 0


def read_fields(nvml: Any, handle: Any, fields: Sequence[Field]) -> Mapping[Field, Count | ReadingProblem]:
    """Return field values of a GPU in one call: the count of each, or why there is none.

    Raises:
        NvmlError: the GPU or the driver is lost.
    """
    try:
        values = call_twice(nvml.nvmlDeviceGetFieldValues, handle, list(fields))
    except ReadingError as error:
        problem = ReadingProblem(reason_of(error), is_lasting=error.code in _ABSENT)
        return dict.fromkeys(fields, problem)
    return {field: _count(nvml, value) for field, value in zip(fields, values, strict=True)}


def _count(nvml: Any, value: Any) -> Count | ReadingProblem:
    if value.nvmlReturn != _SUCCESS:
        error = ReadingError(value.nvmlReturn, nvml.NVMLError(value.nvmlReturn))
        return ReadingProblem(reason_of(error), is_lasting=value.nvmlReturn in _ABSENT)
    if value.valueType not in _VALUE_TYPES:
        return ReadingProblem(f"a value of the unknown type {value.valueType}", is_lasting=True)
    member, bits = _VALUE_TYPES[value.valueType]
    return Count(int(getattr(value.value, member)), bits)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Traffic of one interconnect in bytes per second; None where it is not known."""

    rx: float | None = None
    tx: float | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    rx: tuple[Field, ...]
    tx: tuple[Field, ...]
    unit_bytes: int


_PCIE = (_Source(rx=((198, 0),), tx=((197, 0),), unit_bytes=1),)
_NVLINK = (
    _Source(rx=((139, _ALL_LINKS),), tx=((138, _ALL_LINKS),), unit_bytes=1024),
    _Source(
        rx=tuple((204, link) for link in range(_MAX_LINKS)),
        tx=tuple((202, link) for link in range(_MAX_LINKS)),
        unit_bytes=1,
    ),
)


class TrafficCounters:
    """The traffic of one interconnect, from the first counters that the GPU has.

    ``problem`` says why the last reading gave no traffic; None while the first rate is due, and while there is one.
    """

    def __init__(self, sources: Sequence[_Source], impossible: float) -> None:
        self._sources = list(sources)
        self._impossible = impossible
        self._meters: tuple[RateMeter[Field], RateMeter[Field]] | None = None
        self.problem: ReadingProblem | None = None

    @property
    def is_absent(self) -> bool:
        """Whether the GPU has none of the counters."""
        return not self._sources

    @property
    def fields(self) -> tuple[Field, ...]:
        """The field values that ``update`` needs."""
        return (*self._sources[0].rx, *self._sources[0].tx) if self._sources else ()

    def forget(self) -> None:
        """Start again: what was counted since the last reading is not known."""
        self._meters = None

    def update(self, values: Mapping[Field, Count | ReadingProblem], at_seconds: float) -> Traffic | None:
        """Take a reading of ``fields``; return the traffic since the last one, None where it is not known."""
        if not self._sources:
            self.problem = NOT_SUPPORTED_PROBLEM
            return None
        source = self._sources[0]
        self.problem = next((problem for field in self.fields if (problem := _passing(values[field]))), None)
        if self.problem is not None:
            self.forget()
            return None
        counts = [
            {field: count for field in fields if isinstance(count := values[field], Count)}
            for fields in (source.rx, source.tx)
        ]
        if not all(counts):
            self._drop_source()
            return None
        if self._meters is None:
            self._meters = (
                RateMeter(source.unit_bytes, self._impossible),
                RateMeter(source.unit_bytes, self._impossible),
            )
        rates: list[float | None] = []
        for meter, counted in zip(self._meters, counts, strict=True):
            try:
                rates.append(meter.update(counted, at_seconds))
            except NarrowCounterError:
                self._drop_source()
                return None
            except UnknownRateError as error:
                self.problem = ReadingProblem(str(error))
                rates.append(None)
        return None if rates == [None, None] else Traffic(*rates)

    def _drop_source(self) -> None:
        self._sources.pop(0)
        self.forget()
        if not self._sources:
            self.problem = NOT_SUPPORTED_PROBLEM


def pcie_counters() -> TrafficCounters:
    """Return the counters of PCIe."""
    return TrafficCounters(_PCIE, IMPOSSIBLE_PCIE_BYTES_PER_SECOND)


def nvlink_counters() -> TrafficCounters:
    """Return the counters of NVLink: of all links together, else of each link."""
    return TrafficCounters(_NVLINK, IMPOSSIBLE_LINK_BYTES_PER_SECOND)


def _passing(value: Count | ReadingProblem) -> ReadingProblem | None:
    return value if isinstance(value, ReadingProblem) and not value.is_lasting else None
