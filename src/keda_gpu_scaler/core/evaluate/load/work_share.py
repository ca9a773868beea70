# SPDX-License-Identifier: Apache-2.0
"""Computes the share of a replica that an engine carries, without its waiting requests.

Law: the share is proportional to the work. Adding replicas to the same traffic divides the work and does not change
its sum. A queue is not a part of the share; it is counted in replicas (``calibration``).
"""

import math
from dataclasses import dataclass

from keda_gpu_scaler.core.evaluate.engine_load import RUNNING_TARGET_RATIO
from keda_gpu_scaler.core.evaluate.load.floor import Floor
from keda_gpu_scaler.core.evaluate.load.span import EngineWork, Span
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.engines import LoadRung

MAX_WORK = 0.99
_MAX_FULLNESS = 1.25
_MIN_AIM = 0.3
"""The least share of work that is aimed at. A time per token near the floor cannot be reached by any replica."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the work of an engine is compared with; equal engines share it.

    ``most_prompt_tokens`` is the largest number of prompt tokens per second of one engine, and ``most_busy`` the
    largest mean number of executions at the same time; each is 0 where it is not known. ``prompt_token_seconds``
    is the time for which a request runs without generating tokens, for each token of its prompt, infinite where it is
    not known.
    """

    floor: Floor
    most_prompt_tokens: float = 0.0
    most_busy: float = 0.0
    prompt_token_seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class WorkShare:
    """The shares of one engine; 1 is what one replica should carry.

    ``by_time`` is by the time per token or of computation, ``by_seats`` by running requests and KV cache. Each is None
    where it is not known. ``prefill`` is the part of the work that was concluded from prompt tokens. ``is_least`` says
    that the time per token is not known, so that the shares may be larger.
    """

    by_time: float | None
    by_seats: float | None
    prefill: float = 0.0
    is_least: bool = False

    @property
    def total(self) -> float:
        """The larger of the known shares."""
        by_time, by_seats = self.by_time or 0.0, self.by_seats or 0.0
        return by_seats if by_seats > by_time else by_time


def work_share(work: EngineWork, span: Span, reference: Reference, query: EngineQuery) -> WorkShare | None:
    """Compute the shares of one engine over one span; None where nothing that is known shows its work."""
    if span.is_idle:
        return WorkShare(0.0, 0.0)
    working, prefill, by_time = _by_time(work.rung, span, reference, query)
    fullness, is_least = _fullness(work, span, query), not span.is_time_known
    if fullness is None:
        return None if by_time is None else WorkShare(by_time, None, prefill, is_least)
    if by_time is None:
        return WorkShare(None, fullness)
    # More than full seats would count less, the more the engine works. Then the share by time says more.
    fullness = fullness if fullness < 1.0 else 1.0
    return WorkShare(by_time, working + fullness * (1 - working), prefill, is_least)


def is_aim_reachable(floor_seconds: float, target_seconds: float) -> bool:
    """Whether a replica may do a useful share of work before it reaches the time per token that is aimed at."""
    return 1 - floor_seconds / target_seconds >= _MIN_AIM


def executions_at_once(reference: Reference, query: EngineQuery) -> float:
    """Return how many executions at the same time are a full engine. Without ``maxSeqs`` it is the most that was seen.

    That is a guess: it falls when replicas are added, so the sum of the shares may then grow.
    """
    return query.max_seqs or math.ceil(reference.most_busy) or 1


def _by_time(rung: LoadRung, span: Span, reference: Reference, query: EngineQuery) -> tuple[float, float, float | None]:
    """Return the share of its time that the engine works, the part of it by prompts, and the share of a replica."""
    if rung is LoadRung.SERVICE_TIME:
        return 0.0, 0.0, (span.busy or 0.0) / (executions_at_once(reference, query) * RUNNING_TARGET_RATIO)
    if not rung.has_token_time:
        return 0.0, 0.0, None
    if not span.is_time_known:
        return 0.0, 0.0, 0.0  # not even a guess by the prompts: it supposes that the rest of the time is idle
    decoding, floor = 0.0, reference.floor.seconds
    rho = 0.0
    if span.token_seconds is not None:
        decoding = span.decoding or 0.0
        if not decoding < 1.0:
            decoding = 1.0
        rho = 1 - floor / span.token_seconds
        rho = 0.0 if not rho > 0.0 else rho if rho < MAX_WORK else MAX_WORK
    prefill = _prefill(span, reference, 1 - decoding)
    working = decoding * rho + prefill
    if not working < MAX_WORK:
        working = MAX_WORK
    aim = 1 - floor / (query.itl_target_seconds * span.tokens_per_step)
    return working, prefill, working / (aim if aim > _MIN_AIM else _MIN_AIM)


def _prefill(span: Span, reference: Reference, rest: float) -> float:
    """Return the share of its time that the engine computes prompts, as far as nothing is known of its tokens.

    It is a guess: the most that an engine was seen to do may be less than it can do. Then the share is too large. So
    it is at most the number of requests whose prompts are computed. By Little's law this is the rate of prompt tokens
    times the time for each, and its sum over all replicas does not grow when replicas are added.

    Args:
        span: the work.
        reference: what it is compared with.
        rest: the share of its time in which the engine generates no token.
    """
    if not span.prompt_tokens or not reference.most_prompt_tokens:
        return 0.0
    rate = span.prompt_tokens / span.seconds
    return min(rest, rest * rate / reference.most_prompt_tokens, rate * reference.prompt_token_seconds)


def _fullness(work: EngineWork, span: Span, query: EngineQuery) -> float | None:
    fullness = None
    if span.kv_cache_ratio is not None:
        fullness = span.kv_cache_ratio / query.kv_target
    limit = query.max_seqs or work.sample.running_limit
    if limit and span.running is not None:
        by_running = span.running / (limit * RUNNING_TARGET_RATIO)
        if fullness is None or by_running > fullness:
            fullness = by_running
    if fullness is None or fullness < _MAX_FULLNESS:
        return fullness
    return _MAX_FULLNESS
