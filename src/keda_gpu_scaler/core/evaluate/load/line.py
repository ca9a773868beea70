# SPDX-License-Identifier: Apache-2.0
"""Fits the line through the spans of engines: the time per token by requests and prompt tokens.

Law: sums of points can be added up, so each engine's sums are computed once and kept with its history.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

_SINGULAR = 1e-6
"""A smaller determinant, as a share of its first term, means that prompt tokens are in proportion to requests."""
_ROUNDING = 1e-12
"""Below this share of the square, a variance is an error of rounding."""

Sums = tuple[float, ...]
"""Of points: their number, the sums of n, t, p, nn, tt, pp, nt, np and tp.

n is the number of requests that decode, t the seconds per token, and p the prompt tokens computed in that time.
"""
NO_POINTS: Sums = (0.0,) * 10


def point(requests: float, seconds: float, prompt_tokens: float) -> Sums:
    """Return the sums of one point."""
    n, t, p = requests, seconds, prompt_tokens
    return (1.0, n, t, p, n * n, t * t, p * p, n * t, n * p, t * p)


def add_sums(several: Iterable[Sums]) -> Sums:
    """Return the sums of all points together."""
    return tuple(map(sum, zip(NO_POINTS, *several, strict=True)))


@dataclass(frozen=True, slots=True)
class LineFit:
    """The seconds per token at 0 requests and 0 prompt tokens, and the standard error of this number.

    ``explained`` is the share, from 0 to 1, of the variance that the line explains.
    """

    at_zero: float
    error: float
    explained: float

    @property
    def low(self) -> float:
        """The number less two standard errors."""
        return self.at_zero - 2 * self.error

    @property
    def high(self) -> float:
        """The number plus two standard errors."""
        return self.at_zero + 2 * self.error


class _Moments(NamedTuple):
    """Of points: their number, and of the requests and the seconds without prompts the means and the variances.

    ``together`` is their covariance, which is above 0.
    """

    points: float
    requests: float
    seconds: float
    spread: float
    variance: float
    together: float


def fit_line(sums: Sums) -> LineFit | None:
    """Fit the line through points by their sums, where both the requests and the seconds are measured with noise.

    What prompts take is subtracted first. The line is the regression of the requests on the seconds: noise makes its
    slope in seconds per request too large, never too small, so the crossing is too low. Returns None where the time
    does not grow with the requests, or where the points are too few or too equal.
    """
    moments = _moments(sums)
    return _line(moments, moments.variance / moments.together) if moments is not None else None


def fit_seconds(sums: Sums) -> LineFit | None:
    """Fit the line as ``fit_line`` does, where the first number of a point is exact and only the seconds have noise.

    The line is the regression of the seconds. Noise in the first number would make the crossing too high.
    """
    moments = _moments(sums)
    return _line(moments, moments.together / moments.spread) if moments is not None else None


def _line(moments: _Moments, slope: float) -> LineFit | None:
    count, n, seconds, spread, variance, together = moments
    residual = max(0.0, variance - together * together / spread) * count / (count - 2)
    error = math.sqrt(residual * (1 + n * n / spread) / count)
    fit = LineFit(seconds - n * slope, error, min(1.0, together * together / (spread * variance)))
    return fit if math.isfinite(fit.at_zero) and math.isfinite(error) else None


def _moments(sums: Sums) -> _Moments | None:
    count = sums[0]
    if count < 3:
        return None
    n, t, p, nn, tt, pp, nt, np, tp = [value / count for value in sums[1:]]
    if not math.isfinite(nn + tt + pp + nt + np + tp):
        return None
    spread, by_time, by_prompts = nn - n * n, tt - t * t, pp - p * p
    if spread <= _ROUNDING * nn:
        return None
    together = nt - n * t
    prompt = _seconds_per_prompt_token(spread, by_prompts, np - n * p, together, tp - t * p)
    # The seconds less what prompts take: their mean, their variance, and their covariance with the requests.
    seconds = t - prompt * p
    variance = by_time - 2 * prompt * (tp - t * p) + prompt * prompt * by_prompts
    together -= prompt * (np - n * p)
    if together <= 0 or variance <= _ROUNDING * seconds * seconds:
        return None
    return _Moments(count, n, seconds, spread, variance, together)


def _seconds_per_prompt_token(
    of_requests: float, of_prompts: float, of_both: float, requests_and_seconds: float, prompts_and_seconds: float
) -> float:
    """Return what one prompt token adds to the time per token, by least squares; 0 where it shows no effect."""
    determinant = of_requests * of_prompts - of_both * of_both
    if determinant <= _SINGULAR * of_requests * of_prompts:
        return 0.0
    return max(0.0, (prompts_and_seconds * of_requests - requests_and_seconds * of_both) / determinant)
