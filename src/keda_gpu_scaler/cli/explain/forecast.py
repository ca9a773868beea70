# SPDX-License-Identifier: Apache-2.0
"""Forecasts what KEDA and the HPA do with an evaluation, and which limit applies.

Law: ``core.hpa`` alone decides. The HPA's memory cannot be read, so the forecast assumes that it holds no larger
recommendation. A decision to scale down says how long it must wait.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject, ScaledObjectTrigger
from keda_gpu_scaler.cli.output import UNKNOWN, number
from keda_gpu_scaler.core.hpa.controller import (
    DOWN_STABILISATION_SECONDS,
    SYNC_PERIOD_SECONDS,
    ControllerState,
    Decision,
    PolicyType,
    ScalingRules,
    SelectPolicy,
    reconcile,
)
from keda_gpu_scaler.core.hpa.replica_calculator import Recommendation, ValueType, desired_replicas, milli
from keda_gpu_scaler.core.hpa.scaled_job import JobCounts, new_jobs
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.scaling_rules import Formula, JobRules
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb


@dataclass(frozen=True, slots=True)
class Forecast:
    """The result of an evaluation for the workload.

    ``recommendation`` and ``decision`` are the HPA's; None where the HPA does not decide (a ScaledJob), where it
    compares the result of a formula, while KEDA is paused, or where the size is not known. ``current`` is the current
    size, 0 where it is not known. ``keda`` holds sentences on what KEDA itself does, ``limits`` sentences on the limits
    of the HPA. ``formula_value`` is the result of the formula of scalingModifiers, None where it is not known.
    """

    value_type: str
    recommendation: Recommendation | None
    decision: Decision | None
    current: int
    keda: tuple[str, ...]
    limits: tuple[str, ...]
    formula_value: float | None = None


def forecast_of(
    evaluation: evaluation_pb.Evaluation,
    scaled_object: ScaledObject,
    trigger: ScaledObjectTrigger,
    replicas: int | None = None,
) -> Forecast:
    """Forecast the result of an evaluation.

    Args:
        evaluation: the scaler's.
        scaled_object: the ScaledObject.
        trigger: the trigger of it that was evaluated.
        replicas: the workload's size, where the scaler does not know it.
    """
    value_type = evaluation.value_type or trigger.value_type
    sizes = workload_sizes(evaluation, replicas)
    recommendation, decision = None, None
    is_compared = scaled_object.kind == "ScaledObject" and scaled_object.formula is None and not scaled_object.paused
    if is_compared and sizes is not None and value_type in tuple(ValueType):
        recommendation = _recommended(evaluation, ValueType(value_type), sizes, scaled_object)
        decision = decision_of(recommendation, sizes.wanted, scaled_object)
    keda = (*_keda_sentences(evaluation, scaled_object, sizes), *scaled_object.remarks)
    limits = () if scaled_object.kind == "ScaledJob" else tuple(_limit_sentences(scaled_object))
    return Forecast(value_type, recommendation, decision, sizes.wanted if sizes else 0, keda, limits)


def decision_of(recommendation: Recommendation | None, current: int, scaled_object: ScaledObject) -> Decision:
    """Return what the HPA decides on a recommendation, with the limits and the behaviour of the ScaledObject."""
    # KEDA accepts a maxReplicaCount below minReplicaCount; the API server refuses such an HPA.
    _, decision = reconcile(
        ControllerState(started=True),
        0.0,
        current,
        recommendation,
        min_replicas=scaled_object.hpa_min,
        max_replicas=max(scaled_object.max_replicas, scaled_object.hpa_min),
        behavior=scaled_object.behavior,
    )
    return decision


def workload_sizes(evaluation: evaluation_pb.Evaluation, replicas: int | None) -> evaluation_pb.Workload | None:
    """Return the workload's sizes: the scaler's, or those that the caller gives; None where neither knows them."""
    if evaluation.HasField("workload"):
        return evaluation.workload
    if replicas is None:
        return None
    return evaluation_pb.Workload(wanted=replicas, actual=replicas, ready=replicas)


def _recommended(
    evaluation: evaluation_pb.Evaluation,
    value_type: ValueType,
    sizes: evaluation_pb.Workload,
    scaled_object: ScaledObject,
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
        tolerances=scaled_object.tolerances,
    )


def _keda_sentences(
    evaluation: evaluation_pb.Evaluation, scaled_object: ScaledObject, sizes: evaluation_pb.Workload | None
) -> Iterator[str]:
    if scaled_object.paused:
        yield _pause_sentence(scaled_object)
        return
    if not evaluation.HasField("value"):
        yield _error_sentence(scaled_object)
    elif evaluation.activity_unknown:
        yield (
            "KEDA discards the value, because IsActive returns an error: it neither activates the workload nor scales "
            "it to zero, and the size stays unchanged"
        )
    elif scaled_object.kind == "ScaledJob":
        yield _jobs_sentence(evaluation, scaled_object.jobs or JobRules(), sizes)
    elif scaled_object.formula is None:
        yield from _activity_sentences(evaluation, scaled_object, sizes)
    if scaled_object.others:
        types = ", ".join(scaled_object.others)
        largest = "the HPA uses the largest recommendation of all triggers"
        rule = largest if scaled_object.formula is None else "the formula takes them"
        yield f"the triggers of other scalers ({types}) are not evaluated here; {rule}"
    if scaled_object.formula is not None:
        yield from _formula_sentences(evaluation, scaled_object.formula)


def _formula_sentences(evaluation: evaluation_pb.Evaluation, formula: Formula) -> Iterator[str]:
    target = f"{formula.target or UNKNOWN} ({formula.metric_type})"
    yield (
        f"scalingModifiers: the HPA compares the result of the formula {quoted(formula.text, 200)} with its target "
        f"{target}"
    )
    if evaluation.HasField("value"):
        yield f"this trigger gives the formula {number(evaluation.value)}; its own target and metricType have no effect"
    yield (
        f"KEDA activates the workload while the result is above {formula.activation_target or 0} (activationTarget), "
        "whatever the activity of the trigger"
    )


def _pause_sentence(scaled_object: ScaledObject) -> str:
    name, _, value = scaled_object.paused.partition(": ")
    because = f"because of the annotation {scaled_object.paused}"
    if scaled_object.kind == "ScaledJob":
        return f"KEDA is paused {because}: it starts no job"
    size = f"it sets the size to {value}" if name.endswith("paused-replicas") else "the size stays"
    return f"KEDA is paused {because}: {size}, and there is no HPA"


def _jobs_sentence(evaluation: evaluation_pb.Evaluation, rules: JobRules, sizes: evaluation_pb.Workload | None) -> str:
    quotient = f"ceil({number(evaluation.value)} / {number(evaluation.target)})"
    limits = f"minReplicaCount {rules.least}, maxReplicaCount {rules.most}"
    if sizes is None:
        return f"KEDA starts jobs for {quotient}, with the strategy {rules.strategy}, {limits}"
    counts = JobCounts(sizes.wanted, sizes.pending)
    started = new_jobs(rules, counts, milli(evaluation.value), milli(evaluation.target))
    if not evaluation.active and not rules.least:
        return f"KEDA starts no job, because the trigger is inactive: {counts.running} are running"
    return (
        f"KEDA starts {started} jobs in addition to {counts.running}, of which {counts.pending} are pending: "
        f"{quotient} with the strategy {rules.strategy}, {limits}"
    )


def _error_sentence(scaled_object: ScaledObject) -> str:
    if scaled_object.fallback is None:
        return "KEDA gets an error, and no fallback is set: the HPA does not change the size"
    fallback = scaled_object.fallback
    return f"KEDA gets an error: after more than {fallback.failures} errors in a row its fallback {fallback.describe()}"


def _activity_sentences(
    evaluation: evaluation_pb.Evaluation, scaled_object: ScaledObject, sizes: evaluation_pb.Workload | None
) -> Iterator[str]:
    inactive = scaled_object.inactive_replicas
    is_scaled_to_zero = sizes is not None and sizes.wanted == 0
    if evaluation.active and is_scaled_to_zero and scaled_object.is_scale_out_paused:
        yield "the workload stays at 0 replicas although a trigger is active: paused-scale-out pauses the activation"
    elif evaluation.active and is_scaled_to_zero:
        yield f"KEDA activates the workload: it sets the size to {scaled_object.hpa_min}, and then the HPA decides"
    elif is_scaled_to_zero:
        yield "the workload stays at 0 replicas until a trigger is active"
    elif not evaluation.active and inactive is not None and scaled_object.is_scale_in_paused:
        yield f"KEDA does not set the size to {inactive}, although the trigger is inactive: paused-scale-in pauses it"
    elif not evaluation.active and inactive is not None:
        condition = "no trigger has been active" if scaled_object.others else "the trigger has not been active"
        yield (
            f"KEDA sets the size to {inactive} when {condition} for {number(scaled_object.cooldown_seconds)} s "
            "(cooldownPeriod)"
        )
    elif not evaluation.active:
        yield f"the trigger is inactive, and the HPA still decides: minReplicaCount is {scaled_object.min_replicas}"


def _limit_sentences(scaled_object: ScaledObject) -> Iterator[str]:
    size = f"{scaled_object.hpa_min} to {scaled_object.max_replicas} replicas"
    assumed = " (KEDA's defaults, because the ScaledObject was not read)" if scaled_object.is_assumed else ""
    tolerances = scaled_object.tolerances
    near = f"{number(1 - tolerances.down)} to {number(1 + tolerances.up)}"
    yield f"{size}{assumed}; no change at {near} times the target"
    behavior = scaled_object.behavior
    if behavior is None:
        yield f"scale up: to at most twice the size, or to 4 replicas, every {number(SYNC_PERIOD_SECONDS)} s"
        window = number(DOWN_STABILISATION_SECONDS)
        yield f"scale down: at any rate, to the largest recommendation of the last {window} s"
    else:
        yield f"scale up: {_rules_text(behavior.up)}"
        yield f"scale down: {_rules_text(behavior.down)}"


def _rules_text(rules: ScalingRules) -> str:
    if rules.select is SelectPolicy.DISABLED:
        return "never (selectPolicy: Disabled)"
    policies = [
        f"{policy.value}{' %' if policy.type is PolicyType.PERCENT else ' pods'} in {policy.period_seconds} s"
        for policy in rules.policies
    ]
    choice = "" if len(policies) == 1 else f", whichever is {'less' if rules.select is SelectPolicy.MIN else 'more'}"
    seconds = rules.stabilisation_seconds
    window = f", with a stabilization window of {number(seconds)} s" if seconds else ""
    return f"at most {' or '.join(policies)}{choice}{window}"
