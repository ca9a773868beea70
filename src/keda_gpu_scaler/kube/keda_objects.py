# SPDX-License-Identifier: Apache-2.0
"""Reads KEDA's objects, ScaledObjects and ScaledJobs.

Law: no object makes a reader raise. A field of an unexpected type counts as absent, and then has KEDA's default.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keda_gpu_scaler.core.comparison import DEFAULT_MAX_REPLICAS, ReplicaLimits
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.scaling_rules import (
    DEFAULT_COOLDOWN_SECONDS,
    DEFAULT_TOLERANCE,
    DEFAULT_TOLERANCES,
    Formula,
    JobRules,
    JobStrategy,
    Tolerances,
)
from keda_gpu_scaler.core.trigger.own_trigger import TRIGGER_TYPES
from keda_gpu_scaler.core.types import DeclaredTrigger
from keda_gpu_scaler.kube.parse import ScaleTarget, count, mappings, part, text

KEDA_GROUP = "keda.sh"
DEFAULT_METRIC_TYPE = "AverageValue"
MAX_SPEC_LENGTH = 64 << 10
"""The length of a spec that a command sends."""
_MAX_FORMULA_LENGTH = 4096
_QUANTITY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})([munkMG]|e-?[0-9]{1,2})?", re.ASCII)
_SUFFIXES = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True, slots=True)
class ScaledSpec:
    """The target and the external triggers of a ScaledObject, or of a ScaledJob, which has no target.

    ``formula`` is None without scalingModifiers. ``jobs`` is None for a ScaledObject.
    """

    target: ScaleTarget | None
    triggers: tuple[DeclaredTrigger, ...]
    formula: Formula | None = None
    tolerances: Tolerances = DEFAULT_TOLERANCES
    jobs: JobRules | None = None
    cooldown_seconds: float = DEFAULT_COOLDOWN_SECONDS
    idle_replicas: int = 0
    limits: ReplicaLimits | None = None


def scaled_object(item: Mapping[str, Any]) -> ScaledSpec:
    """Read a ScaledObject's target and external triggers."""
    spec, status = part(item, "spec"), part(item, "status")
    reference, resolved = part(spec, "scaleTargetRef"), part(status, "scaleTargetGVKR")
    group, _, version = (text(reference.get("apiVersion")) or "apps/v1").rpartition("/")
    target = ScaleTarget(group, version, text(reference.get("kind")) or "Deployment", text(reference.get("name")))
    if (resolved.get("group") or "", resolved.get("version"), resolved.get("kind")) == (group, version, target.kind):
        target = ScaleTarget(group, version, target.kind, target.name, text(resolved.get("resource")))
    cooldown = _integer(spec.get("cooldownPeriod"))
    return ScaledSpec(
        target,
        _external_triggers(spec),
        formula=formula(spec),
        tolerances=tolerances(spec),
        cooldown_seconds=DEFAULT_COOLDOWN_SECONDS if cooldown is None else max(0.0, float(cooldown)),
        idle_replicas=max(0, _integer(spec.get("idleReplicaCount")) or 0),
        limits=_limits(spec),
    )


def _limits(spec: Mapping[str, Any]) -> ReplicaLimits:
    least, most, idle = (_integer(spec.get(f"{key}ReplicaCount")) for key in ("min", "max", "idle"))
    return ReplicaLimits(
        min_replicas=max(0, least or 0),
        max_replicas=DEFAULT_MAX_REPLICAS if most is None else max(0, most),
        idle_replicas=None if idle is None else max(0, idle),
    )


def proposed_object(spec: str) -> ScaledSpec:
    """Read the spec of a ScaledObject that is not applied, a JSON object.

    Raises:
        ValueError: it is none, or it is too long.
    """
    if len(spec) > MAX_SPEC_LENGTH:
        raise ValueError(f"spec: Too long: must have at most {MAX_SPEC_LENGTH} characters")
    try:
        plain = json.loads(spec)
    except (ValueError, RecursionError) as error:
        raise ValueError("spec: Invalid value: must be a JSON object") from error
    return scaled_object({"spec": plain})


def scaled_job(item: Mapping[str, Any]) -> ScaledSpec:
    """Read a ScaledJob's external triggers."""
    spec = part(item, "spec")
    return ScaledSpec(None, _external_triggers(spec), jobs=job_rules(spec))


