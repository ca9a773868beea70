# SPDX-License-Identifier: Apache-2.0
"""Finds the targets of an endpoint: the port and path of an engine, or the addresses of a URL.

Law: a pod counts as one without an engine only after each candidate answered with another page or refused the
connection. A candidate that does not answer may be an engine.
"""

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import AUTO, Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engines import ENGINES
from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.core.urls import Url, UrlError, parse_url
from keda_gpu_scaler.scrape.types import FailureKind, FetchError, Target

RESOLVE_INTERVAL_SECONDS = 5.0
"""The interval at which a host name is resolved again."""
LOST_AFTER_SECONDS = 30.0
"""An engine that refuses connections for this time is searched for again."""
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 2.0, 30.0
MAX_CANDIDATES = 16
MAX_ADDRESSES = 256
"""The number of addresses of one name that are scraped."""
MAX_CONSECUTIVE_FAILURES = 3
"""If one address is enough, an address that answered before is replaced after this number of failures in a row."""
_MAX_DECLARED_PORTS = 4
_NO_ENGINE_KINDS = frozenset({FailureKind.REFUSED, FailureKind.ABSENT})
_MAX_LISTED = 2

Selectors = Collection[SeriesSelector]


class AddressResolver(Protocol):
    """Resolves host names."""

    async def resolve(self, url: Url) -> tuple[str, ...]:
        """Return the addresses of a URL's host; raises FetchError."""


class Targets(Protocol):
    """The targets of one endpoint, and the result of their scrapes."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets to scrape now."""

    @property
    def is_immediate(self) -> bool:
        """Whether a new target is scraped immediately, and not at its next regular time."""

    @property
    def is_waiting_for_scrapes(self) -> bool:
        """Whether the result is complete only after each target was scraped."""

    async def discover(self, resolver: AddressResolver) -> float | None:
        """Find the targets; return the seconds until the next call, None if ``update`` decides it."""

    def update(
        self, target: Target, history: TargetHistory, kind: FailureKind | None, selectors: Selectors, now: float
    ) -> float | None:
        """Process a scrape; return the seconds until the next ``discover``, None to keep the schedule."""

    def result(self, histories: Mapping[Target, TargetHistory], selectors: Selectors) -> ScrapeResult | None:
        """Return the result of the endpoint, None if there is no result yet."""


