# SPDX-License-Identifier: Apache-2.0
"""The plain value of a workload, for a formula of KEDA's scalingModifiers.

Law: the value depends on the readings alone. It is never a number that keeps a size, because the HPA compares the
result of the formula with the formula's target, and not this value with the trigger's.

Pods and devices without a reading count as the mean of those with one: as nothing they would lower the total.
(KEDA: pkg/scaling/modifiers/formula.go, and for the HPA's target controllers/keda/hpa.go.)
"""

from collections.abc import Sequence

from keda_gpu_scaler.core.aggregation import AGGREGATIONS, mean
from keda_gpu_scaler.core.hpa.replica_calculator import milli
from keda_gpu_scaler.core.hpa.reported_value import ReportedValue, ReportType

_LARGEST_VALUE = 9e15


def plain_pods(
    report: ReportType, values: Sequence[float], *, unknown: int, pods_per_replica: int = 1, noun: str = "pods"
) -> ReportedValue:
    """Report the total over the ready pods, or their mean.

    Args:
        report: the total or the average.
        values: one for each ready pod with a value, at least one.
        unknown: ready pods without a value.
        pods_per_replica: how many pods one of the values stands for, where the workload's size counts pods.
        noun: what has the values, for the steps: "pods" or "groups".
    """
    average, count = mean(values), len(values) + unknown
    value = average if report is ReportType.AVERAGE else average * count * pods_per_replica
    several = f" times {pods_per_replica}" if pods_per_replica > 1 else ""
    counted = f", of which {unknown} without a value count as the mean of the others" if unknown else ""
    return _plain(value, f"{report} of {count} {noun}{several}{counted}")


def plain_devices(
    report: ReportType, aggregation: str, known: Sequence[float], *, missing: int, replicas: int
) -> ReportedValue:
    """Report the aggregate of devices; the total is the aggregate times the replicas, unless it is a sum.

    Args:
        report: the total or the average.
        aggregation: a name in ``core.aggregation.AGGREGATIONS``.
        known: the devices' values, at least one.
        missing: how many devices have no value.
        replicas: the wanted replicas.
    """
    value = AGGREGATIONS[aggregation]([*known, *[mean(known)] * missing])
    counted = f", of which {missing} without a value count as the mean of the others" if missing else ""
    of_devices = f"{aggregation} of {len(known) + missing} devices{counted}"
    if report is ReportType.AVERAGE or aggregation == "sum":
        return _plain(value, of_devices)
    return _plain(value * replicas, f"{of_devices}, times {replicas} replicas")


def _plain(value: float, what: str) -> ReportedValue:
    kept = milli(min(max(value, 0.0), _LARGEST_VALUE)) / 1000
    return ReportedValue(kept, None, (f"{what}: {kept:.6g}, which the formula of scalingModifiers takes",), kept)
