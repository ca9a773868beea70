# SPDX-License-Identifier: Apache-2.0
"""What would KEDA be told, and what would the HPA make of it? Asks any external scaler, as KEDA does.

The law of this module: it calls what KEDA calls, in KEDA's order, and reads what KEDA reads. It never
mends an answer; what would hurt in a cluster is shown.

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

A number JSON has no sign for is a string: "nan", "inf", "-inf".

Facts are from KEDA 2.20: pkg/scalers/external_scaler.go and pkg/util/normalize_string.go.
"""

import json
import math
import os
import re
import socket
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import click
import grpc

from keda_gpu_scaler.core.hpa import (
    DEFAULT_MAX_REPLICAS,
    DEFAULT_MIN_REPLICAS,
    DOWN_STABILISATION_SECONDS,
    LARGEST_MILLI,
    SYNC_PERIOD_SECONDS,
    Decision,
    Limit,
    Recommendation,
    State,
    ValueType,
    desired_replicas,
    milli,
    step,
)
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc

OK, ANSWERED_WITH_AN_ERROR, CANNOT_CONNECT = 0, 1, 3
HEADER_EVERY_ROUNDS = 20
WIDTH = 80
SMALLEST_TARGET = 0.0005
"""What is below has no thousandth left after KEDA's rounding."""

_LABEL = 12
_KNOCK_SECONDS = 1.0
_REPLACED_BY_KEDA = str.maketrans(dict.fromkeys("/.:%()", "-"))
_SAFE_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?", re.ASCII)
_SHORT_LIMITS = {Limit.NONE: "", Limit.STABILISATION: "stabilised"}


@dataclass(frozen=True, slots=True)
class Pace:
    """Where time comes from: tests bring their own."""

    monotonic: Callable[[], float] = time.monotonic
    utc: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Question:
    """Which ScaledObject is asked about, and where."""

    address: str
    name: str
    namespace: str
    metadata: Mapping[str, str]
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """The HPA and the workload that are imagined behind the answer."""

    value_type: ValueType
    replicas: int
    ready: int | None
    min_replicas: int
    max_replicas: int
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One call and how it ended. ``status`` is gRPC's name for it, "OK" included."""

    method: str
    milliseconds: float
    status: str = "OK"
    details: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """A target or a value as it was sent: a name and the same number in two fields."""

    name: str
    integer: int
    floating: float

    @property
    def as_keda_reads_it(self) -> float:
        """The float where it is above 0, else the integer. (NaN is not above 0.)"""
        return self.floating if self.floating > 0 else float(self.integer)


