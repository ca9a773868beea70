# SPDX-License-Identifier: Apache-2.0
"""Tests of the forecast over the cold start of a replica."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.evaluate.load.floor import Floor
from keda_gpu_scaler.core.evaluate.load.trend import Horizon, LoadForecast, TrackedWork, forecast_load
from keda_gpu_scaler.core.evaluate.load.work_share import Reference
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from tests.core.evaluate.load.works import span, work

REFERENCE = Reference(Floor(0.01, ""))
ANY = Horizon(cold_start_seconds=85.0)
GROWING = [0.2 + 0.02 * number for number in range(20)]
"""Shares of a replica, ten seconds apart."""


def tracked(shares: Sequence[float], *, ready_at: float | None = None, end: float = 1000.0) -> TrackedWork:
    """An engine with these shares in its spans, the last of which ends at ``end``."""
    spans = [
        span(50.0, 0.01 / (1 - 0.8 * share), end_seconds=end - 10.0 * (len(shares) - 1 - number))
        for number, share in enumerate(shares)
    ]
    return TrackedWork(work(*spans), REFERENCE, ready_at)


def forecast(*engines: TrackedWork, horizon: Horizon = ANY) -> LoadForecast:
    return forecast_load(engines, EngineQuery(), horizon)


def test_a_certain_growth_is_counted_over_the_cold_start_and_one_interval() -> None:
    found = forecast(tracked(GROWING))
    assert found.factor == pytest.approx((0.58 + 0.002 * 100) / 0.58)
    assert found.sentence == (
        "forecast: the load grows by 12 % of a replica per minute, and a new replica is ready after 85 s: "
        "the load counts 1.34 times"
    )
    assert forecast(tracked(GROWING), horizon=Horizon(35.0)).factor == pytest.approx((0.58 + 0.002 * 50) / 0.58)


def test_the_loads_of_all_engines_are_added_up() -> None:
    falling = [0.9 - 0.03 * number for number in range(20)]
    assert forecast(tracked(GROWING), tracked(falling)).factor == 1.0
    assert forecast(tracked(GROWING), tracked(GROWING)).factor == pytest.approx(forecast(tracked(GROWING)).factor)


def test_only_the_last_two_minutes_count() -> None:
    assert forecast(tracked([0.9] * 8 + [0.3 + 0.01 * n for n in range(13)])).factor == pytest.approx(
        (0.42 + 0.001 * 100) / 0.42
    )


def test_one_standard_error_is_subtracted() -> None:
    noisy = [share + (0.03 if number % 2 else -0.03) for number, share in enumerate(GROWING)]
    certain, uncertain = forecast(tracked(GROWING)).factor, forecast(tracked(noisy)).factor
    assert 1.0 < uncertain < certain - 0.03
    flat = [0.5 + 0.0005 * number + (0.03 if number % 2 else -0.03) for number in range(20)]
    assert forecast(tracked(flat)) == LoadForecast(1.0, "no forecast: the load does not certainly grow")


def test_a_forecast_is_at_most_twice_the_load() -> None:
    assert forecast(tracked(GROWING), horizon=Horizon(5000.0)).factor == 2.0


def test_a_load_that_fell_at_last_is_not_forecast_from_below_itself() -> None:
    """The line may end below the newest load: the factor multiplies the newest one."""
    jump = [*[0.2 + 0.005 * n for n in range(12)], 0.9]
    assert 1.0 <= forecast(tracked(jump)).factor < 1.3


@pytest.mark.parametrize(
    ("engines", "horizon", "sentence"),
    [
        pytest.param([tracked(GROWING)], Horizon(None), "no cold start of a pod was measured", id="no cold start"),
        pytest.param([tracked(GROWING[:5])], ANY, "it needs 60 s of history", id="too short"),
        pytest.param([], ANY, "it needs 60 s of history", id="no engine"),
        pytest.param([tracked(GROWING)], Horizon(85.0, 940.0), "in which no replica left", id="a removed replica"),
        pytest.param([tracked([0.0] * 20)], ANY, "does not certainly grow", id="no load"),
    ],
)
def test_without_a_trend_nothing_is_added(engines: list[TrackedWork], horizon: Horizon, sentence: str) -> None:
    found = forecast(*engines, horizon=horizon)
    assert found.factor == 1.0
    assert sentence in found.sentence


def test_a_span_of_which_the_time_is_not_known_ends_the_history() -> None:
    one = tracked(GROWING)
    unknown = [replace(it, is_time_known=number != 15) for number, it in enumerate(one.work.spans)]
    found = forecast(replace(one, work=replace(one.work, spans=tuple(unknown))))
    assert "it needs 60 s of history" in found.sentence


def test_an_engine_that_was_not_ready_carried_nothing() -> None:
    """Otherwise a new replica that takes over a part of the load looks like growth, or hides the history."""
    old = tracked([0.9] * 13 + [0.45] * 7)
    new = tracked([0.45] * 7, ready_at=1000.0 - 75.0)
    found = forecast(old, new)
    assert found.sentence == "no forecast: the load does not certainly grow"
    late = forecast(old, tracked([0.45] * 5, ready_at=1000.0 - 400.0))
    assert "it needs 60 s of history" in late.sentence, "what the second engine carried before is not known"
    unknown = forecast(old, tracked([0.45] * 5))
    assert "it needs 60 s of history" in unknown.sentence
