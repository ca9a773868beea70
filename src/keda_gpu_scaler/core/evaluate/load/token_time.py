# SPDX-License-Identifier: Apache-2.0
"""Computes the time per token of an engine by the growth of its counters over a span.

Law: a time of which nothing is observed is unknown. It is not 0, and requests that run are no idle engine.
"""

from keda_gpu_scaler.core.evaluate.load.counter_steps import CounterGrowth
from keda_gpu_scaler.core.evaluate.load.rung import TOKEN_TIME_RUNGS, observes_ended_requests
from keda_gpu_scaler.core.trigger.engines import ENGINES, LoadRung
from keda_gpu_scaler.core.types import EngineSample

MIN_OBSERVATIONS = 20
"""A mean of fewer times per token says little about the engine."""
_MULTI_TOKEN_FACTOR = 1.2  # fewer tokens per observation are an error of measurement, not speculative decoding
_MIN_STUCK_SECONDS = 7.5
"""Requests that run for a shorter time without any token may be in prefill."""


def token_time(
    counted: CounterGrowth, seconds: float, running: float | None, rung: LoadRung
) -> tuple[float | None, float | None]:
    """Return the mean time per token in seconds, and the mean number of requests that generate tokens.

    Where each time between tokens is observed, their sum grows by one second per second and request, so it also says
    how many requests generate tokens (Little's law). No sample of a gauge is needed.
    """
    if rung is LoadRung.TOKEN_TIME:
        decoding: float | None = counted.waits / seconds
    else:
        decoding = running
    if rung in TOKEN_TIME_RUNGS:
        least = MIN_OBSERVATIONS if rung is LoadRung.TOKEN_TIME else 1
        is_enough = counted.times >= least and counted.waits > 0  # no token takes no time
        return (counted.waits / counted.times if is_enough else None), decoding
    if rung is LoadRung.TOKEN_RATE and running and counted.tokens >= MIN_OBSERVATIONS:
        return running * seconds / counted.tokens or None, decoding
    return None, decoding


def tokens_per_step(counted: CounterGrowth, newest: EngineSample) -> float:
    """Return how many tokens one observed time between tokens covers: with speculative decoding, several."""
    if newest.tokens_total is None or not counted.times:
        return 1.0
    engine = ENGINES.get(newest.engine)
    if engine is None or not engine.observes_outputs:
        return 1.0
    first = counted.first_tokens if newest.first_tokens_total is not None else counted.ended
    tokens = max(0.0, counted.tokens - first) / counted.times
    return tokens if tokens > _MULTI_TOKEN_FACTOR else 1.0


def shows_time(
    rung: LoadRung, newest: EngineSample, seconds: float, counted: CounterGrowth, *, always_runs: bool
) -> bool:
    """Whether requests that run, and of which no time per token is known, show nevertheless that they decode little."""
    if not rung.has_token_time or counted.ended:
        return True
    if observes_ended_requests(rung, newest.engine):
        return False
    is_stuck = always_runs and seconds >= _MIN_STUCK_SECONDS
    return not is_stuck or bool(counted.times or counted.tokens or counted.prompts)


def mean_busy(counted: CounterGrowth, seconds: float, newest: EngineSample) -> float:
    """Return the mean number of executions at the same time: requests of one batch share its time."""
    per_execution = 1.0
    if newest.executions_total is not None and counted.services:
        per_execution = min(1.0, counted.executions / counted.services)
    return counted.service * per_execution / seconds
