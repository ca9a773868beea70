# SPDX-License-Identifier: Apache-2.0
"""The NVML backend: opens the driver, has its GPUs listed and read, and heals what fails.

Law: a GPU that is lost, refuses or hangs costs no other GPU a reading. NVML is opened again only while no GPU can be
read, or where that takes too little time to be noticed.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.failure_log import FailureLog, ReadingProblem
from keda_gpu_scaler.devices.nvml import LIBRARY
from keda_gpu_scaler.devices.nvml.driver import NvmlDriver
from keda_gpu_scaler.devices.nvml.errors import (
    NO_PERMISSION,
    DriverLostError,
    DriverUnusableError,
    GpuLostError,
    NvmlError,
    explain,
    reason_of,
)
from keda_gpu_scaler.devices.nvml.gpu import DeviceReading, Gpu, ListedGpu
from keda_gpu_scaler.devices.nvml.gpu_list import GpuList
from keda_gpu_scaler.devices.nvml.gpu_reader import GpuReader
from keda_gpu_scaler.devices.nvml.process_shares import PROC, ProcessShares
from keda_gpu_scaler.devices.reader_threads import ReaderJob, ReaderThreads

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
"""The driver is opened again after the first wait, then after twice as long, and so on up to this limit."""
LIST_SECONDS = 10.0
"""How often the driver is asked for new and removed GPUs: two calls a GPU."""
REOPEN_FOR_LOST_SECONDS = 300.0
"""A GPU that is lost for so long may need a new opening of NVML, as after a reset of the GPU."""
QUICK_OPEN_SECONDS = 2.0
"""An opening of NVML that takes no longer than this is not noticed beside a sample interval."""

_DRIVER = "the NVIDIA driver"
_NOT_READ = ReadingProblem("it was not read yet", until="it is")
_logger = logging.getLogger(__name__)


class NvmlBackend:
    """Reads every NVIDIA GPU of the node, and the MIG slices in the place of a GPU in MIG mode.

    A GPU keeps the index with which it was listed first, whatever order the driver lists it in later. It stays listed
    when it falls off the bus, until another GPU is at its PCI address. A GPU that the driver counts and does not
    describe is listed as unknown. A slice stays listed until its GPU reports its complete layout without the slice.

    Every call of the driver is made in a reader thread. A GPU whose call hangs keeps one thread until the call
    returns, and the other GPUs are read in another one.

    Args:
        library: the path of NVML's library; by default the dynamic loader looks for ``LIBRARY``.
        wants_performance: whether the readings that are expensive to take are wanted now.
        clock: monotonic seconds, the sampler's.
        measure_shares: whether to read what the processes of each pod use of a GPU.
        proc: the folder at which the kernel's proc is mounted.
    """

    source = "nvml"
    deviceless = False

    def __init__(
        self,
        library: str | None = None,
        *,
        wants_performance: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        measure_shares: bool = False,
        proc: Path = PROC,
    ) -> None:
        self._driver = NvmlDriver(library or LIBRARY)
        shares = ProcessShares(self._driver, proc) if measure_shares else None
        self._reader = GpuReader(self._driver, wants_performance, clock, shares)
        self._threads = ReaderThreads()
        self._gpus = GpuList()
        self._failures = FailureLog()
        self._failure = ""
        self._retry_at: float | None = None
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._list_due_at = -math.inf
        self._opened_at = -math.inf
        self._reopen_at = math.inf
        self._counting: ReaderJob | None = None
        self._driver_error: DriverLostError | None = None

    def __repr__(self) -> str:
        state = "open" if self._driver.is_open else "closed"
        return f"<NvmlBackend {self._driver.library_name} {state}, {len(self._gpus)} GPUs>"

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return one sample of every device, in the order of their indices.

        Args:
            now: monotonic seconds, for the back-offs and for the age of the lists.

        Raises:
            BackendError: the driver cannot be opened, or was lost during the read.
        """
        self._driver_error = None
        # Before the GPUs are looked up again, because the look-up is their next job.
        late = self._collect_all(now)
        was_opened = self._prepare(now)
        samples = self._read_gpus(now, {} if was_opened else late)
        if self._is_lost(samples) and not was_opened and self._retry_at is None:
            # The first attempt to open a driver that was lost needs no wait: no GPU can be read meanwhile.
            self._driver_error = None
            self._open(now)
            samples = self._read_gpus(now, {})
        if self._is_lost(samples) and self._driver_error is not None:
            self._fail(now, explain(self._driver_error, self._driver.library_name))
        self._plan_retry(now, samples)
        return tuple(sorted(samples, key=lambda sample: (sample.device.index, sample.device.uuid)))

    def overdue_call(self) -> str | None:
        """Return which call has kept ``read`` waiting for a while; a GPU whose call hangs does not."""
        return self._threads.overdue_call()

    def driver_version(self) -> str | None:
        """Return the driver's version ("580.65.06"); None while it is closed or does not return a version."""
        return self._driver.version()

    def close(self) -> None:
        """Shut NVML down. The GPUs that were listed stay known, and the next read opens NVML at once."""
        self._shut_down()
        self._retry_at = None
        self._wait_seconds = FIRST_WAIT_SECONDS

    # Opening, closing and the back-off of the driver

    def _prepare(self, now: float) -> bool:
        """Open the driver, or list the GPUs that are due; return whether the driver was opened."""
        is_waiting = self._retry_at is not None and now < self._retry_at
        if is_waiting and not self._driver.is_open:
            raise BackendError(self._failure)
        if not is_waiting and (self._retry_at is not None or not self._driver.is_open or now >= self._reopen_at):
            self._open(now)
            return True
        if now >= self._list_due_at:
            self._list_due_at = now + LIST_SECONDS
            self._list_again(now)
        else:
            self._look_up(self._gpus.due_for_look_up(), now)
        return False

    def _open(self, now: float) -> None:
        self._retry_at = None
        try:
            self._shut_down()
            count = int(self._in_thread(self._driver.open))
            self._gpus.reset(self._driver.versioned_calls())
            self._opened_at, self._list_due_at = now, now + LIST_SECONDS
            error = self._look_up(self._gpus.of_slots(count), now, is_complete=True)
            if error is not None and not self._gpus.has_identified:
                raise error
        except DriverUnusableError as error:
            self._fail(now, str(error))
        except NvmlError as error:
            self._fail(now, explain(error, self._driver.library_name))
        self._failure = ""

    def _fail(self, now: float, sentence: str) -> NoReturn:
        self._shut_down()
        self._failure = sentence
        self._schedule_retry(now)
        raise BackendError(sentence)

    # Listing

    def _list_again(self, now: float) -> None:
        """Ask for new and removed GPUs. A driver that does not answer keeps the list as it is."""
        is_new = self._counting is None
        job = self._counting = self._counting or ReaderJob(_DRIVER, self._driver.count)
        if is_new:
            self._threads.run([job])
        if not job.is_done:
            if is_new:
                _logger.warning(
                    "%s: %s; new and removed GPUs are not noticed until it returns", _DRIVER, job.describe()
                )
            return  # the GPUs that are known are read
        if not is_new:
            _logger.info("%s: the call has returned, after %.0f s", _DRIVER, job.duration_seconds)
        self._counting = None
        try:
            if job.error is not None:
                raise job.error
        except DriverLostError as error:
            self._driver_error = error
        except NvmlError as error:
            _logger.debug("the number of GPUs is not known: %s", error)
        else:
            self._look_up(self._gpus.of_slots(int(job.result)), now, is_complete=True)

    def _look_up(self, gpus: list[Gpu], now: float, *, is_complete: bool = False) -> NvmlError | None:
        """Look GPUs up by the driver's index; return an error if the driver described none of them."""
        if not gpus:
            return None
        slots = {gpu: gpu.listing.index if gpu.slot is None else gpu.slot for gpu in gpus}
        jobs = {gpu: self._assign(gpu, partial(self._driver.look_up, slots[gpu], gpu.listing)) for gpu in gpus}
        self._threads.run([job for job in jobs.values() if job is not None])
        found: list[ListedGpu] = []
        refused: dict[int, ReadingProblem] = {}
        first_error: NvmlError | None = None
        for gpu, job in jobs.items():
            slot = slots[gpu]
            if job is None or not job.is_done:
                gpu.is_slow = True
                refused[slot] = _hang(gpu)
                continue
            gpu.job = None
            if job.error is None:
                found.append(job.result)
            elif isinstance(job.error, NvmlError):
                refused[slot] = self._refusal(job.error)
                first_error = first_error or job.error
            else:
                raise job.error
        self._gpus.update(found, refused, now, is_complete=is_complete)
        return None if found else first_error

    def _refusal(self, error: NvmlError) -> ReadingProblem:
        if isinstance(error, DriverLostError):
            self._driver_error = error
        return ReadingProblem(
            f"it cannot be looked up: {reason_of(error)}", until="it can", is_lasting=error.code == NO_PERMISSION
        )

    def _assign(self, gpu: Gpu, function: Callable[[], object]) -> ReaderJob | None:
        """Give a GPU a job; return None if an earlier one is still at work."""
        if gpu.is_busy:
            return None
        gpu.job = ReaderJob(str(gpu), function)
        return gpu.job

    # Reading

    def _read_gpus(self, now: float, late: Mapping[Gpu, list[DeviceReading]]) -> list[Sample]:
        late = {**late, **self._collect_all(now)}
        jobs: list[ReaderJob] = []
        for gpu in self._gpus:
            if gpu.job is None and gpu.handle is not None:
                job = gpu.job = ReaderJob(str(gpu), partial(self._reader.read, gpu, now))
                if gpu.is_slow:
                    self._threads.start(job)
                else:
                    jobs.append(job)
        self._threads.run(jobs)
        samples: list[Sample] = []
        for gpu in self._gpus:
            # A GPU that answers slowly has a reading of the read before, which is dated so.
            readings = self._collect(gpu, now) or late.get(gpu)
            samples += self._samples(gpu, readings, now)
        self._failures.keep([sample.device.uuid for sample in samples])
        return samples

    def _collect_all(self, now: float) -> dict[Gpu, list[DeviceReading]]:
        """Take the results of the jobs that have ended since the last read."""
        collected = {gpu: self._collect(gpu, now) for gpu in self._gpus}
        return {gpu: readings for gpu, readings in collected.items() if readings is not None}

    def _collect(self, gpu: Gpu, now: float) -> list[DeviceReading] | None:
        """Take the result of a GPU's job; return None while there is none."""
        job = gpu.job
        if job is None:
            return None
        if not job.is_done:
            gpu.is_slow = True
            return None
        gpu.job = None
        gpu.is_slow = self._threads.has_overrun(job)
        if gpu.is_void:
            gpu.is_void = False
            gpu.reset(self._driver.versioned_calls())
            return None
        if isinstance(job.error, GpuLostError | DriverLostError):
            if isinstance(job.error, DriverLostError):
                self._driver_error = job.error
            gpu.lose(ReadingProblem(f"it is lost: {reason_of(job.error)}"), now)
            return None
        if job.error is not None and not isinstance(job.error, NvmlError):
            raise job.error
        if not isinstance(job.result, list):
            return None  # a look-up that hung: it is made again
        lag = job.lag_seconds()
        readings: list[DeviceReading] = job.result
        if lag <= 0:
            return readings
        return [replace(each, sample=replace(each.sample, lag_seconds=lag)) for each in readings]

    def _samples(self, gpu: Gpu, readings: list[DeviceReading] | None, now: float) -> list[Sample]:
        if readings is None:
            problem = _hang(gpu) if gpu.job is not None else gpu.problem or _NOT_READ
            readings = gpu.without_readings(problem)
        samples = []
        for each in readings:
            problems = each.problems
            if gpu.listing.problem:
                problems = {**problems, "identity": ReadingProblem(gpu.listing.problem)}
            failures = self._failures.note(each.sample.device, problems, now)
            samples.append(replace(each.sample, failures=failures) if failures else each.sample)
        return samples

    # The end of a read

    def _is_lost(self, samples: list[Sample]) -> bool:
        """Whether a call returned that the driver is lost, and no GPU gave a reading that proves the contrary."""
        return self._driver_error is not None and not any(sample.has_reading for sample in samples)

    def _plan_retry(self, now: float, samples: list[Sample]) -> None:
        """After a read: schedule that the driver is opened again, where that can help and costs no reading."""
        self._reopen_at = math.inf
        lost = [] if self._gpus.is_any_busy else self._gpus.lost
        if lost and not any(sample.has_reading for sample in samples):
            if self._retry_at is None:
                self._schedule_retry(now)
            return
        if lost and self._driver.open_seconds <= QUICK_OPEN_SECONDS:
            lost_at = min(now if gpu.lost_at is None else gpu.lost_at for gpu in lost)
            self._reopen_at = max(lost_at, self._opened_at) + REOPEN_FOR_LOST_SECONDS
        # Only a read ends the back-off. A driver that opens and then cannot be read would otherwise be opened once a
        # second for ever.
        self._retry_at = None
        self._wait_seconds = FIRST_WAIT_SECONDS

    def _schedule_retry(self, now: float) -> None:
        self._retry_at = now + self._wait_seconds
        self._wait_seconds = min(2 * self._wait_seconds, LONGEST_WAIT_SECONDS)

    def _shut_down(self) -> None:
        if not self._driver.is_open:
            return
        if self._gpus.is_any_busy:
            # A call is still in the driver. NVML counts its openings, so the next one works without a shutdown.
            self._driver.is_open = False
            return
        self._in_thread(self._driver.shut_down)

    def _in_thread(self, function: Callable[[], object]) -> Any:
        job = ReaderJob(_DRIVER, function)
        self._threads.finish(job)
        return job.result


def _hang(gpu: Gpu) -> ReadingProblem:
    """Return the problem of a GPU whose job does not end: the call that has not returned."""
    return ReadingProblem(gpu.job.describe() if gpu.job else "a call has not returned", until="the call returns")
