# SPDX-License-Identifier: Apache-2.0
"""The page of a workload: the charts of its last hour, its pods and the steps of its last answer.

Law: the page shows what was answered to KEDA. It evaluates nothing and registers no interest. Its size is bounded.
"""

from collections.abc import Iterator, Sequence
from urllib.parse import parse_qs

from keda_gpu_scaler.core.comparison import significant
from keda_gpu_scaler.core.evaluate.observation import DeviceObservation, ObservationState, PodObservation
from keda_gpu_scaler.core.instance_status import RecentAnswer, RefusedTrigger
from keda_gpu_scaler.server.history_chart import (
    Points,
    history_table,
    replica_chart,
    replica_scale,
    value_chart,
    value_scale,
)
from keda_gpu_scaler.server.status_assets import DOCUMENTS
from keda_gpu_scaler.server.status_text import (
    UNKNOWN,
    left_out_note,
    safe_text,
    table_cells,
    table_start,
)
from keda_gpu_scaler.server.status_view import StatusView, framed
from keda_gpu_scaler.server.status_workloads import answer_facts, answer_notes, refusal, unit_of

MAX_OBSERVATIONS = 200
MAX_TRIGGERS = 20
"""The limits of the page: the pods or devices of a trigger, and the triggers of an object."""

_MAX_FIELDS = 16  # of the query string
_BACK = '<a href="/">All workloads</a>'
_STATES = {
    ObservationState.OBSERVED: "with value",
    ObservationState.MISSING: "<span class=bad>no value</span>",
    ObservationState.OUT_OF_SCOPE: "out of scope",
    ObservationState.NO_DEVICE: "no device",
    ObservationState.NOT_READY: "not ready",
    ObservationState.WORKER: "worker",
}
_VALUE_LEGEND = (("measured", "measured"), ("target", "target"), ("no-value", "answers without a value"))
_REPLICA_LEGEND = (
    ("replicas", "now"), ("ready", "ready"), ("wanted", "wanted"), ("limits", "from the minimum to the maximum"),
    ("inactive", "inactive"),
)  # fmt: skip

Observation = PodObservation | DeviceObservation


