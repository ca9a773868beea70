# SPDX-License-Identifier: Apache-2.0
"""Tests that a recording of engines is played at its own times, by the code of live scrapes."""

import asyncio
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.evaluate.engine_load import pod_endpoint
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.types import Pod, PodRef, Unavailable, Workload
from keda_gpu_scaler.scrape.manager import ScrapeManager
from keda_gpu_scaler.scrape.playback import Playback
from keda_gpu_scaler.scrape.replay_client import SCRAPE_SHARE, ReplayClient
from keda_gpu_scaler.wire.engine_recording import (
    EngineRecording,
    EngineRecordingBuilder,
    Place,
    RecordedPage,
    RecordedWorkload,
)
from tests.scrape.virtual_time import run_in_virtual_time
from tests.scrape.web import vllm

BEGIN, INTERVAL = 500.0, 2.0
PLACE = Place("ai", "llama-0", "http", 8000, "/metrics")
WORKLOAD = Workload(
    "ai", "llama", "ScaledObject", "Deployment llama", 1, 1,
    (Pod(PodRef("ai", "llama-0"), "gpu-7", "Running", is_ready=True, is_deleting=False, created_at_seconds=400.0,
         address="unknown", ready_at_seconds=450.0),),
)  # fmt: skip


def page(seconds: float, tokens: float, *, port: int = 8000) -> RecordedPage:
    text = vllm(running=seconds, more=f"vllm:generation_tokens_total {tokens}\n").decode()
    return RecordedPage(BEGIN + seconds, PLACE._replace(port=port), 0.004, 200, "text/plain", text)


def failure(seconds: float, kind: str = "unreadable", sentence: str = "no answer within 5 s") -> RecordedPage:
    return RecordedPage(BEGIN + seconds, PLACE, 5.0, None, failure=sentence, kind=kind)


def recording(*records: RecordedPage | RecordedWorkload) -> EngineRecording:
    builder = EngineRecordingBuilder()
    builder.begin(INTERVAL)
    for record in (RecordedWorkload(BEGIN, WORKLOAD), *records):
        builder.add(record)
    built = builder.build()
    assert built is not None
    return built


