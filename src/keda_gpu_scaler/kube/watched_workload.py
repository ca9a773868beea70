# SPDX-License-Identifier: Apache-2.0
"""Keeps the state of one workload, and computes it again whenever one of its objects has changed."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from keda_gpu_scaler.core.selectors import SelectorError, parse_labels
from keda_gpu_scaler.core.state.removals import Removals
from keda_gpu_scaler.core.types import DeclaredTrigger, OwnerReference, Pod, Unavailable, Workload
from keda_gpu_scaler.kube import keda_objects, parse
from keda_gpu_scaler.kube.assignments import read_assignments
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.keda_objects import ScaledSpec
from keda_gpu_scaler.kube.ownership import owned_pods
from keda_gpu_scaler.kube.parse import ObjectMetadata, Scale, ScaleTarget
from keda_gpu_scaler.kube.reflector import TRUSTED_SECONDS
from keda_gpu_scaler.kube.replica_labels import LWS_NAME, SCALED_JOB_NAME
from keda_gpu_scaler.kube.resource_query import ResourceQuery
from keda_gpu_scaler.kube.selection import Selection
from keda_gpu_scaler.kube.shared_reflectors import SharedReflectors

MIN_SCALE_INTERVAL_SECONDS = 0.5
"""The least time between two reads of one scale subresource, however often its target changes."""
_RETRY_SECONDS = 5.0
_FORBIDDEN, _NOT_FOUND = 403, 404
_KEDA = ("keda.sh", "v1alpha1")
_RESOURCES = {("apps", "ReplicaSet"): "replicasets", ("apps", "StatefulSet"): "statefulsets"}
_COUNTING_PODS = ("", "apps", "argoproj.io", "apps.kruise.io")
"""The API groups of targets whose size counts pods. Any other target's counts replicas, of one pod or of several."""
_LEADER_WORKER_SET = ("leaderworkerset.x-k8s.io", "LeaderWorkerSet")

_log = logging.getLogger(__name__)


class WorkloadContext(Protocol):
    """The parts of a cluster that a watched workload uses; ``Workloads`` has them."""

    @property
    def reflectors(self) -> SharedReflectors:
        """The reflectors that all workloads share."""

    def now(self) -> float:
        """Return the time in monotonic seconds."""

    def pod(self, item: Mapping[str, Any]) -> Pod:
        """Read a pod, with its age on the monotonic clock."""

    def changed(self) -> None:
        """Report that a workload's state has changed."""

    async def scale(self, target: ScaleTarget, resource: str, namespace: str) -> Scale:
        """Read a target's scale subresource."""

    async def resource(self, target: ScaleTarget) -> str:
        """Return the resource of a target's kind."""

    async def version(self, group: str, known: Sequence[str]) -> str:
        """Return the first of the known versions of an API group that the API server has."""


class _Pending(Exception):  # noqa: N818 - it is not an error
    """An object is not listed yet. The reflector reports a change when it is."""


class _UnavailableError(Exception):
    """The workload is unavailable, with the reason."""

    def __init__(self, reason: str, *, is_permanent: bool) -> None:
        self.unavailable = Unavailable(reason, is_permanent)
        super().__init__(reason)


