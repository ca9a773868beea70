# SPDX-License-Identifier: Apache-2.0
"""Measures the work of one engine over spans of its samples.

Law: a span is measured by the growth of counters. An interval in which a counter fell is not a part of any span.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import NamedTuple

from keda_gpu_scaler.core.aggregation import mean_of_known
from keda_gpu_scaler.core.evaluate.load.counter_steps import CounterSteps, counter_bits, counter_steps
from keda_gpu_scaler.core.evaluate.load.line import NO_POINTS, Sums, add_sums, point
from keda_gpu_scaler.core.evaluate.load.rung import (
    NEEDED_COUNTERS,
    grown_rung,
    hidden_rung,
    newest_with,
    observes_ended_requests,
)
from keda_gpu_scaler.core.evaluate.load.token_time import mean_busy, shows_time, token_time, tokens_per_step
from keda_gpu_scaler.core.evaluate.sample_window import WAITING
from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.trigger.engines import LoadRung
from keda_gpu_scaler.core.types import EngineSample, Histogram

SPAN_SECONDS = 10.0
"""The length of the spans into which the history of an engine is divided."""
_MIN_SPAN_SECONDS = 0.75 * SPAN_SECONDS
"""The thinned history has one sample in each step of a span's length, so that neighbours may be a little closer."""
_MIN_BUCKET_TOTAL = 100
_MIN_BUCKET_COUNT = 10
_MIN_BUCKET_SHARE = 1e-3

_GAUGES = attrgetter("running", "waiting", "kv_cache_ratio")
_ENDED, _PROMPTS = counter_bits("ended"), counter_bits("prompts")


