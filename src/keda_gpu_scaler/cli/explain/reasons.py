# SPDX-License-Identifier: Apache-2.0
"""The reasons on a page of ``explain``, what is wrong first, and the next commands.

Law: the cause of a problem stands in the first reason. A reason repeats what the scaler, KEDA or the HPA said, and
concludes nothing of its own.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from keda_gpu_scaler.cli.explain.answer import WINDOW, size_change
from keda_gpu_scaler.cli.explain.causes import Cause, NextStep, next_step
from keda_gpu_scaler.cli.explain.failures import failure_of
from keda_gpu_scaler.cli.explain.result import ExplainResult
from keda_gpu_scaler.cli.explain.scaledobject import STDIN, ScaledObject
from keda_gpu_scaler.cli.output import number, three_digits
from keda_gpu_scaler.cli.probe.simulation import decision_sentence
from keda_gpu_scaler.core.hpa.controller import Limit
from keda_gpu_scaler.core.trigger.near_keys import FROM_ENVIRONMENT
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

_MAX_STEPS = 3
_ACTIVITIES = ("active: ", "inactive: ")
_OF_OBSERVATION = {
    "pending": Cause.PENDING,
    "not_scheduled": Cause.NOT_SCHEDULED,
    "node": Cause.AGENT,
    "holders": Cause.HOLDERS,
    "reading": Cause.READING,
    "engine": Cause.ENGINE,
}
_NO_DEVICE = "no_device"
_BAD_CONDITIONS = ("AbleToScale False", "ScalingActive False")


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence, and its style in rich's words: "red" where something is wrong, "yellow" for a warning."""

    text: str
    style: str = ""


def reasons(shown: ExplainResult) -> list[Reason]:
    """Return the reasons, the most important first."""
    if shown.evaluation is None:
        return []
    return [*_problems(shown, shown.evaluation), *_warnings(shown, shown.evaluation), *_causes(shown, shown.evaluation)]


def _problems(shown: ExplainResult, evaluation: evaluation_pb.Evaluation) -> Iterator[Reason]:
    if not evaluation.HasField("value"):
        kind = "the configuration must change" if evaluation.no_value_reason == "misconfigured" else "temporary"
        yield Reason(f"no value ({kind}): {evaluation.reason}", "red")
    elif missing := [one for one in evaluation.observations if one.state == "missing"]:
        counted = f"{len(missing)} of {evaluation.expected}" if evaluation.expected else f"{len(missing)}"
        noun = "ready pods" if any(one.pod for one in missing) else "devices"
        yield Reason(f"{counted} {noun} without a value: {missing[0].sentence}", "red")
    if evaluation.activity_unknown and evaluation.HasField("demand"):
        yield Reason(f"the activity is not known: {evaluation.demand.sentence}", "red")
    if shown.hpa_status is not None:
        yield from (Reason(f"the live HPA: {one}", "red") for one in shown.hpa_status.conditions if _is_bad(one))


def _is_bad(condition: str) -> bool:
    return condition.startswith(_BAD_CONDITIONS)


