# SPDX-License-Identifier: Apache-2.0
"""Fits the model of a replica to a recording of real engines, and says how well it explains them.

Law: a recording that does not determine the coefficients is refused. No coefficient is guessed.

Over a span, the mean time per token of a request is the mean time of an iteration. By Little's law the sum of all
times between tokens says how many requests decoded. So each span is a point of a plane: the time of an iteration by
the requests, the prompt tokens of an iteration, and the tokens in the KV cache. The plane is fitted by least squares
with no coefficient below 0. The size of the KV cache is the tokens of the requests that run, divided by its usage.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from keda_gpu_scaler.core.evaluate.engine_load import quantile
from keda_gpu_scaler.core.types import EngineSample, Histogram
from keda_gpu_scaler.simulate.counters import FIRST_TOKEN_BOUNDS
from keda_gpu_scaler.simulate.engine_model import EngineModel, SimulationError
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.scenario import Circumstances
from keda_gpu_scaler.simulate.simulation import WorkloadSimulation
from keda_gpu_scaler.simulate.summary import latencies, percentile
from keda_gpu_scaler.simulate.traffic.engine_history import EngineHistory
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.recording import mean_lengths, traffic_of_history

SPAN_SECONDS = 10.0
MIN_SPANS = 20
MIN_RATIO = 2.0
"""The most requests of a span must be this many times the least, or the line through them has no slope."""
MIN_EXPLAINED = 0.5
_MIN_TOKENS = 50
_DEFAULT_SEQS = 256


@dataclass(frozen=True, slots=True)
class FitSpan:
    """One span of one engine: means over it, with ``weight`` times between tokens."""

    token_seconds: float
    decoding: float
    prompt_tokens: float
    kv_ratio: float
    weight: float
    running: float


@dataclass(frozen=True, slots=True)
class FitCheck:
    """A percentile as it was measured and as the fitted model predicts it, in seconds."""

    name: str
    measured: float
    predicted: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted model. ``explained`` is the share of the variance that it explains; ``sentences`` describe the fit."""

    model: EngineModel
    spans: int
    explained: float
    checks: tuple[FitCheck, ...]
    sentences: tuple[str, ...]


def fit_engine_model(
    name: str, history: EngineHistory, *, kv_tokens: int | None = None, max_seqs: int | None = None, gpus: int = 1
) -> Fit:
    """Fit a model.

    Args:
        name: of the model.
        history: the recorded engines, all of one model on one kind of GPU.
        kv_tokens: the size of the KV cache, None to find it by its usage.
        max_seqs: the number of requests that run at once, None for vLLM's default.
        gpus: the GPUs of a replica.

    Raises:
        SimulationError: the recording does not determine the coefficients.
    """
    spans = spans_of(history)
    _check(name, spans)
    lengths, source = mean_lengths(history, Lengths())
    capacity = kv_tokens or _kv_tokens(spans, lengths)
    intercept, slopes, explained = _plane(spans, capacity)
    if explained < MIN_EXPLAINED or intercept <= 0:
        raise SimulationError(
            f"{name}: requests, prompts and KV cache explain {100 * explained:.0f} % of the variance of the time of an "
            f"iteration, and {100 * MIN_EXPLAINED:.0f} % are needed: record one model on one kind of GPU, over "
            "changing load"
        )
    model = EngineModel(
        name=name,
        iteration_seconds=intercept,
        request_seconds=slopes[0],
        prompt_token_seconds=slopes[1],
        kv_token_seconds=slopes[2],
        kv_tokens=capacity,
        max_seqs=max_seqs or _DEFAULT_SEQS,
        gpus=gpus,
        source=f"fitted to {len(spans)} spans of a recording of {history.seconds / 60:.0f} minutes",
    )
    sentences = (source, *_sentences(slopes, is_size_found=kv_tokens is None))
    return Fit(model, len(spans), explained, checks_of(model, spans, history), sentences)


