# SPDX-License-Identifier: Apache-2.0
"""Asks for replicas by the recordings of a vLLM under rising load.

The recordings have no histogram, so the load is computed from running requests and generated tokens. A replica that
always serves as many clients shows its floor by its KV cache alone.
"""

import statistics
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest

from keda_gpu_scaler.core.evaluate.load.floor import find_floor
from keda_gpu_scaler.core.evaluate.load.span import engine_work
from keda_gpu_scaler.core.state.scrape import TargetHistory, retained
from keda_gpu_scaler.core.types import EngineSample
from tests.core.evaluate.load.replicas import NOW, asked_replicas, evaluated, history
from tests.scrape.playing import SWEEP, recorded

pytestmark = pytest.mark.skipif(not SWEEP.is_dir(), reason=f"there are no recordings of vLLM at {SWEEP}")

WINDOW_SECONDS, HISTORY_SECONDS = 10.0, 300.0
MEASURED_FLOOR = {"itlFloorMs": "12.3"}
"""The constant of a line through the times per token of the public sweep from which the recordings are."""
MEASURED_SECONDS = {"tp1": 0.0123, "tp2": 0.0096, "tp4": 0.0075}
"""The same by the number of GPUs of a replica: up to 128 clients, without runs that were waiting for something else."""


@cache
def recording(run: str) -> tuple[EngineSample, ...]:
    return tuple(
        EngineSample(
            second.at_seconds,
            "vllm",
            waiting=second.waiting,
            running=second.running,
            kv_cache_ratio=second.kv,
            requests_total=second.requests,
            tokens_total=second.tokens,
        )
        for second in recorded(f"{run}_offloadoff")
    )


def part(run: str, begin: float, end: float) -> list[EngineSample]:
    return [one for one in recording(run) if begin <= one.at_seconds < end]


def kept(taken: list[EngineSample]) -> TargetHistory:
    """Keep of the samples what the scraper keeps, the newest now."""
    samples: tuple[EngineSample, ...] = ()
    for one in taken:
        samples = retained(samples, one, window_seconds=WINDOW_SECONDS, history_seconds=HISTORY_SECONDS)
    shift = NOW - samples[-1].at_seconds
    return history([replace(one, at_seconds=one.at_seconds + shift) for one in samples])


def joined(first: list[EngineSample], then: list[EngineSample]) -> list[EngineSample]:
    """Let an engine do first the one and then the other: time and counters go on."""
    taken = list(first)
    for before, after in pairwise(then):
        last = taken[-1]
        taken.append(
            replace(
                after,
                at_seconds=last.at_seconds + after.at_seconds - before.at_seconds,
                requests_total=(last.requests_total or 0.0)
                + (after.requests_total or 0.0)
                - (before.requests_total or 0.0),
                tokens_total=(last.tokens_total or 0.0) + (after.tokens_total or 0.0) - (before.tokens_total or 0.0),
            )
        )
    return taken


def fleet(
    run: str, count: int, begin: float, *, waiting: float | None = None, has_cache: bool = True
) -> list[TargetHistory]:
    """Engines that all do what one of the recording did, at different seconds of it."""
    engines = []
    for number in range(count):
        taken = part(run, begin + 20 * number, begin + 20 * number + 320)
        if not has_cache:
            taken = [replace(one, kv_cache_ratio=None) for one in taken]
        engines.append(kept([replace(one, waiting=waiting) if waiting is not None else one for one in taken]))
    return engines


@pytest.mark.parametrize(
    "metadata", [pytest.param({}, id="found by itself"), pytest.param(MEASURED_FLOOR, id="with a stated floor")]
)
@pytest.mark.parametrize("begin", [60.0, 300.0, 900.0, 1260.0, 2060.0, 2400.0, 2860.0])
def test_twenty_pods_with_sixteen_requests_each_ask_for_seven_to_ten(begin: float, metadata: dict[str, str]) -> None:
    evaluation = evaluated(fleet("tp1_bs16", 20, begin), metadata=metadata)
    assert 7 <= asked_replicas(evaluation, 20) <= 10


@pytest.mark.parametrize(
    "metadata", [pytest.param({}, id="found by itself"), pytest.param(MEASURED_FLOOR, id="with a stated floor")]
)
@pytest.mark.parametrize("begin", [0.0, 200.0, 400.0, 600.0])
def test_twenty_pods_with_64_requests_each_ask_for_twelve_to_21(begin: float, metadata: dict[str, str]) -> None:
    evaluation = evaluated(fleet("tp1_bs64", 20, begin), metadata=metadata)
    assert 12 <= asked_replicas(evaluation, 20) <= 21


