# SPDX-License-Identifier: Apache-2.0
"""Shows the explanation of a trigger as a page of text.

Law: no line is wider than the page. A number that is not known is shown as "?", with its reason.
"""

from keda_gpu_scaler.cli.explain.attempts import add_attempts
from keda_gpu_scaler.cli.explain.forecast import Forecast
from keda_gpu_scaler.cli.explain.result import ExplainResult
from keda_gpu_scaler.cli.explain.scaledobject import FROM_ENVIRONMENT, ScaledObjectTrigger
from keda_gpu_scaler.cli.output import UNKNOWN, age, number
from keda_gpu_scaler.cli.page import Page
from keda_gpu_scaler.cli.probe.render import MAX_STEPS, add_steps
from keda_gpu_scaler.cli.probe.simulation import decision_sentence
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

MAX_ROWS = 40
"""A page shows at most this many pods or devices; ``-o wide`` and JSON have all of them."""

_ACTIVITIES = ("active: ", "inactive: ")
_DEFAULTS_SHOWN = ("metricType", "targetValue", "scope")
_STATES_WITHOUT_NUMBER = ("out_of_scope", "no_device", "not_ready", "worker")


def explanation_page(shown: ExplainResult, width: int, *, is_wide: bool = False) -> str:
    """Return one explanation.

    Args:
        shown: the explanation.
        width: columns.
        is_wide: show every setting, pod, device id and step.
    """
    page = Page(width)
    scaled_object, evaluation = shown.scaled_object, shown.evaluation
    name = "/".join(filter(None, (scaled_object.namespace, scaled_object.name))) or "no ScaledObject"
    page.title(f"{name}, trigger {shown.trigger.number} of {shown.total_triggers}")
    node = f" on node {evaluation.instance}" if evaluation is not None and evaluation.instance else ""
    page.entry("instance", f"{shown.instance}{node}, at {shown.at.astimezone():%H:%M:%S}")
    if evaluation is not None and evaluation.fallback:
        page.entry("warning", evaluation.fallback, "yellow")
    if evaluation is None:
        error = shown.error
        page.entry("error", f"{error.status}: {error.details}" if error else "", "red")
        return page.text
    _add_settings(page, evaluation, shown.trigger, is_wide)
    _add_workload(page, evaluation)
    _add_observations(page, evaluation, is_wide)
    add_attempts(page, evaluation.observations, None if is_wide else MAX_ROWS)
    _add_steps(page, evaluation, is_wide)
    _add_value(page, evaluation, shown.forecast)
    if shown.forecast is not None:
        _add_forecast(page, shown.forecast, shown)
    return page.text


def _add_settings(
    page: Page, evaluation: evaluation_pb.Evaluation, trigger: ScaledObjectTrigger, is_wide: bool
) -> None:
    rows = [
        (one.key, one.value, one.origin)
        for one in evaluation.settings
        if is_wide or one.origin != "default" or one.key in _DEFAULTS_SHOWN
    ]
    page.table("settings", ("key", "value", "from"), rows)
    for hint in evaluation.hints:
        page.entry("warning", hint, "yellow")
    for key in trigger.metadata:
        if key.endswith(FROM_ENVIRONMENT):
            text = f"{key}: KEDA reads this value from the workload's environment, and explain does not"
            remedy = f"give the value with --metadata {key.removesuffix(FROM_ENVIRONMENT)}=…"
            page.entry("warning", f"{text}; {remedy}", "yellow")


def _add_workload(page: Page, evaluation: evaluation_pb.Evaluation) -> None:
    if evaluation.HasField("workload"):
        one = evaluation.workload
        page.entry("workload", f"{one.target}: {one.wanted} replicas specified, {one.actual} exist, {one.ready} ready")


def _add_observations(page: Page, evaluation: evaluation_pb.Evaluation, is_wide: bool) -> None:
    observations = evaluation.observations if is_wide else evaluation.observations[:MAX_ROWS]
    rows = [_row(observation, evaluation.unit, is_wide) for observation in observations]
    if any(observation.pod for observation in evaluation.observations):
        page.table("pods", ("pod", "node", "ready", "value", "age", "devices"), rows)
    else:
        page.table("devices", ("node", "value", "age", "device"), [(row[1], *row[3:]) for row in rows])
    omitted = evaluation.observations_omitted + len(evaluation.observations) - len(observations)
    if omitted:
        page.entry("", f"and {omitted} more" + ("" if is_wide else "; -o wide and --json show more of them"))