class PodTargets:
    """The target of a pod: the first candidate at which an engine answers."""

    is_immediate = True

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._candidates = tuple(candidates(endpoint))
        self._candidate_index = 0
        self._is_pausing = False
        self._without_engine: dict[Target, str] = {}
        self._unanswered: dict[Target, str] = {}
        self._engine_target: Target | None = None
        self._has_seen_engine = False
        self._refused_since_seconds: float | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._result: ScrapeResult | None = None

    @property
    def targets(self) -> tuple[Target, ...]:
        """The engine, or the next candidate while the engine is searched for."""
        if self._engine_target is not None:
            return (self._engine_target,)
        return () if self._is_pausing else (self._candidates[self._candidate_index],)

    @property
    def is_waiting_for_scrapes(self) -> bool:
        """Whether the engine was found. A search has a result at its own times."""
        return self._engine_target is not None

    async def discover(self, resolver: AddressResolver) -> float | None:
        """Begin a new search after the pause."""
        if self._is_pausing:
            self._begin_search()
        return None

    def update(
        self, target: Target, history: TargetHistory, kind: FailureKind | None, selectors: Selectors, now: float
    ) -> float | None:
        """Process a scrape; return the seconds until the next search, None to keep the schedule."""
        if target not in self.targets:
            return None
        mismatch = _mismatch(self._endpoint, history, selectors)
        if target == self._engine_target:
            self._update_engine(mismatch is not None or kind in _NO_ENGINE_KINDS, now)
            return None
        if history.failure is None and _has_unsearched(history, selectors):
            return None  # this page was read before these series were requested
        if history.failure is None and mismatch is None:
            self._engine_target, self._has_seen_engine, self._refused_since_seconds = target, True, None
            self._pause_seconds = FIRST_PAUSE_SECONDS
            return None
        self._reject_candidate(target, history, kind, mismatch)
        if self._candidate_index + 1 < len(self._candidates):
            self._candidate_index += 1
            return None
        return self._end_search()

    def result(self, histories: Mapping[Target, TargetHistory], selectors: Selectors) -> ScrapeResult | None:
        """Return the result of the pod, None if there is no result yet."""
        if self._engine_target is not None and self._engine_target in histories:
            history = histories[self._engine_target]
            self._result = ScrapeResult((_checked(history, _mismatch(self._endpoint, history, selectors)),))
        return self._result

    def _update_engine(self, is_absent: bool, now: float) -> None:
        if not is_absent:
            self._refused_since_seconds = None
        elif self._refused_since_seconds is None:
            self._refused_since_seconds = now
        elif now - self._refused_since_seconds >= LOST_AFTER_SECONDS:
            self._engine_target = None  # the last result remains until another engine is found
            self._begin_search()

    def _begin_search(self) -> None:
        self._is_pausing, self._candidate_index = False, 0
        self._without_engine.clear()
        self._unanswered.clear()

    def _reject_candidate(
        self, target: Target, history: TargetHistory, kind: FailureKind | None, mismatch: str | None
    ) -> None:
        newest = history.newest if history.failure is None else None
        if newest is not None and newest.engine:
            self._has_seen_engine = True  # another engine than the trigger's; the pod is not one without an engine
        if newest is not None or kind in _NO_ENGINE_KINDS:
            self._without_engine[target] = mismatch or history.failure or ""
            return
        self._unanswered[target] = history.failure or ""
        if self._result is None or self._result.is_no_engine:
            # This candidate may be the engine. No answer of another candidate can show that the pod has none.
            self._result = self._not_found()

    def _end_search(self) -> float:
        self._is_pausing = True
        if self._result is None or not self._result.targets:
            self._result = self._not_found()
        pause, self._pause_seconds = self._pause_seconds, min(2 * self._pause_seconds, MAX_PAUSE_SECONDS)
        return pause

    def _not_found(self) -> ScrapeResult:
        reasons = {**self._unanswered, **self._without_engine}
        listed = [
            f"port {target.url.port}{target.url.path}: {reason}"
            for target, reason in list(reasons.items())[:_MAX_LISTED]
        ]
        more = f"; and {len(reasons) - _MAX_LISTED} more" if len(reasons) > _MAX_LISTED else ""
        return ScrapeResult(
            failure=f"no engine is found: {'; '.join(listed)}{more}",
            is_no_engine=not self._unanswered and not self._has_seen_engine,
        )


class UrlTargets:
    """The targets of a URL: one address of its host, or each address."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url: Url | None = None
        self._addresses: tuple[str, ...] = ()
        self._address_count = 0
        self._chosen_index = 0
        self._failure_count = 0  # of the chosen address, in a row
        self._has_answered = False  # the chosen address
        self._switch_count = 0  # changes of the chosen address since the last answer
        self._failure: str | None = None
        self._result: ScrapeResult | None = None

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets to scrape now."""
        if self._url is None or not self._addresses:
            return ()
        if self._endpoint.every_address:
            return tuple(Target(self._url, address) for address in self._addresses)
        return (Target(self._url, self._addresses[self._chosen_index]),)

    @property
    def is_immediate(self) -> bool:
        """Whether an address is untried. After each address failed, they are tried at the regular interval."""
        return self._switch_count < max(1, len(self._addresses))

    @property
    def is_waiting_for_scrapes(self) -> bool:
        """Whether an address is untried, as above."""
        return self.is_immediate

    async def discover(self, resolver: AddressResolver) -> float | None:
        """Resolve the name again. The previous addresses remain if the name cannot be resolved."""
        try:
            url = parse_url(self._endpoint.url)
            addresses = await resolver.resolve(url)
        except UrlError as error:
            self._failure = f"URL: {error}"
            return None
        except FetchError as error:
            self._failure = str(error)
            if error.kind is FailureKind.DENIED:
                self._addresses = ()
            return RESOLVE_INTERVAL_SECONDS
        except Exception as error:  # a defect of the resolver must not end the retries
            self._failure = f"unexpected {type(error).__name__}: {str(error)[:200]}"
            return RESOLVE_INTERVAL_SECONDS
        self._url, self._failure = url, None
        self._set_addresses(addresses)
        return None if _is_address(url.host) else RESOLVE_INTERVAL_SECONDS

    def update(
        self, target: Target, history: TargetHistory, kind: FailureKind | None, selectors: Selectors, now: float
    ) -> float | None:
        """Process a scrape. If one address is enough and it fails, choose the next one."""
        if self._endpoint.every_address or target not in self.targets:
            return None
        if history.failure is None:
            self._failure_count, self._switch_count, self._has_answered = 0, 0, True
            return None
        self._failure_count += 1
        if not self._has_answered or self._failure_count >= MAX_CONSECUTIVE_FAILURES:
            self._result = ScrapeResult((history,))  # it remains until the next address was scraped
            self._choose((self._chosen_index + 1) % len(self._addresses))
            self._switch_count += 1
        return None

    def result(self, histories: Mapping[Target, TargetHistory], selectors: Selectors) -> ScrapeResult | None:
        """Return the result of the URL, without targets that are not scraped yet; None if there is no result yet."""
        scraped = [it for it in map(histories.get, self.targets) if it is not None and (it.failure or it.samples)]
        found = [_checked(it, _mismatch(self._endpoint, it, selectors)) for it in scraped]
        if self._address_count > MAX_ADDRESSES and found:
            failure = f"the name has {self._address_count} addresses; at most {MAX_ADDRESSES} are scraped"
            found.append(TargetHistory(self._endpoint.url, failure=failure))
        if found:
            self._result = ScrapeResult(tuple(found))
        elif not self._addresses and self._failure:
            self._result = ScrapeResult(failure=self._failure)
        return self._result

    def _set_addresses(self, addresses: tuple[str, ...]) -> None:
        chosen = self._addresses[self._chosen_index] if self._addresses else None
        if self._endpoint.every_address:
            addresses = _of_larger_family(addresses)
        self._address_count = len(addresses)
        # Sorted, because DNS servers rotate their answers. The chosen address is kept while the name has it.
        self._addresses = tuple(sorted(set(addresses)))[:MAX_ADDRESSES]
        if chosen in self._addresses:
            self._chosen_index = self._addresses.index(chosen)
        else:
            self._choose(0)

    def _choose(self, index: int) -> None:
        self._chosen_index, self._failure_count, self._has_answered = index, 0, False


