# SPDX-License-Identifier: Apache-2.0
"""What must hold for whoever tells what engines and sources of demand told?"""

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
    """Subclass it as ``Test…``, and say who is asked.

    ENGINE is a vLLM in which WAITING requests wait, NO_ENGINE a pod where nothing listens, and at DEMAND the series
    DEPTH is DEPTH_VALUE.
    """

    def keep(self, scenario: Scenario) -> None:
        """Play a scenario, in a loop whose time is its own, with one that was asked nothing yet."""
        raise NotImplementedError("a contract needs somebody to keep it")

    def test_it_tells_what_the_engine_told(self) -> None:
        async def scenario(engines: Engines) -> None:
            (page,) = (await asked(engines, ENGINE)).targets
            assert page.failure is None
            assert page.newest is not None
            assert (page.newest.engine, page.newest.waiting) == ("vllm", WAITING)

        self.keep(scenario)

    def test_it_tells_a_pod_without_an_engine_from_one_that_is_not_scraped_yet(self) -> None:
        async def scenario(engines: Engines) -> None:
            told = await asked(engines, NO_ENGINE)
            assert told.is_no_engine
            assert told.failure
            assert told.targets == ()

        self.keep(scenario)

    def test_it_tells_the_series_that_are_asked_for(self) -> None:
        async def scenario(engines: Engines) -> None:
            engines.register_interest(DEMAND, window_seconds=10.0, selectors=(DEPTH,), demand=True)
            await engines.wait_for_sync([DEMAND])
            (page,) = engines.scrape_results()[DEMAND].targets
            assert page.newest is not None
            series = page.newest.selected[DEPTH.text]
            assert series is not None
            assert (series.value, series.is_counter) == (DEPTH_VALUE, False)

        self.keep(scenario)

    def test_nothing_is_told_of_what_nobody_asks_for(self) -> None:
        async def scenario(engines: Engines) -> None:
            assert ENGINE not in engines.scrape_results()
            await asked(engines, NO_ENGINE)
            assert set(engines.scrape_results()) == {NO_ENGINE}

        self.keep(scenario)

    def test_law_3_asking_changes_nothing_that_is_told(self) -> None:
        async def scenario(engines: Engines) -> None:
            told = await asked(engines, ENGINE)
            engines.register_interest(ENGINE, window_seconds=600.0)
            assert engines.scrape_results()[ENGINE] is told

        self.keep(scenario)

    def test_what_settled_once_does_so_at_once(self) -> None:
        async def scenario(engines: Engines) -> None:
            await asked(engines, ENGINE, NO_ENGINE)
            for endpoints in ([ENGINE], [NO_ENGINE, ENGINE], []):
                async with asyncio.timeout(0.001):
                    await engines.wait_for_sync(endpoints)

        self.keep(scenario)

    def test_failures_are_among_the_scrapes(self) -> None:
        async def scenario(engines: Engines) -> None:
            await asked(engines, ENGINE, NO_ENGINE)
            assert all(0 <= it.failures <= it.scrapes for it in engines.counts().values())

        self.keep(scenario)


async def asked(engines: Engines, *endpoints: Endpoint) -> ScrapeResult:
    """Ask, wait until they are settled, and return what came of the first."""
    for endpoint in endpoints:
        engines.register_interest(endpoint, window_seconds=10.0)
    await engines.wait_for_sync(endpoints)
    return engines.scrape_results()[endpoints[0]]