class Player:
    """A scrape manager that plays a recording in virtual time, from its beginning."""

    def __init__(self, *records: RecordedPage | RecordedWorkload) -> None:
        self.loop = asyncio.get_running_loop()
        self.begins = self.loop.time()
        self.playback = Playback(recording(*records), self.loop.time)
        client = ReplayClient(self.playback, self.loop.time)
        self.manager = ScrapeManager(client, clock=self.loop.time, interval_seconds=SCRAPE_SHARE * INTERVAL)

    async def __aenter__(self) -> "Player":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.manager.close()

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint of the pod as it is played now."""
        state = self.playback.workload("ai", "llama")
        assert isinstance(state, Workload)
        return pod_endpoint(EngineQuery(), state.pods[0])

    def register(self) -> Endpoint:
        endpoint = self.endpoint
        self.manager.register_interest(endpoint, window_seconds=60.0)
        return endpoint

    async def until(self, seconds: float) -> None:
        await asyncio.sleep(self.begins + seconds - self.loop.time())

    def result(self, endpoint: Endpoint) -> ScrapeResult:
        return self.manager.scrape_results()[endpoint]

    def samples(self, endpoint: Endpoint) -> list[tuple[float, float | None]]:
        """The time of each sample since the beginning, and its tokens."""
        [target] = self.result(endpoint).targets
        return [(round(it.at_seconds - self.begins, 3), it.tokens_total) for it in target.samples]


PAGES = [page(at, 100 * at) for at in (0.5, 2.5, 4.5, 6.6, 8.4, 10.5)]


@pytest.mark.parametrize(("begins", "first"), [(0.0, 0), (3.0, 2), (5.9, 3)])
def test_each_page_is_given_once_and_at_its_time(begins: float, first: int) -> None:
    async def scenario() -> None:
        async with Player(*PAGES) as player:
            await player.until(begins)
            endpoint = player.register()
            await player.until(11.0)
            expected = [(round(it.at_seconds - BEGIN, 3), 100 * (it.at_seconds - BEGIN)) for it in PAGES[first:]]
            assert [(at, round(tokens or 0)) for at, tokens in player.samples(endpoint)] == [
                (at, round(tokens)) for at, tokens in expected
            ]

    run_in_virtual_time(scenario())


def test_a_pod_has_another_address_when_the_recording_begins_again() -> None:
    async def scenario() -> None:
        async with Player(*PAGES) as player:
            first = player.register()
            duration = player.playback.recording.duration_seconds
            await player.until(duration + 0.1)
            second = player.register()
            assert (first.address, second.address) == ("198.18.1.0", "198.18.2.0")
            await player.until(duration + 5.0)
            assert [tokens for _, tokens in player.samples(second)] == [50.0, 250.0, 450.0]
            assert "begins again" in str(player.result(first).targets[0].failure)

    run_in_virtual_time(scenario())


def test_a_failure_is_played_and_the_next_page_ends_it() -> None:
    async def scenario() -> None:
        async with Player(page(0.5, 1), failure(2.5), page(7.5, 2), page(9.5, 3)) as player:
            endpoint = player.register()
            await player.until(4.0)
            [target] = player.result(endpoint).targets
            assert (target.failure, len(target.samples)) == ("no answer within 5 s", 1)
            assert target.attempt is not None
            assert (target.attempt.status, target.attempt.answer_seconds) == (None, 5.0)
            await player.until(10.0)
            assert player.result(endpoint).targets[0].failure is None

    run_in_virtual_time(scenario())


def test_law_1_a_pause_of_a_slow_pod_is_not_filled_with_its_last_page() -> None:
    async def scenario() -> None:
        async with Player(page(0.5, 1), page(40.0, 2), page(42.0, 3)) as player:
            await player.until(20.0)
            endpoint = player.register()
            await player.until(39.0)
            assert endpoint not in player.manager.scrape_results()
            await player.until(43.0)
            assert [at for at, _ in player.samples(endpoint)] == [40.0, 42.0]

    run_in_virtual_time(scenario())


def test_law_1_no_page_is_given_twice() -> None:
    async def scenario() -> None:
        async with Player(page(0.5, 1), page(40.0, 2)) as player:
            endpoint = player.register()
            await player.until(39.0)
            assert [at for at, _ in player.samples(endpoint)] == [0.5]

    run_in_virtual_time(scenario())


def test_law_1_a_place_that_is_not_recorded_is_unknown_and_not_one_without_an_engine() -> None:
    async def scenario() -> None:
        async with Player(failure(0.0, "refused", "the connection is refused")) as player:
            endpoint = player.register()
            await player.until(1.0)
            result = player.result(endpoint)
            assert not result.is_no_engine
            assert "the recording has no page of this place" in str(result.failure)

    run_in_virtual_time(scenario())


def test_a_page_without_an_engine_is_played_at_any_time() -> None:
    async def scenario() -> None:
        other = RecordedPage(BEGIN, PLACE, 0.0, 200, "text/plain", "")
        async with Player(other, *[page(at, at, port=30000) for at in (1.0, 3.0, 5.0)]) as player:
            endpoint = player.register()
            await player.until(6.0)
            result = player.result(endpoint)
            assert [target.url for target in result.targets] == ["http://198.18.1.0:30000/metrics"]
            assert "the page has no series of a known engine" in {it.failure for it in result.attempts}

    run_in_virtual_time(scenario())


def test_a_url_is_not_played() -> None:
    async def scenario() -> None:
        async with Player(*PAGES) as player:
            url = Endpoint(engine="vllm", url="http://vllm-svc/metrics")
            player.manager.register_interest(url, window_seconds=10.0)
            await player.manager.wait_for_sync([url])
            assert (
                player.result(url).failure == "the pages of a URL are not recorded: this instance replays a recording"
            )

    run_in_virtual_time(scenario())


def test_the_workload_is_played_with_its_times() -> None:
    async def scenario() -> None:
        grown = replace(WORKLOAD, spec_replicas=2)
        async with Player(*PAGES, RecordedWorkload(BEGIN + 5, grown)) as player:
            early = player.playback.workload("ai", "llama")
            assert isinstance(early, Workload)
            assert early.spec_replicas == 1
            assert early.pods[0].created_at_seconds == pytest.approx(player.begins - 100)
            assert early.pods[0].cold_start_seconds == pytest.approx(50.0)
            await player.until(4.0)
            assert player.playback.workload("ai", "llama") is early
            await player.until(5.5)
            later = player.playback.workload("ai", "llama")
            assert isinstance(later, Workload)
            assert later.spec_replicas == 2

    run_in_virtual_time(scenario())


def test_another_workload_is_not_known() -> None:
    async def scenario() -> None:
        async with Player(*PAGES) as player:
            state = player.playback.workload("ai", "other")
            assert state == Unavailable("ai/other: the recording has ai/llama only", is_permanent=True)

    run_in_virtual_time(scenario())


def test_the_addresses_of_two_loops_differ_for_hours() -> None:
    async def scenario() -> None:
        async with Player(*PAGES) as player:
            addresses = [player.playback.address("ai", "llama-0", loop) for loop in range(510)]
            assert len(set(addresses)) == 510
            assert player.playback.address("ai", "unknown", 0) == ""

    run_in_virtual_time(scenario())
