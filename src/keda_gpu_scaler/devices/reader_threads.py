# SPDX-License-Identifier: Apache-2.0
"""The threads that make the drivers' calls, so that a call that hangs keeps one thread.

Law: a job runs at most once, in one thread. A job that overruns keeps its thread until its call returns, and no other
job waits for it. There are never more of these threads than subjects, because a subject has one job at a time.

A subject is a GPU, a driver, or a vendor.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Union

from keda_gpu_scaler.core.interfaces import BackendError

OVERRUN_SECONDS = 1.0
"""How long the other GPUs wait for one GPU. A call takes microseconds to milliseconds, so this is no slow driver."""
OVERDUE_SECONDS = 5.0
"""After this time the log names a call for which the read waits. Opening a driver may take longer than that."""

_logger = logging.getLogger(__name__)


class DriverHangError(BackendError):
    """A call hangs before the devices were listed. So there is a driver, and its devices are not known."""


class RunningCall:
    """A call of a driver, while its thread is in this context: ``with RunningCall("nvmlDeviceGetPowerUsage"):``.

    Each reading makes one, so this is no dataclass and no generator.

    Args:
        name: the call for people ("the read of gpu_metrics").
    """

    __slots__ = ("name", "since_seconds")

    def __init__(self, name: str) -> None:
        self.name = name
        self.since_seconds = time.monotonic()

    def __enter__(self) -> "RunningCall":
        _waits_for[threading.get_ident()] = self
        return self

    def __exit__(self, *_: object) -> None:
        _waits_for.pop(threading.get_ident(), None)


_waits_for: dict[int, Union[RunningCall, "ReaderJob"]] = {}
"""What each thread waits for: a call, or a job that another thread runs."""


def running_call(thread: int | None) -> RunningCall | None:
    """Return the call that a thread makes now, by the thread's identifier. Any thread may call it."""
    call = None if thread is None else _waits_for.get(thread)
    return call.running_call if isinstance(call, ReaderJob) else call


def _calling_thread(thread: int | None) -> int | None:
    """Return the thread that makes a thread's call: itself, or the one that runs the job for which it waits."""
    call = None if thread is None else _waits_for.get(thread)
    return call.calling_thread if isinstance(call, ReaderJob) else thread


class ReaderJob:
    """One function for one subject. ``result`` and ``error`` are valid once ``is_done``.

    ``started_at`` is in monotonic seconds.
    """

    def __init__(self, subject: str, function: Callable[[], object]) -> None:
        self.subject = subject
        self._function = function
        self._thread: int | None = None
        self.result: Any = None
        self.error: Exception | None = None
        self.started_at: float | None = None
        self.duration_seconds = 0.0
        self.is_done = False

    def run(self) -> None:
        """Run the function in the calling thread. An exception is kept in ``error``."""
        self._thread = threading.get_ident()
        self.started_at = time.monotonic()
        try:
            self.result = self._function()
        except Exception as error:  # the thread that waits for the job raises it again
            self.error = error
        self._thread = None
        self.duration_seconds = time.monotonic() - self.started_at
        self.is_done = True

    @property
    def calling_thread(self) -> int | None:
        """The thread that makes the call that has not returned, by its identifier; None while none runs the job."""
        return _calling_thread(self._thread)

    @property
    def running_call(self) -> RunningCall | None:
        """The call that has not returned."""
        return running_call(self._thread)

    def describe(self) -> str:
        """Return which call has not returned ("nvmlDeviceGetPowerUsage has not returned")."""
        running = self.running_call
        return f"{running.name if running else 'a call of the driver'} has not returned"

    def seconds(self) -> float:
        """Return for how long the running call, or the job, has been running."""
        running = self.running_call
        began = running.since_seconds if running else self.started_at
        return 0.0 if began is None else time.monotonic() - began

    def lag_seconds(self) -> float:
        """Return how old the readings of a job are that has ended, in whole seconds.

        A driver's own averages are about a second long, so a fraction of a second is no lag.
        """
        return 0.0 if self.started_at is None else float(max(0, math.floor(time.monotonic() - self.started_at)))


