# SPDX-License-Identifier: Apache-2.0
"""The workloads on the status page: refused triggers first, then the last answers and their steps.

Law: measured and reported values are shown apart.
"""

from collections.abc import Iterator

from keda_gpu_scaler.core.comparison import Comparison, ReplicaLimit, significant
from keda_gpu_scaler.core.instance_status import RecentAnswer, RefusedTrigger
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS, METRICS
from keda_gpu_scaler.server.history_chart import span_text, sparkline
from keda_gpu_scaler.server.status_text import (
    UNKNOWN,
    ago,
    duration,
    left_out_note,
    number_text,
    safe_text,
    table_cells,
    table_start,
)
from keda_gpu_scaler.server.status_view import StatusView, workload_address

MAX_WORKLOADS = 100
MAX_REFUSED = 100
"""The most triggers that are shown with an answer, and the most that are refused. The page counts the others."""

_HEADS = (
    "Workload", "Last hour", "Metric", "Measured per replica", "Target", "Reported to the HPA", "Replicas", "Active",
    "With value", "Demand", "Last answer",
)  # fmt: skip


def workloads(view: StatusView) -> Iterator[str]:
    """Yield the section of the workloads: first the refused triggers, then the last answers."""
    answers, refused, now = view.answers, view.refused, view.now
    yield "<section aria-labelledby=workloads>"
    yield "<h2 id=workloads>Workloads</h2>"
    if not answers and not refused:
        yield "<p>This instance got no request from KEDA in the last ten minutes. KEDA may call another instance.</p>"
    else:
        # Answers with unknown data come first, also where the limit leaves out others. The order is else that of names.
        shown = sorted(answers, key=lambda answer: (_is_complete(answer), _key(answer)))[:MAX_WORKLOADS]
        caption = "Last answer to KEDA for each trigger: what was measured, what is reported, and its steps"
        yield from table_start("workloads", caption, _HEADS)
        for trigger in refused[:MAX_REFUSED]:
            yield from _refused_rows(trigger, now)
        for answer in shown:
            yield from _workload(view, answer)
        yield "</table></div>"
        left_out = max(0, len(refused) - MAX_REFUSED) + len(answers) - len(shown)
        yield left_out_note(left_out, "triggers")
    yield "</section>"


def _is_complete(answer: RecentAnswer) -> bool:
    return answer.value is not None and answer.is_demand_known is not False


def _refused_rows(trigger: RefusedTrigger, now: float) -> Iterator[str]:
    """Yield the rows of a refused trigger: its object, and what to change."""
    state, problems = refusal(trigger, now)
    yield "<tbody class=refused>"
    link = _link(trigger.namespace, trigger.name)
    yield f"<tr><th scope=rowgroup>{link}</th><td colspan={len(_HEADS) - 1}>{state}</td></tr>"
    yield f"<tr class=steps><td colspan={len(_HEADS)}>{problems}</td></tr>"
    yield "</tbody>"


def refusal(trigger: RefusedTrigger, now: float) -> tuple[str, str]:
    """Return since when a trigger is refused, and the list of its problems."""
    problems = "".join(f"<li>{safe_text(problem)}</li>" for problem in trigger.problems)
    since = duration(now - trigger.since_seconds)
    return (
        f"<span class=bad>refused</span> for {since}",
        f"<p>KEDA gets no value and no target:</p><ul class=bad>{problems}</ul>",
    )


def _workload(view: StatusView, answer: RecentAnswer) -> Iterator[str]:
    """Yield the rows of a trigger: its numbers, and the folded steps."""
    cells = (_spark(view, answer), *(cell for _, cell in _cells(answer, view.now)))
    yield "<tbody>"
    link = _link(answer.namespace, answer.name, answer.metric_name)
    yield f"<tr><th scope=rowgroup>{link}</th>{table_cells(cells)}</tr>"
    key = safe_text("/".join(_key(answer)))
    steps = "".join(f"<li>{safe_text(step)}</li>" for step in answer.steps)
    details = f'<details data-key="{key}"><summary>Steps ({len(answer.steps)})</summary><ol>{steps}</ol></details>'
    yield f"<tr class=steps><td colspan={len(_HEADS)}>{answer_notes(answer)}{details}</td></tr>"
    yield "</tbody>"


