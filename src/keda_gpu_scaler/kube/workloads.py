# SPDX-License-Identifier: Apache-2.0
"""Which pods are behind a ScaledObject, and how large is its target? Watched for as long as somebody asks.

The law of this module: an answer is what was heard last, and the same knowledge is the same object. Nothing is
polled, and nothing is watched that nobody asked about.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from keda_gpu_scaler.core.counters import Watches
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.types import Pod, Unavailable, Workload
from keda_gpu_scaler.kube import parse as objects
from keda_gpu_scaler.kube.client import ApiClient, ApiError
from keda_gpu_scaler.kube.parse import Scale, ScaledSpec, ScaleTarget
from keda_gpu_scaler.kube.reflector import BELIEVED_SECONDS, Reflector, ResourceQuery
from keda_gpu_scaler.kube.shared_reflectors import SharedReflectors

IDLE_TIMEOUT_SECONDS = 600.0
MAX_WORKLOADS = 2000
SCALE_EVERY_SECONDS = 0.5
"""A target that changes without a pause has its scale read no more often."""
_RETRY_SECONDS = 5.0
_DRIFT_SECONDS = 1.0
_FORBIDDEN, _NOT_FOUND = 403, 404
_KEDA = ("keda.sh", "v1alpha1")

_log = logging.getLogger(__name__)


class Workloads:
    """The cluster, as far as anybody asks about it. Everything happens in one event loop.

    Args:
        api: the API server.
        clock: monotonic seconds.
        wall_clock: seconds since 1970, by which pods' ages are reckoned.
        on_change: called whenever a workload's answer has changed.
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
        self._watched = SharedReflectors(api, clock)
        self._followed: dict[tuple[str, str], _WatchedWorkload] = {}
        self._labels_asked_at: float | None = None
        self._labels: Mapping[str, Mapping[str, str]] | None = None
        self._resources: dict[tuple[str, str, str], str] = {}

    def workload(self, namespace: str, name: str) -> Workload | Unavailable:
        """Return what is known of a workload; asking begins to watch it."""
        followed = self._followed.get((namespace, name))
        if followed is None:
            if not objects.is_name(namespace) or not objects.is_name(name):
                return Unavailable(
                    f"{quoted(f'{namespace}/{name}')} is no name of a Kubernetes object", is_permanent=True
                )
            if len(self._followed) >= MAX_WORKLOADS:
                return Unavailable(f"{MAX_WORKLOADS} workloads are followed, the most there may be", is_permanent=False)
            followed = _WatchedWorkload(namespace, name, self)
            self._followed[namespace, name] = followed
        followed.asked_at = self._clock()
        return followed.answer(followed.asked_at)

    async def wait_for_sync(self, namespace: str, name: str) -> None:
        """Return once ``workload`` has an answer of substance."""
        self.workload(namespace, name)
        if followed := self._followed.get((namespace, name)):
            await followed.wait_for_sync.wait()

    def node_labels(self) -> Mapping[str, Mapping[str, str]] | Unavailable:
        """Return every node's labels; asking begins to watch them."""
        now = self._labels_asked_at = self._clock()
        nodes = self._watched.use(
            ResourceQuery("nodes", metadata_only=True), objects.labels, self, self._labels_changed
        )
        if unavailable := nodes.unavailable(now):
            return unavailable
        if self._labels is None:
            self._labels = dict(nodes.items)
        return self._labels

    def watches(self) -> Watches:
        """Count what is watched, by resource and state."""
        return self._watched.states()

    def expire_idle(self) -> None:
        """Let go of what nobody has asked about for long; to be called now and then."""
        now = self._clock()
        for key, followed in list(self._followed.items()):
            if now - followed.asked_at > IDLE_TIMEOUT_SECONDS:
                del self._followed[key]
                followed.let_go()
        if self._labels_asked_at is not None and now - self._labels_asked_at > IDLE_TIMEOUT_SECONDS:
            self._labels_asked_at = self._labels = None
            self._watched.release(ResourceQuery("nodes", metadata_only=True), self)

    async def close(self) -> None:
        """Watch nothing any more, and close every connection."""
        followed = list(self._followed.values())
        self._followed.clear()
        for one in followed:
            one.let_go()
        await asyncio.gather(*(one.task for one in followed), return_exceptions=True)
        await self._watched.close()
        await self._api.close()

    def _labels_changed(self) -> None:
        self._labels = None
        self._on_change()

    # ---- what a followed workload needs ----

    @property
    def watched(self) -> SharedReflectors:
        """The collections that are shared."""
        return self._watched

    def now(self) -> float:
        """Tell the time, in monotonic seconds."""
        return self._clock()

    def pod(self, item: Mapping[str, Any]) -> Pod:
        """Keep of a pod what counts."""
        to_monotonic = self._clock() - self._wall_clock()
        if abs(to_monotonic - self._to_monotonic) > _DRIFT_SECONDS:
            # It was set. Else it stays, so that a pod that is read twice is the same to the last digit.
            self._to_monotonic = to_monotonic
        return objects.pod(item, self._to_monotonic)

    def changed(self) -> None:
        """Say that some workload's answer has changed."""
        self._on_change()

    async def scale(self, target: ScaleTarget, resource: str, namespace: str) -> Scale:
        """Read a target's scale subresource.

        Raises:
            ApiError: there is none, or it may not be read.
        """
        place = ResourceQuery(resource, target.group, target.version, namespace)
        return objects.scale(await self._api.get(f"{place.path}/{target.name}/scale"))

    async def resource(self, target: ScaleTarget) -> str:
        """Find the resource of a target's kind, as KEDA has written it down or else as the API server lists it.

        Raises:
            ApiError: there is no such kind.
        """
        if target.resource:
            return target.resource
        key = (target.group, target.version, target.kind)
        if key not in self._resources:
            root = f"/apis/{target.group}/{target.version}" if target.group else f"/api/{target.version}"
            try:
                listed = await self._api.get(root)
            except ApiError as error:
                if error.status != _NOT_FOUND:
                    raise
                listed = {}
            for entry in listed.get("resources") or ():
                if entry.get("kind") == target.kind and objects.is_name(str(entry.get("name"))):
                    self._resources[key] = str(entry["name"])
                    break
            else:
                version = f"{target.group}/{target.version}" if target.group else target.version
                unavailable = f"the API server has no {target.kind} of {version}"
                raise ApiError(f"{unavailable}: is its CustomResourceDefinition installed?", _NOT_FOUND)
        return self._resources[key]


