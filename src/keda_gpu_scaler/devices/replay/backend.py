# SPDX-License-Identifier: Apache-2.0
"""The replay backend: plays a recording in a loop.

Law: a recording that can be opened plays for ever without an error. A recording that cannot be played is refused when
it is opened, with its file, line and value.

A recording may have the pages of engines too. They are only kept here; ``engine_recording`` has them, and
``scrape.replay_client`` plays them.

It plays recordings of this program and logs of ``nvidia-smi --query-gpu=… --format=csv``, plain or gzipped. The text is
read in pieces and is not kept: each sample of a device takes 52 bytes of memory, and each moment takes 24.
``MAX_BYTES`` limits the file, and ``MAX_ROWS`` limits the memory to about 150 MB.
"""

import logging
import os
from pathlib import Path
from typing import Protocol

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.devices.replay.nvidia_smi_log import Moment, NvidiaSmiLog
from keda_gpu_scaler.devices.replay.text_reader import TextReader, open_recording
from keda_gpu_scaler.devices.replay.timeline import Timeline
from keda_gpu_scaler.wire.engine_recording import EngineRecordingBuilder, decode_record, is_record
from keda_gpu_scaler.wire.recording import decode_header, looks_like_header
from keda_gpu_scaler.wire.snapshot_codec import MAX_SAMPLES, MAX_SOURCE_LENGTH, CodecError, decode

MAX_ROWS = 2_000_000
"""The most samples of all devices together: almost three days of eight devices, one sample a second."""
MAX_LINES = 2 * MAX_ROWS
"""The most lines, headers and blank lines included: a file that unpacks into blank lines only is refused early."""
MAX_SPEED = 1e6

_MAX_FILE_NAME = 200
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
        return self._timeline.at((now - self._started_at) * self._speed)

    def overdue_call(self) -> str | None:
        """Return None: it calls no driver."""
        return None

    def close(self) -> None:
        """Do nothing: the file is closed already, and the recording continues at the next read."""

    def _load(self, path: str | os.PathLike[str]) -> None:
        problem: str | None = None
        with open_recording(path) as file:
            text = TextReader(file, str(path))
            parser: _RecordingParser | None = None
            for number, line in enumerate(text.lines(), 1):
                if number > MAX_LINES:
                    raise BackendError(f"cannot replay {path}: it has more than {MAX_LINES} lines; cut it into parts")
                if not line or line.isspace():
                    continue
                if problem:
                    raise BackendError(f"cannot replay {path}: {problem}")
                try:
                    parser = parser or self._parser(line)
                    self._add(parser.line(line))
                except ValueError as error:
                    problem = f"line {number}: {error}"
            if parser:
                self._add(parser.end())
        # Only the last line can be incomplete because the writer was interrupted; other lines must be playable.
        if not self._timeline and self._engines.build() is None:
            raise BackendError(f"cannot replay {path}: {problem or self._why_empty(parser, text)}")
        if problem or text.cut_off:
            _log.warning(
                "%s is incomplete at its end; the complete part is played (%s)", path, problem or "gzip is cut off"
            )

    def _parser(self, line: str) -> "_RecordingParser":
        return _RecordingLines(self._sources, self._engines) if line.lstrip().startswith("{") else NvidiaSmiLog()

    def _add(self, moment: Moment | None) -> None:
        if moment is None:
            return
        self._timeline.add(moment)
        for count, limit, what in (
            (self._timeline.device_count, MAX_SAMPLES, "devices"),
            (self._timeline.row_count, MAX_ROWS, "samples"),
        ):
            if count > limit:
                raise BackendError(f"cannot replay {self._name}: it has more than {limit} {what}; cut it into parts")

    def _why_empty(self, parser: "_RecordingParser | None", text: "TextReader") -> str:
        if text.cut_off:
            return "it is cut off before the first sample; record it again"
        return "it holds no sample of any device, and no workload with engines" if parser else "it is empty"


class _RecordingParser(Protocol):
    """Parses lines in order. A line may complete the moment before it. Raises ValueError with a sentence."""

    def line(self, text: str) -> Moment | None: ...

    def end(self) -> Moment | None: ...


class _RecordingLines:
    """Parses a recording of this program, or several joined recordings."""

    def __init__(self, sources: list[str], engines: EngineRecordingBuilder) -> None:
        self._sources = sources
        self._engines = engines
        self._expects_header = True

    def line(self, text: str) -> Moment | None:
        if self._expects_header or looks_like_header(text):
            try:
                header = decode_header(text)
                if header.interval_seconds is not None:
                    self._engines.begin(header.interval_seconds)
            except CodecError as error:
                raise CodecError(f"the header of a recording: {error}") from None
            self._expects_header = False
            if header.source and header.source not in self._sources:
                self._sources.append(header.source)
            return None
        if is_record(text):
            self._engines.add(decode_record(text))
            return None
        snapshot = decode(text)
        return Moment(snapshot.at_seconds, snapshot.samples)

    def end(self) -> Moment | None:
        return None


def _printable(name: str) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= _MAX_FILE_NAME else shown[: _MAX_FILE_NAME - 1] + "…"
