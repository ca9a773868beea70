# SPDX-License-Identifier: Apache-2.0
"""What does a round look like, to a person and to a program?

The law of this module: no line is wider than 80 columns, and of a stranger's text nothing reaches a terminal
that it would obey.

With ``--json`` each round is one object on one line, whose keys stay as they are:

``at``          when, ISO 8601 in UTC
``address``     the scaler's
``replicas``    the size the HPA was asked about
``connected``   whether the scaler can be reached
``calls``       a list of ``method``, ``ms``, ``status`` (gRPC's name for it) and ``details``, in order
``spec``        null, or ``name``, ``target`` (as KEDA reads it), ``integer`` and ``float`` (as sent)
``value``       null, or ``name``, ``value`` (as KEDA reads it, summed), ``integer`` and ``float`` (of the first)
``active``      null, true or false
``findings``    a list of ``code``, ``unusable`` (whether KEDA can do nothing with it) and ``text``
``hpa``         null where nothing usable came, or ``value_type``, ``recommended`` (null without a metric),
                ``replicas`` (the size it decides on), ``limit``, ``arithmetic`` and ``sentence``
``evaluation``     null where the scaler does not tell (or while watching), or ``scope``, ``with_value`` and ``expected``
                (of its ready pods, or devices), ``value`` (null without one), ``active``, ``no_value_reason`` and ``reason``
                (empty with a value), and ``steps``, a list of sentences

A number JSON has no sign for is a string: "nan", "inf", "-inf".
"""

import json
import math
import textwrap
from typing import Any

import click

from keda_gpu_scaler.cli.probe.client import Call, MetricReading, ProbeRequest
from keda_gpu_scaler.cli.probe.lint import LintFinding
from keda_gpu_scaler.cli.probe.simulation import Round
from keda_gpu_scaler.core.hpa.controller import DOWN_STABILISATION_SECONDS, Limit
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

WIDTH = 80

MAX_STEPS = 24
"""So many sentences of a verdict fit a screen; JSON has all of them."""

_LABEL = 12
_SHORT_LIMITS = {Limit.NONE: "", Limit.STABILISATION: "stabilised"}


