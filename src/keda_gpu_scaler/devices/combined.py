# SPDX-License-Identifier: Apache-2.0
"""Reads the backends of several vendors as one: a node with devices of different makers.

Law: a vendor that cannot be read, or does not answer, takes nothing from the others. Its devices stay listed with every
reading unknown. A driver that hangs before it has listed its devices is one unknown device.

Every device keeps the index that its own driver gives it, so on such a node two devices may have the index 0. Their
UUIDs differ.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Device, ReadingFailure, Sample
from keda_gpu_scaler.devices.failure_log import MAX_REASON_LENGTH, reason_of_defect
from keda_gpu_scaler.devices.job_group import JobGroup
from keda_gpu_scaler.devices.reader_threads import DriverHangError, ReaderJob, ReaderThreads
from keda_gpu_scaler.devices.registry import COMBINED_BY

OVERRUN_SECONDS = 3.0
"""How long the other vendors wait for one: longer than NVML's backend waits for one GPU and then for the others."""

_logger = logging.getLogger(__name__)


class CombinedBackend:
    """Reads each backend in turn, in a reader thread.

    A backend whose read hangs, as while its driver opens, keeps one thread until the read returns. The others are read
    in another one.

    Args:
        backends: at least two backends by their names, in the order in which they are read.
    """

    deviceless = False

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = dict(backends)
        self._jobs: JobGroup[str] = JobGroup(ReaderThreads(OVERRUN_SECONDS, name="vendor-reader"))
        self._listed: dict[str, tuple[Device, ...]] = {}
        self._failures: dict[str, str] = {}
        self._failed_at: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<CombinedBackend {self.source}>"

    @property
    def source(self) -> str:
        """The names of the backends: "amd,nvml"."""
        return COMBINED_BY.join(self._backends)

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return one sample of every device of every backend, in the order of their indices.

        Raises:
            BackendError: no backend can be read; the sentence has each reason.
        """
        samples: list[Sample] = []
        failures: dict[str, str] = {}
        jobs = self._jobs.run({name: partial(backend.read, now) for name, backend in self._backends.items()})
        for name, job in jobs.items():
            if job.is_done and job.error is None:
                samples += self._samples(name, job)
                continue
            failures[name] = _failure(job)
            since = self._failed_at.setdefault(name, now)
            reasons = (ReadingFailure("", failures[name][:MAX_REASON_LENGTH], since),)
            is_hanging = not job.is_done or isinstance(job.error, DriverHangError)
            devices = self._listed.get(name) or ((_unlisted(name),) if is_hanging else ())
            samples += [Sample(device, failures=reasons) for device in devices]
        self._log_changes(failures, jobs)
        if len(failures) == len(self._backends):
            raise BackendError("; ".join(failures.values()))
        return tuple(sorted(samples, key=lambda sample: (sample.device.index, sample.device.uuid)))

    def overdue_call(self) -> str | None:
        """Return None: no vendor keeps ``read`` waiting. The samples of its devices have the call that hangs."""
        return None

    def close(self) -> None:
        """Close every backend, except one that is still read. Its process ends, or it is read again."""
        for name, backend in self._backends.items():
            if not self._jobs.is_busy(name):
                backend.close()

    def _samples(self, name: str, job: ReaderJob) -> list[Sample]:
        """Return what a vendor's job read."""
        self._failed_at.pop(name, None)
        found: tuple[Sample, ...] = job.result
        self._listed[name] = tuple(sample.device for sample in found)
        lag = job.lag_seconds()
        return [replace(sample, lag_seconds=sample.lag_seconds + lag) if lag else sample for sample in found]

    def _log_changes(self, failures: dict[str, str], jobs: Mapping[str, ReaderJob]) -> None:
        for name, sentence in failures.items():
            if self._failures.get(name) != sentence:
                error = jobs[name].error
                if error is not None and not isinstance(error, BackendError):
                    _logger.error("the %s backend broke its contract", name, exc_info=error)
                _logger.warning("the devices of %s cannot be read: %s", name, sentence)
        for name in self._failures.keys() - failures.keys():
            _logger.info("the devices of %s can be read again", name)
        self._failures = failures


def _unlisted(name: str) -> Device:
    """Return what stands for the devices of a driver that hangs before it has listed any.

    Without it, the largest value of the other vendors' devices would pass for that of the node.
    """
    return Device(f"{name}-unlisted", 0, "", names=(f"{name}-unlisted",))


def _failure(job: ReaderJob) -> str:
    """Return why a vendor's devices cannot be read."""
    if job.error is None:
        return job.describe()
    return str(job.error) if isinstance(job.error, BackendError) else reason_of_defect(job.error)
