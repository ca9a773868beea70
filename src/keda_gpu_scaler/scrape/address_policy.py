# SPDX-License-Identifier: Apache-2.0
"""Decides which addresses may be scraped.

Law: the policy checks the resolved address, just before the connection, and never only the name. An address that gives
access to the secrets of a machine is refused, even if the operator lists it. Every author of a ScaledObject can name a
URL.

Facts are from the documentation of the clouds. AWS, GCP, Azure, Oracle and OpenStack serve metadata at 169.254.169.254
(link-local). AWS serves it over IPv6 at fd00:ec2::254, GCP at fd20:ce::254, Alibaba at 100.100.100.200, the Azure host
at 168.63.129.16 and Oracle at 192.0.0.192.
"""

import functools
import ipaddress
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.selectors import matches_glob

FLAG = "--allow-endpoints"
_Address = IPv4Address | IPv6Address
_METADATA = frozenset(
    map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = IPv6Network("::/96")
_BROADCAST = IPv4Address("255.255.255.255")
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_NAME = re.compile(r"[A-Za-z0-9_.*?-]+", re.ASCII)
_MAX_ENTRIES = 256
_MAX_CHECKED = 4_096  # addresses that passed the rules, which never change; the same ones are scraped again and again


class AddressPolicyError(ValueError):
    """An address is refused, or the setting is not valid; the message says why, and how to correct it."""


def parse_pattern(text: str) -> IPv4Network | IPv6Network | str:
    """Parse a network, or a host name with the wildcards * and ?.

    Raises:
        ValueError: the text is neither; the message says what it must be.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        if not _NAME.fullmatch(text) or text.replace(".", "").isdigit():
            raise ValueError(
                "must be a network like 10.0.0.0/8, without host bits, or a host name like *.ai.svc"
            ) from None
        return text


def matches_host(pattern: str, host: str) -> bool:
    """Whether a host name matches a pattern. A final dot, which marks a name as fully qualified, is ignored."""
    return matches_glob(pattern.rstrip("."), host.rstrip("."))


class AddressPolicy:
    """Checks addresses against the rules above and against the operator's list.

    Args:
        allowed: networks and host names, separated by commas. None allows each address that no rule refuses.

    Raises:
        AddressPolicyError: an entry is neither a network nor a host name.
    """

    def __init__(self, allowed: str | None = None) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._names: list[str] = []
        self._is_listed = allowed is not None
        entries = [entry.strip() for entry in (allowed or "").split(",")] if allowed is not None else []
        for entry in entries:
            self._allow(entry, len(entries))
        self._check_rules = functools.lru_cache(maxsize=_MAX_CHECKED)(self._check_rules_now)

    def check_pod(self, address: str) -> None:
        """Check the address of a pod, which comes from the API server; the list does not apply.

        Raises:
            AddressPolicyError: the address is refused.
        """
        self._check_rules(address, address)

    def check(self, host: str, address: str) -> None:
        """Check an address to which the host of a URL resolves.

        Raises:
            AddressPolicyError: the address is refused.
        """
        parsed = self._check_rules(host, address)
        if self._is_listed and not self._contains(parsed) and not any(matches_host(name, host) for name in self._names):
            raise AddressPolicyError(
                f"{_label(host, address)} is not among the allowed endpoints: list it with {FLAG} (chart: "
                "engines.allowEndpoints)"
            )

    def _allow(self, entry: str, count: int) -> None:
        if not entry or count > _MAX_ENTRIES:
            raise AddressPolicyError(
                f"{FLAG}: Invalid value: {quoted(entry)}: must be networks (10.0.0.0/8) or host names (*.ai.svc), "
                f"separated by commas, {_MAX_ENTRIES} at most"
            )
        try:
            pattern = parse_pattern(entry)
        except ValueError as error:
            raise AddressPolicyError(f"{FLAG}: Invalid value: {quoted(entry)}: {error}") from None
        if isinstance(pattern, str):
            self._names.append(pattern)
        else:
            self._networks.append(pattern)

    def _contains(self, address: _Address) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)

    def _check_rules_now(self, host: str, address: str) -> _Address:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            raise AddressPolicyError(f"{_label(host, address)} is not an IP address") from None
        for candidate in _with_embedded(parsed):
            reason = self._refusal(candidate)
            if reason:
                raise AddressPolicyError(f"{_label(host, address)} is {reason}: name another host")
        return parsed

    def _refusal(self, address: _Address) -> str | None:
        if address.is_link_local or address in _METADATA:
            return "a link-local or cloud metadata address, which is never scraped"
        if address.is_multicast or address.is_unspecified or address == _BROADCAST or address in _THIS_NETWORK:
            return "not the address of a single machine, and is never scraped"
        if address.is_loopback and not self._contains(address):
            return f"an address of this machine, which is scraped only if {FLAG} lists its network"
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return "bound to a network interface of this machine, and is never scraped"
        return None


def _with_embedded(address: _Address) -> list[_Address]:
    """Return the address, and each IPv4 address that it embeds."""
    if isinstance(address, IPv4Address):
        return [address]
    found: list[_Address] = [address]
    if address.ipv4_mapped:
        found.append(address.ipv4_mapped)
    if address.sixtofour:
        found.append(address.sixtofour)
    if address.teredo:
        found += address.teredo
    if any(address in network for network in _NAT64) or (address in _COMPATIBLE and int(address) > 1):
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return found


def _label(host: str, address: str) -> str:
    return quoted(host, 80) if host == address else f"{quoted(host, 80)} ({address})"