def spans_of(history: EngineHistory) -> list[FitSpan]:
    """Return the spans of every engine in which tokens were generated."""
    spans = []
    for samples in history.samples.values():
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
    waits = _growth(begin.token_time_seconds_total, end.token_time_seconds_total)
    times = _growth(begin.token_times_total, end.token_times_total)
    if waits is None or times is None or waits <= 0 or times < _MIN_TOKENS:
        return None
    prompts = _growth(begin.prompt_tokens_total, end.prompt_tokens_total) or 0.0
    if prompts < 0:
        return None
    kv_ratios = [sample.kv_cache_ratio for sample in samples if sample.kv_cache_ratio is not None]
    running = [sample.running for sample in samples if sample.running is not None]
    token_seconds = waits / times
    return FitSpan(
        token_seconds,
        waits / seconds,
        prompts / seconds * token_seconds,
        sum(kv_ratios) / len(kv_ratios) if kv_ratios else 0.0,
        times,
        sum(running) / len(running) if running else waits / seconds,
    )


def _growth(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _check(name: str, spans: Sequence[FitSpan]) -> None:
    if len(spans) < MIN_SPANS:
        raise SimulationError(
            f"{name}: only {len(spans)} spans of {SPAN_SECONDS:g} s have enough generated tokens, and {MIN_SPANS} are "
            "needed: record under load, and for longer; engines without a time between tokens cannot be fitted"
        )
    least, most = min(span.decoding for span in spans), max(span.decoding for span in spans)
    if most < MIN_RATIO * least or most < MIN_RATIO:
        raise SimulationError(
            f"{name}: the engines had {least:.1f} to {most:.1f} requests at the same time: the time of a request is "
            f"only found where the most are {MIN_RATIO:g} times the least: record while the load changes"
        )


def _kv_tokens(spans: Sequence[FitSpan], lengths: Lengths) -> int:
    tokens = lengths.prompt_tokens + lengths.answer_tokens / 2
    sizes = [span.running * tokens / span.kv_ratio for span in spans if span.kv_ratio > 0.01]
    if not sizes:
        raise SimulationError("the recording does not show the size of the KV cache: state it with --kv-tokens")
    return max(1, round(median(sizes)))


def _plane(spans: Sequence[FitSpan], capacity: int) -> tuple[float, tuple[float, float, float], float]:
    """Return the intercept, the three slopes, none below 0, and the share of the variance that they explain."""
    points = [(1.0, span.decoding, span.prompt_tokens, span.kv_ratio * capacity) for span in spans]
    total = math.fsum([span.weight for span in spans])
    mean = math.fsum([span.weight * span.token_seconds for span in spans]) / total
    variance = math.fsum([span.weight * (span.token_seconds - mean) ** 2 for span in spans])
    best = (mean, (0.0, 0.0, 0.0), variance)
    for count in range(1, 4):
        for chosen in combinations((1, 2, 3), count):
            columns = (0, *chosen)
            solution = _solve(points, spans, columns)
            if solution is None or min(solution[1:]) < 0:
                continue
            residual = math.fsum(
                [
                    span.weight
                    * (span.token_seconds - math.fsum([solution[k] * row[one] for k, one in enumerate(columns)])) ** 2
                    for span, row in zip(spans, points, strict=True)
                ]
            )
            if residual < best[2] * (1 - 1e-9):
                by_column = dict(zip(columns, solution, strict=True))
                slopes = (by_column.get(1, 0.0), by_column.get(2, 0.0), by_column.get(3, 0.0))
                best = (solution[0], slopes, residual)
    return best[0], best[1], 1 - best[2] / variance if variance > 0 else 0.0


def _solve(points: Sequence[Sequence[float]], spans: Sequence[FitSpan], columns: Sequence[int]) -> list[float] | None:
    """Solve the normal equations of some columns; None where they do not determine the solution."""
    scales = [max(abs(row[one]) for row in points) or 1.0 for one in columns]
    rows = []
    for i, one in enumerate(columns):
        row = [
            math.fsum([span.weight * point[one] * point[other] for span, point in zip(spans, points, strict=True)])
            / (scales[i] * scales[j])
            for j, other in enumerate(columns)
        ]
        right = math.fsum(
            [span.weight * point[one] * span.token_seconds for span, point in zip(spans, points, strict=True)]
        )
        rows.append([*row, right / scales[i]])
    size = len(columns)
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(rows[k][i]))
        if abs(rows[pivot][i]) < 1e-9 * abs(rows[0][0] or 1.0):
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for k in range(size):
            if k != i:
                factor = rows[k][i] / rows[i][i]
                rows[k] = [value - factor * above for value, above in zip(rows[k], rows[i], strict=True)]
    return [rows[i][size] / rows[i][i] / scales[i] for i in range(size)]


