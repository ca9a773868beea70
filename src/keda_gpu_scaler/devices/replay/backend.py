# SPDX-License-Identifier: Apache-2.0
"""The replay backend: plays a recording in a loop.

Law: a recording that can be opened plays for ever without an error. A line that cannot be read is a gap, and a value
that no device can have is unknown; both are counted in a warning. A file without anything to play is refused when it is
opened, with what to record instead.

A recording may have the pages of engines too. They are only kept here; ``engine_recording`` has them, and
``scrape.replay_client`` plays them.

It plays recordings of this program and the logs of ``devices.replay.formats``, plain or gzipped. The text is read in
pieces, and at most one page of a log is kept. Each sample of a device takes 66 bytes of memory, a performance reading
88, and each moment 24. ``MAX_BYTES`` limits the file, and ``MAX_ROWS`` limits the memory to about 160 MB.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.replay.log_format import Moment, UnreadableLineError, UnreadableLogError, ValueTally
from keda_gpu_scaler.devices.replay.log_lines import LogLines
from keda_gpu_scaler.devices.replay.log_moments import between
from keda_gpu_scaler.devices.replay.text_reader import TextReader, open_recording
from keda_gpu_scaler.devices.replay.timeline import Timeline
from keda_gpu_scaler.wire.engine_recording import EngineRecordingBuilder, decode_record, is_record
from keda_gpu_scaler.wire.recording import decode_header, looks_like_header
from keda_gpu_scaler.wire.snapshot_codec import MAX_SAMPLES, MAX_SOURCE_LENGTH, CodecError, decode

MAX_ROWS = 2_000_000
"""The most samples of all devices together, and of their performance readings: almost three days of eight devices, one
sample a second."""
MAX_LINES = 2 * MAX_ROWS
"""The most lines, headers and blank lines included: a file that unpacks into blank lines only is refused early."""
MAX_SPEED = 1e6

_MAX_FILE_NAME = 200
_NOTHING = "it holds no sample of any device, and no workload with engines"
_RECORDING = re.compile(r'\s*\{\s*"(?:recording|version)"')
_log = logging.getLogger(__name__)


class ReplayBackend:
    """Plays a recording in a loop, on the caller's clock. The first read is the beginning of the recording.

    The constructor reads the file once and closes it, so that a recording that cannot be played is an error at the
    start. ``speed`` is the number of recorded seconds that pass in one second.

    Raises:
        BackendError: the file cannot be read, or cannot be played.
    """

    def __init__(self, path: str | os.PathLike[str], speed: float = 1.0) -> None:
        if not 0 < speed <= MAX_SPEED:
            raise BackendError(f"speed: Invalid value: {speed:g}: must be a number above 0, at most {MAX_SPEED:g}")
        self._speed = speed
        self._name = _printable(Path(path).name)
        self._timeline = Timeline()
        self._sources: list[str] = []
        self._started_at: float | None = None
        self._engines = EngineRecordingBuilder()
        self._load(path)
        self.engine_recording = self._engines.build()
        if self.engine_recording is not None and speed != 1:
            raise BackendError(
                f"--replay-speed: Invalid value: {speed:g}: must be 1, because {path} has engines, and their counters "
                "would grow at another speed"
            )
        if self._timeline:
            self._timeline.finish()

    def __repr__(self) -> str:
        timeline = self._timeline
        return (
            f"<ReplayBackend of {self._name!r}: {timeline.device_count} devices, {len(timeline)} moments, "
            f"{timeline.duration_seconds:g} s, speed {self._speed:g}>"
        )

    @property
    def source(self) -> str:
        """The origin of the readings: the file, and the source that a recording names."""
        if not self._sources:
            return f"replay of {self._name}"
        return f"replay of {self._name} (recorded from {' and '.join(self._sources)})"[:MAX_SOURCE_LENGTH]

    @property
    def deviceless(self) -> bool:
        """Whether the recording has engines and no device. A recording without both is refused."""
        return not self._timeline

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return the last samples before this position; the readings of a device without a sample there are unknown."""
        if self._started_at is None:
            self._started_at = now
        if self.deviceless:
            return ()
        return self._timeline.at((now - self._started_at) * self._speed, self._started_at, self._speed)

    def overdue_call(self) -> str | None:
        """Return None: it calls no driver."""
        return None

    def close(self) -> None:
        """Do nothing: the file is closed already, and the recording continues at the next read."""

    def _load(self, path: str | os.PathLike[str]) -> None:
        with open_recording(path) as file:
            text = TextReader(file, str(path))
            loss = _LineLoss()
            try:
                parser = self._read_all(text, loss)
            except UnreadableLogError as error:
                raise BackendError(f"cannot replay {path}: {_not_text(text) or error}") from None
        if not self._timeline and self._engines.build() is None:
            raise BackendError(f"cannot replay {path}: {self._why_empty(parser, text, loss)}")
        if parser and parser.impossible.count and not self._timeline.has_reading:
            # A text whose lines only look like a log. A log of a lost device has [N/A], which is no impossible value.
            raise BackendError(f"cannot replay {path}: it holds no reading of any device; {parser.impossible.first}")
        self._warn(path, parser, text, loss)

    def _read_all(self, text: TextReader, loss: "_LineLoss") -> "_RecordingParser | None":
        parser: _RecordingParser | None = None
        for number, line in enumerate(text.lines(), 1):
            if number > MAX_LINES:
                raise UnreadableLogError(f"it has more than {MAX_LINES} lines; cut it into parts")
            if line and not line.isspace():
                parser = parser or self._parser(line)
                self._read(partial(parser.line, line), number, loss)
        if parser:
            self._read(parser.end, loss.last_line, loss)
        return parser

    def _read(self, moments: Callable[[], Iterable[Moment]], number: int, loss: "_LineLoss") -> None:
        """Add the moments of a line. A line that cannot be read is a gap."""
        loss.last_line = number
        try:
            for moment in moments():
                self._add(moment)
        except UnreadableLineError as error:
            raise UnreadableLogError(f"line {number}: {error}") from None
        except UnreadableLogError:
            raise
        except ValueError as error:
            loss.add(number, str(error))

    def _warn(
        self, path: str | os.PathLike[str], parser: "_RecordingParser | None", text: TextReader, loss: "_LineLoss"
    ) -> None:
        is_at_end = loss.count == 1 and loss.line == loss.last_line
        if text.cut_off or is_at_end:
            _log.warning(
                "%s is incomplete at its end; the complete part is played (%s)", path, loss.first or "gzip is cut off"
            )
        if loss.count and not is_at_end:
            _log.warning(
                "%s: %d line(s) cannot be read: each is a gap in the replay; the first is %s",
                path,
                loss.count,
                loss.first,
            )
        if parser and parser.impossible.count:
            impossible = parser.impossible
            _log.warning(
                "%s: %d value(s) are impossible: each is unknown in the replay; the first is %s",
                *(path, impossible.count, impossible.first),
            )

    def _parser(self, line: str) -> "_RecordingParser":
        return _RecordingLines(self._sources, self._engines) if _RECORDING.match(line) else LogLines()

    def _add(self, moment: Moment) -> None:
        self._timeline.add(moment)
        for count, limit, what in (
            (self._timeline.device_count, MAX_SAMPLES, "devices"),
            (self._timeline.row_count, MAX_ROWS, "samples"),
        ):
            if count > limit:
                raise BackendError(f"cannot replay {self._name}: it has more than {limit} {what}; cut it into parts")

    def _why_empty(self, parser: "_RecordingParser | None", text: TextReader, loss: "_LineLoss") -> str:
        if text.cut_off:
            return "it is cut off before the first sample; record it again"
        return _not_text(text) or loss.first or (_NOTHING if parser else "it is empty")


