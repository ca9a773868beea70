# SPDX-License-Identifier: Apache-2.0
"""What does an explanation look like, to a person and to a program?

The law of this module: no line is wider than the screen, what is unknown is shown as unknown ("?") with its reason,
and of a stranger's text nothing reaches a terminal that it would obey.

With ``--json`` each trigger is one object on one line, whose keys stay as they are:

``at``           when, ISO 8601 in UTC
``namespace``, ``name``, ``kind``   of the ScaledObject or ScaledJob
``asked``        who was asked: an address, or "pod NAMESPACE/NAME"
``instance``     the node of whoever answered, null where it has none
``trigger``      ``number`` (from 1, among all triggers) and ``metadata`` as it was sent
``error``        null, or ``status`` (gRPC's name for it) and ``details``; then all that follows is null
``settings``     a list of ``key``, ``value`` and ``origin``: what the trigger means after profile and defaults
``hints``        sentences on keys that look misspelt
``workload``     null where nobody knows it, or ``target``, ``wanted``, ``actual`` and ``ready``
``observations``       of every pod (or device): ``pod``, ``node``, ``ready``, ``state``, ``value``, ``age_seconds``,
                 ``sentence`` and ``devices`` (``index``, ``model``, ``uuid``, ``value``, ``sharers``)
``demand``       null, or ``value``, ``is_active`` (each null while unknown) and ``sentence``
``scope``, ``with_value``, ``expected``, ``metric``, ``unit``, ``value`` (null without one), ``target``, ``value_type``,
``active``, ``activity_unknown``, ``no_value_reason``, ``reason`` and ``steps``   as the scaler judged
``hpa``          null where the HPA has no say or the size is not known, or ``recommended`` (null without a value),
                 ``replicas`` (the size it decides on), ``limit``, ``arithmetic`` and ``sentence``
``status``       null, or the real HPA's: ``current``, ``desired`` and ``conditions``, sentences
``keda``         sentences on what KEDA does itself
``limits``       sentences on what bounds the HPA
"""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click

from keda_gpu_scaler.cli.explain.forecast import Forecast, decided
from keda_gpu_scaler.cli.explain.scaledobject import ScaledObject, ScaledObjectTrigger
from keda_gpu_scaler.cli.probe.client import Call
from keda_gpu_scaler.cli.probe.render import MAX_STEPS, printable
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

NARROWEST = 60
MAX_ROWS = 40
"""So many pods or devices fit a screen; ``-o wide`` and JSON have all of them."""

_LABEL = 12
_GAP = 2
_ROOM_FOR_DEVICES = 30
_UNKNOWN = "?"
_ACTIVITIES = ("active: ", "inactive: ")


@dataclass(frozen=True, slots=True)
class ExplainResult:
    """One trigger's explanation: who was asked, and what came of it; ``error`` where there is no verdict."""

    at: datetime
    definition: ScaledObject
    declared: ScaledObjectTrigger
    of_triggers: int
    asked: str
    evaluation: evaluation_pb.Evaluation | None
    error: Call | None = None
    forecast: Forecast | None = None
    status: "HpaStatus | None" = None


@dataclass(frozen=True, slots=True)
class HpaStatus:
    """What the real HPA says of itself: its size, the one that it wants, and each condition as a sentence."""

    current: int
    desired: int
    conditions: tuple[str, ...]


def hpa_status(item: Mapping[str, Any] | None) -> HpaStatus | None:
    """Keep of a HorizontalPodAutoscaler what it says of itself; None where there is none."""
    status = item.get("status") if item else None
    if not isinstance(status, Mapping):
        return None
    conditions = status.get("conditions")
    sentences = tuple(
        f"{one.get('type')} {one.get('status')}: {one.get('message')} ({one.get('reason')})"
        for one in (conditions if isinstance(conditions, list) else ())
        if isinstance(one, Mapping)
    )
    return HpaStatus(int(status.get("currentReplicas") or 0), int(status.get("desiredReplicas") or 0), sentences)


