# SPDX-License-Identifier: Apache-2.0
"""Forecasts what the HPA does with the result of a formula over the values of several triggers.

Law: a trigger that was not evaluated has no value, and then the formula has none. Nothing is assumed for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from keda_gpu_scaler.cli.explain.forecast import decision_of, workload_sizes
from keda_gpu_scaler.cli.explain.result import ExplainResult
from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject
from keda_gpu_scaler.cli.formula import FormulaError, formula_names, formula_result
from keda_gpu_scaler.cli.output import number
from keda_gpu_scaler.core.hpa.replica_calculator import Recommendation, ValueType, desired_replicas, milli
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.scaling_rules import Formula
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb


@dataclass(frozen=True, slots=True)
class FormulaOutcome:
    """The result of a formula, None where it is not known, and a sentence in both cases."""

    value: float | None
    sentence: str


def with_formula(results: Sequence[ExplainResult], replicas: int | None) -> list[ExplainResult]:
    """Return the explanations with the HPA's decision on the result of the formula, where there is one.

    Args:
        results: the explanation of every trigger of one ScaledObject that was evaluated.
        replicas: the workload's size, where the scaler does not know it.
    """
    if not results or results[0].scaled_object.formula is None:
        return list(results)
    scaled_object, formula = results[0].scaled_object, results[0].scaled_object.formula
    outcome = _outcome(formula, results)
    return [_with_outcome(result, outcome, formula, scaled_object, replicas) for result in results]


def _outcome(formula: Formula, results: Sequence[ExplainResult]) -> FormulaOutcome:
    values = {
        result.trigger.name: result.evaluation.value
        for result in results
        if result.evaluation is not None and result.evaluation.HasField("value") and result.trigger.name
    }
    try:
        if missing := sorted(formula_names(formula.text) - values.keys()):
            names = ", ".join(quoted(name, 100) for name in missing[:3])
            return FormulaOutcome(None, f"the formula is not computed: no value of {names} is known here")
        value = formula_result(formula.text, values)
    except FormulaError as error:
        return FormulaOutcome(None, f"the formula is not computed: {error}")
    if value is None:
        return FormulaOutcome(None, "the result of the formula is nil, and KEDA uses its fallback")
    return FormulaOutcome(value, f"the result of the formula is {number(value)}")


def _with_outcome(
    result: ExplainResult,
    outcome: FormulaOutcome,
    formula: Formula,
    scaled_object: ScaledObject,
    replicas: int | None,
) -> ExplainResult:
    forecast = result.forecast
    if forecast is None or result.evaluation is None or scaled_object.paused:
        return result
    keda = (*forecast.keda, outcome.sentence, *_activation(outcome, formula))
    forecast = replace(forecast, keda=keda, formula_value=outcome.value)
    sizes = workload_sizes(result.evaluation, replicas)
    recommendation = _recommendation(outcome, formula, sizes, scaled_object)
    if sizes is not None and recommendation is not None:
        decision = decision_of(recommendation, sizes.wanted, scaled_object)
        forecast = replace(forecast, recommendation=recommendation, decision=decision, value_type=formula.metric_type)
    return replace(result, forecast=forecast)


def _activation(outcome: FormulaOutcome, formula: Formula) -> tuple[str, ...]:
    threshold = _positive(formula.activation_target) or 0.0
    if outcome.value is None:
        return ()
    state = "active" if outcome.value > threshold else "inactive"
    return (f"the workload is {state} by the formula: the result against activationTarget {number(threshold)}",)


def _recommendation(
    outcome: FormulaOutcome, formula: Formula, sizes: evaluation_pb.Workload | None, scaled_object: ScaledObject
) -> Recommendation | None:
    target = _positive(formula.target)
    if outcome.value is None or sizes is None or target is None or formula.metric_type not in tuple(ValueType):
        return None
    value_type = ValueType(formula.metric_type)
    return desired_replicas(
        value_type,
        milli(max(0.0, outcome.value)),
        milli(target),
        replicas=sizes.actual if value_type is ValueType.AVERAGE_VALUE else sizes.wanted,
        ready_pods=sizes.ready,
        tolerances=scaled_object.tolerances,
    )


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value > 0 else None