@dataclass(frozen=True, slots=True)
class Answer:
    """All that came back in one round; None where the round did not get that far."""

    connected: bool
    calls: tuple[Call, ...] = ()
    specs: tuple[Reading, ...] | None = None
    values: tuple[Reading, ...] | None = None
    active: bool | None = None

    @property
    def error(self) -> Call | None:
        """The call that ended the round."""
        return next((call for call in self.calls if call.status != "OK"), None)

    @property
    def value(self) -> float | None:
        """What the HPA gets: it adds the values of one metric up."""
        return sum(value.as_keda_reads_it for value in self.values) if self.values else None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something the protocol does not allow, or that means trouble. ``unusable``: KEDA can do nothing with it."""

    code: str
    text: str
    unusable: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """One round: the answer, what is wrong with it, and what the HPA makes of it."""

    at: datetime
    address: str
    scenario: Scenario
    answer: Answer
    findings: tuple[Finding, ...]
    recommendation: Recommendation | None
    decision: Decision | None

    @property
    def exit_code(self) -> int:
        """What this round alone would end the program with."""
        if not self.answer.connected:
            return CANNOT_CONNECT
        if self.answer.error or any(finding.unusable for finding in self.findings):
            return ANSWERED_WITH_AN_ERROR
        return OK


# --- asking


class Link:
    """One connection to a scaler, opened by the first call."""

    def __init__(self, question: Question, pace: Pace) -> None:
        self._question = question
        self._pace = pace
        # A scaler lives inside the cluster or on the machine: a web proxy is never on the way to it.
        self._channel = grpc.insecure_channel(question.address, options=(("grpc.enable_http_proxy", 0),))
        self._stub: Any = pb_grpc.ExternalScalerStub(self._channel)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return f"<Link to {self._question.address}>"

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def ask(self) -> Answer:
        """Call what KEDA calls, in its order, up to the first call that fails."""
        answer = Answer(connected=True)
        for part in (self._spec, self._values, self._activity):
            answer = part(answer)
            if answer.error is not None:
                return self._explained(answer)
            if answer.specs == ():
                return answer  # KEDA asks for each metric of the spec: for none, nothing
        return answer

    def _explained(self, answer: Answer) -> Answer:
        """Tell a scaler that answers UNAVAILABLE from one that is not there: in gRPC both look the same."""
        *before, failed = answer.calls
        if failed.status not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            return answer
        reason = unreachable(self._question.address, min(self._question.timeout_seconds, _KNOCK_SECONDS))
        if reason is None:
            return answer
        return replace(answer, connected=False, calls=(*before, replace(failed, details=reason)))

    @property
    def _reference(self) -> pb.ScaledObjectRef:
        asked = self._question
        return pb.ScaledObjectRef(name=asked.name, namespace=asked.namespace, scalerMetadata=asked.metadata)

    def _call(self, method: str, request: Any) -> tuple[Call, Any]:
        began = self._pace.monotonic()
        try:
            reply = getattr(self._stub, method)(request, timeout=self._question.timeout_seconds)
        except grpc.RpcError as error:
            took = (self._pace.monotonic() - began) * 1000
            return Call(method, took, error.code().name, error.details() or ""), None
        return Call(method, (self._pace.monotonic() - began) * 1000), reply

    def _spec(self, answer: Answer) -> Answer:
        call, reply = self._call("GetMetricSpec", self._reference)
        specs = reply and tuple(
            Reading(spec.metricName, spec.targetSize, spec.targetSizeFloat) for spec in reply.metricSpecs
        )
        return replace(answer, calls=(*answer.calls, call), specs=specs)

    def _values(self, answer: Answer) -> Answer:
        assert answer.specs  # noqa: S101 - the round ends before, without one
        name = name_from_keda(answer.specs[0].name)
        request = pb.GetMetricsRequest(scaledObjectRef=self._reference, metricName=name)
        call, reply = self._call("GetMetrics", request)
        values = reply and tuple(
            Reading(value.metricName, value.metricValue, value.metricValueFloat) for value in reply.metricValues
        )
        return replace(answer, calls=(*answer.calls, call), values=values)

    def _activity(self, answer: Answer) -> Answer:
        call, reply = self._call("IsActive", self._reference)
        return replace(answer, calls=(*answer.calls, call), active=reply and reply.result)


def unreachable(address: str, timeout_seconds: float) -> str | None:
    """Why no TCP connection to the address can be made, in the system's words; None when one can."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_seconds).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


# --- judging


def name_from_keda(name: str) -> str:
    """The metric name as it comes back from KEDA and the API server: lower case, some signs made dashes."""
    return name.lower().translate(_REPLACED_BY_KEDA)


def judge(answer: Answer) -> tuple[Finding, ...]:
    """Everything about an answer that would hurt with KEDA, or with some version of it."""
    return tuple(_judge(answer))


def _judge(answer: Answer) -> Iterator[Finding]:
    if answer.specs is not None:
        yield from _judge_specs(answer.specs)
    if answer.values is not None:
        yield from _judge_values(answer.values, answer.specs or ())
    error = answer.error
    if error is not None and error.method == "IsActive" and answer.connected:
        yield Finding("is-active-failed", "IsActive fails after GetMetrics: KEDA throws the value away", unusable=True)


def _judge_specs(specs: tuple[Reading, ...]) -> Iterator[Finding]:
    if not specs:
        yield Finding("no-spec", "the spec is empty: KEDA has no metric to ask for", unusable=True)
        return
    if len(specs) > 1:
        names = ", ".join(quoted(spec.name) for spec in specs)
        yield Finding("many-specs", f"{len(specs)} specs ({names}): return exactly one; only the first is probed")
    name = specs[0].name
    if not _SAFE_NAME.fullmatch(name):
        remedy = "use lower-case letters, digits, '-' and '_' only"
        yield Finding("unsafe-name", f"KEDA may ask for {quoted(name)} as {quoted(name_from_keda(name))}: {remedy}")
    yield from _judge_number("target", specs[0], "targetSize")
    target = specs[0].as_keda_reads_it
    if 0 <= target < SMALLEST_TARGET:
        text = f"target {target:g} is below {SMALLEST_TARGET:g}: with KEDA's three decimals it is 0"
        yield Finding("target-too-small", text, unusable=True)


