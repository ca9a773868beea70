# SPDX-License-Identifier: Apache-2.0
"""Resolves host names to the addresses that may be scraped.

Law: a DNS server that does not answer blocks no other resolution and no shutdown.
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.address_policy import AddressPolicy, AddressPolicyError
from keda_gpu_scaler.scrape.types import FailureKind, FetchError

MAX_CONCURRENT_LOOKUPS = 32
"""The number of names that are resolved at the same time."""
Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Returns the addresses of a host name and port; raises OSError."""
_lookup_slots = threading.BoundedSemaphore(MAX_CONCURRENT_LOOKUPS)


async def allowed_addresses(url: Url, policy: AddressPolicy, lookup: Lookup, timeout_seconds: float) -> tuple[str, ...]:
    """Return the addresses of a URL's host that the policy allows, each once, in the order of the lookup.

    Raises:
        FetchError: there is no such address.
    """
    host = quoted(url.host, 80)
    try:
        async with asyncio.timeout(timeout_seconds):
            addresses = list(dict.fromkeys(await lookup(url.host, url.port)))
    except TimeoutError:
        raise FetchError(f"{host} was not resolved within {timeout_seconds:g} s") from None
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise FetchError(f"{host} cannot be resolved: {reason}") from None
    allowed, refusal = [], None
    for address in addresses:
        try:
            policy.check(url.host, address)
            allowed.append(address)
        except AddressPolicyError as error:
            refusal = error
    if allowed:
        return tuple(allowed)
    if refusal is not None:
        raise FetchError(str(refusal), FailureKind.DENIED)
    raise FetchError(f"{host} has no address")


async def system_lookup(host: str, port: int) -> list[str]:
    """Return the addresses from the system's resolver, which queries the cluster's DNS.

    Each lookup runs in a thread of its own. A DNS server that does not answer blocks a thread for half a minute. In the
    event loop's shared pool a few such names would delay all other lookups and the end of the process.

    Raises:
        OSError: the name has no address, or too many names are being resolved.
    """
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    if not _lookup_slots.acquire(blocking=False):
        raise OSError(f"{MAX_CONCURRENT_LOOKUPS} names are being resolved, which is the limit")
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[list[str]] = loop.create_future()

    def lookup() -> None:
        addresses: list[str] = []
        failure: Exception | None = None
        try:
            addresses = [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            failure = error
        finally:
            _lookup_slots.release()
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(_complete, outcome, addresses, failure)

    threading.Thread(target=lookup, name="resolve", daemon=True).start()
    return await outcome


def _complete(outcome: asyncio.Future[list[str]], addresses: list[str], failure: Exception | None) -> None:
    if outcome.done():
        return  # the caller was cancelled
    if failure is not None:
        outcome.set_exception(failure)
    else:
        outcome.set_result(addresses)
