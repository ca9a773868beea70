# SPDX-License-Identifier: Apache-2.0
"""Writes a round of ``probe`` as one JSON object on one line.

The keys, which stay the same:

``at``          the time, ISO 8601 in UTC
``address``     the scaler's
``replicas``    the size that the simulated HPA starts from
``connected``   whether the scaler can be reached
``calls``       a list of ``method``, ``ms``, ``status`` (the name of gRPC's status code) and ``details``, in order
``spec``        null, or ``name``, ``target`` (as KEDA reads it), ``integer`` and ``float`` (as sent)
``value``       null, or ``name``, ``value`` (as KEDA reads it, summed), ``integer`` and ``float`` (of the first one)
``active``      null, true or false
``findings``    a list of ``code``, ``unusable`` (whether KEDA cannot use the answer) and ``text``
``hpa``         null where KEDA cannot use the answer, or ``value_type``, ``recommended`` (null without a metric),
                ``replicas`` (the size that the HPA decides on), ``limit``, ``arithmetic`` and ``sentence``
``evaluation``  null where the scaler returns none (and with --watch), or ``scope``, ``with_value`` and ``expected``
                (ready pods, or devices), ``measured`` (of one replica; null without one), ``value`` (for the HPA; null
                without one), ``active``, ``no_value_reason`` and ``reason`` (both empty with a value), and ``steps``, a
                list of sentences

A number that JSON cannot write is a string: "nan", "inf", "-inf".
"""

from typing import Any

from keda_gpu_scaler.cli.measured import measured_of
from keda_gpu_scaler.cli.output import json_line
from keda_gpu_scaler.cli.probe.client import MetricReading
from keda_gpu_scaler.cli.probe.simulation import Round
from keda_gpu_scaler.core.hpa.controller import Decision
from keda_gpu_scaler.core.hpa.replica_calculator import Recommendation
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb


def as_json(shown: Round, evaluation: evaluation_pb.Evaluation | None = None) -> str:
    """Return a round as one line of JSON."""
    answer, decision = shown.answer, shown.decision
    spec = answer.specs[0] if answer.specs else None
    value = answer.values[0] if answer.values else None
    return json_line(
        {
            "at": shown.at.isoformat(),
            "address": shown.address,
            "replicas": shown.scenario.replicas,
            "connected": answer.is_connected,
            "calls": [
                {"method": one.method, "ms": round(one.milliseconds, 3), "status": one.status, "details": one.details}
                for one in answer.calls
            ],
            "spec": spec and _reading(spec, "target", spec.as_keda_reads_it),
            "value": value and _reading(value, "value", answer.value or 0.0),
            "active": answer.active,
            "findings": [
                {"code": one.code, "unusable": one.is_unusable, "text": one.text} for one in shown.findings
            ],
            "hpa": decision
            and {
                "value_type": shown.scenario.value_type.value,
                **decision_entry(decision, shown.recommendation),
            },
            "evaluation": evaluation and _evaluation(evaluation),
        }
    )  # fmt: skip


def decision_entry(decision: Decision, recommendation: Recommendation | None) -> dict[str, Any]:
    """Return the keys of a decision of the HPA, which ``probe`` and ``explain`` share."""
    return {
        "recommended": decision.recommended,
        "replicas": decision.replicas,
        "limit": decision.limit.value,
        "arithmetic": recommendation.sentence if recommendation else None,
        "sentence": decision.sentence,
    }


def _reading(reading: MetricReading, key: str, as_read: float) -> dict[str, Any]:
    return {"name": reading.name, key: as_read, "integer": reading.integer, "float": reading.floating}


def _evaluation(evaluation: evaluation_pb.Evaluation) -> dict[str, Any]:
    return {
        "scope": evaluation.scope,
        "with_value": evaluation.with_value,
        "expected": evaluation.expected,
        "measured": measured_of(evaluation),
        "value": evaluation.value if evaluation.HasField("value") else None,
        "active": evaluation.active,
        "no_value_reason": evaluation.no_value_reason,
        "reason": evaluation.reason,
        "steps": list(evaluation.steps),
    }
