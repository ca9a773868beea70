# SPDX-License-Identifier: Apache-2.0
"""Checks the numbers of an evaluation that came over the network.

Law: a number that the arithmetic of a command cannot use is an error of the answer, and never an error of the command.
A server that is no scaler, or a wrong one, can send any number.
"""

import math
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from keda_gpu_scaler.core.hpa.replica_calculator import milli
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)


def answer_problem(evaluation: evaluation_pb.Evaluation) -> str | None:
    """Return why the numbers of an evaluation cannot be used, as a sentence; None if they can."""
    name = _infinite_field(evaluation)
    if name is not None:
        return f"{name}: Invalid value: must be a finite number; does a keda-gpu-scaler answer at this address?"
    try:
        value, target = milli(evaluation.value), milli(evaluation.target)
    except ValueError as error:
        return str(error)
    if evaluation.HasField("value") and (target <= 0 or value < 0):
        field, wrong = ("target", evaluation.target) if target <= 0 else ("value", evaluation.value)
        limit = "must be above 0, to three decimals" if target <= 0 else "must be 0 or more"
        return f"{field}: Invalid value: {wrong:g}: {limit}"
    return None


def _infinite_field(message: Any, path: str = "") -> str | None:
    """Return the path of the first number that is not finite."""
    for field, value in message.ListFields():
        name = f"{path}{field.name}"
        if field.cpp_type in _FLOATS and not math.isfinite(value):
            return name
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            for one in value if field.is_repeated else (value,):
                if (found := _infinite_field(one, f"{name}.")) is not None:
                    return found
    return None
