# SPDX-License-Identifier: Apache-2.0
"""Decides how long a workload with a missing pod may not shrink.

Law: a number cannot say which pod a shrink deletes, and the ReplicaSet may choose just the pod without a value. So a
workload does not shrink until every ready pod has a value, or has been missing for ``missingHoldSeconds``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keda_gpu_scaler.core.evaluate.observation import PodObservation
from keda_gpu_scaler.core.evaluate.workload_view import WorkloadView


@dataclass(frozen=True, slots=True)
class ShrinkHold:
    """The workload does not shrink until ``until_seconds``, in monotonic seconds; ``reason`` says why."""

    until_seconds: float
    reason: str


def shrink_hold(view: WorkloadView) -> ShrinkHold | None:
    """Return why the workload may not shrink now; None where it may."""
    if view.job_rules is not None:  # KEDA deletes no running Job
        return None
    seconds = view.trigger.missing_hold_seconds
    held = [(_missing_since(one, view) + seconds, one) for one in view.missing if not _is_node_gone(one, view)]
    held = [(until, one) for until, one in held if view.now < until]
    if not held:
        return None
    until, last = max(held, key=lambda item: item[0])
    pods = last.pod.ref.name + (f" and {len(held) - 1} more" if len(held) > 1 else "")
    return ShrinkHold(
        until,
        f"no shrink while a ready pod is missing ({pods}), for at most {until - view.now:.0f} s more "
        f"(missingHoldSeconds {seconds:g})",
    )


def _missing_since(observation: PodObservation, view: WorkloadView) -> float:
    """Return since when a pod is missing: never before this instance could have received its data."""
    since = observation.known_until_seconds
    if since is None:
        since = observation.pod.serving_since_seconds
    return max(since, view.fleet.started_at_seconds)


def _is_node_gone(observation: PodObservation, view: WorkloadView) -> bool:
    """Whether the API server no longer has the pod's node. A shrink cannot delete a pod that is already lost."""
    labels = view.fleet.node_labels
    return isinstance(labels, Mapping) and observation.pod.node not in labels
