# SPDX-License-Identifier: Apache-2.0
"""Tests of the pieces in which a page is read, and of the pauses after costly pages, in virtual time."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.state.scrape import Endpoint
from keda_gpu_scaler.scrape import page_feed
from keda_gpu_scaler.scrape.page_feed import (
    COSTLY_SECONDS,
    FOLLOWED_BYTES,
    PIECE_BYTES,
    TURN_SECONDS,
    PageFeed,
    PageWork,
    ReadingTurns,
)
from keda_gpu_scaler.scrape.scrape_pace import MAX_PAUSE_SECONDS
from tests.fakes import ManualClock
from tests.scrape.clients import Collector, http_client, run, target
from tests.scrape.scene import PAGE, POD, Scene, scenario
from tests.scrape.servers import Server, page, responds
from tests.scrape.virtual_time import run_in_virtual_time
from tests.scrape.web import vllm

VLLM = replace(POD, engine="vllm")


class CostlyReader(Collector):
    """A reader that takes a time for each byte; ``seconds`` is that for a piece of the usual size."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        super().__init__()
        self._clock = clock
        self.seconds_per_byte = seconds / PIECE_BYTES

    def feed(self, piece: bytes) -> None:
        super().feed(piece)
        self._clock.advance(len(piece) * self.seconds_per_byte)


@given(st.lists(st.integers(0, 3 * PIECE_BYTES), max_size=8))
def test_a_page_is_read_in_bounded_pieces_and_as_a_whole(sizes: list[int]) -> None:
    async def feed() -> None:
        collector = Collector()
        pages = [bytes([number]) * size for number, size in enumerate(sizes)]
        fed = PageFeed(collector, ReadingTurns(ManualClock()))
        for content in pages:
            await fed.feed(content)
        await fed.finish()
        assert b"".join(collector.pieces) == b"".join(pages)
        assert all(0 < len(piece) <= PIECE_BYTES for piece in collector.pieces)

    run_in_virtual_time(feed())


def test_small_parts_are_read_together() -> None:
    async def feed() -> None:
        collector = Collector()
        fed = PageFeed(collector, ReadingTurns(ManualClock()))
        for _ in range(PIECE_BYTES + 100):
            await fed.feed(b"x")
        await fed.finish()
        assert [len(piece) for piece in collector.pieces] == [PIECE_BYTES, 100]

    run_in_virtual_time(feed())


async def turns_of_others(work: Coroutine[Any, Any, None]) -> int:
    """Do some work; return how often another task ran meanwhile."""
    turn_count = 0

    async def other_task() -> None:
        nonlocal turn_count
        while True:
            await asyncio.sleep(0)
            turn_count += 1

    waiting = asyncio.create_task(other_task())
    await asyncio.sleep(0)
    await work
    result = turn_count
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    return result


@pytest.mark.parametrize(
    ("seconds", "pieces", "turns"),
    [
        pytest.param(0.0001, 10, 0, id="a cheap page is read in one turn"),
        pytest.param(0.0007, 10, 3, id="after 2 ms of small pieces"),
        pytest.param(0.004, 2, 2, id="after a piece of 4 ms, and after 2 ms of the pieces into which the rest is cut"),
    ],
)
def test_other_tasks_run_after_each_2_ms_of_reading(seconds: float, pieces: int, turns: int) -> None:
    async def feed() -> None:
        clock = ManualClock()
        fed = PageFeed(CostlyReader(clock, seconds), ReadingTurns(clock))
        assert await turns_of_others(fed.feed(b"x" * pieces * PIECE_BYTES)) == turns
        assert fed.work_seconds == pytest.approx(pieces * seconds)

    run_in_virtual_time(feed())


def test_other_tasks_run_after_each_2_ms_however_many_pages_are_read() -> None:
    async def feed() -> None:
        clock = ManualClock()
        turns = ReadingTurns(clock)
        pauses: list[float] = []

        async def other_task() -> None:
            while True:
                began = clock()
                await asyncio.sleep(0)
                pauses.append(clock() - began)

        waiting = asyncio.create_task(other_task())
        pages = [PageFeed(CostlyReader(clock, 0.0015), turns) for _ in range(20)]
        await asyncio.gather(*(one.feed(b"x" * 6 * PIECE_BYTES) for one in pages))
        assert max(pauses) <= TURN_SECONDS + 0.0015
        assert sum(one.work_seconds for one in pages) == pytest.approx(20 * 6 * 0.0015)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting

    run_in_virtual_time(feed())


