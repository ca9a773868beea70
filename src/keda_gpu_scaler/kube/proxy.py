# SPDX-License-Identifier: Apache-2.0
"""Finds the proxy through which a command reaches an API server, as kubectl does.

Law: an address of this machine is never reached through a proxy of the environment.

client-go takes the kubeconfig's ``proxy-url``, and without it the environment (tools/clientcmd/client_config.go;
golang.org/x/net/http/httpproxy). A pod reaches its own API server without a proxy.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

SCHEMES = ("http", "https", "socks5", "socks5h")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_DEFAULT_PORTS = {"http": 80, "https": 443}


class ProxyError(ValueError):
    """A text is no proxy that can be used. The message says what it must be, and repeats nothing of the text."""


def checked_proxy(url: str) -> str:
    """Return the URL of a proxy; a host and port alone are those of an http proxy.

    Raises:
        ProxyError: it has another scheme, or no host.
    """
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        is_valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or parts.scheme not in SCHEMES:
        raise ProxyError(f"must be a URL with a host and one of the schemes {', '.join(SCHEMES)}")
    return url


def without_credentials(url: str) -> str:
    """Return the URL of a proxy without its user name and password, for messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def proxy_of_environment(server: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the variable that has the proxy for a server, and its value; both empty where there is none.

    Args:
        server: the URL of the server.
        environment: the variables ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``, or the same in lower case.
    """
    scheme = server.partition(":")[0]
    names = (f"{scheme.upper()}_PROXY", f"{scheme}_proxy")
    variable = next((name for name in names if environment.get(name)), "")
    exceptions = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    if not variable or _is_direct(server, exceptions):
        return "", ""
    return variable, environment[variable]


def _is_direct(server: str, exceptions: str) -> bool:
    """Whether a server is reached without a proxy: by its address, or because an entry of ``NO_PROXY`` has it."""
    try:
        parts = urlsplit(server)
        host, port = (parts.hostname or "").rstrip("."), str(parts.port or _DEFAULT_PORTS[parts.scheme])
    except ValueError:
        return True  # no server: the first request says so
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_has(entry.strip().lower(), host, port, address) for entry in exceptions.split(","))


def _has(entry: str, host: str, port: str, address: _Address | None) -> bool:
    """Whether an entry of ``NO_PROXY`` has a host: "*", an address, a network or a domain, perhaps with a port."""
    if entry == "*":
        return True
    if address is not None and "/" in entry:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, colon, wanted = entry.rpartition(":")
    if colon and wanted.isdigit() and _address(entry) is None:
        if wanted != port:
            return False
        entry = name
    entry = entry.removeprefix("[").removesuffix("]")
    if address is not None:
        return _address(entry) == address
    entry = entry.removeprefix("*").rstrip(".")
    if entry.startswith("."):
        return host.endswith(entry)
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
