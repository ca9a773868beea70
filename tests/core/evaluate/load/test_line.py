# SPDX-License-Identifier: Apache-2.0
"""Tests of the line through the spans of engines."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.load.line import LineFit, add_sums, fit_line, point

FLOOR, EACH, PROMPT = 0.012, 0.0003, 0.00002


def fitted(points: list[tuple[float, float, float]]) -> LineFit | None:
    return fit_line(add_sums([point(*one) for one in points]))


def iterations(requests: list[float], prompts: list[float], noise: float = 0.0) -> list[tuple[float, float, float]]:
    rng = random.Random(7)  # noqa: S311 - noise
    return [
        (n, (FLOOR + EACH * n + PROMPT * p) * (1 + rng.gauss(0, noise)), p)
        for n, p in zip(requests, prompts, strict=True)
    ]


@given(
    st.floats(0.001, 0.1), st.floats(1e-5, 1e-2), st.lists(st.integers(1, 500), min_size=3, max_size=40, unique=True)
)
def test_the_line_finds_the_time_of_one_request_alone(floor: float, each: float, requests: list[int]) -> None:
    fit = fitted([(float(n), floor + each * n, 0.0) for n in requests])
    assert fit is not None
    assert fit.at_zero == pytest.approx(floor, rel=0.01, abs=each * 0.05)
    assert fit.explained == pytest.approx(1.0)


def test_what_prompts_take_is_subtracted() -> None:
    rng = random.Random(3)  # noqa: S311 - noise
    requests = [rng.uniform(5, 60) for _ in range(40)]
    prompts = [rng.uniform(0, 400) for _ in range(40)]
    fit = fitted(iterations(requests, prompts))
    assert fit is not None
    assert fit.at_zero == pytest.approx(FLOOR, rel=0.01)
    assert fit.error < 1e-6, "the prompts explain all that the requests do not"


def test_prompts_in_proportion_to_the_requests_cannot_be_told_apart_and_need_not_be() -> None:
    requests = [float(n) for n in range(5, 45)]
    fit = fitted(iterations(requests, [8 * n for n in requests]))
    assert fit is not None
    assert fit.at_zero == pytest.approx(FLOOR, rel=0.01)


def test_prompts_that_seem_to_save_time_have_no_effect() -> None:
    requests = [float(n) for n in range(5, 45)]
    prompts = [(n * 7919) % 100 for n in requests]
    faster = [(n, FLOOR + EACH * n - 0.00001 * p, p) for n, p in zip(requests, prompts, strict=True)]
    plain = [(n, t, 0.0) for n, t, _ in faster]
    with_prompts, without = fitted(faster), fitted(plain)
    assert with_prompts is not None
    assert without is not None
    assert with_prompts.at_zero == pytest.approx(without.at_zero)


def test_noise_of_the_requests_never_raises_the_crossing() -> None:
    """A gauge is sampled: its noise flattens an ordinary regression, whose crossing is too high."""
    rng = random.Random(5)  # noqa: S311 - noise
    true = [rng.uniform(20, 40) for _ in range(200)]
    fit = fitted([(n + rng.gauss(0, 6), FLOOR + EACH * n, 0.0) for n in true])
    assert fit is not None
    assert fit.at_zero <= FLOOR * 1.02, "the regression of the seconds on the requests gives 15 ms"
    assert fit.at_zero > 0.9 * FLOOR


def test_noise_of_the_seconds_lowers_the_crossing() -> None:
    rng = random.Random(5)  # noqa: S311 - noise
    requests = [rng.uniform(20, 40) for _ in range(200)]
    fit = fitted(iterations(requests, [0.0] * 200, noise=0.15))
    assert fit is not None
    assert fit.high < FLOOR
    assert fit.explained < 0.5


def test_the_error_is_that_of_the_crossing() -> None:
    """The standard error of the constant of a regression: sigma * sqrt(1 / N + mean² / sum of squares)."""
    points = [(10.0, 0.0151, 0.0), (10.0, 0.0149, 0.0), (30.0, 0.0211, 0.0), (30.0, 0.0209, 0.0)]
    fit = fitted(points)
    assert fit is not None
    sigma = math.sqrt(4 * 0.0001**2 / (4 - 2))
    assert fit.error == pytest.approx(sigma * math.sqrt(1 / 4 + 20.0**2 / (4 * 10.0**2)), rel=1e-3)
    assert fit.low == fit.at_zero - 2 * fit.error
    assert fit.high == fit.at_zero + 2 * fit.error


@pytest.mark.parametrize(
    "points",
    [
        pytest.param([], id="no point"),
        pytest.param([(4.0, 0.02, 0.0), (8.0, 0.03, 0.0)], id="two points have no error"),
        pytest.param([(16.0, 0.02, 0.0)] * 9, id="equal points"),
        pytest.param([(16.0, 0.02 + 0.001 * n, 0.0) for n in range(9)], id="always as many requests"),
        pytest.param([(16.1 + n, 0.0171, 0.0) for n in range(9)], id="always the same time"),
        pytest.param([(1.0 + n, 0.03 - 0.001 * n, 0.0) for n in range(9)], id="the time falls"),
        pytest.param([(1e200 * n, 1e200 * n, 0.0) for n in range(1, 9)], id="numbers whose squares are too large"),
    ],
)
def test_no_line_is_drawn_without_points_that_show_one(points: list[tuple[float, float, float]]) -> None:
    assert fitted(points) is None


def test_sums_of_engines_add_up() -> None:
    first = [point(n, 0.01 + 0.001 * n, 3.0) for n in (1.0, 2.0, 3.0)]
    second = [point(n, 0.01 + 0.001 * n, 5.0) for n in (7.0, 9.0)]
    assert add_sums([add_sums(first), add_sums(second)]) == pytest.approx(add_sums([*first, *second]))
    assert add_sums([])[0] == 0
