# SPDX-License-Identifier: Apache-2.0
"""What would these devices read now, if what was recorded happened again, over and over?

The law of this module: a recording that can be opened plays for ever without an error, and one that cannot
be played is refused when it is opened, by file, line and value.

It plays recordings of this program and logs of ``nvidia-smi --query-gpu=… --format=csv``, each as it is or
gzipped. The text is read in pieces and not kept: what stays is 52 bytes for each reading of a device, and 24
for each moment. ``MAX_BYTES`` bounds the file, and ``MAX_ROWS`` what stays: at most about 150 MB.
"""

import codecs
import logging
import math
import os
import stat
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import IO, Protocol

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.replay.nvidia_smi_log import Moment, NvidiaSmiLog
from keda_gpu_scaler.wire.recording import decode_header, looks_like_header
from keda_gpu_scaler.wire.snapshot_codec import MAX_LENGTH, MAX_SAMPLES, MAX_SOURCE_LENGTH, CodecError, decode

MAX_BYTES = 256 << 20
"""Of a recording, unpacked: more than a day of eight devices, once a second."""
MAX_ROWS = 2_000_000
"""Of all devices together: almost three days of eight devices, once a second."""
MAX_LINES = 2 * MAX_ROWS
"""Headers and blank lines among them: what unpacks into nothing else is refused before it has unpacked."""
MAX_SPEED = 1e6
DEFAULT_GAP_SECONDS = 1.0
"""How long a moment lasts in a recording that does not tell."""

_CHUNK = 1 << 16
_MAX_FILE_NAME = 200
_UNKNOWN = math.nan
_log = logging.getLogger(__name__)


class ReplayBackend:
    """Plays a recording in a loop, on the clock of whoever reads it: the first read is its beginning.

    The file is read once, here, and closed again: a recording that cannot be played is a mistake to be told
    at the start. ``speed`` is how many recorded seconds pass in a second.

    Raises:
        BackendError: the file cannot be read, or does not hold what can be played.
    """

    def __init__(self, path: str | os.PathLike[str], speed: float = 1.0) -> None:
        if not 0 < speed <= MAX_SPEED:
            raise BackendError(f"speed: Invalid value: {speed:g}: must be a number above 0, at most {MAX_SPEED:g}")
        self._speed = speed
        self._name = _printable(Path(path).name)
        self._timeline = _Timeline()
        self._sources: list[str] = []
        self._started_at: float | None = None
        self._load(path)
        self._timeline.finish()

    def __repr__(self) -> str:
        timeline = self._timeline
        return (
            f"<ReplayBackend of {self._name!r}: {timeline.device_count} devices, {len(timeline)} moments, "
            f"{timeline.duration_seconds:g} s, speed {self._speed:g}>"
        )

    @property
    def source(self) -> str:
        """Where the readings come from: the file, and what a recording says of itself."""
        if not self._sources:
            return f"replay of {self._name}"
        return f"replay of {self._name} (recorded from {' and '.join(self._sources)})"[:MAX_SOURCE_LENGTH]

    @property
    def deviceless(self) -> bool:
        """False: a recording without a device is refused."""
        return False

    def read(self, now: float) -> tuple[Sample, ...]:
        """Return what was recorded last before this position; a device that was not seen then is unknown."""
        if self._started_at is None:
            self._started_at = now
        return self._timeline.at((now - self._started_at) * self._speed)

    def close(self) -> None:
        """Let go of nothing: the file is closed already, and the recording plays on when read again."""

    def _load(self, path: str | os.PathLike[str]) -> None:
        complaint: str | None = None
        with _open(path) as file:
            text = _Text(file, str(path))
            parser: _RecordingParser | None = None
            for number, line in enumerate(text.lines(), 1):
                if number > MAX_LINES:
                    raise BackendError(f"cannot replay {path}: it has more than {MAX_LINES} lines; cut it into parts")
                if not line or line.isspace():
                    continue
                if complaint:
                    raise BackendError(f"cannot replay {path}: {complaint}")
                try:
                    parser = parser or self._parser(line)
                    self._add(parser.line(line))
                except ValueError as error:
                    complaint = f"line {number}: {error}"
            if parser:
                self._add(parser.end())
        # Only the last line can be what somebody was writing when it ended; there must be others to play.
        if not self._timeline:
            raise BackendError(f"cannot replay {path}: {complaint or self._why_nothing(parser, text)}")
        if complaint or text.cut_off:
            _log.warning("%s ends in the middle; what is whole is played (%s)", path, complaint or "gzip is cut off")

    def _parser(self, line: str) -> "_RecordingParser":
        return _RecordingLines(self._sources) if line.lstrip().startswith("{") else NvidiaSmiLog()

    def _add(self, moment: Moment | None) -> None:
        if moment is None:
            return
        self._timeline.add(moment)
        for count, limit, what in (
            (self._timeline.device_count, MAX_SAMPLES, "devices"),
            (self._timeline.row_count, MAX_ROWS, "samples"),
        ):
            if count > limit:
                raise BackendError(f"cannot replay {self._name}: it holds more than {limit} {what}; cut it into parts")

    def _why_nothing(self, parser: "_RecordingParser | None", text: "_Text") -> str:
        if text.cut_off:
            return "it is cut off before the first sample; record it again"
        return "it holds no sample of any device" if parser else "it is empty"


