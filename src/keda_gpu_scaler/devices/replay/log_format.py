# SPDX-License-Identifier: Apache-2.0
"""The formats of logs that ``replay`` reads, and the protocol of their parsers.

Law: a file of ``devices.replay.formats`` is the only place that has to change for a new format. Each one calls
``register`` when it is imported. A log is recognised by its text, never by the name of its file.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from keda_gpu_scaler.core.types import Sample


class LogError(ValueError):
    """A line that cannot be read: a gap in the replay. The text is a sentence without the number of the line."""


class UnreadableLogError(LogError):
    """The log as a whole cannot be replayed. The sentence ends with what to record instead."""


class UnreadableLineError(UnreadableLogError):
    """The log as a whole cannot be replayed, because of this line."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The samples of one moment. ``at_seconds`` is on the log's own clock, None in a log without times."""

    at_seconds: float | None
    samples: tuple[Sample, ...]


@dataclass(slots=True)
class ValueTally:
    """Counts the values that are made unknown because a device cannot mean them, and keeps the first one."""

    count: int = 0
    first: str = ""

    def add(self, sentence: str) -> None:
        """Count one value. The sentence names its field, the value and the limit."""
        self.count += 1
        self.first = self.first or sentence


class LogParser(Protocol):
    """Reads the lines of a log in order."""

    @property
    def impossible(self) -> ValueTally:
        """The values so far that were made unknown."""

    def line(self, text: str) -> Iterable[Moment]:
        """Return the moments that are complete, after this line.

        Raises:
            LogError: the line cannot be read. It is a gap, and the next line can be read.
        """

    def end(self) -> Iterable[Moment]:
        """Return the last moments."""


@dataclass(frozen=True, slots=True)
class LogFormat:
    """One format of logs.

    Args:
        name: the tool and its format for people ("nvidia-smi dmon").
        command: the command that records such a log.
        recognises: whether a line shows that the log has this format. Lines before it are skipped.
        open: returns a parser.
        note: what readers of the reference need to know of the values.
    """

    name: str
    command: str
    recognises: Callable[[str], bool]
    open: Callable[[], LogParser]
    note: str = field(default="")


_formats: dict[str, LogFormat] = {}


def register(log_format: LogFormat) -> None:
    """Make a format known.

    Raises:
        ValueError: the name is taken.
    """
    if log_format.name in _formats:
        raise ValueError(f"formats: Duplicate value: {log_format.name}: another format has this name")
    _formats[log_format.name] = log_format


def formats() -> tuple[LogFormat, ...]:
    """Return every format, in the order of the names."""
    from keda_gpu_scaler.devices.replay import formats as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(_formats[name] for name in sorted(_formats))
