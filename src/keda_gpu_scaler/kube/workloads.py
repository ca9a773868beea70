# SPDX-License-Identifier: Apache-2.0
"""Watches the workloads behind ScaledObjects and ScaledJobs, and the labels of nodes.

Law: a call returns the last state at once, and an unchanged state is the same object. Nothing is polled, and nothing
is watched that no caller has requested lately.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keda_gpu_scaler.core.instance_status import Watches
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.declared_objects import DeclaredObjects
from keda_gpu_scaler.core.types import Pod, Unavailable, Workload
from keda_gpu_scaler.kube import parse
from keda_gpu_scaler.kube.client import ApiClient, ApiError
from keda_gpu_scaler.kube.keda_objects import KEDA_GROUP
from keda_gpu_scaler.kube.parse import Scale, ScaleTarget, mappings
from keda_gpu_scaler.kube.resource_query import ResourceQuery
from keda_gpu_scaler.kube.shared_reflectors import SharedReflectors
from keda_gpu_scaler.kube.watched_workload import WatchedWorkload

IDLE_TIMEOUT_SECONDS = 600.0
"""How long a workload is watched after the last request for it."""
MAX_WORKLOADS = 2000
MAX_PROPOSALS = 8
"""The number of ScaledObjects that are not applied and whose workloads are watched at the same time."""
PROPOSAL_IDLE_SECONDS = 60.0
MAX_ABSENT = 128
"""The number of names without an object that stay watched: any client can invent names, and each costs memory."""
_MAX_CLOCK_DRIFT_SECONDS = 1.0
_NOT_FOUND = 404
_NO_NAME = "the call names no ScaledObject: name one (NAMESPACE/NAME), or set scope: fleet or node"
_NODES = ResourceQuery("nodes", metadata_only=True)


class Workloads:
    """The cluster's workloads, each watched from its first request on. Everything runs in one event loop.

    Args:
        api: the API server.
        clock: monotonic seconds.
        wall_clock: seconds since 1970, from which pods' ages are computed.
        on_change: called whenever a workload has changed.
    """

    def __init__(
        self,
        api: ApiClient,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._clock = clock
        self._on_change = on_change
        self._wall_clock = wall_clock
        self._to_monotonic = clock() - wall_clock()
        self._reflectors = SharedReflectors(api, clock)
        self._workloads: dict[tuple[str, str, str], WatchedWorkload] = {}
        self._labels_requested_at: float | None = None
        self._labels: Mapping[str, Mapping[str, str]] | None = None
        self._resources: dict[tuple[str, str, str], str] = {}
        self._versions: dict[str, str] = {}

    def workload(self, namespace: str, name: str, proposed_spec: str = "") -> Workload | Unavailable:
        """Return the last state of a workload; the first request begins to watch it."""
        workload = self._workloads.get((namespace, name, proposed_spec))
        if workload is None:
            if not name:
                return Unavailable(_NO_NAME, is_permanent=True, triggers=())
            if not parse.is_name(namespace) or not parse.is_name(name):
                title = quoted(f"{namespace}/{name}")
                return Unavailable(
                    f"{title} is not a valid name of a Kubernetes object", is_permanent=True, triggers=()
                )
            if len(self._workloads) >= MAX_WORKLOADS and not self._release_unknown():
                return Unavailable(f"the limit of {MAX_WORKLOADS} watched workloads is reached", is_permanent=False)
            if proposed_spec:
                self._keep_newest([key for key in self._workloads if key[2]], MAX_PROPOSALS - 1)
            workload = WatchedWorkload(namespace, name, self, proposed_spec)
            self._workloads[namespace, name, proposed_spec] = workload
        workload.requested_at = self._clock()
        return workload.state(workload.requested_at)

    async def wait_for_sync(self, namespace: str, name: str, proposed_spec: str = "") -> None:
        """Return once the state of a workload is known, good or bad."""
        self.workload(namespace, name, proposed_spec)
        if workload := self._workloads.get((namespace, name, proposed_spec)):
            await workload.is_synced.wait()

    def node_labels(self) -> Mapping[str, Mapping[str, str]] | Unavailable:
        """Return every node's labels; the first request begins to watch the nodes."""
        now = self._labels_requested_at = self._clock()
        nodes = self._reflectors.use(_NODES, parse.labels, self, self._labels_changed)
        if unavailable := nodes.unavailable(now):
            return unavailable
        if self._labels is None:
            self._labels = dict(nodes.items)
        return self._labels

    def declarations(self) -> Mapping[str, DeclaredObjects]:
        """Return the external triggers of each namespace whose ScaledObjects are watched and trusted."""
        jobs = dict(self._reflectors.trusted_items("scaledjobs", KEDA_GROUP))
        return {
            namespace: DeclaredObjects(
                {name: spec.triggers for name, spec in {**jobs.get(namespace, {}), **objects}.items()},
                is_complete=namespace in jobs,
            )
            for namespace, objects in self._reflectors.trusted_items("scaledobjects", KEDA_GROUP)
        }

    def pod_addresses(self, namespace: str) -> frozenset[str]:
        """Return the addresses of the pods of the watched workloads of a namespace."""
        now = self._clock()
        states = [it.state(now) for key, it in self._workloads.items() if key[0] == namespace and not key[2]]
        pods = [pod for state in states if isinstance(state, Workload) for pod in state.pods]
        return frozenset(address for pod in pods for address in (pod.address, *pod.other_addresses) if address)

    def watches(self) -> Watches:
        """Count the open watches by resource and state."""
        return self._reflectors.states()

    def expire_idle(self) -> None:
        """Stop watching what no caller has requested within the limit; to be called from time to time."""
        now = self._clock()
        for key, workload in list(self._workloads.items()):
            if now - workload.requested_at > (PROPOSAL_IDLE_SECONDS if key[2] else IDLE_TIMEOUT_SECONDS):
                del self._workloads[key]
                workload.close()
        self._keep_newest([key for key, it in self._workloads.items() if it.is_absent], MAX_ABSENT)
        if self._labels_requested_at is not None and now - self._labels_requested_at > IDLE_TIMEOUT_SECONDS:
            self._labels_requested_at = self._labels = None
            self._reflectors.release(_NODES, self)

    async def close(self) -> None:
        """End every watch, and close every connection."""
        workloads = list(self._workloads.values())
        self._workloads.clear()
        for workload in workloads:
            workload.close()
        await asyncio.gather(*(workload.task for workload in workloads), return_exceptions=True)
        await self._reflectors.close()
        await self._api.close()

    def _keep_newest(self, keys: list[tuple[str, str, str]], most: int) -> None:
        """Stop watching those of these that were not requested for the longest time, until so many are left."""
        oldest = sorted((self._workloads[key].requested_at, key) for key in keys)
        for _, key in oldest[: max(0, len(oldest) - most)]:
            self._workloads.pop(key).close()

    def _release_unknown(self) -> bool:
        """Stop watching the name without an object that was not requested for the longest time; whether there was one.

        Otherwise invented names would take the places of workloads.
        """
        unknown = [(not it.is_absent, it.requested_at, key) for key, it in self._workloads.items() if not it.is_known]
        if not unknown:
            return False
        self._workloads.pop(min(unknown)[2]).close()  # what is not read yet may exist, so it goes last
        return True

    def _labels_changed(self) -> None:
        self._labels = None
        self._on_change()

    # ---- for WatchedWorkload: see its ``WorkloadContext`` ----

    @property
    def reflectors(self) -> SharedReflectors:
        """The reflectors that all workloads share."""
        return self._reflectors

    def now(self) -> float:
        """Return the time in monotonic seconds."""
        return self._clock()

    def pod(self, item: Mapping[str, Any]) -> Pod:
        """Read a pod, with its age on the monotonic clock."""
        to_monotonic = self._clock() - self._wall_clock()
        if abs(to_monotonic - self._to_monotonic) > _MAX_CLOCK_DRIFT_SECONDS:
            # The wall clock was set. Otherwise the difference stays, so that a pod read twice is exactly the same.
            self._to_monotonic = to_monotonic
        return parse.pod(item, self._to_monotonic)

    def changed(self) -> None:
        """Report that a workload's state has changed."""
        self._on_change()

    async def scale(self, target: ScaleTarget, resource: str, namespace: str) -> Scale:
        """Read a target's scale subresource.

        Raises:
            ApiError: there is none, or RBAC forbids to read it.
        """
        query = ResourceQuery(resource, target.group, target.version, namespace)
        return parse.scale(await self._api.get(f"{query.path}/{target.name}/scale"))

    async def resource(self, target: ScaleTarget) -> str:
        """Return the resource of a target's kind, from KEDA's status or else from the API server's discovery.

        Raises:
            ApiError: there is no such kind.
        """
        if target.resource:
            return target.resource
        key = (target.group, target.version, target.kind)
        if key not in self._resources:
            self._resources[key] = await self._discover(target)
        return self._resources[key]

    async def version(self, group: str, known: Sequence[str]) -> str:
        """Return the first of the known versions of an API group that the API server has.

        Raises:
            ApiError: it has none of them.
        """
        if group not in self._versions:
            try:
                versions = mappings((await self._api.get(f"/apis/{group}")).get("versions"))
            except ApiError as error:
                if error.status != _NOT_FOUND:
                    raise
                versions = []
            served = {parse.text(entry.get("version")) for entry in versions}
            found = next((version for version in known if version in served), "")
            if not found:
                raise ApiError(f"the API server has no version of {group} among {', '.join(known)}", _NOT_FOUND)
            self._versions[group] = found
        return self._versions[group]

    async def _discover(self, target: ScaleTarget) -> str:
        version = f"{target.group}/{target.version}" if target.group else target.version
        try:
            listed = await self._api.get(f"/apis/{version}" if target.group else f"/api/{version}")
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            listed = {}
        for entry in mappings(listed.get("resources")):
            if entry.get("kind") == target.kind and parse.is_name(str(entry.get("name"))):
                return str(entry["name"])
        problem = f"the API server has no {target.kind} of {version}"
        raise ApiError(f"{problem}: is its CustomResourceDefinition installed?", _NOT_FOUND)
