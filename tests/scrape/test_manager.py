# SPDX-License-Identifier: Apache-2.0
"""Tests of the lifetime of endpoints, of counters and logs, and of real connections."""

import asyncio
import logging
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.instance_status import ScrapeCounts
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.types import PodRef
from keda_gpu_scaler.scrape import manager as manager_module
from keda_gpu_scaler.scrape.address_policy import AddressPolicy
from keda_gpu_scaler.scrape.credentials import Credentials
from keda_gpu_scaler.scrape.http_client import HttpClient
from keda_gpu_scaler.scrape.manager import IDLE_TIMEOUT_SECONDS, ScrapeManager
from keda_gpu_scaler.scrape.port_search import LOST_AFTER_SECONDS
from tests.limits import WAIT_SECONDS
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
from tests.scrape.web import NO_ANSWER, TEXT, vllm

# ---- lifetime ----


@scenario
async def test_an_endpoint_without_interest_is_released() -> None:
    other = replace(POD, address="10.1.2.4")
    async with Scene({PAGE: vllm(), "10.1.2.4:8000/metrics": vllm()}) as scene:
        await scene.register_interest(POD, other)
        await scene.expire_for(IDLE_TIMEOUT_SECONDS - 5, other)
        assert POD in scene.manager.scrape_results()
        await scene.expire_for(20, other)
        assert set(scene.manager.scrape_results()) == {other}
        scene.web.fetched.clear()
        await scene.pass_time(20)
        assert set(scene.web.urls) == {"10.1.2.4:8000/metrics"}
        assert scene.web.expired > 0


@scenario
async def test_an_endpoint_is_released_during_a_slow_scrape_or_search() -> None:
    slow = replace(POD, address="10.1.2.4")
    async with Scene({"10.1.2.4:8000/metrics": vllm()}) as scene:
        scene.web.seconds["10.1.2.4:8000/metrics"] = 400.0
        scene.web.names["router.ai.svc"] = NO_ANSWER
        for endpoint in (POD, slow, EVERY_ADDRESS):
            scene.manager.register_interest(endpoint, window_seconds=10)
        waiting = asyncio.create_task(scene.manager.wait_for_sync([slow]))
        await scene.expire_for(IDLE_TIMEOUT_SECONDS + 10)
        await waiting
        assert dict(scene.manager.scrape_results()) == {}
        await scene.pass_time(200)
        fetch_count = len(scene.web.fetched)
        resolved = len(scene.web.resolved)
        await scene.pass_time(600)
        assert (len(scene.web.fetched), len(scene.web.resolved)) == (fetch_count, resolved)
        assert scene.manager._loops == {}


@scenario
async def test_a_target_that_is_needed_again_during_a_scrape_has_one_scrape_at_a_time() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        scene.web.seconds[PAGE] = 400.0
        scene.manager.register_interest(POD, window_seconds=10)
        await scene.expire_for(IDLE_TIMEOUT_SECONDS + 10)
        await scene.register_interest(POD)
        assert scene.web.most_running == 1


@scenario
async def test_an_endpoint_above_the_limit_is_refused_and_accepted_later() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manager_module, "MAX_ENDPOINTS", 1)
        other = replace(POD, address="10.1.2.4")
        async with Scene({PAGE: vllm(), "10.1.2.4:8000/metrics": vllm()}) as scene:
            await scene.register_interest(POD)
            result = await scene.register_interest(other)
            assert result == ScrapeResult(failure="1 endpoints are scraped, which is the limit of one instance")
            await scene.expire_for(IDLE_TIMEOUT_SECONDS + 10)
            assert (await scene.register_interest(other)).failure is None


