# SPDX-License-Identifier: Apache-2.0
"""Writes the annotation pod-deletion-cost on the pods of a workload that is about to shrink.

Law: only pods of the workload itself are written, only where the order changed, at a limited rate, and never over the
user's own cost. A second annotation has the cost that was written, so that it can be recognised and removed.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from keda_gpu_scaler.core.evaluate.deletion_order import changed_costs
from keda_gpu_scaler.core.token_bucket import TokenBucket
from keda_gpu_scaler.core.types import PodRef, Workload
from keda_gpu_scaler.kube.background_writes import BackgroundWrites
from keda_gpu_scaler.kube.client import ApiClient, ApiError
from keda_gpu_scaler.kube.parse import DELETION_COST, WRITTEN_DELETION_COST, is_name
from keda_gpu_scaler.kube.resource_query import ResourceQuery

MIN_INTERVAL_SECONDS = 30.0
"""The least time between two changes of one workload. A shrink waits for the HPA's stabilisation of 300 s."""
BURST, REFILL_SECONDS = 50, 0.2
"""The rate limit of all workloads: this many pods at once, then one in this many seconds."""
TRIGGER_SECONDS = 90.0
"""The costs of a trigger count for this long: KEDA and the HPA request it several times a minute."""
MAX_WORKLOADS = 2048

_KINDS = ("Deployment", "ReplicaSet", "Rollout")
"""The scale targets whose pods a ReplicaSet deletes. Other controllers ignore the cost."""
_NOT_FOUND = 404


@dataclass(slots=True)
class _WorkloadCosts:
    """The wanted costs of one workload by trigger, None for a trigger that asks for no shrink."""

    by_trigger: dict[str, tuple[float, Mapping[PodRef, int] | None]] = field(default_factory=dict)
    written_at_seconds: float = float("-inf")


class DeletionCostWriter:
    """Writes costs before a shrink, or removes those that were written.

    Args:
        opened: returns the API server's client; awaited when something is written.
        is_removing: whether the costs that were written are removed, and none is written.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        opened: Callable[[], Awaitable[ApiClient]],
        *,
        is_removing: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._opened = opened
        self._is_removing = is_removing
        self._clock = clock
        self._workloads: OrderedDict[tuple[str, str], _WorkloadCosts] = OrderedDict()
        self._writes = BackgroundWrites(
            "a pod-deletion-cost",
            "grant patch on pods (chart: deletionCost)",
            TokenBucket(BURST, REFILL_SECONDS, clock()),
            clock,
        )

    def note(self, workload: Workload, trigger: str, costs: Mapping[PodRef, int] | None) -> None:
        """Note what a trigger asks for; to be called in the event loop.

        Args:
            workload: the workload with its present pods.
            trigger: the trigger's metric name. A workload may have several triggers.
            costs: the wanted cost of each ready pod; None where the trigger asks for no shrink.
        """
        if workload.target.partition(" ")[0] not in _KINDS:
            return
        now = self._clock()
        known = self._known(workload)
        known.by_trigger[trigger] = (now, costs)
        if now - known.written_at_seconds < MIN_INTERVAL_SECONDS or self._writes.is_paused(now):
            return
        changes = self._changes(workload, known, now)
        if changes and self._writes.limit.take_or_owe(len(changes), now):
            known.written_at_seconds = now
            self._writes.start(self._write(changes), f"deletion cost {workload.namespace}/{workload.name}")

    async def close(self) -> None:
        """Cancel what is being written."""
        await self._writes.close()

    def _known(self, workload: Workload) -> _WorkloadCosts:
        key = (workload.namespace, workload.name)
        known = self._workloads.setdefault(key, _WorkloadCosts())
        self._workloads.move_to_end(key)
        if len(self._workloads) > MAX_WORKLOADS:
            self._workloads.popitem(last=False)
        return known

    def _changes(self, workload: Workload, known: _WorkloadCosts, now: float) -> Mapping[PodRef, int | None]:
        """Return the cost of each pod that must change; None removes it."""
        if self._is_removing:
            return {pod.ref: None for pod in workload.pods if pod.written_deletion_cost is not None}
        for trigger, (at, _) in list(known.by_trigger.items()):
            if now - at > TRIGGER_SECONDS:
                del known.by_trigger[trigger]
        wanted: dict[PodRef, int] = {}
        for _, costs in known.by_trigger.values():
            if costs is None:  # the HPA uses the largest size that a trigger asks for
                return {}
            for ref, cost in costs.items():
                wanted[ref] = max(cost, wanted.get(ref, cost))
        return changed_costs(wanted, workload.pods)

    async def _write(self, changes: Mapping[PodRef, int | None]) -> bool:
        api = await self._opened()
        for ref, cost in changes.items():
            await _annotate(api, ref, cost)
        return True


async def _annotate(api: ApiClient, ref: PodRef, cost: int | None) -> None:
    """Set or remove the annotations of one pod; a pod that no longer exists needs none.

    Raises:
        ApiError: the pod was not changed, or it is not known whether it was.
    """
    if not is_name(ref.namespace) or not is_name(ref.name):
        return
    value = None if cost is None else str(cost)
    path = f"{ResourceQuery('pods', namespace=ref.namespace).path}/{ref.name}"
    try:
        await api.patch(path, {"metadata": {"annotations": {DELETION_COST: value, WRITTEN_DELETION_COST: value}}})
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise
