# SPDX-License-Identifier: Apache-2.0
"""Where is an endpoint's page? At the port and path where a pod's engine answers, or at the addresses of a URL's name.

The law of this module: that no engine is there is said only once everything that was asked has answered so, or refused
the connection; whatever keeps silent may be one.
"""

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import AUTO, Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.core.urls import Url, UrlError, parse_url
from keda_gpu_scaler.scrape.http_client import FailureKind, FetchError, Target

LOOK_AGAIN_SECONDS = 5.0
"""How old an answer of the DNS may be."""
LOST_SECONDS = 30.0
"""An engine that refuses connections for so long is looked for elsewhere."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 30.0
MAX_CANDIDATES = 16
MAX_ADDRESSES = 256
"""So many addresses of one name are asked."""
FORSAKEN_AFTER = 3
"""Where one address of a name is enough, one that answered before is left after so many failures in a row."""
_MOST_DECLARED = 4
_SAYING_NO = frozenset({FailureKind.REFUSED, FailureKind.ABSENT})
_NAMED = 2

Selectors = Collection[SeriesSelector]


class Resolver(Protocol):
    """What knows the addresses of names."""

    async def resolve(self, url: Url) -> tuple[str, ...]:
        """Return the addresses of a URL's host; raises FetchError."""


class Targets(Protocol):
    """Where one endpoint's pages are, as far as is known."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is to be scraped now."""

    @property
    def is_urgent(self) -> bool:
        """Whether a target that is new is to be scraped at once."""

    @property
    def awaits_pages(self) -> bool:
        """Whether nothing final can be said before every target was scraped."""

    async def look(self, resolves: Resolver) -> float | None:
        """Look for them; return after how many seconds to look again, None where ``learn`` says so."""

    def learn(
        self, target: Target, page: TargetHistory, kind: FailureKind | None, selectors: Selectors, now: float
    ) -> float | None:
        """Hear what came of a scrape; return after how many seconds to look again, None for what was said before."""

    def scrape_results(self, pages: Mapping[Target, TargetHistory], selectors: Selectors) -> ScrapeResult | None:
        """Say what came of the endpoint, None while there is nothing to be said."""


