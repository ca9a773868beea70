# SPDX-License-Identifier: Apache-2.0
"""The last answers to KEDA and the refused triggers, as a message for the commands.

Law: the message repeats what the metrics and the status page show, and adds no decision of its own.
"""

from collections.abc import Sequence

from keda_gpu_scaler.core.comparison import Comparison
from keda_gpu_scaler.core.instance_status import RecentAnswer, RefusedTrigger
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS, METRICS
from keda_gpu_scaler.server.workload_history import STEP_SECONDS, WorkloadHistories, WorkloadHistory, history_key
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

MAX_LISTED = 1000
"""The most answers, and the most refused triggers, of one message: a megabyte, of the four that a client accepts."""
_MAX_SENTENCE_LENGTH = 500


def workload_list(
    answers: Sequence[RecentAnswer],
    refused: Sequence[RefusedTrigger],
    instance: str,
    now: float,
    histories: WorkloadHistories | None = None,
    max_points: int = 0,
) -> evaluation_pb.WorkloadList:
    """Put the last answers and the refused triggers into their message.

    Args:
        answers: the last answer to each trigger.
        refused: the refused triggers.
        instance: the node of this instance.
        now: monotonic seconds on the clock of the answers.
        histories: the last hour of each trigger.
        max_points: the number of steps of each history; 0 for none. The histories of ``MAX_HISTORIES`` triggers are
            sent at most.
    """
    ordered = sorted(answers, key=lambda one: (one.namespace, one.name, one.metric_name, one.metric))
    return evaluation_pb.WorkloadList(
        instance=instance,
        refused=[
            evaluation_pb.RefusedTrigger(
                namespace=one.namespace,
                name=one.name,
                problems=[_shortened(problem) for problem in one.problems],
                age_seconds=max(0.0, now - one.since_seconds),
            )
            for one in refused[:MAX_LISTED]
        ],
        answers=[
            _answer_message(one, now, histories.of(history_key(one)) if histories is not None else None, max_points)
            for one in ordered[:MAX_LISTED]
        ],
    )


def comparison_message(comparison: Comparison) -> evaluation_pb.Comparison:
    """Return the message of a comparison."""
    return evaluation_pb.Comparison(
        measured=comparison.measured,
        plain=comparison.plain,
        reported=comparison.reported,
        report=comparison.report,
        adjustment=_shortened(comparison.adjustment),
        current_replicas=comparison.current_replicas,
        desired_replicas=comparison.desired_replicas,
        limit=comparison.limit.value,
        activity=_shortened(comparison.activity),
    )


def _answer_message(
    answer: RecentAnswer, now: float, history: WorkloadHistory | None, max_points: int
) -> evaluation_pb.WorkloadAnswer:
    metric = METRICS.get(answer.metric) or ENGINE_METRICS.get(answer.metric)
    message = evaluation_pb.WorkloadAnswer(
        namespace=answer.namespace,
        name=answer.name,
        metric_name=answer.metric_name,
        metric=answer.metric,
        unit=metric.unit if metric is not None else "",
        target=answer.target,
        active=answer.active,
        no_value_reason=answer.no_value_reason,
        reason=_shortened(answer.reason),
        with_value=answer.with_value,
        expected=answer.expected,
        comparison=comparison_message(answer.comparison),
        age_seconds=max(0.0, now - answer.at_seconds),
    )
    if history is not None and max_points:
        message.history.CopyFrom(_history(history, now, max_points))
    if answer.is_demand_known is not None:
        message.demand.sentence = _shortened(answer.demand_sentence)
        if answer.is_demand_known and answer.demand is not None:
            message.demand.value = answer.demand
    return message


def _shortened(sentence: str) -> str:
    return sentence if len(sentence) <= _MAX_SENTENCE_LENGTH else f"{sentence[:_MAX_SENTENCE_LENGTH]}…"


def _history(history: WorkloadHistory, now: float, max_points: int) -> evaluation_pb.History:
    return evaluation_pb.History(
        step_seconds=STEP_SECONDS,
        points=[
            evaluation_pb.HistoryPoint(
                steps_ago=steps_ago,
                measured=point.measured,
                target=point.target,
                replicas=point.replicas,
                wanted=point.wanted,
                min_replicas=point.min_replicas,
                max_replicas=point.max_replicas,
                active=point.active,
            )
            for steps_ago, point in history.points(now, max_points)
        ],
    )
