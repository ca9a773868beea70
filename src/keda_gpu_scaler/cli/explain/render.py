# SPDX-License-Identifier: Apache-2.0
"""Shows the explanation of a trigger as a page: the answer, the reasons, the pods, the next commands.

Law: no line is wider than the page. A number that is not known is shown as "?", with its reason. The measured value and
the number for the HPA stand in two columns.
"""

from dataclasses import dataclass

from keda_gpu_scaler.cli.explain.answer import answer_line
from keda_gpu_scaler.cli.explain.causes import Cause
from keda_gpu_scaler.cli.explain.details import add_details
from keda_gpu_scaler.cli.explain.reasons import next_steps, reasons
from keda_gpu_scaler.cli.explain.result import ExplainResult
from keda_gpu_scaler.cli.measured import measured_text
from keda_gpu_scaler.cli.output import age, three_digits
from keda_gpu_scaler.cli.page import Page
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb

MAX_ROWS = 10
"""A page shows at most this many pods or devices, those without a value first; ``-o wide`` has all of them."""
SCREEN_LINES = 24
"""The lines of a page with three pods, at any width from 80 columns."""
ROOM_FOR_DEVICES = 100
"""Columns of a page from which the devices of a pod with a value are shown."""

_ALL = 1000
_PODS_OF_A_SCREEN = 3
_LINES_OF_THE_CAUSE = 4  # of the first reason, which names the cause
_SIMULATE = "keda-gpu-scaler simulate -f FILE --traffic FILE --set trigger.{}=A,B --sweep"
_STATES_WITHOUT_NUMBER = ("out_of_scope", "no_device", "not_ready", "worker")
_COUNTED = {"workload": "ready pods", "endpoint": "endpoints"}


@dataclass(frozen=True, slots=True)
class _Room:
    """How much a page shows: reasons, lines of a reason after the first one, lines of a pod's sentence, commands."""

    reasons: int = _ALL
    reason_lines: int = _ALL
    sentence_lines: int = _ALL
    commands: int = _ALL


_ROOMS = (
    _Room(),
    _Room(sentence_lines=1),
    _Room(reason_lines=1, sentence_lines=1),
    _Room(5, 1, 0, 2),
    _Room(4, 1, 0, 1),
)
"""From everything to what fits a screen in any case. ``-o wide`` shows everything."""


def explanation_page(shown: ExplainResult, width: int, *, is_wide: bool = False) -> str:
    """Return one explanation: three pods have at most ``SCREEN_LINES`` lines, and each further one has one more.

    Args:
        shown: the explanation.
        width: columns.
        is_wide: show every setting, pod, device id, URL and step.
    """
    if is_wide:
        return _page(shown, width, _Room(), is_wide=True)
    pods = len(shown.evaluation.observations) if shown.evaluation is not None else 0
    most_lines = SCREEN_LINES + max(0, min(pods, MAX_ROWS) - _PODS_OF_A_SCREEN)
    pages = (_page(shown, width, room, is_wide=False) for room in _ROOMS)
    text = ""
    for text in pages:
        if len(text.splitlines()) <= most_lines:
            break
    return text


def _page(shown: ExplainResult, width: int, room: _Room, *, is_wide: bool) -> str:
    page = Page(width)
    evaluation = shown.evaluation
    page.title(answer_line(shown))
    why = reasons(shown)
    for number, reason in enumerate(why[: room.reasons]):
        lines = room.reason_lines if number else max(room.reason_lines, _LINES_OF_THE_CAUSE)
        page.entry("" if number else "why", page.beginning(reason.text, lines), reason.style)
    if len(why) > room.reasons:
        page.entry("", f"and {len(why) - room.reasons} more; -o wide shows them")
    if evaluation is not None:
        said = "" if is_wide else "\n".join(one.text for one in why)
        _add_observations(page, evaluation, is_wide, said, room.sentence_lines)
        _add_value(page, shown, evaluation, room.sentence_lines)
        if is_wide:
            add_details(page, shown, evaluation)
    steps = [step for step in next_steps(shown) if not (is_wide and step.cause is Cause.NONE)]
    for number, step in enumerate(steps[: room.commands]):
        page.command("" if number else "next", step.command, step.cause.value)
    if is_wide and evaluation is not None and evaluation.HasField("value"):
        key = "headroom" if evaluation.metric == "load" else "targetValue"
        page.command("try", _SIMULATE.format(key), "another target, on your traffic")
    _add_source(page, shown, is_wide)
    return page.text


