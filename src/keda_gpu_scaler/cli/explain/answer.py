# SPDX-License-Identifier: Apache-2.0
"""The first line of a page of ``explain``: the measured value, the target, and the size that follows.

Law: a number that is not known is "?". The measured value is that of the replicas, and not the number for the HPA.
"""

from dataclasses import dataclass

from keda_gpu_scaler.cli.explain.failures import failure_of
from keda_gpu_scaler.cli.explain.forecast import Forecast
from keda_gpu_scaler.cli.explain.result import ExplainResult
from keda_gpu_scaler.cli.measured import measured_text
from keda_gpu_scaler.cli.output import UNKNOWN, number, three_digits
from keda_gpu_scaler.core.hpa.controller import Limit
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

SIZE_UNKNOWN = "size unknown"
WINDOW = "window"


@dataclass(frozen=True, slots=True)
class SizeChange:
    """The present size, the size that follows, and what limits it; sizes are None where they are not known."""

    now: int | None
    then: int | None
    limit: str

    def __str__(self) -> str:
        then = UNKNOWN if self.then is None else f"{self.then}"
        noun = "replica" if self.then == 1 else "replicas"
        now = "" if self.now is None else f"{self.now} → "
        return f"{now}{then} {noun} (limit: {self.limit})"


def answer_line(shown: ExplainResult) -> str:
    """Return the answer in one line."""
    name, evaluation = title(shown), shown.evaluation
    if evaluation is None:
        sentence = failure_of(shown.error, shown.instance).sentence if shown.error else "no evaluation"
        return f"{name}: {sentence}"
    scaled_object, forecast = shown.scaled_object, shown.forecast
    if scaled_object.formula is not None:
        result = three_digits(forecast.formula_value if forecast else None)
        target = three_digits(_positive(scaled_object.formula.target))
        return f"{name}: the formula is {result} against {target} → {_size(shown)}"
    if scaled_object.kind == "ScaledJob":
        jobs = forecast.keda[0].partition(": ")[0] if forecast and forecast.keda else UNKNOWN
        return f"{name}: {measured_text(evaluation, 'per Job')} against {three_digits(evaluation.target)} → {jobs}"
    return f"{name}: {measured_text(evaluation)} against {three_digits(evaluation.target)} → {_size(shown)}"


def title(shown: ExplainResult) -> str:
    """Return the name of the ScaledObject, and the number of the trigger where there are several."""
    scaled_object = shown.scaled_object
    name = "/".join(filter(None, (scaled_object.namespace, scaled_object.name)))
    name = name if scaled_object.name else "no ScaledObject"
    return f"{name} (trigger {shown.trigger.number} of {shown.total_triggers})" if shown.total_triggers > 1 else name


def size_change(shown: ExplainResult) -> SizeChange:
    """Return the size that follows from an evaluation, and what limits it."""
    forecast, evaluation, scaled_object = shown.forecast, shown.evaluation, shown.scaled_object
    if forecast is None or evaluation is None:
        return SizeChange(None, None, "no evaluation")
    if scaled_object.paused:
        return SizeChange(None, None, "KEDA is paused")
    if forecast.decision is None:
        return SizeChange(None, None, SIZE_UNKNOWN)
    now = forecast.current
    if evaluation.activity_unknown:
        return SizeChange(now, now, "activity unknown")
    if now == 0:
        return _from_zero(shown, evaluation)
    inactive = scaled_object.inactive_replicas
    is_inactive = evaluation.HasField("value") and not evaluation.active and scaled_object.formula is None
    if is_inactive and inactive is not None and not scaled_object.is_scale_in_paused and not scaled_object.others:
        return SizeChange(now, inactive, f"cooldown {number(scaled_object.cooldown_seconds)} s")
    return _decided(forecast, now, scaled_object.down_window_seconds)


def _from_zero(shown: ExplainResult, evaluation: evaluation_pb.Evaluation) -> SizeChange:
    if not evaluation.active:
        return SizeChange(0, 0, "inactive")
    if shown.scaled_object.is_scale_out_paused:
        return SizeChange(0, 0, "paused-scale-out")
    return SizeChange(0, shown.scaled_object.hpa_min, "none")


def _decided(forecast: Forecast, now: int, window_seconds: float) -> SizeChange:
    decision = forecast.decision
    if decision is None:
        return SizeChange(now, None, SIZE_UNKNOWN)
    waits = decision.recommended is not None and decision.replicas < now and window_seconds > 0
    if waits and decision.limit is Limit.NONE:
        return SizeChange(now, decision.replicas, f"{WINDOW} {number(window_seconds)} s")
    return SizeChange(now, decision.replicas, decision.limit.value)


def _size(shown: ExplainResult) -> str:
    return str(size_change(shown))


def _positive(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