@pytest.mark.parametrize(
    ("run", "step", "low", "high", "share"),
    [pytest.param("tp1_bs16", 40, 7, 10, 0.85, id="16 requests"), pytest.param("tp1_bs64", 40, 12, 21, 0.6, id="64")],
)
def test_most_windows_of_the_recordings_ask_for_what_they_need(
    run: str, step: int, low: int, high: int, share: float
) -> None:
    """The rates of the recordings scatter. The windows are all in which twenty engines fit."""
    last = int(recording(run)[-1].at_seconds) - 20 * 20 - 320
    asked = [asked_replicas(evaluated(fleet(run, 20, float(begin))), 20) for begin in range(0, last, step)]
    within = [low <= it <= high for it in asked]
    assert low <= statistics.median(asked) <= high
    assert sum(within) >= share * len(within), asked


@pytest.mark.parametrize("begin", [960.0, 1200.0, 1400.0])
def test_pods_whose_tokens_take_longer_than_the_target_ask_for_more_with_any_floor(begin: float) -> None:
    """The same 64 requests take 34 to 47 ms per token at first and 41 to 58 ms in the last third of the recording."""
    for floor in ("5", "12.3", "16"):
        evaluation = evaluated(fleet("tp1_bs64", 20, begin), metadata={"itlFloorMs": floor})
        assert 23 <= asked_replicas(evaluation, 20) <= 25


@pytest.mark.parametrize("begin", [100.0, 300.0, 500.0])
def test_the_floor_is_found_when_the_load_fell(begin: float) -> None:
    """An hour with 128 requests in each pod ends: the line through both loads finds the floor."""
    engines = [
        kept(
            joined(
                part("tp1_bs128", begin + 5 * n, begin + 5 * n + 150), part("tp1_bs16", 600 + 20.0 * n, 760 + 20.0 * n)
            )
        )
        for n in range(20)
    ]
    evaluation = evaluated(engines)
    assert any("by a line through" in step for step in evaluation.steps)
    assert 7 <= asked_replicas(evaluation, 20) <= 11


@pytest.mark.parametrize("begin", [1500.0, 1720.0, 2400.0])
def test_the_kv_cache_shows_the_floor_also_where_the_requests_hardly_vary(begin: float) -> None:
    """The recording scatters: in the first two windows twenty pods ask for 11 with the measured floor, too."""
    evaluation = evaluated(fleet("tp1_bs16", 20, begin))
    assert any("by a line through the KV cache usage" in step for step in evaluation.steps)
    assert 7 <= asked_replicas(evaluation, 20) <= 11


@pytest.mark.parametrize("run", ["tp1_bs16", "tp1_bs64", "tp1_bs128", "tp1_bs256", "tp2_bs128", "tp4_bs64"])
@pytest.mark.parametrize("count", [1, 4])
def test_no_recording_leads_to_a_floor_that_is_a_third_too_high(run: str, count: int) -> None:
    limit = 1.3 * MEASURED_SECONDS[run[:3]]
    last = int(recording(run)[-1].at_seconds) - 120 - 20 * count
    for begin in range(0, last, max(40, last // 12)):
        works = [engine_work(engine, 30.0) for engine in fleet(run, count, float(begin))]
        floor = find_floor([it for it in works if it is not None], target_seconds=0.05, stated_seconds=None)
        assert floor.seconds <= limit, (begin, floor)


@pytest.mark.parametrize("begin", [300.0, 1500.0])
def test_an_unknown_floor_costs_replicas_and_takes_none_away(begin: float) -> None:
    evaluation = evaluated(fleet("tp1_bs16", 20, begin, has_cache=False))
    assert any("(assumed: a third of the " in step for step in evaluation.steps)
    assert 8 <= asked_replicas(evaluation, 20) <= 20


@pytest.mark.parametrize("begin", [100.0, 300.0, 500.0])
def test_eight_full_pods_with_a_queue_ask_for_fourteen_and_not_for_more_when_more_start(begin: float) -> None:
    engines = fleet("tp1_bs128", 8, begin, waiting=100.0)
    alone = evaluated(engines)
    assert 9 <= asked_replicas(alone, 8) <= 14
    assert any("800 waiting requests need" in step for step in alone.steps)
    assert asked_replicas(evaluated(engines, starting=8), 16) <= 16