def _link(namespace: str, name: str, metric_name: str | None = None) -> str:
    return f'<a href="{workload_address(namespace, name, metric_name)}">{safe_text(f"{namespace}/{name}")}</a>'


def _spark(view: StatusView, answer: RecentAnswer) -> str:
    history = view.history(answer)
    values = list(history.measured(view.now)) if history is not None else []
    if not values:
        return "—"
    span = span_text((value for _, value in values), unit_of(answer)) or "no value"
    return sparkline(values, answer.target, f"measured in the last hour: {span}")


def unit_of(answer: RecentAnswer) -> str:
    """Return the unit of the values of an answer; empty for none."""
    metric = METRICS.get(answer.metric) or ENGINE_METRICS.get(answer.metric)
    return metric.unit if metric is not None else ""


def answer_facts(answer: RecentAnswer, now: float) -> Iterator[tuple[str, str]]:
    """Yield the numbers of an answer, each with its head, without the name of the metric."""
    yield from list(_cells(answer, now))[1:]


def _cells(answer: RecentAnswer, now: float) -> Iterator[tuple[str, str]]:
    unit = safe_text(f" {unit_of(answer)}".rstrip())
    comparison = answer.comparison
    cells = (
        f"{safe_text(answer.metric_name)}<br><span class=faint>{safe_text(answer.metric)}</span>",
        UNKNOWN if comparison.measured is None else f"{significant(comparison.measured)}{unit}",
        f"{number_text(answer.target)}{unit}",
        _reported(answer, unit),
        _replicas(comparison),
        "<span class=good>active</span>" if answer.active else "inactive",
        f"{answer.with_value} of {answer.expected}" if answer.expected else "—",
        _demand(answer),
        ago(now - answer.at_seconds),
    )
    yield from zip(_HEADS[2:], cells, strict=True)


def answer_notes(answer: RecentAnswer) -> str:
    """Return why there is no value, why it is adjusted, and why the workload is active or not."""
    comparison = answer.comparison
    notes = f"<p class=bad>{safe_text(answer.reason)}</p>" if answer.reason else ""
    if comparison.is_adjusted:
        notes += f"<p>adjusted: {safe_text(comparison.adjustment)}</p>"
    if comparison.activity:
        notes += f"<p class=faint>{'active' if answer.active else 'inactive'}: {safe_text(comparison.activity)}</p>"
    return notes


def _reported(answer: RecentAnswer, unit: str) -> str:
    """Return the number that the HPA is given, and the plain one where it is another."""
    if answer.value is None:
        return "<span class=bad>no value</span>"
    comparison = answer.comparison
    text = f"{significant(answer.value)}{unit}"
    if comparison.report:
        text += f" <span class=faint>{comparison.report}</span>"
    if comparison.is_adjusted:
        plain = "nothing measured" if comparison.plain is None else f"instead of {significant(comparison.plain)}"
        text += f"<br><span class=faint>adjusted, {plain}</span>"
    return text


def _replicas(comparison: Comparison) -> str:
    """Return the size of now and the desired one, how many are ready where others are not, and the limit."""
    now, desired = comparison.current_replicas, comparison.desired_replicas
    if now is None and desired is None:
        return UNKNOWN
    ready, limit = comparison.ready_replicas, comparison.limit
    notes = [f"{ready} ready"] if ready not in (None, now) else []
    notes += [f"limit: {limit.value}"] if limit is not ReplicaLimit.NONE else []
    text = f"{'?' if now is None else now} → {'?' if desired is None else desired}"
    return "".join((text, *(f"<br><span class=faint>{note}</span>" for note in notes)))


def _demand(answer: RecentAnswer) -> str:
    if answer.is_demand_known is None:
        return "—"
    if not answer.is_demand_known or answer.demand is None:
        return "<span class=bad>unknown</span>"
    return significant(answer.demand)


def _key(answer: RecentAnswer) -> tuple[str, str, str, str]:
    return answer.namespace, answer.name, answer.metric_name, answer.metric
