# SPDX-License-Identifier: Apache-2.0
"""Rates from counters that grow and may wrap: growth between two readings, divided by the time.

Law: a rate that is not certain is unknown. A counter that may have wrapped more than once has no rate, and a growth
that no hardware can produce means that the counter started again.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

IMPOSSIBLE_PCIE_BYTES_PER_SECOND = 2.56e11
"""Twice what 16 lanes of PCIe 6 carry in one direction."""
IMPOSSIBLE_LINK_BYTES_PER_SECOND = 4e12
"""More than four times what all links of one GPU carry in one direction: 900 GB/s with NVLink 5."""
SHORTEST_SECONDS = 0.1
LONGEST_SECONDS = 600.0
"""The mean of a longer time is no reading of the present."""


_Name = TypeVar("_Name", bound=Hashable)


class UnknownRateError(Exception):
    """There is no rate. The message says why."""


class NarrowCounterError(UnknownRateError):
    """The counter wraps too fast for its readings: it never has a rate."""


@dataclass(frozen=True, slots=True)
class Count:
    """One reading of a counter: its value, and the number of its bits."""

    value: int
    bits: int = 64


def bytes_per_second(before: Count, after: Count, *, unit_bytes: int, seconds: float, impossible: float) -> float:
    """Return the rate of one counter.

    Args:
        before: the earlier reading.
        after: the later reading.
        unit_bytes: how many bytes one count is.
        seconds: the time between the readings, above 0.
        impossible: a rate in bytes per second that no hardware reaches.

    Raises:
        NarrowCounterError: the counter may have wrapped more than once.
        UnknownRateError: the counter started again.
    """
    if before.bits != after.bits:
        raise UnknownRateError("the counter changed its width")
    span = 1 << after.bits
    if span * unit_bytes <= impossible * seconds:
        raise NarrowCounterError(f"a counter of {after.bits} bits wraps too fast for readings {seconds:.1f} s apart")
    rate = (after.value - before.value) % span * unit_bytes / seconds
    if rate >= impossible:
        raise UnknownRateError("the counter started again")
    return rate


class RateMeter(Generic[_Name]):
    """The rate of a sum of counters, each read at the same times.

    Args:
        unit_bytes: how many bytes one count is.
        impossible: a rate in bytes per second that no hardware reaches.
    """

    def __init__(self, unit_bytes: int, impossible: float) -> None:
        self._unit_bytes = unit_bytes
        self._impossible = impossible
        self._before: tuple[float, Mapping[_Name, Count]] | None = None

    def forget(self) -> None:
        """Start again: what was counted since the last reading is not known."""
        self._before = None

    def update(self, counts: Mapping[_Name, Count], at_seconds: float) -> float | None:
        """Take a reading; return the rate in bytes per second since the last one, None after the first.

        Args:
            counts: the counters by their names. A sum of other counters than before has no rate.
            at_seconds: monotonic seconds at the reading.

        Raises:
            UnknownRateError: as ``bytes_per_second``.
        """
        before, self._before = self._before, (at_seconds, counts)
        if before is None:
            return None
        seconds = at_seconds - before[0]
        if before[1].keys() != counts.keys() or not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
            return None
        rates = [
            bytes_per_second(
                before[1][name], count, unit_bytes=self._unit_bytes, seconds=seconds, impossible=self._impossible
            )
            for name, count in counts.items()
        ]
        return sum(rates)
