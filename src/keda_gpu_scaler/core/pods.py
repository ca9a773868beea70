# SPDX-License-Identifier: Apache-2.0
"""Which pods of a workload count, and what is seen of each?

The law of this module: every pod is in one place, ready or not, seen or with a reason why not.
"""

from dataclasses import replace

from keda_gpu_scaler.core.fleet import Fleet
from keda_gpu_scaler.core.model import Pod, Workload
from keda_gpu_scaler.core.report import Size
from keda_gpu_scaler.core.sight import PodSight, Sight, pods_sights, window_of
from keda_gpu_scaler.core.trigger import Trigger


class Pods:
    """A workload's pods that count, sorted by what is seen of them.

    As in the HPA, pods that are ending or have ended are ignored, and those that are not ready stand apart.
    """

    def __init__(self, trigger: Trigger, workload: Workload, fleet: Fleet, now: float) -> None:
        self._trigger = trigger
        self._workload = workload
        living = [pod for pod in workload.pods if not pod.is_deleting and pod.phase not in ("Failed", "Succeeded")]
        self.sights = pods_sights(trigger, living, fleet, now)
        self.ready = [sight for sight in self.sights if _is_ready(sight.pod)]
        self.unready = [sight for sight in self.sights if not _is_ready(sight.pod)]
        self.values = [sight.value for sight in self.ready if sight.value is not None]
        self.unseen = [sight for sight in self.ready if sight.sight is Sight.UNSEEN]
        self.outside = [sight for sight in self.ready if sight.sight is Sight.OUTSIDE]
        # What is seen of them when nothing is narrowed, by which it is told whether the workload is at work at all.
        self.wide_sights = self.looked_at = self.sights
        if trigger.is_narrowed:
            wide = replace(trigger, gpu_model=None, gpu_index=None, node_selector=None)
            self.wide_sights = pods_sights(wide, living, fleet, now)
            self.looked_at = [*self.sights, *self.wide_sights]
        grace = trigger.startup_grace_seconds
        self.starting = [sight.pod for sight in self.unready if now - sight.pod.created_at_seconds < grace]
        self.blind = [
            f"{sight.pod.ref.name}: {sight.sentence}"
            for sight in self.wide_sights
            if sight.sight is Sight.UNSEEN and sight.pod.node is not None
        ]
        if not living and workload.spec_replicas > 0:
            self.blind.append("its pods are not there yet")

    @property
    def size(self) -> Size:
        """How large the workload is in the HPA's eyes, which still counts a pod that is ending while it is ready."""
        ready = sum(_is_ready(pod) for pod in self._workload.pods)
        return Size(self._workload.spec_replicas, self._workload.status_replicas, ready)

    @property
    def is_asleep(self) -> bool:
        """Whether it is scaled to zero, and nothing of it runs any more."""
        return not self.sights and self._workload.spec_replicas == 0

    def nothing_meant(self) -> str | None:
        """Say that the workload has no device that the trigger means; None where it may have one."""
        kinds = {sight.sight for sight in self.sights}
        title = f"{self._workload.namespace}/{self._workload.name}"
        if kinds == {Sight.EMPTY} and self.ready:
            return (
                f"{title}: not one of its {len(self.sights)} pods holds a device that the kubelet handed out: have it "
                "request one (nvidia.com/gpu), or set scope: node or fleet"
            )
        if kinds and kinds <= {Sight.OUTSIDE, Sight.EMPTY} and self.ready:
            return (
                f"{title}: not one of its {len(self.sights)} pods holds a device that nodeSelector, gpuModel and "
                "gpuIndex mean"
            )
        return None

    def steps(self) -> tuple[str, ...]:
        """Describe the workload and each of its pods."""
        workload = self._workload
        heading = (
            f"scope workload: {self._trigger.metric.name} of {workload.target} ({window_of(self._trigger)}): "
            f"{workload.status_replicas} replicas of {workload.spec_replicas} wanted, {len(self.ready)} ready pods, "
            f"{len(self.values)} seen"
        )
        return (heading, *(_line(sight) for sight in self.sights))


def _line(sight: PodSight) -> str:
    state = "" if _is_ready(sight.pod) else " (not ready)"
    return f"pod {sight.pod.ref.name}{state}: {sight.sentence}"


def _is_ready(pod: Pod) -> bool:
    return pod.is_ready and pod.phase == "Running" and pod.node is not None
