# SPDX-License-Identifier: Apache-2.0
"""Tests of scrape intervals and of the kept samples."""

import itertools
import logging
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.evaluate.load.span import engine_work
from keda_gpu_scaler.core.selectors import parse_series
from keda_gpu_scaler.core.state.scrape import HISTORY_STEP_SECONDS, MAX_SAMPLES, Endpoint, step_begin
from keda_gpu_scaler.core.types import PodRef
from keda_gpu_scaler.scrape.endpoint_scrape import MAX_INTERESTS
from tests.scrape.scene import (
    DEPTH,
    EVERY_ADDRESS,
    PAGE,
    POD,
    Scene,
    addresses,
    depths,
    scenario,
)
from tests.scrape.virtual_time import run_in_virtual_time
from tests.scrape.web import NO_ANSWER, sglang, vllm

# ---- intervals ----


@scenario
async def test_a_target_is_scraped_at_its_own_offset_in_the_interval() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(POD)
        await scene.pass_time(20)
        _, second, third, *others = scene.web.times(PAGE)
        assert third - second >= 0.5, "two readings of a counter that are too close give a rate of chance"
        assert len(others) in (8, 9)
        assert {round(later - earlier, 6) for earlier, later in itertools.pairwise([third, *others])} == {2.0}


@scenario
async def test_the_second_sample_comes_early_for_metrics_that_need_two() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(POD)
        await scene.pass_time(20)
        first, second, third, *_ = scene.web.times(PAGE)
        assert second - first == pytest.approx(0.505), "a quarter of the interval after the first scrape ended"
        assert 0.5 <= third - second < 2.5


@scenario
async def test_after_a_failure_only_the_second_sample_comes_early() -> None:
    async with Scene({PAGE: NO_ANSWER}) as scene:
        scene.manager.register_interest(POD, window_seconds=10.0)
        await scene.pass_time(9)
        failed = scene.web.times(PAGE)
        assert all(later - earlier >= 1.5 for earlier, later in itertools.pairwise(failed[1:]))
        scene.web.pages[PAGE] = vllm()
        await scene.pass_time(9)
        first, second, third, *_ = scene.web.times(PAGE)[len(failed) :]
        assert second - first == pytest.approx(0.505)
        assert 0.5 <= third - second < 2.5


@scenario
async def test_a_failure_after_the_first_sample_does_not_scrape_faster() -> None:
    pages = iter([vllm()])
    async with Scene({PAGE: lambda: next(pages, NO_ANSWER)}) as scene:
        await scene.register_interest(POD)
        await scene.pass_time(20)
        _, second, third, *others = scene.web.times(PAGE)
        assert {round(later - earlier, 6) for earlier, later in itertools.pairwise([third, *others])} == {2.0}
        assert third - second >= 0.5


@scenario
async def test_the_early_scrapes_of_a_fleet_double_its_first_interval_only() -> None:
    pods = [replace(POD, address=f"10.1.2.{number}", engine="vllm") for number in range(200)]
    async with Scene({f"{pod.address}:8000/metrics": vllm() for pod in pods}) as scene:
        await scene.register_interest(*pods)
        began = scene.loop.time()
        await scene.pass_time(20)
        fetched = [sum(begin <= at - began < begin + 2 for at, _ in scene.web.fetched) for begin in range(0, 20, 2)]
        assert 200 <= fetched[0] <= 400
        assert set(fetched[2:-1]) == {200}


@scenario
async def test_the_targets_of_a_fleet_are_spread_over_the_interval() -> None:
    pods = [replace(POD, address=f"10.1.2.{number}", engine="vllm") for number in range(200)]
    async with Scene({f"{pod.address}:8000/metrics": vllm() for pod in pods}) as scene:
        await scene.register_interest(*pods)
        await scene.pass_time(10)
        began = scene.loop.time()
        await scene.pass_time(2)
        tenths = [int((at - began) * 10) for at, _ in scene.web.fetched if at >= began]
        assert len(tenths) == 200
        assert max(tenths.count(tenth) for tenth in range(20)) < 25


@scenario
async def test_demand_is_scraped_more_often_than_engines() -> None:
    async with Scene({PAGE: vllm(), **depths(_1=1)}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1)
        await scene.register_interest(POD)
        await scene.register_interest(EVERY_ADDRESS, series=DEPTH.text, demand=True)
        scene.web.fetched.clear()
        await scene.pass_time(20)
        assert len(scene.web.times(PAGE)) == 10
        assert len(scene.web.times("10.0.0.1:80/metrics")) == 40


