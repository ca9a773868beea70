# SPDX-License-Identifier: Apache-2.0
"""Records events on a ScaledObject when a trigger loses its value, and when it has one again.

Law: an event reports a change that has lasted, never a single call, and no call waits for an event.

``kubectl describe`` finds events by the object's name, kind and uid, so the recorder reads the uid first.
KEDA itself writes an event for every call that fails; these events mark the first and the last of them.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keda_gpu_scaler.core.instance_status import RecentAnswer
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import METADATA_LIST_ONLY, ApiClient, ApiError
from keda_gpu_scaler.kube.parse import is_name, part
from keda_gpu_scaler.kube.rate_limit import WriteLimit
from keda_gpu_scaler.kube.resource_query import ResourceQuery

MIN_DURATION_SECONDS = 3.0
"""A change is recorded when an answer finds it this long after another answer did. A shorter change is no event."""
MIN_INTERVAL_SECONDS = 60.0
"""The least time between two events of one trigger."""
BURST, REFILL_SECONDS = 20, 5.0
"""The rate limit: this many events at once, then one in this many seconds. No caller can fill a cluster's store."""
FORBIDDEN_PAUSE_SECONDS = 600.0
"""How long no event is written after the API server has forbidden one."""
MAX_SUBJECTS = 1024

_KINDS = (("scaledobjects", "ScaledObject"), ("scaledjobs", "ScaledJob"))
_GROUP, _VERSION = "keda.sh", "v1alpha1"
_COMPONENT = "keda-gpu-scaler"
_MAX_MESSAGE_LENGTH = 1000  # Kubernetes accepts 1,024
_MAX_NAME_LENGTH = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Subject:
    """The subject of events: the value of one trigger, or its demand."""

    namespace: str
    name: str
    metric_name: str
    metric: str
    aspect: str


@dataclass(slots=True)
class _LastEvent:
    """The last event of a subject, and since when the subject differs from it."""

    is_healthy: bool = True
    at_seconds: float = 0.0
    differs_since_seconds: float | None = None


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
        self._limit = WriteLimit(BURST, REFILL_SECONDS, clock)
        self._paused_until = float("-inf")
        self._failure = ""
        self._writing: set[asyncio.Task[None]] = set()

    def note(self, answer: RecentAnswer) -> None:
        """Compare an answer with the last events; to be called in the event loop."""
        for condition in _conditions(answer):
            if self._is_due(condition) and self._may_write():
                last = self._last_events[condition.subject]
                last.is_healthy, last.at_seconds, last.differs_since_seconds = condition.is_healthy, self._clock(), None
                task = asyncio.create_task(self._write(condition), name=f"event {condition.reason}")
                self._writing.add(task)
                task.add_done_callback(self._writing.discard)

    async def close(self) -> None:
        """Cancel the events that are being written."""
        tasks = tuple(self._writing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_due(self, condition: _Condition) -> bool:
        """Whether a condition differs from the last event, and has done so for long enough."""
        subject, now = condition.subject, self._clock()
        last = self._last_events.get(subject)
        if last is None:
            if condition.is_healthy:
                return False
            last = self._last_events[subject] = _LastEvent(at_seconds=now - MIN_INTERVAL_SECONDS)
            if len(self._last_events) > MAX_SUBJECTS:
                self._last_events.popitem(last=False)
        self._last_events.move_to_end(subject)
        if condition.is_healthy == last.is_healthy:
            last.differs_since_seconds = None
            return False
        if last.differs_since_seconds is None:
            last.differs_since_seconds = now
        has_lasted = now - last.differs_since_seconds >= MIN_DURATION_SECONDS
        return has_lasted and now - last.at_seconds >= MIN_INTERVAL_SECONDS

    def _may_write(self) -> bool:
        """Take a token of the rate limit. An event without a token is due again with the next answer."""
        return self._clock() >= self._paused_until and self._limit.take()

    async def _write(self, condition: _Condition) -> None:
        subject = condition.subject
        if not is_name(subject.namespace) or not is_name(subject.name):
            return
        try:
            api = await self._opened()
            reference = await _object_reference(api, subject)
            if reference is not None:
                path = ResourceQuery("events", namespace=subject.namespace).path
                await api.create(path, self._event(condition, reference))
        except KubeError as error:
            self._record_failure(error)
        except Exception:  # an unexpected response must not prevent the next event
            _log.exception("an event cannot be written")
        else:
            self._failure = ""

    def _event(self, condition: _Condition, reference: dict[str, str]) -> dict[str, Any]:
        subject = condition.subject
        now = datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        message = condition.message
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "namespace": subject.namespace,
                "name": f"{subject.name[:_MAX_NAME_LENGTH].rstrip('.-')}.{os.urandom(8).hex()}",
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

    def _record_failure(self, error: KubeError) -> None:
        """Log a failure once, and pause where an operator must change something."""
        is_permanent = isinstance(error, ApiError) and error.is_permanent
        if is_permanent:
            self._paused_until = self._clock() + FORBIDDEN_PAUSE_SECONDS
        if str(error) != self._failure:
            remedy = "; grant create on events (chart: rbac.create)" if is_permanent else ""
            _log.warning("an event cannot be written: %s%s", error, remedy)
        self._failure = str(error)


async def _object_reference(api: ApiClient, subject: _Subject) -> dict[str, str] | None:
    """Return the reference to an event's object; None where the object does not exist, as in a call by hand.

    Raises:
        ApiError: the object cannot be read.
    """
    for resource, kind in _KINDS:
        collection = ResourceQuery(resource, _GROUP, _VERSION, subject.namespace)
        parameters = {"fieldSelector": f"metadata.name={subject.name}", "limit": "1"}
        page = await api.get(collection.path, parameters, METADATA_LIST_ONLY)
        for item in page.get("items") or ():
            return {
                "apiVersion": f"{_GROUP}/{_VERSION}",
                "kind": kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": str(part(item, "metadata").get("uid") or ""),
            }
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
