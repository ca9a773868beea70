# SPDX-License-Identifier: Apache-2.0
"""Records events on a ScaledObject when a trigger is refused or loses its value, and when that ends.

Law: an event reports a change that has lasted, never a single call, and no call waits for an event.

Several instances may find the same refused trigger. The name of such an event follows from the object and its text, so
that the first instance writes it, and the API server refuses the others.

``kubectl describe`` finds events by the object's name, kind and uid, so the recorder reads the uid first.
KEDA itself writes an event for every call that fails; these events mark the first and the last of them.
"""

import os
import time
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keda_gpu_scaler.core.instance_status import RecentAnswer
from keda_gpu_scaler.core.token_bucket import TokenBucket
from keda_gpu_scaler.kube.background_writes import BackgroundWrites
from keda_gpu_scaler.kube.client import METADATA_LIST_ONLY, ApiClient, ApiError
from keda_gpu_scaler.kube.parse import is_name, part
from keda_gpu_scaler.kube.resource_query import ResourceQuery

MIN_DURATION_SECONDS = 3.0
"""A change is recorded when an answer finds it this long after another answer did. A shorter change is no event."""
MIN_INTERVAL_SECONDS = 60.0
"""The least time between two events of one trigger."""
BURST, REFILL_SECONDS = 20, 5.0
"""The rate limit: this many events at once, then one in this many seconds. No caller can fill a cluster's store."""
REPEAT_SECONDS = 3600.0
"""An event about a refused trigger is written again after this time: Kubernetes keeps an event for an hour."""
MAX_SUBJECTS = 1024

_KINDS = (("scaledobjects", "ScaledObject"), ("scaledjobs", "ScaledJob"))
_GROUP, _VERSION = "keda.sh", "v1alpha1"
_COMPONENT = "keda-gpu-scaler"
_MAX_MESSAGE_LENGTH = 1000  # Kubernetes accepts 1,024
_MAX_NAME_LENGTH = 200
_CONFLICT = 409
_REFUSED = "refused"  # the aspect of the subject that is an object with its metadata


@dataclass(frozen=True, slots=True)
class _Subject:
    """The subject of events: the value of one trigger, its demand, or the metadata of all triggers of an object."""

    namespace: str
    name: str
    metric_name: str
    metric: str
    aspect: str


@dataclass(slots=True)
class _LastEvent:
    """The last event of a subject, and since when the subject differs from it.

    ``noted_at_seconds`` is when the subject was compared with it for the last time.
    ``message`` is kept where the text counts as well: another problem of refused metadata is a change.
    """

    is_healthy: bool = True
    message: str = ""
    at_seconds: float = 0.0
    differs_since_seconds: float | None = None
    noted_at_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Condition:
    """The condition of a subject in one answer, with the event that reports it."""

    subject: _Subject
    is_healthy: bool
    reason: str
    message: str


