# SPDX-License-Identifier: Apache-2.0
"""The workloads on the status page: refused triggers first, then the last answers and their steps.

Law: measured and reported values are shown apart.
"""

from collections.abc import Iterator, Sequence

from keda_gpu_scaler.core.comparison import Comparison, ReplicaLimit, significant
from keda_gpu_scaler.core.instance_status import RecentAnswer, RefusedTrigger
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS, METRICS
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

MAX_WORKLOADS = 100
MAX_REFUSED = 100
"""The most triggers that are shown with an answer, and the most that are refused. The page counts the others."""

_HEADS = (
    "Workload", "Metric", "Measured per replica", "Target", "Reported to the HPA", "Replicas", "Active", "With value",
    "Demand", "Last answer",
)  # fmt: skip


def workloads(answers: Sequence[RecentAnswer], refused: Sequence[RefusedTrigger], now: float) -> Iterator[str]:
    """Yield the section of the workloads: first the refused triggers, then the last answers."""
    yield "<section aria-labelledby=workloads>"
    yield "<h2 id=workloads>Workloads</h2>"
    if not answers and not refused:
        yield "<p>This instance got no request from KEDA in the last ten minutes. KEDA may call another instance.</p>"
    else:
        # Answers with unknown data come first, so that the limit does not hide them. The shown order is stable.
        shown = sorted(answers, key=lambda answer: answer.value is not None and answer.is_demand_known is not False)
        shown = sorted(shown[:MAX_WORKLOADS], key=_key)
        caption = "Last answer to KEDA for each trigger: what was measured, what is reported, and its steps"
        yield from table_start("workloads", caption, _HEADS)
        for trigger in refused[:MAX_REFUSED]:
            yield from _refused_rows(trigger, now)
        for answer in shown:
            yield from _workload(answer, now)
        yield "</table></div>"
        left_out = max(0, len(refused) - MAX_REFUSED) + len(answers) - len(shown)
        yield left_out_note(left_out, "triggers")
    yield "</section>"


def _refused_rows(trigger: RefusedTrigger, now: float) -> Iterator[str]:
    """Yield the rows of a refused trigger: its object, and what to change."""
    state = (
        f"<span class=bad>refused</span> for {duration(now - trigger.since_seconds)}: KEDA gets no value and no target"
    )
    title = safe_text(f"{trigger.namespace}/{trigger.name}")
    problems = "".join(f"<li>{safe_text(problem)}</li>" for problem in trigger.problems)
    yield "<tbody class=refused>"
    yield f"<tr><th scope=rowgroup>{title}</th><td colspan={len(_HEADS) - 1}>{state}</td></tr>"
    yield f"<tr class=steps><td colspan={len(_HEADS)}><ul class=bad>{problems}</ul></td></tr>"
    yield "</tbody>"


def _workload(answer: RecentAnswer, now: float) -> Iterator[str]:
    metric = METRICS.get(answer.metric) or ENGINE_METRICS.get(answer.metric)
    unit = f" {metric.unit}" if metric is not None and metric.unit else ""
    comparison = answer.comparison
    cells = (
        f"{safe_text(answer.metric_name)}<br><span class=faint>{safe_text(answer.metric)}</span>",
        UNKNOWN if comparison.measured is None else f"{significant(comparison.measured)}{safe_text(unit)}",
        f"{number_text(answer.target)}{safe_text(unit)}",
        _reported(answer, unit),
        _replicas(comparison),
        "<span class=good>active</span>" if answer.active else "inactive",
        f"{answer.with_value} of {answer.expected}" if answer.expected else "—",
        _demand(answer),
        ago(now - answer.at_seconds),
    )
    yield "<tbody>"
    yield f"<tr><th scope=rowgroup>{safe_text(f'{answer.namespace}/{answer.name}')}</th>{table_cells(cells)}</tr>"
    key = safe_text("/".join(_key(answer)))
    steps = "".join(f"<li>{safe_text(step)}</li>" for step in answer.steps)
    reason = f"<p class=bad>{safe_text(answer.reason)}</p>" if answer.reason else ""
    if comparison.is_adjusted:
        reason += f"<p>adjusted: {safe_text(comparison.adjustment)}</p>"
    if comparison.activity:
        reason += f"<p class=faint>{'active' if answer.active else 'inactive'}: {safe_text(comparison.activity)}</p>"
    details = f'<details data-key="{key}"><summary>Steps ({len(answer.steps)})</summary><ol>{steps}</ol></details>'
    yield f"<tr class=steps><td colspan={len(_HEADS)}>{reason}{details}</td></tr>"
    yield "</tbody>"


def _reported(answer: RecentAnswer, unit: str) -> str:
    """Return the number that the HPA is given, and the plain one where it is another."""
    if answer.value is None:
        return "<span class=bad>no value</span>"
    comparison = answer.comparison
    text = f"{significant(answer.value)}{safe_text(unit)}"
    if comparison.report:
        text += f" <span class=faint>{comparison.report}</span>"
    if comparison.is_adjusted:
        plain = "nothing measured" if comparison.plain is None else f"instead of {significant(comparison.plain)}"
        text += f"<br><span class=faint>adjusted, {plain}</span>"
    return text


def _replicas(comparison: Comparison) -> str:
    """Return the size of now and the desired one, and the limit that it comes from."""
    now, desired = comparison.current_replicas, comparison.desired_replicas
    if now is None and desired is None:
        return UNKNOWN
    text = f"{'?' if now is None else now} → {'?' if desired is None else desired}"
    limit = comparison.limit
    return text if limit is ReplicaLimit.NONE else f"{text}<br><span class=faint>limit: {limit.value}</span>"


def _demand(answer: RecentAnswer) -> str:
    if answer.is_demand_known is None:
        return "—"
    if not answer.is_demand_known or answer.demand is None:
        return "<span class=bad>unknown</span>"
    return significant(answer.demand)


def _key(answer: RecentAnswer) -> tuple[str, str, str, str]:
    return answer.namespace, answer.name, answer.metric_name, answer.metric