class ReaderThreads:
    """Runs jobs one after the other, and leaves a job that overruns behind.

    Args:
        overrun_seconds: how long the other jobs wait for one.
        overdue_seconds: when ``finish`` names the call for which it waits.
        name: the name of the threads.
    """

    def __init__(
        self,
        overrun_seconds: float = OVERRUN_SECONDS,
        overdue_seconds: float = OVERDUE_SECONDS,
        name: str = "device-reader",
    ) -> None:
        self._name = name
        self.overrun_seconds = overrun_seconds
        self._overdue_seconds = overdue_seconds
        self._progress = threading.Condition()
        self._overdue: ReaderJob | None = None

    def overdue_call(self) -> str | None:
        """Return the call for which ``finish`` waits longer than usual, as a sentence; None where there is none."""
        job = self._overdue
        return None if job is None else f"{job.subject}: {job.describe()} for {job.seconds():.0f} s"

    def finish(self, job: ReaderJob) -> None:
        """Run a job and wait for its end, however long it takes. The log names a call that takes long.

        Raises:
            Exception: what the job raised.
        """
        thread = threading.get_ident()
        _waits_for[thread] = job
        self._start([job])
        try:
            if not self.wait([job], self._overdue_seconds):
                # Before the log line, so that who reads the line finds the same state. It is the time of the job that
                # counts, not of its running call: a job makes several.
                self._overdue = job
                _logger.warning("%s", self.overdue_call())
                self.wait([job], None)
                self._overdue = None
                _logger.info("%s: the call has returned", job.subject)
        finally:
            self._overdue = None
            _waits_for.pop(thread, None)
        if job.error is not None:
            raise job.error

    def run(self, jobs: Sequence[ReaderJob]) -> None:
        """Run jobs in one thread. Where one overruns, every job after it gets a thread of its own.

        It returns when every job is done or has overrun. A job that is not done then goes on in its thread.
        """
        waiting = self._start(jobs)
        for position, job in enumerate(jobs):
            if self.wait([job], self.overrun_seconds):
                continue
            rest = _drain(waiting)
            for other in rest:
                self._start([other])
            self.wait(jobs[position + 1 :], self.overrun_seconds)
            return

    def start(self, job: ReaderJob) -> None:
        """Run a job in a thread of its own, without waiting for it."""
        self._start([job])

    def wait(self, jobs: Sequence[ReaderJob], seconds: float | None) -> bool:
        """Wait until jobs are done, but not longer than a limit; return whether they are done.

        Every wait of this class is made here, so that a test can end one without the clock.
        """
        with self._progress:
            return self._progress.wait_for(lambda: all(job.is_done for job in jobs), seconds)

    def has_overrun(self, job: ReaderJob) -> bool:
        """Return whether a job that has ended took longer than the others wait for it."""
        return job.duration_seconds > self.overrun_seconds

    def _start(self, jobs: Sequence[ReaderJob]) -> "deque[ReaderJob]":
        waiting = deque(jobs)
        if waiting:
            threading.Thread(target=self._work, args=(waiting,), name=self._name, daemon=True).start()
        return waiting

    def _work(self, waiting: "deque[ReaderJob]") -> None:
        try:
            while True:
                waiting.popleft().run()
        except IndexError:
            # Once for all jobs of this thread: to wake the thread that waits for each of them costs more than a job.
            with self._progress:
                self._progress.notify_all()


def _drain(waiting: "deque[ReaderJob]") -> list[ReaderJob]:
    """Take every job that no thread has begun. Each is taken once, also while a thread takes some."""
    taken: list[ReaderJob] = []
    while True:
        try:
            taken.append(waiting.popleft())
        except IndexError:
            return taken
