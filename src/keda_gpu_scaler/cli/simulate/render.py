# SPDX-License-Identifier: Apache-2.0
"""Prints the rows of a simulation: a table, CSV or JSON, and what was assumed and is not modelled."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from keda_gpu_scaler.cli.output import cut, json_line, printable
from keda_gpu_scaler.simulate.outcome import Best, RunOutcome
from keda_gpu_scaler.simulate.scenario import Objective
from keda_gpu_scaler.simulate.summary import Summary

NOT_MODELLED = (
    "prefix caching (each prompt is computed whole) and speculative decoding",
    "disaggregated prefill and decode, and several models or LoRA adapters in one engine",
    "clients that give up, retry or slow down, and requests that end early",
    "lost scrapes, restarts of this scaler or of KEDA, and preempted nodes",
    "Jobs that fail, and their deadlines and retries",
    "nodes that start, unless --node-start gives the time that one takes",
)
"""What a simulation leaves out."""
_WIDEST_TITLE = 44


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is shown of a simulation. ``price`` is that of a GPU-hour, None where it is not given."""

    title: str
    outcomes: tuple[RunOutcome, ...]
    best: Best | None
    goal: float
    objective: Objective
    assumptions: tuple[str, ...]
    remarks: tuple[str, ...]
    price: float | None = None


def table(report: Report) -> str:
    """Return the table with its notes, as lines."""
    lines = [
        report.title,
        report.objective.describe(),
        "",
        *_columns([heads(report), *rows(report)]),
        "",
    ]
    if report.best is not None:
        lines.append(f"* best: {report.best.sentence}")
    for outcome in report.outcomes:
        lines += [f"  {outcome.title}: {note}" for note in outcome.notes]
    for label, sentences in (
        ("remarks", report.remarks),
        ("assumed", report.assumptions),
        ("not modelled", NOT_MODELLED),
    ):
        if sentences:
            lines += ["", f"{label}:", *(f"  - {sentence}" for sentence in sentences)]
    return "\n".join(printable(line) for line in lines)


def heads(report: Report) -> list[str]:
    """Return the heads of the table."""
    cost = [] if report.price is None else ["COST"]
    is_for_items = report.objective.is_for_items
    done = ["DONE p50", "p95", "p99"] if is_for_items else ["TTFT p50", "p95", "p99", "TOKEN p50", "p99"]
    return ["", "IN TIME", *done, "GPU-HOURS", *cost, "MOVES", "TURNS", "AT MAX", "QUEUE", "MOST"]


def rows(report: Report) -> list[list[str]]:
    """Return the rows of the table."""
    return [_row(outcome, report) for outcome in report.outcomes]


def _row(outcome: RunOutcome, report: Report) -> list[str]:
    is_best = report.best is not None and report.outcomes[report.best.number] is outcome
    title = f"{'*' if is_best else ' '} {cut(outcome.title, _WIDEST_TITLE)}"
    summary = outcome.summary
    if summary is None:
        return [title, "-"]
    cost = [] if report.price is None else [f"{summary.gpu_hours * report.price:.2f}"]
    return [
        title,
        f"{summary.within_percent:.1f} %",
        *(_seconds(value) for value in (summary.first_token_p50, summary.first_token_p95, summary.first_token_p99)),
        *(() if report.objective.is_for_items else map(_milliseconds, (summary.token_p50, summary.token_p99))),
        f"{summary.gpu_hours:.2f}",
        *cost,
        str(summary.moves),
        str(summary.turns),
        f"{summary.max_minutes:.0f} min",
        str(summary.largest_queue),
        str(summary.most_replicas),
    ]


def _columns(lines: Sequence[Sequence[str]]) -> list[str]:
    count = max(map(len, lines))
    full = [[*line, *[""] * (count - len(line))] for line in lines]
    widths = [max(len(row[column]) for row in full) for column in range(count)]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in full
    ]


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if math.isfinite(value) else "never"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if math.isfinite(value) else "never"


def csv_text(report: Report) -> str:
    """Return one line for each row, with a header; times are in seconds."""
    file = io.StringIO()
    names = ["is_best", "is_bound", *Summary.__dataclass_fields__, "cost"]
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for number, outcome in enumerate(report.outcomes):
        if outcome.summary is not None:
            writer.writerow(_fields(outcome.summary, number, outcome, report))
    return file.getvalue().rstrip("\n")


def json_text(report: Report) -> str:
    """Return one JSON object on one line."""
    found = []
    for number, outcome in enumerate(report.outcomes):
        summary = {} if outcome.summary is None else _fields(outcome.summary, number, outcome, report)
        found.append({"title": outcome.title, **summary, "notes": list(outcome.notes)})
    return json_line(
        {
            "title": report.title,
            "goal_percent": report.goal,
            "objective": asdict(report.objective),
            "rows": found,
            "best": None if report.best is None else {"row": report.best.number, "why": report.best.sentence},
            "remarks": list(report.remarks),
            "assumptions": list(report.assumptions),
            "not_modelled": list(NOT_MODELLED),
        }
    )


def _fields(summary: Summary, number: int, outcome: RunOutcome, report: Report) -> dict[str, object]:
    cost = None if report.price is None else round(summary.gpu_hours * report.price, 2)
    return {
        "is_best": report.best is not None and report.best.number == number,
        "is_bound": outcome.is_bound,
        **{name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(summary).items()},
        "cost": cost,
    }