def _add_source(page: Page, shown: ExplainResult, is_wide: bool) -> None:
    evaluation = shown.evaluation
    node = f" on node {evaluation.instance}" if evaluation is not None and evaluation.instance else ""
    more = "" if is_wide or evaluation is None else "; -o wide shows the settings and steps"
    page.entry("from", f"{shown.instance}{node} at {shown.at.astimezone():%H:%M:%S}{more}")


# ---- the pods ----


def _add_observations(
    page: Page, evaluation: evaluation_pb.Evaluation, is_wide: bool, said: str, sentence_lines: int
) -> None:
    """Add the table; a sentence that was said above is left out, and others have at most so many lines."""
    observations = list(evaluation.observations)
    if not is_wide:
        observations.sort(key=lambda one: one.state != "missing")  # stable: the others keep their order
        observations = observations[:MAX_ROWS]
    has_room = is_wide or page.width >= ROOM_FOR_DEVICES
    rows = [_row(one, evaluation.unit, has_room=has_room, is_wide=is_wide) for one in observations]
    rows = [(*row[:-1], "" if row[-1] in said else page.beginning(row[-1], sentence_lines)) for row in rows]
    heads: tuple[str, ...] = ("pod", "node", "ready", "measured", "age", "devices")
    if not any(one.pod for one in evaluation.observations):
        heads, rows = ("node", "measured", "age", "device"), [(row[1], *row[3:]) for row in rows]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    page.table(heads[0] + "s" if heads[0] == "pod" else "devices", heads, rows)
    omitted = evaluation.observations_omitted + len(evaluation.observations) - len(observations)
    if omitted:
        page.entry("", f"and {omitted} more" + ("" if is_wide else "; -o wide and --json show them"))


def _row(observation: evaluation_pb.Observation, unit: str, *, has_room: bool, is_wide: bool) -> tuple[str, ...]:
    value = three_digits(observation.value if observation.HasField("value") else None, unit)
    age_seconds = observation.age_seconds if observation.HasField("age_seconds") else None
    return (
        observation.pod,
        observation.node or "-",
        "yes" if observation.ready else "no",
        "-" if observation.state in _STATES_WITHOUT_NUMBER else value,
        age(age_seconds),
        _details(observation, unit, has_room=has_room, is_wide=is_wide),
    )


def _details(observation: evaluation_pb.Observation, unit: str, *, has_room: bool, is_wide: bool) -> str:
    """Return why there is no value, and where there is room the devices or the engine behind one."""
    remarks = dict.fromkeys(remark for attempt in observation.attempts for remark in attempt.remarks)
    if not observation.HasField("value"):
        return "; ".join([observation.sentence, *remarks])
    if not has_room:
        return "; ".join([*_indices(observation), *remarks])
    if observation.devices:
        return "; ".join(_device(device, unit, is_wide) for device in observation.devices)
    return "; ".join([observation.sentence, *remarks])


def _indices(observation: evaluation_pb.Observation) -> list[str]:
    """Return the index of a device that is observed without its pods; a pod is named by itself."""
    return [] if observation.pod else [f"GPU {device.index}" for device in observation.devices]


def _device(device: evaluation_pb.ObservedDevice, unit: str, is_wide: bool) -> str:
    identity = f" ({device.uuid})" if is_wide else ""
    value = three_digits(device.value if device.HasField("value") else None, unit)
    shared = f", shared by {device.sharers} pods" if device.sharers > 1 else ""
    return f"GPU {device.index} {device.model}{identity} {value}{shared}"


# ---- the value ----


def _add_value(page: Page, shown: ExplainResult, evaluation: evaluation_pb.Evaluation, sentence_lines: int) -> None:
    value_type = (shown.forecast.value_type if shown.forecast else evaluation.value_type) or "metricType unknown"
    reported = three_digits(evaluation.value if evaluation.HasField("value") else None)
    row = (measured_text(evaluation), three_digits(evaluation.target, evaluation.unit), reported)
    reported_as = page.beginning(_reported(evaluation, value_type), max(1, sentence_lines))
    page.table("value", ("measured", "target", "reported", "to the hpa"), [(*row, reported_as)])


def _reported(evaluation: evaluation_pb.Evaluation, value_type: str) -> str:
    """Say what the number for the HPA is: the plain total or mean, or an adjusted number and why."""
    if not evaluation.HasField("value"):
        return f"KEDA gets an error ({value_type})"
    if evaluation.comparison.adjustment:
        return f"adjusted ({value_type}): {evaluation.comparison.adjustment}"
    counted = _COUNTED.get(evaluation.scope, "devices")
    what = {"AverageValue": "the total of", "Value": "the mean of"}.get(value_type, "from")
    if evaluation.scope != "workload":
        what = "from"
    return f"{what} {evaluation.with_value} of {evaluation.expected} {counted} ({value_type})"