def _judge_values(values: tuple[Reading, ...], specs: tuple[Reading, ...]) -> Iterator[Finding]:
    if not values:
        yield Finding("no-value", "no value came: KEDA has nothing to hand to the HPA", unusable=True)
        return
    if len(values) > 1:
        yield Finding("many-values", f"{len(values)} values: return exactly one; the HPA adds them up")
    for value in values:
        if specs and name_from_keda(value.name) != name_from_keda(specs[0].name):
            text = f"the value is named {quoted(value.name)}, the spec {quoted(specs[0].name)}: use one name"
            yield Finding("other-name", text)
        yield from _judge_number("value", value, "metricValue")


def _judge_number(what: str, sent: Reading, integer_field: str) -> Iterator[Finding]:
    number = sent.floating
    both = f"{integer_field} {sent.integer}, {integer_field}Float {number:.12g}"
    if not math.isfinite(number):
        text = f"{what} is not a finite number ({both}): KEDA makes it 0 or takes the integer, by its version"
        yield Finding(f"{what}-not-finite", text, unusable=True)
    elif number < 0 or sent.integer < 0:
        yield Finding(f"{what}-negative", f"{what} is below 0 ({both}): the HPA has no use for it", unusable=True)
    elif abs(sent.as_keda_reads_it) * 1000 > LARGEST_MILLI:
        text = f"{what} is too large to count in thousandths ({both}): keep it below {LARGEST_MILLI / 1000:.2g}"
        yield Finding(f"{what}-too-large", text, unusable=True)
    elif number == 0 and sent.integer != 0:
        yield Finding("integer-only", f"{what}: only the integer is filled ({both}); KEDA falls back to it")
    elif math.ceil(number) != sent.integer:
        text = f"{what}: the fields disagree ({both}); KEDA before 2.17 reads the integer: make it {math.ceil(number)}"
        yield Finding("fields-disagree", text)


@dataclass(slots=True)
class Simulation:
    """The HPA behind the answers, from round to round.

    It looks every 15 s, as the controller does. A round between two looks shows what it would decide then,
    and is not remembered.
    """

    scenario: Scenario
    state: State = field(default_factory=State)
    synced_at: float | None = None

    def round(self, at: datetime, now: float, address: str, answer: Answer) -> Round:
        """Judge an answer and let the HPA decide on it."""
        scenario = self.scenario
        findings = judge(answer)
        recommendation, decision = None, None
        # What KEDA cannot use leads to no decision worth showing; a failed call leads to "no metric".
        if answer.error is not None or not any(finding.unusable for finding in findings):
            recommendation = recommend(answer, scenario)
            state, decision = step(
                self.state,
                now,
                scenario.replicas,
                recommendation,
                min_replicas=scenario.min_replicas,
                max_replicas=scenario.max_replicas,
            )
            self._keep(state, now, decision, answer)
        return Round(at, address, scenario, answer, findings, recommendation, decision)

    def _keep(self, state: State, now: float, decision: Decision, answer: Answer) -> None:
        if self.synced_at is not None and now - self.synced_at < SYNC_PERIOD_SECONDS:
            return
        self.state, self.synced_at = state, now
        if self.scenario.follow:
            woken = self.scenario.min_replicas if answer.active else 0
            self.scenario = replace(self.scenario, replicas=decision.replicas or woken)


def recommend(answer: Answer, scenario: Scenario) -> Recommendation | None:
    """What the HPA recommends on an answer KEDA can use; None when it did not get one."""
    if answer.error is not None or answer.value is None or not answer.specs:
        return None
    return desired_replicas(
        scenario.value_type,
        milli(answer.value),
        milli(answer.specs[0].as_keda_reads_it),
        replicas=scenario.replicas,
        ready_pods=scenario.ready,
    )


