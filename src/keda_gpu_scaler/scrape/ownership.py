# SPDX-License-Identifier: Apache-2.0
"""Decides which hosts of URLs belong to the namespace of a trigger.

Law: a namespace owns its Services, by their names, and its pods, by the addresses that the API server reports. It does
not own what a name of its own leads to by an alias: a Service of type ExternalName names any host.

A DNS server returns an alias as a CNAME record, and a resolver returns the name at its end as the canonical name
(RFC 1034, 3.6.2; CoreDNS, plugin/kubernetes).
"""

import ipaddress
from collections.abc import Callable, Collection

from keda_gpu_scaler.core.urls import CLUSTER_DOMAIN, service_name


class Ownership:
    """Knows what a namespace owns.

    Args:
        pod_addresses: returns the addresses of the watched pods of a namespace.
        cluster_domain: the domain of the cluster's Services.
    """

    def __init__(
        self,
        pod_addresses: Callable[[str], Collection[str]] = lambda namespace: (),
        cluster_domain: str = CLUSTER_DOMAIN,
    ) -> None:
        self._pod_addresses = pod_addresses
        self._cluster_domain = cluster_domain

    def service(self, host: str, namespace: str | None) -> str | None:
        """Return the name to resolve where a host names a Service of the namespace, else None."""
        return service_name(host, namespace, self._cluster_domain) if namespace else None

    def owns_name(self, service: str, canonical_name: str) -> bool:
        """Whether the canonical name of a Service is its own, and not that of an alias."""
        name = canonical_name.lower().rstrip(".")
        return name in (service, f"{service}.{self._cluster_domain}")

    def owns_address(self, address: str, namespace: str | None) -> bool:
        """Whether a watched pod of the namespace has this address."""
        if not namespace:
            return False
        return _parsed(address) in map(_parsed, self._pod_addresses(namespace))


def cluster_domain(resolver_configuration: str) -> str:
    """Return the domain of the cluster from the text of resolv.conf, where kubelet lists it as "svc.DOMAIN"."""
    for line in resolver_configuration.splitlines():
        key, *domains = line.split()[:20] or [""]
        found = [it.removeprefix("svc.").rstrip(".") for it in domains if it.startswith("svc.")]
        if key == "search" and found:
            return found[0].lower()
    return CLUSTER_DOMAIN


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return address
