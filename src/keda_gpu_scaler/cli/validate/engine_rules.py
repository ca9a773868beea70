# SPDX-License-Identifier: Apache-2.0
"""Checks workloads that serve an LLM: the metric, the HPA's behavior, and the readiness probe."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject, scaled_object_of
from keda_gpu_scaler.cli.validate.documents import YamlPath
from keda_gpu_scaler.cli.validate.engine_images import ManifestWorkload
from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.parsed_metadata import parsed_metadata
from keda_gpu_scaler.cli.validate.problem import Problem
from keda_gpu_scaler.core.hpa.controller import (
    DOWN_STABILISATION_SECONDS,
    SYNC_PERIOD_SECONDS,
    ControllerState,
    PastRecommendation,
    reconcile,
)
from keda_gpu_scaler.core.hpa.replica_calculator import Recommendation
from keda_gpu_scaler.core.trigger.parser import Trigger

LOAD, SATURATION = "load", "saturation"
MIN_STABILISATION_SECONDS = 120
"""Below this, the HPA follows each short pause of the load and removes replicas that take minutes to start again."""
DOUBLING_SECONDS = 300
"""A growing queue cannot be served earlier than new replicas are ready, and the HPA should not add to that time."""
POD_KINDS = ("Deployment", "StatefulSet", "LeaderWorkerSet", "ReplicaSet", "Rollout")
"""The kinds whose pods have the probes of their template. Operators of other kinds may add probes of their own."""

_BEHAVIOR: YamlPath = ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior")


def check_engine_triggers(
    value: Mapping[str, Any], triggers: Mapping[int, Mapping[Any, Any]], target: ManifestWorkload | None
) -> Iterator[Problem]:
    """Yield the problems of an LLM workload.

    Args:
        value: the ScaledObject or ScaledJob.
        triggers: the metadata of this scaler's triggers by their index.
        target: the scale target, if it runs an LLM engine and its manifest is known.
    """
    parsed = {number: trigger for number, one in triggers.items() if (trigger := parsed_metadata(one)) is not None}
    for number, trigger in parsed.items():
        if trigger.metric.name == SATURATION:
            yield _prefer_load(number)
    if any(trigger.metric.name == LOAD for trigger in parsed.values()):
        scaled = scaled_object_of(value)
        yield from _check_scale_down(scaled)
        yield from _check_scale_up(scaled)
    if target is not None and target.kind in POD_KINDS and not target.is_probed:
        yield from _check_probe(target, parsed)


def _prefer_load(number: int) -> Problem:
    return Problem(
        Severity.WARNING, ("spec", "triggers", number, "metadata", "metricType"),
        'metadata.metricType: Invalid value: "saturation": it is not proportional to the traffic, so the HPA goes '
        "between too few replicas and the maximum; set metricType: load, or profile: llm without metricType",
    )  # fmt: skip


def _check_scale_down(scaled: ScaledObject) -> Iterator[Problem]:
    seconds = scaled.down_window_seconds
    if seconds < MIN_STABILISATION_SECONDS:
        yield Problem(
            Severity.WARNING, (*_BEHAVIOR, "scaleDown", "stabilizationWindowSeconds"),
            f"spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilizationWindowSeconds: Invalid "
            f"value: {seconds:g}: the HPA removes replicas in each short pause of the load, and they take minutes to "
            f"start again; set {DOWN_STABILISATION_SECONDS:g}, the HPA's default, or remove the key",
        )  # fmt: skip


def _check_scale_up(scaled: ScaledObject) -> Iterator[Problem]:
    half = max(scaled.hpa_min, math.ceil(scaled.max_replicas / 2))
    if scaled.behavior is None or half >= scaled.max_replicas:
        return
    reached = _size_after(DOUBLING_SECONDS, half, scaled)
    if reached < scaled.max_replicas:
        yield Problem(
            Severity.WARNING, (*_BEHAVIOR, "scaleUp"),
            f"spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleUp: Too slow: {half} replicas become {reached} "
            f"of {scaled.max_replicas} within {DOUBLING_SECONDS} s, and requests wait longer than the new replicas "
            "need to start; remove scaleUp (by default the size may double every 15 s), or allow the size to double "
            f"within {DOUBLING_SECONDS} s",
        )  # fmt: skip


def _size_after(seconds: float, replicas: int, scaled: ScaledObject) -> int:
    """Return the size that the HPA may reach while the maximum is recommended all the time."""
    state = ControllerState((PastRecommendation(0, replicas),), started=True)
    recommendation = Recommendation(scaled.max_replicas, scaled.max_replicas / replicas, False, "")
    for step in range(int(seconds / SYNC_PERIOD_SECONDS) + 1):
        state, decision = reconcile(
            state,
            step * SYNC_PERIOD_SECONDS,
            replicas,
            recommendation,
            min_replicas=scaled.hpa_min,
            max_replicas=scaled.max_replicas,
            behavior=scaled.behavior,
        )
        replicas = decision.replicas
    return replicas


def _check_probe(target: ManifestWorkload, parsed: Mapping[int, Trigger]) -> Iterator[Problem]:
    remedy = "add a readinessProbe that succeeds when the model answers (GET /health for most engines)"
    yield Problem(
        Severity.WARNING, ("spec", "scaleTargetRef"),
        f'spec.scaleTargetRef: Invalid value: "{target.name}": its container with {target.engine} has no '
        f"readinessProbe, so a pod counts as ready while it loads its model; {remedy}",
    )  # fmt: skip
    for number, trigger in parsed.items():
        if trigger.engine is not None and trigger.engine.is_forecast:
            yield Problem(
                Severity.WARNING, ("spec", "triggers", number, "metadata", "forecast"),
                'metadata.forecast: Invalid value: "trend": the cold start is measured until a pod is ready, and '
                f"without a readinessProbe that is too early, so the forecast looks ahead too little; {remedy}",
            )  # fmt: skip
