# SPDX-License-Identifier: Apache-2.0
"""Tests each source of demand over virtual time: an hour without a request, and restarts.

No workload stays awake because a series disappeared, and none goes to sleep because a source was restarted while
requests wait. The triggers have no hold, so that each state is seen as it is.
"""

from collections.abc import Callable

import pytest

from keda_gpu_scaler.core.evaluate.demand import DemandObservation, observe_demand
from keda_gpu_scaler.core.trigger.demand_params import DemandQuery
from keda_gpu_scaler.core.trigger.demand_presets import DEMANDS
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from tests.scrape.demand_sources import SOURCES, DemandSource
from tests.scrape.scene import Scene, addresses
from tests.scrape.virtual_time import run_in_virtual_time
from tests.scrape.web import REFUSED, Answer

EVERY = [pytest.param(source, id=name) for name, source in SOURCES.items()]
HOUR = 3600.0
QUARTER = 900.0
"""A quarter of an hour: longer than any time after which the program forgets or releases something."""
STEP = 5.0
REQUESTS_A_SECOND = 2


class Observed:
    """A source at an address, and what a trigger observes of it."""

    def __init__(self, scene: Scene, source: DemandSource) -> None:
        demand = parse_trigger(source.metadata).demand
        assert demand is not None
        self.demand: DemandQuery = demand
        self.scene, self.source = scene, source
        self.serve_at(1)

    def serve_at(self, number: int) -> None:
        """Let the name of the source lead to this address, which serves nothing yet."""
        self.scene.web.names["source.ai.svc"] = addresses(number)
        self._url = f"10.0.0.{number}:80{self.source.path}"

    def serve(self, page: Answer) -> None:
        self.scene.web.pages[self._url] = page

    def serve_requests(self) -> None:
        """Serve a page with waiting requests; of a counter, with one that grows from 0."""
        began = self.scene.loop.time()

        def page() -> bytes:
            seconds = self.scene.loop.time() - began
            count = 1 + int(REQUESTS_A_SECOND * seconds) if self.source.is_counter else 3
            return self.source.busy(count).encode()

        self.serve(page)

    async def pass_time(self, seconds: float) -> list[DemandObservation]:
        """Pass time; return what is observed at each step."""
        observations = []
        for _ in range(int(seconds / STEP)):
            self.scene.manager.register_interest(
                self.demand.endpoint, window_seconds=10.0, selectors=self.demand.every_selector, demand=True
            )
            await self.scene.pass_time(STEP)
            observations.append(self.now())
        return observations

    def now(self) -> DemandObservation:
        return observe_demand(
            self.demand,
            self.scene.manager.scrape_results().get(self.demand.endpoint),
            window_seconds=10.0,
            stale_after_seconds=10.0,
            now=self.scene.loop.time(),
        )


def states(observations: list[DemandObservation]) -> set[bool | None]:
    return {observation.is_active for observation in observations}


def run(source: DemandSource, scenario: Callable[[Observed], object]) -> None:
    async def with_a_scene() -> None:
        async with Scene(demand_interval_seconds=STEP) as scene:
            await scenario(Observed(scene, source))  # type: ignore[misc]

    run_in_virtual_time(with_a_scene())


def test_each_preset_has_a_source() -> None:
    assert {source.preset for source in SOURCES.values()} == set(DEMANDS)


@pytest.mark.parametrize("source", EVERY)
def test_an_hour_without_a_request_is_no_demand(source: DemandSource) -> None:
    async def scenario(observed: Observed) -> None:
        observed.serve_requests()
        await observed.pass_time(30)
        assert observed.now().is_active is True, observed.now().sentence
        observed.serve(source.idle(1 + REQUESTS_A_SECOND * 30).encode())
        observations = await observed.pass_time(HOUR)
        assert observations[-1].value == 0
        assert states(observations[int(20 / STEP) :]) == {False}, "a rate needs its window to become 0, and no longer"
        observed.serve_requests()
        await observed.pass_time(2 * STEP)
        assert observed.now().is_active is True, "the first requests after an hour are seen"

    run(source, scenario)


@pytest.mark.parametrize("source", EVERY)
def test_a_source_that_is_restarted_without_requests_shows_no_demand(source: DemandSource) -> None:
    async def scenario(observed: Observed) -> None:
        observed.serve_requests()
        await observed.pass_time(30)
        observed.serve(source.idle(1 + REQUESTS_A_SECOND * 30).encode())
        await observed.pass_time(60)
        observed.serve(REFUSED)
        down = await observed.pass_time(60)
        assert down[-1].is_active is None, "a source that does not answer says nothing"
        observed.serve(source.fresh.encode())
        observations = await observed.pass_time(QUARTER)
        expected = {None} if source.is_unknown_fresh else {False}
        assert states(observations[2:]) == expected, observations[-1].sentence
        observed.serve_requests()
        await observed.pass_time(2 * STEP)
        assert observed.now().is_active is True, "the first requests after a restart are seen"

    run(source, scenario)


@pytest.mark.parametrize("is_new_address", [pytest.param(False, id="same address"), pytest.param(True, id="new one")])
@pytest.mark.parametrize("source", EVERY)
def test_a_source_that_is_restarted_while_requests_wait_lets_no_workload_sleep(
    source: DemandSource, is_new_address: bool
) -> None:
    async def scenario(observed: Observed) -> None:
        observed.serve_requests()
        await observed.pass_time(300)
        observed.serve(REFUSED)
        down = await observed.pass_time(60)
        if is_new_address:
            observed.serve_at(2)
        observed.serve_requests()
        observations = await observed.pass_time(60)
        assert False not in states(down + observations)
        assert states(observations[int(15 / STEP) :]) == {True}, observations[-1].sentence

    run(source, scenario)


@pytest.mark.parametrize("source", EVERY)
def test_a_page_of_another_server_is_unknown(source: DemandSource) -> None:
    async def scenario(observed: Observed) -> None:
        observed.serve(b"# TYPE go_goroutines gauge\ngo_goroutines 9\n")
        assert states(await observed.pass_time(60)) == {None}

    run(source, scenario)
