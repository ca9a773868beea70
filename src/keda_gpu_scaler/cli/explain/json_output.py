# SPDX-License-Identifier: Apache-2.0
"""Writes the explanation of a trigger as one JSON object on one line.

The keys, which stay the same:

``at``           the time, ISO 8601 in UTC
``namespace``, ``name``, ``kind``   of the ScaledObject or ScaledJob
``instance``     the instance that was called: an address, or "pod NAMESPACE/NAME"
``node``         the node of the instance, null where it has none
``trigger``      ``number`` (from 1, among all triggers) and ``metadata`` as it was sent
``answer``       the first line of the page, and ``next``, a list of ``cause`` and ``command``
``error``        null, or ``status`` (the name of gRPC's status code) and ``details``, a sentence; then every key
                 below is null
``settings``     a list of ``key``, ``value`` and ``origin``: the settings after the profile and the defaults
``hints``        sentences on keys that look misspelt
``workload``     null where it is not known, or ``target``, ``wanted`` (spec.replicas), ``actual`` (status.replicas) and
                 ``ready``
``observations``   of each pod (or device): ``pod``, ``node``, ``ready``, ``state``, ``value``, ``age_seconds``,
                 ``sentence``, ``cause`` (null, or why the value is missing), ``devices`` (``index``, ``model``,
                 ``uuid``, ``value``, ``sharers``) and ``attempts``, the URLs that were asked for an engine: ``url``,
                 ``engine`` (false for a place without one), ``status`` (null where there was no response), ``failure``
                 (null where the page counts), ``age_seconds``, ``milliseconds`` and ``remarks``, a list.
                 ``attempts_omitted`` counts the URLs that are left out
``demand``       null, or ``value``, ``active`` (each null while it is not known) and ``sentence``
``scope``, ``with_value``, ``expected``, ``metric``, ``unit``, ``value`` (null without one), ``target``, ``value_type``,
``active``, ``activity_unknown``, ``no_value_reason``, ``reason``, ``fallback`` (empty, or why the value comes from
another source) and ``steps``   the evaluation
``measured``     the mean of the replicas with a value, null without one; ``adjustment`` is empty, or why ``value``, the
                 number for the HPA, is not the plain total or mean
``clocks``       a list of ``node`` and ``ahead_seconds``: nodes whose clock differs from the instance's
``hpa``          null where the HPA does not decide or the size is not known, or ``recommended`` (null without a value),
                 ``replicas`` (the size that the HPA decides on), ``limit``, ``arithmetic`` and ``sentence``
``hpa_status``   null, or the status of the live HPA: ``current``, ``desired``, ``conditions`` (sentences) and
                 ``differences``, sentences on where the HPA differs from the ScaledObject and from the evaluation
``keda``         sentences on what KEDA itself does
``limits``       sentences on the limits of the HPA
"""

from collections.abc import Iterator
from typing import Any

from keda_gpu_scaler.cli.explain.answer import answer_line
from keda_gpu_scaler.cli.explain.failures import failure_of
from keda_gpu_scaler.cli.explain.reasons import next_steps
from keda_gpu_scaler.cli.explain.result import ExplainResult
from keda_gpu_scaler.cli.measured import measured_of
from keda_gpu_scaler.cli.output import json_line
from keda_gpu_scaler.cli.probe.json_output import decision_entry
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

_EVALUATION_KEYS = (
    "settings", "hints", "workload", "observations", "demand", "scope", "with_value", "expected", "metric", "unit",
    "value", "target", "value_type", "active", "activity_unknown", "no_value_reason", "reason", "fallback",
    "steps", "measured", "adjustment", "clocks",
)  # fmt: skip


def as_json(shown: ExplainResult) -> str:
    """Return the explanation of a trigger as one line of JSON."""
    scaled_object, evaluation, error = shown.scaled_object, shown.evaluation, shown.error
    entry: dict[str, Any] = {
        "at": shown.at.isoformat(),
        "namespace": scaled_object.namespace,
        "name": scaled_object.name,
        "kind": scaled_object.kind,
        "instance": shown.instance,
        "node": (evaluation.instance or None) if evaluation is not None else None,
        "trigger": {"number": shown.trigger.number, "metadata": dict(shown.trigger.metadata)},
        "error": error and {"status": error.status, "details": failure_of(error, shown.instance).reason},
    }
    entry["answer"] = answer_line(shown)
    entry["next"] = [{"cause": step.cause.value, "command": step.command} for step in next_steps(shown)]
    entry |= dict(_evaluation(evaluation)) if evaluation is not None else dict.fromkeys(_EVALUATION_KEYS)
    return json_line(entry | _forecast(shown))


def _evaluation(evaluation: evaluation_pb.Evaluation) -> Iterator[tuple[str, Any]]:
    yield "settings", [{"key": one.key, "value": one.value, "origin": one.origin} for one in evaluation.settings]
    yield "hints", list(evaluation.hints)
    sizes = evaluation.workload
    yield (
        "workload",
        {"target": sizes.target, "wanted": sizes.wanted, "actual": sizes.actual, "ready": sizes.ready}
        if evaluation.HasField("workload")
        else None,
    )
    yield "observations", [_observation(observation) for observation in evaluation.observations]
    demand = evaluation.demand
    yield (
        "demand",
        {"value": _optional(demand, "value"), "active": _optional(demand, "active"), "sentence": demand.sentence}
        if evaluation.HasField("demand")
        else None,
    )
    for key in ("scope", "with_value", "expected", "metric", "unit"):
        yield key, getattr(evaluation, key)
    yield "value", _optional(evaluation, "value")
    for key in ("target", "value_type", "active", "activity_unknown", "no_value_reason", "reason", "fallback"):
        yield key, getattr(evaluation, key)
    yield "steps", list(evaluation.steps)
    yield "measured", measured_of(evaluation)
    yield "adjustment", evaluation.comparison.adjustment
    yield "clocks", [{"node": one.node, "ahead_seconds": one.ahead_seconds} for one in evaluation.clocks]


def _observation(observation: evaluation_pb.Observation) -> dict[str, Any]:
    return {
        "pod": observation.pod or None,
        "node": observation.node or None,
        "ready": observation.ready,
        "state": observation.state,
        "value": _optional(observation, "value"),
        "age_seconds": _optional(observation, "age_seconds"),
        "sentence": observation.sentence,
        "cause": observation.cause or None,
        "devices": [
            {
                "index": one.index,
                "model": one.model,
                "uuid": one.uuid,
                "value": _optional(one, "value"),
                "sharers": one.sharers,
            }
            for one in observation.devices
        ],
        "attempts": [
            {
                "url": one.url,
                "engine": one.engine,
                "status": _optional(one, "status"),
                "failure": one.failure or None,
                "age_seconds": one.age_seconds,
                "milliseconds": 1000 * one.answer_seconds,
                "remarks": list(one.remarks),
            }
            for one in observation.attempts
        ],
        "attempts_omitted": observation.attempts_omitted,
    }


def _forecast(shown: ExplainResult) -> dict[str, Any]:
    forecast, status = shown.forecast, shown.hpa_status
    decision = forecast.decision if forecast is not None else None
    return {
        "hpa": decision_entry(decision, forecast.recommendation) if forecast is not None and decision else None,
        "hpa_status": status
        and {
            "current": status.current,
            "desired": status.desired,
            "conditions": list(status.conditions),
            "differences": list(status.differences),
        },
        "keda": list(forecast.keda) if forecast is not None else None,
        "limits": list(forecast.limits) if forecast is not None else None,
    }


def _optional(message: Any, key: str) -> Any:
    return getattr(message, key) if message.HasField(key) else None
