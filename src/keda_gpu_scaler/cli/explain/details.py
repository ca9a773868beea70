# SPDX-License-Identifier: Apache-2.0
"""The details of an explanation, which ``-o wide`` adds: settings, steps, URLs, arithmetic and limits."""

from keda_gpu_scaler.cli.explain.attempts import add_attempts
from keda_gpu_scaler.cli.explain.forecast import Forecast
from keda_gpu_scaler.cli.explain.result import ExplainResult
from keda_gpu_scaler.cli.output import UNKNOWN, number
from keda_gpu_scaler.cli.page import Page
from keda_gpu_scaler.cli.probe.render import add_steps
from keda_gpu_scaler.cli.probe.simulation import decision_sentence
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

_ACTIVITIES = ("active: ", "inactive: ")


def add_details(page: Page, shown: ExplainResult, evaluation: evaluation_pb.Evaluation) -> None:
    """Add everything that led to the answer, with every digit."""
    rows = [(one.key, one.value, one.origin) for one in evaluation.settings]
    page.table("settings", ("key", "value", "from"), rows)
    if evaluation.HasField("workload"):
        one = evaluation.workload
        page.entry("workload", f"{one.target}: {one.wanted} replicas specified, {one.actual} exist, {one.ready} ready")
    add_attempts(page, evaluation.observations)
    _add_steps(page, evaluation)
    target = f"target {number(evaluation.target)}"
    value = number(evaluation.value if evaluation.HasField("value") else None)
    page.entry("reported", f"{value}; {target} ({shown.forecast.value_type if shown.forecast else UNKNOWN})")
    if shown.forecast is not None:
        _add_forecast(page, shown.forecast, shown)


def _add_steps(page: Page, evaluation: evaluation_pb.Evaluation) -> None:
    """Add the steps of the evaluation, without those that are shown above."""
    shown_above = {evaluation.fallback, *(observation.sentence for observation in evaluation.observations)}
    shown_above |= {
        f"pod {observation.pod}{'' if observation.ready else ' (not ready)'}: {observation.sentence}"
        for observation in evaluation.observations
        if not observation.HasField("value")
    }
    steps = [step for step in evaluation.steps if step not in shown_above and not step.startswith(_ACTIVITIES)]
    add_steps(page, steps, len(steps), "-o wide")
    if evaluation.HasField("demand"):
        page.entry("demand", evaluation.demand.sentence)


def _add_forecast(page: Page, forecast: Forecast, shown: ExplainResult) -> None:
    scaled_object, status = shown.scaled_object, shown.hpa_status
    if forecast.recommendation is not None:
        page.entry("hpa", forecast.recommendation.sentence)
    if forecast.decision is not None:
        sentence = decision_sentence(forecast.decision, forecast.current, scaled_object.down_window_seconds)
        page.entry("decision", sentence, "bold")
    page.entries("limits", forecast.limits)
    if status is not None:
        page.entry("hpa status", f"{status.current} replicas now, {status.desired} desired")
        for sentence in status.conditions:
            page.entry("", sentence)
