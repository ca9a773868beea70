# SPDX-License-Identifier: Apache-2.0
"""Writes a recording: a header, then one snapshot, page or state of a workload on each line.

Law: a recording can be read, however its writer ended. Every line is flushed, also into a compressed file. A killed
writer loses at most the line that it was writing.
"""

import gzip
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from keda_gpu_scaler import __version__
from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.wire.engine_recording import RecordedPage, RecordedWorkload, encode_record
from keda_gpu_scaler.wire.json_fields import parse_object
from keda_gpu_scaler.wire.snapshot_codec import MAX_SOURCE_LENGTH, encode

VERSION = 2
"""The newest version that is read. Version 2 has pages of engines; a recording without them is of version 1."""
MAX_INTERVAL_SECONDS = 3600.0
_HEADER_START = '{"recording"'


class RecordingError(Exception):
    """The recording cannot be written. The message is a sentence with the problem and the remedy."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a recording: the source of its readings, and the program that wrote it.

    ``interval_seconds`` is the interval at which engines were scraped, None in a recording without engines.
    """

    source: str
    made_by: str = f"keda-gpu-scaler {__version__}"
    interval_seconds: float | None = None


def encode_header(header: Header) -> str:
    """Return a header as one line, without a newline."""
    version = 1 if header.interval_seconds is None else VERSION
    plain: dict[str, object] = {"recording": version, "source": header.source, "made_by": header.made_by}
    if header.interval_seconds is not None:
        plain["interval_seconds"] = header.interval_seconds
    return json.dumps(plain, separators=(",", ":"))


def looks_like_header(text: str) -> bool:
    """Return whether a line starts like a header. Concatenated recordings have several headers."""
    return text.startswith(_HEADER_START)


def decode_header(text: str | bytes) -> Header:
    """Return the header in the first line of a recording.

    Raises:
        CodecError: the line is not a header, or a later version wrote it.
    """
    fields = parse_object(text)
    fields.check_version("recording", VERSION)
    return Header(
        source=fields.text("source", MAX_SOURCE_LENGTH, default=""),
        made_by=fields.text("made_by", default=""),
        interval_seconds=(
            fields.number("interval_seconds", 0.001, MAX_INTERVAL_SECONDS) if "interval_seconds" in fields else None
        ),
    )


class RecordingWriter:
    """Writes a recording to a file inside its ``with`` block. ``size_bytes`` is its size so far, uncompressed.

    A file whose name ends in ".gz" is compressed. Equal snapshots give equal bytes. The path "-" is standard output,
    which stays open. An existing file is replaced only with ``overwrite``.

    Raises:
        RecordingError: the file cannot be written. Raised on entry and by ``write``.
        CodecError: the source or a snapshot cannot be encoded. Raised on entry and by ``write``.
    """

    def __init__(
        self, path: str | Path, source: str, *, overwrite: bool = False, interval_seconds: float | None = None
    ) -> None:
        self._path = str(path)
        self._header = Header(source, interval_seconds=interval_seconds)
        self.size_bytes = 0
        self._overwrite = overwrite
        self._files = ExitStack()
        self._file: IO[bytes] | gzip.GzipFile | None = None

    def __enter__(self) -> Self:
        header = encode_header(self._header)
        decode_header(header)  # an invalid source is refused now, not at the replay
        try:
            self._file = self._open()
            self._write_line(header)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file = None
        try:
            self._files.close()
        except OSError as fault:
            # Closing writes the rest again. The first error is the more useful one.
            if error is None:
                raise self._cannot_write(fault) from fault

    def write(self, snapshot: Snapshot) -> None:
        """Append one snapshot, and flush it."""
        self._write_line(encode(snapshot))

    def write_record(self, record: RecordedPage | RecordedWorkload) -> None:
        """Append one page or state of a workload, and flush it. The header must have an interval."""
        self._write_line(encode_record(record))

    def _create(self) -> IO[bytes]:
        return open(self._path, "wb" if self._overwrite else "xb")

    def _standard_output(self) -> IO[bytes]:
        # In a process that was started with a closed standard output, sys.stdout is None.
        if sys.stdout is None:
            raise RecordingError("cannot write standard output: it is closed; name a file, or open it")
        sys.stdout.flush()
        # Not the buffer of sys.stdout: Python would write its rest again at exit, and a broken pipe would fail again.
        return open(sys.stdout.fileno(), "wb", closefd=False)

    def _open(self) -> IO[bytes] | gzip.GzipFile:
        try:
            plain = self._files.enter_context(self._standard_output() if self._path == "-" else self._create())
        except FileExistsError:
            raise RecordingError(f"{self._path} exists already: choose another name, or allow overwriting") from None
        except OSError as fault:
            raise self._cannot_write(fault) from fault
        if not self._path.endswith(".gz"):
            return plain
        # No name and no time in the gzip header, so that equal readings give equal bytes.
        return self._files.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0))

    def _write_line(self, line: str) -> None:
        if self._file is None:
            raise RecordingError(f"{self._path} is not open: write inside the with block")
        try:
            self.size_bytes += self._file.write(line.encode("ascii") + b"\n")
            self._file.flush()
        except OSError as fault:
            raise self._cannot_write(fault) from fault

    def _cannot_write(self, fault: OSError) -> RecordingError:
        where = "standard output" if self._path == "-" else self._path
        return RecordingError(f"cannot write {where}: {(fault.strerror or str(fault)).lower()}")