def screen(shown: ExplainResult, width: int, *, wide: bool = False) -> str:
    """One explanation for a person."""
    page = _Page(max(width, NARROWEST), wide)
    definition, evaluation = shown.definition, shown.evaluation
    title = "/".join(filter(None, (definition.namespace, definition.name))) or "no ScaledObject"
    page.line(f"{printable(title)}, trigger {shown.declared.number} of {shown.of_triggers}", bold=True)
    node = f" on node {evaluation.instance}" if evaluation is not None and evaluation.instance else ""
    page.entry("asked", f"{shown.asked}{node}, {shown.at.astimezone():%H:%M:%S}")
    if evaluation is None:
        error = shown.error
        page.entry("error", f"{error.status}: {error.details}" if error else "", fg="red")
        return page.text
    _means(page, evaluation, shown.declared)
    _workload(page, evaluation)
    _sights(page, evaluation)
    _why(page, evaluation)
    _answer(page, shown, evaluation)
    return page.text


def _means(page: "_Page", evaluation: evaluation_pb.Evaluation, declared: ScaledObjectTrigger) -> None:
    rows = [(one.key, one.value, one.origin) for one in evaluation.settings]
    if not page.wide:
        # What nobody said and nobody asks about is left to -o wide.
        rows = [row for row in rows if row[2] != "default" or row[0] in ("metricType", "targetValue", "scope")]
    page.table("means", ("key", "value", "from"), rows)
    for hint in evaluation.hints:
        page.entry("warning", hint, fg="yellow")
    for key in declared.metadata:
        if key.endswith("FromEnv"):
            text = f"{key}: KEDA reads it from the workload's environment, which is not looked into here"
            page.entry(
                "warning", f"{text}: give its value with --metadata {key.removesuffix('FromEnv')}=…", fg="yellow"
            )


def _workload(page: "_Page", evaluation: evaluation_pb.Evaluation) -> None:
    if not evaluation.HasField("workload"):
        return
    one = evaluation.workload
    page.entry("workload", f"{one.target}: {one.wanted} replicas wanted, {one.actual} there, {one.ready} ready")


def _sights(page: "_Page", evaluation: evaluation_pb.Evaluation) -> None:
    observations = evaluation.observations if page.wide else evaluation.observations[:MAX_ROWS]
    rows = [_row(observation, evaluation.unit, page.wide) for observation in observations]
    is_of_pods = any(observation.pod for observation in evaluation.observations)
    if is_of_pods:
        page.table("pods", ("pod", "node", "ready", "value", "age", "devices"), rows)
    elif rows:
        page.table("devices", ("node", "value", "age", "device"), [(row[1], *row[3:]) for row in rows])
    left_out = evaluation.observations_omitted + len(evaluation.observations) - len(observations)
    if left_out:
        page.entry("", f"and {left_out} more" + ("" if page.wide else ": -o wide and --json show more"))


def _row(observation: evaluation_pb.Observation, unit: str, wide: bool) -> tuple[str, ...]:
    value = f"{observation.value:.6g} {unit}".rstrip() if observation.HasField("value") else _UNKNOWN
    if observation.state in ("out_of_scope", "no_device", "not_ready"):
        value = "-"
    ready = "yes" if observation.ready else "no"
    return (
        observation.pod,
        observation.node or "-",
        ready,
        value,
        _age(observation),
        _devices(observation, unit, wide),
    )


def _age(observation: evaluation_pb.Observation) -> str:
    if not observation.HasField("age_seconds"):
        return "-"
    return f"{observation.age_seconds:.1f} s" if observation.age_seconds < 10 else f"{observation.age_seconds:.0f} s"


def _devices(observation: evaluation_pb.Observation, unit: str, wide: bool) -> str:
    if not observation.devices or not observation.HasField("value"):
        return observation.sentence
    return "; ".join(_device(device, unit, wide) for device in observation.devices)


def _device(device: evaluation_pb.ObservedDevice, unit: str, wide: bool) -> str:
    identity = f" ({device.uuid})" if wide else ""
    value = f"{device.value:.6g} {unit}".rstrip() if device.HasField("value") else _UNKNOWN
    shared = f", shared by {device.sharers} pods" if device.sharers > 1 else ""
    return f"GPU {device.index} {device.model}{identity} {value}{shared}"


def _why(page: "_Page", evaluation: evaluation_pb.Evaluation) -> None:
    """Show how it came about, but for what the table has shown."""
    told = {observation.sentence for observation in evaluation.observations}
    told |= {
        f"pod {observation.pod}{'' if observation.ready else ' (not ready)'}: {observation.sentence}"
        for observation in evaluation.observations
    }
    steps = [step for step in evaluation.steps if step not in told and not step.startswith(_ACTIVITIES)]
    shown = steps if page.wide else steps[:MAX_STEPS]
    for number, step in enumerate(shown):
        page.entry("why" if number == 0 else "", step)
    if len(steps) > len(shown):
        page.entry("", f"and {len(steps) - len(shown)} more: -o wide shows all")
    if evaluation.HasField("demand"):
        page.entry("demand", evaluation.demand.sentence)