def test_a_page_of_22_mib_is_given_to_its_reader_in_pieces() -> None:
    async def test() -> None:
        size = 0

        class Counter(Collector):
            def feed(self, piece: bytes) -> None:
                nonlocal size
                size += len(piece)
                assert len(piece) <= page_feed.PIECE_BYTES

        line = b'vllm:lora_requests_info{running_lora_adapters="' + b"adapter," * 100 + b'"} 1\n'
        body = line * ((22 << 20) // len(line))
        async with Server(responds(page(body))) as server:
            with contextlib.closing(http_client()) as client:
                await client.fetch(target(server.port), lambda _: Counter())
        assert size == len(body)

    run(test())


@scenario
async def test_a_page_of_22_mib_of_other_series_has_the_readings_of_its_engine() -> None:
    line = b'istio_requests_total{source="' + b"x" * 470 + b'"} 1\n'
    async with Scene({PAGE: line * 44_000 + vllm(waiting=12)}) as scene:
        await scene.register_interest(VLLM)
        assert scene.newest(VLLM).waiting == 12


# ---- costly pages ----


@scenario
async def test_a_page_that_costs_more_than_a_tenth_of_its_interval_is_asked_less_often() -> None:
    async with Scene({PAGE: vllm(waiting=1)}) as scene:
        scene.web.work_seconds[PAGE] = 0.5
        await scene.register_interest(VLLM)
        await scene.pass_time(60)
        times = scene.web.times(PAGE)[1:]
        assert {round(later - earlier) for earlier, later in itertools.pairwise(times)} == {6}
        attempt = scene.history(VLLM).attempt
        assert attempt is not None
        assert attempt.remarks == ("asked less often: its page takes 500 ms to read, and its interval is 2 s",)
        scene.web.work_seconds[PAGE] = 0.1
        await scene.pass_time(10)
        attempt = scene.history(VLLM).attempt
        assert attempt is not None
        assert attempt.remarks == ()


@scenario
async def test_the_pause_after_a_costly_page_is_limited() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        scene.web.work_seconds[PAGE] = 100.0
        await scene.register_interest(VLLM)
        await scene.pass_time(300)
        times = scene.web.times(PAGE)[1:]
        assert {round(later - earlier) for earlier, later in itertools.pairwise(times)} == {MAX_PAUSE_SECONDS + 2}


def test_a_costly_page_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def read() -> None:
        async with Scene({PAGE: vllm()}) as scene:
            await scene.register_interest(VLLM)
            for seconds in (0.3, 0.1, 0.4):
                scene.web.work_seconds[PAGE] = seconds
                await scene.pass_time(20)

    with caplog.at_level(logging.INFO):
        run_in_virtual_time(read())
    assert [it.getMessage() for it in caplog.records] == [
        "http://10.1.2.3:8000/metrics: asked less often: its page takes 300 ms to read, and its interval is 2 s"
    ]


@scenario
async def test_a_refused_page_that_costs_much_is_asked_less_often() -> None:
    async with Scene() as scene:
        clock: Any = scene.loop

        class CostlyPage(bytes):
            def rfind(self, *arguments: Any) -> int:
                clock.now += 1.0
                return super().rfind(*arguments)

        scene.web.pages[PAGE] = CostlyPage(b"vllm:num_requests_running {\n")
        url = Endpoint(url=f"http://{PAGE}")
        assert (await scene.register_interest(url)).targets[0].failure
        began = len(scene.web.fetched)
        await scene.pass_time(120)
        assert len(scene.web.fetched) - began <= 12


# ---- the turns of costly pages ----


class FollowingReader(CostlyReader):
    """A reader that reads everything as expected, until a piece begins with an exclamation mark."""

    def follow(self, piece: bytes) -> bool:
        if piece.startswith(b"!"):
            return False
        self.feed(piece)
        return True


def test_a_page_that_is_as_expected_is_read_in_large_pieces() -> None:
    async def feed() -> None:
        reader = FollowingReader(ManualClock(), 0.0)
        fed = PageFeed(reader, ReadingTurns(ManualClock()))
        await fed.feed(b"x" * 2 * FOLLOWED_BYTES)
        await fed.feed(b"!" + b"x" * (2 * PIECE_BYTES - 1))
        await fed.feed(b"x" * 2 * PIECE_BYTES)
        await fed.finish()
        assert [len(piece) for piece in reader.pieces] == [FOLLOWED_BYTES] * 2 + [PIECE_BYTES] * 4

    run_in_virtual_time(feed())


def test_a_costly_page_pauses_between_its_turns_and_does_not_delay_other_pages() -> None:
    async def feed() -> None:
        clock = ManualClock()
        turns = ReadingTurns(clock)
        work = PageWork(is_costly=True)
        costly = PageFeed(CostlyReader(clock, 0.002), turns, work)
        began = asyncio.get_running_loop().time()
        reading = asyncio.create_task(costly.feed(b"x" * 10 * PIECE_BYTES))
        await asyncio.sleep(0)
        usual = PageFeed(CostlyReader(clock, 0.0001), turns)
        await usual.feed(b"x" * 4 * PIECE_BYTES)
        assert asyncio.get_running_loop().time() == began  # the loop waited for nothing
        await reading
        assert work.seconds == pytest.approx(10 * 0.002)
        paused = asyncio.get_running_loop().time() - began
        assert paused == pytest.approx(3 * work.seconds, abs=0.003)  # a quarter of the time is work

    run_in_virtual_time(feed())


def test_a_costly_page_is_read_in_pieces_of_about_a_turn() -> None:
    async def feed() -> None:
        clock = ManualClock()
        reader = CostlyReader(clock, 0.002)
        fed = PageFeed(reader, ReadingTurns(clock), PageWork(is_costly=True))
        await fed.feed(b"x" * 10 * PIECE_BYTES)
        assert max(map(len, reader.pieces[1:])) == PIECE_BYTES // 2  # which take 1 ms, as a turn does
        reader.seconds_per_byte /= 100
        await fed.feed(b"x" * 10 * PIECE_BYTES)
        assert len(reader.pieces[-1]) == PIECE_BYTES

    run_in_virtual_time(feed())


@pytest.mark.parametrize(
    ("is_costly", "most"),
    [
        pytest.param(True, 1, id="costly pages, of which one at a time is at its end"),
        pytest.param(False, 20, id="usual pages, which do not wait for one another"),
    ],
)
def test_the_ends_of_costly_pages_follow_one_another(is_costly: bool, most: int) -> None:
    ending: set[object] = set()
    counts: list[int] = []

    class EndingReader(Collector):
        def end(self) -> Iterator[None]:
            ending.add(self)
            for _ in range(5):
                counts.append(len(ending))
                clock.advance(2 * TURN_SECONDS)
                yield
            ending.remove(self)

    clock = ManualClock()

    async def feed() -> None:
        turns = ReadingTurns(clock)
        pages = [PageFeed(EndingReader(), turns, PageWork(is_costly=is_costly)) for _ in range(20)]
        await asyncio.gather(*(page.finish() for page in pages))
        assert max(counts) == most

    run_in_virtual_time(feed())


def test_a_page_becomes_costly_while_it_is_read() -> None:
    async def feed() -> None:
        clock = ManualClock()
        work = PageWork()
        fed = PageFeed(CostlyReader(clock, COSTLY_SECONDS / 5), ReadingTurns(clock), work)
        await fed.feed(b"x" * 4 * PIECE_BYTES)
        assert not work.is_costly
        await fed.feed(b"x" * 2 * PIECE_BYTES)
        assert work.is_costly

    run_in_virtual_time(feed())


def test_the_steps_at_the_end_of_a_page_have_turns_too() -> None:
    class SteppingReader(Collector):
        def end(self) -> Iterator[None]:
            for _ in range(10):
                clock.advance(0.0007)
                yield

    clock = ManualClock()

    async def feed() -> None:
        fed = PageFeed(SteppingReader(), ReadingTurns(clock))
        assert await turns_of_others(fed.finish()) == 3
        assert fed.work_seconds == pytest.approx(0.007)

    run_in_virtual_time(feed())


class MeasuredReader(CostlyReader):
    """A costly reader that keeps the time at which its page ended."""

    ended_at_seconds = 0.0

    def end(self) -> Iterator[None]:
        self.ended_at_seconds = asyncio.get_running_loop().time()
        return iter(())


@pytest.mark.parametrize(
    ("is_costly", "is_read"),
    [
        pytest.param(True, True, id="a page that is known to be costly"),
        pytest.param(False, False, id="a page that becomes costly, of which there may be many at once"),
    ],
)
def test_the_timeout_does_not_pass_while_a_page_waits_for_its_turns(is_costly: bool, is_read: bool) -> None:
    async def feed() -> None:
        clock = ManualClock()
        turns = ReadingTurns(clock)

        async def read() -> MeasuredReader:
            work, reader = PageWork(is_costly=is_costly), MeasuredReader(clock, 0.02)
            async with asyncio.timeout(1) as work.timeout:
                page = PageFeed(reader, turns, work)
                for _ in range(5):
                    await page.feed(b"x" * 5 * PIECE_BYTES)
                await page.finish()
            assert work.own_seconds() == pytest.approx(reader.ended_at_seconds - began + work.seconds, abs=0.1)
            return reader

        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(*(read() for _ in range(4)), return_exceptions=True)
        assert [isinstance(result, MeasuredReader) for result in results] == [is_read] * 4
        assert is_read == any(isinstance(it, MeasuredReader) and it.ended_at_seconds > began + 2 for it in results)

    run_in_virtual_time(feed())


def test_the_timeout_passes_while_the_server_of_a_costly_page_sends_nothing() -> None:
    waited_seconds = 0.0

    async def read() -> None:
        nonlocal waited_seconds
        clock = ManualClock()
        work = PageWork(is_costly=True)
        page = PageFeed(CostlyReader(clock, 0.02), ReadingTurns(clock), work)
        async with asyncio.timeout(5) as work.timeout:
            await page.feed(b"x" * 5 * PIECE_BYTES)
            waited_seconds = work.own_seconds() - work.seconds
            await asyncio.sleep(60)

    async def time_out() -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await read()
        assert waited_seconds > 0
        assert asyncio.get_running_loop().time() == pytest.approx(began + waited_seconds + 5)

    run_in_virtual_time(time_out())