def candidates(endpoint: Endpoint) -> Iterator[Target]:
    """Yield the targets at which the engine of a pod may answer: likely ones first, each once, a bounded number."""
    if endpoint.pod is None:
        raise ValueError("the endpoint is a URL, and only a pod has candidates")
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
    defaults = list(zip((engine.port for engine in engines), paths, strict=True))
    yield from ((port, path) for port, path in defaults if port in endpoint.declared_ports or len(defaults) == 1)
    yield from ((port, paths[0]) for port in endpoint.declared_ports[:_MAX_DECLARED_PORTS])
    yield from defaults


def _mismatch(endpoint: Endpoint, history: TargetHistory, selectors: Selectors) -> str | None:
    """Return why a page that was read is not the page of the endpoint, None if it is."""
    newest = history.newest if history.failure is None else None
    if newest is None or _has_requested_series(newest, endpoint, selectors):
        return None
    if endpoint.engine == AUTO:
        return None if newest.engine else "the page has no series of a known engine"
    if newest.engine == endpoint.engine or newest.engine in ENGINES[endpoint.engine].behind:
        return None
    if newest.engine:
        return f"the page is of {newest.engine}, not of {endpoint.engine}: correct `engine`, or set the engine's port"
    return f"the page has no series of {endpoint.engine}"


def _has_requested_series(sample: EngineSample, endpoint: Endpoint, selectors: Selectors) -> bool:
    """Whether the page is accepted for its series. A URL is accepted before the requested series appear."""
    if endpoint.pod is None:
        return bool(selectors)
    return any(sample.selected.get(it.text) is not None for it in selectors)


def _checked(history: TargetHistory, mismatch: str | None) -> TargetHistory:
    return history if mismatch is None else TargetHistory(history.url, failure=mismatch)


def _has_unsearched(history: TargetHistory, selectors: Selectors) -> bool:
    newest = history.newest
    return newest is not None and not all(it.text in newest.selected for it in selectors)


def _of_larger_family(addresses: Collection[str]) -> tuple[str, ...]:
    """Return the addresses of the larger IP family: in a dual-stack cluster a pod has one of each and counts once."""
    ipv4 = tuple(it for it in addresses if ":" not in it)
    ipv6 = tuple(it for it in addresses if ":" in it)
    return ipv4 if len(ipv4) >= len(ipv6) else ipv6


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