def workload_document(view: StatusView, query: str) -> tuple[str, int]:
    """Return the page of the workload that a query string names, and its HTTP status.

    ``namespace`` and ``name`` are those of the ScaledObject, and ``metric`` is the metric name of a trigger. Without
    ``metric`` the page has every trigger of the object.
    """
    try:
        fields = parse_qs(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        fields = {}
    namespace, name, metric = (fields.get(key, [None])[-1] for key in ("namespace", "name", "metric"))
    if namespace is None or name is None:
        sentence = "The address of this page has no namespace or no name: open a workload from the list of workloads."
        return _missing(view, sentence), 404
    answers = [
        one
        for one in view.answers
        if (one.namespace, one.name) == (namespace, name) and metric in (None, one.metric_name)
    ]
    refused = [one for one in view.refused if (one.namespace, one.name) == (namespace, name)]
    title = f"{namespace}/{name}"
    if not answers and not refused:
        of = "" if metric is None else f" and its metric {metric}"
        sentence = (
            f"This instance got no request from KEDA about {title}{of} in the last ten minutes, and none of its "
            "triggers is refused. KEDA may call another instance."
        )
        return _missing(view, sentence), 404
    return framed(view, title, _main(view, answers, refused), _BACK), 200


def _missing(view: StatusView, sentence: str) -> str:
    return framed(view, "No such workload", (f"<p>{safe_text(sentence)}</p>",), _BACK)


def _main(view: StatusView, answers: Sequence[RecentAnswer], refused: Sequence[RefusedTrigger]) -> Iterator[str]:
    if refused:
        yield "<section aria-labelledby=refused>"
        yield "<h2 id=refused>Refused triggers</h2>"
        for trigger in refused[:MAX_TRIGGERS]:
            state, problems = refusal(trigger, view.now)
            yield f"<p>{state}</p>{problems}"
        yield left_out_note(len(refused) - MAX_TRIGGERS, "refused triggers")
        yield f'<p><a href="{DOCUMENTS}/operating.md#a-trigger-is-refused">What to do about a refused trigger</a></p>'
        yield "</section>"
    for number, answer in enumerate(answers[:MAX_TRIGGERS]):
        yield from _trigger(view, answer, f"t{number}")
    yield left_out_note(len(answers) - MAX_TRIGGERS, "triggers")


def _trigger(view: StatusView, answer: RecentAnswer, name: str) -> Iterator[str]:
    """Yield the section of one trigger. ``name`` begins the ids in it."""
    yield f"<section aria-labelledby={name}>"
    yield f"<h2 id={name}>{safe_text(answer.metric_name)} <span class=faint>{safe_text(answer.metric)}</span></h2>"
    facts = "".join(f"<div><dt>{head}</dt><dd>{cell}</dd></div>" for head, cell in answer_facts(answer, view.now))
    yield f"<dl class=facts>{facts}</dl>"
    yield answer_notes(answer)
    command = safe_text(f"keda-gpu-scaler explain {answer.namespace}/{answer.name}")
    yield f"<p>What the HPA decides from it: <code>{command}</code></p>"
    history = view.history(answer)
    yield from _history(list(history.points(view.now)) if history is not None else [], answer, name)
    yield from _observations(view, answer, name)
    yield f"<h3>Steps of the last answer ({len(answer.steps)})</h3>"
    yield f"<ol>{''.join(f'<li>{safe_text(step)}</li>' for step in answer.steps)}</ol>"
    yield "</section>"


# ---- the last hour ----


def _history(points: Points, answer: RecentAnswer, name: str) -> Iterator[str]:
    yield "<h3>The last hour</h3>"
    if not points:
        yield "<p>No answer of the last hour is kept.</p>"
        return
    title, unit = f"{answer.namespace}/{answer.name}", unit_of(answer)
    chart = value_chart(points, f"{name}-value", f"{title}: measured per replica and target, the last hour", unit)
    top = safe_text(f"{significant(value_scale(points))} {unit}".rstrip())
    yield _figure("Measured per replica, and the target", chart, top, _VALUE_LEGEND)
    chart = replica_chart(points, f"{name}-size", f"{title}: replicas now, ready and wanted, the last hour")
    yield _figure("Replicas: now, ready and wanted, and the limits", chart, str(replica_scale(points)), _REPLICA_LEGEND)
    key = safe_text("/".join(("hour", answer.namespace, answer.name, answer.metric_name, answer.metric)))
    yield f'<details data-key="{key}"><summary>The last hour as a table</summary>'
    yield from history_table(points, f"{name}-hour", unit)
    yield "</details>"


def _figure(caption: str, chart: str, top: str, legend: Sequence[tuple[str, str]]) -> str:
    keys = "".join(f'<li class="key {kind}">{text}</li>' for kind, text in legend)
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f"<div class=plot><div class=scale aria-hidden=true><span>{top}</span><span>0</span></div>{chart}</div>"
        "<div class=hour aria-hidden=true><span>60 min ago</span><span>30 min ago</span><span>now</span></div>"
        f"<ul class=legend>{keys}</ul></figure>"
    )


# ---- pods and devices ----


def _observations(view: StatusView, answer: RecentAnswer, name: str) -> Iterator[str]:
    evaluation = view.evaluation_of(answer)
    observations = evaluation.observations if evaluation is not None else ()
    if not observations:
        return
    are_pods = isinstance(observations[0], PodObservation)
    yield f"<h3>{'Pods' if are_pods else 'Devices'}</h3>"
    heads = ("Pod" if are_pods else "Device", "Node", "Value", "State", "Reason or devices")
    caption = f"{'Pods' if are_pods else 'Devices and endpoints'} of the last evaluation, those without a value first"
    yield from table_start(f"{name}-pods", caption, heads)
    yield "<tbody>"
    ordered = sorted(observations, key=lambda one: _state(one) is not ObservationState.MISSING)
    for one in ordered[:MAX_OBSERVATIONS]:
        yield _observation(one, unit_of(answer))
    yield "</tbody></table></div>"
    yield left_out_note(len(observations) - MAX_OBSERVATIONS, "pods" if are_pods else "devices")


def _observation(one: Observation, unit: str) -> str:
    if isinstance(one, PodObservation):
        head, node = one.pod.ref.name, one.pod.node or "not scheduled"
    else:
        head, node = (one.device.uuid if one.device is not None else "not known"), one.node
    state = _state(one)
    value = "—" if state not in (ObservationState.OBSERVED, ObservationState.MISSING) else UNKNOWN
    if one.value is not None:
        value = safe_text(f"{significant(one.value)} {unit}".rstrip())
    cells = (safe_text(node), value, _STATES[state], safe_text(one.sentence))
    return f"<tr><th scope=row>{safe_text(head)}</th>{table_cells(cells)}</tr>"


def _state(one: Observation) -> ObservationState:
    if isinstance(one, PodObservation):
        return one.state
    return ObservationState.MISSING if one.value is None else ObservationState.OBSERVED
