# SPDX-License-Identifier: Apache-2.0
"""Finds the targets of a pod: each named port with an engine, or the first usual port with one.

Law: a pod counts as one without an engine only after each of its ports counts as one. An engine that was found and is
lost stays in the result as a failure, until another engine takes its place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from keda_gpu_scaler.core.state.scrape import MAX_ATTEMPTS, Endpoint, ScrapeAttempt, ScrapeResult, TargetHistory
from keda_gpu_scaler.scrape.page_match import Selectors, checked, has_unsearched, mismatch_of
from keda_gpu_scaler.scrape.port_candidates import pod_ports
from keda_gpu_scaler.scrape.port_search import NO_ENGINE_KINDS, PortSearch, Rejection
from keda_gpu_scaler.scrape.targets import AddressResolver
from keda_gpu_scaler.scrape.types import FailureKind, Target

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 2.0, 30.0
MAX_PAUSE_WITH_ENGINE_SECONDS = 300.0
"""The longest pause between two searches of the other named ports of a pod that has an engine."""
_MAX_LISTED = 2


class PodTargets:
    """The targets of a pod. The named ports are searched at once, and then the usual ports one after another."""

    is_immediate = True

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._ports = tuple(PortSearch(endpoint, it) for it in pod_ports(endpoint))
        self._named = tuple(port for port in self._ports if port.candidates.is_named)
        self._usual = tuple(port for port in self._ports if not port.candidates.is_named)
        self._usual_index = 0  # the number of usual ports that were tried in this search
        self._is_pausing = self._is_first_search_ended = False
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._result: ScrapeResult | None = None
        self._begin_search()

    @property
    def targets(self) -> tuple[Target, ...]:
        """The engines, and the candidates that are tried now."""
        return tuple(port.target for port in self._ports if port.target is not None)

    @property
    def is_waiting_for_scrapes(self) -> bool:
        """Whether an engine was found and another port is still searched for the first time."""
        return not self._is_first_search_ended and self._has_engine

    async def discover(self, resolver: AddressResolver) -> float | None:
        """Begin a new search after the pause."""
        if self._is_pausing:
            self._begin_search()
        return None

    def update(
        self, target: Target, history: TargetHistory, kind: FailureKind | None, selectors: Selectors, now: float
    ) -> float | None:
        """Process a scrape; return the seconds until the next search, None to keep the schedule."""
        port = next((it for it in self._ports if it.target == target), None)
        if port is None:
            return None
        mismatch = mismatch_of(self._endpoint, history, selectors)
        if port.is_found:
            port.last = checked(history, mismatch)
            if port.is_lost(is_absent=mismatch is not None or kind in NO_ENGINE_KINDS, now=now):
                self._pause_seconds = FIRST_PAUSE_SECONDS
                port.lose()
                self._begin_search()
            return None
        if history.failure is None and has_unsearched(history, selectors):
            return None  # this page was read before these series were requested
        if history.failure is None and mismatch is None:
            self._find(port, history)
        else:
            self._reject(port, history, kind, mismatch)
        return self._continue_search()

    def result(self, histories: Mapping[Target, TargetHistory], selectors: Selectors) -> ScrapeResult | None:
        """Return the result of the pod, None if there is no result yet."""
        for port in self._ports:
            if port.is_found and port.target is not None and port.target in histories:
                history = histories[port.target]
                port.last = checked(history, mismatch_of(self._endpoint, history, selectors))
        found = tuple(self._histories())
        if any(port.last is not None for port in self._ports):
            self._result = ScrapeResult(found, attempts=tuple(self._attempts()))
        return self._result

    @property
    def _has_engine(self) -> bool:
        return any(port.is_found for port in self._ports)

    @property
    def _rejections(self) -> list[Rejection]:
        return [rejection for port in self._ports for rejection in port.rejections]

    def _histories(self) -> Iterator[TargetHistory]:
        """Yield the history of each engine. A configured port that does not answer may be an engine, and is one too."""
        for port in self._ports:
            if port.last is not None:
                yield port.last
            elif port.candidates.is_configured and port.is_ended:
                unanswered = next((it.attempt for it in port.rejections if not it.is_answer), None)
                if unanswered is not None:
                    yield TargetHistory(unanswered.url, failure=unanswered.failure, attempt=unanswered)

    def _attempts(self) -> Iterator[ScrapeAttempt]:
        yield from [rejection.attempt for rejection in self._rejections][:MAX_ATTEMPTS]

    def _begin_search(self) -> None:
        self._is_pausing, self._usual_index = False, 0
        for port in self._named:
            if not port.is_found:
                port.begin()
        self._continue_search()

    def _continue_search(self) -> float | None:
        """Go on with the usual ports after the named ones; return the pause if the search has ended."""
        if any(port.is_searching for port in self._ports) or self._is_pausing:
            return None
        if not self._has_engine and self._usual_index < len(self._usual):
            self._usual[self._usual_index].begin()
            self._usual_index += 1
            return None
        return self._end_search()

    def _end_search(self) -> float | None:
        self._is_pausing = self._is_first_search_ended = True
        if all(port.last is None for port in self._ports):
            self._result = self._not_found()
        elif self._has_engine and all(port.is_found for port in self._named):
            return None
        longest = MAX_PAUSE_WITH_ENGINE_SECONDS if self._has_engine else MAX_PAUSE_SECONDS
        pause, self._pause_seconds = self._pause_seconds, min(2 * self._pause_seconds, longest)
        return pause

    def _find(self, port: PortSearch, history: TargetHistory) -> None:
        port.find()
        port.last = history
        lost = next((it for it in self._ports if it.last is not None and not it.is_found), None)
        if lost is not None:
            lost.last = None  # this engine takes its place

    def _reject(self, port: PortSearch, history: TargetHistory, kind: FailureKind | None, mismatch: str | None) -> None:
        newest = history.newest if history.failure is None else None
        if newest is not None and newest.engine:
            port.has_seen_engine = True  # another engine than the trigger's; the pod is not one without an engine
        attempt = history.attempt or ScrapeAttempt(history.url)
        port.reject(replace(attempt, failure=mismatch or history.failure or ""), kind if newest is None else None)
        is_unanswered = any(not rejection.is_answer for rejection in port.rejections)
        if is_unanswered and not port.is_second_try and (self._result is None or self._result.is_no_engine):
            # This candidate may be the engine. No answer of another candidate can show that the pod has none.
            self._result = self._not_found()

    def _not_found(self) -> ScrapeResult:
        rejections = sorted(self._rejections, key=lambda it: it.is_answer)  # missing answers first
        listed = [f"{_place(it.target)}: {it.attempt.failure}" for it in rejections[:_MAX_LISTED]]
        more = f"; and {len(rejections) - _MAX_LISTED} more" if len(rejections) > _MAX_LISTED else ""
        has_seen_engine = any(port.has_seen_engine for port in self._ports)
        return ScrapeResult(
            failure=f"no engine is found: {'; '.join(listed)}{more}",
            is_no_engine=not has_seen_engine and all(it.is_answer for it in rejections),
            attempts=tuple(self._attempts()),
        )


def _place(target: Target) -> str:
    scheme = " by https" if target.url.scheme == "https" else ""
    return f"port {target.url.port}{target.url.path}{scheme}"
