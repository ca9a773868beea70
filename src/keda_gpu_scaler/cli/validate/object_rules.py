# SPDX-License-Identifier: Apache-2.0
"""Checks the version, the target, the poll and the behavior of a ScaledObject or ScaledJob.

Facts are from KEDA 2.18 (config/crd/bases/keda.sh_scaledobjects.yaml; pkg/scaling/scale_handler.go, startScaleLoop) and
from Kubernetes 1.34 (pkg/apis/autoscaling/validation/validation.go, validateScalingRules).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keda_gpu_scaler.cli.validate.documents import YamlPath, integer, json_value, mapping
from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.problem import Problem
from keda_gpu_scaler.core.quoting import quoted

API_VERSION = "keda.sh/v1alpha1"
MAX_STABILIZATION_SECONDS = 3600
MAX_POLICY_PERIOD_SECONDS = 1800
POLICY_TYPES = ("Pods", "Percent")
SELECT_POLICIES = ("Max", "Min", "Disabled")

_BEHAVIOR: YamlPath = ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior")
_TARGET = "scaleTargetRef"


def check_object(value: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems of an object with triggers of this scaler."""
    spec = mapping(value.get("spec"))
    if value.get("apiVersion") != API_VERSION:
        yield Problem(
            Severity.ERROR, ("apiVersion",),
            f"apiVersion: Unsupported value: {quoted(str(json_value(value.get('apiVersion'))), 100)}: must be "
            f"{API_VERSION}",
        )  # fmt: skip
    if value.get("kind") == "ScaledObject":
        yield from _check_scale_target(spec)
        yield from _check_behavior(value)
    elif "jobTargetRef" not in spec:
        message = "spec.jobTargetRef: Required value: the Job that KEDA starts"
        yield Problem(Severity.ERROR, ("spec", "jobTargetRef"), message)
    seconds = integer(spec, "pollingInterval", 1)
    if seconds < 1:
        yield Problem(
            Severity.WARNING, ("spec", "pollingInterval"),
            f"spec.pollingInterval: Invalid value: {seconds}: KEDA calls the scaler again without a pause: set 1 or "
            "more, or remove the key for 30 s",
        )  # fmt: skip


def _check_scale_target(spec: Mapping[str, Any]) -> Iterator[Problem]:
    target = spec.get(_TARGET)
    if not isinstance(target, dict):
        message = f"spec.{_TARGET}: Required value: the workload that KEDA scales: {_TARGET}: {{name: NAME}}"
        yield Problem(Severity.ERROR, ("spec", _TARGET), message)
    elif not target.get("name"):
        message = f"spec.{_TARGET}.name: Required value: the name of the workload that KEDA scales"
        yield Problem(Severity.ERROR, ("spec", _TARGET, "name"), message)


def _check_behavior(value: Mapping[str, Any]) -> Iterator[Problem]:
    rules: Any = value
    for step in _BEHAVIOR:
        rules = mapping(mapping(rules).get(step))
    for direction in ("scaleUp", "scaleDown"):
        if direction in rules:
            yield from _check_scaling_rules((*_BEHAVIOR, direction), mapping(rules[direction]))


def _check_scaling_rules(path: YamlPath, rules: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _check_integer(path, rules, "stabilizationWindowSeconds", 0, MAX_STABILIZATION_SECONDS)
    yield from _check_word(path, rules, "selectPolicy", SELECT_POLICIES)
    policies = rules.get("policies")
    if policies == []:
        message = f"{_name(path)}.policies: Required value: the API server refuses an empty list: remove the key"
        yield Problem(Severity.ERROR, (*path, "policies"), message)
    for number, policy in enumerate(policies if isinstance(policies, list) else ()):
        at, fields = (*path, "policies", number), mapping(policy)
        yield from _check_word(at, fields, "type", POLICY_TYPES, is_required=True)
        yield from _check_integer(at, fields, "value", 1, None, is_required=True)
        yield from _check_integer(at, fields, "periodSeconds", 1, MAX_POLICY_PERIOD_SECONDS, is_required=True)


def _check_integer(
    path: YamlPath, fields: Mapping[str, Any], key: str, least: int, most: int | None, *, is_required: bool = False
) -> Iterator[Problem]:
    must = f"a whole number from {least} to {most}" if most is not None else f"a whole number from {least}"
    if key not in fields:
        if is_required:
            yield Problem(Severity.ERROR, path, f"{_name(path)}.{key}: Required value: must be {must}")
        return
    value = fields[key]
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        yield Problem(
            Severity.ERROR, (*path, key),
            f"{_name(path)}.{key}: Invalid value: {quoted(json_value(value), 100)}: the API server refuses the HPA: "
            f"must be {must}",
        )  # fmt: skip


def _check_word(
    path: YamlPath, fields: Mapping[str, Any], key: str, words: tuple[str, ...], *, is_required: bool = False
) -> Iterator[Problem]:
    supported = "supported values: " + ", ".join(words)
    if key not in fields:
        if is_required:
            yield Problem(Severity.ERROR, path, f"{_name(path)}.{key}: Required value: {supported}")
    elif fields[key] not in words:
        yield Problem(
            Severity.ERROR, (*path, key),
            f"{_name(path)}.{key}: Unsupported value: {quoted(json_value(fields[key]), 100)}: the API server refuses "
            f"the HPA: {supported}",
        )  # fmt: skip


def _name(path: YamlPath) -> str:
    """Return a path as the API server writes it: spec.triggers[0]."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]
