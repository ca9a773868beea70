# SPDX-License-Identifier: Apache-2.0
"""Writes a simulation as one HTML page: the table, the timelines of each row, and what was assumed.

Law: the page loads nothing and runs nothing. Its Content-Security-Policy forbids both, and every text is escaped.
"""

import html
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from keda_gpu_scaler.cli.simulate.render import NOT_MODELLED, Report, heads, rows
from keda_gpu_scaler.cli.simulate.svg import Line, Point, timeline
from keda_gpu_scaler.simulate.outcome import RunOutcome
from keda_gpu_scaler.simulate.simulation import WorkloadMoment

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #ffffff; --faint: #57606a; --line: #d0d7de; --best: #dafbe1;
  --c0: #1f6feb; --c1: #d1242f; --c2: #1a7f37; --c3: #9a6700; --c4: #8250df; --c5: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #9198a1; --line: #3d444d;
  --best: #12361f; --c0: #6cb0ff; --c1: #ff8f88; --c2: #56d364; --c3: #e3b341; --c4: #d2a8ff; --c5: #9198a1; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: var(--ink);
  background: var(--paper); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25em 0.6em; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.best { background: var(--best); }
svg { width: 100%; height: auto; display: block; margin: 0.3em 0; }
svg text { font: 11px system-ui, sans-serif; fill: var(--faint); }
svg text.title { font-weight: 600; fill: var(--ink); }
svg path { fill: none; stroke-width: 1.4; }
svg .grid { stroke: var(--line); }
svg path.c0 { stroke: var(--c0); } svg text.c0 { fill: var(--c0); }
svg path.c1 { stroke: var(--c1); } svg text.c1 { fill: var(--c1); }
svg path.c2 { stroke: var(--c2); } svg text.c2 { fill: var(--c2); }
svg path.c3 { stroke: var(--c3); } svg text.c3 { fill: var(--c3); }
svg path.c4 { stroke: var(--c4); } svg text.c4 { fill: var(--c4); }
svg path.c5 { stroke: var(--c5); } svg text.c5 { fill: var(--c5); }
svg.narrow { display: none; }
@media (max-width: 40em) { body { margin: 1em auto; } svg.wide { display: none; } svg.narrow { display: block; } }
"""


def html_page(report: Report) -> str:
    """Return the page."""
    body = [
        f"<h1>{html.escape(report.title)}</h1>",
        f"<p>{html.escape(report.objective.describe())}. The goal is {report.goal:g} % of the requests.</p>",
        _table(report),
    ]
    if report.best is not None:
        body.append(f"<p><strong>Best: {html.escape(report.best.sentence)}.</strong></p>")
    for outcome in report.outcomes:
        if outcome.moments:
            body += _timelines(outcome, report)
    body += _list("Remarks", report.remarks)
    body += _list("Assumed", report.assumptions)
    body += _list("Not modelled", NOT_MODELLED)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(report.title)}</title><style>{_STYLE}</style>"
    )
    content = "\n".join(body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n</body></html>\n'


def _table(report: Report) -> str:
    lines = [
        '<div class="scroll"><table><thead><tr>',
        *(f"<th>{html.escape(head)}</th>" for head in heads(report)),
        "</tr></thead><tbody>",
    ]
    for number, row in enumerate(rows(report)):
        is_best = report.best is not None and report.best.number == number
        cells = "".join(f"<td>{html.escape(cell.strip())}</td>" for cell in row)
        lines.append(f"<tr{' class=best' if is_best else ''}>{cells}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _timelines(outcome: RunOutcome, report: Report) -> Iterable[str]:
    moments = outcome.moments
    yield f"<h2>{html.escape(outcome.title)}</h2>"
    for note in outcome.notes:
        yield f"<p>{html.escape(note)}</p>"
    yield timeline("requests per second", [Line("arriving", _rates(moments))])
    if any(moment.value is not None for moment in moments):
        values = [(moment.at_seconds / 60, _average(moment)) for moment in moments]
        target = [(moment.at_seconds / 60, moment.target or None) for moment in moments]
        yield timeline("value a replica", [Line("value", values), Line("target", target, is_dashed=True)])
    yield timeline(
        "replicas",
        [
            Line("wanted", [(moment.at_seconds / 60, moment.wanted) for moment in moments], is_step=True),
            Line("ready", [(moment.at_seconds / 60, moment.ready) for moment in moments], is_step=True),
        ],
    )
    yield timeline(
        "requests, logarithmic",
        [
            Line("running", [(moment.at_seconds / 60, moment.running or None) for moment in moments]),
            Line("waiting", [(moment.at_seconds / 60, moment.waiting or None) for moment in moments]),
        ],
        is_logarithmic=True,
    )
    yield _latencies(outcome, report)


def _latencies(outcome: RunOutcome, report: Report) -> str:
    objective, bins = report.objective, outcome.latencies
    ends = [bins[0].at_seconds / 60, bins[-1].at_seconds / 60] if bins else [0.0, 1.0]
    if objective.is_for_items:
        return timeline(
            "time until an item is done, p95 of a minute in seconds, logarithmic",
            [
                Line("done", [(one.at_seconds / 60, _finite(one.first_token)) for one in bins]),
                Line("its objective", [(end, objective.first_token_seconds) for end in ends], is_dashed=True),
            ],
            is_logarithmic=True,
        )
    return timeline(
        "p95 of a minute in seconds, logarithmic",
        [
            Line("first token", [(one.at_seconds / 60, _finite(one.first_token)) for one in bins]),
            Line("its objective", [(end, objective.first_token_seconds) for end in ends], is_dashed=True),
            Line("per token", [(one.at_seconds / 60, _finite(one.token)) for one in bins]),
            Line("its objective", [(end, objective.token_seconds) for end in ends], is_dashed=True),
        ],
        is_logarithmic=True,
    )


def _rates(moments: Sequence[WorkloadMoment]) -> list[Point]:
    rates: list[Point] = []
    for earlier, later in pairwise(moments):
        seconds = later.at_seconds - earlier.at_seconds
        rates.append((later.at_seconds / 60, (later.arrived - earlier.arrived) / seconds))
    return rates


def _average(moment: WorkloadMoment) -> float | None:
    """Return the value as the HPA compares it with the target: of one replica."""
    if moment.value is None:
        return None
    return moment.value / max(1, moment.active) if moment.is_total else moment.value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) and value > 0 else None


def _list(title: str, sentences: Sequence[str]) -> list[str]:
    if not sentences:
        return []
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return [f"<h2>{title}</h2>", f"<ul>{items}</ul>"]
