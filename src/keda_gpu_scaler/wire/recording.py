# SPDX-License-Identifier: Apache-2.0
"""How are snapshots kept in a file? A header that says where they come from, then one snapshot a line.

The law of this module: what was written can be read, however the writing ended. Every line is flushed, also
into a compressed file, so that a recording that was killed holds all but the line it was killed in.
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
from keda_gpu_scaler.wire.snapshot_codec import MAX_SOURCE_LENGTH, encode, parse_object

VERSION = 1
_HEADER_START = '{"recording"'


class RecordingError(Exception):
    """The recording cannot be written. The text is a sentence: what is wrong, what to do."""


@dataclass(frozen=True, slots=True)
class Header:
    """A recording's first line: where its readings come from, and which program wrote it."""

    source: str
    made_by: str = f"keda-gpu-scaler {__version__}"


def encode_header(header: Header) -> str:
    """Write a header as one line, without a newline."""
    plain = {"recording": VERSION, "source": header.source, "made_by": header.made_by}
    return json.dumps(plain, separators=(",", ":"))


def looks_like_header(text: str) -> bool:
    """Whether a line is meant as a header; recordings that were joined have more than one."""
    return text.startswith(_HEADER_START)


def decode_header(text: str | bytes) -> Header:
    """Read a recording's first line.

    Raises:
        CodecError: it is not the header of a recording, or of one made by a later version.
    """
    fields = parse_object(text)
    fields.check_version("recording", VERSION)
    return Header(
        source=fields.text("source", MAX_SOURCE_LENGTH, default=""),
        made_by=fields.text("made_by", default=""),
    )


class RecordingWriter:
    """Writes snapshots to a file, for as long as its ``with`` block lasts.

    The file is compressed when its name ends in ".gz"; equal snapshots give equal bytes. ``path`` may be "-"
    for standard output, which stays open. An existing file is replaced only when ``overwrite`` says so.

    Raises:
        RecordingError: on entering and on writing, when the file cannot be written.
        CodecError: on entering and on writing, when the source or a snapshot cannot be encoded.
    """

    def __init__(self, path: str | Path, source: str, *, overwrite: bool = False) -> None:
        self._path = str(path)
        self._header = Header(source)
        self._overwrite = overwrite
        self._files = ExitStack()
        self._file: IO[bytes] | gzip.GzipFile | None = None

    def __enter__(self) -> Self:
        header = encode_header(self._header)
        decode_header(header)  # refused now rather than when somebody wants to replay it
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
            # Closing tries to write what is left once more; what went wrong first says more.
            if error is None:
                raise self._cannot_write(fault) from fault

    def write(self, snapshot: Snapshot) -> None:
        """Append one snapshot, and see it out of this process."""
        self._write_line(encode(snapshot))

    def _create(self) -> IO[bytes]:
        return open(self._path, "wb" if self._overwrite else "xb")

    def _standard_output(self) -> IO[bytes]:
        # Python gives a process that was started with a closed standard output none at all.
        if sys.stdout is None:
            raise RecordingError("cannot write standard output: it is closed; name a file, or open it")
        sys.stdout.flush()
        # Not sys.stdout's own buffer: what a broken pipe leaves in that one would be tried again at exit.
        return open(sys.stdout.fileno(), "wb", closefd=False)

    def _open(self) -> IO[bytes] | gzip.GzipFile:
        try:
            plain = self._files.enter_context(self._standard_output() if self._path == "-" else self._create())
        except FileExistsError:
            raise RecordingError(
                f"{self._path} exists already: choose another name, or say that it may be overwritten"
            ) from None
        except OSError as fault:
            raise self._cannot_write(fault) from fault
        if not self._path.endswith(".gz"):
            return plain
        # Neither a name nor a time in the gzip header: the same readings give the same bytes.
        return self._files.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0))

    def _write_line(self, line: str) -> None:
        if self._file is None:
            raise RecordingError(f"{self._path} is not open: write inside the with block")
        try:
            self._file.write(line.encode("ascii") + b"\n")
            self._file.flush()
        except OSError as fault:
            raise self._cannot_write(fault) from fault

    def _cannot_write(self, fault: OSError) -> RecordingError:
        where = "standard output" if self._path == "-" else self._path
        return RecordingError(f"cannot write {where}: {(fault.strerror or str(fault)).lower()}")
