# SPDX-License-Identifier: Apache-2.0
"""The lines of a recording, whatever compression and encoding the file has.

Bytes that are no text, such as a block of zeros that a power failure leaves, stay in their line as U+FFFD or U+0000.
The parser of the format loses this line only.
"""

import codecs
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.wire.snapshot_codec import MAX_LENGTH

MAX_BYTES = 256 << 20
"""The largest recording, uncompressed: more than a day of eight devices, one sample a second."""
_CHUNK = 1 << 16
_ZEROS = re.compile("\0{2,}")
_COMPRESSED = (
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "zstd -d"),
    (b"\xfd7zXZ\x00", "packed with xz", "xz -d"),
    (b"BZh", "packed with bzip2", "bzip2 -d"),
    (b"PK\x03\x04", "a zip archive", "unzip"),
)
_SHOWS_ENCODING = 512


class TextReader:
    """Reads the lines of a file.

    After the last line, ``cut_off`` says that the file ends within a gzip member. ``not_text_at`` is the place of the
    first bytes that are no text, None if there are none.
    """

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file = file
        self._path = path
        self.cut_off = False
        self.not_text_at: int | None = None

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
                raise self._error(f"a line is longer than {MAX_LENGTH} characters: is this a recording?")
        if carry:
            yield carry

    def _decoded(self) -> Iterator[str]:
        decoder: codecs.IncrementalDecoder | None = None
        begins_at = 0
        for data in self._bounded():
            if decoder is None:
                self._check_kind(data)
                decoder = codecs.getincrementaldecoder(_encoding(data))()
            state = decoder.getstate()
            try:
                piece = decoder.decode(data)
            except UnicodeError as error:
                if self.not_text_at is None:
                    self.not_text_at = begins_at + (error.start if isinstance(error, UnicodeDecodeError) else 0)
                decoder.setstate(state)
                decoder.errors = "replace"
                piece = decoder.decode(data)
            # A block of zeros has no end of line, and may be as long as the file.
            yield _ZEROS.sub("\0", piece) if "\0" in piece else piece
            begins_at += len(data)
        # An incomplete character at the end belongs to a line that is cut off.

    def _check_kind(self, head: bytes) -> None:
        for magic, name, command in _COMPRESSED:
            if head.startswith(magic):
                raise self._error(f"it is {name}; unpack it with: {command} FILE, or pack it with gzip")

    def _bounded(self) -> Iterator[bytes]:
        size = 0
        for data in self._unpacked():
            size += len(data)
            if size > MAX_BYTES:
                raise self._error(f"it is larger than {MAX_BYTES >> 20} MiB unpacked; cut it into parts")
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
            raise self._error(f"its gzip is damaged ({error}); copy it again") from None

    def _inflated(self, *sources: Iterable[bytes]) -> Iterator[bytes]:
        # Not gzip.open: it does not return the data before the end of a file that is cut off.
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
        except OSError as error:
            raise self._error(reason_of(error)) from error

    def _error(self, why: str) -> BackendError:
        return BackendError(f"cannot replay {self._path}: {why}")


def open_recording(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a recording for reading.

    Raises:
        BackendError: it cannot be opened, or is not a regular file.
    """
    try:
        # Checked before it is opened: opening a pipe without a writer would wait for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise BackendError(f"cannot replay {path}: it is not a regular file; name the recording itself")
        return open(path, "rb")
    except OSError as error:
        raise BackendError(f"cannot open {path}: {reason_of(error)}; give the path of a recording") from error
    except ValueError:
        raise BackendError(f"cannot open {str(path)!r}: it is not a path; give the path of a recording") from None


def reason_of(error: OSError) -> str:
    """Return the reason of an error of the operating system, in lower case."""
    return (error.strerror or str(error)).lower()


def _encoding(head: bytes) -> str:
    # A shell on Windows writes one of these marks at the beginning of redirected output.
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Without a mark: of text in UTF-16, almost every second byte is 0, and the others are not.
    shown = head[:_SHOWS_ENCODING]
    first, second = shown[::2].count(0), shown[1::2].count(0)
    most, few = len(shown) * 0.4, len(shown) * 0.05
    if len(shown) > 1 and second > most and first <= few:
        return "utf-16-le"
    if len(shown) > 1 and first > most and second <= few:
        return "utf-16-be"
    return "utf-8-sig"
