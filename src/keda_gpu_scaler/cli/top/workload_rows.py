# SPDX-License-Identifier: Apache-2.0
"""The rows of the view by workload: the last answer to each trigger, and its history.

Law: an unknown number is None and stays None. Of two instances that answered for one trigger, the last answer counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from keda_gpu_scaler.wire import evaluation_pb2 as pb

REFUSED = "refused"
"""The metric of a row whose trigger is refused."""


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """One trigger of a ScaledObject; ``export`` documents the fields.

    ``history`` has the measured value by how many seconds ago it was answered, None where it was not known. It is not
    exported.
    """

    namespace: str
    name: str
    metric_name: str
    metric: str
    unit: str
    measured: float | None
    target: float
    reported: float | None
    adjustment: str
    replicas: int | None
    wanted: int | None
    limit: str
    active: bool | None
    why: str
    with_value: int
    expected: int
    age_seconds: float
    instance: str
    history: tuple[tuple[float, float | None], ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether the metadata of the trigger is refused, so that it has no number."""
        return self.metric == REFUSED and not self.metric_name

    @property
    def ratio(self) -> float | None:
        """The measured value as a multiple of the target; None where it is not known."""
        return None if self.measured is None or self.target <= 0 else self.measured / self.target


WORKLOAD_COLUMNS = tuple(column.name for column in fields(WorkloadRow) if column.name != "history")
"""The keys of a row in JSON, and the columns of CSV."""


def workload_row(answer: pb.WorkloadAnswer, instance: str) -> WorkloadRow:
    """Read the last answer to one trigger."""
    numbers, step = answer.comparison, answer.history.step_seconds
    reported = numbers.reported if numbers.HasField("reported") else None
    return WorkloadRow(
        namespace=answer.namespace,
        name=answer.name,
        metric_name=answer.metric_name,
        metric=answer.metric,
        unit=answer.unit,
        measured=numbers.measured if numbers.HasField("measured") and reported is not None else None,
        target=answer.target,
        reported=reported,
        adjustment=numbers.adjustment,
        replicas=numbers.current_replicas if numbers.HasField("current_replicas") else None,
        wanted=numbers.desired_replicas if numbers.HasField("desired_replicas") else None,
        limit=numbers.limit,
        active=answer.active,
        # The name is in the row's first cell, and a narrow terminal has little room.
        why=answer.reason.removeprefix(f"{answer.namespace}/{answer.name}: ") or numbers.adjustment or numbers.activity,
        with_value=answer.with_value,
        expected=answer.expected,
        age_seconds=answer.age_seconds,
        instance=instance,
        history=tuple(
            (step * point.steps_ago, point.measured if point.HasField("measured") else None)
            for point in answer.history.points
        ),
    )


def refused_row(refused: pb.RefusedTrigger, instance: str) -> WorkloadRow:
    """Return the row of a trigger whose metadata is refused: it has neither a value nor a target."""
    return WorkloadRow(
        namespace=refused.namespace,
        name=refused.name,
        metric_name="",
        metric=REFUSED,
        unit="",
        measured=None,
        target=0.0,
        reported=None,
        adjustment="",
        replicas=None,
        wanted=None,
        limit="none",
        active=None,
        why="refused: " + "; ".join(refused.problems),
        with_value=0,
        expected=0,
        age_seconds=refused.age_seconds,
        instance=instance,
    )


def newest_rows(by_instance: Mapping[str, Sequence[WorkloadRow]]) -> tuple[WorkloadRow, ...]:
    """Return one row for each trigger: of the instance that answered it last.

    A refused trigger has no metric, so those of one object are distinguished by their problems.
    """
    newest: dict[tuple[str, str, str, str], WorkloadRow] = {}
    for rows in by_instance.values():
        for row in rows:
            key = (row.namespace, row.name, row.metric_name, row.why if row.metric == REFUSED else "")
            if key not in newest or row.age_seconds < newest[key].age_seconds:
                newest[key] = row
    return tuple(row for _, row in sorted(newest.items()))
