# SPDX-License-Identifier: Apache-2.0
"""Finds the floor: the time per token of an engine that serves one request alone.

Law: the floor comes from data that every instance can read, and nothing is remembered. In doubt it is too low. A floor
that is too low costs replicas; a floor that is too high hides the load, and the workload shrinks while it is busy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.evaluate.load.line import add_sums, fit_line, fit_seconds
from keda_gpu_scaler.core.evaluate.load.span import EngineWork

MIN_POINTS = 8
"""A line through fewer spans is not drawn."""
_EXPLAINED = 0.5
"""A line through the requests that explains a smaller share of the variance may be far too low."""
_EXPLAINED_BY_CACHE = 0.2
"""A line by the KV cache usage that explains a smaller share of the variance may be too high."""
_UNKNOWN_RATIO = 0.1
"""Without any histogram, the floor is this share of the target."""
_OBSERVED_SHARE = 1 / 3
_MAX_UNKNOWN_RATIO = 1 / 6
"""Without any histogram, the floor is a third of the least time that was observed, where that is more.

It is at most a sixth of the target. So where it is too high, the load of an engine whose true floor is 8 % of the
target or more is at most 15 % above the one that is found. The default headroom covers this error.
"""
_MAX_BOUND_RATIO = 0.2
"""A histogram alone does not raise the floor above this share of the target: it may know only hours under load."""
_HIDDEN_REQUESTS = 39
"""At least so many requests are computed in the time in which the weights are read.

It is the number of an A100 with weights of 4 bits and arithmetic of 16 bits (312 teraflops and 2 TB/s, NVIDIA's data
sheet). Other GPUs and weights have larger numbers.
"""
_TOLERATED = 1.3
"""A floor that is too high by this factor costs little."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The floor in seconds per token, and the sentence that says where it comes from."""

    seconds: float
    sentence: str


def find_floor(works: Sequence[EngineWork], *, target_seconds: float, stated_seconds: float | None) -> Floor:
    """Find the floor of engines of one workload on one model of device.

    An iteration of an engine takes the floor, and in addition a time for each request that decodes and for each prompt
    token that is computed. So the observed spans lead to the floor at 0 requests and 0 prompt tokens. The line through
    them is fitted so that noise lowers it.

    Args:
        works: the work of every engine, from the same moment.
        target_seconds: the time per token that is aimed at.
        stated_seconds: the floor that the trigger states, None where it states none.
    """
    least = min([work.least_token_seconds for work in works], default=math.inf)
    buckets = [work.lowest_bucket for work in works if work.lowest_bucket is not None]
    if stated_seconds is not None:
        return _stated(stated_seconds, least, fastest=min([upper for _, upper in buckets], default=math.inf))
    bound, source = _lower_bound(buckets, least, target_seconds)
    sums = add_sums([work.sums for work in works])
    count = int(sums[0])
    fit = fit_line(sums) if count >= MIN_POINTS else None
    upper = min([least, *[bucket[1] for bucket in buckets]])
    by_line = f"by a line through {count} spans of 10 s"
    if fit is not None and bound < min(fit.low, upper):
        return Floor(min(fit.low, upper), by_line)
    if fit is not None and 0 < fit.low <= fit.high < bound and fit.explained >= _EXPLAINED:
        return Floor(fit.low, by_line)
    if upper < bound:
        return Floor(upper, f"the least that was observed in {count} spans of 10 s")
    by_cache, points = _by_cache(works, requests=sums[1] / count if count else 0.0)
    if fit is not None and fit.low > 0 and fit.explained >= _EXPLAINED:
        upper = min(upper, fit.high)
    if bound < min(by_cache, upper):
        return Floor(min(by_cache, upper), f"by a line through the KV cache usage of {points} spans of 10 s")
    return Floor(bound, source)


def _by_cache(works: Sequence[EngineWork], *, requests: float) -> tuple[float, int]:
    """Return the floor by the KV cache usage, and the number of spans; 0 where the line is not certain.

    Where each engine always has as many requests, the time per token still varies with the length of their contexts.
    The line leads to the time without a KV cache. The usage is a state that the engine knows exactly, so the noise is
    in the time alone. The result contains what the requests add otherwise, which is at most
    ``requests / _HIDDEN_REQUESTS`` of the floor.

    Args:
        works: the work of the engines.
        requests: the mean number of requests that decode.
    """
    sums = add_sums([work.cache_sums for work in works])
    count = int(sums[0])
    fit = fit_seconds(sums) if count >= MIN_POINTS else None
    if fit is None or fit.explained < _EXPLAINED_BY_CACHE:
        return 0.0, count
    return fit.low * min(1.0, _TOLERATED / (1 + requests / _HIDDEN_REQUESTS)), count


def _stated(stated_seconds: float, least: float, fastest: float) -> Floor:
    """Return the stated floor, or the least that was observed where it is below.

    A few fast tokens in a histogram do not replace it: they may be why a floor is stated. But they are named.
    """
    if least < stated_seconds:
        why = f"observed; itlFloorMs {1000 * stated_seconds:g} is above it and is not used"
        return Floor(least, why)
    if fastest < stated_seconds:
        return Floor(stated_seconds, f"itlFloorMs, although some tokens took less than {1000 * fastest:g} ms")
    return Floor(stated_seconds, "itlFloorMs")


def _lower_bound(buckets: Sequence[tuple[float, float]], least: float, target_seconds: float) -> tuple[float, str]:
    """Return the floor without a line, and where it comes from.

    No token was faster than the lower bound of a histogram. That proves nothing about an engine that was never alone.

    Args:
        buckets: the lowest populated bucket of each engine's histogram.
        least: the least time per token that was observed over 10 s, infinite where there is none.
        target_seconds: the time per token that is aimed at.
    """
    if not buckets:
        return _without_histogram(least, target_seconds)
    lower, upper = min(buckets)
    if lower > _MAX_BOUND_RATIO * target_seconds:
        return _MAX_BOUND_RATIO * target_seconds, (
            f"assumed: {100 * _MAX_BOUND_RATIO:g} % of itlTargetMs, because no faster token was observed"
        )
    if lower == 0:
        return min(upper / 2, _MAX_BOUND_RATIO * target_seconds), (
            "assumed: half of the upper bound of the lowest bucket of the engines' histograms"
        )
    return lower, "the lower bound of the lowest populated bucket of the engines' histograms"


def _without_histogram(least: float, target_seconds: float) -> tuple[float, str]:
    lowest, highest = _UNKNOWN_RATIO * target_seconds, _MAX_UNKNOWN_RATIO * target_seconds
    observed = _OBSERVED_SHARE * least
    if math.isinf(least) or observed <= lowest:
        return lowest, f"assumed: {100 * _UNKNOWN_RATIO:g} % of itlTargetMs"
    if observed < highest:
        return observed, f"assumed: a third of the {1000 * least:.3g} ms that were observed at least"
    return highest, f"assumed: a sixth of itlTargetMs, because at least {1000 * least:.3g} ms were observed"