def _row(observation: evaluation_pb.Observation, unit: str, is_wide: bool) -> tuple[str, ...]:
    value = number(observation.value if observation.HasField("value") else None, unit)
    age_seconds = observation.age_seconds if observation.HasField("age_seconds") else None
    return (
        observation.pod,
        observation.node or "-",
        "yes" if observation.ready else "no",
        "-" if observation.state in _STATES_WITHOUT_NUMBER else value,
        age(age_seconds),
        _devices(observation, unit, is_wide),
    )


def _devices(observation: evaluation_pb.Observation, unit: str, is_wide: bool) -> str:
    if not observation.devices or not observation.HasField("value"):
        return observation.sentence
    return "; ".join(_device(device, unit, is_wide) for device in observation.devices)


def _device(device: evaluation_pb.ObservedDevice, unit: str, is_wide: bool) -> str:
    identity = f" ({device.uuid})" if is_wide else ""
    value = number(device.value if device.HasField("value") else None, unit)
    shared = f", shared by {device.sharers} pods" if device.sharers > 1 else ""
    return f"GPU {device.index} {device.model}{identity} {value}{shared}"


def _add_steps(page: Page, evaluation: evaluation_pb.Evaluation, is_wide: bool) -> None:
    """Add the steps of the evaluation, without those that are shown above."""
    in_table = {evaluation.fallback, *(observation.sentence for observation in evaluation.observations)}
    in_table |= {
        f"pod {observation.pod}{'' if observation.ready else ' (not ready)'}: {observation.sentence}"
        for observation in evaluation.observations
    }
    steps = [step for step in evaluation.steps if step not in in_table and not step.startswith(_ACTIVITIES)]
    add_steps(page, steps if is_wide else steps[:MAX_STEPS], len(steps), "-o wide")
    if evaluation.HasField("demand"):
        page.entry("demand", evaluation.demand.sentence)


def _add_value(page: Page, evaluation: evaluation_pb.Evaluation, forecast: Forecast | None) -> None:
    value_type = (forecast.value_type if forecast else evaluation.value_type) or "metricType unknown"
    counted = {"workload": "ready pods", "endpoint": "endpoints"}.get(evaluation.scope, "devices")
    if evaluation.HasField("value"):
        coverage = f"from {evaluation.with_value} of {evaluation.expected} {counted}"
        target = f"target {number(evaluation.target)} ({value_type})"
        page.entry("value", f"{number(evaluation.value)} {coverage}; {target}", "bold")
    else:
        is_misconfigured = evaluation.no_value_reason == "misconfigured"
        kind = "needs a change of the configuration" if is_misconfigured else "temporary"
        page.entry("value", f"{UNKNOWN} ({kind}): {evaluation.reason}", "red")
    page.entry("active", _activity(evaluation))


def _activity(evaluation: evaluation_pb.Evaluation) -> str:
    if evaluation.activity_unknown:
        return f"{UNKNOWN}: IsActive returns an error"
    last = evaluation.steps[-1] if evaluation.steps else ""
    reason = last.partition(": ")[2] if last.startswith(_ACTIVITIES) else ""
    return f"{'yes' if evaluation.active else 'no'}{f': {reason}' if reason else ''}"


def _add_forecast(page: Page, forecast: Forecast, shown: ExplainResult) -> None:
    scaled_object, status = shown.scaled_object, shown.hpa_status
    if forecast.recommendation is not None:
        page.entry("hpa", forecast.recommendation.sentence)
    if forecast.decision is not None:
        sentence = decision_sentence(forecast.decision, forecast.current, scaled_object.down_window_seconds)
        page.entry("decision", sentence, "bold")
    elif scaled_object.paused:
        page.entry("decision", "none: KEDA is paused")
    elif scaled_object.formula is not None:
        page.entry("decision", f"{UNKNOWN}: the HPA compares the result of a formula")
    elif scaled_object.kind == "ScaledObject":
        page.entry("decision", f"{UNKNOWN}: the scaler does not know the workload's size; give it with --replicas N")
    page.entries("limits", forecast.limits)
    if status is not None:
        page.entry("hpa status", f"{status.current} replicas now, {status.desired} desired")
        for sentence in status.conditions:
            page.entry("", sentence)
        page.entries("difference", status.differences)
    page.entries("keda", forecast.keda)