@scenario
async def test_a_slow_target_has_one_scrape_at_a_time_and_delays_no_other_target() -> None:
    other = replace(POD, address="10.1.2.4")
    async with Scene({PAGE: vllm(), "10.1.2.4:8000/metrics": vllm()}) as scene:
        await scene.register_interest(POD, other)
        scene.web.seconds[PAGE] = 5.0
        scene.web.fetched.clear()
        await scene.pass_time(60)
        assert scene.web.most_running == 1
        assert 8 <= len(scene.web.times(PAGE)) <= 10, "missed scrapes are not repeated"
        assert len(scene.web.times("10.1.2.4:8000/metrics")) == 31, "the second one comes early"


@scenario
async def test_a_late_answer_counts_and_its_target_is_asked_less_often() -> None:
    async with Scene({PAGE: vllm(waiting=50)}) as scene:
        scene.web.seconds[PAGE] = 2.6
        await scene.register_interest(replace(POD, engine="vllm"))
        await scene.pass_time(60)
        assert scene.newest(replace(POD, engine="vllm")).waiting == 50
        times = scene.web.times(PAGE)[1:]
        assert {round(later - earlier) for earlier, later in itertools.pairwise(times)} == {4}
        scene.web.seconds[PAGE] = 0.1
        await scene.pass_time(10)
        scene.web.fetched.clear()
        await scene.pass_time(20)
        assert len(scene.web.fetched) == 10, "a target that is quick again is asked at its interval"


@scenario
async def test_a_slow_target_is_left_alone_for_half_the_time_of_its_answer() -> None:
    async with Scene({PAGE: vllm()}, interval_seconds=0.5) as scene:
        scene.web.seconds[PAGE] = 4.0
        await scene.register_interest(replace(POD, engine="vllm"))
        await scene.pass_time(60)
        times = scene.web.times(PAGE)[1:]
        assert {round(later - earlier, 3) for earlier, later in itertools.pairwise(times)} == {6.0}


def test_a_slow_target_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def answer_slowly() -> None:
        async with Scene({PAGE: vllm()}) as scene:
            await scene.register_interest(replace(POD, engine="vllm"))
            for _ in range(3):
                scene.web.seconds[PAGE] = 2.6
                await scene.pass_time(20)
                scene.web.seconds[PAGE] = 0.1
                await scene.pass_time(20)

    with caplog.at_level(logging.INFO):
        run_in_virtual_time(answer_slowly())
    assert [(it.levelname, it.getMessage()) for it in caplog.records] == [
        (
            "WARNING",
            "http://10.1.2.3:8000/metrics: asked less often: it answers after 2.6 s, and its interval is 2 s",
        )
    ]


@scenario
async def test_endpoints_share_the_scrapes_of_a_target() -> None:
    named = replace(POD, engine="vllm")
    with_port = replace(POD, engine="vllm", ports=(8000,))
    more = 'depth{queue="llama"} 4\n'
    async with Scene({PAGE: vllm(more=more)}) as scene:
        await scene.register_interest(POD)
        await scene.register_interest(named, with_port, series=DEPTH.text)
        scene.web.fetched.clear()
        await scene.pass_time(20)
        assert 9 <= len(scene.web.fetched) <= 10
        assert scene.history() == scene.history(named) == scene.history(with_port)
        assert DEPTH.text in scene.newest().selected


@scenario
async def test_a_pod_and_a_url_at_the_same_address_are_separate_targets() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(POD, Endpoint(url="http://10.1.2.3:8000/metrics"))
        assert scene.web.urls == [PAGE, PAGE], "the address policy has different rules for pods and URLs"


@scenario
async def test_a_pod_at_the_address_of_a_former_pod_does_not_inherit_its_samples() -> None:
    async with Scene({PAGE: vllm(waiting=40)}) as scene:
        await scene.register_interest(POD, window=300.0)
        await scene.pass_time(20)
        scene.web.pages[PAGE] = vllm(waiting=0)
        successor = replace(POD, pod=PodRef("ai", "llama-9"))
        result = await scene.register_interest(successor, window=300.0)
        assert [it.waiting for it in result.targets[0].samples] == [0]


@scenario
async def test_the_number_of_requested_series_is_limited_and_the_first_ones_remain() -> None:
    async with Scene({PAGE: vllm(more='depth{queue="llama"} 4\n')}) as scene:
        await scene.register_interest(POD, series=DEPTH.text)
        for number in range(MAX_INTERESTS + 10):
            scene.manager.register_interest(
                POD, window_seconds=10.0 + number, selectors=(parse_series(f"depth_{number}"),)
            )
        await scene.pass_time(10)
        assert len(scene.newest().selected) == MAX_INTERESTS
        assert DEPTH.text in scene.newest().selected
        await scene.register_interest(POD, series=DEPTH.text)


