# SPDX-License-Identifier: Apache-2.0
"""What a collection makes of lists and watches, word by word, where a whole API server would be too well-behaved."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from keda_gpu_scaler.core.counters import WatchState
from keda_gpu_scaler.core.types import Unavailable
from keda_gpu_scaler.kube import client as api_module
from keda_gpu_scaler.kube import reflector as collection_module
from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.kube.client import ApiClient, ApiError, WatchSilentError
from keda_gpu_scaler.kube.parse import labels
from keda_gpu_scaler.kube.reflector import BELIEVED_SECONDS, Reflector, ResourceQuery
from tests.fakes import ManualClock

PODS = ResourceQuery("pods", namespace="ai", labels="app=llama")


def named(name: str, version: str = "8") -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": version}}


def page(*names: str, version: str = "7", more: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": version, "continue": more}, "items": [named(name) for name in names]}


class Script:
    """An API server that answers every list with the next page, and every watch with what the test says."""

    def __init__(self, *pages: dict[str, Any] | ApiError) -> None:
        self.pages = list(pages)
        self.queries: list[Mapping[str, str]] = []
        self.watches: list[str] = []
        self.opening = asyncio.Event()
        self.opening.set()
        self.words: asyncio.Queue[dict[str, Any] | ApiError | None] = asyncio.Queue()

    async def get(self, path: str, query: Mapping[str, str], accept: str = "") -> dict[str, Any]:
        self.queries.append(dict(query))
        found = self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]
        if isinstance(found, ApiError):
            raise found
        return found

    @asynccontextmanager
    async def watch(
        self, path: str, query: Mapping[str, str], accept: str = ""
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        self.watches.append(query["resourceVersion"])
        await self.opening.wait()
        yield self._words()

    async def _words(self) -> AsyncIterator[dict[str, Any]]:
        while (word := await self.words.get()) is not None:
            if isinstance(word, ApiError):
                raise word
            yield word


class Kept:
    """A collection of what a script tells, and its news."""

    def __init__(self, script: Script) -> None:
        self.clock = ManualClock()
        self.news = asyncio.Event()
        self.pauses: list[float] = []
        self.told = 0
        self.collection = Reflector(script, PODS, labels, self.clock, self._tell)  # type: ignore[arg-type]

    def _tell(self) -> None:
        self.told += 1
        self.news.set()

    def unavailable(self) -> Unavailable | None:
        return self.collection.unavailable(self.clock())

    async def until(self, wanted: Callable[[], object]) -> None:
        while not wanted():
            await asyncio.sleep(0)


def keeping(
    monkeypatch: pytest.MonkeyPatch,
    talk: Callable[[Kept, Script], Awaitable[None]],
    *pages: dict[str, Any] | ApiError,
) -> None:
    async def run() -> None:
        script = Script(*(pages or (page("llama-0"),)))
        kept = Kept(script)

        def unhurried(seconds: float) -> float:
            kept.pauses.append(seconds)
            return 0.0

        monkeypatch.setattr(collection_module, "_jittered", unhurried)
        task = asyncio.create_task(kept.collection.run())
        try:
            async with asyncio.timeout(20):
                await talk(kept, script)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_a_watch_is_pending_open_interrupted_and_then_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(kept: Kept, script: Script) -> None:
        assert kept.collection.state(kept.clock()) is WatchState.PENDING
        await kept.until(lambda: kept.collection.state(kept.clock()) is WatchState.WATCHING)
        script.opening.clear()
        script.words.put_nowait(ApiError("the connection broke"))
        await kept.until(lambda: len(script.watches) == 2)
        assert kept.collection.state(kept.clock()) is WatchState.INTERRUPTED
        kept.clock.advance(BELIEVED_SECONDS + 1)
        assert kept.collection.state(kept.clock()) is WatchState.UNKNOWN
        script.opening.set()
        await kept.until(lambda: kept.collection.state(kept.clock()) is WatchState.WATCHING)

    keeping(monkeypatch, talk)


def test_what_may_not_be_listed_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(kept: Kept, script: Script) -> None:
        await kept.until(lambda: kept.collection.state(kept.clock()) is WatchState.UNKNOWN)

    keeping(monkeypatch, talk, ApiError("forbidden", 403))


def test_silence_counts_from_the_last_word_and_not_from_when_it_was_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(kept: Kept, script: Script) -> None:
        await kept.until(lambda: script.watches and kept.unavailable() is None)
        script.opening.clear()
        kept.clock.advance(90)
        script.words.put_nowait(WatchSilentError("the API server said nothing for 90 s"))
        await kept.until(lambda: len(script.watches) == 2)
        unavailable = kept.unavailable()
        assert unavailable is not None
        assert not unavailable.is_permanent
        assert unavailable.reason == (
            'pods in namespace "ai": the API server last answered 90 s ago (limit 60 s): '
            "the API server said nothing for 90 s"
        )

    keeping(monkeypatch, talk)


def test_a_connection_that_broke_was_alive_until_then(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(kept: Kept, script: Script) -> None:
        await kept.until(lambda: script.watches and kept.unavailable() is None)
        script.opening.clear()
        kept.clock.advance(90)
        script.words.put_nowait(ApiError("the connection broke"))
        await kept.until(lambda: len(script.watches) == 2)
        assert kept.unavailable() is None
        kept.clock.advance(BELIEVED_SECONDS + 1)
        assert kept.unavailable() is not None

    keeping(monkeypatch, talk)


def test_whoever_was_told_that_it_is_too_old_is_told_when_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(kept: Kept, script: Script) -> None:
        await kept.until(lambda: script.watches and kept.unavailable() is None)
        script.opening.clear()
        kept.clock.advance(5)
        script.words.put_nowait({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}})
        script.words.put_nowait(None)  # it ends as it should, but the next one hangs
        await kept.until(lambda: len(script.watches) == 2)
        kept.clock.advance(BELIEVED_SECONDS + 1)
        assert kept.unavailable() is not None
        kept.news.clear()
        script.opening.set()
        await kept.until(lambda: kept.unavailable() is None)
        assert kept.news.is_set()

    keeping(monkeypatch, talk)


def test_a_list_whose_next_page_is_gone_is_read_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ApiError("the API server answers 410: too old", 410)

    async def talk(kept: Kept, script: Script) -> None:
        await kept.until(lambda: script.watches)
        assert [sorted(query) for query in script.queries] == [
            ["labelSelector", "limit"],
            ["continue", "labelSelector", "limit"],
            ["labelSelector"],
        ]
        assert set(kept.collection.items) == {"b", "c"}
        assert kept.pauses == []
        assert kept.told == 1  # that it can be relied on, and nothing about the page that was gone

    keeping(monkeypatch, talk, page("a", "b", more="next"), gone, page("b", "c"))


def test_a_server_that_forgets_at_once_is_not_asked_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(kept: Kept, script: Script) -> None:
        for _ in range(4):
            script.words.put_nowait({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
        await kept.until(lambda: len(script.watches) == 5)
        assert kept.pauses == [0.5, 1.0, 2.0, 4.0]
        assert kept.unavailable() is None
        assert kept.told == 1

    keeping(monkeypatch, talk)


def test_a_version_that_is_gone_is_listed_again_at_once_and_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(kept: Kept, script: Script) -> None:
        script.words.put_nowait({"type": "ADDED", "object": named("llama-1")})
        script.words.put_nowait({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
        await kept.until(lambda: len(script.watches) == 2)
        assert (len(script.queries), kept.pauses) == (2, [])
        assert kept.told == 3  # that it can be relied on, the pod that came, and that the list has it no more

    keeping(monkeypatch, talk)


def test_a_list_that_is_gone_from_its_first_page_on_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(kept: Kept, script: Script) -> None:
        await kept.until(lambda: len(script.queries) == 3)
        unavailable = kept.unavailable()
        assert unavailable is not None
        assert "the API server answers 410" in unavailable.reason
        assert kept.pauses[:2] == [0.5, 1.0]

    keeping(monkeypatch, talk, ApiError("the API server answers 410: too old", 410))


def test_nobody_comes_back_before_the_server_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def unhurried(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    async def talk(kept: Kept, script: Script) -> None:
        monkeypatch.setattr(asyncio, "sleep", unhurried)
        await kept.until(lambda: script.watches)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        assert max(waits) == 7.0

    keeping(monkeypatch, talk, ApiError("the API server answers 429", 429, 7.0), page("llama-0"))


def test_pauses_begin_anew_after_a_watch_that_was_of_use_however_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(kept: Kept, script: Script) -> None:
        for number in range(4):
            script.words.put_nowait({"type": "ADDED", "object": named(f"llama-{number}")})
            script.words.put_nowait(ApiError("the connection broke"))
        await kept.until(lambda: len(script.watches) == 5)
        assert kept.pauses == [0.5] * 4

    keeping(monkeypatch, talk)


def test_a_token_that_cannot_be_read_is_said_once_and_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(collection_module, "_jittered", lambda seconds: 0.0)
    missing = tmp_path / "token"
    sentence = f'pods in namespace "ai": cannot read {missing}: No such file or directory'

    async def run() -> None:
        reads: list[Path] = []
        access = ClientConfig("http://127.0.0.1:9", "ai", token_file=missing)
        whole = ClientConfig.authorization

        def counted(self: ClientConfig) -> dict[str, str]:
            reads.append(missing)
            return whole(self)

        monkeypatch.setattr(ClientConfig, "authorization", counted)
        api = ApiClient(access)
        collection = Reflector(api, PODS, labels, ManualClock(), lambda: None)
        task = asyncio.create_task(collection.run())
        async with asyncio.timeout(20):
            while len(reads) < 3:
                await asyncio.sleep(0)
        unavailable = collection.unavailable(0.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()
        assert unavailable == Unavailable(sentence, is_permanent=False)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [(sentence, None)]


@asynccontextmanager
async def saying(words: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[ApiClient]:
    """A client of a server that says this and no more, until the client has enough."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await words(writer)
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    api = ApiClient(ClientConfig(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "ai"))
    async with asyncio.timeout(20):
        try:
            yield api
        finally:
            await api.close()
            await ended.wait()
            server.close()


def test_a_watch_on_which_nothing_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "SILENCE_SECONDS", 0.1)

    async def greet(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async def run() -> None:
        async with saying(greet) as api, api.watch("/watch", {}) as events:
            with pytest.raises(WatchSilentError, match=r"^the API server said nothing for 0\.1 s$"):
                await anext(events)

    asyncio.run(run())


def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "ANSWER_SECONDS", 0.1)

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0)

    async def run() -> None:
        async with saying(drip) as api:
            with pytest.raises(ApiError, match=r"^the API server .* does not answer: not within 0\.1 s$"):
                await api.get("/version")

    asyncio.run(run())
