# SPDX-License-Identifier: Apache-2.0
"""Measures the growth of an engine's counters over its samples, from what is known of each pair of neighbours.

Law: an interval in which a counter fell is not counted. A pair of neighbours is compared once, however many windows and
spans contain it.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.types import EngineSample

_STEPS = "steps"
_SPARE_STEPS = 64


class Growth(NamedTuple):
    """The growth of every counter, in the order of ``_COUNTERS``; 0 where a counter is not known."""

    waits: float
    times: float
    tokens: float
    first_tokens: float
    ended: float
    prompts: float
    service: float
    services: float
    executions: float


_COUNTERS: Callable[[EngineSample], tuple[Any, ...]] = attrgetter(
    "token_time_seconds_total",
    "token_times_total",
    "tokens_total",
    "first_tokens_total",
    "requests_total",
    "prompt_tokens_total",
    "service_seconds_total",
    "services_total",
    "executions_total",
)

_Step = tuple[EngineSample, EngineSample, int, int]
"""Two neighbours, and as bits: the counters that fell between them, and those that are missing in one of them."""


class CounterSteps:
    """The compared pairs of neighbouring samples of one engine."""

    def __init__(self) -> None:
        self._steps: dict[int, _Step] = {}  # by the identity of the later sample, which the step keeps

    def growth(self, samples: Sequence[EngineSample]) -> tuple[float, Growth]:
        """Return the seconds of the intervals in which no counter fell, and the growth of every counter in them.

        A counter that is missing in one of the samples has no growth.
        """
        fell, missing = 0, 0
        earlier = samples[0]
        if len(samples) == 1:
            missing = _compare(earlier, earlier)[3]
        for later in samples[1:]:
            step = self._steps.get(id(later))
            if step is None or step[0] is not earlier or step[1] is not later:
                step = self._steps[id(later)] = _compare(earlier, later)
            fell |= step[2]
            missing |= step[3]
            earlier = later
        if fell & ~missing:
            return _growth_between_restarts(samples)
        grown = [
            0.0 if missing >> number & 1 else last - first
            for number, (first, last) in enumerate(zip(_COUNTERS(samples[0]), _COUNTERS(earlier), strict=True))
        ]
        return earlier.at_seconds - samples[0].at_seconds, Growth(*grown)

    def forget_others(self, samples: Sequence[EngineSample]) -> None:
        """Release the pairs of samples that are no longer kept, where there are many of them."""
        if len(self._steps) > len(samples) + _SPARE_STEPS:
            kept = set(map(id, samples))
            self._steps = {key: step for key, step in self._steps.items() if key in kept}


def counter_steps(page: TargetHistory) -> CounterSteps:
    """Return the steps of a history. They are kept with it, and passed on to the history that follows it."""
    steps: CounterSteps = page.between_samples.setdefault(_STEPS, CounterSteps())
    steps.forget_others(page.samples)
    return steps


def _compare(earlier: EngineSample, later: EngineSample) -> _Step:
    fell, missing = 0, 0
    for number, (before, after) in enumerate(zip(_COUNTERS(earlier), _COUNTERS(later), strict=True)):
        if before is None or after is None:
            missing |= 1 << number
        elif not before <= after:
            fell |= 1 << number
    return earlier, later, fell, missing


def _growth_between_restarts(samples: Sequence[EngineSample]) -> tuple[float, Growth]:
    columns = [*zip(*map(_COUNTERS, samples), strict=True)]
    known = [number for number, column in enumerate(columns) if None not in column]
    seconds, total = 0.0, [0.0] * len(columns)
    for earlier in range(len(samples) - 1):
        growth = [columns[number][earlier + 1] - columns[number][earlier] for number in known]
        if min(growth) >= 0:  # otherwise the engine was restarted
            seconds += samples[earlier + 1].at_seconds - samples[earlier].at_seconds
            for number, one in zip(known, growth, strict=True):
                total[number] += one
    return seconds, Growth(*total)