@scenario
async def test_a_closed_manager_scrapes_nothing_and_ends_all_waits() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        scene.web.seconds[PAGE] = 100.0
        scene.manager.register_interest(POD, window_seconds=10)
        waiting = asyncio.create_task(scene.manager.wait_for_sync([POD]))
        await scene.pass_time(1)
        await scene.manager.close()
        await waiting
        assert scene.web.is_closed
        scene.manager.register_interest(replace(POD, address="10.1.2.4"), window_seconds=10)
        await scene.pass_time(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert scene.web.urls == [PAGE]


@scenario
async def test_a_manager_that_was_closed_before_its_first_scrape_stays_closed() -> None:
    async with Scene({PAGE: vllm()}) as scene:
        await scene.manager.close()
        scene.manager.register_interest(POD, window_seconds=10)
        await scene.pass_time(1)
        assert scene.web.fetched == []


# ---- counters and logs ----


@scenario
async def test_scrapes_are_counted_by_engine() -> None:
    async with Scene({PAGE: vllm(), **depths(_1=1)}) as scene:
        scene.web.names["router.ai.svc"] = addresses(1, 2)
        await scene.register_interest(POD)
        await scene.register_interest(EVERY_ADDRESS, series=DEPTH.text, demand=True)
        assert scene.manager.counts() == {"vllm": ScrapeCounts(1, 0), "demand": ScrapeCounts(2, 1)}
        scene.web.pages[PAGE] = NO_ANSWER
        await scene.pass_time(20)
        counts = scene.manager.counts()
        assert counts["vllm"].scrapes - counts["vllm"].failures == 1
        await scene.register_interest(replace(POD, address="10.1.2.4", engine="vllm"))
        assert scene.manager.counts()[""] == ScrapeCounts(1, 1)


def test_the_begin_and_the_end_of_failures_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        async with Scene({PAGE: NO_ANSWER}) as scene:
            endpoint = replace(POD, engine="vllm", ports=(8000,))
            await scene.register_interest(endpoint)
            await scene.pass_time(60)
            scene.web.pages[PAGE] = vllm()
            await scene.pass_time(60)
            scene.web.pages[PAGE] = NO_ANSWER
            await scene.pass_time(60)

    with caplog.at_level(logging.INFO):
        run_in_virtual_time(fail())
    no_answer = "http://10.1.2.3:8000/metrics: no answer within 2 s"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "pod ai/llama-0: no engine is found: port 8000/metrics: no answer within 2 s"),
        ("INFO", "pod ai/llama-0: it answers again"),
        ("WARNING", f"pod ai/llama-0: {no_answer}"),
    ]


def test_a_pod_without_an_engine_is_logged_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def search() -> None:
        async with Scene() as scene:
            await scene.register_interest(POD)
            await scene.pass_time(300)

    with caplog.at_level(logging.INFO):
        run_in_virtual_time(search())
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_defect_is_logged_once_and_does_not_end_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bytes:
        raise RuntimeError("oops")

    async def run_broken() -> None:
        async with Scene({PAGE: broken}) as scene:
            await scene.register_interest(replace(POD, ports=(8000,), path="/metrics"))
            await scene.pass_time(2 * LOST_AFTER_SECONDS)
            scene.web.pages[PAGE] = vllm()
            await scene.pass_time(LOST_AFTER_SECONDS)
            assert scene.history(replace(POD, ports=(8000,), path="/metrics")).failure is None

    run_in_virtual_time(run_broken())
    assert [record.message for record in caplog.records if record.exc_info] == ["http://10.1.2.3:8000/metrics"]


# ---- real connections ----


class LoopbackEngine:
    """An engine on loopback."""

    def __init__(self) -> None:
        self.page = vllm(waiting=3)
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end_of_head = b"\r\n\r\n"
        try:
            while (await reader.readuntil(end_of_head)).startswith(b"GET /metrics "):
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {TEXT}\r\nContent-Length: {len(self.page)}\r\n\r\n"
                writer.write(head.encode() + self.page)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def __aenter__(self) -> "LoopbackEngine":
        self._server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


def test_an_engine_on_loopback_is_scraped_over_real_connections() -> None:
    async def scrape() -> None:
        async with LoopbackEngine() as served:
            news = asyncio.Event()
            manager = ScrapeManager(
                HttpClient(AddressPolicy("127.0.0.0/8"), Credentials()), interval_seconds=0.02, on_news=news.set
            )
            pod = Endpoint(PodRef("ai", "llama-0"), "127.0.0.1", ports=(served.port,))
            url = Endpoint(url=f"http://127.0.0.1:{served.port}/metrics")
            for endpoint in (pod, url):
                manager.register_interest(endpoint, window_seconds=10.0)
            async with asyncio.timeout(WAIT_SECONDS):
                await manager.wait_for_sync([pod, url])
                served.page = vllm(waiting=4)
                waiting: list[float | None] = []
                while waiting != [4, 4]:
                    await news.wait()
                    news.clear()
                    results = [manager.scrape_results()[endpoint] for endpoint in (pod, url)]
                    waiting = [page.newest.waiting for it in results for page in it.targets if page.newest]
            await manager.close()

    asyncio.run(scrape())
