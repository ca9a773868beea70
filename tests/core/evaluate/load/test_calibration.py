# SPDX-License-Identifier: Apache-2.0
"""Tests of the calibration by all engines of a workload."""

import math
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.evaluate.load.calibration import calibrate
from keda_gpu_scaler.core.evaluate.load.span import EngineWork
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.engines import LoadRung
from tests.core.evaluate.load.works import span, work

QUERY = EngineQuery(itl_floor_seconds=0.01)
FULL = span(100.0, 0.05, ended=40.0, running=100.0)
"""A span in which a replica carried exactly what it should."""


def test_the_rate_is_what_ended_over_the_shares_that_were_carried() -> None:
    half = span(50.0, 1 / 60, ended=18.0)  # 1 - 10 / 16.7 = 0.4, of 0.8
    idle = span(1.0, 0.0101, ended=900.0)
    calibration = calibrate([work(FULL, half, idle), work(FULL)], QUERY)
    assert calibration.requests_per_second == pytest.approx((40 + 18 + 40) / (10 * (1 + 0.5 + 1)), rel=1e-3)
    assert calibration.taken_at_once is None


def test_a_span_of_any_length_counts_by_its_length() -> None:
    longer = span(100.0, 0.05, ended=200.0, seconds=40.0)
    assert calibrate([work(FULL, longer)], QUERY).requests_per_second == pytest.approx(240 / 50)


def test_of_many_engines_the_newest_spans_count() -> None:
    old, new = span(100.0, 0.05, ended=9000.0), FULL
    many = [work(old, new) for _ in range(600)]
    assert calibrate(many, QUERY).requests_per_second == pytest.approx(4.0)
    assert calibrate(many[:2], QUERY).requests_per_second == pytest.approx((9000 + 40) / 20)


def test_a_backlog_is_what_is_drained_and_what_grows_over_what_a_replica_serves() -> None:
    works = [work(FULL, waiting=100.0, waiting_growth=3.0), work(FULL, waiting=20.0, waiting_growth=-1.0)]
    calibration = calibrate(works, QUERY)
    assert calibration.backlog == pytest.approx((2.0 + 120.0 / 60.0) / 4.0)
    assert calibration.backlog_of(works[0]) == pytest.approx(calibration.backlog * 100 / 120)
    assert sum(map(calibration.backlog_of, works)) == pytest.approx(calibration.backlog)


def test_a_queue_that_shrinks_is_still_drained() -> None:
    works = [work(FULL, waiting=60.0, waiting_growth=-30.0)]
    assert calibrate(works, QUERY).backlog == pytest.approx(1.0 / 4.0)
    assert calibrate(works, EngineQuery(itl_floor_seconds=0.01, drain_seconds=30.0)).backlog == pytest.approx(0.5)


def test_without_a_queue_there_is_no_backlog() -> None:
    calibration = calibrate([work(FULL, waiting_growth=5.0)], QUERY)
    assert calibration.backlog == 0.0
    assert calibration.backlog_of(work(FULL)) == 0.0


def test_of_an_engine_that_counts_no_requests_one_more_takes_as_many_as_a_loaded_one_runs() -> None:
    uncounted = span(100.0, 0.05, running=100.0)
    calibration = calibrate([work(uncounted, waiting=50.0), work(uncounted)], QUERY)
    assert calibration.requests_per_second == pytest.approx(100 / 60)
    assert calibration.backlog == pytest.approx(0.5)
    sentence = calibration.describe(QUERY, LoadRung.TOKEN_TIME)
    assert "one loaded replica runs 100 requests at once, and one more takes as many" in sentence
    assert "requests/s" not in sentence
    light = span(1.0, 0.0101, running=1.0)
    assert calibrate([work(light, waiting=50.0)], QUERY).requests_per_second is None


@pytest.mark.parametrize("ended", [1.0, 4.0, 16.0])
@pytest.mark.parametrize("drain", [5.0, 60.0])
def test_a_queue_never_needs_more_replicas_than_run_all_of_it_at_once(ended: float, drain: float) -> None:
    """Requests that are longer than drainSeconds hardly end, and while a burst begins none does."""
    full = span(100.0, 0.05, running=100.0, ended=ended)
    query = EngineQuery(itl_floor_seconds=0.01, drain_seconds=drain)
    calibration = calibrate([work(full, full, full, waiting=900.0)] * 4, query)
    assert calibration.backlog == pytest.approx(4 * 900 / 100)
    assert calibration.taken_at_once == pytest.approx(100.0)


def test_requests_that_end_sooner_than_the_drain_time_are_counted_as_they_end() -> None:
    full = span(100.0, 0.05, running=100.0, ended=20.0)  # two requests a second, and each runs for 50 s
    calibration = calibrate([work(full, waiting=900.0)], QUERY)
    assert calibration.taken_at_once is None
    assert calibration.requests_per_second == pytest.approx(2.0)


def test_a_span_of_which_the_time_is_not_known_shows_no_rate() -> None:
    unknown = span(100.0, None, ended=0.0, running=100.0, kv_cache_ratio=0.5, is_time_known=False)
    assert calibrate([work(unknown, unknown, FULL)], QUERY).requests_per_second == pytest.approx(4.0)


