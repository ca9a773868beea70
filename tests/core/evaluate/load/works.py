# SPDX-License-Identifier: Apache-2.0
"""Makes spans and the work of engines from a few numbers."""

import math
from dataclasses import replace

from keda_gpu_scaler.core.evaluate.load.line import add_sums, point
from keda_gpu_scaler.core.evaluate.load.span import EngineWork, Span
from keda_gpu_scaler.core.trigger.engines import LoadRung
from keda_gpu_scaler.core.types import EngineSample


def span(
    requests: float | None = None,
    token_seconds: float | None = None,
    *,
    cache: float | None = None,
    prompt_rate: float = 0.0,
    seconds: float = 10.0,
    end_seconds: float = 1000.0,
    **changes: object,
) -> Span:
    """Return a span in which so many requests generate tokens; ``prompt_rate`` is prompt tokens per second."""
    base = Span(
        end_seconds=end_seconds,
        seconds=seconds,
        token_seconds=token_seconds,
        decoding=requests,
        prompt_tokens=prompt_rate * seconds,
    )
    if requests and token_seconds is not None:
        base = replace(base, sums=point(requests, token_seconds, prompt_rate * token_seconds))
        if cache is not None:
            cache_sums = point(cache, token_seconds, prompt_rate * token_seconds)
            base = replace(base, kv_cache_ratio=cache, cache_sums=cache_sums)
    return replace(base, **changes)  # type: ignore[arg-type]


def work(
    *spans: Span, rung: LoadRung = LoadRung.TOKEN_TIME, limit: float | None = None, **changes: object
) -> EngineWork:
    """Return the work of an engine with this history; its newest span is its current work."""
    points = [one for one in spans if one.sums[0]]
    base = EngineWork(
        sample=EngineSample(1000.0, "vllm", running_limit=limit),
        rung=rung,
        current=spans[-1] if spans else None,
        spans=spans,
        sums=add_sums([one.sums for one in points]),
        cache_sums=add_sums([one.cache_sums for one in points]),
        least_token_seconds=min([one.token_seconds or math.inf for one in points], default=math.inf),
        most_busy=max([one.busy or 0.0 for one in spans], default=0.0),
    )
    return replace(base, **changes)  # type: ignore[arg-type]