@dataclass(frozen=True, slots=True)
class Span:
    """The work of one engine over some seconds; a part that is not known is None.

    ``token_seconds`` is the mean time per token of a request, and ``decoding`` the mean number of requests that
    generate tokens. ``tokens_per_step`` is above 1 where an observed time between tokens covers several tokens.
    ``running`` and ``kv_cache_ratio`` are means. ``ended`` counts requests that ended well, ``prompt_tokens`` the
    tokens of prompts, and ``busy`` is the mean number of executions at the same time. ``is_idle`` says that the engine
    had no request at any sample, and that no counter shows work. ``prefilling`` is the mean number of running requests
    that generate no token yet; of few samples it may be below 0. ``sums`` are those of the span as a point of the line.
    ``is_time_known`` is false where requests run and nothing shows their time per token: none ended where the time is
    observed at the end, or none generates a token. ``is_time_earlier`` says that the time is that of earlier requests.
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
    prefilling: float | None = None
    sums: Sums = NO_POINTS
    cache_sums: Sums = NO_POINTS
    is_time_known: bool = True
    is_time_earlier: bool = False


@dataclass(frozen=True, slots=True)
class EngineWork:
    """The work of one engine: over the window, and over each span of its history, the oldest first.

    ``current`` is None before the second sample. ``waiting`` is the newest number of waiting requests, or what is known
    of it, and ``waiting_growth`` its mean growth per second over the window. ``most_prompt_tokens`` is the largest
    number of prompt tokens per second of one span, and ``most_busy`` the largest ``busy``. ``lowest_bucket`` has the
    bounds, in seconds, of the lowest bucket of the times between tokens that is populated since the engine started.
    ``sums`` and ``cache_sums`` are those of the spans' points, and ``least_token_seconds`` is the least of their times
    per token, infinite where there is none. Over all spans, ``prompt_tokens`` counts tokens of prompts, and
    ``prefill_seconds`` adds up the time of running requests that generate no token yet. It is None where no request was
    seen to run. ``unknown_reading`` is that of ``hidden_rung``.
    """

    sample: EngineSample
    rung: LoadRung
    current: Span | None
    spans: tuple[Span, ...]
    waiting: float = 0.0
    waiting_growth: float = 0.0
    most_prompt_tokens: float = 0.0
    lowest_bucket: tuple[float, float] | None = None
    sums: Sums = NO_POINTS
    cache_sums: Sums = NO_POINTS
    least_token_seconds: float = math.inf
    prefill_seconds: float | None = None
    prompt_tokens: float = 0.0
    most_busy: float = 0.0
    unknown_reading: str = ""

    @property
    def running_limit(self) -> float | None:
        """The number of requests that the engine says may run at once, None where it does not say so."""
        return self.sample.running_limit


_PARTS, _ASKED = "parts", "asked"
AHEAD_SECONDS = 60.0
"""For so long after an evaluation the work is measured with each sample. KEDA and the HPA ask more often."""


class _Part(NamedTuple):
    """A part of a history: its first and its last sample, the number of intervals between them, and its span."""

    first: EngineSample
    last: EngineSample
    intervals: int
    span: Span | None


class _Total(NamedTuple):
    """What spans have together. The names are those of ``EngineWork``; ``has_run`` says that a request was running."""

    sums: Sums
    cache_sums: Sums
    least_token_seconds: float
    most_prompt_tokens: float
    prompt_tokens: float
    prefill_seconds: float
    has_run: bool
    most_busy: float


class _KnownParts(NamedTuple):
    """The parts of these samples on one rung, by the identity of their first sample, which the part keeps.

    ``unfinished`` is the number of the first sample of the part that has not ended yet.
    """

    rung: LoadRung
    samples: tuple[EngineSample, ...]
    unfinished: int
    parts: dict[int, _Part]
    spans: tuple[Span, ...]
    total: _Total


def engine_work(page: TargetHistory, window_seconds: float) -> EngineWork | None:
    """Measure the work of an engine from its samples; None before the first sample.

    The result is kept with the history, because every trigger and every evaluation until the next scrape needs it.
    """
    asked: dict[float, EngineSample] = page.between_samples.setdefault(_ASKED, {})
    if page.samples:
        asked[window_seconds] = page.samples[-1]
    return _work(page, window_seconds)


def measure_ahead(page: TargetHistory) -> None:
    """Measure the work of an engine as soon as a sample came, over the windows that were asked for recently.

    An evaluation of many engines is then short, because their work is measured already. Its result is the same.
    """
    newest = page.newest
    asked: dict[float, EngineSample] = page.between_samples.get(_ASKED, {})
    if newest is None:
        return
    for window_seconds, sample in [*asked.items()]:
        if newest.at_seconds - sample.at_seconds > AHEAD_SECONDS:
            del asked[window_seconds]
        else:
            _work(page, window_seconds)


def _work(page: TargetHistory, window_seconds: float) -> EngineWork | None:
    key = ("work", window_seconds)
    if key not in page.cache:
        page.cache[key] = _measure(page, window_seconds)
    work: EngineWork | None = page.cache[key]
    return work


def _measure(page: TargetHistory, window_seconds: float) -> EngineWork | None:
    newest = page.newest
    if newest is None:
        return None
    rung = grown_rung(page.samples)
    window: Sequence[EngineSample] = page.window(window_seconds)
    steps = counter_steps(page)
    current = _span(window, rung, steps, gauges=len(window))
    if current is None:  # a page without the counters ends the time that is known, as a restart does
        window = newest_with(window, rung)
        current = _span(window, rung, steps, gauges=len(window))
    known = _known_parts(page, rung, steps)
    total, spans = known.total, known.spans
    if observes_ended_requests(rung, newest.engine):
        spans, current = _with_earlier_times(spans, current)
    now = _prompt_rate(current) if current is not None else 0.0
    return EngineWork(
        sample=newest,
        rung=rung,
        current=current,
        spans=spans,
        waiting=WAITING.known_part(newest),
        waiting_growth=_waiting_growth(window),
        most_prompt_tokens=max(total.most_prompt_tokens, now),
        lowest_bucket=_lowest_bucket(newest.token_time),
        sums=total.sums,
        cache_sums=total.cache_sums,
        least_token_seconds=total.least_token_seconds,
        prefill_seconds=total.prefill_seconds if total.has_run else None,
        prompt_tokens=total.prompt_tokens,
        most_busy=max(total.most_busy, current.busy or 0.0 if current is not None else 0.0),
        unknown_reading=hidden_rung(page.samples, rung),
    )


def _with_earlier_times(spans: tuple[Span, ...], current: Span | None) -> tuple[tuple[Span, ...], Span | None]:
    """Give each span whose time per token is not known that of the requests that ended before it.

    The history is short, so the load of that time is a better guess than none.
    """
    earlier: float | None = None
    filled: list[Span] = []
    for span in spans if current is None else (*spans, current):
        one = span
        if span.token_seconds is not None:
            earlier = span.token_seconds
        elif not span.is_time_known and earlier is not None:
            one = replace(span, token_seconds=earlier, is_time_known=True, is_time_earlier=True)
        filled.append(one)
    return (tuple(filled), None) if current is None else (tuple(filled[:-1]), filled[-1])


def _known_parts(page: TargetHistory, rung: LoadRung, steps: CounterSteps) -> _KnownParts:
    """Return the parts of the history and their spans; a span of the same samples is computed once.

    The parts are kept with the samples themselves, so that they belong to no other sample with the same identity. Most
    scrapes add a sample to the part that has not ended, and change no other part.
    """
    known: _KnownParts | None = page.between_samples.get(_PARTS)
    samples = page.samples
    if known is None or known.rung is not rung:
        return _remember(page, rung, {}, *_parts(samples, rung, steps, {}, 0))
    if samples[: len(known.samples)] != known.samples:
        return _remember(page, rung, {}, *_parts(samples, rung, steps, known.parts, 0))
    added, unfinished = _parts(samples, rung, steps, {}, known.unfinished)
    if added:
        return _remember(page, rung, known.parts, added, unfinished)
    known = page.between_samples[_PARTS] = known._replace(samples=samples)
    return known


def _remember(
    page: TargetHistory, rung: LoadRung, earlier: dict[int, _Part], added: dict[int, _Part], unfinished: int
) -> _KnownParts:
    parts = {**earlier, **added}
    spans = tuple([part.span for part in parts.values() if part.span is not None])
    known = page.between_samples[_PARTS] = _KnownParts(rung, page.samples, unfinished, parts, spans, _total(spans))
    return known


def _parts(
    samples: Sequence[EngineSample], rung: LoadRung, steps: CounterSteps, known: dict[int, _Part], first: int
) -> tuple[dict[int, _Part], int]:
    """Divide the samples from this one on into parts; return them and the first sample of the part that has not ended.

    A part that is known and has the same samples still is not measured again.
    """
    count = len(samples)
    parts: dict[int, _Part] = {}
    while first < count:
        begin = samples[first]
        part = known.get(id(begin))
        # Samples are dropped between others and not added, so a part with the same ends and distance is the same.
        last = first + part.intervals if part is not None else count
        if part is None or part.first is not begin or last >= count or part.last is not samples[last]:
            end = _end_of_part(samples, first)
            if end is None:
                break
            last = end
            # A sample stands for the time until the next one: in the older history it has the means of that time.
            span = _span(samples[first : last + 1], rung, steps, gauges=last - first)
            part = _Part(begin, samples[last], last - first, span)
        parts[id(begin)] = part
        first = last
    return parts, first


def _end_of_part(samples: Sequence[EngineSample], first: int) -> int | None:
    """Return the number of the last sample of a part of about ``SPAN_SECONDS``; None where the history ends before.

    It is the first sample of the next part, too.
    """
    begin = samples[first].at_seconds
    for number in range(first + 1, len(samples)):
        if samples[number].at_seconds - begin >= _MIN_SPAN_SECONDS:
            return number
    return None


def _span(samples: Sequence[EngineSample], rung: LoadRung, steps: CounterSteps, *, gauges: int) -> Span | None:
    """Measure the span of these samples; the first so many of them show the mean gauges.

    It is None where no time without a restart passed, or where a counter that the rung needs is missing in a sample.
    """
    seconds, counted, missing = steps.growth(samples)
    if seconds <= 0 or missing & NEEDED_COUNTERS[rung]:
        return None
    newest = samples[-1]
    all_running, all_waiting, caches = zip(*map(_GAUGES, samples), strict=True)
    running, cache = mean_of_known(all_running[:gauges]), mean_of_known(caches[:gauges])
    prompt_rate = counted.prompts / seconds
    token_seconds, decoding = token_time(counted, seconds, running, rung)
    has_requests = any(all_running) or any(all_waiting)
    return Span(
        end_seconds=newest.at_seconds,
        seconds=seconds,
        token_seconds=token_seconds,
        decoding=decoding,
        tokens_per_step=tokens_per_step(counted, newest),
        running=running,
        kv_cache_ratio=cache,
        ended=None if missing & _ENDED else counted.ended,
        prompt_tokens=None if missing & _PROMPTS else counted.prompts,
        busy=mean_busy(counted, seconds, newest) if rung is LoadRung.SERVICE_TIME else None,
        is_idle=rung is not LoadRung.NONE
        and not has_requests
        and not (counted.times or counted.tokens or counted.services or counted.prompts),
        prefilling=_prefilling(running, decoding if token_seconds is not None else 0.0),
        is_time_known=token_seconds is not None
        or not newest.running
        or shows_time(rung, newest, seconds, counted, always_runs=all(all_running)),
        sums=_sums(token_seconds, decoding, prompt_rate),
        cache_sums=_sums(token_seconds, cache if decoding else None, prompt_rate),
    )


def _total(spans: Sequence[Span]) -> _Total:
    points = [span for span in spans if span.sums is not NO_POINTS]
    return _Total(
        add_sums([span.sums for span in points]),
        add_sums([span.cache_sums for span in points]),
        min([span.token_seconds or math.inf for span in points], default=math.inf),
        max([_prompt_rate(span) for span in spans], default=0.0),
        math.fsum([span.prompt_tokens or 0.0 for span in spans]),
        math.fsum([span.prefilling * span.seconds for span in spans if span.prefilling is not None]),
        any(span.running for span in spans),
        max([span.busy or 0.0 for span in spans], default=0.0),
    )


def _prompt_rate(span: Span) -> float:
    return (span.prompt_tokens or 0.0) / span.seconds


def _prefilling(running: float | None, decoding: float | None) -> float | None:
    return None if running is None else running - (decoding or 0.0)


def _sums(token_seconds: float | None, used: float | None, prompt_rate: float) -> Sums:
    if token_seconds is None or not used:
        return NO_POINTS
    return point(used, token_seconds, prompt_rate * token_seconds)


def _waiting_growth(window: Sequence[EngineSample]) -> float:
    first = next((sample for sample in window if sample.waiting is not None), window[-1])
    last = next((sample for sample in reversed(window) if sample.waiting is not None), window[-1])
    seconds = last.at_seconds - first.at_seconds
    return ((last.waiting or 0.0) - (first.waiting or 0.0)) / seconds if seconds > 0 else 0.0


@functools.lru_cache(maxsize=4096)  # the same histogram is read again until the engine generates another token
def _lowest_bucket(histogram: Histogram | None) -> tuple[float, float] | None:
    """Return the bounds of the lowest bucket that is populated, from 0; None where too little is counted."""
    if histogram is None or histogram.counts[-1] < _MIN_BUCKET_TOTAL:
        return None
    least = max(_MIN_BUCKET_COUNT, histogram.counts[-1] * _MIN_BUCKET_SHARE)
    lower = 0.0
    for bound, count in zip(histogram.bounds_seconds, histogram.counts, strict=True):
        if count >= least:
            return lower, bound
        lower = bound
    return None
