# SPDX-License-Identifier: Apache-2.0
"""The pods of a simulated workload: their creation, cold start, readiness and end.

It behaves as a ReplicaSet and a kubelet. A size that falls ends first the pods that are not ready, and then those that
became ready last (Kubernetes: pkg/controller, ActivePodsWithRanks). A pod that ends gets no new request, and serves
what it has for the grace period.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from keda_gpu_scaler.core.types import Pod, PodRef
from keda_gpu_scaler.simulate.gateway import Dispatcher, Server
from keda_gpu_scaler.simulate.requests import NEVER
from keda_gpu_scaler.simulate.scenario import Circumstances

NAMESPACE = "simulated"
_SCHEDULED_AFTER_SECONDS = 1.0
_RUNNING_AFTER_SECONDS = 8.0
_CREATED_AFTER_SECONDS = 0.5
"""A controller creates a pod within this time after the size changed."""


@dataclass(slots=True, eq=False)
class SimulatedPod:
    """One pod. Times are infinite while they are not known; ``ends_at`` is when the grace period is over.

    ``job`` is the name of its Job, empty where it is a pod of a ReplicaSet. A pod of a Job that is gone has succeeded.
    """

    number: int
    created_at: float
    ready_at: float
    server: Server
    is_ready: bool = False
    deleting_at: float = NEVER
    ends_at: float = NEVER
    gone_at: float = NEVER
    shown: Pod | None = None
    job: str = ""

    @property
    def name(self) -> str:
        """The pod's name."""
        return f"replica-{self.number:05d}"

    @property
    def is_active(self) -> bool:
        """Whether the pod counts for the size: it is not being deleted."""
        return self.deleting_at == NEVER

    def as_pod(self, now: float) -> Pod:
        """Return the pod as the API server describes it; the same object while nothing changes."""
        age = now - self.created_at
        is_running = self.is_ready or age > _RUNNING_AFTER_SECONDS
        is_scheduled = self.is_ready or age > _SCHEDULED_AFTER_SECONDS
        phase = "Running" if is_running else "Pending"
        if self.job and self.gone_at != NEVER:
            phase = "Succeeded"
        shown = self.shown
        if (
            shown is not None
            and shown.phase == phase
            and (shown.node is not None) == is_scheduled
            and shown.is_ready == self.is_ready
            and shown.is_deleting is not self.is_active
        ):
            return shown
        self.shown = Pod(
            ref=PodRef(NAMESPACE, self.name),
            node=f"node-{self.number:05d}" if is_scheduled else None,
            phase=phase,
            is_ready=self.is_ready,
            is_deleting=not self.is_active,
            created_at_seconds=self.created_at,
            ready_at_seconds=self.ready_at if self.is_ready else None,
            address=f"10.{self.number >> 16 & 255}.{self.number >> 8 & 255}.{self.number & 255}" if is_running else "",
            group=self.job,
            conditions=self._conditions(is_scheduled=is_scheduled) if self.job else (),
        )
        return self.shown

    def _conditions(self, *, is_scheduled: bool) -> tuple[str, ...]:
        """Return the types of the true conditions of a pod of a Job."""
        scheduled = ("PodScheduled", "Initialized") if is_scheduled else ()
        return (*scheduled, "ContainersReady", "Ready") if self.is_ready else scheduled


class Pods:
    """The pods of one workload.

    Args:
        gateway: where the replicas of ready pods serve.
        make_server: makes the engine of a pod.
        circumstances: how long a start takes.
    """

    def __init__(self, gateway: Dispatcher, make_server: Callable[[], Server], circumstances: Circumstances) -> None:
        self._gateway = gateway
        self._make_server = make_server
        self._circumstances = circumstances
        self._random = Random(circumstances.seed)  # noqa: S311 - a simulation, reproducible by its seed
        self._nodes = circumstances.warm_nodes
        self.all: list[SimulatedPod] = []
        self.present: list[SimulatedPod] = []
        """The pods that are not gone, in the order of their creation."""

    @property
    def active(self) -> int:
        """The number of pods that count for the size."""
        return sum([pod.is_active for pod in self.present])

    @property
    def ready(self) -> int:
        """The number of ready pods that are not being deleted."""
        return sum([pod.is_ready and pod.is_active for pod in self.present])

    @property
    def serving(self) -> Iterator[SimulatedPod]:
        """The ready pods that are not being deleted."""
        return (pod for pod in self.present if pod.is_ready and pod.is_active)

    def start(self, count: int) -> None:
        """Begin with some ready pods."""
        for _ in range(count):
            pod = self._create(0.0, 0.0)
            self._become_ready(pod)
        self._nodes = max(self._nodes, count)

    def resize(self, size: int, now: float) -> None:
        """Create or end pods until this many are active."""
        active = [pod for pod in self.present if pod.is_active]
        for _ in range(size - len(active)):
            created = now + _CREATED_AFTER_SECONDS
            self._create(created, created + self._start_seconds())
        surplus = len(active) - size
        if surplus > 0:
            active.sort(key=lambda pod: (pod.is_ready, -(pod.ready_at if pod.is_ready else pod.created_at)))
            for pod in active[:surplus]:
                self._delete(pod, now)

    def advance(self, until: float) -> None:
        """Serve requests up to a time, with every change of a pod at its own time."""
        while True:
            due = min(self._changes(), key=lambda change: change[0], default=(NEVER, None))
            at, pod = due
            if pod is None or at > until:
                break
            self._gateway.run(at)
            if pod.gone_at != NEVER:
                continue  # it became idle before its grace period was over
            if pod.is_active:
                self._become_ready(pod)
            else:
                self._gateway.kill(pod.server, at)
                self._gone(pod, at)
        self._gateway.run(until)

    def _changes(self) -> Iterator[tuple[float, SimulatedPod]]:
        for pod in self.present:
            if not pod.is_active:
                yield pod.ends_at, pod
            elif not pod.is_ready:
                yield pod.ready_at, pod

    def _start_seconds(self) -> float:
        low, high = self._circumstances.cold_start_seconds
        seconds = self._random.uniform(low, high)
        node_start = self._circumstances.node_start_seconds
        if node_start is not None and len(self.present) >= self._nodes:
            self._nodes += 1
            seconds += node_start
        return seconds

    def _create(self, created_at: float, ready_at: float) -> SimulatedPod:
        pod = SimulatedPod(len(self.all), created_at, ready_at, self._make_server())
        self.all.append(pod)
        self.present.append(pod)
        return pod

    def _become_ready(self, pod: SimulatedPod) -> None:
        pod.is_ready = True
        self._gateway.add(pod.server, pod.ready_at)

    def _delete(self, pod: SimulatedPod, now: float) -> None:
        pod.deleting_at = now
        if not pod.is_ready:
            self._gone(pod, now)
            return
        pod.ends_at = now + self._circumstances.grace_seconds
        self._gateway.drain(pod.server, lambda at: self._gone(pod, at))
        if not pod.server.load:
            self._gateway.kill(pod.server, now)
            self._gone(pod, now)

    def _gone(self, pod: SimulatedPod, now: float) -> None:
        pod.gone_at = max(now, pod.created_at)
        self.present.remove(pod)
