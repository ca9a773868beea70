# SPDX-License-Identifier: Apache-2.0
"""Sums up a run: what users got, what it cost, and how the size moved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from keda_gpu_scaler.simulate.requests import NEVER, RequestLog
from keda_gpu_scaler.simulate.scenario import Objective
from keda_gpu_scaler.simulate.simulation import Run

TURN_SECONDS = 300.0
"""A change of direction within this time counts: the HPA's own window for scaling down."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run.

    ``within_percent`` is the share of requests within the objective. Times are in seconds, infinite where a request
    never came to that. ``turns`` counts moves that turn the direction of the one before within ``TURN_SECONDS``.
    ``gpu_hours`` are those of pods from their creation to their end, within the time of the traffic.
    """

    title: str
    requests: int
    unfinished: int
    within_percent: float
    first_token_p50: float
    first_token_p95: float
    first_token_p99: float
    token_p50: float
    token_p99: float
    gpu_hours: float
    moves: int
    turns: int
    max_minutes: float
    largest_queue: int
    most_replicas: int


def summarize(title: str, run: Run, objective: Objective, gpus: int) -> Summary:
    """Sum up a run.

    Args:
        title: of the row.
        run: the run.
        objective: what users accept.
        gpus: the GPUs of a replica.
    """
    first, token = latencies(run.log, until_end=objective.is_for_items)
    within = 0
    for one, other in zip(first, token, strict=True):
        within += one <= objective.first_token_seconds and other <= objective.token_seconds
    unfinished = run.log.ended_at.count(NEVER)
    ordered_first, ordered_token = sorted(first), sorted(token)
    return Summary(
        title=title,
        requests=len(first),
        unfinished=unfinished,
        within_percent=100 * within / max(1, len(first)),
        first_token_p50=percentile(ordered_first, 50),
        first_token_p95=percentile(ordered_first, 95),
        first_token_p99=percentile(ordered_first, 99),
        token_p50=percentile(ordered_token, 50),
        token_p99=percentile(ordered_token, 99),
        gpu_hours=gpu_hours(run, gpus),
        moves=len(run.moves),
        turns=_turns(run),
        max_minutes=run.max_seconds / 60,
        largest_queue=run.max_waiting,
        most_replicas=max([moment.active for moment in run.moments], default=0),
    )


def latencies(log: RequestLog, *, until_end: bool = False) -> tuple[list[float], list[float]]:
    """Return the time to the first token and the time per further token of each request, in seconds.

    With ``until_end`` the first is the time until the request is done, and the second is 0.
    """
    first, token = [], []
    columns = (log.traffic.arrivals, log.traffic.answers, log.first_at, log.ended_at, log.overheads)
    for arrival, answer, first_at, ended_at, overhead in zip(*columns, strict=True):
        if ended_at == NEVER:
            first.append(NEVER)
            token.append(NEVER)
            continue
        if until_end:
            first.append(ended_at - arrival + overhead)
            token.append(0.0)
            continue
        first.append(first_at - arrival + overhead)
        token.append((ended_at - first_at) / (answer - 1) if answer > 1 else 0.0)
    return first, token


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of numbers in rising order, linear between two of them; 0 without any number."""
    if not ordered:
        return 0.0
    place = (len(ordered) - 1) * percent / 100
    lower = math.floor(place)
    part = place - lower
    if not part or math.isinf(ordered[lower + 1]):
        return ordered[lower] if not part else NEVER
    return ordered[lower] + part * (ordered[lower + 1] - ordered[lower])


def gpu_hours(run: Run, gpus: int) -> float:
    """Return the GPU-hours of all pods within the time of the traffic."""
    end = run.log.traffic.seconds
    held = [max(0.0, min(pod.gone_at, end) - pod.created_at) for pod in run.pods]
    return math.fsum(held) / 3600 * gpus


def _turns(run: Run) -> int:
    return sum(
        (later.after > later.before) != (earlier.after > earlier.before)
        and later.at_seconds - earlier.at_seconds <= TURN_SECONDS
        for earlier, later in pairwise(run.moves)
    )