@pytest.mark.parametrize("cache", [None, 0.1, 0.5])
def test_new_replicas_of_which_no_request_ended_do_not_make_the_backlog_smaller(cache: float | None) -> None:
    """Their requests run, and the share that they carry is not known yet, or may be larger."""
    full = span(100.0, 0.05, running=100.0, ended=1.0)
    new = span(100.0, None, ended=0.0, running=100.0, kv_cache_ratio=cache, is_time_known=False)
    before, after = (
        calibrate([work(full, waiting=900.0)], QUERY),
        calibrate([work(full, waiting=900.0), work(new)], QUERY),
    )
    assert before.backlog == after.backlog == pytest.approx(9.0)
    assert after.taken_at_once == pytest.approx(100.0)


def test_full_seats_say_how_many_requests_a_replica_runs_while_no_time_is_known() -> None:
    query = EngineQuery(itl_floor_seconds=0.01, max_seqs=100.0)
    new = span(80.0, None, ended=0.0, running=80.0, is_time_known=False)
    idle = span(None, None, is_idle=True, running=0.0)
    assert calibrate([work(new, waiting=160.0), work(idle)], query).backlog == pytest.approx(2.0)
    light = replace(new, running=20.0)
    assert calibrate([work(light, waiting=160.0)] * 2, query).backlog == 0.0


def test_in_the_first_seconds_the_rate_is_that_of_the_window() -> None:
    started = replace(work(FULL, waiting=60.0), spans=())
    calibration = calibrate([started, started], QUERY)
    assert calibration.requests_per_second == pytest.approx(4.0)
    assert calibration.taken_at_once is None
    none_ended = replace(started, current=replace(FULL, ended=0.0))
    assert calibrate([none_ended], QUERY).requests_per_second == pytest.approx(100 / 60)
    assert calibrate([none_ended], QUERY).taken_at_once == pytest.approx(100.0)


def test_a_target_near_the_floor_is_named() -> None:
    near = "raise itlTargetMs"
    for target, is_near in ((0.0142, True), (0.0144, False)):
        query = EngineQuery(itl_floor_seconds=0.01, itl_target_seconds=target)
        assert (near in calibrate([work(FULL)], query).describe(query, LoadRung.TOKEN_TIME)) is is_near


def test_an_absurd_queue_gives_a_finite_backlog() -> None:
    assert calibrate([work(FULL, waiting=1e300)], QUERY).backlog == 1e6


def test_engines_share_what_one_of_them_was_seen_to_do() -> None:
    works = [work(span(None, None, busy=2.0), most_prompt_tokens=500.0), work(FULL, most_prompt_tokens=900.0)]
    reference = calibrate(works, QUERY).reference
    assert (reference.most_prompt_tokens, reference.most_busy) == (900.0, 2.0)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        (EngineQuery(), "a full pod has 3 executions at once (a guess, by the most that was seen: set maxSeqs)"),
        (EngineQuery(max_seqs=4.0), "a full pod has 4 executions at once (maxSeqs)"),
    ],
    ids=["guessed", "stated"],
)
def test_what_a_time_of_computation_is_compared_with_is_named(query: EngineQuery, sentence: str) -> None:
    calibration = calibrate([work(span(None, None, busy=2.2), rung=LoadRung.SERVICE_TIME)], query)
    described = calibration.describe(query, LoadRung.SERVICE_TIME)
    assert described == f"load is computed from the time of computation; {sentence}"


def prefilling(seconds: float | None, tokens: float) -> EngineWork:
    return work(FULL, prefill_seconds=seconds, prompt_tokens=tokens)


@pytest.mark.parametrize(
    ("works", "expected"),
    [
        pytest.param([prefilling(30.0, 1000.0), prefilling(-10.0, 3000.0)], 20.0 / 4000.0, id="of all engines"),
        pytest.param([prefilling(-10.0, 3000.0)], 0.0, id="an error of few samples"),
        pytest.param([prefilling(None, 3000.0)], math.inf, id="requests in prefill are not counted"),
        pytest.param([prefilling(None, 9e9), prefilling(3.0, 1000.0)], 0.003, id="counted by one of two engines"),
        pytest.param([prefilling(3.0, 0.0)], math.inf, id="no prompt"),
    ],
)
def test_the_time_in_prefill_is_that_of_each_prompt_token(works: list[EngineWork], expected: float) -> None:
    assert calibrate(works, QUERY).reference.prompt_token_seconds == pytest.approx(expected)


def test_the_sentence_says_where_each_number_comes_from() -> None:
    sentence = calibrate([work(FULL, waiting=120.0)], QUERY).describe(QUERY, LoadRung.TOKEN_TIME)
    assert sentence == (
        "load is computed from the time between tokens; the floor is 10 ms per token (itlFloorMs); the target is "
        "50 ms; one loaded replica serves 4 requests/s; 120 waiting requests need 0.5 replicas to be served within 60 s"
    )
