# SPDX-License-Identifier: Apache-2.0
"""What will KEDA and the HPA do with a verdict, and which limit bites?

The law of this module: the HPA decides by ``core.hpa`` alone. What it remembers cannot be asked for: it is taken to
remember nothing larger, and what that leaves open is said.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject, ScaledObjectTrigger
from keda_gpu_scaler.core.hpa.controller import (
    DOWN_STABILISATION_SECONDS,
    SYNC_PERIOD_SECONDS,
    ControllerState,
    Decision,
    Limit,
    ScalingRules,
    SelectPolicy,
    reconcile,
)
from keda_gpu_scaler.core.hpa.replica_calculator import Recommendation, ValueType, desired_replicas, milli
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb


@dataclass(frozen=True, slots=True)
class Forecast:
    """What comes of a verdict.

    ``recommendation`` and ``decision`` are the HPA's, None where it has no say: a ScaledJob, or a size that nobody
    knows. ``current`` is the size now, 0 where it is not known. ``keda`` are sentences on what KEDA does itself, and
    ``limits`` on what bounds the HPA.
    """

    value_type: str
    recommendation: Recommendation | None
    decision: Decision | None
    current: int
    keda: tuple[str, ...]
    limits: tuple[str, ...]


def forecast_of(
    evaluation: evaluation_pb.Evaluation,
    definition: ScaledObject,
    declared: ScaledObjectTrigger,
    replicas: int | None = None,
) -> Forecast:
    """Work out what comes of a verdict.

    Args:
        evaluation: what the scaler told.
        definition: the ScaledObject.
        declared: the trigger of it.
        replicas: the workload's size where the scaler does not know it.
    """
    value_type = evaluation.value_type or declared.value_type
    sizes = _sizes(evaluation, replicas)
    recommendation, decision = None, None
    if definition.kind == "ScaledObject" and sizes is not None and value_type in tuple(ValueType):
        recommendation = _recommended(evaluation, ValueType(value_type), sizes, definition)
        # KEDA may leave more than maxReplicaCount below the minimum; no API server takes such an HPA.
        _, decision = reconcile(
            ControllerState(started=True),
            0.0,
            sizes.wanted,
            recommendation,
            min_replicas=definition.hpa_min,
            max_replicas=max(definition.max_replicas, definition.hpa_min),
            behavior=definition.behavior,
        )
    keda = (*_of_keda(evaluation, definition, sizes), *definition.remarks)
    limits = () if definition.kind == "ScaledJob" else tuple(_limits(definition))
    return Forecast(value_type, recommendation, decision, sizes.wanted if sizes else 0, keda, limits)


def decided(decision: Decision, current: int, definition: ScaledObject) -> str:
    """Say what the HPA decides at this size, and what it must still wait for."""
    sentence = decision.sentence
    if decision.recommended is not None and decision.replicas < current:
        behavior = definition.behavior
        wait = behavior.down.stabilisation_seconds if behavior else DOWN_STABILISATION_SECONDS
        if wait:
            sentence += f", once all recommendations of {wait:g} s are this low"
    return sentence if decision.limit is Limit.NONE else f"{sentence} [{decision.limit}]"


def _sizes(evaluation: evaluation_pb.Evaluation, replicas: int | None) -> evaluation_pb.Workload | None:
    if evaluation.HasField("workload"):
        return evaluation.workload
    if replicas is None:
        return None
    return evaluation_pb.Workload(wanted=replicas, actual=replicas, ready=replicas)


def _recommended(
    evaluation: evaluation_pb.Evaluation, value_type: ValueType, sizes: evaluation_pb.Workload, definition: ScaledObject
) -> Recommendation | None:
    if not evaluation.HasField("value") or evaluation.activity_unknown:
        return None
    is_average = value_type is ValueType.AVERAGE_VALUE
    return desired_replicas(
        value_type,
        milli(evaluation.value),
        milli(evaluation.target),
        replicas=sizes.actual if is_average else sizes.wanted,
        ready_pods=sizes.ready,
        tolerances=definition.tolerances,
    )


def _of_keda(
    evaluation: evaluation_pb.Evaluation, definition: ScaledObject, sizes: evaluation_pb.Workload | None
) -> Iterator[str]:
    if definition.paused:
        yield f"KEDA does nothing: it is paused by the annotation {definition.paused}"
    if not evaluation.HasField("value"):
        yield _of_an_error(definition)
    elif evaluation.activity_unknown:
        yield "IsActive is an error too, and KEDA throws the value away: it stays as it is"
    elif definition.kind == "ScaledJob":
        jobs = min(math.ceil(evaluation.value / evaluation.target), definition.max_replicas)
        yield (
            f"KEDA keeps {jobs} jobs running: ceil({evaluation.value:g} / {evaluation.target:g}), at most "
            f"{definition.max_replicas} (maxReplicaCount)"
        )
    else:
        yield from _of_activity(evaluation, definition, sizes)
    if definition.others:
        kinds = ", ".join(definition.others)
        yield f"triggers of other scalers ({kinds}) are not asked here: of several the largest recommendation wins"
    if definition.has_formula:
        yield "scalingModifiers: the HPA is told what the formula makes of it, which is not worked out here"


def _of_an_error(definition: ScaledObject) -> str:
    if definition.fallback is None:
        return "KEDA gets an error: the HPA leaves the size alone (no fallback is set)"
    failures, replicas = definition.fallback
    return f"KEDA gets an error: after {failures} of them its fallback sets {replicas} replicas"


def _of_activity(
    evaluation: evaluation_pb.Evaluation, definition: ScaledObject, sizes: evaluation_pb.Workload | None
) -> Iterator[str]:
    asleep = definition.asleep_replicas
    is_scaled_to_zero = sizes is not None and sizes.wanted == 0
    if evaluation.active and is_scaled_to_zero:
        yield f"KEDA wakes it: {definition.hpa_min} at once, from there on the HPA decides"
    elif is_scaled_to_zero:
        yield "it stays asleep until a trigger is active"
    elif not evaluation.active and asleep is not None:
        other = " and no other trigger is active" if definition.others else ""
        yield (
            f"KEDA scales it to {asleep} when it was inactive for {definition.cooldown_seconds:g} s (cooldownPeriod)"
            + other
        )
    elif not evaluation.active:
        yield f"inactive, which changes nothing: minReplicaCount is {definition.min_replicas}"


def _limits(definition: ScaledObject) -> Iterator[str]:
    size = f"{definition.hpa_min} to {definition.max_replicas} replicas"
    assumed = " (KEDA's defaults: the ScaledObject was not read)" if definition.is_assumed else ""
    near = definition.tolerances
    yield f"{size}{assumed}; no change within {1 - near.down:g} to {1 + near.up:g} of the target"
    behavior = definition.behavior
    if behavior is None:
        yield f"up: to twice the size or to 4 at most, every {SYNC_PERIOD_SECONDS:g} s"
        yield f"down: at any rate, to the largest size recommended within {DOWN_STABILISATION_SECONDS:g} s"
    else:
        yield f"up: {_ruled(behavior.up)}"
        yield f"down: {_ruled(behavior.down)}"


def _ruled(rules: ScalingRules) -> str:
    if rules.select is SelectPolicy.DISABLED:
        return "never (selectPolicy: Disabled)"
    policies = [
        f"{policy.value}{' %' if policy.type == 'Percent' else ' pods'} in {policy.period_seconds} s"
        for policy in rules.policies
    ]
    which = "" if len(policies) == 1 else ", the smaller" if rules.select is SelectPolicy.MIN else ", the larger"
    wait = f", stabilised over {rules.stabilisation_seconds:g} s" if rules.stabilisation_seconds else ""
    return f"at most {' or '.join(policies)}{which}{wait}"
