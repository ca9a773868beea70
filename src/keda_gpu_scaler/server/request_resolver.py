# SPDX-License-Identifier: Apache-2.0
"""Step 1 of an RPC, resolve: reads the trigger of a request and names its workload.

Law: the result depends on the request alone. It is therefore valid for as long as it is kept.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from keda_gpu_scaler.core.idle_cache import cached_while_used
from keda_gpu_scaler.core.trigger.namespace import in_namespace, with_credentials
from keda_gpu_scaler.core.trigger.parser import Trigger, parse_trigger
from keda_gpu_scaler.server.split_cache import SplitCache

MAX_TRIGGERS = 2048
"""The number of triggers for which results are cached: one for each stream or workload of a large cluster."""
IDLE_SECONDS = 600.0
"""A result is released when its trigger was not used for this time."""

_MAX_NAMESPACE_LENGTH, _MAX_NAME_LENGTH = 63, 253  # of Kubernetes
_Name = tuple[tuple[tuple[str, str], ...], str, str, str]  # metadata, namespace, name and proposed spec
_Key = tuple[tuple[tuple[str, str], ...], str, str, str, "Standing"]


@cached_while_used(MAX_TRIGGERS // 2)
def _parse(metadata: tuple[tuple[str, str], ...]) -> Trigger:
    return parse_trigger(dict(metadata))


class Standing(enum.Enum):
    """Whether a ScaledObject declares the trigger of a question."""

    DECLARED = "declared"
    UNDECLARED = "undeclared"
    """No ScaledObject of this name declares it, or that is not known yet."""
    UNVERIFIABLE = "unverifiable"
    """There is no access to the API server, or no right to read ScaledObjects: every question counts as declared."""

    @property
    def counts(self) -> bool:
        """Whether a question counts as declared."""
        return self is not Standing.UNDECLARED


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
    standing: Standing = Standing.UNVERIFIABLE


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
        has_credentials: whether credentials are mounted. Without any, no scrape depends on who asks.
    """

    def __init__(self, *, has_cluster: bool, has_credentials: bool = False) -> None:
        self._has_cluster = has_cluster
        self._has_credentials = has_credentials
        self._triggers: SplitCache[_Key, ResolvedTrigger] = SplitCache(MAX_TRIGGERS, IDLE_SECONDS)

    def resolve(
        self, metadata: Mapping[str, str], namespace: str, name: str, now: float, proposed_spec: str = ""
    ) -> ScaledObjectRequest:
        """Return the trigger of a request.

        Raises:
            TriggerError: the metadata is invalid.
        """
        items = tuple(sorted(metadata.items()))
        key = (items, namespace, name, proposed_spec) if self._has_cluster else (items, "", "", "")
        standing = Standing.UNDECLARED if self._has_cluster else Standing.UNVERIFIABLE
        return ScaledObjectRequest(self._of_standing(key, standing, now), *printable_names(namespace, name))

    def with_standing(self, resolved: ResolvedTrigger, standing: Standing, now: float) -> ResolvedTrigger:
        """Return the trigger as one of this standing, on which the credentials for its scrapes depend."""
        if resolved.standing is standing:
            return resolved
        key = (resolved.metadata, resolved.namespace, resolved.name, resolved.proposed_spec)
        return self._of_standing(key, standing, now)

    def expire_idle(self, now: float) -> None:
        """Release the triggers that were not used for a while."""
        self._triggers.expire(now)

    def _of_standing(self, key: _Name, standing: Standing, now: float) -> ResolvedTrigger:
        resolved = self._triggers.get((*key, standing), now)
        if resolved is None:
            resolved = ResolvedTrigger(self._trigger(key, standing), *key, standing)
            self._triggers.put((*key, standing), resolved, now, is_declared=standing.counts)
        return resolved

    def _trigger(self, key: _Name, standing: Standing) -> Trigger:
        metadata, namespace, *_ = key
        trigger = _parse(metadata)
        if self._has_cluster:
            trigger = in_namespace(trigger, namespace)
        if self._has_credentials and standing.counts:
            trigger = with_credentials(trigger, namespace if standing is Standing.DECLARED else "")
        return trigger


def printable_names(namespace: str, name: str) -> tuple[str, str]:
    """Return a ScaledObject's names as they may appear in logs and status messages.

    Kubernetes names are plain ASCII. A caller may send anything.
    """
    return ascii(namespace[:_MAX_NAMESPACE_LENGTH])[1:-1], ascii(name[:_MAX_NAME_LENGTH])[1:-1]
