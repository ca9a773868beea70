# SPDX-License-Identifier: Apache-2.0
"""The Jobs of a simulated ScaledJob, and their pods.

It behaves as the Job controller (Kubernetes: pkg/controller/job; docs "Jobs", Parallel execution). At most
``parallelism`` pods of a Job run at the same time. With ``completions`` a pod that succeeded is followed by another one
until so many succeeded; without, the Job is complete when all of its pods ended. A pod takes items from the queue until
it has had its number of them, or finds the queue empty, and then it succeeds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from keda_gpu_scaler.simulate.gateway import Server
from keda_gpu_scaler.simulate.pods import SimulatedPod
from keda_gpu_scaler.simulate.requests import NEVER
from keda_gpu_scaler.simulate.scenario import Circumstances, JobSpec, QueueRules
from keda_gpu_scaler.simulate.work_queue import WorkQueue


@dataclass(slots=True, eq=False)
class SimulatedJob:
    """One Job. ``left`` is how many pods must still be created, ``succeeded`` how many ended."""

    name: str
    left: int
    pods: list[SimulatedPod] = field(default_factory=list)
    succeeded: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether every pod of it succeeded."""
        return not self.left and self.succeeded == len(self.pods)


class Jobs:
    """The Jobs of one ScaledJob.

    Args:
        queue: where their pods take items.
        make_server: makes the worker of a pod.
        circumstances: how long a start takes.
        spec: their parallelism and completions.
    """

    def __init__(
        self, queue: WorkQueue, make_server: Callable[[], Server], circumstances: Circumstances, spec: JobSpec
    ) -> None:
        self._queue = queue
        self._make_server = make_server
        self._circumstances = circumstances
        self._items = (circumstances.queue or QueueRules()).items_per_pod
        self._at_once = max(1, spec.rules.pods_per_job)
        self._pods_per_job = self._at_once if spec.completions is None else max(1, spec.completions)
        self._random = Random(circumstances.seed)  # noqa: S311 - a simulation, reproducible by its seed
        self._nodes = circumstances.warm_nodes
        self.all: list[SimulatedPod] = []
        self.unfinished: list[SimulatedJob] = []
        self.created = 0
        """The number of Jobs that were created."""
        self.finished = 0
        """The number of Jobs that were complete."""
        self.found_empty = 0
        """The number of pods that never had an item."""

    @property
    def pods(self) -> list[SimulatedPod]:
        """The pods of the unfinished Jobs, those that ended included."""
        return [pod for job in self.unfinished for pod in job.pods]

    @property
    def active(self) -> int:
        """The number of pods that did not end."""
        return sum([pod.gone_at == NEVER for pod in self.pods])

    @property
    def ready(self) -> int:
        """The number of pods that take items."""
        return sum([pod.is_ready for pod in self.pods])

    @property
    def serving(self) -> Iterator[SimulatedPod]:
        """The pods that take items."""
        return (pod for pod in self.pods if pod.is_ready)

    def create(self, count: int, now: float) -> None:
        """Create Jobs."""
        for _ in range(count):
            self.created += 1
            self.unfinished.append(SimulatedJob(f"job-{self.created:05d}", self._pods_per_job))
        self.advance_jobs(now)

    def advance(self, until: float) -> None:
        """Serve items up to a time; each pod begins at its own time."""
        while True:
            starting = [pod for pod in self.pods if not pod.is_ready and pod.gone_at == NEVER]
            pod = min(starting, key=lambda one: one.ready_at, default=None)
            if pod is None or pod.ready_at > until:
                break
            self._queue.run(pod.ready_at)
            self._begin(pod)
        self._queue.run(until)

    def advance_jobs(self, now: float) -> None:
        """Create the pods that are due, and forget the Jobs that are complete."""
        for job in self.unfinished:
            running = len(job.pods) - job.succeeded
            for _ in range(min(job.left, self._at_once - running)):
                job.left -= 1
                job.pods.append(self._create_pod(job, now))
        complete = [job for job in self.unfinished if job.is_finished]
        self.finished += len(complete)
        self.unfinished = [job for job in self.unfinished if not job.is_finished]

    def _create_pod(self, job: SimulatedJob, now: float) -> SimulatedPod:
        low, high = self._circumstances.cold_start_seconds
        seconds = self._random.uniform(low, high)
        node_start, active = self._circumstances.node_start_seconds, self.active
        if node_start is not None and active >= self._nodes:
            self._nodes += 1
            seconds += node_start
        pod = SimulatedPod(len(self.all), now, now + seconds, self._make_server(), job=job.name)
        self.all.append(pod)
        return pod

    def _begin(self, pod: SimulatedPod) -> None:
        job = next(one for one in self.unfinished if one.name == pod.job)
        pod.is_ready = True
        was_empty = not self._queue.gate

        def end(at: float) -> None:
            pod.is_ready, pod.gone_at = False, at
            job.succeeded += 1
            self.found_empty += was_empty

        self._queue.add_for(pod.server, pod.ready_at, self._items, end)
