# SPDX-License-Identifier: Apache-2.0
"""Finds keys of other scalers in a trigger's metadata, and misspelt keys from the environment.

Facts are from KEDA 2.18: the metadata of its scalers prometheus, kafka, rabbitmq, cpu, metrics-api and postgresql
(pkg/scalers).
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from keda_gpu_scaler.cli.validate.documents import YamlPath
from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.problem import Problem
from keda_gpu_scaler.core.trigger.near_keys import FROM_ENVIRONMENT, misspelt_keys, misspelt_problem
from keda_gpu_scaler.core.trigger.value_forms import own_keys

_TARGET, _ACTIVATION = "set targetValue", "set activationThreshold"
_REMEDIES: MappingProxyType[str, str] = MappingProxyType(
    {
        "target": _TARGET,
        "threshold": _TARGET,
        "value": _TARGET,
        "targetQueryValue": _TARGET,
        "lagThreshold": _TARGET,
        "queueLength": _TARGET,
        "activationValue": _ACTIVATION,
        "activationTargetValue": _ACTIVATION,
        "activationTargetQueryValue": _ACTIVATION,
        "activationTarget": _ACTIVATION,
        "query": "set metricType, or engineMetric for a series of the engine",
        "metric": "set metricType",
        "serverAddress": "set scalerAddress for this scaler, or demandEndpoint for a source of demand",
        "url": "set engineEndpoint or demandEndpoint",
        "valueLocation": "set engineMetric",
    }
)
"""What to do instead of a key of another scaler."""


def foreign_key_hint(key: str) -> str | None:
    """Return the sentence about a key of another scaler; None where the key is not known as one."""
    remedy = _REMEDIES.get(key.removesuffix(FROM_ENVIRONMENT))
    return f"metadata.{key}: is a key of other scalers and is ignored: {remedy}, or remove it" if remedy else None


def check_foreign_keys(metadata_path: YamlPath, metadata: Mapping[Any, Any]) -> Iterator[Problem]:
    """Yield a warning for each key of another scaler."""
    for key in metadata:
        if hint := foreign_key_hint(str(key)):
            yield Problem(Severity.WARNING, (*metadata_path, key), hint)


def check_environment_keys(metadata_path: YamlPath, metadata: Mapping[Any, Any]) -> Iterator[Problem]:
    """Yield an error for each misspelt key whose value KEDA reads from the environment."""
    names = {str(key): "" for key in metadata if str(key).endswith(FROM_ENVIRONMENT)}
    for key, meant in misspelt_keys(names, own_keys()):
        yield Problem(Severity.ERROR, (*metadata_path, key), misspelt_problem(key, meant))
