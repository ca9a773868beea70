# SPDX-License-Identifier: Apache-2.0
"""What do a ScaledObject's own events say of us? That a trigger stops, and starts again, being answerable.

The law of this module: an event tells of a change that has lasted, never of a poll, and no answer waits for it.

As ``kubectl describe`` finds them: by the object's name, kind and uid, which is looked up when there is something to
tell. KEDA writes an event for each call that fails; these are the two in between.
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

from keda_gpu_scaler.core.counters import RecentAnswer
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import METADATA_LIST_ONLY, ApiClient, ApiError
from keda_gpu_scaler.kube.parse import is_name
from keda_gpu_scaler.kube.reflector import ResourceQuery

HELD_SECONDS = 3.0
"""A change is told by an answer that finds it so long after another did: what passes by itself is no event."""
APART_SECONDS = 60.0
"""Of one trigger an event comes no sooner after the one before."""
BURST, EVERY_SECONDS = 20, 5.0
"""So many events at once, and then one in so many seconds: whoever asks us must not fill a cluster's store."""
SILENT_SECONDS = 600.0
"""For so long nothing is tried after the API server forbade it."""
MAX_SUBJECTS = 1024

_KINDS = (("scaledobjects", "ScaledObject"), ("scaledjobs", "ScaledJob"))
_GROUP, _VERSION = "keda.sh", "v1alpha1"
_COMPONENT = "keda-gpu-scaler"
_LONGEST_MESSAGE = 1000  # Kubernetes takes 1,024
_LONGEST_NAME = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Subject:
    """What may be well or not: the value of one trigger, or its demand."""

    namespace: str
    name: str
    metric_name: str
    metric: str
    part: str


@dataclass(slots=True)
class _LastEvent:
    """What was told of a subject last, and since when something else is found."""

    is_well: bool = True
    at_seconds: float = 0.0
    differs_since_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Condition:
    """How one answer finds a subject, and the event that would tell it."""

    subject: _Subject
    is_well: bool
    reason: str
    message: str


class EventRecorder:
    """Writes events about what GetMetrics answers, on change only.

    Args:
        opened: returns the API server; awaited when there is something to write.
        reporter: who writes, by name: this instance's node.
        clock: monotonic seconds.
        wall_clock: seconds since 1970, for people.
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
        self._told: OrderedDict[_Subject, _LastEvent] = OrderedDict()
        self._budget, self._budget_at = float(BURST), clock()
        self._silent_until = float("-inf")
        self._failure = ""
        self._writing: set[asyncio.Task[None]] = set()

    def note(self, answer: RecentAnswer) -> None:
        """Look at an answer; to be called in the event loop."""
        for finding in _findings(answer):
            if self._is_due(finding) and self._may_write():
                told = self._told[finding.subject]
                told.is_well, told.at_seconds, told.differs_since_seconds = finding.is_well, self._clock(), None
                task = asyncio.create_task(self._write(finding), name=f"event {finding.reason}")
                self._writing.add(task)
                task.add_done_callback(self._writing.discard)

    async def close(self) -> None:
        """Write nothing any more."""
        tasks = tuple(self._writing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_due(self, finding: _Condition) -> bool:
        """Whether it differs from what was told, and has for long enough."""
        subject, now = finding.subject, self._clock()
        told = self._told.get(subject)
        if told is None:
            if finding.is_well:
                return False
            told = self._told[subject] = _LastEvent(at_seconds=now - APART_SECONDS)
            if len(self._told) > MAX_SUBJECTS:
                self._told.popitem(last=False)
        self._told.move_to_end(subject)
        if finding.is_well == told.is_well:
            told.differs_since_seconds = None
            return False
        if told.differs_since_seconds is None:
            told.differs_since_seconds = now
        return now - told.differs_since_seconds >= HELD_SECONDS and now - told.at_seconds >= APART_SECONDS

    def _may_write(self) -> bool:
        """Take one from what may be written; what may not be now is due again with the next answer."""
        now = self._clock()
        self._budget = min(self._budget + (now - self._budget_at) / EVERY_SECONDS, BURST)
        self._budget_at = now
        if self._budget < 1 or now < self._silent_until:
            return False
        self._budget -= 1
        return True

    async def _write(self, finding: _Condition) -> None:
        subject = finding.subject
        if not is_name(subject.namespace) or not is_name(subject.name):
            return
        try:
            api = await self._opened()
            involved = await _involved(api, subject)
            if involved is not None:
                path = ResourceQuery("events", namespace=subject.namespace).path
                await api.create(path, self._event(finding, involved))
        except KubeError as error:
            self._say(error)
        except Exception:  # whatever the API server sends, the next event is tried
            _log.exception("an event cannot be written")
        else:
            self._failure = ""

    def _event(self, finding: _Condition, involved: dict[str, str]) -> dict[str, Any]:
        subject = finding.subject
        now = datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        message = finding.message
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "namespace": subject.namespace,
                "name": f"{subject.name[:_LONGEST_NAME].rstrip('.-')}.{os.urandom(8).hex()}",
            },
            "involvedObject": involved,
            "type": "Normal" if finding.is_well else "Warning",
            "reason": finding.reason,
            "message": message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]} …",
            "source": {"component": _COMPONENT, "host": self._reporter},
            "reportingComponent": _COMPONENT,
            "reportingInstance": self._reporter,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }

    def _say(self, error: KubeError) -> None:
        forbidden = isinstance(error, ApiError) and error.is_permanent
        if forbidden:
            self._silent_until = self._clock() + SILENT_SECONDS
        if str(error) != self._failure:
            remedy = "; grant create on events (chart: rbac.create)" if forbidden else ""
            _log.warning("an event cannot be written: %s%s", error, remedy)
        self._failure = str(error)


async def _involved(api: ApiClient, subject: _Subject) -> dict[str, str] | None:
    """Return what an event is about; None where there is no such object, whatever we were asked.

    Raises:
        ApiError: it cannot be looked up.
    """
    for resource, kind in _KINDS:
        place = ResourceQuery(resource, _GROUP, _VERSION, subject.namespace)
        query = {"fieldSelector": f"metadata.name={subject.name}", "limit": "1"}
        found = (await api.get(place.path, query, METADATA_LIST_ONLY)).get("items") or ()
        for item in found:
            return {
                "apiVersion": f"{_GROUP}/{_VERSION}",
                "kind": kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": str((item.get("metadata") or {}).get("uid") or ""),
            }
    return None


def _findings(answer: RecentAnswer) -> Iterator[_Condition]:
    of = (answer.namespace, answer.name, answer.metric_name, answer.metric)
    if answer.value is None:
        message = f"{answer.metric_name} has no value: {answer.reason}"
        yield _Condition(_Subject(*of, "value"), False, "GPUTriggerUnanswered", message)
    else:
        message = f"{answer.metric_name} has a value again: {answer.value:g} (target {answer.target:g})"
        yield _Condition(_Subject(*of, "value"), True, "GPUTriggerAnswered", message)
    if answer.is_demand_known is False:
        message = f"{answer.demand_sentence}; it neither wakes the workload nor lets it sleep"
        yield _Condition(_Subject(*of, "demand"), False, "DemandUnknown", message)
    elif answer.is_demand_known:
        yield _Condition(_Subject(*of, "demand"), True, "DemandKnown", f"it is known again: {answer.demand_sentence}")
