# SPDX-License-Identifier: Apache-2.0
"""The engines' part of a recording: the pages of pods, and the states of their workload.

Law: a recording of any size takes a bounded amount of memory. A line that is not one of ``encode_record`` is a
``CodecError`` that names the field.

A line holds ``{"page": …}``, one answer of one place of a pod, or ``{"workload": …}``, a state of the workload. Their
times are on one clock, that of the recorder. A page has only the series that engines and the trigger need.
"""

import json
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from keda_gpu_scaler.core.types import Workload
from keda_gpu_scaler.core.urls import MAX_PORT, is_path
from keda_gpu_scaler.wire.json_fields import MAX_NUMBER, CodecError, Fields, parse_object
from keda_gpu_scaler.wire.workload_codec import decode_workload, encode_workload

MAX_RECORD_LENGTH = 1 << 20
"""The longest line, in characters. A page that needs more is recorded as one that could not be read."""
MAX_RECORDS = 500_000
MAX_PODS = 256
"""The number of pods of one recording."""
MAX_TEXT_BYTES = 64 << 20
"""The size of all pages together, compressed."""
MIN_DURATION_SECONDS = 1.0
"""A shorter recording is played as one of this length."""
FAILURE_KINDS = ("refused", "absent", "denied", "tls", "plain", "closed", "untrusted", "unreadable")
_MAX_FAILURE_LENGTH = 400
_MAX_SECONDS = 3600.0
_SCHEMES = ("http", "https")
_STARTS = ('{"page"', '{"workload"')


class Place(NamedTuple):
    """One place of a pod that may serve an engine's page."""

    namespace: str
    pod: str
    scheme: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class RecordedPage:
    """The answer of a place: a page, or the reason why there was none.

    ``at_seconds`` is when the answer ended. ``failure`` is empty where there is a page; ``kind`` is one of
    ``FAILURE_KINDS`` otherwise. ``text`` is the page, with its requested series alone.
    """

    at_seconds: float
    place: Place
    answer_seconds: float
    status: int | None = None
    content_type: str = ""
    text: str = ""
    failure: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class RecordedWorkload:
    """A state of the workload, from ``at_seconds`` on."""

    at_seconds: float
    workload: Workload


def encode_record(record: RecordedPage | RecordedWorkload) -> str:
    """Return a record as one line of ASCII, without a newline.

    Raises:
        CodecError: the line is too long.
    """
    if isinstance(record, RecordedWorkload):
        plain = {"workload": {"at_seconds": _rounded(record.at_seconds), **encode_workload(record.workload)}}
    else:
        plain = {"page": _encode_page(record)}
    line = json.dumps(plain, separators=(",", ":"), allow_nan=False)
    if len(line) > MAX_RECORD_LENGTH:
        raise CodecError(f"the record is {len(line)} characters long: must have at most {MAX_RECORD_LENGTH}")
    return line


def _encode_page(page: RecordedPage) -> dict[str, object]:
    plain: dict[str, object] = {
        "at_seconds": _rounded(page.at_seconds),
        **page.place._asdict(),
        "answer_seconds": _rounded(page.answer_seconds),
    }
    if page.status is not None:
        plain["status"] = page.status
    if page.failure:
        shown = "".join(letter if letter.isprintable() else "?" for letter in page.failure[:_MAX_FAILURE_LENGTH])
        return plain | {"failure": shown, "kind": page.kind}
    return plain | {"content_type": page.content_type, "text": page.text}


def is_record(line: str) -> bool:
    """Whether a line of a recording belongs to its engines."""
    return line.lstrip().startswith(_STARTS)


def decode_record(line: str) -> RecordedPage | RecordedWorkload:
    """Return the record in a line.

    Raises:
        CodecError: the line is no record.
    """
    if len(line) > MAX_RECORD_LENGTH:
        raise CodecError(f"is {len(line)} characters long: must have at most {MAX_RECORD_LENGTH}")
    fields = parse_object(line)
    if "workload" in fields:
        inner = fields.object("workload")
        return RecordedWorkload(_at_seconds(inner), decode_workload(inner))
    return _decode_page(fields.object("page"))


def _decode_page(fields: Fields) -> RecordedPage:
    at_seconds, place = _at_seconds(fields), _decode_place(fields)
    answer_seconds = _rounded(fields.number("answer_seconds", 0, _MAX_SECONDS))
    status = fields.whole("status", 100, 999) if "status" in fields else None
    if "failure" not in fields:
        text = fields.block("text", MAX_RECORD_LENGTH)
        return RecordedPage(at_seconds, place, answer_seconds, status, fields.text("content_type", default=""), text)
    failure, kind = fields.text("failure", _MAX_FAILURE_LENGTH), fields.text("kind")
    if kind not in FAILURE_KINDS:
        raise CodecError(f"page.kind: Unsupported value: {kind[:80]!a}: must be one of {', '.join(FAILURE_KINDS)}")
    return RecordedPage(at_seconds, place, answer_seconds, status, failure=failure, kind=kind)


def _decode_place(fields: Fields) -> Place:
    scheme, path = fields.text("scheme"), fields.text("path")
    if scheme not in _SCHEMES:
        raise CodecError(f"page.scheme: Unsupported value: {scheme[:80]!a}: must be http or https")
    if not is_path(path):
        raise CodecError(f"page.path: Invalid value: {path[:80]!a}: must begin with / and have no blank")
    return Place(fields.text("namespace"), fields.text("pod"), scheme, fields.whole("port", 1, MAX_PORT), path)


