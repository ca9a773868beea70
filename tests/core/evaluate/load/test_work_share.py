# SPDX-License-Identifier: Apache-2.0
"""Tests of the share of what one replica should carry."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.load.floor import Floor
from keda_gpu_scaler.core.evaluate.load.span import Span
from keda_gpu_scaler.core.evaluate.load.work_share import Reference, WorkShare, work_share
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.engines import LoadRung
from tests.core.evaluate.load.works import span, work

QUERY = EngineQuery()


def share(
    one: Span,
    *,
    rung: LoadRung = LoadRung.TOKEN_TIME,
    query: EngineQuery = QUERY,
    limit: float | None = None,
    floor: float = 0.01,
    **reference: float,
) -> WorkShare | None:
    return work_share(work(one, rung=rung, limit=limit), one, Reference(Floor(floor, ""), **reference), query)


def known(one: Span, **arguments: object) -> WorkShare:
    found = share(one, **arguments)  # type: ignore[arg-type]
    if found is None:
        raise ValueError("the share is not known")
    return found


def test_at_the_aimed_time_per_token_a_replica_carries_what_it_should() -> None:
    assert known(span(100.0, 0.05)).total == pytest.approx(1.0)
    assert known(span(50.0, 0.02)).total == pytest.approx((1 - 0.01 / 0.02) / (1 - 0.01 / 0.05))


def test_less_than_one_request_works_in_its_part_of_the_time() -> None:
    assert known(span(0.5, 0.02)).by_time == pytest.approx(0.5 * 0.5 / 0.8)
    assert known(span(3.0, 0.02)).by_time == pytest.approx(0.5 / 0.8)


def test_a_time_per_token_below_the_floor_is_no_work() -> None:
    assert known(span(5.0, 0.009)).total == 0.0


def test_a_replica_never_works_more_than_always() -> None:
    assert known(span(5.0, 100.0)).by_time == pytest.approx(0.99 / 0.8)


def test_an_aim_near_the_floor_is_not_reachable() -> None:
    assert known(span(5.0, 0.09), floor=0.045).by_time == pytest.approx(0.5 / 0.3)


def test_with_speculative_decoding_the_aim_is_for_a_token_and_the_time_for_a_step() -> None:
    """Three tokens a step: a step of 150 ms gives each token in 50 ms."""
    assert known(span(50.0, 0.15, tokens_per_step=3.0)).by_time == pytest.approx(1.0)


def test_seats_and_cache_take_the_part_that_is_not_work() -> None:
    by_cache = known(span(10.0, 0.02, kv_cache_ratio=0.4))
    assert by_cache.by_seats == pytest.approx(0.5 + 0.5 * 0.5)
    by_seats = known(span(10.0, 0.02, kv_cache_ratio=0.4, running=60.0), limit=100.0)
    assert by_seats.by_seats == pytest.approx(0.5 + 0.75 * 0.5)
    stated = known(span(10.0, 0.02, running=60.0), query=EngineQuery(max_seqs=75.0), limit=1000.0)
    assert stated.by_seats == pytest.approx(0.5 + 1.0 * 0.5)
    assert stated.total == stated.by_seats
    assert known(span(10.0, 0.02, kv_cache_ratio=0.4), query=EngineQuery(kv_target=0.5)).by_seats == pytest.approx(0.9)
    assert known(span(10.0, 0.02, kv_cache_ratio=1.0)).by_seats == pytest.approx(1.0)


def test_without_a_limit_and_a_cache_only_the_time_counts() -> None:
    assert known(span(10.0, 0.02, running=60.0)).by_seats is None


def test_running_requests_alone_are_compared_with_their_limit() -> None:
    one = span(20.0, None, running=20.0)
    assert known(one, rung=LoadRung.RUNNING, limit=100.0).total == pytest.approx(0.25)
    assert known(one, rung=LoadRung.RUNNING, limit=10.0).total == pytest.approx(1.25)
    assert share(one, rung=LoadRung.RUNNING) is None
    assert share(one, rung=LoadRung.NONE) is None


def test_time_of_computation_is_compared_with_the_number_of_executions() -> None:
    one = span(None, None, busy=1.2)
    assert known(one, rung=LoadRung.SERVICE_TIME, most_busy=1.9).total == pytest.approx(1.2 / (2 * 0.8))
    assert known(one, rung=LoadRung.SERVICE_TIME, query=EngineQuery(max_seqs=4.0)).total == pytest.approx(1.2 / 3.2)
    assert known(one, rung=LoadRung.SERVICE_TIME).total == pytest.approx(1.2 / 0.8)


def test_an_idle_engine_carries_nothing() -> None:
    assert known(span(None, None, is_idle=True, kv_cache_ratio=0.9)).total == 0.0


def test_prompts_count_in_the_time_in_which_no_token_is_generated() -> None:
    one = span(0.4, 0.02, prompt_rate=3000.0)
    found = known(one, most_prompt_tokens=6000.0)
    assert found.prefill == pytest.approx(0.6 * 0.5)
    assert found.by_time == pytest.approx((0.4 * 0.5 + 0.6 * 0.5) / 0.8)
    assert known(span(5.0, 0.02, prompt_rate=3000.0), most_prompt_tokens=6000.0).prefill == 0.0
    assert known(one).prefill == 0.0


def test_prompts_count_at_most_for_the_time_that_requests_are_in_prefill() -> None:
    one = span(None, None, prompt_rate=3000.0)
    found = known(one, most_prompt_tokens=3000.0, prompt_token_seconds=0.0001)
    assert found.prefill == pytest.approx(0.3)
    full = known(one, most_prompt_tokens=3000.0, prompt_token_seconds=math.inf)
    assert full.prefill == 1.0
    assert full.by_time == pytest.approx(0.99 / 0.8), "as for tokens, a replica is never more than busy"
    assert known(one, most_prompt_tokens=3000.0, prompt_token_seconds=1.0).prefill == 1.0


RUNGS = st.sampled_from([LoadRung.TOKEN_TIME, LoadRung.REQUEST_TOKEN_TIME, LoadRung.TOKEN_RATE])


@given(RUNGS, st.floats(0.01, 300), st.floats(0.001, 1), st.floats(0, 1), st.floats(1, 3), st.floats(0.001, 0.1))
def test_the_share_is_monotone_in_the_traffic(
    rung: LoadRung, requests: float, seconds: float, cache: float, more: float, floor: float
) -> None:
    """More traffic: more requests decode, each token takes no less time, and the cache is no emptier."""
    less = known(
        span(requests, seconds, kv_cache_ratio=cache / 3, running=requests), rung=rung, limit=256.0, floor=floor
    )
    after = span(requests * more, seconds * more, kv_cache_ratio=cache / 3 * more, running=requests * more)
    assert known(after, rung=rung, limit=256.0, floor=floor).total >= less.total - 1e-12
