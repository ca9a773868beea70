# SPDX-License-Identifier: Apache-2.0
"""The requests of a simulation: when each arrives, how long it is, and what became of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

NEVER = math.inf


@dataclass(frozen=True, slots=True)
class RequestTraffic:
    """Requests in the order of their arrival.

    ``arrivals`` are seconds from the begin of the simulation, ``prompts`` and ``answers`` numbers of tokens, at least
    1. ``seconds`` is the length of the traffic. ``assumptions`` are sentences about what the source does not say, and
    ``remarks`` sentences about what was found in it.
    """

    title: str
    arrivals: Sequence[float]
    prompts: Sequence[int]
    answers: Sequence[int]
    seconds: float
    assumptions: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrivals)


@dataclass(slots=True)
class RequestLog:
    """What became of each request of a traffic, by its number; a time that never came is infinite.

    ``first_at`` is when its first token came, ``ended_at`` when its last one came. ``overheads`` are the seconds
    outside the engine until the client has the first token. ``queue_waits`` are the seconds that it waited in the queue
    of its replica. ``done`` is the number of tokens that were generated before the last preemption or until the end.
    ``given_at`` is when its replica got it, and after a preemption when it was preempted.
    """

    traffic: RequestTraffic
    first_at: list[float] = field(init=False)
    ended_at: list[float] = field(init=False)
    overheads: list[float] = field(init=False)
    given_at: list[float] = field(init=False)
    queue_waits: list[float] = field(init=False)
    done: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with no request served."""
        count = len(self.traffic)
        self.first_at, self.ended_at = [NEVER] * count, [NEVER] * count
        self.overheads, self.given_at, self.queue_waits = [0.0] * count, [0.0] * count, [0.0] * count
        self.done = [0] * count

    def begin_anew(self, request: int) -> None:
        """Forget what was done of a request whose replica was killed."""
        self.first_at[request], self.done[request] = NEVER, 0