class _RecordingParser(Protocol):
    """Reads lines in turn; a line may complete the moment before it. Raises ValueError, with a sentence."""

    def line(self, text: str) -> Moment | None: ...

    def end(self) -> Moment | None: ...


class _RecordingLines:
    """Reads a recording of this program, or several that were joined."""

    def __init__(self, sources: list[str]) -> None:
        self._sources = sources
        self._expects_header = True

    def line(self, text: str) -> Moment | None:
        if self._expects_header or looks_like_header(text):
            try:
                source = decode_header(text).source
            except CodecError as error:
                raise CodecError(f"the header of a recording: {error}") from None
            self._expects_header = False
            if source and source not in self._sources:
                self._sources.append(source)
            return None
        snapshot = decode(text)
        return Moment(snapshot.at_seconds, snapshot.samples)

    def end(self) -> Moment | None:
        return None


class _Timeline:
    """All moments of a recording, in columns: a position is looked up, and only then samples are made."""

    _READINGS = 6

    def __init__(self) -> None:
        self.duration_seconds = DEFAULT_GAP_SECONDS
        self._ordinals: dict[str, int] = {}
        self._devices: list[Device] = []
        self._by_index: list[tuple[int, Device]] = []
        self._clock = array("d")  # as recorded, NaN where it does not tell
        self._positions = array("d")  # from the beginning, never going back
        self._first_row = array("Q")
        self._row_device = array("I")
        self._row_readings = array("d")  # six a row; bytes are exact up to 8 PiB

    def __len__(self) -> int:
        return len(self._clock)

    def __bool__(self) -> bool:
        return bool(self._devices)

    @property
    def device_count(self) -> int:
        """How many devices there are."""
        return len(self._devices)

    @property
    def row_count(self) -> int:
        """How many samples there are, of all devices together."""
        return len(self._row_device)

    def add(self, moment: Moment) -> None:
        """Append a moment. The first description of a device is kept."""
        self._clock.append(_UNKNOWN if moment.at_seconds is None else moment.at_seconds)
        self._first_row.append(len(self._row_device))
        for sample in moment.samples:
            ordinal = self._ordinals.setdefault(sample.device.uuid, len(self._devices))
            if ordinal == len(self._devices):
                self._devices.append(sample.device)
            self._row_device.append(ordinal)
            self._row_readings.extend(_UNKNOWN if value is None else value for value in _readings(sample))

    def finish(self) -> None:
        """Lay the moments out in time, when all are there.

        A clock that goes back (two logs joined, a clock set back) or does not tell moves on by the usual gap.
        """
        steps = [after - before for before, after in zip(self._clock, self._clock[1:], strict=False)]
        gap = median(forward) if (forward := [step for step in steps if step > 0]) else DEFAULT_GAP_SECONDS
        position = 0.0
        self._positions.append(position)
        for step in steps:
            position += step if step >= 0 else gap
            self._positions.append(position)
        self.duration_seconds = position + gap
        self._by_index = sorted(enumerate(self._devices), key=lambda item: (item[1].index, item[1].uuid))

    def at(self, seconds: float) -> tuple[Sample, ...]:
        """Return one sample of every device, as of this many seconds after the beginning."""
        moment = bisect_right(self._positions, seconds % self.duration_seconds) - 1
        begin = self._first_row[moment]
        end = self._first_row[moment + 1] if moment + 1 < len(self) else self.row_count
        seen = {self._row_device[row]: row for row in range(begin, end)}
        return tuple(
            self._sample(device, seen[ordinal]) if ordinal in seen else Sample(device)
            for ordinal, device in self._by_index
        )

    def _sample(self, device: Device, row: int) -> Sample:
        begin = row * self._READINGS
        gpu, memory, used, total, temperature, power = (
            None if math.isnan(value) else value for value in self._row_readings[begin : begin + self._READINGS]
        )
        return Sample(
            device=device,
            gpu_utilization_ratio=gpu,
            memory_utilization_ratio=memory,
            memory_used_bytes=None if used is None else int(used),
            memory_total_bytes=None if total is None else int(total),
            temperature_celsius=temperature,
            power_watts=power,
        )


