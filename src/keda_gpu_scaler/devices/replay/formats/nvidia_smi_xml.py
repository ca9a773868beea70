# SPDX-License-Identifier: Apache-2.0
"""Logs of ``nvidia-smi -q -x -l 1``: one XML document after the other.

Law: nothing outside of the file is read, and no entity is expanded. The declarations before the root are not parsed, so
a document with an entity of its own is no valid document. One document is kept in memory at a time, and it is at most
``MAX_PAGE_LENGTH`` long.

Source: NVIDIA's DTDs v10 to v13 in recorded outputs.
"""

from xml.parsers import expat

from keda_gpu_scaler.devices.replay.log_format import (
    LogError,
    LogFormat,
    Moment,
    UnreadableLogError,
    ValueTally,
    register,
)
from keda_gpu_scaler.devices.replay.log_moments import LogMoments
from keda_gpu_scaler.devices.replay.log_times import seconds_or_none
from keda_gpu_scaler.devices.replay.nvidia_smi_query import MAX_PAGE_LENGTH, SLICE, WANTED, QueriedGpu, rows

_ROOT = "nvidia_smi_log"
_BEGIN, _END = f"<{_ROOT}", f"</{_ROOT}>"
_MAX_DEPTH = 32
_MAX_TEXT = 512


class NvidiaSmiXmlLog:
    """Parses a log line by line; a document ends with its root."""

    def __init__(self) -> None:
        self.impossible = ValueTally()
        self._moments = LogMoments(self.impossible)
        self._parts: list[str] = []
        self._length = 0

    def line(self, text: str) -> list[Moment]:
        """Read one line, and return the moment that it completes.

        Raises:
            LogError: the document cannot be read. It is lost, and the next one can be read.
        """
        was_cut_off = _BEGIN in text and bool(self._parts)
        if was_cut_off:
            self._parts, self._length = [], 0
            self._moments.lose_page()
        try:
            self._line(text)
        except UnreadableLogError:
            raise
        except LogError:
            self._moments.lose_page()
            raise
        if was_cut_off:
            raise LogError("begins a document, but the one before it was cut off")
        return self._moments.take()

    def end(self) -> list[Moment]:
        """Return the last moments.

        Raises:
            LogError: the last document is cut off.
        """
        if self._parts:
            self._parts = []
            raise LogError("the last document is cut off")
        return self._moments.take()

    def _line(self, text: str) -> None:
        if _BEGIN not in text and not self._parts:
            return
        rest = text
        while (rest := self._take(rest)) and _BEGIN in rest:
            pass

    def _take(self, text: str) -> str:
        """Add a text to the open document, and return what follows its end."""
        begin = text.find(_BEGIN) if not self._parts else 0
        end = text.find(_END)
        piece = text[begin:] if end < 0 else text[begin : end + len(_END)]
        self._length += len(piece)
        if self._length > MAX_PAGE_LENGTH:
            self._parts, self._length = [], 0
            raise LogError(f"ends a document that is longer than {MAX_PAGE_LENGTH} characters")
        self._parts.append(piece)
        if end < 0:
            return ""
        page, self._parts, self._length = "\n".join(self._parts), [], 0
        document = _Document(page)
        self._moments.page(document.at_seconds, rows(document.gpus, self.impossible))
        return text[end + len(_END) :]


class _Document:
    """One document, parsed.

    Raises:
        LogError: it is no valid document.
    """

    def __init__(self, text: str) -> None:
        self.at_seconds: float | None = None
        self.gpus: list[QueriedGpu] = []
        self._path: list[str] = []
        self._text: list[str] = []
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        try:
            parser.Parse(text.encode("utf-8", "replace"), True)
        except expat.ExpatError as error:
            raise LogError(f"ends a document that is not XML: {expat.ErrorString(error.code)}") from None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        self._text.clear()
        if len(self._path) > _MAX_DEPTH:
            raise LogError("ends a document that is nested too deeply")
        if self._path == [_ROOT, "gpu"]:
            self.gpus.append(QueriedGpu(attributes.get("id", "")))
        elif name == SLICE and self.gpus:
            self.gpus[-1].slices.append({})

    def _end(self, name: str) -> None:
        text = "".join(self._text).strip()[:_MAX_TEXT]
        self._text.clear()
        path, self._path = self._path, self._path[:-1]
        if path == [_ROOT, "timestamp"]:
            self.at_seconds = seconds_or_none(text)
        elif self.gpus and path[1:2] == ["gpu"]:
            gpu = self.gpus[-1]
            is_of_slice = SLICE in path
            key = "/".join(path[path.index(SLICE) + 1 :] if is_of_slice else path[2:])
            if key in WANTED:
                (gpu.slices[-1] if is_of_slice else gpu.values)[key] = text


register(
    LogFormat(
        name="nvidia-smi XML",
        command="nvidia-smi -q -x -l 1 > gpus.xml",
        recognises=lambda line: _BEGIN in line,
        open=NvidiaSmiXmlLog,
        note="slices of a GPU in MIG mode are devices, with their memory only",
    )
)
