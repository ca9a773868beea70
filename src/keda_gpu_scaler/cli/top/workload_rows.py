# SPDX-License-Identifier: Apache-2.0
"""The rows of the view by workload: the last answer to each trigger, and its history.

Law: an unknown number is None and stays None. Of two instances that answered for one trigger, the last answer counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from keda_gpu_scaler.wire import evaluation_pb2 as pb


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
    def ratio(self) -> float | None:
        """The measured value as a multiple of the target; None where it is not known."""
        return None if self.measured is None or self.target <= 0 else self.measured / self.target


WORKLOAD_COLUMNS = tuple(column.name for column in fields(WorkloadRow) if column.name != "history")
"""The keys of a row in JSON, and the columns of CSV."""


def workload_row(status: pb.WorkloadStatus, instance: str) -> WorkloadRow:
    """Read the status of one trigger."""
    step = status.history.step_seconds
    return WorkloadRow(
        namespace=status.namespace,
        name=status.name,
        metric_name=status.metric_name,
        metric=status.metric,
        unit=status.unit,
        measured=status.measured if status.HasField("measured") and status.HasField("reported") else None,
        target=status.target,
        reported=status.reported if status.HasField("reported") else None,
        adjustment=status.adjustment,
        replicas=status.replicas if status.HasField("replicas") else None,
        wanted=status.wanted if status.HasField("wanted") else None,
        limit=status.limit,
        active=None if status.activity_unknown else status.active,
        why=status.reason or status.adjustment or status.activity,
        with_value=status.with_value,
        expected=status.expected,
        age_seconds=status.age_seconds,
        instance=instance,
        history=tuple(
            (step * point.steps_ago, point.measured if point.HasField("measured") else None)
            for point in status.history.points
        ),
    )


def newest_rows(by_instance: Mapping[str, Sequence[WorkloadRow]]) -> tuple[WorkloadRow, ...]:
    """Return one row for each trigger: of the instance that answered it last."""
    newest: dict[tuple[str, str, str], WorkloadRow] = {}
    for rows in by_instance.values():
        for row in rows:
            key = (row.namespace, row.name, row.metric_name)
            if key not in newest or row.age_seconds < newest[key].age_seconds:
                newest[key] = row
    return tuple(row for _, row in sorted(newest.items()))
