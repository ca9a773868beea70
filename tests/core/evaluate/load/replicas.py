# SPDX-License-Identifier: Apache-2.0
"""A computed replica that serves requests, and the samples that its engine would export.

An iteration takes ``base`` seconds, in addition ``each`` seconds for every request that decodes, and ``prompt`` seconds
for every prompt token. Each iteration gives every decoding request one token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType, desired_replicas, milli
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import EngineSample, Histogram
from tests.fakes import pod, workload

NOW = 1000.0
BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, math.inf)
"""The bounds of vLLM's histogram of the times between tokens, in seconds."""
HISTORY = (*range(-300, -10, 10), *range(-10, 1, 2))
"""When the kept samples were taken, in seconds before now."""


@dataclass(frozen=True, slots=True)
class ReplicaModel:
    """A replica, and the requests that it gets; times in seconds."""

    base: float = 0.012
    each: float = 0.0003
    prompt: float = 0.00002
    prompt_tokens: float = 1000.0
    answer_tokens: float = 250.0
    seats: int = 256

    def at(self, requests_per_second: float) -> tuple[float, float]:
        """Return the decoding requests and the seconds per token in the steady state; all seats where there is none."""
        rate = requests_per_second * self.answer_tokens
        free = 1 - self.prompt * self.prompt_tokens * requests_per_second - rate * self.each
        seconds = self.base / free if free > 0 else math.inf
        if seconds * rate <= self.seats:
            return rate * seconds, seconds
        return float(self.seats), self.full_seconds

    @property
    def full_seconds(self) -> float:
        """The seconds per token when every seat is taken."""
        answered = self.seats / self.answer_tokens  # requests that end in each iteration
        return self.base + self.each * self.seats + self.prompt * self.prompt_tokens * answered

    @property
    def most_requests(self) -> float:
        """The requests per second that a full replica serves."""
        return self.seats / self.answer_tokens / self.full_seconds


def samples(
    model: ReplicaModel,
    rates: Sequence[float],
    *,
    times: Sequence[float] = HISTORY,
    has_histogram: bool = True,
    waiting: float = 0.0,
) -> tuple[EngineSample, ...]:
    """Return the samples of one engine at these times, with the requests per second at each of them.

    Args:
        model: the replica.
        rates: the requests per second that it gets, one for each time.
        times: when the samples are taken, in seconds before now.
        has_histogram: whether the engine exports the times between tokens.
        waiting: the requests that wait.
    """
    totals = {"tokens": 0.0, "requests": 0.0, "prompts": 0.0, "waits": 0.0, "times": 0.0}
    counts, taken, last = [0.0] * len(BUCKETS), [], times[0]
    for at, rate, before in zip(times, rates, [rates[0], *rates], strict=False):
        elapsed, last = at - last, at
        decoding, seconds = model.at((before + rate) / 2)
        served_now = min(rate, model.most_requests)
        generated = decoding * elapsed / seconds
        served = generated / model.answer_tokens
        for key, growth in (
            ("tokens", generated + served),
            ("requests", served),
            ("prompts", served * model.prompt_tokens),
            ("waits", decoding * elapsed),
            ("times", generated),
        ):
            totals[key] += growth
        counts = [one + (generated if seconds <= bound else 0.0) for one, bound in zip(counts, BUCKETS, strict=True)]
        taken.append(
            EngineSample(
                NOW + at,
                "vllm",
                waiting=waiting,
                running=model.at(rate)[0] + served_now * model.prompt * model.prompt_tokens,
                kv_cache_ratio=min(1.0, model.at(rate)[0] / model.seats),
                requests_total=totals["requests"],
                tokens_total=totals["tokens"],
                first_tokens_total=totals["requests"],
                prompt_tokens_total=totals["prompts"],
                token_time=Histogram(BUCKETS, tuple(counts)) if has_histogram else None,
                token_time_seconds_total=totals["waits"] if has_histogram else None,
                token_times_total=totals["times"] if has_histogram else None,
            )
        )
    return tuple(taken)


def steady(model: ReplicaModel, rate: float, *, has_histogram: bool = True, waiting: float = 0.0) -> TargetHistory:
    """Return the history of an engine that gets about the same traffic for five minutes.

    It varies by a third, as traffic does.
    """
    rates = [rate * (1 + 0.33 * math.sin(at / 20)) for at in HISTORY[:-6]] + [rate] * 6
    return history(samples(model, rates, has_histogram=has_histogram, waiting=waiting))


def history(taken: Sequence[EngineSample]) -> TargetHistory:
    return TargetHistory("http://10.0.0.1:8000/metrics", tuple(taken))


def evaluated(
    engines: Sequence[TargetHistory],
    *,
    starting: int = 0,
    metadata: dict[str, str] | None = None,
    cold_start: float | None = None,
    **changes: object,
) -> Evaluation:
    """Evaluate a trigger of ``profile: llm`` for a workload with a ready pod for each engine, and starting pods.

    ``cold_start`` is after how many seconds each ready pod was ready; it is not known where it is None.
    """
    count = len(engines)
    addresses = [f"10.0.{number // 200}.{number % 200 + 1}" for number in range(count + starting)]
    pods = [
        pod(f"llama-{number:04}", ready=number < count, age=3600.0 if number < count else 30.0, address=address)
        for number, address in enumerate(addresses)
    ]
    if cold_start is not None:
        pods[:count] = [replace(one, ready_at_seconds=one.created_at_seconds + cold_start) for one in pods[:count]]
    results = {
        Endpoint(one.ref, one.address): ScrapeResult((engine,)) for one, engine in zip(pods, engines, strict=False)
    }
    given = {"profile": "llm", **(metadata or {})}
    fleet = Fleet(None, 10.0, deviceless=True, scrape_results=results)
    return evaluate(parse_trigger(given), fleet, NOW, replace(workload(*pods), **changes), given)  # type: ignore[arg-type]


def asked_replicas(evaluation: Evaluation, replicas: int) -> int:
    """Return the size that the HPA computes from the value at the target of 100, with so many replicas."""
    if evaluation.value is None:
        raise ValueError(evaluation.reason)
    return desired_replicas(ValueType.AVERAGE_VALUE, milli(evaluation.value), milli(100.0), replicas=replicas).replicas