def _sentences(slopes: Sequence[float], *, is_size_found: bool) -> Iterator[str]:
    if is_size_found:
        yield "the size of the KV cache is found by the requests that ran and its usage: --kv-tokens states it"
    names = ("the number of requests", "the number of prompt tokens", "the KV cache")
    for name, slope in zip(names, slopes, strict=True):
        if slope == 0:
            yield f"{name} shows no effect in this recording"


# ---- how good it is ----


def checks_of(model: EngineModel, spans: Sequence[FitSpan], history: EngineHistory) -> tuple[FitCheck, ...]:
    """Compare percentiles of the recording with those of the model under the same traffic."""
    measured = sorted([span.token_seconds for span in spans])
    predicted = sorted(
        [
            model.iteration_seconds
            + model.request_seconds * span.decoding
            + model.prompt_token_seconds * span.prompt_tokens
            + model.kv_token_seconds * span.kv_ratio * model.kv_tokens
            for span in spans
        ]
    )
    checks = [
        FitCheck(f"time per token of a span, p{percent}", percentile(measured, percent), percentile(predicted, percent))
        for percent in (50, 95)
    ]
    return (*checks, *_first_token_checks(model, history))


def _first_token_checks(model: EngineModel, history: EngineHistory) -> list[FitCheck]:
    """Simulate the recorded traffic on as many replicas, and compare the times to the first token."""
    observed = _first_token_histogram(history)
    if observed is None or observed.counts[-1] < _MIN_TOKENS:
        return []
    traffic: RequestTraffic = traffic_of_history("recording", history, Lengths())
    size = len(history.samples)
    run = WorkloadSimulation(traffic, model, Circumstances(), size).sized_by(lambda now: size)
    first, _ = latencies(run.log)
    inside = sorted([seconds - over for seconds, over in zip(first, run.log.overheads, strict=True)])
    counts = [float(sum(one <= bound for one in inside)) for bound in FIRST_TOKEN_BOUNDS]
    simulated = Histogram(FIRST_TOKEN_BOUNDS, tuple(counts))
    return [
        FitCheck(
            f"time to the first token, p{percent}", *[quantile(one, percent / 100) for one in (observed, simulated)]
        )
        for percent in (50, 95)
    ]


def _first_token_histogram(history: EngineHistory) -> Histogram | None:
    total: list[float] | None = None
    bounds: tuple[float, ...] = ()
    for samples in history.samples.values():
        with_histogram = [sample.first_token for sample in samples if sample.first_token is not None]
        if len(with_histogram) < 2:
            continue
        begin, end = with_histogram[0], with_histogram[-1]
        if begin.bounds_seconds != end.bounds_seconds or (bounds and bounds != end.bounds_seconds):
            continue
        grown = [after - before for before, after in zip(begin.counts, end.counts, strict=True)]
        bounds = end.bounds_seconds
        total = grown if total is None else [one + other for one, other in zip(total, grown, strict=True)]
    return Histogram(bounds, tuple(total)) if total is not None and min(total) >= 0 else None
