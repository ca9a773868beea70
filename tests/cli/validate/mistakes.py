# SPDX-License-Identifier: Apache-2.0
"""Mistakes in the metadata of a trigger, for ``validate``, the schema and the policy."""

from dataclasses import dataclass
from typing import Any

ADDRESS = "keda-gpu-scaler.keda.svc.cluster.local:6000"


@dataclass(frozen=True, slots=True)
class Mistake:
    """A trigger with a mistake: what ``validate`` says of it, and who else finds it."""

    title: str
    metadata: dict[str, Any]
    finding: str
    type: str = "external"
    is_in_schema: bool = True
    is_in_policy: bool = True

    @property
    def trigger(self) -> dict[str, Any]:
        return {"type": self.type, "metadata": {"scalerAddress": ADDRESS, **self.metadata}}


def _invalid(key: str, value: str, rest: str) -> str:
    return f'error metadata.{key}: Invalid value: "{value}": {rest}'


_NEVER = (
    "gpu_utilization is at most 100 %, so the workload never grows: must be at most 100, or set aggregation: sum for "
    "the sum over several devices"
)
_NUMBER = "must be a plain number from 0.001 to 1e+12, without a unit"

MISTAKES = (
    Mistake(
        "an address with http",
        {"scalerAddress": f"http://{ADDRESS}"},
        _invalid("scalerAddress", f"http://{ADDRESS}", 'must be HOST:PORT, without a scheme: remove "http://"'),
    ),
    Mistake(
        "an address with grpc",
        {"scalerAddress": f"grpc://{ADDRESS}"},
        _invalid("scalerAddress", f"grpc://{ADDRESS}", 'must be HOST:PORT, without a scheme: remove "grpc://"'),
    ),
    Mistake(
        "an address without a port",
        {"scalerAddress": "keda-gpu-scaler.keda.svc"},
        _invalid("scalerAddress", "keda-gpu-scaler.keda.svc", "must be HOST:PORT, without a scheme"),
    ),
    Mistake(
        "an address with a path",
        {"scalerAddress": "keda-gpu-scaler.keda:6000/x"},
        _invalid("scalerAddress", "keda-gpu-scaler.keda:6000/x", "must be HOST:PORT, without a scheme"),
    ),
    Mistake(
        "a type that KEDA does not have",
        {"profile": "llm"},
        'error type: Unsupported value: "externalpush": KEDA has no scaler of this type with a scalerAddress: did you '
        'mean "external-push"?',
        type="externalpush",
    ),
    Mistake(
        "another scaler's type",
        {"profile": "llm"},
        'error type: Unsupported value: "prometheus": KEDA has no scaler of this type with a scalerAddress: must be '
        "external or external-push",
        type="prometheus",
    ),
    Mistake(
        "a misspelt profile",
        {"profile": "triton"},
        'error metadata.profile: Unsupported value: "triton": did you mean "triton-inference"?',
    ),
    Mistake(
        "a misspelt metric",
        {"metricType": "gpu_util"},
        'error metadata.metricType: Unsupported value: "gpu_util": did you mean "gpu_utilization"?',
    ),
    Mistake(
        "a misspelt aggregation",
        {"aggregation": "average"},
        'error metadata.aggregation: Unsupported value: "average": supported values: max, min, avg, sum, p95, p99',
    ),
    Mistake("a word for a number", {"targetValue": "eighty"}, _invalid("targetValue", "eighty", _NUMBER)),
    Mistake("a number with a unit", {"targetValue": "80%"}, _invalid("targetValue", "80%", _NUMBER)),
    Mistake("a target of zero", {"targetValue": "0"}, _invalid("targetValue", "0", _NUMBER)),
    Mistake("a target below zero", {"targetValue": "-5"}, _invalid("targetValue", "-5", _NUMBER)),
    Mistake("a target that is no number", {"targetValue": "NaN"}, _invalid("targetValue", "NaN", _NUMBER)),
    Mistake(
        "a share above one",
        {"minCoverage": "50"},
        _invalid("minCoverage", "50", "must be a plain number from 0 to 1, without a unit"),
        is_in_schema=False,
    ),
    Mistake(
        "a target above 100 % of the default metric",
        {"targetValue": "800"},
        _invalid("targetValue", "800", _NEVER),
    ),
    Mistake(
        "a target above 100 % of a named metric",
        {"metricType": "gpu_utilization", "targetValue": "101"},
        _invalid("targetValue", "101", _NEVER),
    ),
    Mistake(
        "a target above 100 % of a profile's metric",
        {"profile": "triton-inference", "targetValue": "800"},
        _invalid("targetValue", "800", _NEVER),
        is_in_schema=False,
    ),
    Mistake(
        "a target above 100 % in the key with the metric",
        {"targetGpuUtilization": "800"},
        _invalid("targetGpuUtilization", "800", _NEVER),
    ),
    Mistake(
        "a key in lower case",
        {"targetvalue": "80"},
        'error metadata.targetvalue: Forbidden: it is not a key of this scaler, but almost "targetValue"; rename it, '
        "or remove it",
    ),
    Mistake(
        "a key with underscores",
        {"metric_type": "temperature"},
        'error metadata.metric_type: Forbidden: it is not a key of this scaler, but almost "metricType"; rename it, '
        "or remove it",
    ),
    Mistake(
        "a misspelt key",
        {"targetValu": "80"},
        'error metadata.targetValu: Forbidden: it is not a key of this scaler, but almost "targetValue"; rename it, '
        "or remove it",
        is_in_schema=False,
        is_in_policy=False,
    ),
    Mistake(
        "a misspelt key from the environment",
        {"targetValuFromEnv": "TARGET"},
        'error metadata.targetValuFromEnv: Forbidden: it is not a key of this scaler, but almost "targetValueFromEnv"; '
        "rename it, or remove it",
        is_in_schema=False,
        is_in_policy=False,
    ),
    Mistake(
        "a number without quotes",
        {"targetValue": 80},
        "error metadata.targetValue: Invalid value: 80: must be text: quote it",
        is_in_policy=False,  # the API server refuses it before
    ),
    Mistake(
        "a fraction for a percentage",
        {"targetValue": "0.8"},
        'warning metadata.targetValue: Invalid value: "0.8": gpu_utilization is in percent, so this is 0.8 %, and '
        "almost any load asks for more replicas: write 80 for a share of 0.8",
        is_in_schema=False,
        is_in_policy=False,
    ),
    Mistake(
        "a load of several replicas as the target of one",
        {"metricType": "load", "targetValue": "800"},
        'warning metadata.targetValue: Invalid value: "800": 100 % of load is a full replica, so requests wait before '
        "a replica is added: set 100 or less",
        is_in_schema=False,
        is_in_policy=False,
    ),
    Mistake(
        "an activation above the target",
        {"targetValue": "50", "activationThreshold": "60"},
        'warning metadata.activationThreshold: Invalid value: "60": is above the target (50), so a workload at its '
        "target is inactive and may be scaled to zero: set it below the target",
        is_in_schema=False,
        is_in_policy=False,
    ),
    *(
        Mistake(
            f"the key {key} of other scalers",
            {key: "80"},
            f"warning metadata.{key}: is a key of other scalers and is ignored: {remedy}, or remove it",
            is_in_schema=False,
            is_in_policy=False,
        )
        for key, remedy in {
            "threshold": "set targetValue",
            "target": "set targetValue",
            "value": "set targetValue",
            "activationValue": "set activationThreshold",
            "query": "set metricType, or engineMetric for a series of the engine",
            "serverAddress": "set scalerAddress for this scaler, or demandEndpoint for a source of demand",
        }.items()
    ),
)

