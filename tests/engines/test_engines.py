# SPDX-License-Identifier: Apache-2.0
"""Tests that the scrape manager and its fake keep the same contract."""

import asyncio

from keda_gpu_scaler.core.state.scrape import ScrapeResult, TargetHistory
from keda_gpu_scaler.core.types import EngineSample, Series
from keda_gpu_scaler.scrape.manager import ScrapeManager
from tests.contract.engines import DEMAND, DEPTH, DEPTH_VALUE, ENGINE, NO_ENGINE, WAITING, EnginesContract, Scenario
from tests.fakes import FakeEngines
from tests.scrape.virtual_time import play
from tests.scrape.web import Web, vllm


class TestTheScrapeManagerKeepsTheContract(EnginesContract):
    def keep(self, scenario: Scenario) -> None:
        web = Web()
        web.pages["10.1.2.3:8000/metrics"] = vllm(waiting=WAITING)
        web.pages["10.1.2.5:80/metrics"] = f"{DEPTH.name} {DEPTH_VALUE}\n".encode()

        async def run_scenario() -> None:
            manager = ScrapeManager(web, clock=asyncio.get_running_loop().time)
            await scenario(manager)
            await manager.close()

        play(run_scenario())


class TestTheFakeKeepsTheContract(EnginesContract):
    def keep(self, scenario: Scenario) -> None:
        series = {DEPTH.text: Series(DEPTH_VALUE, is_counter=False)}
        play(
            scenario(
                FakeEngines(
                    {
                        ENGINE: ScrapeResult(
                            (TargetHistory("vllm", (EngineSample(1000.0, "vllm", waiting=WAITING),)),)
                        ),
                        NO_ENGINE: ScrapeResult(failure="the connection is refused", is_no_engine=True),
                        DEMAND: ScrapeResult((TargetHistory("router", (EngineSample(1000.0, selected=series),)),)),
                    }
                )
            )
        )
