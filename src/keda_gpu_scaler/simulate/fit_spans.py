# SPDX-License-Identifier: Apache-2.0
"""The spans of a recording that a fit uses, and whether they show enough.

Law: a span has what was measured over it. Where nothing of a reading is known, the span is left out.

The mean time per token of the requests of a span is the mean time of an iteration. Where an engine observes the times
between tokens, it is their sum divided by their number, and by Little's law the sum also says how many requests
decoded. Where it does not, it is the number of running requests divided by the tokens per second: each of them gets
a token in each iteration, except those whose prompt is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.summary import percentile
from keda_gpu_scaler.simulate.traffic.engine_history import EngineHistory, cached_prompt_tokens

SPAN_SECONDS = 10.0
MIN_SPANS = 20
MIN_RATIO = 2.0
"""The most requests of a span must be this many times the least, or the line through them has no slope."""
_LOW_PERCENT, _HIGH_PERCENT = 5.0, 95.0
"""What is compared: a few spans at the begin or the end of a load test are not a changing load."""
_MIN_TOKENS = 50


@dataclass(frozen=True, slots=True)
class FitSpan:
    """One span of one engine: means over it, with ``weight`` times between tokens.

    ``prompt_tokens`` are those of an iteration, ``cached_ratio`` the share of them that a prefix cache held, 0 where it
    is not known. ``is_by_rate`` says that the time of an iteration is computed by the tokens per second.
    """

    token_seconds: float
    decoding: float
    prompt_tokens: float
    kv_ratio: float
    weight: float
    running: float
    cached_ratio: float = 0.0
    is_by_rate: bool = False


def spans_of(histories: Sequence[EngineHistory]) -> list[FitSpan]:
    """Return the spans of every engine in which tokens were generated."""
    spans = []
    for samples in (samples for history in histories for samples in history.samples.values()):
        first = 0
        for number, sample in enumerate(samples):
            if sample.at_seconds - samples[first].at_seconds >= SPAN_SECONDS:
                if (span := _span(samples[first : number + 1])) is not None:
                    spans.append(span)
                first = number
    return spans


def _span(samples: Sequence[EngineSample]) -> FitSpan | None:
    begin, end = samples[0], samples[-1]
    seconds = end.at_seconds - begin.at_seconds
    running = [sample.running for sample in samples if sample.running is not None]
    mean_running = sum(running) / len(running) if running else None
    waits = _growth(begin.token_time_seconds_total, end.token_time_seconds_total)
    times = _growth(begin.token_times_total, end.token_times_total)
    is_by_rate = waits is None or times is None
    if is_by_rate:
        times = _growth(begin.tokens_total, end.tokens_total)
        waits = None if mean_running is None else mean_running * seconds
    prompts = _growth(begin.prompt_tokens_total, end.prompt_tokens_total) or 0.0
    if waits is None or times is None or waits <= 0 or times < _MIN_TOKENS or prompts < 0:
        return None
    kv_ratios = [sample.kv_cache_ratio for sample in samples if sample.kv_cache_ratio is not None]
    cached = _growth(cached_prompt_tokens(begin), cached_prompt_tokens(end)) or 0.0
    token_seconds = waits / times
    return FitSpan(
        token_seconds,
        waits / seconds,
        prompts / seconds * token_seconds,
        sum(kv_ratios) / len(kv_ratios) if kv_ratios else 0.0,
        times,
        waits / seconds if mean_running is None else mean_running,
        min(1.0, max(0.0, cached / prompts)) if prompts else 0.0,
        is_by_rate,
    )


def _growth(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def check_spans(name: str, spans: Sequence[FitSpan]) -> None:
    """Refuse spans that cannot show how the time of an iteration depends on the load.

    Raises:
        SimulationError: there are too few, or the load was always the same.
    """
    if len(spans) < MIN_SPANS:
        raise SimulationError(
            f"{name}: only {len(spans)} spans of {SPAN_SECONDS:g} s have enough generated tokens, and {MIN_SPANS} are "
            "needed: record under load, and for longer; an engine without a time between tokens and without running "
            "requests and tokens cannot be fitted"
        )
    decoding = sorted([span.decoding for span in spans])
    least, most = percentile(decoding, _LOW_PERCENT), percentile(decoding, _HIGH_PERCENT)
    if most < MIN_RATIO * least or most < MIN_RATIO:
        raise SimulationError(
            f"{name}: the engines had {least:.1f} to {most:.1f} requests at the same time in nine tenths of the spans: "
            f"what a request costs is only found where the most are {MIN_RATIO:g} times the least: record while the "
            "load changes, or give the recordings of several loads"
        )
