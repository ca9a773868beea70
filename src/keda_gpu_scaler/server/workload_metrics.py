# SPDX-License-Identifier: Apache-2.0
"""The metric families about workloads: the values that KEDA received, and refused triggers."""

from collections.abc import Iterator, Sequence

from keda_gpu_scaler.core.comparison import ReplicaLimit
from keda_gpu_scaler.core.instance_status import REFUSED, RecentAnswer, RefusedTrigger
from keda_gpu_scaler.server.metric_family import Family, Gauge, MetricSeries, family_lines, gauge_series

_LABELS = ("namespace", "name", "metric_name", "metric")
_ANSWER_GAUGES: tuple[Gauge[RecentAnswer], ...] = (
    Gauge(
        Family(
            "workload_value",
            "gauge",
            "Last value reported to KEDA: for AverageValue about the total over the replicas, for Value about their "
            "average. No series while the answer is an error.",
            _LABELS,
        ),
        lambda answer: answer.value,
    ),
    Gauge(
        Family(
            "workload_measured_value",
            "gauge",
            "Mean of the replicas with a value, or the aggregate of the devices: it is compared with the target.",
            _LABELS,
        ),
        lambda answer: answer.comparison.measured,
    ),
    Gauge(
        Family(
            "workload_plain_value",
            "gauge",
            "Plain total (AverageValue) or average (Value) of what was measured. Where some replicas have no value, "
            "workload_value is another number.",
            _LABELS,
        ),
        lambda answer: answer.comparison.plain,
    ),
    Gauge(
        Family(
            "workload_value_adjusted",
            "gauge",
            "1 if the reported value is not the plain total or average, 0 if it is.",
            _LABELS,
        ),
        lambda answer: None if answer.value is None else answer.comparison.is_adjusted,
    ),
    Gauge(
        Family("workload_current_replicas", "gauge", "Size of the scale target (spec.replicas).", _LABELS),
        lambda answer: answer.comparison.current_replicas,
    ),
    Gauge(
        Family(
            "workload_desired_replicas",
            "gauge",
            "Size that follows from the reported value, within the limits of the ScaledObject, before the behavior of "
            "the HPA.",
            _LABELS,
        ),
        lambda answer: answer.comparison.desired_replicas,
    ),
    Gauge(
        Family("workload_target", "gauge", "Target value of one replica.", _LABELS),
        lambda answer: answer.target,
    ),
    Gauge(
        Family(
            "workload_active",
            "gauge",
            "1 if the workload should run by the last evaluation, 0 if not.",
            _LABELS,
        ),
        lambda answer: answer.active,
    ),
    Gauge(
        Family(
            "workload_queue_contradiction",
            "gauge",
            "1 if requests have waited longer than a replica needs to start while the value asks for no more replicas.",
            _LABELS,
        ),
        lambda answer: answer.has_queue_contradiction,
    ),
    Gauge(
        Family(
            "workload_cold_start_seconds",
            "gauge",
            "Median time from the creation of a pod of the workload until it was ready.",
            _LABELS,
        ),
        lambda answer: answer.cold_start_seconds,
    ),
    Gauge(
        Family("workload_pods_with_value", "gauge", "Ready pods (or devices) in scope with a value.", _LABELS),
        lambda answer: answer.with_value,
    ),
    Gauge(
        Family("workload_pods", "gauge", "Ready pods (or devices) in scope.", _LABELS),
        lambda answer: answer.expected,
    ),
)
_DEMAND_GAUGES: tuple[Gauge[RecentAnswer], ...] = (
    Gauge(
        Family("workload_demand", "gauge", "Value of the demand endpoint. No series while it is unknown.", _LABELS),
        lambda answer: answer.demand,
    ),
    Gauge(
        Family(
            "workload_demand_known",
            "gauge",
            "1 if it is known whether there is demand, 0 if not. No series without a demand endpoint.",
            _LABELS,
        ),
        lambda answer: answer.is_demand_known,
    ),
)
_AVAILABLE = Family(
    "workload_value_available",
    "gauge",
    "1 if the last answer to KEDA was a value, 0 if it was an error. The label reason is then unavailable (data is "
    "missing now), misconfigured (the configuration needs a change) or refused (the metadata is invalid; metric_name "
    "and metric are empty).",
    (*_LABELS, "reason"),
)
_LIMITED = Family(
    "workload_replicas_limited",
    "gauge",
    "1 for the limit that the desired size comes from: min, max or inactive. No series without a limit.",
    (*_LABELS, "limit"),
)
FAMILIES = (_AVAILABLE, _LIMITED, *(gauge.family for gauge in (*_ANSWER_GAUGES, *_DEMAND_GAUGES)))
"""The families about workloads in order of appearance."""


def workload_lines(answers: Sequence[RecentAnswer], refused: Sequence[RefusedTrigger]) -> Iterator[str]:
    """Yield the lines of the families about workloads."""
    yield from family_lines(_AVAILABLE, _availability(answers, refused))
    limited = [one for one in answers if one.comparison.limit is not ReplicaLimit.NONE]
    yield from family_lines(_LIMITED, [("", (*_labels(one), one.comparison.limit.value), 1) for one in limited])
    for gauge in (*_ANSWER_GAUGES, *_DEMAND_GAUGES):
        yield from family_lines(gauge.family, gauge_series(gauge, answers, _labels))


def _availability(answers: Sequence[RecentAnswer], refused: Sequence[RefusedTrigger]) -> Iterator[MetricSeries]:
    """Yield a series for each answer, and one for each object with a refused trigger."""
    for answer in answers:
        yield "", (*_labels(answer), answer.no_value_reason), answer.value is not None
    for namespace, name in dict.fromkeys((trigger.namespace, trigger.name) for trigger in refused):
        yield "", (namespace, name, "", "", REFUSED), 0


def _labels(answer: RecentAnswer) -> tuple[str, ...]:
    return answer.namespace, answer.name, answer.metric_name, answer.metric