def trigger_metadata(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the metadata of every trigger of a ScaledObject or ScaledJob, of whatever type."""
    return [part(trigger, "metadata") for trigger in mappings(part(item, "spec").get("triggers"))]


def _external_triggers(spec: Mapping[str, Any]) -> tuple[DeclaredTrigger, ...]:
    return tuple(
        DeclaredTrigger(
            {str(key): str(value) for key, value in part(trigger, "metadata").items()},
            text(trigger.get("metricType")) or DEFAULT_METRIC_TYPE,
        )
        for trigger in mappings(spec.get("triggers"))
        if trigger.get("type") in TRIGGER_TYPES
    )


# ---- what decides the size ----


def formula(spec: Mapping[str, Any]) -> Formula | None:
    """Read a ScaledObject's scalingModifiers; None where there is no formula."""
    modifiers = part(part(spec, "advanced"), "scalingModifiers")
    found = text(modifiers.get("formula"), _MAX_FORMULA_LENGTH)
    if not found:
        return None
    return Formula(
        text=found,
        target=_number_text(modifiers.get("target")),
        activation_target=_number_text(modifiers.get("activationTarget")),
        metric_type=text(modifiers.get("metricType")) or DEFAULT_METRIC_TYPE,
    )


def tolerances(spec: Mapping[str, Any]) -> Tolerances:
    """Read the tolerances that a ScaledObject gives its HPA (behavior.scaleUp.tolerance, Kubernetes 1.33)."""
    behavior = part(part(part(spec, "advanced"), "horizontalPodAutoscalerConfig"), "behavior")
    found = []
    for direction in ("scaleUp", "scaleDown"):
        try:
            found.append(tolerance(part(behavior, direction)))
        except ValueError:
            found.append(DEFAULT_TOLERANCE)
    return Tolerances(*found)


def tolerance(rules: Mapping[str, Any]) -> float:
    """Read the tolerance of one direction, a Kubernetes quantity of 0 or more: "0.05", "50m" or 5e-2.

    Raises:
        ValueError: it is no such quantity.
    """
    given = rules.get("tolerance")
    if given is None:
        return DEFAULT_TOLERANCE
    found = quantity(given)
    if found is None:
        raise ValueError(f"tolerance: Invalid value: {quoted(str(given))}: must be a quantity of 0 or more")
    return found


def quantity(value: object) -> float | None:
    """Read a Kubernetes quantity of 0 or more ("80", "33333m", "2k"); None where the value is none."""
    matched = _QUANTITY.fullmatch(str(value))
    if matched is None:
        return None
    suffix = matched[2] or ""
    return float(matched[1] + suffix) if suffix.startswith("e") else float(matched[1]) * _SUFFIXES[suffix]


def job_rules(spec: Mapping[str, Any]) -> JobRules:
    """Read how KEDA scales the Jobs of a ScaledJob."""
    strategy = part(spec, "scalingStrategy")
    name = text(strategy.get("strategy"))
    ratio = _float(strategy.get("customScalingRunningJobPercentage"))
    if name == JobStrategy.CUSTOM and ratio is None:
        name = JobStrategy.DEFAULT  # as in KEDA
    most = spec.get("maxReplicaCount")
    triggers = spec.get("triggers")
    conditions = strategy.get("pendingPodConditions")
    return JobRules(
        min_jobs=count(spec.get("minReplicaCount")),
        max_jobs=count(most) if _is_integer(most) else None,
        strategy=JobStrategy(name) if name in tuple(JobStrategy) else JobStrategy.DEFAULT,
        queue_length_deduction=_integer(strategy.get("customScalingQueueLengthDeduction")),
        running_job_ratio=0.0 if ratio is None else ratio,
        pending_conditions=tuple(dict.fromkeys(map(text, conditions))) if isinstance(conditions, list) else (),
        pods_per_job=_pods_per_job(part(spec, "jobTargetRef")),
        calculation=text(strategy.get("multipleScalersCalculation")) or "max",
        triggers=len(triggers) if isinstance(triggers, list) else 0,
    )


def _pods_per_job(job: Mapping[str, Any]) -> int:
    """Return how many pods of a Job run at the same time: parallelism, and never more than completions."""
    parallelism, completions = _integer(job.get("parallelism")), _integer(job.get("completions"))
    at_once = 1 if parallelism is None else max(0, parallelism)
    return at_once if completions is None else min(at_once, max(0, completions))


def _number_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else text(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: object) -> float | None:
    """Return the number in a text; None where KEDA would not read one."""
    try:
        number = float(text(value))
    except ValueError:
        return None
    return number if not math.isnan(number) else math.inf
