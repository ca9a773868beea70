# SPDX-License-Identifier: Apache-2.0
"""Replays the recordings of a vLLM under rising load and checks its saturation.

The recordings are of one replica that serves Llama-3.3-70B to a fixed number of clients; ``tp2_bs128`` and ``tp4_bs64``
run fewer requests than there are clients.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from keda_gpu_scaler.core.evaluate.engine_load import engine_load
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS
from keda_gpu_scaler.core.types import PodRef
from keda_gpu_scaler.engines import scrape_parser
from keda_gpu_scaler.scrape.address_policy import AddressPolicy
from keda_gpu_scaler.scrape.credentials import Credentials
from keda_gpu_scaler.scrape.http_client import HttpClient
from keda_gpu_scaler.scrape.manager import ScrapeManager
from tests.fakes import ManualClock
from tests.limits import WAIT_SECONDS
from tests.scrape.playing import CONTENT_TYPE, SWEEP, ReplayedVllm, Second, recorded

pytestmark = pytest.mark.skipif(not SWEEP.is_dir(), reason=f"there are no recordings of vLLM at {SWEEP}")

SATURATION = ENGINE_METRICS["saturation"]
WINDOW_SECONDS = 10.0
BURST_SECONDS = 30.0  # all clients begin together, and some wait for their first prefill


@dataclass(frozen=True, slots=True)
class Replayed:
    """The saturation in one second, with the recorded readings."""

    second: Second
    saturation: float


def replay(seconds: list[Second], *, until: float = 1e9, **query: float) -> Iterator[Replayed]:
    """Parse the page of each second and compute the saturation from the window of samples up to it."""
    samples: tuple[object, ...] = ()
    for second in seconds:
        if second.at_seconds > until:
            return
        newest = scrape_parser.parse_page(second.page, CONTENT_TYPE, at_seconds=second.at_seconds)
        samples = (*samples[-int(WINDOW_SECONDS) :], newest)
        load = engine_load(
            EngineQuery(**query),  # type: ignore[arg-type]
            SATURATION,
            ScrapeResult((TargetHistory("recording", samples),)),  # type: ignore[arg-type]
            window_seconds=WINDOW_SECONDS,
            stale_after_seconds=10.0,
            now=second.at_seconds,
        )
        assert load.value is not None
        yield Replayed(second, load.value)


def first(seconds: Iterator[float]) -> float:
    return next(seconds, float("inf"))


def test_saturation_crosses_its_target_minutes_before_requests_queue() -> None:
    run = list(replay(recorded("tp1_bs256_offloadoff"), until=300.0))
    after = [it for it in run if it.second.at_seconds > BURST_SECONDS]
    crossed = first(it.second.at_seconds for it in after if it.saturation > 100)
    queued = first(it.second.at_seconds for it in after if it.second.waiting > 0)
    assert 110 < crossed < 130
    assert queued - crossed > 130, "the time is enough to load another replica"


@pytest.mark.parametrize(("run", "fullest_kv"), [("tp2_bs128_offloadoff", 0.26), ("tp4_bs64_offloadoff", 0.07)])
def test_a_low_request_limit_saturates_the_queue_before_the_cache(run: str, fullest_kv: float) -> None:
    seconds = recorded(run)
    assert max(it.kv for it in seconds) < fullest_kv
    saturated = [it for it in replay(seconds, until=300.0) if it.second.at_seconds > BURST_SECONDS]
    assert all(it.saturation > 1000 for it in saturated)


@pytest.mark.parametrize("run", ["tp1_bs16_offloadoff", "tp1_bs64_offloadoff", "tp1_bs128_offloadoff"])
def test_a_replica_with_capacity_is_not_saturated(run: str) -> None:
    steady = [it for it in replay(recorded(run), until=1200.0) if it.second.at_seconds > BURST_SECONDS]
    assert max(it.saturation for it in steady) < 100
    assert min(it.saturation for it in steady[:60]) > 0


@pytest.mark.parametrize(
    ("run", "limit"), [("tp1_bs128_offloadoff", 128.0), ("tp1_bs64_offloadoff", 64.0), ("tp1_bs256_offloadoff", 256.0)]
)
def test_a_known_request_limit_saturates_before_the_queue(run: str, limit: float) -> None:
    seconds = [it for it in recorded(run) if it.at_seconds < 60.0]
    replayed = list(replay(seconds, max_seqs=limit))
    assert max(it.saturation for it in replayed[5:]) > 100


def test_a_real_scrape_gives_the_same_saturation() -> None:
    """A real server, HTTP client and scrape manager give the same values as the pages alone."""
    seconds = recorded("tp1_bs256_offloadoff")[:12]

    async def run() -> list[float | None]:
        clock = ManualClock(0.0)
        async with ReplayedVllm(seconds, clock) as server:
            endpoint = Endpoint(PodRef("ai", "llama-0"), "127.0.0.1", engine="vllm", ports=(server.port,))
            client = HttpClient(AddressPolicy("127.0.0.0/8"), Credentials())
            values: list[float | None] = []
            for second in seconds:
                clock.now = second.at_seconds
                manager = ScrapeManager(client, clock=clock)
                manager.register_interest(endpoint, window_seconds=WINDOW_SECONDS)
                async with asyncio.timeout(WAIT_SECONDS):
                    await manager.wait_for_sync([endpoint])
                load = engine_load(
                    EngineQuery("vllm", ports=(server.port,)),
                    SATURATION,
                    manager.scrape_results()[endpoint],
                    window_seconds=0.0,
                    stale_after_seconds=10.0,
                    now=clock.now,
                )
                values.append(load.value)
                await manager.close()
        return values

    expected = [max(it.waiting / 5, it.kv / 0.8) * 100 for it in seconds]
    assert asyncio.run(run()) == pytest.approx(expected)
