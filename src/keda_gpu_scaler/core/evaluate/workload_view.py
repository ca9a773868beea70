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
        self.sights = observe_pods(trigger, living, fleet, now)
        self.ready = [sight for sight in self.sights if is_ready(sight.pod)]
        self.unready = [sight for sight in self.sights if not is_ready(sight.pod)]
        self.values = [sight.value for sight in self.ready if sight.value is not None]
        self.unseen = [sight for sight in self.ready if sight.sight is ObservationState.UNSEEN]
        self.outside = [sight for sight in self.ready if sight.sight is ObservationState.OUTSIDE]
        # What is seen of them when nothing is narrowed, by which it is told whether the workload is at work at all.
        self.wide_sights = self.looked_at = self.sights
        if trigger.is_narrowed:
            wide = replace(trigger, gpu_model=None, gpu_index=None, node_selector=None)
            self.wide_sights = observe_pods(wide, living, fleet, now)
            self.looked_at = [*self.sights, *self.wide_sights]
        grace = trigger.startup_grace_seconds
        self.starting = [sight.pod for sight in self.unready if now - sight.pod.created_at_seconds < grace]
        self.blind = [
            f"{sight.pod.ref.name}: {sight.sentence}"
            for sight in self.wide_sights
            if sight.sight is ObservationState.UNSEEN and sight.pod.node is not None
        ]
        if not living and workload.spec_replicas > 0:
            self.blind.append("its pods are not there yet")

    @property
    def size(self) -> WorkloadSize:
        """How large the workload is in the HPA's eyes, which still counts a pod that is ending while it is ready."""
        ready = sum(is_ready(pod) for pod in self._workload.pods)
        return WorkloadSize(self._workload.spec_replicas, self._workload.status_replicas, ready)

    @property
    def lack_engine(self) -> str | None:
        """Why not one ready pod has an engine that tells of itself; None where one has, or may have."""
        if self.ready and all(sight.is_no_engine for sight in self.ready):
            return f"{self.ready[0].pod.ref.name}: {self.ready[0].sentence}"
        return None

    @property
    def is_asleep(self) -> bool:
        """Whether it is scaled to zero, and nothing of it runs any more."""
        return not self.sights and self._workload.spec_replicas == 0

    def nothing_meant(self) -> str | None:
        """Say that the workload has no device that the trigger means; None where it may have one."""
        kinds = {sight.sight for sight in self.sights}
        title = f"{self._workload.namespace}/{self._workload.name}"
        if kinds == {ObservationState.EMPTY} and self.ready:
            return (
                f"{title}: not one of its {len(self.sights)} pods holds a device that the kubelet handed out: have it "
                "request one (nvidia.com/gpu), or set scope: node or fleet"
            )
        if kinds and kinds <= {ObservationState.OUTSIDE, ObservationState.EMPTY} and self.ready:
            return (
                f"{title}: not one of its {len(self.sights)} pods holds a device that nodeSelector, gpuModel and "
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
        return (heading, *(_line(sight) for sight in self.sights))


def _line(sight: PodObservation) -> str:
    state = "" if is_ready(sight.pod) else " (not ready)"
    return f"pod {sight.pod.ref.name}{state}: {sight.sentence}"


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
