# SPDX-License-Identifier: Apache-2.0
"""Decides which addresses may be scraped.

Law: the policy checks the resolved address, just before the connection, and never only the name. An address that gives
access to the secrets of a machine is refused, even if the operator lists it. Every author of a ScaledObject can name a
URL.

A URL of a trigger whose namespace is known leads to what that namespace owns (``ownership``) and to what the operator
lists. Without the namespace, as without access to the API server, the list alone decides, and without a list all
other addresses are allowed.

Facts are from the documentation of the clouds. AWS, GCP, Azure, Oracle and OpenStack serve metadata at 169.254.169.254
(link-local). AWS serves it over IPv6 at fd00:ec2::254 and the credentials of EKS's pods at fd00:ec2::23, GCP at
fd20:ce::254, Scaleway at fd00:42::42, Alibaba at 100.100.100.200 and fd00:100::100:200, Volcano Engine at 100.96.0.96,
Akamai at fd00:a9fe:a9fe::1, the Azure host at 168.63.129.16 and Oracle at 192.0.0.192 and fd00:c1::a9fe:a9fe.

The ports of the node's and the control plane's components are from Kubernetes' "Ports and Protocols" and the
components' flags; 10254, which ingress-nginx uses, is not among them.
"""

import ipaddress
import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from keda_gpu_scaler.core.idle_cache import cached_while_used
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.selectors import matches_glob

FLAG = "--allow-endpoints"
_Address = IPv4Address | IPv6Address
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            *("100.96.0.96", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
            *("fd20:ce::254", "fd00:42::42", "fd00:c1::a9fe:a9fe", "fd00:100::100:200", "fd00:a9fe:a9fe::1"),
        ),
    )
)
_METADATA_NETWORKS = (IPv6Network("fd00:ec2::/32"),)  # of AWS: metadata, credentials of pods, time, DNS
_COMPONENT_PORTS = frozenset({2379, 2380, 2381, 6443, *range(10248, 10253), *range(10255, 10260)})
_API_SERVER = "kubernetes.default"
_NAT64, _NAT64_LOCAL = IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = IPv6Network("::/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
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
        allowed: networks and host names, separated by commas; None where the operator lists none.
        api_servers: addresses and ports of the API server.

    Raises:
        AddressPolicyError: an entry is neither a network nor a host name.
    """

    def __init__(self, allowed: str | None = None, *, api_servers: Collection[tuple[str, int]] = ()) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._names: list[str] = []
        self._is_listed = allowed is not None
        self._api_servers = frozenset(api_servers)
        entries = [entry.strip() for entry in (allowed or "").split(",")] if allowed is not None else []
        for entry in entries:
            self._allow(entry, len(entries))
        self._check_rules = cached_while_used(_MAX_CHECKED)(self._check_rules_now)

    def check_pod(self, address: str, port: int) -> None:
        """Check the address of a pod, which comes from the API server; the list does not apply.

        Raises:
            AddressPolicyError: the address is refused.
        """
        self._check_rules(address, address, port)

    def check_own(self, host: str, address: str, port: int) -> None:
        """Check an address that the namespace of the trigger owns; the list does not apply.

        Raises:
            AddressPolicyError: the address is refused.
        """
        self._check_rules(host, address, port)

    def check_name(self, host: str, namespace: str | None) -> None:
        """Check a host that the namespace of the trigger does not own, before it is resolved.

        Raises:
            AddressPolicyError: no address of this host can be allowed.
        """
        is_number = is_address(host)
        if namespace is not None and not self._networks and not is_number and not self._names_host(host):
            raise AddressPolicyError(_not_own(host, namespace))

    def check(self, host: str, address: str, port: int, namespace: str | None) -> None:
        """Check an address to which the host of a URL resolves, and which the namespace of the trigger does not own.

        Raises:
            AddressPolicyError: the address is refused.
        """
        parsed = self._check_rules(host, address, port)
        if self._contains(parsed) or self._names_host(host):
            return
        if namespace is not None:
            raise AddressPolicyError(_not_own(host, namespace))
        if self._is_listed:
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

    def _names_host(self, host: str) -> bool:
        return any(matches_host(name, host) for name in self._names)

    def _check_rules_now(self, host: str, address: str, port: int) -> _Address:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            raise AddressPolicyError(f"{_label(host, address)} is not an IP address") from None
        for candidate in _with_embedded(parsed):
            reason = self._refusal(candidate)
            if reason:
                raise AddressPolicyError(f"{_label(host, address)} is {reason}: name another host")
            if port in _COMPONENT_PORTS or (str(candidate), port) in self._api_servers or _is_api_server(host):
                raise AddressPolicyError(
                    f"{_label(host, address)}, port {port}: belongs to the API server, the kubelet or another "
                    "component of Kubernetes, which is never scraped: name another host or port"
                )
        return parsed

    def _refusal(self, address: _Address) -> str | None:
        is_metadata = address in _METADATA or any(address in network for network in _METADATA_NETWORKS)
        if address.is_link_local or is_metadata:
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
    number = int(address)
    last, middle = number & 0xFFFFFFFF, (number >> 64 & 0xFFFF) << 16 | number >> 40 & 0xFFFF
    if address in _NAT64_LOCAL:  # a prefix in it has 48 bits, with the address around bits 64 to 71, or 96 (RFC 6052)
        found += [IPv4Address(it) for it in (last, middle) if it >> 16]
    is_last = address in _NAT64 or address in _TRANSLATED or (number >> 32) & 0xFFFFFFFF in _ISATAP
    if is_last or (address in _COMPATIBLE and number > 1):
        found.append(IPv4Address(last))
    return found


def _label(host: str, address: str) -> str:
    return quoted(host, 80) if host == address else f"{quoted(host, 80)} ({address})"


def _not_own(host: str, namespace: str) -> str:
    """Say that the host belongs to another namespace, and which rule allows it. The address is not named."""
    return (
        f"{quoted(host, 80)} leads to no Service and no watched pod of the trigger's namespace {quoted(namespace, 63)}"
        f": the operator may allow it with {FLAG}={_entry(host)} (chart: engines.allowEndpoints)"
    )


def _entry(host: str) -> str:
    """Return a host as an entry of the list: hosts of parsed URLs have no other characters."""
    return host.rstrip(".") if _NAME.fullmatch(host) or is_address(host) else quoted(host, 80)


def _is_api_server(host: str) -> bool:
    name = host.rstrip(".")
    return name == _API_SERVER or name.startswith(f"{_API_SERVER}.svc")


def is_address(host: str) -> bool:
    """Whether a host is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
