# SPDX-License-Identifier: Apache-2.0
"""Runs a policy in the simulator and draws its replicas and its queue over time, as SVG.

The simulator and matplotlib are imported when they are needed: neither is a dependency of the product.
"""

import importlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ADAPTER = Path(__file__).resolve().with_name("judge_adapter.py")
PRODUCT = "product llm"
USUAL = "queue=5 Prometheus"
"""The policy that is drawn beside the product: the queue length from Prometheus, as many guides advise."""
_PLAN_SECONDS = 5
_QUEUE_SECONDS = 30
"""The queue is drawn as its largest value of each interval of this length."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """One run: parallel lists over time, one entry every five seconds; ``minutes`` since the beginning."""

    policy: str
    minutes: list[float]
    wanted: list[float]
    ready: list[float]
    queue: list[float]


def timeline(trace: str, policy: str, cache: Path) -> Timeline:
    """Run a policy on the simulator's standard machine, or read the run from the cache file."""
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        log = _run(trace, policy)
        cache.write_text(json.dumps([[row[column] for row in log] for column in (0, 1, 2, 4)]))
    seconds, wanted, ready, queue = json.loads(cache.read_text())
    return Timeline(policy, [one / 60 for one in seconds], wanted, ready, queue)


def _run(trace_name: str, policy_name: str) -> Any:
    cluster, oracle = importlib.import_module("judge.cluster"), importlib.import_module("judge.oracle")
    trace = importlib.import_module("judge.traces").build(trace_name)
    if policy_name == PRODUCT:
        policy = importlib.import_module("judge.adapter").Product(ADAPTER, PRODUCT, {"profile": "llm"})
    else:
        policy = importlib.import_module("judge.run").OTHERS[policy_name]()
    machine = cluster.Cluster(initial=oracle.initial_replicas(trace))
    return cluster.simulate(trace, policy, machine).log.tolist()


def draw(file: Path, title: str, runs: Sequence[tuple[str, Timeline]], plan: Sequence[int]) -> None:
    """Draw runs side by side.

    Args:
        file: the SVG file.
        title: the title of the drawing.
        runs: a label and a run for each column.
        plan: the replicas of the clairvoyant schedule, one number every five seconds.
    """
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "scaling", "font.size": 8})
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(2, len(runs), figsize=(4.6 * len(runs), 4.4), sharex=True, sharey="row")
    plan_minutes = [number * _PLAN_SECONDS / 60 for number in range(len(plan))]
    for column, (label, run) in enumerate(runs):
        replicas, queue = axes[:, column]
        replicas.set_title(label)
        for values, name, style in (
            (_changes(plan_minutes, plan), "clairvoyant schedule", {"color": "0.35", "lw": 0.8, "ls": ":"}),
            (_changes(run.minutes, run.wanted), "wanted", {"color": "C0", "lw": 0.9}),
            (_changes(run.minutes, run.ready), "ready", {"color": "C1", "lw": 1.1}),
        ):
            replicas.step(*values, where="post", label=name, **style)
        queue.step(*_largest(run.minutes, run.queue), where="post", color="C3", lw=0.9)
        queue.set_yscale("symlog", linthresh=1)
        queue.minorticks_off()
        queue.yaxis.set_major_formatter(lambda value, position: f"{value:,.0f}")
        queue.set_xlabel("minutes")
        replicas.set_ylabel("replicas" if not column else "")
        queue.set_ylabel("waiting requests" if not column else "")
        for axis in (replicas, queue):
            axis.grid(alpha=0.25, lw=0.5)
    axes[1][0].set_ylim(bottom=0)
    axes[0][0].legend(fontsize=7)
    figure.suptitle(title)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    file.write_text(_compact(file.read_text()))


def _compact(svg: str) -> str:
    """Return the drawing with coordinates of a hundredth of a point, and without blanks at the ends of lines."""
    rounded = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)
    return "\n".join(line.rstrip() for line in rounded.splitlines()) + "\n"


def _changes(minutes: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the points at which a step line changes, and its end."""
    kept = [n for n, value in enumerate(values) if n in (0, len(values) - 1) or value != values[n - 1]]
    return [minutes[n] for n in kept], [values[n] for n in kept]


def _largest(minutes: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the largest value of each interval."""
    largest: dict[int, float] = {}
    for minute, value in zip(minutes, values, strict=True):
        interval = int(minute * 60 // _QUEUE_SECONDS)
        largest[interval] = max(value, largest.get(interval, 0.0))
    return [interval * _QUEUE_SECONDS / 60 for interval in largest], list(largest.values())