def _warnings(shown: ExplainResult, evaluation: evaluation_pb.Evaluation) -> Iterator[Reason]:
    for clock in evaluation.clocks:
        direction = "ahead of" if clock.ahead_seconds > 0 else "behind"
        yield Reason(
            f"the clock of node {clock.node} is {_duration(abs(clock.ahead_seconds))} {direction} that of the "
            "instance: synchronize both with NTP",
            "yellow",
        )
    if evaluation.fallback:
        yield Reason(evaluation.fallback, "yellow")
    for hint in evaluation.hints:
        yield Reason(hint, "yellow")
    for key in shown.trigger.metadata:
        if key.endswith(FROM_ENVIRONMENT):
            text = f"{key}: KEDA reads this value from the workload's environment, and explain does not"
            yield Reason(f"{text}; give it with -m {key.removesuffix(FROM_ENVIRONMENT)}=…", "yellow")
    if shown.hpa_status is not None:
        yield from (Reason(one, "yellow") for one in shown.hpa_status.differences)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _causes(shown: ExplainResult, evaluation: evaluation_pb.Evaluation) -> Iterator[Reason]:
    forecast = shown.forecast
    if forecast is not None and forecast.recommendation is not None:
        yield Reason(_ratio_sentence(shown, evaluation))
    if forecast is not None and (decision := forecast.decision) is not None:
        is_waiting = decision.recommended is not None and decision.replicas < forecast.current
        if is_waiting or decision.limit not in (Limit.NONE, Limit.TOLERANCE, Limit.DISABLED):
            window = shown.scaled_object.down_window_seconds
            yield Reason(decision_sentence(decision, forecast.current, window))
    elif shown.scaled_object.kind == "ScaledObject" and not shown.scaled_object.paused:
        is_formula = shown.scaled_object.formula is not None
        unknown = "the result of the formula is not known here" if is_formula else "the scaler does not know the size"
        yield Reason(f"{unknown}, so the decision of the HPA is not known")
    yield from _live_size(shown)
    yield from _activity(evaluation)
    if forecast is not None:
        yield from map(Reason, forecast.keda)


def _live_size(shown: ExplainResult) -> Iterator[Reason]:
    """Say what the live HPA wants where that differs: it remembers recommendations that cannot be read."""
    status, change = shown.hpa_status, size_change(shown)
    if status is not None and change.then is not None and status.desired != change.then:
        yield Reason(f"the live HPA has {status.current} replicas and wants {status.desired}")


def _ratio_sentence(shown: ExplainResult, evaluation: evaluation_pb.Evaluation) -> str:
    forecast, scaled_object = shown.forecast, shown.scaled_object
    recommendation = forecast.recommendation if forecast is not None else None
    if recommendation is None:
        return ""
    tolerances = scaled_object.tolerances
    low, high = number(1 - tolerances.down), number(1 + tolerances.up)
    if recommendation.within_tolerance:
        where = f"within the tolerance ({low} to {high})"
    elif recommendation.ratio > 1:
        where = f"above the tolerance of {high}"
    else:
        where = f"below the tolerance of {low}"
    value = three_digits(evaluation.value)
    if scaled_object.formula is not None:
        value = three_digits(forecast.formula_value if forecast is not None else None)
    return f"{value} for the HPA is {three_digits(recommendation.ratio)} times its target, {where}"


def _activity(evaluation: evaluation_pb.Evaluation) -> Iterator[Reason]:
    last = evaluation.steps[-1] if evaluation.steps else ""
    if evaluation.activity_unknown:
        yield Reason("active: ?, because IsActive returns an error")
    elif last.startswith(_ACTIVITIES):
        yield Reason(last)
    else:
        yield Reason("active" if evaluation.active else "inactive")


# ---- the next commands ----


def next_steps(shown: ExplainResult) -> list[NextStep]:
    """Return the next command for each cause, the most important first; at most three."""
    causes = dict.fromkeys(_all_causes(shown)) or {Cause.NONE: None}
    return [next_step(cause, _names(shown, cause)) for cause in list(causes)[:_MAX_STEPS]]


def _all_causes(shown: ExplainResult) -> Iterator[Cause]:
    evaluation = shown.evaluation
    if evaluation is None:
        if shown.error is not None:
            yield failure_of(shown.error, shown.instance).cause
        return
    missing = [cause for one in evaluation.observations if (cause := _cause_of(one, evaluation)) is not None]
    yield from missing
    if not evaluation.HasField("value") and not missing:
        is_misconfigured = evaluation.no_value_reason == "misconfigured"
        yield Cause.MISCONFIGURED if is_misconfigured else Cause.PENDING if evaluation.pending else Cause.WORKLOAD
    if evaluation.clocks:
        yield Cause.CLOCK
    if shown.hpa_status is not None and (
        shown.hpa_status.differences or any(map(_is_bad, shown.hpa_status.conditions))
    ):
        yield Cause.HPA
    yield from _size_causes(shown, evaluation)


