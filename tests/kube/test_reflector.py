# SPDX-License-Identifier: Apache-2.0
"""Tests of the reflector against scripted lists and watches, with rare faults of an API server."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from keda_gpu_scaler.core.instance_status import WatchState
from keda_gpu_scaler.core.types import Unavailable
from keda_gpu_scaler.kube import backoff as backoff_module
from keda_gpu_scaler.kube import client as client_module
from keda_gpu_scaler.kube import pager as pager_module
from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.kube.client import ApiClient, ApiError, WatchTimeoutError
from keda_gpu_scaler.kube.item_store import ItemStore
from keda_gpu_scaler.kube.pager import list_objects
from keda_gpu_scaler.kube.parse import labels
from keda_gpu_scaler.kube.reflector import TRUSTED_SECONDS, Reflector
from keda_gpu_scaler.kube.resource_query import ResourceQuery
from tests.fakes import ManualClock
from tests.limits import WAIT_SECONDS

PODS = ResourceQuery("pods", namespace="ai", labels="app=llama")


def named(name: str, version: str = "8") -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": version}}


def page(*names: str, version: str = "7", more: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": version, "continue": more}, "items": [named(name) for name in names]}


class Script:
    """An API server that answers a list with the next page, and a watch with the events that the test sends."""

    def __init__(self, *pages: dict[str, Any] | ApiError) -> None:
        self.pages = list(pages)
        self.queries: list[Mapping[str, str]] = []
        self.watches: list[str] = []
        self.opening = asyncio.Event()
        self.opening.set()
        self.events: asyncio.Queue[dict[str, Any] | ApiError | None] = asyncio.Queue()

    async def read_list(
        self, path: str, query: Mapping[str, str], accept: str, receive: Callable[[Mapping[str, Any]], object]
    ) -> Mapping[str, Any]:
        self.queries.append(dict(query))
        found = self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]
        if isinstance(found, ApiError):
            raise found
        for item in found["items"]:
            receive(item)
        metadata: Mapping[str, Any] = found["metadata"]
        return metadata

    @asynccontextmanager
    async def watch(
        self, path: str, query: Mapping[str, str], accept: str = "", *, seconds: int
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        self.watches.append(query["resourceVersion"])
        await self.opening.wait()
        yield self._events()

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        while (event := await self.events.get()) is not None:
            if isinstance(event, ApiError):
                raise event
            yield event


class Reflected:
    """A reflector of a script, and its changes."""

    def __init__(self, script: Script) -> None:
        self.clock = ManualClock()
        self.changed = asyncio.Event()
        self.pauses: list[float] = []
        self.changes = 0
        self.store = ItemStore(PODS, labels)
        self.reflector = Reflector(script, PODS, self.store, self.clock, self._count)  # type: ignore[arg-type]

    def _count(self) -> None:
        self.changes += 1
        self.changed.set()

    def unavailable(self) -> Unavailable | None:
        return self.reflector.unavailable(self.clock())

    async def until(self, wanted: Callable[[], object]) -> None:
        while not wanted():
            await asyncio.sleep(0)


def reflect(
    monkeypatch: pytest.MonkeyPatch,
    talk: Callable[[Reflected, Script], Awaitable[None]],
    *pages: dict[str, Any] | ApiError,
) -> None:
    async def run() -> None:
        script = Script(*(pages or (page("llama-0"),)))
        reflected = Reflected(script)

        def no_jitter(seconds: float) -> float:
            reflected.pauses.append(seconds)
            return 0.0

        monkeypatch.setattr(backoff_module, "jittered", no_jitter)
        task = asyncio.create_task(reflected.reflector.run())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await talk(reflected, script)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_a_watch_is_pending_then_watching_then_interrupted_then_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reflected: Reflected, script: Script) -> None:
        assert reflected.reflector.state(reflected.clock()) is WatchState.PENDING
        await reflected.until(lambda: reflected.reflector.state(reflected.clock()) is WatchState.WATCHING)
        script.opening.clear()
        script.events.put_nowait(ApiError("the connection broke"))
        await reflected.until(lambda: len(script.watches) == 2)
        assert reflected.reflector.state(reflected.clock()) is WatchState.INTERRUPTED
        reflected.clock.advance(TRUSTED_SECONDS + 1)
        assert reflected.reflector.state(reflected.clock()) is WatchState.UNKNOWN
        script.opening.set()
        await reflected.until(lambda: reflected.reflector.state(reflected.clock()) is WatchState.WATCHING)

    reflect(monkeypatch, talk)


def test_a_collection_that_rbac_forbids_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reflected: Reflected, script: Script) -> None:
        await reflected.until(lambda: reflected.reflector.state(reflected.clock()) is WatchState.UNKNOWN)

    reflect(monkeypatch, talk, ApiError("forbidden", 403))


def test_after_a_timeout_the_age_counts_from_the_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reflected: Reflected, script: Script) -> None:
        await reflected.until(lambda: script.watches and reflected.unavailable() is None)
        script.opening.clear()
        reflected.clock.advance(90)
        script.events.put_nowait(WatchTimeoutError("the API server sent nothing for 90 s"))
        await reflected.until(lambda: len(script.watches) == 2)
        unavailable = reflected.unavailable()
        assert unavailable is not None
        assert not unavailable.is_permanent
        assert unavailable.reason == (
            'pods in namespace "ai": the API server last answered 90 s ago (limit 60 s): '
            "the API server sent nothing for 90 s"
        )

    reflect(monkeypatch, talk)


def test_after_a_broken_connection_the_age_counts_from_the_break(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reflected: Reflected, script: Script) -> None:
        await reflected.until(lambda: script.watches and reflected.unavailable() is None)
        script.opening.clear()
        reflected.clock.advance(90)
        script.events.put_nowait(ApiError("the connection broke"))
        await reflected.until(lambda: len(script.watches) == 2)
        assert reflected.unavailable() is None
        reflected.clock.advance(TRUSTED_SECONDS + 1)
        assert reflected.unavailable() is not None

    reflect(monkeypatch, talk)


def test_a_change_is_reported_when_stale_items_are_trusted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reflected: Reflected, script: Script) -> None:
        await reflected.until(lambda: script.watches and reflected.unavailable() is None)
        script.opening.clear()
        reflected.clock.advance(5)
        script.events.put_nowait({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}})
        script.events.put_nowait(None)  # the watch ends normally, and the next one hangs
        await reflected.until(lambda: len(script.watches) == 2)
        reflected.clock.advance(TRUSTED_SECONDS + 1)
        assert reflected.unavailable() is not None
        reflected.changed.clear()
        script.opening.set()
        await reflected.until(lambda: reflected.unavailable() is None)
        assert reflected.changed.is_set()

    reflect(monkeypatch, talk)


def test_a_list_whose_next_page_is_gone_is_read_again_without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ApiError("the API server answers 410: too old", 410)

    async def talk(reflected: Reflected, script: Script) -> None:
        await reflected.until(lambda: script.watches)
        assert [sorted(query) for query in script.queries] == [
            ["labelSelector", "limit"],
            ["continue", "labelSelector", "limit"],
            ["labelSelector"],
        ]
        assert set(reflected.store.items) == {"b", "c"}
        assert reflected.pauses == []
        assert reflected.changes == 1  # the items are available; the page that is gone is no change

    reflect(monkeypatch, talk, page("a", "b", more="next"), gone, page("b", "c"))


def test_a_server_that_drops_every_version_at_once_is_called_with_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reflected: Reflected, script: Script) -> None:
        for _ in range(4):
            script.events.put_nowait({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
        await reflected.until(lambda: len(script.watches) == 5)
        assert reflected.pauses == [0.5, 1.0, 2.0, 4.0]
        assert reflected.unavailable() is None
        assert reflected.changes == 1

    reflect(monkeypatch, talk)


def test_a_version_that_is_gone_is_listed_again_and_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reflected: Reflected, script: Script) -> None:
        await reflected.until(lambda: script.watches and reflected.unavailable() is None)
        reflected.clock.advance(30)
        script.events.put_nowait({"type": "ADDED", "object": named("llama-1")})
        script.events.put_nowait({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
        await reflected.until(lambda: len(script.watches) == 2)
        assert (len(script.queries), reflected.pauses) == (2, [])
        assert reflected.changes == 3  # available, a pod is added, the new list has it no longer

    reflect(monkeypatch, talk)


def test_a_list_whose_first_page_is_gone_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reflected: Reflected, script: Script) -> None:
        await reflected.until(lambda: len(script.queries) == 3)
        unavailable = reflected.unavailable()
        assert unavailable is not None
        assert "the API server answers 410" in unavailable.reason
        assert reflected.pauses[:2] == [0.5, 1.0]

    reflect(monkeypatch, talk, ApiError("the API server answers 410: too old", 410))


def test_the_next_request_waits_for_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def recorded_sleep(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    async def talk(reflected: Reflected, script: Script) -> None:
        monkeypatch.setattr(asyncio, "sleep", recorded_sleep)
        await reflected.until(lambda: script.watches)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        assert max(waits) == 7.0

    reflect(monkeypatch, talk, ApiError("the API server answers 429", 429, 7.0), page("llama-0"))


def test_a_watch_that_ends_after_each_event_is_reopened_with_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def talk(reflected: Reflected, script: Script) -> None:
        for number in range(8):
            script.events.put_nowait({"type": "ADDED", "object": named(f"llama-{number}")})
            script.events.put_nowait(None)  # a normal end
        await reflected.until(lambda: len(script.watches) == 9)
        assert reflected.pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        assert reflected.unavailable() is None

    reflect(monkeypatch, talk)


@pytest.mark.parametrize(
    ("end", "pauses"),
    [
        pytest.param(None, [0.5, 0.5], id="a normal end, without a pause"),
        pytest.param(ApiError("the connection broke"), [0.5, 0.5, 1.0], id="an error"),
    ],
)
def test_the_backoff_is_reset_by_a_watch_that_lived_a_while_however_it_ended(
    monkeypatch: pytest.MonkeyPatch, end: ApiError | None, pauses: list[float]
) -> None:
    async def talk(reflected: Reflected, script: Script) -> None:
        script.events.put_nowait(None)
        await reflected.until(lambda: len(script.watches) == 2 and reflected.unavailable() is None)
        for _ in range(20):
            await asyncio.sleep(0)
        reflected.clock.advance(30)
        script.events.put_nowait(end)
        script.events.put_nowait(None)
        await reflected.until(lambda: len(script.watches) == 4)
        assert reflected.pauses == pauses

    reflect(monkeypatch, talk)


class QuietServer(Script):
    """An API server on which nothing happens: a watch ends after the requested time, or when the client gives up."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(page("llama-0"))
        self.clock = clock
        self.lives = True
        self.parameters: list[Mapping[str, str]] = []
        self.timeouts: list[int] = []
        self.go_on = asyncio.Semaphore(0)

    @asynccontextmanager
    async def watch(
        self, path: str, query: Mapping[str, str], accept: str = "", *, seconds: int
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        self.watches.append(query["resourceVersion"])
        self.parameters.append(dict(query))
        self.timeouts.append(seconds)
        if not self.lives:
            raise ApiError("the API server does not answer: connection refused")
        yield self._quiet(seconds)

    async def _quiet(self, seconds: int) -> AsyncIterator[dict[str, Any]]:
        await self.go_on.acquire()
        if self.lives:
            self.clock.advance(seconds)
            return
        self.clock.advance(seconds + client_module.WATCH_GRACE_SECONDS)
        raise WatchTimeoutError("the API server sent nothing")
        yield


def quiet(talk: Callable[[Reflected, QuietServer], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        server = QuietServer(ManualClock())
        reflected = Reflected(server)
        reflected.clock = server.clock
        reflected.reflector._clock = server.clock
        monkeypatch.setattr(backoff_module, "jittered", lambda seconds: 0.0)
        task = asyncio.create_task(reflected.reflector.run())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await reflected.until(lambda: server.watches and reflected.unavailable() is None)
                await talk(reflected, server)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_a_quiet_kind_is_watched_for_an_hour_without_a_list_a_failure_or_a_log_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Etcd reports its progress every ten minutes by default, so no bookmark comes before that."""

    async def talk(reflected: Reflected, server: QuietServer) -> None:
        started, changes = reflected.clock(), reflected.changes
        while reflected.clock() - started < 3600:
            opened = len(server.watches)
            server.go_on.release()
            while len(server.watches) == opened or reflected.reflector.state(0.0) is not WatchState.WATCHING:
                assert reflected.unavailable() is None
                await asyncio.sleep(0)
        assert len(server.queries) == 1
        assert set(server.watches) == {"7"}, "each goes on from the last version"
        assert reflected.changes == changes
        assert {one["allowWatchBookmarks"] for one in server.parameters} == {"true"}
        assert all(seconds + client_module.WATCH_GRACE_SECONDS < TRUSTED_SECONDS for seconds in server.timeouts)
        assert len(server.watches) < 3600 / 25

    with caplog.at_level(logging.INFO):
        quiet(talk, monkeypatch)
    assert caplog.records == []


def test_a_server_that_does_not_end_a_quiet_watch_is_unavailable_a_minute_after_its_last_sign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def talk(reflected: Reflected, server: QuietServer) -> None:
        opened_at = reflected.clock()
        server.lives = False
        server.go_on.release()
        await reflected.until(lambda: len(server.watches) > 3)
        assert reflected.unavailable() is None, "the last sign is younger than a minute"
        reflected.clock.now = opened_at + TRUSTED_SECONDS + 1
        unavailable = reflected.unavailable()
        assert unavailable is not None
        assert "connection refused" in unavailable.reason
        server.lives = True
        await reflected.until(lambda: reflected.unavailable() is None)

    quiet(talk, monkeypatch)


@pytest.mark.parametrize(
    ("tokens", "error", "requests"),
    [
        pytest.param(lambda number: "same", "the API server repeats a page of the list", 2, id="the same token"),
        pytest.param(
            lambda number: f"token-{number}",
            "the API server's list does not end after 400 pages",
            400,
            id="always a new token",
        ),
    ],
)
def test_a_list_without_an_end_is_read_with_pauses_and_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tokens: Callable[[int], str], error: str, requests: int
) -> None:
    pauses = 0

    async def counted() -> None:
        nonlocal pauses
        pauses += 1

    class Endless(Script):
        async def read_list(
            self, path: str, query: Mapping[str, str], accept: str, receive: Callable[[Mapping[str, Any]], object]
        ) -> Mapping[str, Any]:
            self.queries.append(dict(query))
            receive(named(f"llama-{len(self.queries)}"))
            return {"resourceVersion": "7", "continue": tokens(len(self.queries))}

    async def run() -> None:
        monkeypatch.setattr(pager_module, "_pause", counted)
        server = Endless()
        with pytest.raises(ApiError, match=error):
            await list_objects(server, PODS)  # type: ignore[arg-type]
        assert (len(server.queries), pauses) == (requests, requests - 1)

    asyncio.run(run())


def test_a_token_that_cannot_be_read_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(backoff_module, "jittered", lambda seconds: 0.0)
    missing = tmp_path / "token"
    sentence = f'pods in namespace "ai": cannot read {missing}: No such file or directory'

    async def run() -> None:
        reads: list[Path] = []
        config = ClientConfig("http://127.0.0.1:9", "ai", token_file=missing)
        original = ClientConfig.authorization

        def counted(self: ClientConfig) -> dict[str, str]:
            reads.append(missing)
            return original(self)

        monkeypatch.setattr(ClientConfig, "authorization", counted)
        api = ApiClient(config)
        reflector = Reflector(api, PODS, ItemStore(PODS, labels), ManualClock(), lambda: None)
        task = asyncio.create_task(reflector.run())
        async with asyncio.timeout(WAIT_SECONDS):
            while len(reads) < 3:
                await asyncio.sleep(0)
        unavailable = reflector.unavailable(0.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()
        assert unavailable == Unavailable(sentence, is_permanent=False)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [(sentence, None)]


@asynccontextmanager
async def serving(send: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[ApiClient]:
    """A client of a server that sends these bytes, and keeps the connection open until the client closes it."""
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(serve(reader, writer)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")  # a client whose limit is over may send none
            await send(writer)
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    api = ApiClient(ClientConfig(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "ai"))
    async with asyncio.timeout(WAIT_SECONDS):
        try:
            yield api
        finally:
            await api.close()
            server.close()
            await asyncio.gather(*connections)


class SilentStream(httpx.AsyncByteStream):
    """A response whose body does not come within the client's limit."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"type": "ADDED", "object": {}}\n'
        raise httpx.ReadTimeout("")


def test_a_watch_that_receives_nothing_is_closed() -> None:
    limits: list[float] = []

    def respond(request: httpx.Request) -> httpx.Response:
        limits.append(request.extensions["timeout"]["read"])
        return httpx.Response(200, stream=SilentStream())

    async def run() -> None:
        api = ApiClient(ClientConfig("http://api", "ai"))
        await api.close()
        api._http = httpx.AsyncClient(base_url="http://api", transport=httpx.MockTransport(respond))
        async with api.watch("/watch", {}, seconds=290) as events:
            assert await anext(events) == {"type": "ADDED", "object": {}}
            limit = 290 + client_module.WATCH_GRACE_SECONDS
            with pytest.raises(WatchTimeoutError, match=rf"^the API server sent nothing for {limit:g} s$"):
                await anext(events)
        assert limits == [limit]
        await api.close()

    asyncio.run(run())


def test_a_response_that_comes_byte_by_byte_is_cancelled_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RESPONSE_TIMEOUT_SECONDS", 0.1)

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0)

    async def run() -> None:
        async with serving(drip) as api:
            with pytest.raises(ApiError, match=r"^the API server .* does not answer: not within 0\.1 s$"):
                await api.get("/version")

    asyncio.run(run())


def test_objects_of_all_namespaces_have_keys_with_their_namespace_and_what_is_not_kept_is_left_out() -> None:
    def item(name: str, namespace: str, label: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "namespace": namespace, "labels": {"keep": label}}}

    async def run() -> None:
        listed = {
            "metadata": {"resourceVersion": "7"},
            "items": [item("a", "x", "1"), item("a", "y", "2"), item("b", "y", "")],
        }
        script = Script(listed)
        query = ResourceQuery("pods")
        store = ItemStore(query, lambda one: labels(one)["keep"] or None)
        reflector = Reflector(script, query, store, ManualClock(), lambda: None)  # type: ignore[arg-type]
        task = asyncio.create_task(reflector.run())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not store.items:
                    await asyncio.sleep(0)
                assert store.items == {"x/a": "1", "y/a": "2"}
                script.events.put_nowait({"type": "MODIFIED", "object": item("a", "y", "")})
                script.events.put_nowait({"type": "MODIFIED", "object": item("b", "y", "3")})
                while "y/b" not in store.items:
                    await asyncio.sleep(0)
                assert store.items == {"x/a": "1", "y/b": "3"}
                script.events.put_nowait({"type": "DELETED", "object": item("b", "y", "3")})
                while "y/b" in store.items:
                    await asyncio.sleep(0)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
