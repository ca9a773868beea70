# SPDX-License-Identifier: Apache-2.0
"""Tests of fetches of costly pages in virtual time: their own waits are not the time of their servers."""

import asyncio
from collections.abc import Callable

import pytest

from keda_gpu_scaler.scrape import tcp_stream
from keda_gpu_scaler.scrape.page_feed import PIECE_BYTES
from keda_gpu_scaler.scrape.types import FetchedPage, FetchError
from tests.scrape.clients import Collector, http_client, target
from tests.scrape.scene import scenario
from tests.scrape.virtual_time import VirtualTimeLoop

ANSWER_SECONDS = 0.3
TIMEOUT_SECONDS = 5.0
BODY = b"x" * 40 * PIECE_BYTES


class MemoryStream:
    """A connection to a server that sends its page after ``ANSWER_SECONDS``."""

    def __init__(self, address: str, port: int) -> None:
        self.peer = (address, port)
        self._unsent = b""

    def write(self, _: bytes) -> None:
        self._unsent = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)

    async def read(self, limit_bytes: int) -> bytes:
        if self._unsent.startswith(b"HTTP"):
            await asyncio.sleep(ANSWER_SECONDS)
        part, self._unsent = self._unsent[:limit_bytes], self._unsent[limit_bytes:]
        return part

    def abort(self) -> None:
        pass


class Fetching:
    """A client, and readers that take a time for each byte."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, work_seconds: float) -> None:
        async def connect(address: str, port: int) -> MemoryStream:
            return MemoryStream(address, port)

        monkeypatch.setattr(tcp_stream, "connect", connect)
        self._seconds_per_byte = work_seconds / len(BODY)
        self._client = http_client(timeout_seconds=TIMEOUT_SECONDS, clock=asyncio.get_running_loop().time)

    async def fetch(self, number: int, *, share: float = 1.0) -> FetchedPage:
        """Fetch a page of which a share of the work is needed."""

        def work(size_bytes: int) -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualTimeLoop)
            loop.now += share * size_bytes * self._seconds_per_byte

        return await self._client.fetch(target(8000, address=f"127.0.0.{number + 1}"), lambda _: _TimedReader(work))


class _TimedReader(Collector):
    def __init__(self, work: Callable[[int], None]) -> None:
        super().__init__()
        self._work = work

    def feed(self, piece: bytes) -> None:
        super().feed(piece)
        self._work(len(piece))


def test_costly_pages_that_are_read_beside_one_another_are_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    @scenario
    async def test() -> None:
        fetching = Fetching(monkeypatch, work_seconds=0.5)  # 8 pages take 16 s, at a quarter of the time
        first = await asyncio.gather(*(fetching.fetch(number) for number in range(8)), return_exceptions=True)
        reasons = {str(it) for it in first if isinstance(it, FetchError)}
        assert reasons == {
            "the page takes longer than 5 s to read, beside other large pages; it gets more time in the next scrape"
        }
        pages = await asyncio.gather(*(fetching.fetch(number) for number in range(8)))
        assert [page.work_seconds for page in pages] == [pytest.approx(0.5)] * 8
        assert [page.answer_seconds for page in pages] == [pytest.approx(ANSWER_SECONDS, abs=0.1)] * 8

    test()


def test_a_costly_page_waits_for_no_slot_of_the_pages_that_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    @scenario
    async def test() -> None:
        fetching, loop = Fetching(monkeypatch, work_seconds=0.5), asyncio.get_running_loop()
        for number in range(9):
            await fetching.fetch(number, share=0.04 if number == 8 else 1.0)
        began_at_seconds = loop.time()
        long = [asyncio.create_task(fetching.fetch(number)) for number in range(8)]
        await asyncio.sleep(ANSWER_SECONDS)
        page = await fetching.fetch(8, share=0.04)
        assert page.work_seconds == pytest.approx(0.02)
        assert loop.time() - began_at_seconds < 2.0
        assert not any(one.done() for one in long)
        await asyncio.gather(*long)

    test()


def test_a_page_that_takes_longer_than_before_waits_at_its_own_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    @scenario
    async def test() -> None:
        fetching = Fetching(monkeypatch, work_seconds=0.5)
        for number in range(8):
            await fetching.fetch(number, share=0.04)
        again = await asyncio.gather(*(fetching.fetch(number) for number in range(8)), return_exceptions=True)
        assert any(isinstance(it, FetchError) and "beside other large pages" in str(it) for it in again)
        pages = await asyncio.gather(*(fetching.fetch(number) for number in range(8)))
        assert [page.work_seconds for page in pages] == [pytest.approx(0.5)] * 8

    test()


def test_a_costly_page_is_not_said_to_be_answered_late(monkeypatch: pytest.MonkeyPatch) -> None:
    @scenario
    async def test() -> None:
        page = await Fetching(monkeypatch, work_seconds=1.0).fetch(0)
        assert page.answer_seconds == pytest.approx(ANSWER_SECONDS)
        assert page.work_seconds == pytest.approx(1.0)

    test()
