# SPDX-License-Identifier: Apache-2.0
"""Finds the declared triggers whose metadata is refused, by KEDA's questions and by the watches.

Law: only a trigger that a ScaledObject or ScaledJob declares is reported. Any client can ask, with any name and any
metadata. The instance that KEDA asks reports; an instance that is not asked watches nothing.

KEDA asks when the object is created. An object with a refused trigger has no HPA, and KEDA asks again at longer and
longer intervals, up to 1,000 seconds (the rate limiter of controller-runtime). So the watch, and not the next question,
says what became of the trigger.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.instance_status import RefusedTrigger
from keda_gpu_scaler.core.interfaces import Cluster
from keda_gpu_scaler.core.trigger.declared_objects import DeclaredObjects, declared_problems
from keda_gpu_scaler.core.trigger.metric_type import declares, without_environment
from keda_gpu_scaler.core.types import DeclaredTrigger, Unavailable
from keda_gpu_scaler.server.bounded_cache import BoundedCache
from keda_gpu_scaler.server.request_resolver import MAX_TRIGGERS, printable_names

ASKED_SECONDS = 1800.0
"""How long a refused question counts, and its object is watched: longer than KEDA's longest interval."""
UNCONFIRMED_SECONDS = 600.0
"""How long a refused trigger is reported while declarations cannot be read: as long as any other answer."""
ACCEPTED_SECONDS = 180.0
"""How long an object counts as accepted after its triggers were refused: longer than the interval of its Events."""
SETTLE_SECONDS = 5.0
"""How long a question that no object declares is kept: KEDA may read an edit before this instance does."""
MAX_REFUSED = 1024

_SERVICE = re.compile(r"(?:dns:///)?([a-z0-9-]+\.[a-z0-9-]+)(?:\.svc(?:\.[a-z0-9.-]+)?)?(:[0-9]+)", re.ASCII)
_Name = tuple[str, str]  # the namespace and the name of an object
_Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Question:
    """A question of KEDA that was refused."""

    namespace: str
    name: str
    metadata: Mapping[str, str]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """The problems of each refused trigger of an object, and when its declaration was read last."""

    problems: tuple[tuple[str, ...], ...]
    since_seconds: float
    confirmed_at_seconds: float