def _answer(page: "_Page", shown: ExplainResult, evaluation: evaluation_pb.Evaluation) -> None:
    forecast = shown.forecast
    kind = forecast.value_type if forecast else evaluation.value_type
    of = "pods" if evaluation.scope == "workload" else "devices" if evaluation.scope != "endpoint" else "endpoints"
    if evaluation.HasField("value"):
        page.entry(
            "value",
            f"{evaluation.value:.6g}, target {evaluation.target:g} ({kind or 'metricType unknown'}), "
            f"{evaluation.with_value} of {evaluation.expected} {of} seen",
            bold=True,
        )
    else:
        # What is absent must be changed by somebody; what is unseen may come back by itself.
        does = "must be changed" if evaluation.no_value_reason == "misconfigured" else "may pass by itself"
        page.entry("value", f"{_UNKNOWN} ({does}): {evaluation.reason}", fg="red")
    page.entry("active", _activity(evaluation))
    if forecast is not None:
        _prospect(page, forecast, shown)


def _activity(evaluation: evaluation_pb.Evaluation) -> str:
    if evaluation.activity_unknown:
        return f"{_UNKNOWN} (IsActive is an error): neither to be woken nor put to sleep"
    last = evaluation.steps[-1] if evaluation.steps else ""
    why = last.partition(": ")[2] if last.startswith(_ACTIVITIES) else ""
    return f"{'yes' if evaluation.active else 'no'}{f': {why}' if why else ''}"


def _prospect(page: "_Page", forecast: Forecast, shown: ExplainResult) -> None:
    definition = shown.definition
    if forecast.recommendation is not None:
        page.entry("hpa", forecast.recommendation.sentence)
    if forecast.decision is not None:
        page.entry("decision", decided(forecast.decision, forecast.current, definition), bold=True)
    elif definition.kind == "ScaledObject":
        page.entry("hpa", "what it decides depends on the size, which the scaler does not know: say --replicas N")
    for number, sentence in enumerate(forecast.limits):
        page.entry("limits" if number == 0 else "", sentence)
    if shown.status is not None:
        page.entry("hpa status", f"{shown.status.current} replicas, wants {shown.status.desired}")
        for sentence in shown.status.conditions:
            page.entry("", sentence)
    for number, sentence in enumerate(forecast.keda):
        page.entry("keda" if number == 0 else "", sentence)


