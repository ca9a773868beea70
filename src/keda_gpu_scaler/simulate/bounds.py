# SPDX-License-Identifier: Apache-2.0
"""What no autoscaler would need: the smallest constant size, and a schedule that knows the traffic.

Law: both are feasible and were simulated. The schedule is no proven optimum: the true least is somewhat lower.

The schedule is the work that arrives in each bin, over a window that looks ahead, divided by the share of its time that
a replica may work. That share is searched for. Valleys shorter than a cold start are filled, because leaving and coming
back costs as much. Its replicas are ready when it needs them, and their cold starts are paid for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from keda_gpu_scaler.simulate.engine_model import ReplicaModel
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.scenario import Circumstances
from keda_gpu_scaler.simulate.simulation import Run, WorkloadSimulation
from keda_gpu_scaler.simulate.summary import Summary, summarize

BIN_SECONDS = 15
GOAL_PERCENT = 99.0
_MOST_REPLICAS = 1000
_BINS_BEFORE, _BINS_AFTER = 1, 2
_LEAST_SHARE, _MOST_SHARE = 0.25, 1.4
_STEPS = 5


@dataclass(frozen=True, slots=True)
class Bound:
    """A row to compare with: its summary, None where none reaches the goal, its run, and a sentence."""

    title: str
    summary: Summary | None
    run: Run | None
    sentence: str


def work_by_bin(traffic: RequestTraffic, model: ReplicaModel) -> list[float]:
    """Return the seconds of a well-filled replica that arrive in each second, for each bin."""
    bins = [0.0] * (int(traffic.seconds // BIN_SECONDS) + 1)
    for arrival, prompt, answer in zip(traffic.arrivals, traffic.prompts, traffic.answers, strict=True):
        bins[min(int(arrival // BIN_SECONDS), len(bins) - 1)] += model.work_seconds(prompt, answer)
    return [work / BIN_SECONDS for work in bins]


def static_peak(traffic: RequestTraffic, model: ReplicaModel, circumstances: Circumstances, goal: float) -> Bound:
    """Search for the smallest constant size with which the goal is reached."""
    busiest = max(_smoothed(work_by_bin(traffic, model)))
    found: dict[int, tuple[Summary, Run]] = {}

    def is_good(size: int) -> bool:
        title = f"static peak ({size})"
        run = WorkloadSimulation(traffic, model, circumstances, size).sized_by(lambda now: size)
        found[size] = (summarize(title, run, circumstances.objective, model.gpus), run)
        return found[size][0].within_percent >= goal

    size = _smallest(is_good, max(1, math.ceil(busiest)))
    if size is None:
        return Bound("static peak", None, None, f"no constant size up to {_MOST_REPLICAS} serves {goal:g} % in time")
    summary, run = found[size]
    return Bound(
        summary.title, summary, run, f"{size} replicas are the least constant size that serves {goal:g} % in time"
    )


def clairvoyant(traffic: RequestTraffic, model: ReplicaModel, circumstances: Circumstances, goal: float) -> Bound:
    """Search for the cheapest schedule of its kind with which the goal is reached."""
    cold = sum(circumstances.cold_start_seconds) / 2
    work = _smoothed(work_by_bin(traffic, model))
    at_once = replace(circumstances, cold_start_seconds=(0.0, 0.0), node_start_seconds=None)
    best: tuple[Summary, Run] | None = None
    low, high = _LEAST_SHARE, _MOST_SHARE
    for _ in range(_STEPS):
        share = math.sqrt(low * high)
        plan = _filled([max(1, math.ceil(one / share)) for one in work], round(cold / BIN_SECONDS))
        summary, run = _run_plan(traffic, model, at_once, plan, cold)
        if summary.within_percent >= goal:
            low = share
            if best is None or summary.gpu_hours < best[0].gpu_hours:
                best = summary, run
        else:
            high = share
    if best is None:
        return Bound("clairvoyant", None, None, f"no schedule of its kind serves {goal:g} % in time")
    return Bound("clairvoyant", best[0], best[1], "a schedule that knows the traffic; feasible, and no proven optimum")


def _smallest(is_good: Callable[[int], bool], guess: int) -> int | None:
    """Return the smallest size that is good, from a guess; None where none is."""
    low, high = 0, guess  # low is not good
    while not is_good(high):
        low, high = high, max(high + 1, math.ceil(1.25 * high))
        if low >= _MOST_REPLICAS:
            return None
    while high - low > 1:
        middle = max(low + 1, high - max(1, (high - low) // 3))
        low, high = (low, middle) if is_good(middle) else (middle, high)
    return high


def _run_plan(
    traffic: RequestTraffic, model: ReplicaModel, circumstances: Circumstances, plan: Sequence[int], cold: float
) -> tuple[Summary, Run]:
    run = WorkloadSimulation(traffic, model, circumstances, plan[0]).sized_by(
        lambda now: plan[min(len(plan) - 1, int(now // BIN_SECONDS))]
    )
    summary = summarize("clairvoyant", run, circumstances.objective, model.gpus)
    starts = sum(max(0, move.after - move.before) for move in run.moves)
    return replace(summary, gpu_hours=summary.gpu_hours + starts * cold / 3600 * model.gpus), run


def _smoothed(work: Sequence[float]) -> list[float]:
    smoothed = []
    for number in range(len(work)):
        window = work[max(0, number - _BINS_BEFORE) : number + _BINS_AFTER + 1]
        smoothed.append(sum(window) / len(window))
    return smoothed


def _filled(plan: list[int], gap: int) -> list[int]:
    """Fill each valley that is at most ``gap`` bins long with the lower of its two sides."""
    filled = list(plan)
    for level in range(min(filled) + 1, max(filled) + 1):
        last = None
        for number, size in enumerate(filled):
            if size < level:
                continue
            if last is not None and 1 < number - last <= gap + 1:
                for inside in range(last + 1, number):
                    filled[inside] = max(filled[inside], level)
            last = number
    return filled
