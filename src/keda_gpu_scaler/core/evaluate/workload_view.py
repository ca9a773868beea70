# SPDX-License-Identifier: Apache-2.0
"""Which pods of a workload count, and what is seen of each?

The law of this module: every pod is in one place, ready or not, seen or with a reason why not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from keda_gpu_scaler.core.evaluate.engine_load import pod_endpoint
from keda_gpu_scaler.core.evaluate.observation import (
    ObservationState,
    PodObservation,
    describe_window,
    is_ready,
    observe_pods,
)
from keda_gpu_scaler.core.hpa.reported_value import WorkloadSize
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Pod, Workload


class WorkloadView:
    """A workload's pods that count, sorted by what is seen of them.

    As in the HPA, pods that are ending or have ended are ignored, and those that are not ready stand apart.
    """

    def __init__(self, trigger: Trigger, workload: Workload, fleet: Fleet, now: float) -> None:
        self._trigger = trigger
        self._workload = workload
        living = [pod for pod in workload.pods if _is_living(pod)]
        self.observations = observe_pods(trigger, living, fleet, now)
        self.ready = [observation for observation in self.observations if is_ready(observation.pod)]
        self.unready = [observation for observation in self.observations if not is_ready(observation.pod)]
        self.values = [observation.value for observation in self.ready if observation.value is not None]
        self.missing = [
            observation for observation in self.ready if observation.observation is ObservationState.MISSING
        ]
        self.out_of_scope = [
            observation for observation in self.ready if observation.observation is ObservationState.OUT_OF_SCOPE
        ]
        # What is seen of them when nothing is narrowed, by which it is told whether the workload is at work at all.
        self.unnarrowed_observations = self.all_observations = self.observations
        if trigger.is_narrowed:
            wide = replace(trigger, gpu_model=None, gpu_index=None, node_selector=None)
            self.unnarrowed_observations = observe_pods(wide, living, fleet, now)
            self.all_observations = [*self.observations, *self.unnarrowed_observations]
        grace = trigger.startup_grace_seconds
        self.starting = [
            observation.pod for observation in self.unready if now - observation.pod.created_at_seconds < grace
        ]
        self.missing_reasons = [
            f"{observation.pod.ref.name}: {observation.sentence}"
            for observation in self.unnarrowed_observations
            if observation.observation is ObservationState.MISSING and observation.pod.node is not None
        ]
        if not living and workload.spec_replicas > 0:
            self.missing_reasons.append("its pods are not there yet")

    @property
    def size(self) -> WorkloadSize:
        """How large the workload is in the HPA's eyes, which still counts a pod that is ending while it is ready."""
        ready = sum(is_ready(pod) for pod in self._workload.pods)
        return WorkloadSize(self._workload.spec_replicas, self._workload.status_replicas, ready)

    @property
    def no_engine_reason(self) -> str | None:
        """Why not one ready pod has an engine that tells of itself; None where one has, or may have."""
        if self.ready and all(observation.is_no_engine for observation in self.ready):
            return f"{self.ready[0].pod.ref.name}: {self.ready[0].sentence}"
        return None

    @property
    def is_scaled_to_zero(self) -> bool:
        """Whether it is scaled to zero, and nothing of it runs any more."""
        return not self.observations and self._workload.spec_replicas == 0

    def nothing_in_scope(self) -> str | None:
        """Say that the workload has no device that the trigger means; None where it may have one."""
        kinds = {observation.observation for observation in self.observations}
        title = f"{self._workload.namespace}/{self._workload.name}"
        if kinds == {ObservationState.NO_DEVICE} and self.ready:
            return (
                f"{title}: not one of its {len(self.observations)} pods holds a device that the kubelet handed out: have it "
                "request one (nvidia.com/gpu), or set scope: node or fleet"
            )
        if kinds and kinds <= {ObservationState.OUT_OF_SCOPE, ObservationState.NO_DEVICE} and self.ready:
            return (
                f"{title}: not one of its {len(self.observations)} pods holds a device that nodeSelector, gpuModel and "
                "gpuIndex mean"
            )
        return None

    def steps(self) -> tuple[str, ...]:
        """Describe the workload and each of its pods."""
        workload = self._workload
        heading = (
            f"scope workload: {self._trigger.metric.name} of {workload.target} ({describe_window(self._trigger)}): "
            f"{workload.status_replicas} replicas of {workload.spec_replicas} wanted, {len(self.ready)} ready pods, "
            f"{len(self.values)} seen"
        )
        return (heading, *(_line(observation) for observation in self.observations))


def _line(observation: PodObservation) -> str:
    state = "" if is_ready(observation.pod) else " (not ready)"
    return f"pod {observation.pod.ref.name}{state}: {observation.sentence}"


@dataclass(frozen=True, slots=True)
class ScrapeRequest:
    """What a trigger needs of one endpoint: so much of its history, and these series besides."""

    endpoint: Endpoint
    window_seconds: float
    selectors: tuple[SeriesSelector, ...] = ()
    is_demand: bool = False


def ready_pods(workload: Workload) -> tuple[Pod, ...]:
    """Return the pods that get work, of which engines are asked."""
    return tuple(pod for pod in workload.pods if _is_living(pod) and is_ready(pod))


def scrape_requests(trigger: Trigger, pods: Iterable[Pod]) -> tuple[ScrapeRequest, ...]:
    """Return everything that is to be scraped for a trigger.

    Args:
        trigger: what is asked.
        pods: the workload's that are ready; those without an address yet are left out.
    """
    found = []
    query, demand, window = trigger.engine, trigger.demand, trigger.window_seconds
    if query is not None and query.url:
        found.append(ScrapeRequest(Endpoint(engine=query.engine, url=query.url), window, query.selectors))
    elif query is not None:
        found += [ScrapeRequest(pod_endpoint(query, pod), window, query.selectors) for pod in pods if pod.address]
    if demand is not None:
        reach = window + demand.hold_seconds  # what is held is a rate over the window, at each time of the hold
        found.append(ScrapeRequest(demand.endpoint, reach, demand.selectors, is_demand=True))
    return tuple(found)


def _is_living(pod: Pod) -> bool:
    return not pod.is_deleting and pod.phase not in ("Failed", "Succeeded")