class PodTargets:
    """Where a pod's engine is: the first of its candidates where one answers."""

    is_urgent = True

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._candidates = tuple(candidates(endpoint))
        self._at = 0
        self._is_resting = False
        self._noes: dict[Target, str] = {}
        self._silences: dict[Target, str] = {}
        self._found: Target | None = None
        self._was_engine = False
        self._lost_since: float | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._told: ScrapeResult | None = None

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is to be scraped now: the engine, or the next place where it may be."""
        if self._found is not None:
            return (self._found,)
        return () if self._is_resting else (self._candidates[self._at],)

    @property
    def awaits_pages(self) -> bool:
        """Whether it was found; a search says by itself when there is something to be said."""
        return self._found is not None

    async def look(self, resolves: Resolver) -> float | None:
        """Begin a round, once the pause is over."""
        if self._is_resting:
            self._begin_round()
        return None

    def learn(
        self, target: Target, page: TargetHistory, kind: FailureKind | None, selectors: Selectors, now: float
    ) -> float | None:
        """Hear what came of a scrape; return after how many seconds to begin another round."""
        if target not in self.targets:
            return None
        fault = _fault(self._endpoint, page, selectors)
        if target == self._found:
            self._learn_of_the_found(fault is not None or kind in _SAYING_NO, now)
            return None
        if page.failure is None and _lacks(page, selectors):
            return None  # it was read before anybody asked for this
        if page.failure is None and fault is None:
            self._found, self._was_engine, self._lost_since = target, True, None
            self._pause_seconds = FIRST_PAUSE_SECONDS
            return None
        self._note(target, page, kind, fault)
        if self._at + 1 < len(self._candidates):
            self._at += 1
            return None
        return self._end_round()

    def scrape_results(self, pages: Mapping[Target, TargetHistory], selectors: Selectors) -> ScrapeResult | None:
        """Say what came of it."""
        if self._found is not None and self._found in pages:
            page = pages[self._found]
            self._told = ScrapeResult((_seen(page, _fault(self._endpoint, page, selectors)),))
        return self._told

    def _learn_of_the_found(self, is_no: bool, now: float) -> None:
        if not is_no:
            self._lost_since = None
        elif self._lost_since is None:
            self._lost_since = now
        elif now - self._lost_since >= LOST_SECONDS:
            self._found = None  # what was told of it stands until there is another
            self._begin_round()

    def _begin_round(self) -> None:
        self._is_resting, self._at = False, 0
        self._noes.clear()
        self._silences.clear()

    def _note(self, target: Target, page: TargetHistory, kind: FailureKind | None, fault: str | None) -> None:
        newest = page.newest if page.failure is None else None
        if newest is not None and newest.engine:
            self._was_engine = True  # one that was not meant, which must not pass for a pod without any
        if newest is not None or kind in _SAYING_NO:
            self._noes[target] = fault or page.failure or ""
            return
        self._silences[target] = page.failure or ""
        if self._told is None or self._told.is_no_engine:
            # Whatever the others answer, this one may be the engine: no need to wait for the end of the round.
            self._told = self._not_found()

    def _end_round(self) -> float:
        self._is_resting = True
        if self._told is None or not self._told.pages:
            self._told = self._not_found()
        pause, self._pause_seconds = self._pause_seconds, min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        return pause

    def _not_found(self) -> ScrapeResult:
        told = {**self._silences, **self._noes}
        listed = [f"port {target.url.port}{target.url.path}: {why}" for target, why in list(told.items())[:_NAMED]]
        more = f"; and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
        return ScrapeResult(
            failure=f"no engine is found: {'; '.join(listed)}{more}",
            is_no_engine=not self._silences and not self._was_engine,
        )


class UrlTargets:
    """Where a URL's page is: at one of the addresses its name has, or at each of them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url: Url | None = None
        self._addresses: tuple[str, ...] = ()
        self._count = 0
        self._chosen = 0
        self._failures = 0  # of the chosen one, in a row
        self._is_proven = False  # the chosen one has answered
        self._left = 0  # so many were left since one answered
        self._failure: str | None = None
        self._told: ScrapeResult | None = None

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is to be scraped now."""
        if self._url is None or not self._addresses:
            return ()
        if self._endpoint.every_address:
            return tuple(Target(self._url, address) for address in self._addresses)
        return (Target(self._url, self._addresses[self._chosen]),)

    @property
    def is_urgent(self) -> bool:
        """Whether there is hope: once every address was tried in vain, they are tried at the usual pace."""
        return self._left < max(1, len(self._addresses))

    @property
    def awaits_pages(self) -> bool:
        """Whether there is hope, as above."""
        return self.is_urgent

    async def look(self, resolves: Resolver) -> float | None:
        """Resolve the name anew; what it was before stands while it cannot be."""
        try:
            url = parse_url(self._endpoint.url)
            addresses = await resolves.resolve(url)
        except UrlError as error:
            self._failure = f"URL: {error}"
            return None
        except FetchError as error:
            self._failure = str(error)
            if error.kind is FailureKind.DENIED:
                self._addresses = ()
            return LOOK_AGAIN_SECONDS
        except Exception as error:  # whatever a resolver does, it is asked again
            self._failure = f"unexpected {type(error).__name__}: {str(error)[:200]}"
            return LOOK_AGAIN_SECONDS
        self._url, self._failure = url, None
        self._turn_to(addresses)
        return None if _is_address(url.host) else LOOK_AGAIN_SECONDS

    def learn(
        self, target: Target, page: TargetHistory, kind: FailureKind | None, selectors: Selectors, now: float
    ) -> float | None:
        """Hear what came of a scrape: where one address is enough and this one fails, the next one is tried."""
        if self._endpoint.every_address or target not in self.targets:
            return None
        if page.failure is None:
            self._failures, self._left, self._is_proven = 0, 0, True
            return None
        self._failures += 1
        if not self._is_proven or self._failures >= FORSAKEN_AFTER:
            self._told = ScrapeResult((page,))  # it stands until the next one was scraped
            self._choose((self._chosen + 1) % len(self._addresses))
            self._left += 1
        return None

    def scrape_results(self, pages: Mapping[Target, TargetHistory], selectors: Selectors) -> ScrapeResult | None:
        """Say what came of it; a page that was not scraped yet is not spoken of while others are."""
        meant = [pages[target] for target in self.targets if target in pages]
        found = [
            _seen(page, _fault(self._endpoint, page, selectors)) for page in meant if page.failure or page.readings
        ]
        if self._count > MAX_ADDRESSES and found:
            failure = f"the name has {self._count} addresses, and {MAX_ADDRESSES} are the most that are asked"
            found.append(TargetHistory(self._endpoint.url, failure=failure))
        if found:
            self._told = ScrapeResult(tuple(found))
        elif not self._addresses and self._failure:
            self._told = ScrapeResult(failure=self._failure)
        return self._told

    def _turn_to(self, addresses: tuple[str, ...]) -> None:
        chosen = self._addresses[self._chosen] if self._addresses else None
        # Sorted, because the DNS turns its answers round; one that answers is kept for as long as the name has it.
        if self._endpoint.every_address:
            addresses = _of_one_family(addresses)
        self._count = len(addresses)
        self._addresses = tuple(sorted(set(addresses)))[:MAX_ADDRESSES]
        if chosen in self._addresses:
            self._chosen = self._addresses.index(chosen)
        else:
            self._choose(0)

    def _choose(self, number: int) -> None:
        self._chosen, self._failures, self._is_proven = number, 0, False


def candidates(endpoint: Endpoint) -> Iterator[Target]:
    """Yield where a pod's engine may be, the likeliest first, each once and a bounded number."""
    assert endpoint.pod is not None  # noqa: S101 - a URL has one place only
    seen: set[tuple[int, str]] = set()
    for port, path in _ports_and_paths(endpoint):
        if (port, path) not in seen and len(seen) < MAX_CANDIDATES:
            seen.add((port, path))
            url = Url(endpoint.scheme or "http", endpoint.address, port, path)
            yield Target(url, endpoint.address, endpoint.pod.namespace, endpoint.pod.name)


