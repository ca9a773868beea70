# SPDX-License-Identifier: Apache-2.0
"""The synthetic load of the demonstration: the requests in flight at each second of two minutes.

Law: no figure here is a measurement. The load depends on the second alone, so that two runs are equal.
"""

from dataclasses import dataclass

TICK_SECONDS = 3
"""The interval between two lines of the demonstration."""
_STEADY_RIPPLE = (29, 31, 28, 30, 27)


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the schedule: its name, its length, and its load at each tick, which repeats."""

    name: str
    ticks: int
    requests: tuple[int, ...]


PHASES = (
    Phase("idle", 3, (0,)),
    Phase("burst", 9, (64,)),
    Phase("steady", 12, _STEADY_RIPPLE),
    Phase("idle", 9, (0,)),
    Phase("wake", 7, (18,)),
)
TICKS = sum(phase.ticks for phase in PHASES)
"""The ticks of the whole schedule: two minutes. It repeats."""


def load_at(tick: int) -> tuple[str, int]:
    """Return the phase's name and the requests in flight at this tick, from 0."""
    tick %= TICKS
    for phase in PHASES:
        if tick < phase.ticks:
            return phase.name, phase.requests[tick % len(phase.requests)]
        tick -= phase.ticks
    raise AssertionError("a tick of the schedule lies in one of its phases")