def _at_seconds(fields: Fields) -> float:
    return _rounded(fields.number("at_seconds", -MAX_NUMBER, MAX_NUMBER))


def _rounded(seconds: float) -> float:
    """Round to microseconds, the precision of a recording. A file that was edited may have more."""
    return round(seconds, 6)


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A page in memory; its text is compressed."""

    at_seconds: float
    answer_seconds: float
    status: int | None
    content_type: str
    compressed: bytes
    failure: str
    kind: str

    @property
    def text(self) -> bytes:
        """The page."""
        return zlib.decompress(self.compressed) if self.compressed else b""


@dataclass(frozen=True, slots=True)
class EngineRecording:
    """The engines' part of a recording, in the order of time.

    ``begins_at_seconds`` is the time of the first record, ``duration_seconds`` the time to the last one and one
    interval more. ``workloads`` has the states of each workload, by namespace and name.
    """

    begins_at_seconds: float
    duration_seconds: float
    interval_seconds: float
    pages: Mapping[Place, Sequence[StoredPage]]
    workloads: Mapping[tuple[str, str], Sequence[RecordedWorkload]]

    @property
    def pods(self) -> tuple[tuple[str, str], ...]:
        """The namespace and name of every pod, sorted."""
        refs = {(place.namespace, place.pod) for place in self.pages}
        for states in self.workloads.values():
            refs |= {(pod.ref.namespace, pod.ref.name) for state in states for pod in state.workload.pods}
        return tuple(sorted(refs))


@runtime_checkable
class PlaysEngines(Protocol):
    """A backend that plays engines besides devices."""

    @property
    def engine_recording(self) -> EngineRecording | None:
        """The engines of the recording; None where it has none."""


def index_at(records: Sequence[StoredPage] | Sequence[RecordedWorkload], at_seconds: float) -> int:
    """Return the index of the newest record at this time, -1 where there is none."""
    return bisect_right(records, at_seconds, key=lambda record: record.at_seconds) - 1


@dataclass(slots=True)
class EngineRecordingBuilder:
    """Collects the records of one recording.

    ``interval_seconds`` is that of the header, None before a header with engines.
    """

    interval_seconds: float | None = None
    _pages: dict[Place, list[StoredPage]] = field(default_factory=dict)
    _workloads: dict[tuple[str, str], list[RecordedWorkload]] = field(default_factory=dict)
    _pods: set[tuple[str, str]] = field(default_factory=set)
    _count: int = 0
    _bytes: int = 0

    def begin(self, interval_seconds: float) -> None:
        """Note the header of a recording with engines.

        Raises:
            CodecError: there was one before. The times of two recordings are on two clocks.
        """
        if self.interval_seconds is not None:
            raise CodecError("two recordings of engines are joined: replay each file of its own")
        self.interval_seconds = interval_seconds

    def add(self, record: RecordedPage | RecordedWorkload) -> None:
        """Add a record.

        Raises:
            CodecError: the header has no engines, or the recording is too large.
        """
        if self.interval_seconds is None:
            raise CodecError("the header has no engines: interval_seconds: Required value")
        self._count += 1
        if isinstance(record, RecordedWorkload):
            workload = record.workload
            self._workloads.setdefault((workload.namespace, workload.name), []).append(record)
            self._pods |= {(pod.ref.namespace, pod.ref.name) for pod in workload.pods}
        else:
            compressed = zlib.compress(record.text.encode(), 1) if record.text else b""
            self._bytes += len(compressed)
            self._pods.add((record.place.namespace, record.place.pod))
            self._pages.setdefault(record.place, []).append(_stored(record, compressed))
        self._check_limits()

    def build(self) -> EngineRecording | None:
        """Return the recording; None where it has no state of a workload."""
        if self.interval_seconds is None or not self._workloads:
            return None
        times = [page.at_seconds for pages in self._pages.values() for page in pages]
        times += [state.at_seconds for states in self._workloads.values() for state in states]
        begins, ends = min(times), max(times)
        return EngineRecording(
            begins,
            max(MIN_DURATION_SECONDS, ends - begins + self.interval_seconds),
            self.interval_seconds,
            {place: tuple(sorted(pages, key=lambda it: it.at_seconds)) for place, pages in self._pages.items()},
            {key: tuple(sorted(states, key=lambda it: it.at_seconds)) for key, states in self._workloads.items()},
        )

    def _check_limits(self) -> None:
        for count, limit, what in (
            (self._count, MAX_RECORDS, "records of engines"),
            (len(self._pods), MAX_PODS, "pods"),
            (self._bytes >> 20, MAX_TEXT_BYTES >> 20, "MiB of pages"),
        ):
            if count > limit:
                raise CodecError(f"it has more than {limit} {what}: record a shorter time, or a smaller workload")


def _stored(page: RecordedPage, compressed: bytes) -> StoredPage:
    return StoredPage(
        page.at_seconds,
        page.answer_seconds,
        page.status,
        page.content_type,
        compressed,
        page.failure,
        page.kind,
    )