def _ports_and_paths(endpoint: Endpoint) -> Iterator[tuple[int, str]]:
    engines = list(ENGINES.values()) if endpoint.engine == AUTO else [ENGINES[endpoint.engine]]
    paths = [endpoint.path or engine.path for engine in engines]
    if endpoint.port is not None:
        yield from ((endpoint.port, path) for path in paths)
        return
    own = list(zip((engine.port for engine in engines), paths, strict=True))
    yield from ((port, path) for port, path in own if port in endpoint.declared_ports or len(own) == 1)
    yield from ((port, paths[0]) for port in endpoint.declared_ports[:_MOST_DECLARED])
    yield from own


def _fault(endpoint: Endpoint, page: TargetHistory, selectors: Selectors) -> str | None:
    """Say why a page that was read is not what is meant, None where it is."""
    newest = page.newest if page.failure is None else None
    if newest is None or _has_one_of(newest, endpoint, selectors):
        return None
    if endpoint.engine == AUTO:
        return None if newest.engine else "it exports nothing of an engine that is known"
    if newest.engine == endpoint.engine or newest.engine in ENGINES[endpoint.engine].behind:
        return None
    if newest.engine:
        return f"it is a page of {newest.engine}, and not of {endpoint.engine}: correct `engine`, or name its port"
    return f"it exports nothing of {endpoint.engine}"


def _has_one_of(readings: EngineSample, endpoint: Endpoint, selectors: Selectors) -> bool:
    """Whether it is meant for its series; a URL is, whether they are there yet or not."""
    if endpoint.pod is None:
        return bool(selectors)
    return any(readings.selected.get(it.text) is not None for it in selectors)


def _seen(page: TargetHistory, fault: str | None) -> TargetHistory:
    return page if fault is None else TargetHistory(page.where, failure=fault)


def _lacks(page: TargetHistory, selectors: Selectors) -> bool:
    newest = page.newest
    return newest is not None and not all(it.text in newest.selected for it in selectors)


def _of_one_family(addresses: Collection[str]) -> tuple[str, ...]:
    """Leave out the smaller family: in a cluster of both, all have an address of each, and are to count once."""
    of_four = tuple(it for it in addresses if ":" not in it)
    of_six = tuple(it for it in addresses if ":" in it)
    return of_four if len(of_four) >= len(of_six) else of_six


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
