# SPDX-License-Identifier: Apache-2.0
"""Finds the floor: the time per token of an engine that serves one request alone.

Law: the floor comes from data that every instance can read, and nothing is remembered. In doubt it is too low. A floor
that is too low costs replicas; a floor that is too high hides the load, and the workload shrinks while it is busy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from keda_gpu_scaler.core.aggregation import mean
from keda_gpu_scaler.core.evaluate.load.span import EngineWork

MIN_POINTS = 8
"""A line through fewer spans is not drawn."""
_SINGULAR = 1e-6  # below this, requests and prompt tokens cannot be distinguished
_UNKNOWN_RATIO = 0.1
"""Without any histogram, the floor is this share of the target."""
_MAX_BOUND_RATIO = 0.2
"""A histogram alone does not raise the floor above this share of the target: it may know only hours under load."""


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
    points = _points(works)
    least = min([point.seconds for point in points], default=math.inf)
    if stated_seconds is not None:
        return _stated(stated_seconds, least)
    buckets = [work.lowest_bucket for work in works if work.lowest_bucket is not None]
    lower, source = _lower_bound(buckets, target_seconds)
    upper = min([least, *[bucket[1] for bucket in buckets]])
    at_zero = _at_zero(points)
    if at_zero is not None and lower < at_zero:
        return Floor(max(lower, min(at_zero, upper)), f"by a line through {len(points)} spans of 10 s")
    if upper < lower:
        return Floor(upper, f"the least that was observed in {len(points)} spans of 10 s")
    return Floor(lower, source)


def _stated(stated_seconds: float, least: float) -> Floor:
    if least < stated_seconds:
        why = f"observed; itlFloorMs {1000 * stated_seconds:g} is above it and is not used"
        return Floor(least, why)
    return Floor(stated_seconds, "itlFloorMs")


def _lower_bound(buckets: Sequence[tuple[float, float]], target_seconds: float) -> tuple[float, str]:
    if not buckets:
        return _UNKNOWN_RATIO * target_seconds, f"assumed: {100 * _UNKNOWN_RATIO:g} % of itlTargetMs"
    lower = min(bucket[0] for bucket in buckets)
    if lower > _MAX_BOUND_RATIO * target_seconds:
        return _MAX_BOUND_RATIO * target_seconds, (
            f"assumed: {100 * _MAX_BOUND_RATIO:g} % of itlTargetMs, because no faster token was observed"
        )
    return lower, "the lower bound of the lowest populated bucket of the engines' histograms"


@dataclass(frozen=True, slots=True)
class _Point:
    """One span of one engine: decoding requests, seconds per token, and prompt tokens computed in that time."""

    requests: float
    seconds: float
    prompt_tokens: float


def _points(works: Sequence[EngineWork]) -> list[_Point]:
    return [
        _Point(span.decoding, span.token_seconds, (span.prompt_tokens or 0.0) / span.seconds * span.token_seconds)
        for work in works
        for span in work.spans
        if span.token_seconds is not None and span.decoding
    ]


def _at_zero(points: Sequence[_Point]) -> float | None:
    """Return the time per token where the line through the points crosses 0 requests, less two standard errors.

    What prompts take is subtracted first. The line is the regression of the requests on the seconds: noise makes its
    slope in seconds per request too large, never too small, so the crossing is too low. Returns None where the time
    does not grow with the requests.
    """
    count = len(points)
    if count < MIN_POINTS:
        return None
    requests, seconds = [point.requests for point in points], [point.seconds for point in points]
    prompts = [point.prompt_tokens for point in points]
    per_prompt_token = _seconds_per_prompt_token(requests, seconds, prompts)
    decoding = [one - per_prompt_token * tokens for one, tokens in zip(seconds, prompts, strict=True)]
    mean_requests, mean_seconds = mean(requests), mean(decoding)
    spread, variance = _covariance(requests, requests), _covariance(decoding, decoding)
    together = _covariance(requests, decoding)
    if together <= 0:
        return None
    residual = max(0.0, variance - together**2 / spread) * count / (count - 2)
    error = math.sqrt(residual * (1 / count + mean_requests**2 / (count * spread)))
    return mean_seconds - mean_requests * variance / together - 2 * error


def _seconds_per_prompt_token(requests: Sequence[float], seconds: Sequence[float], prompts: Sequence[float]) -> float:
    """Return what one prompt token adds to the time per token, by least squares; 0 where it shows no effect."""
    of_requests, of_prompts = _covariance(requests, requests), _covariance(prompts, prompts)
    of_both = _covariance(requests, prompts)
    determinant = of_requests * of_prompts - of_both**2
    if determinant <= _SINGULAR * of_requests * of_prompts:
        return 0.0
    by_requests, by_prompts = _covariance(requests, seconds), _covariance(prompts, seconds)
    return max(0.0, (by_prompts * of_requests - by_requests * of_both) / determinant)


def _covariance(left: Sequence[float], right: Sequence[float]) -> float:
    mean_left, mean_right = mean(left), mean(right)
    return math.fsum([(a - mean_left) * (b - mean_right) for a, b in zip(left, right, strict=True)]) / len(left)
