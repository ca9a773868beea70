# SPDX-License-Identifier: Apache-2.0
"""Where is an endpoint's page? At the port and path where a pod's engine answers, or at the addresses of a URL's name.

The law of this module: that no engine is there is said only once everything that was asked has answered so, or refused
the connection; whatever keeps silent may be one.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

from keda_gpu_scaler.core.catalog import ENGINES
from keda_gpu_scaler.core.scrapes import AUTO, Endpoint, Page, Scraped
from keda_gpu_scaler.core.selector import SeriesSelector
from keda_gpu_scaler.core.urls import Url, parse_url
from keda_gpu_scaler.engines.fetch import FetchError, Kind, Target

LOOK_AGAIN_SECONDS = 5.0
"""How old an answer of the DNS may be."""
LOST_SECONDS = 30.0
"""An engine that refuses connections for so long is looked for elsewhere."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 30.0
MAX_CANDIDATES = 16
_SAYING_NO = frozenset({Kind.REFUSED, Kind.ABSENT})
_NAMED = 2


class Resolves(Protocol):
    """What knows the addresses of names."""

    async def resolve(self, url: Url) -> tuple[str, ...]:
        """Return the addresses of a URL's host."""


class PodPlaces:
    """Where a pod's engine is: the first of its candidates where one answers."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._candidates = tuple(candidates(endpoint))
        self._at = 0
        self._noes: dict[Target, str] = {}
        self._silences: dict[Target, str] = {}
        self._found: Target | None = None
        self._was_found = False
        self._lost_since: float | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._failure: str | None = None
        self._resting = False
        self._is_no_engine = False
        self.is_settled = False

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is to be scraped now: the engine, or the next place where it may be."""
        if self._found is not None:
            return (self._found,)
        return () if self._resting else (self._candidates[self._at],)

    async def look(self, resolves: Resolves, clock: Callable[[], float]) -> float | None:
        """Begin a round, once the pause is over; return after how many seconds to look again."""
        if self._resting:
            self._resting, self._at = False, 0
            self._noes.clear()
            self._silences.clear()
        return None

    def learn(
        self, target: Target, page: Page, kind: Kind | None, selectors: Collection[SeriesSelector], now: float
    ) -> float | None:
        """Hear what came of a scrape; return after how many seconds to begin another round, None for none."""
        newest = page.newest if page.failure is None else None
        if target == self._found:
            return self._learn_of_the_found(kind, now)
        if self._resting or target != self._candidates[self._at]:
            return None
        if newest is not None and not all(it.text in newest.selected for it in selectors):
            return None  # it was read before anybody asked for this
        if newest is not None and (newest.engine or any(newest.selected.get(it.text) for it in selectors)):
            self._found, self._was_found, self.is_settled = target, True, True
            self._failure, self._is_no_engine, self._lost_since = None, False, None
            self._pause_seconds = FIRST_PAUSE_SECONDS
            return None
        if newest is not None:
            self._noes[target] = "exports nothing of an engine that is known"
        elif kind in _SAYING_NO:
            self._noes[target] = page.failure or ""
        else:
            self._silences[target] = page.failure or ""
        if self._at + 1 < len(self._candidates):
            self._at += 1
            return None
        return self._end_round()

    def scraped(self, pages: Mapping[Target, Page]) -> Scraped:
        """Say what came of it."""
        if self._found is not None and self._found in pages:
            return Scraped((pages[self._found],))
        return Scraped(failure=self._failure or "not scraped yet", is_no_engine=self._is_no_engine)

    def _learn_of_the_found(self, kind: Kind | None, now: float) -> float | None:
        if kind not in _SAYING_NO:
            self._lost_since = None
            return None
        if self._lost_since is None:
            self._lost_since = now
        if now - self._lost_since < LOST_SECONDS:
            return None
        self._found, self._at = None, 0
        self._noes.clear()
        self._silences.clear()
        return None

    def _end_round(self) -> float:
        self._resting = self.is_settled = True
        self._is_no_engine = not self._silences and not self._was_found
        told = {**self._silences, **self._noes}
        listed = [f"{_place(target)}: {why}" for target, why in list(told.items())[:_NAMED]]
        more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
        self._failure = f"no engine is found: {'; '.join(listed)}{more}"
        pause, self._pause_seconds = self._pause_seconds, min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        return pause


