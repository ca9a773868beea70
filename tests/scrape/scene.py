# SPDX-License-Identifier: Apache-2.0
"""A scrape manager with a fake client in virtual time, and endpoints for its tests."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from keda_gpu_scaler.core.selectors import parse_series
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.types import EngineSample, PodRef
from keda_gpu_scaler.scrape.manager import ScrapeManager
from tests.scrape.virtual_time import run_in_virtual_time
from tests.scrape.web import Answer, Web

POD = Endpoint(PodRef("ai", "llama-0"), "10.1.2.3")
PAGE = "10.1.2.3:8000/metrics"
EVERY_ADDRESS = Endpoint(url="http://router.ai.svc/metrics", every_address=True)
ANY_ADDRESS = Endpoint(url="http://router.ai.svc/metrics")
DEPTH = parse_series('depth{queue="llama"}')
OTHER_PAGE = b"python_gc_objects_collected_total 5\n"


class Scene:
    """A scrape manager with a fake client, in virtual time."""

    def __init__(self, pages: Mapping[str, Answer] | None = None, **settings: float) -> None:
        self.web = Web()
        self.web.pages.update(pages or {})
        self.loop = asyncio.get_running_loop()
        self.news: list[float] = []
        self.manager = ScrapeManager(
            self.web,
            clock=self.loop.time,
            on_news=lambda: self.news.append(self.loop.time()),
            **settings,
        )

    async def __aenter__(self) -> "Scene":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.manager.close()

    async def register_interest(
        self, *endpoints: Endpoint, window: float = 10.0, series: str = "", demand: bool = False
    ) -> ScrapeResult:
        """Register interest, wait for the sync and return the result of the first endpoint."""
        selectors = (parse_series(series),) if series else ()
        for endpoint in endpoints:
            self.manager.register_interest(endpoint, window_seconds=window, selectors=selectors, demand=demand)
        await self.manager.wait_for_sync(endpoints)
        return self.result(endpoints[0])

    def result(self, endpoint: Endpoint = POD) -> ScrapeResult:
        return self.manager.scrape_results()[endpoint]

    def history(self, endpoint: Endpoint = POD) -> TargetHistory:
        (history,) = self.result(endpoint).targets
        return history

    def newest_of(self, index: int, endpoint: Endpoint = POD) -> EngineSample:
        """The newest sample of one of several targets."""
        newest = self.result(endpoint).targets[index].newest
        if newest is None:
            raise AssertionError(f"target {index} of {endpoint} has no sample")
        return newest

    def newest(self, endpoint: Endpoint = POD) -> EngineSample:
        newest = self.history(endpoint).newest
        if newest is None:
            raise AssertionError(f"{endpoint} has no sample")
        return newest

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def expire_for(self, seconds: float, *needed: Endpoint) -> None:
        """Pass time and expire idle endpoints as an agent does; the interest in ``needed`` is renewed."""
        for _ in range(int(seconds / 5)):
            for endpoint in needed:
                self.manager.register_interest(endpoint, window_seconds=10.0)
            await self.pass_time(5.0)
            self.manager.expire_idle()


Scenario = Callable[[], Awaitable[None]]


def scenario(function: Scenario) -> Callable[[], None]:
    """Run a test in virtual time."""

    def test() -> None:
        run_in_virtual_time(function())  # type: ignore[arg-type]

    test.__name__ = function.__name__
    return test


def addresses(*numbers: int) -> tuple[str, ...]:
    return tuple(f"10.0.0.{number}" for number in numbers)


def depths(**values: float) -> dict[str, Answer]:
    return {f"10.0.0.{name[1:]}:80/metrics": f'depth{{queue="llama"}} {it}\n'.encode() for name, it in values.items()}


def addresses_of(result: ScrapeResult) -> list[str]:
    return [history.url.rpartition(" at ")[2] for history in result.targets]
