# SPDX-License-Identifier: Apache-2.0
"""Remembers since when each reading is unknown, and logs each onset and each recovery once."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from keda_gpu_scaler.core.types import Device, ReadingFailure

MAX_REASON_LENGTH = 120
"""The letters of a reason that is kept with a failure."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadingProblem:
    """Why readings are unknown. ``until`` ends the log's sentence about a device of which no reading is known.

    ``is_lasting`` says that the device does not have the reading, so that it is no fault.
    """

    reason: str
    until: str = ""
    is_lasting: bool = False


def describe(device: Device) -> str:
    """Return a device's name for logs."""
    return f"GPU {device.index} ({device.model or 'no name'}, {device.uuid})"


def reason_of_defect(error: Exception) -> str:
    """Return a printable reason of bounded length for an exception that no code expected."""
    text = f"unexpected {type(error).__name__}: {error}"
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:MAX_REASON_LENGTH]


class FailureLog:
    """The failures of every device that is listed, by the device's UUID."""

    def __init__(self) -> None:
        self._failures: dict[str, dict[str, ReadingFailure]] = {}
        self._results: dict[str, tuple[ReadingFailure, ...]] = {}

    def note(self, device: Device, problems: Mapping[str, ReadingProblem], now: float) -> tuple[ReadingFailure, ...]:
        """Return the failures of a device, and log what is new since the last call for this device.

        While no reading is known (the problem of ""), what is known of the single readings is kept as it is.

        Args:
            device: the device.
            problems: the problems of this read.
            now: monotonic seconds.
        """
        known = self._failures.get(device.uuid, {})
        if not known and not problems:
            return ()
        failures = {name: _failure(name, problem, known.get(name), now) for name, problem in problems.items()}
        if "" in problems:
            if "" not in known:
                whole = problems[""]
                _logger.warning(
                    "%s has no reading: %s; its readings are unknown until %s",
                    describe(device),
                    whole.reason,
                    whole.until or "it comes back",
                )
            failures = {**known, "": failures[""]}
        else:
            _log_onsets(device, {name: each for name, each in problems.items() if name not in known})
            _log_recoveries(device, [each for name, each in known.items() if name not in problems], now)
        self._failures[device.uuid] = failures
        return self._shared(device.uuid, (failures[""],) if "" in failures else tuple(failures.values()))

    def keep(self, uuids: Collection[str]) -> None:
        """Forget every device that is not listed any more."""
        for uuid in self._failures.keys() - set(uuids):
            del self._failures[uuid]
            self._results.pop(uuid, None)

    def _shared(self, uuid: str, failures: tuple[ReadingFailure, ...]) -> tuple[ReadingFailure, ...]:
        # The snapshots of a history share one object while nothing changes.
        if self._results.get(uuid) != failures:
            self._results[uuid] = failures
        return self._results[uuid]


def _failure(reading: str, problem: ReadingProblem, known: ReadingFailure | None, now: float) -> ReadingFailure:
    if known is not None and known.reason == problem.reason:
        return known
    since = known.since_seconds if known is not None else None if problem.is_lasting else now
    return ReadingFailure(reading, problem.reason, since)


def _log_onsets(device: Device, problems: Mapping[str, ReadingProblem]) -> None:
    lasting = [f"{name} ({each.reason})" for name, each in problems.items() if each.is_lasting]
    passing = [f"{name} ({each.reason})" for name, each in problems.items() if not each.is_lasting]
    if lasting:
        _logger.info("%s does not offer %s", describe(device), ", ".join(lasting))
    if passing:
        _logger.warning("%s has no reading of %s", describe(device), ", ".join(passing))


def _log_recoveries(device: Device, failures: list[ReadingFailure], now: float) -> None:
    for failure in failures:
        after = "" if failure.since_seconds is None else f", after {max(0.0, now - failure.since_seconds):.0f} s"
        if failure.reading:
            _logger.info("%s has a reading of %s again%s", describe(device), failure.reading, after)
        else:
            _logger.info("%s is back%s", describe(device), after)
