# SPDX-License-Identifier: Apache-2.0
"""Makes a traffic of requests in any order, and says what it had to change.

Law: nothing is changed or assumed without a sentence about it.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from random import Random

from keda_gpu_scaler.simulate.engine_model import EngineModel, SimulationError
from keda_gpu_scaler.simulate.requests import RequestTraffic

MAX_REQUESTS = 10_000_000
MAX_REQUESTS_A_MINUTE = 300_000
"""More is beyond what one gateway passes on, and a day of it beyond the memory of a laptop."""
_LONG_GAP_SECONDS = 600.0
_JITTER_SECONDS = 5.0

RequestRow = tuple[float, int, int]
"""Arrival in seconds on any clock, tokens of the prompt, tokens of the answer."""


def assemble(
    title: str, rows: Sequence[RequestRow], *, assumptions: Iterable[str] = (), seconds: float | None = None
) -> RequestTraffic:
    """Return the traffic of some requests; it begins with the first arrival.

    Args:
        title: where the requests come from.
        rows: the requests.
        assumptions: what the source does not say.
        seconds: the length of the traffic, where the arrivals are counted from its begin; None to end with the last.

    Raises:
        SimulationError: there is no request, or there are more than can be simulated.
    """
    if not rows:
        raise SimulationError(f"{title}: no request at all: nothing can be simulated")
    _check_count(title, len(rows))
    remarks = [*_order_remarks(rows)]
    ordered = sorted(rows, key=lambda row: row[0])
    begin = ordered[0][0] if seconds is None else 0.0
    arrivals = [row[0] - begin for row in ordered]
    length = max(arrivals[-1], 1.0) if seconds is None else seconds
    remarks += _gap_remarks(arrivals)
    remarks += _zero_remarks("prompt", sum(row[1] < 1 for row in rows), len(rows))
    remarks += _zero_remarks("answer", sum(row[2] < 1 for row in rows), len(rows))
    _check_rate(title, arrivals)
    return RequestTraffic(
        title,
        arrivals,
        [max(1, row[1]) for row in ordered],
        [max(1, row[2]) for row in ordered],
        length,
        tuple(assumptions),
        tuple(remarks),
    )


def _check_count(title: str, count: int) -> None:
    if count > MAX_REQUESTS:
        raise SimulationError(
            f"{title}: {count} requests: at most {MAX_REQUESTS} are simulated: take a shorter part of it, or --scale "
            "0.1"
        )


def _check_rate(title: str, arrivals: Sequence[float]) -> None:
    counts: dict[int, int] = {}
    for arrival in arrivals:
        minute = int(arrival // 60)
        counts[minute] = counts.get(minute, 0) + 1
    minute, most = max(counts.items(), key=lambda item: item[1])
    if most > MAX_REQUESTS_A_MINUTE:
        raise SimulationError(
            f"{title}: {most} requests in minute {minute}: at most {MAX_REQUESTS_A_MINUTE} a minute are simulated: "
            "--scale 0.1 simulates a tenth of them; multiply maxReplicaCount by the same factor"
        )


def _order_remarks(rows: Sequence[RequestRow]) -> Iterable[str]:
    back = [earlier[0] - later[0] for earlier, later in pairwise(rows) if later[0] < earlier[0]]
    if back:
        yield (
            f"{len(back)} of {len(rows)} requests arrive before the one above them, by up to {max(back):.3g} s: they "
            "are sorted by their arrival"
        )


def _gap_remarks(arrivals: Sequence[float]) -> Iterable[str]:
    gaps = [(later - earlier, earlier) for earlier, later in pairwise(arrivals) if later - earlier > _LONG_GAP_SECONDS]
    if gaps:
        longest, begin = max(gaps)
        often = "once" if len(gaps) == 1 else f"{len(gaps)} times"
        yield (
            f"{often} no request arrives for more than {_LONG_GAP_SECONDS / 60:.0f} minutes, the longest time is "
            f"{longest / 60:.0f} minutes from minute {begin / 60:.0f} on: it is simulated as no traffic; if only the "
            "log has the gap, cut it out"
        )


def _zero_remarks(what: str, count: int, total: int) -> Iterable[str]:
    if count:
        yield f"{count} of {total} requests have no {what} token (failed or cancelled?): each counts as one token"


def scaled(traffic: RequestTraffic, factor: float, seed: int = 1) -> RequestTraffic:
    """Return the traffic with so many times its requests; the shape of its minutes stays.

    A copy arrives up to five seconds before or after its original. Below 1, requests are left out at random.

    Raises:
        SimulationError: the factor is not above 0, or there are too many requests.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise SimulationError(f"--scale: Invalid value: {factor:g}: must be above 0")
    if factor == 1:
        return traffic
    _check_count(traffic.title, round(len(traffic) * factor))
    random = Random(seed)  # noqa: S311 - a simulation, reproducible by its seed
    rows: list[RequestRow] = []
    whole, part = divmod(factor, 1.0)
    for arrival, prompt, answer in zip(traffic.arrivals, traffic.prompts, traffic.answers, strict=True):
        copies = int(whole) + (random.random() < part)
        for number in range(copies):
            moved = arrival + (random.uniform(-_JITTER_SECONDS, _JITTER_SECONDS) if number else 0.0)
            rows.append((min(max(moved, 0.0), traffic.seconds), prompt, answer))
    rows.sort(key=lambda row: row[0])
    made = assemble(traffic.title, rows, seconds=traffic.seconds)
    sentence = (
        f"--scale {factor:g}: {len(rows)} requests instead of {len(traffic)}; each copy arrives up to "
        f"{_JITTER_SECONDS:g} s from its original, and has its lengths"
    )
    return RequestTraffic(
        traffic.title,
        made.arrivals,
        made.prompts,
        made.answers,
        traffic.seconds,
        (*traffic.assumptions, sentence),
        traffic.remarks,
    )


def fitted_to(traffic: RequestTraffic, model: EngineModel) -> RequestTraffic:
    """Return the traffic with every request small enough for the KV cache of a replica."""
    prompts, answers, longest = list(traffic.prompts), list(traffic.answers), 0
    cut = 0
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        if prompt + answer > model.kv_tokens:
            longest = max(longest, prompt + answer)
            answers[number] = min(answer, model.kv_tokens // 2)
            prompts[number] = min(prompt, model.kv_tokens - answers[number])
            cut += 1
    if not cut:
        return traffic
    remark = (
        f"{cut} of {len(traffic)} requests have up to {longest} tokens and the KV cache of a replica "
        f"{model.kv_tokens}: they are cut to its size; a real engine refuses them"
    )
    return RequestTraffic(
        traffic.title,
        traffic.arrivals,
        prompts,
        answers,
        traffic.seconds,
        traffic.assumptions,
        (*traffic.remarks, remark),
    )
