# SPDX-License-Identifier: Apache-2.0
"""The samples of one simulated target, kept as the scraper keeps them, one after another.

Law: after each sample it holds what ``core.state.scrape.retained`` returns, for samples of one engine and in one unit.
``retained`` looks at every kept sample each time, which takes longer than the simulation between two scrapes. Here only
a sample that leaves the window is looked at.
"""

from collections import deque
from itertools import chain

from keda_gpu_scaler.core.state.scrape import MAX_SAMPLES, step_begin, thinned
from keda_gpu_scaler.core.types import EngineSample


class SampleHistory:
    """The kept samples.

    Args:
        window_seconds: the longest window of a consumer.
        history_seconds: how far back the history goes.
    """

    __slots__ = ("_count", "_history_seconds", "_older", "_steps", "_window_seconds")

    def __init__(self, window_seconds: float, history_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._history_seconds = history_seconds
        self._older: deque[EngineSample] = deque()
        # The samples that are not thinned, by the step of the history.
        self._steps: deque[deque[EngineSample]] = deque()
        self._count = 0

    def add(self, sample: EngineSample) -> tuple[EngineSample, ...]:
        """Add a sample, which is newer than every other one, and return those to keep, the oldest first."""
        now, steps = sample.at_seconds, self._steps
        if not steps or step_begin(steps[-1][-1].at_seconds) != step_begin(now):
            steps.append(deque())
        steps[-1].append(sample)
        self._count += 1
        begin = now - self._window_seconds
        if self._history_seconds > self._window_seconds:
            self._thin(begin, step_begin(now - self._history_seconds))
        else:
            self._drop(begin)
        while len(self._older) + self._count > MAX_SAMPLES:
            if self._older:
                self._older.popleft()
            else:
                self._drop_first()
        return (*self._older, *chain.from_iterable(steps))

    def _thin(self, begin: float, history_begin: float) -> None:
        """Keep one sample of each step before that of the last sample that is not in the window."""
        older, steps = self._older, self._steps
        while older and older[0].at_seconds < history_begin:
            older.popleft()
        while len(steps) > 1 and steps[1][0].at_seconds <= begin:
            step = steps.popleft()
            self._count -= len(step)
            if step[0].at_seconds >= history_begin:
                older.append(thinned(step))
        if steps[0][0].at_seconds < history_begin:
            self._drop(begin)

    def _drop(self, begin: float) -> None:
        """Drop what is older than the last sample that is not in the window."""
        while self._count > 1 and self._second().at_seconds <= begin:
            self._drop_first()

    def _second(self) -> EngineSample:
        return self._steps[0][1] if len(self._steps[0]) > 1 else self._steps[1][0]

    def _drop_first(self) -> None:
        self._steps[0].popleft()
        self._count -= 1
        if not self._steps[0]:
            self._steps.popleft()