def _cause_of(observation: evaluation_pb.Observation, evaluation: evaluation_pb.Evaluation) -> Cause | None:
    """Return why a pod or device has no value. A pod without a device is a cause where no pod has a value."""
    if observation.state == _NO_DEVICE and not evaluation.HasField("value"):
        return Cause.NO_DEVICE
    return _OF_OBSERVATION.get(observation.cause)


def _size_causes(shown: ExplainResult, evaluation: evaluation_pb.Evaluation) -> Iterator[Cause]:
    scaled_object, change = shown.scaled_object, size_change(shown)
    if scaled_object.paused:
        yield Cause.PAUSED
    elif change.then is None and scaled_object.kind == "ScaledObject" and scaled_object.formula is None:
        yield Cause.SIZE_UNKNOWN
    if evaluation.activity_unknown:
        yield Cause.DEMAND
    if change.limit == Limit.MAX.value:
        yield Cause.MAXIMUM
    elif change.limit in (Limit.RATE_UP.value, Limit.RATE_DOWN.value) or change.limit.startswith(WINDOW):
        yield Cause.RATE
    elif change.limit.startswith(("cooldown", "inactive")):
        yield Cause.INACTIVE


def _names(shown: ExplainResult, cause: Cause) -> Mapping[str, str]:
    scaled_object, evaluation = shown.scaled_object, shown.evaluation
    names = {
        "namespace": scaled_object.namespace or "default",
        "name": scaled_object.name,
        "title": _title(scaled_object),
        "edit": _edit(scaled_object),
        "resource": scaled_object.kind.lower(),
        "hpa": scaled_object.hpa_name,
    }
    kind, _, pod = shown.instance.partition(" ")
    if kind == "pod":
        names["scaler_namespace"], _, names["scaler_pod"] = pod.partition("/")
    found = (
        next((one for one in evaluation.observations if _cause_of(one, evaluation) is cause), None)
        if (evaluation is not None)
        else None
    )
    if found is not None:
        names |= {"node": found.node, "pod": found.pod, "engine_page": _engine_page(scaled_object, found)}
    return {key: value for key, value in names.items() if value}


def _title(scaled_object: ScaledObject) -> str:
    """Return the arguments by which ``explain`` finds the object again."""
    if scaled_object.file:
        return f"-f {shlex.quote(scaled_object.file)}"
    return f"{scaled_object.namespace or 'default'}/{scaled_object.name}" if scaled_object.name else "…"


def _edit(scaled_object: ScaledObject) -> str:
    """Return the command that opens the object, or the file where it may not be applied yet, in an editor."""
    if scaled_object.file:
        return f"${{EDITOR:-vi}} {'FILE' if scaled_object.file == STDIN else shlex.quote(scaled_object.file)}"
    if not scaled_object.name:
        return "kubectl get scaledobjects,scaledjobs -A"
    return f"kubectl -n {scaled_object.namespace or 'default'} edit {scaled_object.kind.lower()} {scaled_object.name}"


def _engine_page(scaled_object: ScaledObject, observation: evaluation_pb.Observation) -> str:
    """Return the command that shows an engine's page, through the API server's proxy of pods.

    A URL of a trigger has no such proxy. Its command shows what was asked.
    """
    failed = [one.url for one in observation.attempts if one.failure]
    parts = urlsplit(next(iter(failed or [one.url for one in observation.attempts]), ""))
    if not observation.pod or not parts.scheme:
        return f"keda-gpu-scaler explain {_title(scaled_object)} -o wide"
    is_https = parts.scheme == "https"  # the proxy asks by http unless the pod's name says https
    pod = f"{'https:' if is_https else ''}{observation.pod}:{parts.port or (443 if is_https else 80)}"
    query = f"?{parts.query}" if parts.query else ""
    path = f"/api/v1/namespaces/{scaled_object.namespace or 'default'}/pods/{pod}/proxy{parts.path}{query}"
    return f"kubectl get --raw {shlex.quote(path)}"