@scenario
async def test_a_newly_requested_series_is_scraped_early() -> None:
    async with Scene({PAGE: vllm(more='depth{queue="llama"} 4\n')}, interval_seconds=60.0) as scene:
        await scene.register_interest(POD)
        began = scene.loop.time()
        result = await scene.register_interest(POD, series=DEPTH.text)
        assert scene.loop.time() - began <= 15.1
        assert result.targets[0].newest is not None
        assert result.targets[0].newest.selected[DEPTH.text] is not None


@scenario
async def test_a_page_that_was_read_before_a_series_was_requested_is_read_again() -> None:
    other = replace(POD, engine="tgi", ports=(8000,))
    async with Scene({PAGE: vllm(more='depth{queue="llama"} 4\n')}, interval_seconds=60.0) as scene:
        await scene.register_interest(POD)
        began = scene.loop.time()
        assert (await scene.register_interest(other, series=DEPTH.text)).failure is None
        assert scene.loop.time() - began <= 15.1


# ---- history ----


@scenario
async def test_the_history_has_the_longest_window_and_one_earlier_sample() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(POD, window=10)
        await scene.register_interest(POD, window=30)
        await scene.pass_time(120)
        samples = scene.history().samples
        newest = samples[-1].at_seconds
        assert [newest - it.at_seconds >= 30 for it in samples] == [True] + [False] * (len(samples) - 1)
        assert len(samples) == 16


@scenario
async def test_the_work_of_an_engine_is_measured_when_its_page_comes_while_evaluations_ask_for_it() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(POD, window=10)
        await scene.pass_time(20)
        assert not scene.history().cache
        engine_work(scene.history(), 10.0)
        await scene.pass_time(20)
        assert [*scene.history().cache.values()] == [engine_work(scene.history(), 10.0)]
        await scene.pass_time(100)
        assert not scene.history().cache


@scenario
async def test_before_the_window_a_thinned_history_goes_back_as_far_as_a_consumer_needs() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        scene.manager.register_interest(POD, window_seconds=10.0)
        scene.manager.register_interest(POD, window_seconds=10.0, history_seconds=100.0)
        await scene.pass_time(200)
        samples = scene.history().samples
        newest = samples[-1].at_seconds
        assert 90 < newest - samples[0].at_seconds < 100 + HISTORY_STEP_SECONDS
        inside = [it for it in samples if newest - it.at_seconds < 10]
        assert len(inside) == 5
        older = [step_begin(it.at_seconds) for it in samples if it not in inside]
        assert len(set(older)) == 10
        assert len(older) - older.count(older[-1]) == 9, "one sample in each step before the last one"


@scenario
async def test_a_window_and_series_without_interest_expire() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(POD, window=600, series=DEPTH.text)
        await scene.expire_for(600, POD)
        assert len(scene.history().samples) == 6
        assert scene.newest().selected == {}


@scenario
async def test_the_history_is_bounded_for_any_window() -> None:
    async with Scene({PAGE: vllm()}, interval_seconds=0.5) as scene:
        await scene.register_interest(POD, window=1e9)
        await scene.pass_time(MAX_SAMPLES)
        assert len(scene.history().samples) == MAX_SAMPLES


@scenario
async def test_the_history_begins_again_when_another_engine_answers() -> None:
    endpoint = replace(POD, ports=(8000,), path="/metrics")
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(endpoint, window=60)
        await scene.pass_time(10)
        scene.web.pages[PAGE] = sglang()
        await scene.pass_time(5)
        assert {it.engine for it in scene.history(endpoint).samples} == {"sglang"}


@scenario
async def test_a_sample_has_the_time_of_its_response() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        scene.web.seconds[PAGE] = 1.5
        await scene.register_interest(POD)
        assert scene.newest().at_seconds == scene.web.fetched[0][0] + 1.5


@scenario
async def test_law_3_registering_interest_does_not_change_the_result() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        before = await scene.register_interest(POD)
        for window in (1, 10, 600):
            scene.manager.register_interest(POD, window_seconds=window)
            assert scene.result() is before


@scenario
async def test_the_same_failure_again_is_no_news_and_shows_when_it_was_asked() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.register_interest(POD)
        scene.web.pages[PAGE] = NO_ANSWER
        await scene.pass_time(3)
        failed = scene.result()
        news_count = len(scene.news)
        await scene.pass_time(20)
        assert scene.result() == failed
        assert len(scene.news) == news_count
        [asked] = scene.result().shown_attempts.engines
        assert asked.at_seconds > scene.loop.time() - 3


@scenario
async def test_changes_at_one_instant_are_announced_once() -> None:
    pods = [replace(POD, address=f"10.1.2.{number}") for number in range(50)]
    async with Scene({f"{pod.address}:8000/metrics": vllm() for pod in pods}) as scene:
        await scene.register_interest(*pods)
        await scene.pass_time(0)
        assert 1 <= len(scene.news) <= 3