def _readings(sample: Sample) -> tuple[float | None, ...]:
    return (
        sample.gpu_utilization_ratio,
        sample.memory_utilization_ratio,
        sample.memory_used_bytes,
        sample.memory_total_bytes,
        sample.temperature_celsius,
        sample.power_watts,
    )


class _Text:
    """A file's lines, whatever it is packed and encoded in. ``cut_off`` is known when the lines are through."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file = file
        self._path = path
        self.cut_off = False

    def lines(self) -> Iterator[str]:
        """Yield each line without its end.

        Raises:
            BackendError: the file cannot be read, is too large, or is not text.
        """
        carry = ""
        for piece in self._decoded():
            *whole, carry = (carry + piece).split("\n")
            yield from whole
            if len(carry) > MAX_LENGTH:
                raise self._refusal(f"a line is longer than {MAX_LENGTH} characters: is this a recording?")
        if carry:
            yield carry

    def _decoded(self) -> Iterator[str]:
        decoder: codecs.IncrementalDecoder | None = None
        begins_at = 0
        for data in self._bounded():
            decoder = decoder or codecs.getincrementaldecoder(_encoding(data))()
            try:
                piece = decoder.decode(data)
            except UnicodeError as error:
                near = begins_at + (error.start if isinstance(error, UnicodeDecodeError) else 0)
                raise self._refusal(
                    f"it is not text near byte {near}; it must be a recording or a log of nvidia-smi --format=csv"
                ) from None
            yield piece
            begins_at += len(data)
        # A character that is cut in half at the very end belongs to a line that is cut off.

    def _bounded(self) -> Iterator[bytes]:
        size = 0
        for data in self._unpacked():
            size += len(data)
            if size > MAX_BYTES:
                raise self._refusal(f"it is larger than {MAX_BYTES >> 20} MiB unpacked; cut it into parts")
            yield data

    def _unpacked(self) -> Iterator[bytes]:
        chunks = self._chunks()
        first = next(chunks, b"")
        if not first.startswith(b"\x1f\x8b"):
            yield first
            yield from chunks
            return
        try:
            yield from self._inflated([first], chunks)
        except zlib.error as error:
            raise self._refusal(f"its gzip is damaged ({error}); copy it again") from None

    def _inflated(self, *sources: Iterable[bytes]) -> Iterator[bytes]:
        # Not gzip.open: it keeps to itself what came before the end of a file that is cut off.
        member = zlib.decompressobj(wbits=31)
        untouched = True
        for data in (data for source in sources for data in source):
            rest = data
            while rest := (rest.lstrip(b"\0") if untouched else rest):
                yield member.decompress(rest, _CHUNK)
                untouched = member.eof
                rest = member.unused_data if member.eof else member.unconsumed_tail
                if member.eof:
                    member = zlib.decompressobj(wbits=31)
        if not untouched:
            yield member.flush()
            self.cut_off = True

    def _chunks(self) -> Iterator[bytes]:
        while data := self._read():
            yield data

    def _read(self) -> bytes:
        try:
            return self._file.read(_CHUNK)
        except OSError as fault:
            raise self._refusal(_reason(fault)) from fault

    def _refusal(self, why: str) -> BackendError:
        return BackendError(f"cannot replay {self._path}: {why}")


def _open(path: str | os.PathLike[str]) -> IO[bytes]:
    try:
        # Looked at before it is opened: opening a pipe that nobody writes to would wait for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise BackendError(f"cannot replay {path}: it is not a regular file; name the recording itself")
        return open(path, "rb")
    except OSError as fault:
        raise BackendError(f"cannot open {path}: {_reason(fault)}; give the path of a recording") from fault
    except ValueError:
        raise BackendError(f"cannot open {str(path)!r}: it is no path; give the path of a recording") from None


def _reason(fault: OSError) -> str:
    return (fault.strerror or str(fault)).lower()


def _encoding(head: bytes) -> str:
    # What a shell on Windows writes when output is redirected begins with one of these marks.
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"


def _printable(name: str) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= _MAX_FILE_NAME else shown[: _MAX_FILE_NAME - 1] + "…"
