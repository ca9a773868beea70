# SPDX-License-Identifier: Apache-2.0
"""Resolves host names to the addresses that may be scraped.

Law: a DNS server that does not answer blocks no other resolution and no shutdown.
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.address_policy import AddressPolicy, AddressPolicyError
from keda_gpu_scaler.scrape.ownership import Ownership
from keda_gpu_scaler.scrape.types import FailureKind, FetchError, ResolvedHost

MAX_CONCURRENT_LOOKUPS = 32
"""The number of names that are resolved at the same time."""


@dataclass(frozen=True, slots=True)
class LookupAnswer:
    """The addresses of a host name. ``canonical_name`` is the name at the end of its aliases, empty if not known."""

    addresses: tuple[str, ...]
    canonical_name: str = ""


Lookup = Callable[[str, int], Awaitable[LookupAnswer]]
"""Looks up a host name and port; raises OSError."""
_lookup_slots = threading.BoundedSemaphore(MAX_CONCURRENT_LOOKUPS)


class HostResolver:
    """Resolves the hosts of URLs.

    Args:
        policy: the addresses that are allowed.
        ownership: what the namespace of a trigger owns.
        lookup: looks up a name.
        timeout_seconds: limit for one lookup.
    """

    def __init__(self, policy: AddressPolicy, ownership: Ownership, lookup: Lookup, timeout_seconds: float) -> None:
        self._policy = policy
        self._ownership = ownership
        self._lookup = lookup
        self._timeout_seconds = timeout_seconds

    async def resolve(self, url: Url, namespace: str | None) -> ResolvedHost:
        """Return the addresses of a URL's host that are allowed, each once, in the order of the lookup.

        Args:
            url: the URL.
            namespace: that of the trigger that names the URL; None where it is not known.

        Raises:
            FetchError: there is no such address.
        """
        service = self._ownership.service(url.host, namespace)
        is_own = self._ownership.owns_address(url.host, namespace)
        try:
            if service is None and not is_own:
                self._policy.check_name(url.host, namespace)
            answer = await self._looked_up(url, service or url.host)
            is_own = is_own or (service is not None and self._ownership.owns_name(service, answer.canonical_name))
            return ResolvedHost(self._allowed(url, answer, namespace, is_own=is_own), is_own)
        except AddressPolicyError as error:
            raise FetchError(str(error), FailureKind.DENIED) from None

    def _allowed(self, url: Url, answer: LookupAnswer, namespace: str | None, *, is_own: bool) -> tuple[str, ...]:
        allowed, refusal = [], None
        for address in dict.fromkeys(answer.addresses):
            try:
                if is_own:
                    self._policy.check_own(url.host, address, url.port)
                else:
                    self._policy.check(url.host, address, url.port, namespace)
                allowed.append(address)
            except AddressPolicyError as error:
                refusal = error
        if not allowed:
            raise refusal or FetchError(f"{quoted(url.host, 80)} has no address")
        return tuple(allowed)

    async def _looked_up(self, url: Url, name: str) -> LookupAnswer:
        host = quoted(name, 80)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._lookup(name, url.port)
        except TimeoutError:
            raise FetchError(f"{host} was not resolved within {self._timeout_seconds:g} s") from None
        except (OSError, UnicodeError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise FetchError(f"{host} cannot be resolved: {reason}") from None


async def system_lookup(host: str, port: int) -> LookupAnswer:
    """Return the addresses from the system's resolver, which queries the cluster's DNS.

    Each lookup runs in a thread of its own. A DNS server that does not answer blocks a thread for half a minute. In the
    event loop's shared pool a few such names would delay all other lookups and the end of the process.

    Raises:
        OSError: the name has no address, or too many names are being resolved.
    """
    with contextlib.suppress(ValueError):
        return LookupAnswer((str(ipaddress.ip_address(host)),))
    if not _lookup_slots.acquire(blocking=False):
        raise OSError(f"{MAX_CONCURRENT_LOOKUPS} names are being resolved, which is the limit")
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[LookupAnswer] = loop.create_future()

    def lookup() -> None:
        answer = LookupAnswer(())
        failure: Exception | None = None
        try:
            answer = _answer(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME))
        except (OSError, UnicodeError) as error:
            failure = error
        finally:
            _lookup_slots.release()
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(_complete, outcome, answer, failure)

    threading.Thread(target=lookup, name="resolve", daemon=True).start()
    return await outcome


def _answer(found: Iterable[tuple[Any, ...]]) -> LookupAnswer:
    entries = list(found)
    names = [str(name) for _, _, _, name, _ in entries if name]  # the first entry alone has it
    return LookupAnswer(tuple(str(address[0]) for *_, address in entries), names[0] if names else "")


def _complete(outcome: asyncio.Future[LookupAnswer], answer: LookupAnswer, failure: Exception | None) -> None:
    if outcome.done():
        return  # the caller was cancelled
    if failure is not None:
        outcome.set_exception(failure)
    else:
        outcome.set_result(answer)
