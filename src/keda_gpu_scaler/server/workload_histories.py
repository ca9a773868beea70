# SPDX-License-Identifier: Apache-2.0
"""The list of the workloads that this instance answers for, as a message for ``top``.

Law: the list repeats the last answers to KEDA and their history. It evaluates nothing and registers no interest.
"""

from collections.abc import Sequence

from keda_gpu_scaler.core.instance_status import RecentAnswer
from keda_gpu_scaler.server.workload_history import MAX_POINTS, WorkloadHistories, WorkloadHistory, history_key
from keda_gpu_scaler.server.workload_history import STEP_SECONDS as HISTORY_STEP_SECONDS
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

MAX_WORKLOADS = 256
"""The number of triggers in one message: with an hour of history each, less than the four megabytes of a message."""


def workload_histories(
    answers: Sequence[RecentAnswer], histories: WorkloadHistories, now: float, max_points: int
) -> evaluation_pb.WorkloadHistoryList:
    """Put the last answers into their message.

    Args:
        answers: the last answer to each declared trigger.
        histories: their histories.
        now: monotonic seconds.
        max_points: the number of steps of each history; 0 for none.
    """
    ordered = sorted(answers, key=history_key)
    return evaluation_pb.WorkloadHistoryList(
        workloads=[
            _status(answer, histories.of(history_key(answer)), now, min(max_points, MAX_POINTS))
            for answer in ordered[:MAX_WORKLOADS]
        ],
        omitted=max(0, len(ordered) - MAX_WORKLOADS),
    )


def _status(
    answer: RecentAnswer, history: WorkloadHistory | None, now: float, max_points: int
) -> evaluation_pb.WorkloadStatus:
    return evaluation_pb.WorkloadStatus(
        namespace=answer.namespace,
        name=answer.name,
        metric_name=answer.metric_name,
        metric=answer.metric,
        unit=answer.unit,
        target=answer.target,
        measured=answer.measured,
        reported=answer.value,
        adjustment=answer.adjustment,
        reason=answer.reason,
        active=answer.active,
        activity_unknown=answer.is_activity_unknown,
        activity=answer.activity,
        with_value=answer.with_value,
        expected=answer.expected,
        replicas=answer.replicas,
        wanted=answer.wanted,
        limit=answer.limit,
        age_seconds=max(0.0, now - answer.at_seconds),
        history=_history(history, now, max_points) if history is not None and max_points else None,
    )


def _history(history: WorkloadHistory, now: float, max_points: int) -> evaluation_pb.History:
    return evaluation_pb.History(
        step_seconds=HISTORY_STEP_SECONDS,
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