class UrlPlaces:
    """Where a URL's page is: at one of the addresses its name has, or at each of them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._url = parse_url(endpoint.url)
        self._every = endpoint.every_address
        self._addresses: tuple[str, ...] = ()
        self._chosen = 0
        self._failure: str | None = None
        self.is_settled = False

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is to be scraped now."""
        found = tuple(Target(self._url, address) for address in self._addresses)
        if self._every or not found:
            return found
        return (found[self._chosen % len(found)],)

    async def look(self, resolves: Resolves, clock: Callable[[], float]) -> float | None:
        """Resolve the name anew; what it was before stands while it cannot be. Return when to look again."""
        try:
            addresses = await resolves.resolve(self._url)
        except FetchError as error:
            self._failure = str(error)
            if error.kind is Kind.DENIED:
                self._addresses = ()
            self.is_settled = self.is_settled or not self._addresses
            return LOOK_AGAIN_SECONDS
        self._failure = None
        chosen = self.targets[0].address if self.targets and not self._every else None
        # An address that answers is kept for as long as the name has it, whatever the order of the DNS.
        self._addresses = addresses if self._every else tuple(sorted(addresses))
        self._chosen = self._addresses.index(chosen) if chosen in self._addresses else 0
        self.is_settled = True
        return LOOK_AGAIN_SECONDS

    def learn(
        self, target: Target, page: Page, kind: Kind | None, selectors: Collection[SeriesSelector], now: float
    ) -> float | None:
        """Hear what came of a scrape: where one address is enough and this one fails, the next one is tried."""
        if not self._every and page.failure is not None and target in self.targets:
            self._chosen += 1
        return None

    def scraped(self, pages: Mapping[Target, Page]) -> Scraped:
        """Say what came of it."""
        found = tuple(pages[target] for target in self.targets if target in pages)
        return Scraped(found, None if found else self._failure or "not scraped yet")


def candidates(endpoint: Endpoint) -> Iterator[Target]:
    """Yield where a pod's engine may be, the likeliest first, each once and a bounded number."""
    assert endpoint.pod is not None  # noqa: S101 - a URL has one place only
    seen: set[tuple[int, str]] = set()
    for port, path in _ports_and_paths(endpoint):
        if (port, path) not in seen and len(seen) < MAX_CANDIDATES:
            seen.add((port, path))
            url = Url(endpoint.scheme or "http", endpoint.address, port, path)
            yield Target(url, endpoint.address, endpoint.pod.namespace)


def _ports_and_paths(endpoint: Endpoint) -> Iterator[tuple[int, str]]:
    if endpoint.engine != AUTO:
        engine = ENGINES[endpoint.engine]
        path = endpoint.path or engine.path
        if endpoint.port is not None:
            yield endpoint.port, path
            return
        yield engine.port, path
        yield from ((port, path) for port in endpoint.declared_ports)
        return
    if endpoint.port is not None:
        for engine in ENGINES.values():
            yield endpoint.port, endpoint.path or engine.path
        return
    declared = sorted(ENGINES.values(), key=lambda engine: engine.port not in endpoint.declared_ports)
    for engine in declared:
        if engine.port in endpoint.declared_ports:
            yield engine.port, endpoint.path or engine.path
    for port in endpoint.declared_ports[:_MOST_DECLARED]:
        yield port, endpoint.path or "/metrics"
    for engine in declared:
        yield engine.port, endpoint.path or engine.path


_MOST_DECLARED = 4


def _place(target: Target) -> str:
    return f"port {target.url.port}{target.url.path}"
