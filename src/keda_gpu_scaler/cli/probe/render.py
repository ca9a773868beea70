# SPDX-License-Identifier: Apache-2.0
"""Shows a round of ``probe`` as text: a page for one round, or a line for each round.

Law: no line is wider than 80 columns.
"""

from collections.abc import Sequence

import click

from keda_gpu_scaler.cli.measured import measured_text
from keda_gpu_scaler.cli.output import DEFAULT_WIDTH, number
from keda_gpu_scaler.cli.page import Page
from keda_gpu_scaler.cli.probe.client import Call, ProbeRequest
from keda_gpu_scaler.cli.probe.lint import LintFinding
from keda_gpu_scaler.cli.probe.simulation import Round, decision_sentence
from keda_gpu_scaler.core.hpa.controller import Limit
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

MAX_STEPS = 24
"""A page shows at most this many steps of an evaluation; JSON has all of them."""

_SHORT_LIMITS = {Limit.NONE: "", Limit.STABILISATION: "stabilised"}
_DIGITS_AS_SENT = 12


def error_text(shown: Round) -> str:
    """Return why the round ended early, in one or more lines; empty where it did not."""
    error = shown.answer.error
    if error is None:
        return ""
    details = error.details.splitlines() or ["(no text)"]
    if not shown.answer.is_connected:
        return (
            f"cannot connect to {shown.address}: {details[0]}\n"
            "check that the scaler runs, and --address. For a scaler in a cluster:\n"
            "kubectl port-forward --namespace NAMESPACE service/NAME 6000:6000"
        )
    return "\n  ".join([f"{error.method}: {error.status}: {details[0]}", *details[1:]])


def round_page(shown: Round, request: ProbeRequest, evaluation: evaluation_pb.Evaluation | None = None) -> str:
    """Return one round in full."""
    answer, scenario = shown.answer, shown.scenario
    page = Page(DEFAULT_WIDTH)
    page.title(f"{request.namespace}/{request.name} at {shown.address}")
    if answer.specs:
        spec = answer.specs[0]
        page.entry("spec", f"{spec.name}, target {_as_sent(spec.as_keda_reads_it)}")
    if evaluation is not None:
        page.entry("measured", measured_text(evaluation))
    if answer.values:
        parts = " + ".join(_as_sent(value.as_keda_reads_it) for value in answer.values)
        page.entry("value", parts if len(answer.values) == 1 else f"{parts} = {_as_sent(answer.value)}")
    if answer.active is not None:
        page.entry("active", _yes_or_no(answer.active))
    page.entry("calls", ", ".join(f"{call.method} {_milliseconds(call)} ms" for call in answer.calls))
    limits = f"limits {scenario.min_replicas} to {scenario.max_replicas}"
    noun = "replica" if scenario.replicas == 1 else "replicas"
    page.entry("hpa", f"metricType {scenario.value_type}, {scenario.replicas} {noun}, {limits}")
    if shown.recommendation is not None:
        page.entry("", shown.recommendation.sentence)
    _add_decision(page, shown)
    for finding in shown.findings:
        page.entry("problem" if finding.is_unusable else "warning", finding.text, _colour(finding))
    if evaluation is not None:
        _add_evaluation(page, evaluation)
    return page.text


def _add_decision(page: Page, shown: Round) -> None:
    if shown.decision is None:
        page.entry("decision", "none: KEDA cannot use this answer")
    else:
        page.entry("decision", decision_sentence(shown.decision, shown.scenario.replicas), "bold")


def _add_evaluation(page: Page, evaluation: evaluation_pb.Evaluation) -> None:
    counted = "ready pods" if evaluation.scope == "workload" else "devices"
    page.entry(
        "coverage",
        f"{evaluation.with_value} of {evaluation.expected} {counted} with a value, scope {evaluation.scope}",
    )
    add_steps(page, evaluation.steps[:MAX_STEPS], len(evaluation.steps), "--json")


def add_steps(page: Page, steps: Sequence[str], total: int, flag: str) -> None:
    """Add the steps of an evaluation.

    Args:
        page: the page.
        steps: those to show.
        total: how many there are.
        flag: the flag that shows all.
    """
    page.entries("steps", steps)
    if total > len(steps):
        page.entry("", f"and {total - len(steps)} more: {flag} shows all")


def header() -> str:
    """Return the heads of the columns of ``row``."""
    columns = f"{'time':<8}  {'value / target':<21}  {'active':<6}  {'hpa':<22}  ms of calls"
    return click.style(columns, bold=True)


def row(shown: Round) -> str:
    """Return one round in one line of at most 80 columns."""
    answer = shown.answer
    numbers = "-"
    if answer.value is not None and answer.specs:
        numbers = f"{_short(answer.value)} / {_short(answer.specs[0].as_keda_reads_it)}"
    active = "-" if answer.active is None else _yes_or_no(answer.active)
    columns = f"{shown.at.astimezone():%H:%M:%S}  {numbers:<21}  {active:<6}  "
    milliseconds = "/".join(_milliseconds(call) for call in answer.calls)
    return f"{columns}{_short_decision(shown)}  {milliseconds}"


def _short_decision(shown: Round) -> str:
    decision, before = shown.decision, shown.scenario.replicas
    if decision is None:
        return click.style(f"{'unusable':<22}", fg="red")
    text = f"{before} → {decision.replicas} {_SHORT_LIMITS.get(decision.limit, decision.limit.value)}"
    is_change = decision.replicas != before
    return click.style(f"{text:<22}", fg="cyan" if is_change else None)


def notes(shown: Round) -> str:
    """Return the error and the findings of a round, for the lines below its row; empty where there are none."""
    error = error_text(shown)
    if not error and not shown.findings:
        return ""
    page = Page(DEFAULT_WIDTH)
    for line in error.splitlines():
        page.note("", line.strip(), "red")
    for finding in shown.findings:
        page.note("!", finding.text, _colour(finding))
    return page.text


def _colour(finding: LintFinding) -> str:
    return "red" if finding.is_unusable else "yellow"


def _yes_or_no(is_active: bool) -> str:
    return "yes" if is_active else "no"


def _milliseconds(call: Call) -> str:
    return f"{call.milliseconds:.1f}" if call.milliseconds < 100 else f"{call.milliseconds:.0f}"


def _as_sent(value: float | None) -> str:
    return number(value, digits=_DIGITS_AS_SENT)


def _short(value: float) -> str:
    plain = number(value)
    return plain if len(plain) <= 9 else f"{value:.3e}"
