# SPDX-License-Identifier: Apache-2.0
"""May this address be connected to? A URL comes from whoever may write a ScaledObject.

The law of this module: it is the address that is judged, after its name was resolved and just before it is connected
to; and what leads to a machine's own secrets is refused whatever anybody allows.

Facts are from the clouds' documentation: AWS, GCP, Azure, Oracle and OpenStack serve metadata at 169.254.169.254 (link
local), AWS by IPv6 at fd00:ec2::254, GCP at fd20:ce::254, Alibaba at 100.100.100.200, Azure's host at 168.63.129.16,
Oracle's at 192.0.0.192.
"""

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
_MOST = 256


class AddressPolicyError(ValueError):
    """An address that is refused, or a setting that allows nothing; the message says why and what to do."""


def read_pattern(text: str) -> IPv4Network | IPv6Network | str:
    """Read a network, or a host name in which * and ? may stand for others.

    Raises:
        ValueError: it is neither; the message says what it must be.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        if not _NAME.fullmatch(text) or text.replace(".", "").isdigit():
            raise ValueError(
                "must be a network like 10.0.0.0/8, without bits beyond its length, or a host name like *.ai.svc"
            ) from None
        return text


def fits_name(pattern: str, host: str) -> bool:
    """Whether a host name is meant; the dot that may end a name, so that nothing is appended to it, says nothing."""
    return matches_glob(pattern.rstrip("."), host.rstrip("."))


class AddressPolicy:
    """Judges addresses.

    Args:
        allowed: networks and host names, with commas; None allows everything that is not refused always.

    Raises:
        GuardError: an entry is neither.
    """

    def __init__(self, allowed: str | None = None) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._names: list[str] = []
        self._is_listed = allowed is not None
        entries = [entry.strip() for entry in (allowed or "").split(",")] if allowed is not None else []
        for entry in entries:
            self._allow(entry, len(entries))

    def check_pod(self, address: str) -> None:
        """Judge a pod's address, which is the API server's word.

        Raises:
            GuardError: it is refused.
        """
        self._check_always(address, address)

    def check(self, host: str, address: str) -> None:
        """Judge an address that a URL's host resolved to.

        Raises:
            GuardError: it is refused.
        """
        at = self._check_always(host, address)
        if self._is_listed and not self._contains(at) and not any(fits_name(name, host) for name in self._names):
            raise AddressPolicyError(
                f"{_of(host, address)} is not among the endpoints that are allowed: list it with {FLAG} (chart: "
                "engines.allowEndpoints)"
            )

    def _allow(self, entry: str, count: int) -> None:
        if not entry or count > _MOST:
            raise AddressPolicyError(
                f"{FLAG}: Invalid value: {quoted(entry)}: must be networks (10.0.0.0/8) or host names (*.ai.svc), "
                f"{_MOST} at most, with commas"
            )
        try:
            pattern = read_pattern(entry)
        except ValueError as error:
            raise AddressPolicyError(f"{FLAG}: Invalid value: {quoted(entry)}: {error}") from None
        if isinstance(pattern, str):
            self._names.append(pattern)
        else:
            self._networks.append(pattern)

    def _contains(self, address: _Address) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)

    def _check_always(self, host: str, address: str) -> _Address:
        try:
            at = ipaddress.ip_address(address)
        except ValueError:
            raise AddressPolicyError(f"{_of(host, address)} is no address") from None
        for one in _meant(at):
            why = self._refused(one)
            if why:
                raise AddressPolicyError(f"{_of(host, address)} is {why}: name another host")
        return at

    def _refused(self, address: _Address) -> str | None:
        if address.is_link_local or address in _METADATA:
            return "link-local or serves a cloud's metadata, and is never asked"
        if address.is_multicast or address.is_unspecified or address == _BROADCAST or address in _THIS_NETWORK:
            return "no single machine's, and is never asked"
        if address.is_loopback and not self._contains(address):
            return f"this machine's own, and is asked only if {FLAG} lists its network"
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return "bound to one of this machine's interfaces, and is never asked"
        return None


def _meant(address: _Address) -> list[_Address]:
    """The address, and the one of IPv4 that is meant by it."""
    if isinstance(address, IPv4Address):
        return [address]
    meant: list[_Address] = [address]
    if address.ipv4_mapped:
        meant.append(address.ipv4_mapped)
    if address.sixtofour:
        meant.append(address.sixtofour)
    if address.teredo:
        meant += address.teredo
    if any(address in network for network in _NAT64) or (address in _COMPATIBLE and int(address) > 1):
        meant.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return meant


def _of(host: str, address: str) -> str:
    return quoted(host, 80) if host == address else f"{quoted(host, 80)} ({address})"
