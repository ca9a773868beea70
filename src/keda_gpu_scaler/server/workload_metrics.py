# SPDX-License-Identifier: Apache-2.0
"""The metric families about workloads: the values that KEDA received, and the triggers that are refused."""

from collections.abc import Iterator, Sequence

from keda_gpu_scaler.core.instance_status import REFUSED, RecentAnswer, RefusedTrigger
from keda_gpu_scaler.server.metric_family import Family, Gauge, MetricSeries, family_lines, gauge_series

_LABELS = ("namespace", "name", "metric_name", "metric")
_ANSWER_GAUGES: tuple[Gauge[RecentAnswer], ...] = (
    Gauge(
        Family(
            "workload_value",
            "gauge",
            "Last value reported to KEDA. No series while the answer is an error.",
            _LABELS,
        ),
        lambda answer: answer.value,
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
FAMILIES = (_AVAILABLE, *(gauge.family for gauge in (*_ANSWER_GAUGES, *_DEMAND_GAUGES)))
"""The families about workloads in order of appearance."""


def workload_lines(answers: Sequence[RecentAnswer], refused: Sequence[RefusedTrigger]) -> Iterator[str]:
    """Yield the lines of the families about workloads."""
    yield from family_lines(_AVAILABLE, _availability(answers, refused))
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
