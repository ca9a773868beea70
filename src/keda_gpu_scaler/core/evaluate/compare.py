# SPDX-License-Identifier: Apache-2.0
"""Puts what was measured beside what is reported, and beside the sizes that follow.

Law: it decides nothing. Every number is one of the evaluation, or the ScaledObject's limit for one.
"""

from keda_gpu_scaler.core.aggregation import mean
from keda_gpu_scaler.core.comparison import Comparison, ReplicaLimit
from keda_gpu_scaler.core.evaluate.activity import Activity
from keda_gpu_scaler.core.evaluate.measurement import Measurement
from keda_gpu_scaler.core.evaluate.observation import ObservationState
from keda_gpu_scaler.core.evaluate.replica_groups import group_values
from keda_gpu_scaler.core.evaluate.workload_view import WorkloadView
from keda_gpu_scaler.core.hpa.reported_value import ReportedValue


def compare(
    measured: Measurement | None, reported: ReportedValue | None, activity: Activity, view: WorkloadView | None
) -> Comparison:
    """Return the numbers of one evaluation.

    Args:
        measured: what was measured; None without a value, and at zero replicas.
        reported: the reported value; None without a value.
        activity: whether the workload should run.
        view: the workload; None where it is not known.
    """
    replicas = reported.replicas if reported is not None else None
    current = view.workload.spec_replicas if view is not None else None
    desired, limit = replicas, ReplicaLimit.NONE
    if view is not None and view.workload.limits is not None and replicas is not None:
        desired, limit = view.workload.limits.limited(replicas, active=activity.active)
    value = reported.value if reported is not None else None
    plain = reported.plain if reported is not None else None
    return Comparison(
        measured=measured.measured if measured is not None else None,
        plain=plain,
        reported=value,
        report=measured.report.value if measured is not None and measured.report is not None else "",
        adjustment=reported.adjustment if reported is not None and plain != value else "",
        current_replicas=current,
        desired_replicas=desired,
        limit=limit,
        activity=activity.why,
        ready_replicas=view.ready_replicas if view is not None else None,
    )


def measured_per_replica(view: WorkloadView) -> float | None:
    """Return the mean of the ready replicas with a value; None without any."""
    is_grouped = view.is_grouped or view.job_rules is not None
    values = group_values(view.groups)[ObservationState.OBSERVED] if is_grouped else view.values
    return mean(values) if values else None