class WatchedWorkload:
    """One workload that callers request.

    ``requested_at`` is the monotonic time of the last request, ``is_synced`` is set once the state is known. With a
    ``proposed_spec`` it is the workload that a ScaledObject with this spec would have.
    """

    def __init__(self, namespace: str, name: str, cluster: WorkloadContext, proposed_spec: str = "") -> None:
        self._namespace = namespace
        self._name = name
        self._title = f"{namespace}/{name}"
        self._cluster = cluster
        self._proposed_spec = proposed_spec
        self._used: dict[ResourceQuery, Selection[Any]] = {}
        self._needed: set[ResourceQuery] = set()
        self._optional: set[ResourceQuery] = set()
        self._changed = asyncio.Event()
        self._scale: tuple[ScaleTarget, str, Scale] | None = None
        self._scale_failed_at: float | None = None
        self._retry_seconds: float | None = None
        self._triggers: tuple[DeclaredTrigger, ...] | None = None  # of the object, None while it is not read
        self._removals = Removals()
        self._is_reported_unknown = False  # although the last state is known
        self._state: Workload | Unavailable = Unavailable(
            f"{self._title}: not read from the API server yet", is_permanent=False
        )
        self.requested_at = 0.0
        self.is_synced = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"workload {self._title}")

    def state(self, now: float) -> Workload | Unavailable:
        """Return the last state, unless one of its collections can no longer be trusted."""
        if isinstance(self._state, Workload):
            for query, selection in self._used.items():
                if query not in self._optional and (unavailable := selection.unavailable(now)):
                    self._is_reported_unknown = True
                    return unavailable
        return self._state

    @property
    def is_known(self) -> bool:
        """Whether an object of this name exists, or existed at the last read."""
        return isinstance(self._state, Workload) or bool(self._state.triggers)

    @property
    def is_absent(self) -> bool:
        """Whether it is known that no object of this name exists."""
        return isinstance(self._state, Unavailable) and self._state.triggers == ()

    def close(self) -> None:
        """Stop watching."""
        self.task.cancel()
        for query in self._used:
            self._cluster.reflectors.release(query, self)
        self._used.clear()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            self._needed = set()
            self._retry_seconds = None
            self._triggers = None
            await self._update()
            for query in self._used.keys() - self._needed:
                del self._used[query]
                self._optional.discard(query)
                self._cluster.reflectors.release(query, self)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._retry_seconds):
                    await self._changed.wait()

    async def _update(self) -> None:
        """Compute the state again; it stays while an object is not listed yet."""
        try:
            workload = await self._read()
            assignments = await read_assignments(self._cluster, self._optional_items, workload.pods)
            self._set_state(replace(workload, assignments=assignments))
        except _Pending:
            pass
        except _UnavailableError as error:
            self._set_state(error.unavailable)
        except ApiError as error:
            self._set_state(Unavailable(f"{self._title}: {error}", error.is_permanent))
            self._retry_seconds = max(_RETRY_SECONDS, error.retry_after_seconds)
        except Exception as error:  # an unexpected object must not end the task
            _log.exception("%s", self._title)
            self._set_state(Unavailable(f"{self._title}: unexpected {type(error).__name__}", is_permanent=False))
            self._retry_seconds = _RETRY_SECONDS

    def _set_state(self, state: Workload | Unavailable) -> None:
        self.is_synced.set()
        if isinstance(state, Workload):
            removed_at = self._removals.note(state.pods, self._cluster.now())
            state = replace(state, removed_at_seconds=removed_at)
        else:
            state = replace(state, triggers=self._triggers)
        if state != self._state:
            self._state = state
        elif not self._is_reported_unknown:
            return
        self._is_reported_unknown = False
        self._cluster.changed()

    async def _read(self) -> Workload:
        if self._proposed_spec:
            try:
                proposed = keda_objects.proposed_object(self._proposed_spec)
            except ValueError as error:
                raise _UnavailableError(f"{self._title}: {error}", is_permanent=True) from None
            return await self._scaled_object(proposed)
        query = ResourceQuery("scaledobjects", *_KEDA, self._namespace)
        scaled = self._items(query, keda_objects.scaled_object).get(self._name)
        if scaled is None:
            return await self._scaled_job()
        self._triggers = scaled.triggers
        return await self._scaled_object(scaled)

    async def _scaled_job(self) -> Workload:
        try:
            jobs = self._items(ResourceQuery("scaledjobs", *_KEDA, self._namespace), keda_objects.scaled_job)
        except _UnavailableError as error:
            # A cluster without ScaledJobs need not grant the right to read them.
            raise _UnavailableError(
                f"{self._title}: there is no ScaledObject of this name, and: {error}",
                is_permanent=error.unavailable.is_permanent,
            ) from None
        job = jobs.get(self._name)
        self._triggers = job.triggers if job is not None else ()
        if job is None:
            reason = f"{self._title}: there is no ScaledObject and no ScaledJob of this name"
            raise _UnavailableError(reason, is_permanent=True)
        owner = OwnerReference(*_KEDA, "ScaledJob", self._name)
        owned = await owned_pods(owner, self._pods(f"{SCALED_JOB_NAME}={self._name}"), self._owners)
        pods = owned.pods
        running = len({pod.replica for pod in pods if pod.phase in ("Pending", "Running") and not pod.is_deleting})
        return Workload(
            namespace=self._namespace,
            name=self._name,
            kind="ScaledJob",
            target=f"ScaledJob {self._name}",
            spec_replicas=running,
            status_replicas=running,
            pods=pods,
            triggers=job.triggers,
            jobs=job.jobs,
            remarks=owned.remarks,
        )

    async def _scaled_object(self, scaled: ScaledSpec) -> Workload:
        target = scaled.target
        if target is None or not target.is_valid:
            reason = f"{self._title}: its ScaledObject's scaleTargetRef names no object"
            raise _UnavailableError(reason, is_permanent=True)
        resource = await self._cluster.resource(target)
        query = ResourceQuery(resource, target.group, target.version, self._namespace, metadata_only=True)
        self._optional.discard(query)
        found = self._items(query, parse.object_metadata).get(target.name)
        if found is None:
            reason = f"{self._title}: its scale target {target} does not exist"
            raise _UnavailableError(reason, is_permanent=True)
        scale = await self._current_scale(target, resource, found.resource_version)
        if not scale.selector:
            raise _UnavailableError(
                f"{self._title}: {target} reports no selector in its scale subresource, so its pods cannot be found; "
                "set scope: fleet or node",
                is_permanent=True,
            )
        listed = self._pods(_pod_labels(target, scale))
        owner = OwnerReference(target.group, target.version, target.kind, target.name)
        owned = await owned_pods(owner, listed, self._owners)
        return Workload(
            namespace=self._namespace,
            name=self._name,
            kind="ScaledObject",
            target=str(target),
            spec_replicas=scale.spec_replicas,
            status_replicas=scale.status_replicas,
            pods=owned.pods,
            triggers=scaled.triggers,
            formula=scaled.formula,
            tolerances=scaled.tolerances,
            counts_pods=target.group in _COUNTING_PODS,
            selected_ready_pods=sum([pod.is_serving for pod in _selected(target, scale, listed)]),
            remarks=owned.remarks,
            cooldown_seconds=scaled.cooldown_seconds,
            idle_replicas=scaled.idle_replicas,
            limits=scaled.limits,
        )

    async def _current_scale(self, target: ScaleTarget, resource: str, version: str) -> Scale:
        """Return the scale subresource, read again if the target has changed since the last read.

        Raises:
            ApiError: it cannot be read, and the last one cannot be trusted.
        """
        if self._scale is not None:
            if self._scale[:2] == (target, version):
                return self._scale[2]
            await asyncio.sleep(MIN_SCALE_INTERVAL_SECONDS)
        try:
            scale = await self._cluster.scale(target, resource, self._namespace)
        except ApiError as error:
            if (trusted := self._trusted_scale(target, error)) is not None:
                return trusted
            if (explained := self._explained(error, target, f"{resource}/scale")) is not None:
                raise explained from error
            raise
        self._scale, self._scale_failed_at = (target, version, scale), None
        return scale

    def _explained(self, error: ApiError, target: ScaleTarget, subresource: str) -> ApiError | None:
        """Return an error with its cause and remedy; None where they are not known."""
        if error.status == _FORBIDDEN:
            rule = f"grant get on {subresource}" + (f" of {target.group}" if target.group else "")
            sentence = f"{self._title}: the API server forbids to read {subresource}: {rule} (chart: rbac.create)"
            return ApiError(sentence, error.status)
        if error.status == _NOT_FOUND:
            return ApiError(f"{self._title}: {target} has no scale subresource", error.status)
        return None

    def _trusted_scale(self, target: ScaleTarget, error: ApiError) -> Scale | None:
        """Return the last scale, while the error is temporary and has lasted for less than the limit."""
        if error.is_permanent or self._scale is None or self._scale[0] != target:
            return None
        now = self._cluster.now()
        if self._scale_failed_at is None:
            self._scale_failed_at = now
        if now - self._scale_failed_at > TRUSTED_SECONDS:
            return None
        self._retry_seconds = max(_RETRY_SECONDS, error.retry_after_seconds)
        return self._scale[2]

    def _pods(self, selector: str) -> tuple[Pod, ...]:
        query = ResourceQuery("pods", namespace=self._namespace, labels=selector)
        pods = self._items(query, self._cluster.pod)
        return tuple(sorted(pods.values(), key=lambda pod: pod.ref))

    def _optional_items(
        self, query: ResourceQuery, keep: Callable[[Mapping[str, Any]], Any]
    ) -> Mapping[str, Any] | str:
        """Return a collection's items, or why it cannot be read: the workload is known without them.

        Raises:
            _Pending: the collection is not listed yet.
        """
        self._optional.add(query)
        try:
            return self._items(query, keep)
        except _UnavailableError as error:
            return str(error)

    async def _owners(self, owner: OwnerReference) -> Mapping[str, ObjectMetadata] | str:
        """Return the metadata of the objects of an owner's kind, or why they cannot be read.

        Raises:
            _Pending: they are not listed yet.
        """
        kind = ScaleTarget(owner.group, owner.version, owner.kind, owner.name)
        if not kind.is_valid:
            return f"{owner.kind} is no kind that can be read"
        try:
            resource = _RESOURCES.get((owner.group, owner.kind)) or await self._cluster.resource(kind)
        except ApiError as error:
            if not error.is_permanent:
                self._retry_seconds = max(_RETRY_SECONDS, error.retry_after_seconds)
            return str(error)
        query = ResourceQuery(resource, owner.group, owner.version, self._namespace, metadata_only=True)
        if query not in self._needed:
            self._optional.add(query)
        try:
            known: Mapping[str, ObjectMetadata] = self._items(query, parse.object_metadata)
        except _UnavailableError as error:
            return error.unavailable.reason
        return known

    def _items(self, query: ResourceQuery, keep: Callable[[Mapping[str, Any]], Any]) -> Mapping[str, Any]:
        """Return a collection's items, which are watched from now on.

        Raises:
            _Pending: the collection is not listed yet.
            _UnavailableError: the collection cannot be read.
        """
        self._needed.add(query)
        if query not in self._used:
            self._used[query] = self._cluster.reflectors.use(query, keep, self, self._changed.set)
        selection = self._used[query]
        if selection.is_pending:
            raise _Pending
        if unavailable := selection.unavailable(self._cluster.now()):
            raise _UnavailableError(unavailable.reason, is_permanent=unavailable.is_permanent)
        return selection.items


def _pod_labels(target: ScaleTarget, scale: Scale) -> str:
    """Return the selector of a target's pods.

    The selector of a LeaderWorkerSet selects its leaders alone (LeaderWorkerSet, the status field hpaPodSelector).
    """
    if (target.group, target.kind) == _LEADER_WORKER_SET:
        return f"{LWS_NAME}={target.name}"
    return scale.selector


def _selected(target: ScaleTarget, scale: Scale, pods: Sequence[Pod]) -> Sequence[Pod]:
    """Return the pods that the HPA counts: those that the target's selector matches, with any owner.

    (Kubernetes, pkg/controller/podautoscaler/replica_calculator.go, getReadyPodsCount.)
    """
    if _pod_labels(target, scale) == scale.selector:
        return pods
    try:
        selector = parse_labels(scale.selector)
    except SelectorError:
        return [pod for pod in pods if not pod.is_worker]
    return [pod for pod in pods if selector.matches(dict(pod.labels))]
