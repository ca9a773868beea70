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
``sights``       of every pod (or device): ``pod``, ``node``, ``ready``, ``state``, ``value``, ``age_seconds``,
                 ``sentence`` and ``devices`` (``index``, ``model``, ``uuid``, ``value``, ``sharers``)
``demand``       null, or ``value``, ``wakes`` (each null while unknown) and ``sentence``
``scope``, ``seen``, ``expected``, ``metric``, ``unit``, ``value`` (null without one), ``target``, ``value_type``,
``active``, ``undecided``, ``lack``, ``reason`` and ``steps``   as the scaler judged
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
from keda_gpu_scaler.wire import verdict_pb2 as verdict_pb

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
    verdict: verdict_pb.Verdict | None
    error: Call | None = None
    prospect: Forecast | None = None
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
    definition, verdict = shown.definition, shown.verdict
    title = "/".join(filter(None, (definition.namespace, definition.name))) or "no ScaledObject"
    page.line(f"{printable(title)}, trigger {shown.declared.number} of {shown.of_triggers}", bold=True)
    node = f" on node {verdict.instance}" if verdict is not None and verdict.instance else ""
    page.entry("asked", f"{shown.asked}{node}, {shown.at.astimezone():%H:%M:%S}")
    if verdict is None:
        error = shown.error
        page.entry("error", f"{error.status}: {error.details}" if error else "", fg="red")
        return page.text
    _means(page, verdict, shown.declared)
    _workload(page, verdict)
    _sights(page, verdict)
    _why(page, verdict)
    _answer(page, shown, verdict)
    return page.text


def _means(page: "_Page", verdict: verdict_pb.Verdict, declared: ScaledObjectTrigger) -> None:
    rows = [(one.key, one.value, one.origin) for one in verdict.settings]
    if not page.wide:
        # What nobody said and nobody asks about is left to -o wide.
        rows = [row for row in rows if row[2] != "default" or row[0] in ("metricType", "targetValue", "scope")]
    page.table("means", ("key", "value", "from"), rows)
    for hint in verdict.hints:
        page.entry("warning", hint, fg="yellow")
    for key in declared.metadata:
        if key.endswith("FromEnv"):
            text = f"{key}: KEDA reads it from the workload's environment, which is not looked into here"
            page.entry(
                "warning", f"{text}: give its value with --metadata {key.removesuffix('FromEnv')}=…", fg="yellow"
            )


def _workload(page: "_Page", verdict: verdict_pb.Verdict) -> None:
    if not verdict.HasField("workload"):
        return
    one = verdict.workload
    page.entry("workload", f"{one.target}: {one.wanted} replicas wanted, {one.actual} there, {one.ready} ready")


def _sights(page: "_Page", verdict: verdict_pb.Verdict) -> None:
    sights = verdict.sights if page.wide else verdict.sights[:MAX_ROWS]
    rows = [_row(sight, verdict.unit, page.wide) for sight in sights]
    is_of_pods = any(sight.pod for sight in verdict.sights)
    if is_of_pods:
        page.table("pods", ("pod", "node", "ready", "value", "age", "devices"), rows)
    elif rows:
        page.table("devices", ("node", "value", "age", "device"), [(row[1], *row[3:]) for row in rows])
    left_out = verdict.sights_left_out + len(verdict.sights) - len(sights)
    if left_out:
        page.entry("", f"and {left_out} more" + ("" if page.wide else ": -o wide and --json show more"))


def _row(sight: verdict_pb.Sight, unit: str, wide: bool) -> tuple[str, ...]:
    value = f"{sight.value:.6g} {unit}".rstrip() if sight.HasField("value") else _UNKNOWN
    if sight.state in ("outside", "empty", "unasked"):
        value = "-"
    ready = "yes" if sight.ready else "no"
    return (sight.pod, sight.node or "-", ready, value, _age(sight), _devices(sight, unit, wide))


def _age(sight: verdict_pb.Sight) -> str:
    if not sight.HasField("age_seconds"):
        return "-"
    return f"{sight.age_seconds:.1f} s" if sight.age_seconds < 10 else f"{sight.age_seconds:.0f} s"


def _devices(sight: verdict_pb.Sight, unit: str, wide: bool) -> str:
    if not sight.devices or not sight.HasField("value"):
        return sight.sentence
    return "; ".join(_device(device, unit, wide) for device in sight.devices)


def _device(device: verdict_pb.Device, unit: str, wide: bool) -> str:
    identity = f" ({device.uuid})" if wide else ""
    value = f"{device.value:.6g} {unit}".rstrip() if device.HasField("value") else _UNKNOWN
    shared = f", shared by {device.sharers} pods" if device.sharers > 1 else ""
    return f"GPU {device.index} {device.model}{identity} {value}{shared}"


def _why(page: "_Page", verdict: verdict_pb.Verdict) -> None:
    """Show how it came about, but for what the table has shown."""
    told = {sight.sentence for sight in verdict.sights}
    told |= {f"pod {sight.pod}{'' if sight.ready else ' (not ready)'}: {sight.sentence}" for sight in verdict.sights}
    steps = [step for step in verdict.steps if step not in told and not step.startswith(_ACTIVITIES)]
    shown = steps if page.wide else steps[:MAX_STEPS]
    for number, step in enumerate(shown):
        page.entry("why" if number == 0 else "", step)
    if len(steps) > len(shown):
        page.entry("", f"and {len(steps) - len(shown)} more: -o wide shows all")
    if verdict.HasField("demand"):
        page.entry("demand", verdict.demand.sentence)