@dataclass(slots=True)
class _LineLoss:
    """The lines that cannot be read: how many, and the first one with its number."""

    count: int = 0
    line: int = 0
    first: str = ""
    last_line: int = 0

    def add(self, number: int, sentence: str) -> None:
        self.count += 1
        if not self.first:
            self.line, self.first = number, f"line {number}: {sentence}"


class _RecordingParser(Protocol):
    """Parses lines in order. A line may complete moments. Raises ValueError with a sentence."""

    @property
    def impossible(self) -> ValueTally: ...

    def line(self, text: str) -> Iterable[Moment]: ...

    def end(self) -> Iterable[Moment]: ...


class _RecordingLines:
    """Parses a recording of this program, or several joined recordings."""

    def __init__(self, sources: list[str], engines: EngineRecordingBuilder) -> None:
        self.impossible = ValueTally()
        self._sources = sources
        self._engines = engines
        self._expects_header = True
        self._at: float | None = None
        self._has_gap = False

    def line(self, text: str) -> Iterable[Moment]:
        if self._expects_header or looks_like_header(text):
            # Without its header, what follows is not read: a later version may mean something else.
            self._expects_header = True
            try:
                header = decode_header(text)
            except CodecError as error:
                raise CodecError(f"the header of a recording: {error}") from None
            self._expects_header = False
            if header.interval_seconds is not None:
                self._add_to_engines(lambda: self._engines.begin(header.interval_seconds or 1.0))
            if header.source and header.source not in self._sources:
                self._sources.append(header.source)
            return ()
        if is_record(text):
            record = decode_record(text)
            self._add_to_engines(lambda: self._engines.add(record))
            return ()
        try:
            snapshot = decode(text)
        except CodecError:
            self._has_gap = True
            raise
        before, self._at, has_gap, self._has_gap = self._at, snapshot.at_seconds, self._has_gap, False
        moment = Moment(snapshot.at_seconds, snapshot.samples)
        return (
            (Moment(between(before, snapshot.at_seconds), ()), moment) if has_gap and before is not None else (moment,)
        )

    def end(self) -> Iterable[Moment]:
        return ()

    def _add_to_engines(self, add: Callable[[], None]) -> None:
        """Add to the engines. What exceeds a limit, or has another clock, is no gap: the file is refused."""
        try:
            add()
        except CodecError as error:
            raise UnreadableLineError(str(error)) from None


def _not_text(text: TextReader) -> str:
    near = text.not_text_at
    return "" if near is None else f"it is not text near byte {near}; it must be a recording or a log of a tool"


def _printable(name: str) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= _MAX_FILE_NAME else shown[: _MAX_FILE_NAME - 1] + "…"
