# SPDX-License-Identifier: Apache-2.0
"""Scrapes one endpoint: combines what its callers need, scrapes its targets and publishes the result."""

import asyncio
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult
from keda_gpu_scaler.scrape.loop import ScrapeLoop
from keda_gpu_scaler.scrape.pacing import Pacer
from keda_gpu_scaler.scrape.pod_targets import PodTargets
from keda_gpu_scaler.scrape.targets import AddressResolver, Targets, UrlTargets
from keda_gpu_scaler.scrape.types import Target

MAX_INTERESTS = 1_000
"""The number of different windows and series that are kept for one endpoint; further ones are ignored."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScrapeInterest:
    """The window, the series and the interval that one caller needs from an endpoint."""

    window_seconds: float
    selectors: tuple[SeriesSelector, ...]
    interval_seconds: float
    is_demand: bool
    history_seconds: float = 0.0


class EndpointScrape:
    """Scrapes one endpoint: starts a ``ScrapeLoop`` for each target and combines their results.

    ``synced`` is set when the endpoint has a result and each requested series was searched for.

    Args:
        endpoint: the pod or URL.
        resolver: resolves the host of a URL.
        clock: monotonic seconds.
        pacer: runs the discovery of targets at its times.
        loop_of: returns the scrape loop of a target.
        publish: receives each result.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        resolver: AddressResolver,
        clock: Callable[[], float],
        pacer: Pacer,
        loop_of: Callable[[Target], ScrapeLoop],
        publish: Callable[[Endpoint, ScrapeResult], None],
    ) -> None:
        self._endpoint = endpoint
        self._resolver = resolver
        self._clock = clock
        self._pacer = pacer
        self._loop_of = loop_of
        self._publish_result = publish
        self._targets: Targets = PodTargets(endpoint) if endpoint.pod is not None else UrlTargets(endpoint)
        self._interests: dict[ScrapeInterest, float] = {}  # with the time of the last registration
        self._loops: dict[Target, ScrapeLoop] = {}
        self._logged_failure: str | None = None
        self._is_new = True
        self.synced = asyncio.Event()
        self.is_needed = True
        self.selectors: tuple[SeriesSelector, ...] = ()
        self.window_seconds = 0.0
        self.history_seconds = 0.0
        self.interval_seconds = math.inf
        self.is_demand = False

    def __str__(self) -> str:
        return str(self._endpoint)

    def add_interest(self, interest: ScrapeInterest) -> None:
        """Register an interest, or renew it. The first one begins the discovery of targets."""
        now = self._clock()
        is_known = interest in self._interests
        if is_known or len(self._interests) < MAX_INTERESTS:
            self._interests[interest] = now
            if not is_known:
                self._add_new_interest()
        if self._is_new:
            self._pacer.schedule(now, self)

    def expire_interests(self, before: float) -> bool:
        """Remove the interests that were last registered before this time; return whether one is left."""
        left = {interest: at for interest, at in self._interests.items() if at >= before}
        if left and len(left) < len(self._interests):
            self._interests = left
            self._combine_interests()
        return bool(left)

    def release(self) -> None:
        """End the scrape: there is no interest in the endpoint any more."""
        self.is_needed = False
        self._set_loops(())
        self.synced.set()

    async def run(self) -> None:
        """Discover the targets and scrape them."""
        self._is_new = False
        delay_seconds = await self._targets.discover(self._resolver)
        if self.is_needed:
            self._schedule_discovery(delay_seconds)
            self._set_loops(self._targets.targets)
            self._publish()

    def on_scrape(self, loop: ScrapeLoop) -> None:
        """Process the end of a scrape of a target."""
        self._update_targets(loop)
        self._set_loops(self._targets.targets)
        self._publish()

    def _add_new_interest(self) -> None:
        before = set(self.selectors)
        self._combine_interests()
        if not before.issuperset(self.selectors):
            self.synced.clear()
            for loop in self._loops.values():
                loop.scrape_early()

    def _combine_interests(self) -> None:
        interests = self._interests
        self.window_seconds = max(interest.window_seconds for interest in interests)
        self.history_seconds = max(interest.history_seconds for interest in interests)
        self.interval_seconds = min(interest.interval_seconds for interest in interests)
        self.is_demand = any(interest.is_demand for interest in interests)
        self.selectors = tuple({it.text: it for interest in interests for it in interest.selectors}.values())

    def _schedule_discovery(self, delay_seconds: float | None) -> None:
        if delay_seconds is not None:
            self._pacer.schedule(self._clock() + delay_seconds, self)

    def _update_targets(self, loop: ScrapeLoop) -> None:
        now = self._clock()
        delay_seconds = self._targets.update(loop.target, loop.history, loop.failure_kind, self.selectors, now)
        self._schedule_discovery(delay_seconds)

    def _set_loops(self, targets: Collection[Target]) -> None:
        """Scrape these targets and no others. Results that other endpoints have of them already are used at once."""
        while targets != tuple(self._loops):
            for target in self._loops.keys() - set(targets):
                self._loops.pop(target).remove_consumer(self)
            new = [target for target in targets if target not in self._loops]
            self._loops = {target: self._loop_of(target) for target in targets}
            for target in new:
                loop = self._loops[target]
                loop.add_consumer(self, is_immediate=self._targets.is_immediate)
                if not loop.is_scraped:
                    continue
                if not loop.has_searched(self.selectors):
                    loop.scrape_early()
                self._update_targets(loop)
            targets = self._targets.targets if self.is_needed else ()

    def _publish(self) -> None:
        histories = {target: loop.history for target, loop in self._loops.items()}
        result = self._targets.result(histories, self.selectors)
        if result is None:
            return
        self._publish_result(self._endpoint, result)
        self._log_change(result)
        if all(map(self._is_complete, self._loops.values())):
            self.synced.set()

    def _is_complete(self, loop: ScrapeLoop) -> bool:
        if not loop.is_scraped:
            return not self._targets.is_waiting_for_scrapes
        return loop.has_searched(self.selectors)

    def _log_change(self, result: ScrapeResult) -> None:
        """Log the first failure, and the first success after it."""
        failure = result.failure
        if failure is None:
            failure = next((f"{it.url}: {it.failure}" for it in result.targets if it.failure), None)
        if failure is not None and self._logged_failure is None:
            _log.log(logging.INFO if result.is_no_engine else logging.WARNING, "%s: %s", self, failure)
        elif failure is None and self._logged_failure is not None:
            _log.info("%s: it answers again", self)
        self._logged_failure = failure