def _answer(page: "_Page", shown: ExplainResult, verdict: verdict_pb.Verdict) -> None:
    prospect = shown.prospect
    kind = prospect.value_type if prospect else verdict.value_type
    of = "pods" if verdict.scope == "workload" else "devices" if verdict.scope != "endpoint" else "endpoints"
    if verdict.HasField("value"):
        page.entry(
            "value",
            f"{verdict.value:.6g}, target {verdict.target:g} ({kind or 'metricType unknown'}), "
            f"{verdict.seen} of {verdict.expected} {of} seen",
            bold=True,
        )
    else:
        # What is absent must be changed by somebody; what is unseen may come back by itself.
        does = "must be changed" if verdict.lack == "absent" else "may pass by itself"
        page.entry("value", f"{_UNKNOWN} ({does}): {verdict.reason}", fg="red")
    page.entry("active", _activity(verdict))
    if prospect is not None:
        _prospect(page, prospect, shown)


def _activity(verdict: verdict_pb.Verdict) -> str:
    if verdict.undecided:
        return f"{_UNKNOWN} (IsActive is an error): neither to be woken nor put to sleep"
    last = verdict.steps[-1] if verdict.steps else ""
    why = last.partition(": ")[2] if last.startswith(_ACTIVITIES) else ""
    return f"{'yes' if verdict.active else 'no'}{f': {why}' if why else ''}"


def _prospect(page: "_Page", prospect: Forecast, shown: ExplainResult) -> None:
    definition = shown.definition
    if prospect.recommendation is not None:
        page.entry("hpa", prospect.recommendation.sentence)
    if prospect.decision is not None:
        page.entry("decision", decided(prospect.decision, prospect.current, definition), bold=True)
    elif definition.kind == "ScaledObject":
        page.entry("hpa", "what it decides depends on the size, which the scaler does not know: say --replicas N")
    for number, sentence in enumerate(prospect.limits):
        page.entry("limits" if number == 0 else "", sentence)
    if shown.status is not None:
        page.entry("hpa status", f"{shown.status.current} replicas, wants {shown.status.desired}")
        for sentence in shown.status.conditions:
            page.entry("", sentence)
    for number, sentence in enumerate(prospect.keda):
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
    definition, verdict = shown.definition, shown.verdict
    told: dict[str, Any] = {
        "at": shown.at.isoformat(),
        "namespace": definition.namespace,
        "name": definition.name,
        "kind": definition.kind,
        "asked": shown.asked,
        "instance": (verdict.instance or None) if verdict is not None else None,
        "trigger": {"number": shown.declared.number, "metadata": dict(shown.declared.metadata)},
        "error": shown.error and {"status": shown.error.status, "details": shown.error.details},
    }
    told |= dict(_judged(verdict)) if verdict is not None else dict.fromkeys(_JUDGED)
    told |= _foreseen(shown)
    return json.dumps(told, ensure_ascii=False, allow_nan=False)


_JUDGED = (
    "settings", "hints", "workload", "sights", "demand", "scope", "seen", "expected", "metric", "unit", "value",
    "target", "value_type", "active", "undecided", "lack", "reason", "steps",
)  # fmt: skip


def _judged(verdict: verdict_pb.Verdict) -> Iterator[tuple[str, Any]]:
    yield "settings", [{"key": one.key, "value": one.value, "origin": one.origin} for one in verdict.settings]
    yield "hints", list(verdict.hints)
    known = verdict.workload
    yield (
        "workload",
        {"target": known.target, "wanted": known.wanted, "actual": known.actual, "ready": known.ready}
        if verdict.HasField("workload")
        else None,
    )
    yield "sights", [_sight(sight) for sight in verdict.sights]
    demand = verdict.demand
    yield (
        "demand",
        {"value": _optional(demand, "value"), "wakes": _optional(demand, "wakes"), "sentence": demand.sentence}
        if verdict.HasField("demand")
        else None,
    )
    for key in ("scope", "seen", "expected", "metric", "unit"):
        yield key, getattr(verdict, key)
    yield "value", _optional(verdict, "value")
    for key in ("target", "value_type", "active", "undecided", "lack", "reason"):
        yield key, getattr(verdict, key)
    yield "steps", list(verdict.steps)


def _sight(sight: verdict_pb.Sight) -> dict[str, Any]:
    return {
        "pod": sight.pod or None,
        "node": sight.node or None,
        "ready": sight.ready,
        "state": sight.state,
        "value": _optional(sight, "value"),
        "age_seconds": _optional(sight, "age_seconds"),
        "sentence": sight.sentence,
        "devices": [
            {
                "index": one.index,
                "model": one.model,
                "uuid": one.uuid,
                "value": _optional(one, "value"),
                "sharers": one.sharers,
            }
            for one in sight.devices
        ],
    }


def _foreseen(shown: ExplainResult) -> dict[str, Any]:
    prospect, status = shown.prospect, shown.status
    decision = prospect.decision if prospect else None
    hpa = None
    if prospect is not None and decision is not None:
        hpa = {
            "recommended": decision.recommended,
            "replicas": decision.replicas,
            "limit": decision.limit.value,
            "arithmetic": prospect.recommendation.sentence if prospect.recommendation else None,
            "sentence": decision.sentence,
        }
    return {
        "hpa": hpa,
        "status": status
        and {"current": status.current, "desired": status.desired, "conditions": list(status.conditions)},
        "keda": list(prospect.keda) if prospect else None,
        "limits": list(prospect.limits) if prospect else None,
    }


def _optional(message: Any, key: str) -> Any:
    return getattr(message, key) if message.HasField(key) else None
