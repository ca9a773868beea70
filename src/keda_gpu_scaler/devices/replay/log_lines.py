# SPDX-License-Identifier: Apache-2.0
"""Recognises the format of a log by its first lines, and reads it."""

from collections.abc import Iterable
from contextlib import suppress

from keda_gpu_scaler.devices.replay.log_format import (
    LogError,
    LogParser,
    Moment,
    UnreadableLogError,
    ValueTally,
    formats,
)

MAX_HEAD_LINES = 200
"""Within so many lines a log shows its format. Messages of programs before it are skipped."""


class LogLines:
    """Reads the lines of a log in any format."""

    def __init__(self) -> None:
        self._head: list[str] = []
        self._parser: LogParser | None = None

    @property
    def impossible(self) -> ValueTally:
        """The values so far that were made unknown."""
        return self._parser.impossible if self._parser else ValueTally()

    def line(self, text: str) -> Iterable[Moment]:
        """Return the moments that are complete, after this line.

        Raises:
            LogError: the line cannot be read.
            UnreadableLogError: the format is not known.
        """
        if self._parser is not None:
            return self._parser.line(text)
        found = next((one for one in formats() if one.recognises(text)), None)
        if found is None:
            self._head.append(text)
            if len(self._head) >= MAX_HEAD_LINES:
                raise self._unknown()
            return ()
        self._parser = found.open()
        moments: list[Moment] = []
        for before in self._head:
            # Mostly messages of other programs. A time and the beginning of an object belong to the log.
            with suppress(LogError):
                moments += self._parser.line(before)
        self._head.clear()
        moments += self._parser.line(text)
        return moments

    def end(self) -> Iterable[Moment]:
        """Return the last moments.

        Raises:
            LogError: the last page is cut off.
            UnreadableLogError: the format is not known.
        """
        if self._parser is not None:
            return self._parser.end()
        if self._head:
            raise self._unknown()
        return ()

    def _unknown(self) -> UnreadableLogError:
        from keda_gpu_scaler.devices.replay.unreadable_logs import reason_of

        return UnreadableLogError(reason_of(self._head))
