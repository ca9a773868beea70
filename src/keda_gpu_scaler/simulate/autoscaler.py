# SPDX-License-Identifier: Apache-2.0
"""KEDA and the HPA in a simulation: polling, activation, cooldown, fallback, and the HPA's sync.

Law: ``core.hpa`` alone computes sizes. KEDA's own rules are those of its executor and its fallback.

Facts are from KEDA 2.20: pkg/scaling/executor/scale_scaledobjects.go (RequestScale: scaleFromZeroOrIdle,
scaleToZeroOrIdle, doFallbackScaling) and pkg/fallback/fallback.go. KEDA's metrics server gets the value of a trigger
from the scaler whenever the HPA asks, unless ``useCachedMetrics`` is set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.hpa.controller import ControllerState, Decision, largest, reconcile
from keda_gpu_scaler.core.hpa.replica_calculator import Recommendation, ValueType, desired_replicas, milli
from keda_gpu_scaler.simulate.scenario import FallbackSpec, FormulaResult, ScalingSpec, TriggerSpec


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of the workload: ``spec.replicas``, ``status.replicas``, and the ready pods in the HPA's arithmetic."""

    spec: int
    status: int
    ready: int


@dataclass(frozen=True, slots=True)
class TriggerAnswer:
    """What a scaler answers for one trigger: its evaluation and its target."""

    spec: TriggerSpec
    target: float
    evaluation: Evaluation


@dataclass(slots=True)
class Autoscaler:
    """KEDA's ScaledObject and its HPA, with their memory.

    ``formula`` computes the formula of scalingModifiers. ``last_active_at`` is when a trigger was last active, minus
    infinity before.
    """

    spec: ScalingSpec
    formula: FormulaResult | None = None
    last_active_at: float | None = None
    _controller: ControllerState = field(default_factory=ControllerState)
    _failures: dict[int, int] = field(default_factory=dict)

    # ---- KEDA ----

    def poll(self, answers: Sequence[TriggerAnswer], sizes: Sizes, now: float) -> int:
        """Do what KEDA does at each ``pollingInterval``, and for a push; return the new size."""
        is_error = any(answer.evaluation.value is None or _is_unknown(answer) for answer in answers)
        if self._is_active(answers):
            self.last_active_at = now
            return self._activated(sizes.spec)
        spec = self.spec
        if is_error:
            fallback = spec.fallback
            return sizes.spec if fallback is None or not fallback.replicas else _fallback_size(fallback, sizes.spec)
        inactive = spec.inactive_replicas
        if inactive is not None and sizes.spec > inactive:
            return inactive if self._is_cooled_down(now) else sizes.spec
        if sizes.spec < spec.min_replicas and spec.idle_replicas is None:
            return spec.min_replicas
        return sizes.spec

    def push(self, answers: Sequence[TriggerAnswer], sizes: Sizes, now: float) -> int:
        """Do what KEDA does with the states that the scaler pushes; return the new size. A push only activates."""
        pushed = [answer for answer in answers if answer.spec.is_push and answer.evaluation.known_activity]
        if not pushed or self.spec.formula is not None:
            return sizes.spec
        self.last_active_at = now
        return self._activated(sizes.spec)

    def _activated(self, size: int) -> int:
        spec = self.spec
        is_idle = spec.idle_replicas is not None and size < spec.min_replicas
        return spec.hpa_min if size == 0 or is_idle else size

    def _is_active(self, answers: Sequence[TriggerAnswer]) -> bool:
        formula = self.spec.formula
        if formula is not None:
            value = self._formula_value(answers)
            return value is not None and value > _number(formula.activation_target, 0.0)
        return any(answer.evaluation.active and not _is_unknown(answer) for answer in answers)

    def _is_cooled_down(self, now: float) -> bool:
        if self.last_active_at is None:
            return now >= self.spec.initial_cooldown_seconds
        return now - self.last_active_at >= self.spec.cooldown_seconds

    # ---- the HPA ----

    def sync(self, answers: Sequence[TriggerAnswer], sizes: Sizes, now: float) -> Decision:
        """Reconcile the HPA once."""
        recommendations = self._recommendations(answers, sizes)
        self._controller, decision = reconcile(
            self._controller,
            now,
            sizes.spec,
            largest(recommendations, sizes.spec),
            min_replicas=self.spec.hpa_min,
            max_replicas=self.spec.hpa_max,
            behavior=self.spec.behavior,
        )
        return decision

    def _recommendations(self, answers: Sequence[TriggerAnswer], sizes: Sizes) -> list[Recommendation | None]:
        if self.spec.formula is None:
            return [self._recommendation(number, answer, sizes) for number, answer in enumerate(answers)]
        formula = self.spec.formula
        value, target = self._formula_value(answers), _number(formula.target, 0.0)
        if value is None or target <= 0:
            return [None]
        return [_recommended(ValueType(formula.metric_type), max(0.0, value), target, sizes, self.spec)]

    def _recommendation(self, number: int, answer: TriggerAnswer, sizes: Sizes) -> Recommendation | None:
        value = None if _is_unknown(answer) else answer.evaluation.value
        if value is not None:
            self._failures[number] = 0
            return _recommended(ValueType(answer.spec.metric_type), value, answer.target, sizes, self.spec)
        self._failures[number] = self._failures.get(number, 0) + 1
        fallback = self.spec.fallback
        if fallback is None or self._failures[number] <= fallback.failures:
            return None
        replicas = _fallback_size(fallback, sizes.spec)
        return _recommended(ValueType.AVERAGE_VALUE, replicas * answer.target, answer.target, sizes, self.spec)

    def _formula_value(self, answers: Sequence[TriggerAnswer]) -> float | None:
        formula, compute = self.spec.formula, self.formula
        if formula is None or compute is None:
            return None
        values = _values_by_name(answers)
        return compute(formula.text, values) if len(values) == len(answers) else None


def _values_by_name(answers: Sequence[TriggerAnswer]) -> Mapping[str, float]:
    return {
        answer.spec.name: answer.evaluation.value for answer in answers if answer.evaluation.value is not None
    }  # fmt: skip


def _is_unknown(answer: TriggerAnswer) -> bool:
    """Whether IsActive is refused, so that KEDA discards the value too."""
    return answer.evaluation.is_activity_unknown


def _recommended(value_type: ValueType, value: float, target: float, sizes: Sizes, spec: ScalingSpec) -> Recommendation:
    return desired_replicas(
        value_type,
        milli(round(value, 3)),
        milli(round(target, 3)),
        replicas=sizes.status if value_type is ValueType.AVERAGE_VALUE else sizes.spec,
        ready_pods=sizes.ready,
        tolerances=spec.tolerances,
    )


def _fallback_size(fallback: FallbackSpec, current: int) -> int:
    match fallback.behavior:
        case "currentReplicas":
            return current
        case "currentReplicasIfHigher":
            return max(current, fallback.replicas)
        case "currentReplicasIfLower":
            return min(current, fallback.replicas)
    return fallback.replicas


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default
