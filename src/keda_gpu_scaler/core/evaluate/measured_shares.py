# SPDX-License-Identifier: Apache-2.0
"""Divides a shared device by what the processes of each pod used of it, where an agent measures that.

Law: the measured parts of all pods with processes on a device add up to the device. Whether a device is divided by
measurement is the same for every pod that holds it, because it follows from the snapshots alone. The one exception
needs every holder to be a pod of the workload, and then no other workload has a part of the device.

What cannot be attributed is given to no pod: while a process of no known pod is at work, or more pods are at work than
hold the device, the device is divided as without measurement, and the reason is named. An idle device has nothing to
measure, and is divided as without measurement too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from keda_gpu_scaler.core.evaluate.attribution import DeviceShare
from keda_gpu_scaler.core.evaluate.device_load import devices_by_pod, remember, tenures_seconds
from keda_gpu_scaler.core.pod_use import PROCESS_UTILIZATION
from keda_gpu_scaler.core.state.fleet import History
from keda_gpu_scaler.core.trigger.metrics import Metric
from keda_gpu_scaler.core.types import ClusterAssignments, Pod, PodRef, Sample


@dataclass(frozen=True, slots=True)
class _DeviceUse:
    """What each pod used of a device over the window, by UID, or why it is not known. Pods without any are left out."""

    by_uid: Mapping[str, Fraction]
    not_known: str = ""


class MeasuredShares:
    """Measures the shares of a workload's pods, for one metric and one window.

    Args:
        metric: what is divided.
        window_seconds: the window over which the device's readings are averaged.
        cluster: the assignments of the workload.
        pods: the pods of the workload.
    """

    def __init__(self, metric: Metric, window_seconds: float, cluster: ClusterAssignments, pods: Sequence[Pod]) -> None:
        self._metric = metric
        self._window = window_seconds
        self._cluster = cluster
        self._pods = pods

    def of(self, pod: Pod, shares: Sequence[DeviceShare], history: History) -> list[DeviceShare]:
        """Return a pod's shares, each by measurement where the device is measured, else as it was."""
        return [
            self._measured(pod, share, history) if share.sharers > 1 and self._metric.is_divided else share
            for share in shares
        ]

    def _measured(self, pod: Pod, share: DeviceShare, history: History) -> DeviceShare:
        sample = next((each for each in history.newest.samples if each.device == share.device), None)
        if sample is None or not _is_measured(sample):
            return share
        use = self._use(sample, history)
        if not (use.not_known or use.by_uid):
            return share
        if why := use.not_known or self._foreign_use(share, use, history):
            return replace(share, not_measured=why)
        if not pod.uid:
            return replace(share, unknown="its UID, by which its processes are found, is not known")
        part = use.by_uid.get(pod.uid, Fraction(0)) / sum(use.by_uid.values())
        return replace(share, part=part, is_measured=True)

    def _foreign_use(self, share: DeviceShare, use: _DeviceUse, history: History) -> str:
        """Return why the pods that used the device are not the pods that hold it, empty where they are."""
        if "" in use.by_uid:
            return "a process of no known pod uses it too"
        if len(use.by_uid) > share.sharers:
            return "more pods use it than hold it"
        uids = {pod.ref: pod.uid for pod in self._pods}
        held_by = _holders(history, share, self._cluster)
        if held_by <= uids.keys() and not use.by_uid.keys() <= {uids[ref] for ref in held_by}:
            return "a pod that does not hold it uses it too"
        return ""

    def _use(self, sample: Sample, history: History) -> _DeviceUse:
        key = ("uses", self._metric.name, self._window, id(self._cluster), sample.device.uuid)
        # The entry keeps the assignments too. So no other object can have the id while the entry exists.
        found: tuple[_DeviceUse, ClusterAssignments] | None = history.cache.get(key)
        if found is None:
            found = remember(history, key, (self._summed(sample, history), self._cluster))
        return found[0]

    def _summed(self, newest: Sample, history: History) -> _DeviceUse:
        """Add up what each pod used, over the part of the window in which the same pods held the device."""
        uuid = newest.device.uuid
        tenure = tenures_seconds(history, self._window, self._cluster).get(uuid, math.inf)
        totals: dict[str, Fraction] = {}
        is_known = False
        for snapshot in history.within(min(self._window, tenure)):
            uses = next((sample.uses for sample in snapshot.samples if sample.device.uuid == uuid), None)
            if uses is None:
                continue
            is_known = True
            for one in uses:
                used = self._metric.use(one)
                if used is None:
                    return _DeviceUse({}, f"the driver does not return the {self._metric.reading} of each process")
                if used:
                    totals[one.pod_uid] = totals.get(one.pod_uid, Fraction(0)) + Fraction(used)
        failure = newest.failure_of(PROCESS_UTILIZATION)
        return _DeviceUse(totals, "" if is_known or failure is None else failure.reason)


def _is_measured(sample: Sample) -> bool:
    """Whether the agent measures what processes use of the device, with or without success."""
    return sample.uses is not None or sample.failure_of(PROCESS_UTILIZATION) is not None


def _holders(history: History, share: DeviceShare, cluster: ClusterAssignments) -> set[PodRef]:
    by_pod = devices_by_pod(history, cluster) or {}
    return {ref for ref, devices in by_pod.items() if any(one.device == share.device for one in devices.shares)}
