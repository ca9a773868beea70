# SPDX-License-Identifier: Apache-2.0
"""Decides whether the HPA expects the total over the replicas or their average."""

from collections.abc import Mapping

from keda_gpu_scaler.core.evaluate.measurement import misconfigured
from keda_gpu_scaler.core.hpa.reported_value import REPORT_OF_TYPE, ReportType
from keda_gpu_scaler.core.trigger.metric_type import ASSUMED, certain_type, declared_type, matching_type
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Unavailable, Workload

NO_ACCESS = "give this instance access to the API server (chart: rbac.create)"
JOBS_NEED_AVERAGE_VALUE = (
    "metricType: Invalid value: Value: KEDA starts no job of a ScaledJob for a trigger of this type: remove metricType"
)
_TYPE_OF_REPORT = {report: metric_type for metric_type, report in REPORT_OF_TYPE.items()}


def report_type(
    trigger: Trigger, workload: Workload | Unavailable | None, metadata: Mapping[str, str]
) -> ReportType | Unavailable:
    """Return what the HPA expects, or why that is not known.

    Args:
        trigger: the parsed trigger.
        workload: the workload, or why it is not known; None without access to the API server.
        metadata: the trigger's metadata as KEDA sent it. It identifies the trigger in the workload.
    """
    if isinstance(workload, Workload):
        return _of_workload(trigger, workload, metadata)
    report = ReportType.TOTAL if trigger.report == "auto" else ReportType(trigger.report)  # TOTAL is KEDA's default
    if report is ReportType.TOTAL and trigger.aggregation != "sum":
        return workload or misconfigured(
            f"metadata.report: metricType AverageValue needs the total over the replicas, and the number "
            f"of replicas is not known: {NO_ACCESS}, or set report: average here and metricType: Value on the trigger"
        )
    return report


def jobs_problem(workload: Workload | Unavailable | None, metadata: Mapping[str, str]) -> Unavailable | None:
    """Return why no value can lead KEDA to a wanted number of Jobs; None where values can, or without a ScaledJob."""
    if not isinstance(workload, Workload) or workload.kind != "ScaledJob":
        return None
    if matching_type(workload, metadata) not in (None, ASSUMED):
        return misconfigured(JOBS_NEED_AVERAGE_VALUE)
    problem = workload.jobs.problem() if workload.jobs is not None else ""
    return misconfigured(problem) if problem else None


def _of_workload(trigger: Trigger, workload: Workload, metadata: Mapping[str, str]) -> ReportType | Unavailable:
    if trigger.report == "auto":
        declared = declared_type(workload, metadata)
        if declared in REPORT_OF_TYPE:
            return REPORT_OF_TYPE[declared]
        return misconfigured(
            "metadata.report: Required value: the ScaledObject's triggers have different metricTypes, and none of "
            "them has exactly this metadata: set report: total (for AverageValue) or average (for Value)"
        )
    report = ReportType(trigger.report)
    declared = certain_type(workload, metadata)
    if declared in REPORT_OF_TYPE and REPORT_OF_TYPE[declared] is not report:
        return misconfigured(
            f'metadata.report: Invalid value: "{report}": the trigger has metricType {declared}, for which the '
            f"HPA expects the {REPORT_OF_TYPE[declared]}: leave report out, or set metricType: "
            f"{_TYPE_OF_REPORT[report]} on the trigger"
        )
    return report