class _Pending(Exception):  # noqa: N818 - nothing is wrong
    """Something was not read yet; when it was, there will be news."""


class _UnavailableError(Exception):
    """Nothing can be known of the workload now: here is why."""

    def __init__(self, unavailable: Unavailable) -> None:
        self.unavailable = unavailable
        super().__init__(unavailable.reason)


class _WatchedWorkload:
    """One workload that somebody asks about: looked at anew whenever anything it rests on has changed."""

    def __init__(self, namespace: str, name: str, cluster: Workloads) -> None:
        self._namespace = namespace
        self._name = name
        self._cluster = cluster
        self._used: dict[ResourceQuery, Reflector[Any]] = {}
        self._needed: set[ResourceQuery] = set()
        self._news = asyncio.Event()
        self._scale: tuple[ScaleTarget, str, Scale] | None = None
        self._scale_missed_at: float | None = None
        self._retry_seconds: float | None = None
        self._known: Workload | Unavailable = Unavailable(
            f"{namespace}/{name}: not read from the API server yet", is_permanent=False
        )
        self.asked_at = 0.0
        self.wait_for_sync = asyncio.Event()
        self.task = asyncio.create_task(self._keep_looking(), name=f"workload {namespace}/{name}")

    def answer(self, now: float) -> Workload | Unavailable:
        """Return what is known, unless what it rests on has grown too old."""
        if isinstance(self._known, Workload):
            for collection in self._used.values():
                if unavailable := collection.unavailable(now):
                    return unavailable
        return self._known

    def let_go(self) -> None:
        """Follow it no longer."""
        self.task.cancel()
        for place in self._used:
            self._cluster.watched.release(place, self)
        self._used.clear()

    async def _keep_looking(self) -> None:
        while True:
            self._news.clear()
            self._needed = set()
            self._retry_seconds = None
            with contextlib.suppress(_Pending):
                try:
                    self._learn(await self._look())
                except _Pending:
                    raise
                except _UnavailableError as lacking:
                    self._learn(lacking.unavailable)
                except ApiError as error:
                    self._learn(Unavailable(f"{self._namespace}/{self._name}: {error}", error.is_permanent))
                    self._retry_seconds = max(_RETRY_SECONDS, error.retry_after_seconds)
                except Exception as error:  # whatever an object holds, it is looked at again
                    _log.exception("%s/%s", self._namespace, self._name)
                    self._learn(
                        Unavailable(f"{self._namespace}/{self._name}: unexpected {error!r}", is_permanent=False)
                    )
                    self._retry_seconds = _RETRY_SECONDS
            for place in self._used.keys() - self._needed:
                del self._used[place]
                self._cluster.watched.release(place, self)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._retry_seconds):
                    await self._news.wait()

    def _learn(self, known: Workload | Unavailable) -> None:
        self.wait_for_sync.set()
        if known != self._known:
            self._known = known
            self._cluster.changed()

    async def _look(self) -> Workload:
        here = self._namespace
        scaled = self._items(ResourceQuery("scaledobjects", *_KEDA, here), objects.scaled_object).get(self._name)
        if scaled is None:
            return self._jobs()
        return await self._target(scaled)

    def _jobs(self) -> Workload:
        here, name = self._namespace, self._name
        try:
            jobs = self._items(ResourceQuery("scaledjobs", *_KEDA, here), objects.scaled_job)
        except _UnavailableError as lacking:
            # Whoever has no ScaledJobs need not be allowed to read them.
            raise _UnavailableError(
                Unavailable(
                    f"{here}/{name}: there is no ScaledObject of this name, and: {lacking}",
                    lacking.unavailable.is_permanent,
                )
            ) from None
        scaled = jobs.get(name)
        if scaled is None:
            raise _UnavailableError(
                Unavailable(f"{here}/{name}: there is no ScaledObject and no ScaledJob of this name", is_permanent=True)
            )
        pods = self._pods(f"scaledjob.keda.sh/name={name}")
        running = sum(pod.phase in ("Pending", "Running") and not pod.is_deleting for pod in pods)
        return Workload(here, name, "ScaledJob", f"ScaledJob {name}", running, running, pods, scaled.triggers)

    async def _target(self, scaled: ScaledSpec) -> Workload:
        here, title = self._namespace, f"{self._namespace}/{self._name}"
        target = scaled.target
        if target is None or not target.is_sound:
            raise _UnavailableError(
                Unavailable(f"{title}: its ScaledObject's scaleTargetRef names no object", is_permanent=True)
            )
        resource = await self._cluster.resource(target)
        place = ResourceQuery(resource, target.group, target.version, here, metadata_only=True)
        version = self._items(place, objects.resource_version).get(target.name)
        if version is None:
            raise _UnavailableError(
                Unavailable(f"{title}: its scale target {target} does not exist", is_permanent=True)
            )
        scale = await self._scale_of(target, resource, version)
        if not scale.selector:
            raise _UnavailableError(
                Unavailable(
                    f"{title}: {target} tells no selector in its scale subresource, so its pods cannot be found; "
                    "set scope: fleet or node",
                    is_permanent=True,
                )
            )
        return Workload(
            namespace=here,
            name=self._name,
            kind="ScaledObject",
            target=str(target),
            spec_replicas=scale.spec_replicas,
            status_replicas=scale.status_replicas,
            pods=self._pods(scale.selector),
            triggers=scaled.triggers,
        )

    async def _scale_of(self, target: ScaleTarget, resource: str, version: str) -> Scale:
        """Read the scale subresource if the target has changed since."""
        if self._scale is not None:
            if self._scale[:2] == (target, version):
                return self._scale[2]
            await asyncio.sleep(SCALE_EVERY_SECONDS)
        try:
            scale = await self._cluster.scale(target, resource, self._namespace)
        except ApiError as error:
            if (believed := self._believed_scale(target, error)) is not None:
                return believed
            title, named = f"{self._namespace}/{self._name}", f"{resource}/scale"
            if error.status == _FORBIDDEN:
                rule = f"grant get on {named}" + (f" of {target.group}" if target.group else "")
                sentence = f"{title}: the API server forbids to read {named}: {rule} (chart: rbac.create)"
                raise ApiError(sentence, error.status) from error
            if error.status == _NOT_FOUND:
                raise ApiError(f"{title}: {target} has no scale subresource", error.status) from error
            raise
        self._scale, self._scale_missed_at = (target, version, scale), None
        return scale

    def _believed_scale(self, target: ScaleTarget, error: ApiError) -> Scale | None:
        """Return the last scale, while what keeps us from reading it again may pass and has not lasted for long."""
        if error.is_permanent or self._scale is None or self._scale[0] != target:
            return None
        now = self._cluster.now()
        if self._scale_missed_at is None:
            self._scale_missed_at = now
        if now - self._scale_missed_at > BELIEVED_SECONDS:
            return None
        self._retry_seconds = max(_RETRY_SECONDS, error.retry_after_seconds)
        return self._scale[2]

    def _pods(self, selector: str) -> tuple[Pod, ...]:
        place = ResourceQuery("pods", namespace=self._namespace, labels=selector)
        pods = self._items(place, self._cluster.pod)
        return tuple(sorted(pods.values(), key=lambda pod: pod.ref))

    def _items(self, place: ResourceQuery, keep: Callable[[Mapping[str, Any]], Any]) -> Mapping[str, Any]:
        """Return a collection's items, watched from now on.

        Raises:
            _Pending: it was not read yet.
            _Lacking: it cannot be read.
        """
        self._needed.add(place)
        if place not in self._used:
            self._used[place] = self._cluster.watched.use(place, keep, self, self._news.set)
        collection = self._used[place]
        if collection.is_pending:
            raise _Pending
        if unavailable := collection.unavailable(self._cluster.now()):
            raise _UnavailableError(unavailable)
        return collection.items