class _Page:
    """Lines of at most ``width`` columns, each beginning with a label or below one."""

    def __init__(self, width: int, wide: bool) -> None:
        self.width = width
        self.wide = wide
        self._lines: list[str] = []

    @property
    def text(self) -> str:
        """The lines so far."""
        return "\n".join(self._lines)

    def line(self, text: str, **style: Any) -> None:
        """Add a line that has no label."""
        self._lines += [click.style(part, **style) for part in textwrap.wrap(text, self.width)]

    def entry(self, label: str, text: str, **style: Any) -> None:
        """Add a labelled paragraph."""
        wrapped = _wrapped(printable(text), self.width - _LABEL)
        labels = [label, *[""] * (len(wrapped) - 1)]
        for name, part in zip(labels, wrapped, strict=True):
            self._lines.append(f"{name:<{_LABEL}}{click.style(part, **style)}".rstrip())

    def table(self, label: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table whose last column is wrapped, or stands below its row where there is no room beside it."""
        if not rows:
            return
        cells = [[printable(cell) for cell in row] for row in (tuple(head.upper() for head in heads), *rows)]
        room = self.width - _LABEL
        widest = max(room // 3, 12)
        cells = [[*(_cut(cell, widest) for cell in row[:-1]), row[-1]] for row in cells]
        widths = [max(len(row[column]) for row in cells) for column in range(len(heads) - 1)]
        used = sum(widths) + _GAP * len(widths)
        for number, row in enumerate(cells):
            first = "".join(f"{cell:<{size + _GAP}}" for cell, size in zip(row, widths, strict=False))
            self._row(label if number == 0 else "", first, row[-1], used, is_head=number == 0)

    def _row(self, label: str, first: str, last: str, used: int, *, is_head: bool) -> None:
        room = self.width - _LABEL - used
        if room >= min(_ROOM_FOR_DEVICES, max(len(last), 1)):
            beside, *below = _wrapped(last, room)
            lines, indent = [first + beside, *below], " " * used
        else:
            lines, indent = [first, *_wrapped(last, self.width - _LABEL - _GAP)], " " * _GAP
            lines = lines[:1] if is_head else lines
        for number, text in enumerate(lines):
            line = f"{label if number == 0 else '':<{_LABEL}}{indent if number else ''}{text}".rstrip()
            self._lines.append(click.style(line, dim=True) if is_head else line)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _cut(text: str, width: int) -> str:
    """Cut a name short, and keep its end: that is what tells pods of one workload apart."""
    return text if len(text) <= width else "…" + text[1 - width :]


def as_json(shown: ExplainResult) -> str:
    """One explanation as one line of JSON; the module's docstring has the keys."""
    definition, evaluation = shown.definition, shown.evaluation
    told: dict[str, Any] = {
        "at": shown.at.isoformat(),
        "namespace": definition.namespace,
        "name": definition.name,
        "kind": definition.kind,
        "asked": shown.asked,
        "instance": (evaluation.instance or None) if evaluation is not None else None,
        "trigger": {"number": shown.declared.number, "metadata": dict(shown.declared.metadata)},
        "error": shown.error and {"status": shown.error.status, "details": shown.error.details},
    }
    told |= dict(_judged(evaluation)) if evaluation is not None else dict.fromkeys(_JUDGED)
    told |= _foreseen(shown)
    return json.dumps(told, ensure_ascii=False, allow_nan=False)


_JUDGED = (
    "settings", "hints", "workload", "observations", "demand", "scope", "with_value", "expected", "metric", "unit", "value",
    "target", "value_type", "active", "activity_unknown", "no_value_reason", "reason", "steps",
)  # fmt: skip


def _judged(evaluation: evaluation_pb.Evaluation) -> Iterator[tuple[str, Any]]:
    yield "settings", [{"key": one.key, "value": one.value, "origin": one.origin} for one in evaluation.settings]
    yield "hints", list(evaluation.hints)
    known = evaluation.workload
    yield (
        "workload",
        {"target": known.target, "wanted": known.wanted, "actual": known.actual, "ready": known.ready}
        if evaluation.HasField("workload")
        else None,
    )
    yield "observations", [_sight(observation) for observation in evaluation.observations]
    demand = evaluation.demand
    yield (
        "demand",
        {"value": _optional(demand, "value"), "active": _optional(demand, "active"), "sentence": demand.sentence}
        if evaluation.HasField("demand")
        else None,
    )
    for key in ("scope", "with_value", "expected", "metric", "unit"):
        yield key, getattr(evaluation, key)
    yield "value", _optional(evaluation, "value")
    for key in ("target", "value_type", "active", "activity_unknown", "no_value_reason", "reason"):
        yield key, getattr(evaluation, key)
    yield "steps", list(evaluation.steps)


def _sight(observation: evaluation_pb.Observation) -> dict[str, Any]:
    return {
        "pod": observation.pod or None,
        "node": observation.node or None,
        "ready": observation.ready,
        "state": observation.state,
        "value": _optional(observation, "value"),
        "age_seconds": _optional(observation, "age_seconds"),
        "sentence": observation.sentence,
        "devices": [
            {
                "index": one.index,
                "model": one.model,
                "uuid": one.uuid,
                "value": _optional(one, "value"),
                "sharers": one.sharers,
            }
            for one in observation.devices
        ],
    }


def _foreseen(shown: ExplainResult) -> dict[str, Any]:
    forecast, status = shown.forecast, shown.status
    decision = forecast.decision if forecast else None
    hpa = None
    if forecast is not None and decision is not None:
        hpa = {
            "recommended": decision.recommended,
            "replicas": decision.replicas,
            "limit": decision.limit.value,
            "arithmetic": forecast.recommendation.sentence if forecast.recommendation else None,
            "sentence": decision.sentence,
        }
    return {
        "hpa": hpa,
        "status": status
        and {"current": status.current, "desired": status.desired, "conditions": list(status.conditions)},
        "keda": list(forecast.keda) if forecast else None,
        "limits": list(forecast.limits) if forecast else None,
    }


def _optional(message: Any, key: str) -> Any:
    return getattr(message, key) if message.HasField(key) else None
