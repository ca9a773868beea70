# SPDX-License-Identifier: Apache-2.0
"""Measures the growth of an engine's counters over its samples, pair by pair.

Law: an interval in which a counter fell is not counted. A pair of neighbours is compared once, however many windows and
spans contain it. Neighbours that belong to one run without a fall need no further look.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, le, sub
from typing import Any, NamedTuple

from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.types import EngineSample

_STEPS = "steps"
_SPARE_STEPS = 8


class CounterGrowth(NamedTuple):
    """The growth of every counter, in the order of ``_COUNTERS``; 0 where a counter is missing in a sample."""

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


def counter_bits(*names: str) -> int:
    """Return these fields of ``CounterGrowth`` as bits."""
    return sum([1 << CounterGrowth._fields.index(name) for name in names])


class _Step(NamedTuple):
    """What two neighbours say about the counters, which are bits here.

    ``before`` and ``after`` are the counters, with 0 for a missing one. ``fell`` has those that fell. ``missing`` has
    those that are missing in one of both, ``absent`` those that are missing in both, and ``missing_after`` those that
    are missing in the later sample. ``first`` is the sample with which the run began to which the later one belongs: in
    a run no counter fell, came or went.
    """

    earlier: EngineSample
    later: EngineSample
    before: tuple[float, ...]
    after: tuple[float, ...]
    fell: int
    missing: int
    absent: int
    missing_after: int
    first: EngineSample


class CounterSteps:
    """The compared pairs of neighbouring samples of one history, to whose end samples are added. Any may be dropped."""

    def __init__(self) -> None:
        self._steps: dict[int, _Step] = {}  # by the identity of the later sample, which the step keeps

    @property
    def count(self) -> int:
        """The number of compared pairs that are kept."""
        return len(self._steps)

    def growth(self, samples: Sequence[EngineSample]) -> tuple[float, CounterGrowth, int]:
        """Return the seconds of the intervals in which no counter fell, and the growth of every counter in them.

        A counter that is missing in one of the samples has no growth. The third number has these counters as bits
        (``counter_bits``).
        """
        last = self._step(samples[max(0, len(samples) - 2)], samples[-1])
        if last.first is samples[0] or last.first.at_seconds < samples[0].at_seconds:
            grown: Iterable[float] = map(sub, last.after, self._counters(samples[0])[0])
            return samples[-1].at_seconds - samples[0].at_seconds, CounterGrowth(*grown), last.missing
        return self._growth_of_pairs(samples)

    def _growth_of_pairs(self, samples: Sequence[EngineSample]) -> tuple[float, CounterGrowth, int]:
        first = last = self._step(samples[0], samples[min(1, len(samples) - 1)])
        fell, missing, absent = first.fell, first.missing, first.absent
        earlier = first.later
        for later in samples[2:]:
            step = self._steps.get(id(later))
            if step is None or step.earlier is not earlier or step.later is not later:
                step = self._step(earlier, later)
            fell |= step.fell
            missing |= step.missing
            absent &= step.absent
            earlier, last = later, step
        if fell & ~missing:
            return *_growth_between_restarts(samples), missing
        grown: Iterable[float] = map(sub, last.after, first.before)
        if missing != absent:  # a counter came or went
            grown = [0.0 if missing >> number & 1 else one for number, one in enumerate(grown)]
        return earlier.at_seconds - samples[0].at_seconds, CounterGrowth(*grown), missing

    def _step(self, earlier: EngineSample, later: EngineSample) -> _Step:
        step = self._steps.get(id(later))
        if step is None or step.earlier is not earlier or step.later is not later:
            step = self._steps[id(later)] = self._compare(earlier, later)
        return step

    def _compare(self, earlier: EngineSample, later: EngineSample) -> _Step:
        before, missing_before = self._counters(earlier)
        after, missing_after = _counters(later)
        fell = 0
        if not all(map(le, before, after)):
            pairs = enumerate(zip(before, after, strict=True))
            fell = sum([1 << number for number, (one, other) in pairs if not one <= other])
        missing, absent = missing_before | missing_after, missing_before & missing_after
        first = later if fell or missing != absent else self._first(earlier)
        return _Step(earlier, later, before, after, fell, missing, absent, missing_after, first)

    def _counters(self, sample: EngineSample) -> tuple[tuple[float, ...], int]:
        known = self._known(sample)
        return (known.after, known.missing_after) if known is not None else _counters(sample)

    def _first(self, sample: EngineSample) -> EngineSample:
        known = self._known(sample)
        return known.first if known is not None else sample

    def _known(self, sample: EngineSample) -> _Step | None:
        """Return the compared pair of which a sample is the later one."""
        known = self._steps.get(id(sample))
        return known if known is not None and known.later is sample else None

    def forget_others(self, samples: Sequence[EngineSample]) -> None:
        """Release the pairs of samples that are no longer kept, where there are many of them."""
        if len(self._steps) > len(samples) + _SPARE_STEPS:
            kept = set(map(id, samples))
            self._steps = {key: step for key, step in self._steps.items() if key in kept}


def counter_steps(page: TargetHistory) -> CounterSteps:
    """Return the steps of a history. They are kept with it, and passed on to the history that follows it."""
    steps: CounterSteps | None = page.between_samples.get(_STEPS)
    if steps is None:
        steps = page.between_samples[_STEPS] = CounterSteps()
    steps.forget_others(page.samples)
    return steps


def _counters(sample: EngineSample) -> tuple[tuple[float, ...], int]:
    """Return the counters of a sample, with 0 for a missing one, and the missing ones as bits."""
    counters = _COUNTERS(sample)
    if None not in counters:
        return counters, 0
    missing = sum([1 << number for number, counter in enumerate(counters) if counter is None])
    return tuple([counter or 0.0 for counter in counters]), missing


def _growth_between_restarts(samples: Sequence[EngineSample]) -> tuple[float, CounterGrowth]:
    columns = [*zip(*map(_COUNTERS, samples), strict=True)]
    known = [number for number, column in enumerate(columns) if None not in column]
    seconds, total = 0.0, [0.0] * len(columns)
    for earlier in range(len(samples) - 1):
        growth = [columns[number][earlier + 1] - columns[number][earlier] for number in known]
        if min(growth) >= 0:  # otherwise the engine was restarted
            seconds += samples[earlier + 1].at_seconds - samples[earlier].at_seconds
            for number, one in zip(known, growth, strict=True):
                total[number] += one
    return seconds, CounterGrowth(*total)
