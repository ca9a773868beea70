# SPDX-License-Identifier: Apache-2.0
"""A workload's pods, sorted by what was observed of them.

Law: every pod is in exactly one place: ready or not ready, with a value or with the reason why it has none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from keda_gpu_scaler.core.evaluate.engine_load import pod_endpoint, url_endpoint
from keda_gpu_scaler.core.evaluate.engine_observation import observe_engines
from keda_gpu_scaler.core.evaluate.load.trend import Horizon
from keda_gpu_scaler.core.evaluate.no_device_advice import no_device_advice
from keda_gpu_scaler.core.evaluate.observation import (
    ObservationState,
    ObservedPods,
    PodObservation,
    describe_window,
    is_ready,
    observe_pods,
    observe_pods_unnarrowed,
)
from keda_gpu_scaler.core.evaluate.replica_groups import (
    ReplicaGroup,
    describe_grouping,
    describe_groups,
    grouped_pods,
    pods_by_replica,
    replica_groups,
    unready_reason,
)
from keda_gpu_scaler.core.hpa.reported_value import WorkloadSize
from keda_gpu_scaler.core.hpa.scaled_job import JobCounts
from keda_gpu_scaler.core.scaling_rules import JobRules
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint
from keda_gpu_scaler.core.trigger.grouping import AUTO, NONE
from keda_gpu_scaler.core.trigger.metrics import EngineMetric
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Pod, Workload

HISTORY_SECONDS = 300.0
"""How far back the thinned history of engines goes: the load is calibrated by it."""


class WorkloadView:
    """A workload's pods as one trigger selects them, at one instant.

    As in the HPA, pods that are being deleted or have ended are ignored, and pods that are not ready are counted apart.
    The size and the starting pods come from the workload alone. The pods are observed when an observation is first
    read.
    """

    def __init__(self, trigger: Trigger, workload: Workload, fleet: Fleet, now: float) -> None:
        self.trigger = trigger
        self.workload = workload
        known = workload.assignments
        self.fleet = fleet if fleet.assignments is known else replace(fleet, assignments=known)
        self.now = now

    @property
    def title(self) -> str:
        """The workload's namespace and name."""
        return f"{self.workload.namespace}/{self.workload.name}"

    # ---- from the workload alone ----

    @cached_property
    def pods(self) -> Sequence[Pod]:
        """The pods that count: neither being deleted nor ended."""
        pods = [pod for pod in self.workload.pods if _is_running_or_starting(pod)]
        return pods if self.job_rules else grouped_pods(pods, self.trigger.grouping)

    @cached_property
    def is_grouped(self) -> bool:
        """Whether several pods may be one replica of a ScaledObject's target."""
        return self.job_rules is None and any(pod.group for pod in self.pods)

    @cached_property
    def pods_per_replica(self) -> int:
        """How many pods the workload's size counts for one replica."""
        if not self.is_grouped or not self.workload.counts_pods:
            return 1
        return max(len(pods) for pods in pods_by_replica(self.pods).values())

    @cached_property
    def size(self) -> WorkloadSize:
        """The size in the HPA's arithmetic, which counts a ready pod also while it is being deleted."""
        workload = self.workload
        return WorkloadSize(workload.spec_replicas, workload.status_replicas, workload.hpa_ready_pods)

    @property
    def job_rules(self) -> JobRules | None:
        """How KEDA scales the Jobs of a ScaledJob; None for a ScaledObject."""
        if self.workload.kind != "ScaledJob":
            return None
        return self.workload.jobs or JobRules()

    @cached_property
    def job_counts(self) -> JobCounts:
        """The unfinished Jobs of a ScaledJob, counted by their pods."""
        return job_counts(self.workload)

    @cached_property
    def cold_start_seconds(self) -> float | None:
        """The median time from the creation of a pod until it was ready, None while no pod shows it."""
        return self.workload.cold_start_seconds

    @property
    def is_scaled_to_zero(self) -> bool:
        """Whether the workload is scaled to zero and has no pod left that counts."""
        return self.workload.spec_replicas == 0 and not self.pods

    @property
    def has_ready_replica(self) -> bool:
        """Whether at least one replica is ready, with all of its pods."""
        return any(not unready_reason(pods) for pods in pods_by_replica(self.pods).values())

    @cached_property
    def ready_replicas(self) -> int:
        """The ready replicas, in the unit of the workload's size. A replica of several pods needs all of them."""
        if not self.is_grouped and self.job_rules is None:
            return sum(map(is_ready, self.pods))
        ready = sum(not unready_reason(pods) for pods in pods_by_replica(self.pods).values())
        return ready * self.pods_per_replica

    @cached_property
    def starting(self) -> Sequence[Pod]:
        """The pods that are not ready, or whose replica has further pods to come, within their startup grace."""
        starting = [pod for pod in self.pods if not is_ready(pod)]
        if self.is_grouped:
            starting = [pod for pods in pods_by_replica(self.pods).values() if unready_reason(pods) for pod in pods]
        return [pod for pod in starting if self.is_within_grace(pod)]

    def is_within_grace(self, pod: Pod) -> bool:
        """Whether a pod is younger than the trigger's startup grace."""
        return self.now - pod.created_at_seconds < self.trigger.startup_grace_seconds

    # ---- observed when first read ----

    @cached_property
    def _observed(self) -> ObservedPods:
        metric, query, workload = self.trigger.metric, self.trigger.engine, self.workload
        if not isinstance(metric, EngineMetric):
            return observe_pods(self.trigger, self.pods, self.fleet, self.now)
        horizon = None
        if query is not None and query.is_forecast:
            horizon = Horizon(self.cold_start_seconds, workload.removed_at_seconds)
        return observe_engines(self.trigger, metric, self.pods, self.fleet, self.now, horizon)

    @property
    def observations(self) -> Sequence[PodObservation]:
        """The observation of every pod that counts."""
        return self._observed.observations

    @cached_property
    def unnarrowed_observations(self) -> Sequence[PodObservation]:
        """The observations without gpuModel, gpuIndex and nodeSelector. They say whether the workload has work."""
        return observe_pods_unnarrowed(self.trigger, self.observations, self.fleet, self.now)

    @cached_property
    def ready(self) -> Sequence[PodObservation]:
        """The observations of the ready pods."""
        return [observation for observation in self.observations if is_ready(observation.pod)]

    @cached_property
    def values(self) -> Sequence[float]:
        """The values of the ready pods that have one."""
        return [observation.value for observation in self.ready if observation.value is not None]

    @property
    def has_value(self) -> bool:
        """Whether at least one replica has a value."""
        if not self.is_grouped:
            return bool(self.values)
        return any(group.value is not None for group in self.groups)

    @cached_property
    def groups(self) -> Sequence[ReplicaGroup]:
        """The replicas, each of one pod or of several."""
        return replica_groups(self.observations, self.trigger)

    @cached_property
    def asked(self) -> Sequence[PodObservation]:
        """The ready pods, without workers for which their leader answers."""
        return [one for one in self.ready if one.state is not ObservationState.WORKER]

    @cached_property
    def missing(self) -> Sequence[PodObservation]:
        """The ready pods that the trigger selects and that have no value."""
        return [one for one in self.ready if one.state is ObservationState.MISSING]

    @cached_property
    def out_of_scope(self) -> Sequence[PodObservation]:
        """The ready pods that the trigger does not select."""
        return [one for one in self.ready if one.state is ObservationState.OUT_OF_SCOPE]

    @property
    def missing_reasons(self) -> Sequence[str]:
        """Why pods that could be at work have no value, whichever of them the trigger selects."""
        if not self.pods and self.workload.spec_replicas > 0:
            return ["its pods do not exist yet"]
        return [
            f"{one.pod.ref.name}: {one.sentence}"
            for one in self.unnarrowed_observations
            if one.state is ObservationState.MISSING and one.pod.node is not None
        ]

    @property
    def no_engine_reason(self) -> str | None:
        """Why no ready pod has a known engine; None where one has, or where that is not known."""
        if self.asked and all(observation.is_no_engine for observation in self.asked):
            return f"{self.asked[0].pod.ref.name}: {self.asked[0].sentence}"
        return None

    @property
    def no_device_reason(self) -> str | None:
        """Why the workload has no device that the trigger selects; None where it has one, or may have one."""
        states = {observation.state for observation in self.observations}
        if not self.ready or not states <= {ObservationState.OUT_OF_SCOPE, ObservationState.NO_DEVICE}:
            return None
        if states == {ObservationState.NO_DEVICE}:
            return (
                f"{self.title}: none of its {len(self.observations)} pods holds a device: "
                f"{no_device_advice(self.pods, self.workload.assignments)}"
            )
        return (
            f"{self.title}: none of its {len(self.observations)} pods holds a device that nodeSelector, gpuModel "
            "and gpuIndex select"
        )

    def steps(self) -> tuple[str, ...]:
        """Describe the workload and each of its pods."""
        workload = self.workload
        heading = (
            f"scope workload: {self.trigger.metric.name} of {workload.target} ({describe_window(self.trigger)}): "
            f"{workload.status_replicas} replicas of {workload.spec_replicas} wanted, {len(self.ready)} ready pods, "
            f"{len(self.values)} with a value"
        )
        pods = [_describe(observation) for observation in self.observations]
        groups = describe_groups(self.groups) if self.job_rules or self.is_grouped else ()
        grouping = self._grouping()
        return (heading, *workload.remarks, *grouping, *self._cold_start(), *self._observed.sentences, *pods, *groups)

    def _grouping(self) -> tuple[str, ...]:
        label = self.trigger.grouping.label
        if self.is_grouped:
            return (describe_grouping(self.pods, self.trigger.grouping),)
        if label in (AUTO, NONE) or self.job_rules or not self.pods:
            return ()
        return (f"no pod has the label {label} (groupBy): each pod is a replica",)

    def _cold_start(self) -> tuple[str, ...]:
        seconds = self.cold_start_seconds
        if self.trigger.engine is None or seconds is None:
            return ()
        return (f"a pod was ready {seconds:.0f} s after its creation (median of the pods)",)