class EventRecorder:
    """Writes events about the answers of GetMetrics, on change only.

    Args:
        opened: returns the API server's client; awaited when an event is written.
        reporter: the name of the reporting instance, which is its node.
        clock: monotonic seconds.
        wall_clock: seconds since 1970, for the events' timestamps.
    """

    def __init__(
        self,
        opened: Callable[[], Awaitable[ApiClient]],
        reporter: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._opened = opened
        self._reporter = reporter
        self._clock = clock
        self._wall_clock = wall_clock
        self._last_events: OrderedDict[_Subject, _LastEvent] = OrderedDict()
        limit = TokenBucket(BURST, REFILL_SECONDS, clock())
        self._writes = BackgroundWrites("an event", "grant create on events (chart: rbac.create)", limit, clock)

    def note(self, answer: RecentAnswer) -> None:
        """Compare an answer with the last events; to be called in the event loop."""
        for condition in _conditions(answer):
            self._note_condition(condition)

    def note_metadata(self, namespace: str, name: str, problems: Sequence[str]) -> None:
        """Compare the problems of an object's triggers with the last events; without a problem all are accepted."""
        self._note_condition(_metadata_condition(namespace, name, problems))

    def _note_condition(self, condition: _Condition) -> None:
        if not (self._is_due(condition) and self._may_write()):
            return
        last = self._last_events[condition.subject]
        last.is_healthy, last.at_seconds, last.differs_since_seconds = condition.is_healthy, self._clock(), None
        last.message = _compared_text(condition)
        self._writes.start(self._write(condition), f"event {condition.reason}")

    async def close(self) -> None:
        """Cancel the events that are being written."""
        await self._writes.close()

    def _is_due(self, condition: _Condition) -> bool:
        """Whether a condition differs from the last event, and has done so for long enough."""
        subject, now = condition.subject, self._clock()
        last = self._last_events.get(subject)
        if last is None:
            if condition.is_healthy:
                return False
            last = self._last_events[subject] = _LastEvent(at_seconds=now - MIN_INTERVAL_SECONDS, noted_at_seconds=now)
            self._release(now)
        last.noted_at_seconds = now
        self._last_events.move_to_end(subject)
        if condition.is_healthy == last.is_healthy and _compared_text(condition) == last.message:
            last.differs_since_seconds = None
            is_repeated = subject.aspect == _REFUSED and not condition.is_healthy
            return is_repeated and now - last.at_seconds >= REPEAT_SECONDS
        if last.differs_since_seconds is None:
            last.differs_since_seconds = now
        has_lasted = now - last.differs_since_seconds >= MIN_DURATION_SECONDS
        return has_lasted and now - last.at_seconds >= MIN_INTERVAL_SECONDS

    def _release(self, now: float) -> None:
        """Remove the subjects that were not noted while Kubernetes keeps an event, and the oldest of too many."""
        while self._last_events:
            oldest = next(iter(self._last_events.values()))
            if len(self._last_events) <= MAX_SUBJECTS and now - oldest.noted_at_seconds < REPEAT_SECONDS:
                return
            self._last_events.popitem(last=False)

    def _may_write(self) -> bool:
        """Take a token of the rate limit. An event without a token is due again with the next answer."""
        now = self._clock()
        return not self._writes.is_paused(now) and self._writes.limit.take(1, now)

    async def _write(self, condition: _Condition) -> bool:
        subject = condition.subject
        if not is_name(subject.namespace) or not is_name(subject.name):
            return False
        try:
            api = await self._opened()
            found = await _object_reference(api, subject)
            if found is not None:
                path = ResourceQuery("events", namespace=subject.namespace).path
                await api.create(path, self._event(condition, *found))
        except ApiError as error:
            if error.status == _CONFLICT and subject.aspect == _REFUSED:
                return False  # another instance has written it
            raise
        return True

    def _event(self, condition: _Condition, reference: dict[str, str], generation: str) -> dict[str, Any]:
        subject = condition.subject
        identity = f"{reference['uid']} {generation} {condition.reason} {condition.message}"
        is_shared = subject.aspect == _REFUSED
        suffix = f"{zlib.crc32(identity.encode()):08x}" if is_shared else os.urandom(8).hex()
        now = datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        message = condition.message
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "namespace": subject.namespace,
                "name": f"{subject.name[:_MAX_NAME_LENGTH].rstrip('.-')}.{suffix}",
            },
            "involvedObject": reference,
            "type": "Normal" if condition.is_healthy else "Warning",
            "reason": condition.reason,
            "message": message if len(message) <= _MAX_MESSAGE_LENGTH else f"{message[:_MAX_MESSAGE_LENGTH]} …",
            "source": {"component": _COMPONENT, "host": self._reporter},
            "reportingComponent": _COMPONENT,
            "reportingInstance": self._reporter,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


async def _object_reference(api: ApiClient, subject: _Subject) -> tuple[dict[str, str], str] | None:
    """Return the reference to an event's object, and the generation of its specification.

    Returns None where the object does not exist, as in a call by hand.

    Raises:
        ApiError: the object cannot be read.
    """
    for resource, kind in _KINDS:
        collection = ResourceQuery(resource, _GROUP, _VERSION, subject.namespace)
        parameters = {"fieldSelector": f"metadata.name={subject.name}", "limit": "1"}
        page = await api.get(collection.path, parameters, METADATA_LIST_ONLY)
        for item in page.get("items") or ():
            metadata = part(item, "metadata")
            reference = {
                "apiVersion": f"{_GROUP}/{_VERSION}",
                "kind": kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": str(metadata.get("uid") or ""),
            }
            return reference, str(metadata.get("generation") or "")
    return None


def _conditions(answer: RecentAnswer) -> Iterator[_Condition]:
    trigger = (answer.namespace, answer.name, answer.metric_name, answer.metric)
    value, demand = _Subject(*trigger, "value"), _Subject(*trigger, "demand")
    if answer.value is None:
        message = f"{answer.metric_name} has no value: {answer.reason}"
        yield _Condition(value, False, "GPUTriggerUnanswered", message)
    else:
        message = f"{answer.metric_name} has a value again: {answer.value:g} (target {answer.target:g})"
        yield _Condition(value, True, "GPUTriggerAnswered", message)
    if answer.is_demand_known is False:
        message = f"{answer.demand_sentence}; it neither activates the workload nor scales it to zero"
        yield _Condition(demand, False, "DemandUnknown", message)
    elif answer.is_demand_known:
        yield _Condition(demand, True, "DemandKnown", f"demand is known again: {answer.demand_sentence}")


def _metadata_condition(namespace: str, name: str, problems: Sequence[str]) -> _Condition:
    subject = _Subject(namespace, name, "", "", _REFUSED)
    if problems:
        message = f"a trigger is refused, and KEDA gets no value for it: {'; '.join(problems)}"
        return _Condition(subject, False, "GPUTriggerRefused", message)
    return _Condition(subject, True, "GPUTriggerAccepted", "no trigger is refused any more")


def _compared_text(condition: _Condition) -> str:
    """Return the text in which a change is a change of the condition: that of a refusal."""
    return condition.message if condition.subject.aspect == _REFUSED and not condition.is_healthy else ""
