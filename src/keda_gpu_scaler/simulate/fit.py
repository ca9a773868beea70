# SPDX-License-Identifier: Apache-2.0
"""Fits the model of a replica to recordings of real engines, and says how well it explains them.

Law: recordings that do not determine the coefficients are refused. No coefficient is guessed.

Each span of a recording is a point of a plane: the time of an iteration by the requests that decode, the prompt tokens
of an iteration, and the tokens in the KV cache. The plane is fitted by least squares with no coefficient below 0. The
size of the KV cache is the tokens of the requests that run, divided by its usage.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from keda_gpu_scaler.core.evaluate.engine_load import quantile
from keda_gpu_scaler.core.types import Histogram
from keda_gpu_scaler.simulate.engine_model import EngineModel, SimulationError
from keda_gpu_scaler.simulate.fit_spans import FitSpan, check_spans, spans_of
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.scenario import Circumstances
from keda_gpu_scaler.simulate.simulation import WorkloadSimulation
from keda_gpu_scaler.simulate.summary import latencies, percentile
from keda_gpu_scaler.simulate.traffic.engine_history import EngineHistory
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.recording import mean_lengths, traffic_of_history

MIN_EXPLAINED = 0.5
_MIN_REQUESTS = 50
_DEFAULT_SEQS = 256
_MUCH_CACHED = 0.05


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
    name: str,
    histories: Sequence[EngineHistory],
    *,
    kv_tokens: int | None = None,
    max_seqs: int | None = None,
    gpus: int = 1,
) -> Fit:
    """Fit a model.

    Args:
        name: of the model.
        histories: the recorded engines, all of one model on one kind of GPU; one for each recording.
        kv_tokens: the size of the KV cache, None to find it by its usage.
        max_seqs: the number of requests that run at once, None for vLLM's default.
        gpus: the GPUs of a replica.

    Raises:
        SimulationError: the recordings do not determine the coefficients.
    """
    spans = spans_of(histories)
    check_spans(name, spans)
    capacity = kv_tokens or _kv_tokens(spans, mean_lengths(histories[0], Lengths())[0])
    intercept, slopes, explained = _plane(spans, capacity)
    if explained < MIN_EXPLAINED or intercept <= 0:
        raise SimulationError(
            f"{name}: requests, prompts and KV cache explain {100 * explained:.0f} % of the variance of the time of an "
            f"iteration, and {100 * MIN_EXPLAINED:.0f} % are needed: record one model on one kind of GPU, over "
            "changing load"
        )
    minutes = sum([history.seconds for history in histories]) / 60
    model = EngineModel(
        name=name,
        iteration_seconds=intercept,
        request_seconds=slopes[0],
        prompt_token_seconds=slopes[1],
        kv_token_seconds=slopes[2],
        kv_tokens=capacity,
        max_seqs=max_seqs or _DEFAULT_SEQS,
        gpus=gpus,
        source=f"fitted to {len(spans)} spans of recordings of {minutes:.0f} minutes",
    )
    sentences = (model.source, *_sentences(spans, slopes, is_size_found=kv_tokens is None))
    return Fit(model, len(spans), explained, checks_of(model, spans, histories), sentences)


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


def _sentences(spans: Sequence[FitSpan], slopes: Sequence[float], *, is_size_found: bool) -> Iterator[str]:
    if any(span.is_by_rate for span in spans):
        yield (
            "the engines export no time between tokens: the time of an iteration is the number of running requests "
            "divided by the tokens per second"
        )
    total = math.fsum([span.weight * span.prompt_tokens for span in spans])
    cached = math.fsum([span.weight * span.prompt_tokens * span.cached_ratio for span in spans])
    if total and cached / total > _MUCH_CACHED:
        yield (
            f"{100 * cached / total:.0f} % of the prompt tokens were in the prefix cache: the time of a prompt token "
            "is the mean of all of them, and holds for traffic with the same share"
        )
    if is_size_found:
        yield "the size of the KV cache is found by the requests that ran and its usage: --kv-tokens states it"
    names = ("the number of requests", "the number of prompt tokens", "the KV cache")
    for name, slope in zip(names, slopes, strict=True):
        if slope == 0:
            yield f"{name} shows no effect in this recording"


# ---- how good it is ----


def checks_of(model: EngineModel, spans: Sequence[FitSpan], histories: Sequence[EngineHistory]) -> tuple[FitCheck, ...]:
    """Compare percentiles of the recordings with those of the model under the same traffic."""
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
    return (*checks, *_first_token_checks(model, histories))


def _first_token_checks(model: EngineModel, histories: Sequence[EngineHistory]) -> list[FitCheck]:
    """Simulate the recorded traffic on as many replicas, and compare the times to the first token."""
    known = [
        (history, histogram) for history in histories if (histogram := _first_token_histogram(history)) is not None
    ]
    bounds = known[0][1].bounds_seconds if known else ()
    known = [(history, histogram) for history, histogram in known if histogram.bounds_seconds == bounds]
    if sum([histogram.counts[-1] for _, histogram in known]) < _MIN_REQUESTS:
        return []
    inside: list[float] = []
    for history, _ in known:
        inside += _simulated_first_tokens(model, history)
    observed = Histogram(bounds, tuple([sum(counts) for counts in zip(*[one.counts for _, one in known], strict=True)]))
    simulated = Histogram(bounds, tuple([float(sum(one <= bound for one in inside)) for bound in bounds]))
    return [
        FitCheck(
            f"time to the first token, p{percent}", *[quantile(one, percent / 100) for one in (observed, simulated)]
        )
        for percent in (50, 95)
    ]


def _simulated_first_tokens(model: EngineModel, history: EngineHistory) -> list[float]:
    traffic: RequestTraffic = traffic_of_history("recording", history, Lengths())
    size = len(history.samples)
    run = WorkloadSimulation(traffic, model, Circumstances(), size).sized_by(lambda now: size)
    first, _ = latencies(run.log)
    return [seconds - over for seconds, over in zip(first, run.log.overheads, strict=True)]


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