def _describe(observation: PodObservation) -> str:
    state = "" if is_ready(observation.pod) else " (not ready)"
    return f"pod {observation.pod.ref.name}{state}: {observation.sentence}"


@dataclass(frozen=True, slots=True)
class ScrapeRequest:
    """What a trigger needs of one endpoint: every sample of a window, thinned history before it, and series.

    ``selectors`` are series in addition to the engine's own.
    """

    endpoint: Endpoint
    window_seconds: float
    selectors: tuple[SeriesSelector, ...] = ()
    is_demand: bool = False
    history_seconds: float = 0.0


def job_counts(workload: Workload) -> JobCounts:
    """Return the unfinished Jobs of a ScaledJob, counted by their pods.

    A Job is pending while none of its pods runs or has succeeded, or none has all of the pendingPodConditions.
    """
    unfinished = {pod.replica for pod in workload.pods if _is_running_or_starting(pod)}
    needed = set(workload.jobs.pending_conditions) if workload.jobs else set()
    started = {
        pod.replica
        for pod in workload.pods
        if (needed <= set(pod.conditions) if needed else pod.phase in ("Running", "Succeeded"))
    }
    return JobCounts(workload.spec_replicas, len(unfinished - started))


def ready_pods(workload: Workload) -> tuple[Pod, ...]:
    """Return the pods that get requests; their engines are scraped."""
    return tuple(pod for pod in workload.pods if _is_running_or_starting(pod) and is_ready(pod))


