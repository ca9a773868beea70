# SPDX-License-Identifier: Apache-2.0
"""Runs a job for each of several subjects, so that one that hangs costs no other its result.

Law: a subject has one job at a time. A job that has overrun is not waited for again, and its result is used when it
comes.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

from keda_gpu_scaler.devices.reader_threads import ReaderJob, ReaderThreads

_Key = TypeVar("_Key", bound=Hashable)


class JobGroup(Generic[_Key]):
    """The jobs of subjects, by a key for each.

    Args:
        threads: run the jobs.
    """

    def __init__(self, threads: ReaderThreads) -> None:
        self._threads = threads
        self._jobs: dict[_Key, ReaderJob] = {}
        self._slow: set[_Key] = set()

    def is_busy(self, key: _Key) -> bool:
        """Whether a job of an earlier run has not ended."""
        return key in self._jobs and not self._jobs[key].is_done

    def run(self, functions: Mapping[_Key, Callable[[], object]]) -> dict[_Key, ReaderJob]:
        """Run a function for each subject that is not busy; return the job with the newest result of each subject.

        Where a subject has no result yet, its job has not ended (``is_done``). It goes on in its thread.

        Args:
            functions: what to run, in this order, by the subject's key. The key is the subject's name for people.
        """
        late = {key: job for key in functions if (job := self._take(key)) is not None}
        awaited: list[ReaderJob] = []
        for key, function in functions.items():
            if key in self._jobs:
                continue
            job = self._jobs[key] = ReaderJob(str(key), function)
            if key in self._slow:
                self._threads.start(job)
            else:
                awaited.append(job)
        self._threads.run(awaited)
        return {key: self._take(key) or late.get(key) or self._jobs[key] for key in functions}

    def _take(self, key: _Key) -> ReaderJob | None:
        """Return the subject's job if it has ended, and let the next one be started."""
        job = self._jobs.get(key)
        if job is None:
            return None
        if not job.is_done:
            self._slow.add(key)
            return None
        del self._jobs[key]
        if self._threads.has_overrun(job):
            self._slow.add(key)
        else:
            self._slow.discard(key)
        return job