CORRECT: dict[str, dict[str, Any]] = {
    "a profile": {"profile": "triton-inference"},
    "an address that gRPC resolves": {"scalerAddress": f"dns:///{ADDRESS}", "profile": "llm"},
    "a short address": {"scalerAddress": "keda-gpu-scaler.keda:6000"},
    "a target at 100 %": {"targetValue": "100"},
    "a number in another notation": {"targetValue": "8e1", "activationThreshold": "+5."},
    "blanks around values": {"targetValue": " 80 ", "profile": " training "},
    "a sum over devices": {"scope": "fleet", "aggregation": "sum", "targetValue": "400"},
    "a metric without a limit": {"metricType": "power_draw", "targetValue": "800"},
    "a profile of a metric without a limit": {"profile": "distributed-training", "targetValue": "900"},
    "a small target of a count": {"metricType": "queue_wait_ms", "targetValue": "0.8"},
    "a series of an engine": {"engineMetric": "waiting", "targetValue": "800"},
    "the metric from the environment": {"metricTypeFromEnv": "METRIC", "targetValueFromEnv": "TARGET"},
    "keys of KEDA and of others": {"profile": "training", "unsafeSsl": "false", "team": "ml"},
}
"""Metadata without a mistake. KEDA adds the metadata of the environment after all of these checks."""
