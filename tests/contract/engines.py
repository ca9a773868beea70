# SPDX-License-Identifier: Apache-2.0
"""The contract of the sources of scrape results."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from keda_gpu_scaler.core.interfaces import Engines
from keda_gpu_scaler.core.selectors import parse_series
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.core.types import PodRef

ENGINE = Endpoint(PodRef("ai", "llama-0"), "10.1.2.3", engine="vllm")
NO_ENGINE = Endpoint(PodRef("ai", "trainer-0"), "10.1.2.4")
DEMAND = Endpoint(url="http://10.1.2.5/metrics", every_address=True)
DEPTH = parse_series("depth")
WAITING, DEPTH_VALUE = 3.0, 7.0
Scenario = Callable[[Engines], Coroutine[Any, Any, None]]


class EnginesContract:
    """Subclass it as ``Test…`` and provide the source.

    ENGINE is a vLLM with WAITING waiting requests. NO_ENGINE is a pod that refuses connections. At DEMAND the series
    DEPTH has the value DEPTH_VALUE.
    """

    def run(self, scenario: Scenario) -> None:
        """Run a scenario in virtual time with a new source."""
        raise NotImplementedError("a subclass provides it")

    def test_the_sample_has_the_readings_of_the_engine(self) -> None:
        async def scenario(engines: Engines) -> None:
            (history,) = (await scraped(engines, ENGINE)).targets
            assert history.failure is None
            assert history.newest is not None
            assert (history.newest.engine, history.newest.waiting) == ("vllm", WAITING)

        self.run(scenario)

    def test_a_pod_without_an_engine_has_a_result(self) -> None:
        async def scenario(engines: Engines) -> None:
            result = await scraped(engines, NO_ENGINE)
            assert result.is_no_engine
            assert result.failure
            assert result.targets == ()

        self.run(scenario)

    def test_the_sample_has_the_requested_series(self) -> None:
        async def scenario(engines: Engines) -> None:
            engines.register_interest(DEMAND, window_seconds=10.0, selectors=(DEPTH,), demand=True)
            await engines.wait_for_sync([DEMAND])
            (history,) = engines.scrape_results()[DEMAND].targets
            assert history.newest is not None
            series = history.newest.selected[DEPTH.text]
            assert series is not None
            assert (series.value, series.is_counter) == (DEPTH_VALUE, False)

        self.run(scenario)

    def test_an_endpoint_without_interest_has_no_result(self) -> None:
        async def scenario(engines: Engines) -> None:
            assert ENGINE not in engines.scrape_results()
            await scraped(engines, NO_ENGINE)
            assert set(engines.scrape_results()) == {NO_ENGINE}

        self.run(scenario)

    def test_law_3_registering_interest_does_not_change_the_result(self) -> None:
        async def scenario(engines: Engines) -> None:
            result = await scraped(engines, ENGINE)
            engines.register_interest(ENGINE, window_seconds=600.0)
            assert engines.scrape_results()[ENGINE] is result

        self.run(scenario)

    def test_a_second_wait_for_sync_returns_at_once(self) -> None:
        async def scenario(engines: Engines) -> None:
            await scraped(engines, ENGINE, NO_ENGINE)
            for endpoints in ([ENGINE], [NO_ENGINE, ENGINE], []):
                async with asyncio.timeout(0):  # so it does not even let another task run
                    await engines.wait_for_sync(endpoints)

        self.run(scenario)

    def test_failures_are_counted_as_scrapes(self) -> None:
        async def scenario(engines: Engines) -> None:
            await scraped(engines, ENGINE, NO_ENGINE)
            assert all(0 <= it.failures <= it.scrapes for it in engines.counts().values())

        self.run(scenario)


async def scraped(engines: Engines, *endpoints: Endpoint) -> ScrapeResult:
    """Register interest, wait for the sync and return the result of the first endpoint."""
    for endpoint in endpoints:
        engines.register_interest(endpoint, window_seconds=10.0)
    await engines.wait_for_sync(endpoints)
    return engines.scrape_results()[endpoints[0]]