def printable(text: str) -> str:
    """One line of a stranger's text without anything a terminal would obey."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)


def error_text(shown: Round) -> str:
    """Say in words why the round ended early; one or more lines."""
    error = shown.answer.error
    if error is None:
        return ""
    details = [printable(line) for line in error.details.splitlines()] or ["(no text)"]
    if not shown.answer.connected:
        return (
            f"cannot connect to {printable(shown.address)}: {details[0]}\n"
            "is the scaler running, and is --address right? Inside a cluster:\n"
            "kubectl port-forward --namespace NAMESPACE service/NAME 6000:6000"
        )
    return "\n  ".join([f"{error.method}: {error.status}: {details[0]}", *details[1:]])


def block(shown: Round, question: ProbeRequest, evaluation: evaluation_pb.Evaluation | None = None) -> str:
    """One round for a person, in full: a labelled block of at most 80 columns."""
    answer, scenario = shown.answer, shown.scenario
    lines = [click.style(f"{question.namespace}/{question.name} at {shown.address}", bold=True)]
    if answer.specs:
        spec = answer.specs[0]
        lines += _entry("spec", f"{printable(spec.name)}, target {spec.as_keda_reads_it:.12g}")
    if answer.values:
        parts = " + ".join(f"{value.as_keda_reads_it:.12g}" for value in answer.values)
        lines += _entry("value", parts if len(answer.values) == 1 else f"{parts} = {answer.value:.12g}")
    if answer.active is not None:
        lines += _entry("active", "yes" if answer.active else "no")
    lines += _entry("calls", ", ".join(f"{call.method} {_milliseconds(call)} ms" for call in answer.calls))
    size = f"{scenario.replicas} replicas ({scenario.min_replicas} to {scenario.max_replicas})"
    lines += _entry("hpa", f"{scenario.value_type} with {size}")
    if shown.recommendation is not None:
        lines += _entry("", shown.recommendation.sentence)
    lines += _decision(shown)
    for finding in shown.findings:
        lines += _entry("problem" if finding.unusable else "warning", finding.text, fg=_colour(finding))
    if evaluation is not None:
        lines += _why(evaluation)
    return "\n".join(lines)


def _why(evaluation: evaluation_pb.Evaluation) -> list[str]:
    of = "ready pods" if evaluation.scope == "workload" else "devices"
    lines = _entry(
        "coverage", f"{evaluation.with_value} of {evaluation.expected} {of} seen, scope {printable(evaluation.scope)}"
    )
    for number, step in enumerate(evaluation.steps[:MAX_STEPS]):
        lines += _entry("why" if number == 0 else "", printable(step))
    if len(evaluation.steps) > MAX_STEPS:
        lines += _entry("", f"and {len(evaluation.steps) - MAX_STEPS} more: --json shows all")
    return lines


def _decision(shown: Round) -> list[str]:
    decision = shown.decision
    if decision is None:
        return _entry("decision", "none: KEDA can do nothing with this answer")
    sentence = decision.sentence
    # A size forced by the maximum waits for nothing; it comes without a recommendation.
    if decision.recommended is not None and decision.replicas < shown.scenario.replicas:
        sentence += f", once all recommendations of {DOWN_STABILISATION_SECONDS:g} s are this low"
    limit = "" if decision.limit is Limit.NONE else f" [{decision.limit}]"
    return _entry("decision", sentence + limit, bold=True)


def header() -> str:
    """What the columns of ``row`` are."""
    columns = f"{'time':<8}  {'value / target':<21}  {'active':<6}  {'hpa':<22}  ms of calls"
    return click.style(columns, bold=True)


def row(shown: Round) -> str:
    """One round in one line of at most 80 columns."""
    answer = shown.answer
    numbers = "-"
    if answer.value is not None and answer.specs:
        numbers = f"{_short(answer.value)} / {_short(answer.specs[0].as_keda_reads_it)}"
    active = "-" if answer.active is None else "yes" if answer.active else "no"
    columns = f"{shown.at.astimezone():%H:%M:%S}  {numbers:<21}  {active:<6}  "
    milliseconds = "/".join(_milliseconds(call) for call in answer.calls)
    return f"{columns}{_brief(shown)}  {milliseconds}"


def _brief(shown: Round) -> str:
    decision, before = shown.decision, shown.scenario.replicas
    if decision is None:
        return click.style(f"{'unusable':<22}", fg="red")
    text = f"{before} → {decision.replicas} {_SHORT_LIMITS.get(decision.limit, decision.limit.value)}"
    moves = decision.replicas != before
    return click.style(f"{text:<22}", fg="cyan" if moves else None)


def notes(shown: Round) -> str:
    """What stands below a row: the error and the findings, wrapped."""
    lines = [
        click.style(wrapped, fg="red") for line in error_text(shown).splitlines() for wrapped in _indented(line, "  ")
    ]
    for finding in shown.findings:
        lines += [click.style(line, fg=_colour(finding)) for line in _indented(finding.text, "  ! ")]
    return "\n".join(lines)


def as_json(shown: Round, evaluation: evaluation_pb.Evaluation | None = None) -> str:
    """One round as one line of JSON; the module's docstring has the keys."""
    answer, decision, hpa = shown.answer, shown.decision, None
    if decision is not None:
        hpa = {
            "value_type": shown.scenario.value_type.value,
            "recommended": decision.recommended,
            "replicas": decision.replicas,
            "limit": decision.limit.value,
            "arithmetic": shown.recommendation.sentence if shown.recommendation else None,
            "sentence": decision.sentence,
        }
    spec = answer.specs[0] if answer.specs else None
    value = answer.values[0] if answer.values else None
    return json.dumps(
        {
            "at": shown.at.isoformat(),
            "address": shown.address,
            "replicas": shown.scenario.replicas,
            "connected": answer.connected,
            "calls": [
                {"method": c.method, "ms": round(c.milliseconds, 3), "status": c.status, "details": c.details}
                for c in answer.calls
            ],
            "spec": spec and _sent(spec, "target", spec.as_keda_reads_it),
            "value": value and _sent(value, "value", answer.value or 0.0),
            "active": answer.active,
            "findings": [{"code": f.code, "unusable": f.unusable, "text": f.text} for f in shown.findings],
            "hpa": hpa,
            "evaluation": evaluation and _told(evaluation),
        },
        ensure_ascii=False,
        allow_nan=False,
    )


def _told(evaluation: evaluation_pb.Evaluation) -> dict[str, Any]:
    return {
        "scope": evaluation.scope,
        "with_value": evaluation.with_value,
        "expected": evaluation.expected,
        "value": _json_number(evaluation.value) if evaluation.HasField("value") else None,
        "active": evaluation.active,
        "no_value_reason": evaluation.no_value_reason,
        "reason": evaluation.reason,
        "steps": list(evaluation.steps),
    }


def _sent(reading: MetricReading, key: str, number: float) -> dict[str, Any]:
    return {
        "name": reading.name,
        key: _json_number(number),
        "integer": reading.integer,
        "float": _json_number(reading.floating),
    }


def _json_number(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)


def _entry(label: str, text: str, **style: Any) -> list[str]:
    wrapped = textwrap.wrap(text, WIDTH - _LABEL, break_on_hyphens=False) or [""]
    labels = [label, *[""] * (len(wrapped) - 1)]
    return [f"{name:<{_LABEL}}{click.style(line, **style)}" for name, line in zip(labels, wrapped, strict=True)]


def _indented(text: str, first: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent="    ", break_on_hyphens=False)


def _colour(finding: LintFinding) -> str:
    return "red" if finding.unusable else "yellow"


def _milliseconds(call: Call) -> str:
    return f"{call.milliseconds:.1f}" if call.milliseconds < 100 else f"{call.milliseconds:.0f}"


def _short(number: float) -> str:
    plain = f"{number:.6g}"
    return plain if len(plain) <= 9 else f"{number:.3e}"
