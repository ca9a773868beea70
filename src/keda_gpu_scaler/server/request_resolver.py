# SPDX-License-Identifier: Apache-2.0
"""Step 1 of an RPC, resolve: reads the trigger of a request and names its workload.

Law: the result depends on the request alone. It is therefore valid for as long as it is kept.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from keda_gpu_scaler.core.trigger.parser import Trigger, parse_trigger
from keda_gpu_scaler.server.bounded_cache import BoundedCache

MAX_TRIGGERS = 2048
"""The number of triggers for which results are cached: one for each stream or workload of a large cluster."""
IDLE_SECONDS = 600.0
"""A result is released when its trigger was not used for this time."""

_MAX_NAMESPACE_LENGTH, _MAX_NAME_LENGTH = 63, 253  # of Kubernetes


@functools.lru_cache(maxsize=MAX_TRIGGERS)
def _parse(metadata: tuple[tuple[str, str], ...]) -> Trigger:
    return parse_trigger(dict(metadata))


@dataclass(frozen=True, slots=True, eq=False)
class ResolvedTrigger:
    """A trigger and the workload it is evaluated for.

    Equal triggers are the same object while they are cached. Caches therefore compare and hash identities, which
    costs less than hashing a trigger. Without a cluster no workload is known: ``namespace`` and ``name`` are empty, and
    all ScaledObjects with the same metadata share one trigger. ``proposed_spec`` is the spec of a ScaledObject that is
    not applied, empty for one that the API server has.
    """

    trigger: Trigger
    metadata: tuple[tuple[str, str], ...] = ()
    namespace: str = ""
    name: str = ""
    proposed_spec: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ScaledObjectRequest:
    """A trigger and the ScaledObject of the request; the names are fit for logs and status messages."""

    resolved: ResolvedTrigger
    namespace: str
    name: str

    @property
    def title(self) -> str:
        """The ScaledObject as ``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class RequestResolver:
    """Reads requests.

    Args:
        has_cluster: whether workloads are known.
    """

    def __init__(self, *, has_cluster: bool) -> None:
        self._has_cluster = has_cluster
        self._triggers: BoundedCache[tuple[object, ...], ResolvedTrigger] = BoundedCache(MAX_TRIGGERS, IDLE_SECONDS)

    def resolve(
        self, metadata: Mapping[str, str], namespace: str, name: str, now: float, proposed_spec: str = ""
    ) -> ScaledObjectRequest:
        """Return the trigger of a request.

        Raises:
            TriggerError: the metadata is invalid.
        """
        items = tuple(sorted(metadata.items()))
        key = (items, namespace, name, proposed_spec) if self._has_cluster else (items, "", "", "")
        resolved = self._triggers.get(key, now)
        if resolved is None:
            trigger = _parse(items)
            if self._has_cluster:
                trigger = _in_namespace(trigger, namespace)
            resolved = ResolvedTrigger(trigger, *key)
            self._triggers.put(key, resolved, now)
        return ScaledObjectRequest(resolved, *printable_names(namespace, name))

    def expire_idle(self, now: float) -> None:
        """Release the triggers that were not used for a while."""
        self._triggers.expire(now)


def _in_namespace(trigger: Trigger, namespace: str) -> Trigger:
    """Return a trigger whose URLs may lead to what this namespace owns, and to what the operator lists."""
    engine, demand = trigger.engine, trigger.demand
    if engine is not None and engine.url:
        engine = replace(engine, namespace=namespace)
    if demand is not None:
        demand = replace(demand, namespace=namespace)
    if engine is trigger.engine and demand is trigger.demand:
        return trigger
    return replace(trigger, engine=engine, demand=demand)


def printable_names(namespace: str, name: str) -> tuple[str, str]:
    """Return a ScaledObject's names as they may appear in logs and status messages.

    Kubernetes names are plain ASCII. A caller may send anything.
    """
    return ascii(namespace[:_MAX_NAMESPACE_LENGTH])[1:-1], ascii(name[:_MAX_NAME_LENGTH])[1:-1]
