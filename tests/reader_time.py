# SPDX-License-Identifier: Apache-2.0
"""The time of the reader threads in tests: it passes where every call that is waited for is held.

Law: the outcome of a wait with a limit depends on the calls that a test holds, and never on the speed of the machine.
"""

import threading
from collections.abc import Collection, Iterator, Sequence
from types import SimpleNamespace
from typing import Protocol

import pytest

from keda_gpu_scaler.devices import reader_threads
from keda_gpu_scaler.devices.nvml import driver
from keda_gpu_scaler.devices.reader_threads import ReaderJob, ReaderThreads
from tests.fakes import ManualClock
from tests.limits import WAIT_SECONDS
from tests.polling import PAUSE_SECONDS

_JUST_LATER = 2**-10
"""A wait ends a little after its limit, as each real wait does. As a power of two it is exact."""


wait_by_the_clock = ReaderThreads.wait
"""The wait of the product, whose limit is real time."""


class Holder(Protocol):
    """A fake that holds calls."""

    @property
    def held_threads(self) -> Collection[int]:
        """The threads whose calls are held now."""


class Hold:
    """Holds the threads that call ``stay``, from ``hold`` to ``release``."""

    def __init__(self) -> None:
        self._may_go = threading.Event()
        self._may_go.set()
        self._threads: set[int] = set()

    @property
    def held_threads(self) -> Collection[int]:
        """The threads that are held now."""
        return () if self._may_go.is_set() else self._threads

    def hold(self) -> None:
        """Hold each thread that calls ``stay`` from now on."""
        self._may_go.clear()

    def release(self) -> None:
        """Let the threads that are held return."""
        self._may_go.set()

    def stay(self) -> None:
        """Return at once, or after the release."""
        thread = threading.get_ident()
        self._threads.add(thread)
        self._may_go.wait(WAIT_SECONDS)
        self._threads.remove(thread)


class ReaderTime(ManualClock):
    """The clock of the reader threads, and the end of their waits."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: list[Holder] = []

    @property
    def held_threads(self) -> set[int]:
        """The threads whose calls a fake holds now."""
        return {thread for holder in self.holders for thread in holder.held_threads}

    def wait(self, threads: ReaderThreads, jobs: Sequence[ReaderJob], seconds: float | None) -> bool:
        """Wait as ``ReaderThreads.wait`` does. The limit is over where each job that is not done is in a held call."""
        if seconds is None:
            return wait_by_the_clock(threads, jobs, None)
        until = self.now + seconds
        for _ in range(int(WAIT_SECONDS / PAUSE_SECONDS)):
            if wait_by_the_clock(threads, jobs, PAUSE_SECONDS):
                return True
            running = [job for job in jobs if not job.is_done]
            if running and (self.now >= until or {job.calling_thread for job in running} <= self.held_threads):
                self.now = max(self.now, until + _JUST_LATER)
                return False
        raise AssertionError(f"{[job.subject for job in running]}: neither done nor held")


@pytest.fixture
def reader_time() -> Iterator[ReaderTime]:
    """The time of the reader threads of this process. A fake that holds calls is one of its ``holders``."""
    time = ReaderTime()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReaderThreads, "wait", lambda *arguments: time.wait(*arguments))
        for module in (reader_threads, driver):
            patch.setattr(module, "time", SimpleNamespace(monotonic=time))
        yield time