# --- showing


def quoted(text: str) -> str:
    """A stranger's text in quotes, cut short, without anything a terminal would obey."""
    return json.dumps(text if len(text) <= 40 else text[:39] + "…")


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


def block(shown: Round, question: Question) -> str:
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
    return "\n".join(lines)


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


def as_json(shown: Round) -> str:
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
        },
        ensure_ascii=False,
        allow_nan=False,
    )


def _sent(reading: Reading, key: str, number: float) -> dict[str, Any]:
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


def _colour(finding: Finding) -> str:
    return "red" if finding.unusable else "yellow"


def _milliseconds(call: Call) -> str:
    return f"{call.milliseconds:.1f}" if call.milliseconds < 100 else f"{call.milliseconds:.0f}"


def _short(number: float) -> str:
    plain = f"{number:.6g}"
    return plain if len(plain) <= 9 else f"{number:.3e}"


# --- the command


def _metadata(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """Read KEY=VALUE pairs. A value may hold "=" itself.

    Raises:
        click.BadParameter: a pair without "=", without a key, or with a key given before.
    """
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{quoted(pair)}: must be KEY=VALUE, for example targetValue=80", ctx, param)
        if key in metadata:
            raise click.BadParameter(f"{quoted(pair)}: {key} is given twice; keep one of the two", ctx, param)
        metadata[key] = value
    return metadata


def _address(ctx: click.Context, param: click.Parameter, address: str) -> str:
    """Insist on a port: gRPC would otherwise quietly take 443.

    Raises:
        click.BadParameter: there is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise click.BadParameter(f"{quoted(address)}: must be HOST:PORT, for example 127.0.0.1:6000", ctx, param)
    return address


@click.command()
@click.option(
    "--address", default="127.0.0.1:6000", show_default=True, metavar="HOST:PORT", callback=_address,
    help="The external scaler, without TLS.",
)  # fmt: skip
@click.option(
    "-m", "--metadata", multiple=True, metavar="KEY=VALUE", callback=_metadata,
    help="One key of the trigger's metadata; repeat it for more. Sent as it stands.",
)  # fmt: skip
@click.option("--name", default="probe", show_default=True, help="The ScaledObject's name.")
@click.option("--namespace", default="default", show_default=True, help="Its namespace.")
@click.option(
    "--replicas", type=click.IntRange(min=0), default=1, show_default=True, metavar="N",
    help="The workload's size, for the HPA's arithmetic.",
)  # fmt: skip
@click.option(
    "--ready", type=click.IntRange(min=0), metavar="N", help="How many of them are ready.  [default: all of them]"
)
@click.option(
    "--value-type", type=click.Choice([kind.value for kind in ValueType], case_sensitive=False),
    default=ValueType.AVERAGE_VALUE.value, show_default=True, metavar="TYPE",
    help="The trigger's KEDA metricType: AverageValue or Value.",
)  # fmt: skip
@click.option(
    "--min-replicas", type=click.IntRange(min=1), default=DEFAULT_MIN_REPLICAS, show_default=True, metavar="N",
    help="The HPA's lower limit.",
)  # fmt: skip
@click.option(
    "--max-replicas", type=click.IntRange(min=1), default=DEFAULT_MAX_REPLICAS, show_default=True, metavar="N",
    help="The HPA's upper limit.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, metavar="SECONDS",
    help="For each call; the first includes connecting. KEDA sets none.",
)  # fmt: skip
@click.option("--watch", is_flag=True, help="Ask again and again, one line a round, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True, metavar="SECONDS",
    help="How far apart the rounds of --watch begin.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Watch this many rounds, then stop.")
@click.option(
    "--follow", is_flag=True,
    help="With --watch: the workload takes the size the HPA decides on, every 15 s.",
)  # fmt: skip
@click.option("--json", "json_lines", is_flag=True, help="One JSON object a round.")
@click.pass_context
def probe(ctx: click.Context, /, **given: Any) -> None:
    """Ask an external scaler what KEDA asks, and show what the HPA would decide.

    Any external scaler will do, of this project or another: GetMetricSpec, GetMetrics and IsActive are called
    in KEDA's order, the numbers read as KEDA 2.17 and later read them, and whatever would hurt in a cluster
    is pointed out.

    \b
    keda-gpu-scaler probe -m profile=triton-inference --replicas 3
    keda-gpu-scaler probe --address scaler.gpu.svc:6000 --value-type Value
    keda-gpu-scaler probe --watch --follow --replicas 2 --max-replicas 12
    keda-gpu-scaler probe --json --count 60 > rounds.jsonl

    Metadata is sent as it stands; add -m scalerAddress=... if the scaler looks at it.

    A single round shows what the HPA recommends and how far one step takes it. A watched HPA starts with no
    past but the present size, so it shrinks after 300 s at the earliest, like a real one. The HPA is the one
    KEDA makes when the ScaledObject has no behavior of its own.

    \b
    Exit status (with --count, the highest of all rounds):
      0  all fine; also after Ctrl-C while watching
      1  the scaler answered with an error, too late, or with what KEDA cannot use
      2  wrong usage
      3  cannot connect
    """
    if given["min_replicas"] > given["max_replicas"]:
        raise click.BadParameter(
            f"{given['min_replicas']}: must not exceed --max-replicas ({given['max_replicas']})",
            ctx,
            param_hint="--min-replicas",
        )
    watching = given["watch"] or given["count"] is not None
    if given["follow"] and not watching:
        raise click.UsageError("--follow: needs --watch or --count", ctx)
    if given["follow"] and given["ready"] is not None:
        raise click.UsageError("--follow: takes every pod for ready at once; leave out --ready", ctx)
    question = Question(given["address"], given["name"], given["namespace"], given["metadata"], given["timeout"])
    scenario = Scenario(
        ValueType(given["value_type"]),
        given["replicas"],
        given["ready"],
        given["min_replicas"],
        given["max_replicas"],
        given["follow"],
    )
    pace = ctx.find_object(Pace) or Pace()
    link = Link(question, pace)
    try:
        if watching:
            code = _watch(link, pace, question, scenario, given["interval"], given["count"], given["json_lines"])
        else:
            code = _once(link, pace, question, scenario, given["json_lines"])
    finally:
        link.close()
    ctx.exit(code)


def _once(link: Link, pace: Pace, question: Question, scenario: Scenario, json_lines: bool) -> int:
    # An HPA that has seen the workload before, and remembers nothing larger: so the recommendation shows.
    simulation = Simulation(scenario, State(started=True))
    answer = link.ask()
    shown = simulation.round(pace.utc(), pace.monotonic(), question.address, answer)
    if json_lines:
        _say(as_json(shown))
        return shown.exit_code
    if answer.specs is not None:
        _say(block(shown, question))
    if answer.error is not None:
        sys.stdout.flush()
        _say(click.style(f"keda-gpu-scaler: {error_text(shown)}", fg="red"), err=True)
    return shown.exit_code


def _watch(
    link: Link,
    pace: Pace,
    question: Question,
    scenario: Scenario,
    interval_seconds: float,
    count: int | None,
    json_lines: bool,
) -> int:
    simulation = Simulation(scenario)
    worst, done, said = OK, 0, ""
    try:
        while True:
            began = pace.monotonic()
            answer = link.ask()
            shown = simulation.round(pace.utc(), pace.monotonic(), question.address, answer)
            if json_lines:
                _say(as_json(shown))
            else:
                said = _say_row(shown, done, said)
            worst, done = max(worst, shown.exit_code), done + 1
            if done == count:
                return worst
            pace.sleep(max(0.0, began + interval_seconds - pace.monotonic()))
    except KeyboardInterrupt:
        _say("")
        return OK


def _say_row(shown: Round, done: int, said: str) -> str:
    """Print a round's line, and what is to be said about it unless the line before was followed by the same."""
    if done % HEADER_EVERY_ROUNDS == 0:
        _say(header())
    _say(row(shown))
    text = notes(shown)
    if text and text != said:
        _say(text)
    return text


def _say(text: str, *, err: bool = False) -> None:
    # None leaves it to click: colours on a terminal only.
    click.echo(text, err=err, color=False if os.environ.get("NO_COLOR") else None)
