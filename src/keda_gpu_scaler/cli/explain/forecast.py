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
from keda_gpu_scaler.wire import verdict_pb2 as verdict_pb


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
    verdict: verdict_pb.Verdict, definition: ScaledObject, declared: ScaledObjectTrigger, replicas: int | None = None
) -> Forecast:
    """Work out what comes of a verdict.

    Args:
        verdict: what the scaler told.
        definition: the ScaledObject.
        declared: the trigger of it.
        replicas: the workload's size where the scaler does not know it.
    """
    value_type = verdict.value_type or declared.value_type
    sizes = _sizes(verdict, replicas)
    recommendation, decision = None, None
    if definition.kind == "ScaledObject" and sizes is not None and value_type in tuple(ValueType):
        recommendation = _recommended(verdict, ValueType(value_type), sizes, definition)
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
    keda = (*_of_keda(verdict, definition, sizes), *definition.remarks)
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


def _sizes(verdict: verdict_pb.Verdict, replicas: int | None) -> verdict_pb.Workload | None:
    if verdict.HasField("workload"):
        return verdict.workload
    if replicas is None:
        return None
    return verdict_pb.Workload(wanted=replicas, actual=replicas, ready=replicas)


def _recommended(
    verdict: verdict_pb.Verdict, value_type: ValueType, sizes: verdict_pb.Workload, definition: ScaledObject
) -> Recommendation | None:
    if not verdict.HasField("value") or verdict.undecided:
        return None
    is_average = value_type is ValueType.AVERAGE_VALUE
    return desired_replicas(
        value_type,
        milli(verdict.value),
        milli(verdict.target),
        replicas=sizes.actual if is_average else sizes.wanted,
        ready_pods=sizes.ready,
        tolerances=definition.tolerances,
    )


def _of_keda(verdict: verdict_pb.Verdict, definition: ScaledObject, sizes: verdict_pb.Workload | None) -> Iterator[str]:
    if definition.paused:
        yield f"KEDA does nothing: it is paused by the annotation {definition.paused}"
    if not verdict.HasField("value"):
        yield _of_an_error(definition)
    elif verdict.undecided:
        yield "IsActive is an error too, and KEDA throws the value away: it stays as it is"
    elif definition.kind == "ScaledJob":
        jobs = min(math.ceil(verdict.value / verdict.target), definition.max_replicas)
        yield (
            f"KEDA keeps {jobs} jobs running: ceil({verdict.value:g} / {verdict.target:g}), at most "
            f"{definition.max_replicas} (maxReplicaCount)"
        )
    else:
        yield from _of_activity(verdict, definition, sizes)
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
    verdict: verdict_pb.Verdict, definition: ScaledObject, sizes: verdict_pb.Workload | None
) -> Iterator[str]:
    asleep = definition.asleep_replicas
    is_asleep = sizes is not None and sizes.wanted == 0
    if verdict.active and is_asleep:
        yield f"KEDA wakes it: {definition.hpa_min} at once, from there on the HPA decides"
    elif is_asleep:
        yield "it stays asleep until a trigger is active"
    elif not verdict.active and asleep is not None:
        other = " and no other trigger is active" if definition.others else ""
        yield (
            f"KEDA scales it to {asleep} when it was inactive for {definition.cooldown_seconds:g} s (cooldownPeriod)"
            + other
        )
    elif not verdict.active:
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
