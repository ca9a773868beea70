# SPDX-License-Identifier: Apache-2.0
"""Declares the targets of an endpoint, and finds those of a URL: one address of its host, or each.

Law: a name that cannot be resolved keeps its previous addresses, unless the address policy denies them.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.urls import Url, UrlError, parse_url
from keda_gpu_scaler.scrape.address_policy import is_address
from keda_gpu_scaler.scrape.page_match import Selectors, checked, mismatch_of
from keda_gpu_scaler.scrape.types import FailureKind, FetchError, ResolvedHost, Target

RESOLVE_INTERVAL_SECONDS = 5.0
"""The interval at which a host name is resolved again."""
MAX_ADDRESSES = 256
"""The number of addresses of one name that are scraped."""
MAX_CONSECUTIVE_FAILURES = 3
"""If one address is enough, an address that answered before is replaced after this number of failures in a row."""


class AddressResolver(Protocol):
    """Resolves host names."""

    async def resolve(self, url: Url, namespace: str | None) -> ResolvedHost:
        """Return the addresses of the host of a URL that a trigger of a namespace names; raises FetchError."""


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


class UrlTargets:
    """The targets of a URL: one address of its host, or each address."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url: Url | None = None
        self._addresses: tuple[str, ...] = ()
        self._is_own = self._has_credentials = False
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
            return tuple(map(self._target, self._addresses))
        return (self._target(self._addresses[self._chosen_index]),)

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
            found = await resolver.resolve(url, self._endpoint.namespace)
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
        self._is_own, self._has_credentials = found.is_own, found.has_credentials
        self._set_addresses(found.addresses)
        # The address of a pod may become that of a pod in another namespace, and the mounted credentials may change.
        is_lasting = not found.is_own and self._endpoint.credentials_namespace is None
        return None if is_lasting and is_address(url.host) else RESOLVE_INTERVAL_SECONDS

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
        found = [checked(it, mismatch_of(self._endpoint, it, selectors)) for it in scraped]
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

    def _target(self, address: str) -> Target:
        if self._url is None:
            raise RuntimeError("a target needs a URL, and it is not resolved yet")
        # Triggers of several namespaces share one target, except where the namespace decides about credentials.
        namespace = self._endpoint.credentials_namespace if self._has_credentials else None
        models, is_own = self._endpoint.models, self._is_own
        return Target(self._url, address, models=models, is_own=is_own, trigger_namespace=namespace)

    def _choose(self, index: int) -> None:
        self._chosen_index, self._failure_count, self._has_answered = index, 0, False


def _of_larger_family(addresses: Collection[str]) -> tuple[str, ...]:
    """Return the addresses of the larger IP family: in a dual-stack cluster a pod has one of each and counts once."""
    ipv4 = tuple(it for it in addresses if ":" not in it)
    ipv6 = tuple(it for it in addresses if ":" in it)
    return ipv4 if len(ipv4) >= len(ipv6) else ipv6
