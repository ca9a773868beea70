# SPDX-License-Identifier: Apache-2.0
"""Reads the backends of several vendors as one: a node with devices of different makers.

Law: a vendor that cannot be read takes nothing from the others. Its devices stay listed with every reading unknown.

Every device keeps the index that its own driver gives it, so on such a node two devices may have the index 0. Their
UUIDs differ.
"""

import logging
from collections.abc import Mapping

from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.core.types import Device, ReadingFailure, Sample
from keda_gpu_scaler.devices.failure_log import MAX_REASON_LENGTH
from keda_gpu_scaler.devices.registry import COMBINED_BY

_logger = logging.getLogger(__name__)


class CombinedBackend:
    """Reads each backend in turn.

    Args:
        backends: at least two backends by their names, in the order in which they are read.
    """

    deviceless = False

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = dict(backends)
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
        for name, backend in self._backends.items():
            try:
                found = backend.read(now)
            except BackendError as error:
                failures[name] = str(error)
                since = self._failed_at.setdefault(name, now)
                reasons = (ReadingFailure("", str(error)[:MAX_REASON_LENGTH], since),)
                samples += [Sample(device, failures=reasons) for device in self._listed.get(name, ())]
            else:
                self._failed_at.pop(name, None)
                self._listed[name] = tuple(sample.device for sample in found)
                samples += found
        self._log_changes(failures)
        if len(failures) == len(self._backends):
            raise BackendError("; ".join(failures.values()))
        return tuple(sorted(samples, key=lambda sample: (sample.device.index, sample.device.uuid)))

    def overdue_call(self) -> str | None:
        """Return which call of a vendor's driver has kept ``read`` waiting for a while; None where none has."""
        return next((call for backend in self._backends.values() if (call := backend.overdue_call())), None)

    def close(self) -> None:
        """Close every backend."""
        for backend in self._backends.values():
            backend.close()

    def _log_changes(self, failures: dict[str, str]) -> None:
        for name, sentence in failures.items():
            if self._failures.get(name) != sentence:
                _logger.warning("the devices of %s cannot be read: %s", name, sentence)
        for name in self._failures.keys() - failures.keys():
            _logger.info("the devices of %s can be read again", name)
        self._failures = failures
