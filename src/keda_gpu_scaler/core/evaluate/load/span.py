# SPDX-License-Identifier: Apache-2.0
"""Measures the work of one engine over spans of its samples.

Law: a span is measured by the growth of counters. An interval in which a counter fell is not a part of any span.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from keda_gpu_scaler.core.aggregation import mean
from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.trigger.engines import ENGINES, LoadRung
from keda_gpu_scaler.core.types import EngineSample, Histogram

SPAN_SECONDS = 10.0
"""The length of the spans into which the history of an engine is divided."""
MIN_OBSERVATIONS = 20
"""A mean of fewer times per token says little about the engine."""
_MIN_BUCKET_TOTAL = 100
_MIN_BUCKET_COUNT = 10
_MIN_BUCKET_SHARE = 1e-3
_MULTI_TOKEN_FACTOR = 1.2  # fewer tokens per observation are an error of measurement, not speculative decoding

_TOKEN_TIME_RUNGS = (LoadRung.TOKEN_TIME, LoadRung.REQUEST_TOKEN_TIME)


@dataclass(frozen=True, slots=True)
class Span:
    """The work of one engine over some seconds; a part that is not known is None.

    ``token_seconds`` is the mean time per token of a request, and ``decoding`` the mean number of requests that
    generate tokens. ``tokens_per_step`` is above 1 where an observed time between tokens covers several tokens.
    ``running`` and ``kv_cache_ratio`` are means. ``ended`` counts requests that ended well, ``prompt_tokens`` the
    tokens of prompts, and ``busy`` is the mean number of executions at the same time. ``is_idle`` says that the engine
    had no request at any sample and generated no token.
    """

    end_seconds: float
    seconds: float
    token_seconds: float | None = None
    decoding: float | None = None
    tokens_per_step: float = 1.0
    running: float | None = None
    kv_cache_ratio: float | None = None
    ended: float | None = None
    prompt_tokens: float | None = None
    busy: float | None = None
    is_idle: bool = False


@dataclass(frozen=True, slots=True)
class EngineWork:
    """The work of one engine: over the window, and over each span of its history, the oldest first.

    ``current`` is None before the second sample. ``waiting`` is the newest number of waiting requests, and
    ``waiting_growth`` its mean growth per second over the window. ``most_prompt_tokens`` is the largest number of
    prompt tokens per second between two samples. ``lowest_bucket`` has the bounds, in seconds, of the lowest bucket of
    the times between tokens that is populated since the engine started.
    """

    sample: EngineSample
    rung: LoadRung
    current: Span | None
    spans: tuple[Span, ...]
    waiting: float = 0.0
    waiting_growth: float = 0.0
    most_prompt_tokens: float = 0.0
    lowest_bucket: tuple[float, float] | None = None

    @property
    def running_limit(self) -> float | None:
        """The number of requests that the engine says may run at once, None where it does not say so."""
        return self.sample.running_limit


def engine_work(page: TargetHistory, window_seconds: float) -> EngineWork | None:
    """Measure the work of an engine from its samples; None before the first sample.

    The result is kept with the history, because every trigger and every evaluation until the next scrape needs it.
    """
    key = ("work", window_seconds)
    if key not in page.cache:
        page.cache[key] = _measure(page, window_seconds)
    work: EngineWork | None = page.cache[key]
    return work


def _measure(page: TargetHistory, window_seconds: float) -> EngineWork | None:
    newest = page.newest
    if newest is None:
        return None
    rung = rung_of(newest)
    inside = [*page.within(window_seconds)][::-1]
    window = [*page.samples[-len(inside) - 1 : -len(inside)], *inside]
    rates = [
        growth / (later.at_seconds - earlier.at_seconds)
        for earlier, later in pairwise(page.samples)
        if (growth := _growth(earlier.prompt_tokens_total, later.prompt_tokens_total)) is not None
    ]
    return EngineWork(
        sample=newest,
        rung=rung,
        current=_span(window, rung) if len(window) > 1 else None,
        spans=tuple([span for samples in _divided(page.samples) if (span := _span(samples, rung)) is not None]),
        waiting=newest.waiting or 0.0,
        waiting_growth=_waiting_growth(window),
        most_prompt_tokens=max(rates, default=0.0),
        lowest_bucket=_lowest_bucket(newest.token_time),
    )


def rung_of(sample: EngineSample) -> LoadRung:
    """Return the best rung that the engine of this sample reaches with what the page has."""
    engine = ENGINES.get(sample.engine)
    has = {
        LoadRung.TOKEN_RATE: sample.tokens_total is not None and sample.running is not None,
        LoadRung.SERVICE_TIME: sample.service_seconds_total is not None and sample.services_total is not None,
        LoadRung.RUNNING: sample.running is not None,
    }
    for rung in _TOKEN_TIME_RUNGS:
        has[rung] = sample.token_time_seconds_total is not None and sample.token_times_total is not None
    rungs = list(LoadRung)
    best = rungs.index(engine.load_rung) if engine is not None else len(rungs)
    return next((rung for rung in rungs[best:] if has.get(rung)), LoadRung.NONE)


def _divided(samples: Sequence[EngineSample]) -> Iterator[Sequence[EngineSample]]:
    """Yield runs of samples that are ``SPAN_SECONDS`` long at least; the end of a run begins the next one."""
    first = 0
    for number, sample in enumerate(samples):
        if sample.at_seconds - samples[first].at_seconds >= SPAN_SECONDS:
            yield samples[first : number + 1]
            first = number


class _Counted:
    """The growth of every counter over the intervals in which none of them fell."""

    __slots__ = (
        "ended",
        "executions",
        "first",
        "prompts",
        "seconds",
        "service",
        "services",
        "times",
        "tokens",
        "waits",
    )

    def __init__(self, samples: Sequence[EngineSample]) -> None:
        self.seconds = 0.0
        self.waits = self.times = self.tokens = self.first = self.ended = self.prompts = 0.0
        self.service = self.services = self.executions = 0.0
        for earlier, later in pairwise(samples):
            self._add(earlier, later)

    def _add(self, earlier: EngineSample, later: EngineSample) -> None:
        pairs = (
            (earlier.token_time_seconds_total, later.token_time_seconds_total),
            (earlier.token_times_total, later.token_times_total),
            (earlier.tokens_total, later.tokens_total),
            (earlier.first_tokens_total, later.first_tokens_total),
            (earlier.requests_total, later.requests_total),
            (earlier.prompt_tokens_total, later.prompt_tokens_total),
            (earlier.service_seconds_total, later.service_seconds_total),
            (earlier.services_total, later.services_total),
            (earlier.executions_total, later.executions_total),
        )
        grown = [0.0 if before is None or after is None else after - before for before, after in pairs]
        if min(grown) < 0:
            return  # the engine was restarted
        self.seconds += later.at_seconds - earlier.at_seconds
        self.waits += grown[0]
        self.times += grown[1]
        self.tokens += grown[2]
        self.first += grown[3]
        self.ended += grown[4]
        self.prompts += grown[5]
        self.service += grown[6]
        self.services += grown[7]
        self.executions += grown[8]


def _span(samples: Sequence[EngineSample], rung: LoadRung) -> Span | None:
    counted = _Counted(samples)
    if not counted.seconds:
        return None
    newest = samples[-1]
    running = _mean([sample.running for sample in samples])
    token_seconds, decoding = _token_time(counted, running, rung)
    has_requests = any(sample.running or sample.waiting for sample in samples)
    return Span(
        end_seconds=newest.at_seconds,
        seconds=counted.seconds,
        token_seconds=token_seconds,
        decoding=decoding,
        tokens_per_step=_tokens_per_step(counted, newest) if rung is LoadRung.TOKEN_TIME else 1.0,
        running=running,
        kv_cache_ratio=_mean([sample.kv_cache_ratio for sample in samples]),
        ended=None if newest.requests_total is None else counted.ended,
        prompt_tokens=None if newest.prompt_tokens_total is None else counted.prompts,
        busy=_busy(counted, newest) if rung is LoadRung.SERVICE_TIME else None,
        is_idle=not has_requests and not counted.times and not counted.tokens and not counted.services,
    )


def _token_time(counted: _Counted, running: float | None, rung: LoadRung) -> tuple[float | None, float | None]:
    """Return the mean time per token in seconds, and the mean number of requests that generate tokens.

    Where each time between tokens is observed, their sum grows by one second per second and request, so it also says
    how many requests generate tokens (Little's law). No sample of a gauge is needed.
    """
    if rung is LoadRung.TOKEN_TIME:
        decoding: float | None = counted.waits / counted.seconds
    else:
        decoding = running
    if rung in _TOKEN_TIME_RUNGS:
        is_enough = counted.times >= (MIN_OBSERVATIONS if rung is LoadRung.TOKEN_TIME else 1)
        return (counted.waits / counted.times if is_enough else None), decoding
    if rung is LoadRung.TOKEN_RATE and running and counted.tokens >= MIN_OBSERVATIONS:
        return running * counted.seconds / counted.tokens, decoding
    return None, decoding


def _tokens_per_step(counted: _Counted, newest: EngineSample) -> float:
    """Return how many tokens one observed time between tokens covers: with speculative decoding, several."""
    if newest.tokens_total is None or not counted.times:
        return 1.0
    first = counted.first if newest.first_tokens_total is not None else counted.ended
    tokens = max(0.0, counted.tokens - first) / counted.times
    return tokens if tokens > _MULTI_TOKEN_FACTOR else 1.0


def _busy(counted: _Counted, newest: EngineSample) -> float:
    """Return the mean number of executions at the same time: requests of one batch share its time."""
    per_execution = 1.0
    if newest.executions_total is not None and counted.services:
        per_execution = min(1.0, counted.executions / counted.services)
    return counted.service * per_execution / counted.seconds


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _growth(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None or after < before else after - before


def _waiting_growth(window: Sequence[EngineSample]) -> float:
    known = [sample for sample in window if sample.waiting is not None]
    if len(known) < 2:
        return 0.0
    seconds = known[-1].at_seconds - known[0].at_seconds
    return ((known[-1].waiting or 0.0) - (known[0].waiting or 0.0)) / seconds


@functools.lru_cache(maxsize=4096)  # the same histogram is read again until the engine generates another token
def _lowest_bucket(histogram: Histogram | None) -> tuple[float, float] | None:
    """Return the bounds of the lowest bucket that is populated; None where too little is counted.

    The lower bound of the first bucket is half of its upper bound: a time of nearly 0 means nothing.
    """
    if histogram is None or histogram.counts[-1] < _MIN_BUCKET_TOTAL:
        return None
    least = max(_MIN_BUCKET_COUNT, histogram.counts[-1] * _MIN_BUCKET_SHARE)
    lower = histogram.bounds_seconds[0] / 2
    for bound, count in zip(histogram.bounds_seconds, histogram.counts, strict=True):
        if count >= least:
            return lower, bound
        lower = bound
    return None