def scrape_requests(trigger: Trigger, pods: Iterable[Pod]) -> tuple[ScrapeRequest, ...]:
    """Return everything that must be scraped for a trigger.

    Args:
        trigger: the parsed trigger.
        pods: the ready pods of the workload. A pod without an address is left out.
    """
    requests: list[ScrapeRequest] = []
    endpoints: list[Endpoint] = []
    query, demand, window = trigger.engine, trigger.demand, trigger.window_seconds
    if query is not None and query.url:
        endpoints = [url_endpoint(query)]
    elif query is not None:
        asked = [pod for pod in grouped_pods(pods, trigger.grouping) if not pod.is_worker]
        endpoints = [pod_endpoint(query, pod) for pod in asked if pod.address]
    if query is not None:
        requests += [
            ScrapeRequest(endpoint, window, query.selectors, history_seconds=HISTORY_SECONDS) for endpoint in endpoints
        ]
    if demand is not None:
        # During the hold demand may be a rate, and a rate at the beginning of the hold needs the window before it.
        history = window + demand.hold_seconds
        requests.append(ScrapeRequest(demand.endpoint, history, demand.every_selector, is_demand=True))
    return tuple(requests)


def _is_running_or_starting(pod: Pod) -> bool:
    return not pod.is_deleting and pod.phase not in ("Failed", "Succeeded")
