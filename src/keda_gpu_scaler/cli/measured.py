# SPDX-License-Identifier: Apache-2.0
"""The measured value of an evaluation, as commands show it beside the number for the HPA."""

from keda_gpu_scaler.cli.output import three_digits
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

_PER = {"workload": "per replica", "endpoint": "at the endpoint"}


def measured_of(evaluation: evaluation_pb.Evaluation) -> float | None:
    """Return the measured value; from an older instance, the mean of the ready pods with a value."""
    if evaluation.comparison.HasField("measured"):
        return evaluation.comparison.measured
    values = [one.value for one in evaluation.observations if one.HasField("value") and one.ready]
    return sum(values) / len(values) if values and evaluation.scope == "workload" else None


def measured_text(evaluation: evaluation_pb.Evaluation, per: str = "") -> str:
    """Return the measured value and what it is of ("98 % per replica")."""
    measured = three_digits(measured_of(evaluation), evaluation.unit)
    return f"{measured} {per or _PER.get(evaluation.scope, 'of the devices')}"