class RefusedTriggers:
    """The refused triggers of the objects about which this instance is asked, and of their namespaces.

    Args:
        cluster: knows what is declared; None without access to the API server. Then every question counts.
    """

    def __init__(self, cluster: Cluster | None) -> None:
        self._cluster = cluster
        self._questions: BoundedCache[tuple[_Name, _Metadata], _Question] = BoundedCache(MAX_TRIGGERS, ASKED_SECONDS)
        self._addresses: BoundedCache[tuple[str, str], tuple[str, str]] = BoundedCache(MAX_TRIGGERS, ASKED_SECONDS)
        self._judged: dict[_Name, tuple[tuple[DeclaredTrigger, ...], tuple[tuple[str, ...], ...]]] = {}
        self._refused: dict[_Name, _Refusal] = {}
        self._accepted: dict[_Name, float] = {}

    def note_refused(
        self, namespace: str, name: str, metadata: Mapping[str, str], problems: Sequence[str], now: float
    ) -> bool:
        """Note that a question was refused. The object is watched from now on.

        Returns whether an older answer about the object may be that of the same trigger before an edit: the question
        is new, and it cannot be known what the object declares.
        """
        triggers, is_known = self._declared(namespace, name)
        key = ((namespace, name), tuple(sorted(metadata.items())))
        is_new = self._questions.get(key, now) is None
        self._questions.put(key, _Question(namespace, name, dict(metadata), tuple(problems)), now)
        return is_new and is_known and triggers is None

    def note_valid(self, namespace: str, metadata: Mapping[str, str], now: float) -> None:
        """Note that a declared trigger is valid: its ``scalerAddress`` is one of this scaler in its namespace."""
        address = metadata.get("scalerAddress", "")
        if address and self._addresses.get((namespace, address), now) is None:
            self._addresses.put((namespace, address), (namespace, _service(address)), now)

    def triggers(self) -> list[RefusedTrigger]:
        """Return every refused trigger that is declared now, by the name of its object."""
        return [
            RefusedTrigger(*printable_names(*name), problems, refusal.since_seconds)
            for name, refusal in sorted(self._refused.items())
            for problems in refusal.problems
        ][:MAX_REFUSED]

    def accepted(self) -> list[_Name]:
        """Return the objects that had a refused trigger a short time ago and have none now."""
        return list(self._accepted)

    def look(self, declarations: Mapping[str, DeclaredObjects], now: float) -> None:
        """Compare the questions and the declarations; called regularly.

        Args:
            declarations: what the objects of each watched namespace declare.
            now: monotonic seconds.
        """
        self._questions.expire(now)
        self._addresses.expire(now)
        asked = self._asked(now)
        found = {name: problems for name, problems in self._refused_declarations(declarations, asked) if problems}
        for name, questions in asked.items():
            found.setdefault(name, tuple(dict.fromkeys(questions.values())))
        before, self._refused = self._refused, {}
        for name, problems in found.items():
            since = before[name].since_seconds if name in before else now
            self._refused[name] = _Refusal(problems, since, now)
            self._accepted.pop(name, None)
        for name in before.keys() - found.keys():
            self._end(name, before[name], declarations.get(name[0]), now)
        self._accepted = {name: at for name, at in self._accepted.items() if now - at <= ACCEPTED_SECONDS}

    # ---- questions ----

    def _asked(self, now: float) -> dict[_Name, dict[_Metadata, tuple[str, ...]]]:
        """Return the problems of each refused question whose object declares the trigger, by object and metadata."""
        found: dict[_Name, dict[_Metadata, tuple[str, ...]]] = {}
        for asked_at, question in self._questions.values():
            name = (question.namespace, question.name)
            triggers, is_known = self._declared(*name)
            if triggers is None:
                is_counted = is_known and now - asked_at <= UNCONFIRMED_SECONDS
            elif is_counted := declares(triggers, question.metadata):
                self.note_valid(question.namespace, question.metadata, now)
            elif now - asked_at > SETTLE_SECONDS:
                self._questions.discard((name, tuple(sorted(question.metadata.items()))))
            if is_counted:
                found.setdefault(name, {})[_declared_items(question.metadata)] = question.problems
        return found

    def _declared(self, namespace: str, name: str) -> tuple[tuple[DeclaredTrigger, ...] | None, bool]:
        """Return what an object declares, None where that cannot be read; and whether either of the two is known."""
        if self._cluster is None:
            return None, True
        known = self._cluster.workload(namespace, name)
        is_forbidden = known.triggers is None and isinstance(known, Unavailable) and known.is_permanent
        return known.triggers, known.triggers is not None or is_forbidden

    # ---- declarations ----

    def _refused_declarations(
        self, declarations: Mapping[str, DeclaredObjects], asked: Mapping[_Name, Mapping[_Metadata, tuple[str, ...]]]
    ) -> Iterator[tuple[_Name, tuple[tuple[str, ...], ...]]]:
        """Yield the problems of the refused triggers of each declared object."""
        services: dict[str, set[str]] = {}
        for _, (namespace, service) in self._addresses.values():
            services.setdefault(namespace, set()).add(service)
        judged, self._judged = self._judged, {}
        for namespace in declarations.keys() & services.keys():
            for name, triggers in declarations[namespace].triggers.items():
                key = (namespace, name)
                last = judged.get(key)
                if last is None or last[0] is not triggers:
                    last = (triggers, tuple(declared_problems(trigger.metadata) for trigger in triggers))
                self._judged[key] = last
                questions = asked.get(key, {})
                found = [
                    questions.get(_declared_items(trigger.metadata), problems)
                    for trigger, problems in zip(*last, strict=True)
                    if questions or (problems and _service_of(trigger) in services[namespace])
                ]
                yield key, tuple(dict.fromkeys(filter(None, found)))

    def _end(self, name: _Name, refusal: _Refusal, known: DeclaredObjects | None, now: float) -> None:
        """End a refusal. It stays for a while where it is not known what the object declares."""
        if known is None or (name[1] not in known.triggers and not known.is_complete):
            if self._cluster is not None and now - refusal.confirmed_at_seconds <= UNCONFIRMED_SECONDS:
                self._refused[name] = refusal
        elif name[1] in known.triggers:
            self._accepted[name] = now


def _declared_items(metadata: Mapping[str, str]) -> _Metadata:
    return tuple(sorted(without_environment(metadata).items()))


def _service_of(trigger: DeclaredTrigger) -> str:
    return _service(trigger.metadata.get("scalerAddress", ""))


def _service(address: str) -> str:
    """Return an address in one form: a Service has several names."""
    found = _SERVICE.fullmatch(address.strip().lower())
    return found[1] + found[2] if found else address
