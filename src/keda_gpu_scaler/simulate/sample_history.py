# SPDX-License-Identifier: Apache-2.0
"""The samples of one simulated target, kept as the scraper keeps them, one after another.

Law: after each sample it holds what ``core.state.scrape.retained`` returns, for samples of one engine and in one unit.
``retained`` looks at every kept sample each time, which takes longer than the simulation between two scrapes. Here only
a sample that leaves the window is looked at.
"""

from collections import deque

from keda_gpu_scaler.core.state.scrape import HISTORY_STEP_SECONDS, MAX_SAMPLES, without_histograms
from keda_gpu_scaler.core.types import EngineSample


class SampleHistory:
    """The kept samples.

    Args:
        window_seconds: the longest window of a consumer.
        history_seconds: how far back the history goes.
    """

    __slots__ = ("_history_seconds", "_older", "_recent", "_window_seconds")

    def __init__(self, window_seconds: float, history_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._history_seconds = history_seconds
        self._older: deque[EngineSample] = deque()
        self._recent: deque[EngineSample] = deque()

    def add(self, sample: EngineSample) -> tuple[EngineSample, ...]:
        """Add a sample, which is newer than every other one, and return those to keep, the oldest first."""
        now, older, recent = sample.at_seconds, self._older, self._recent
        recent.append(sample)
        begin = now - self._window_seconds
        while older and now - older[0].at_seconds > self._history_seconds:
            older.popleft()
        while len(recent) > 1 and recent[1].at_seconds <= begin:
            self._age(recent.popleft(), now)
        while len(older) + len(recent) > MAX_SAMPLES:
            (older or recent).popleft()
        return (*older, *recent)

    def _age(self, sample: EngineSample, now: float) -> None:
        """Keep a sample that is older than the window, unless there is one in the same step of the history."""
        older = self._older
        if now - sample.at_seconds > self._history_seconds:
            return
        if older and older[-1].at_seconds // HISTORY_STEP_SECONDS == sample.at_seconds // HISTORY_STEP_SECONDS:
            return
        older.append(without_histograms(sample))
