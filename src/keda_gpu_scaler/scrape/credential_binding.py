# SPDX-License-Identifier: Apache-2.0
"""Reads and compares what credentials are bound to: hosts, ports, paths and namespaces.

Law: what is not listed is not allowed. The author of a ScaledObject chooses host, port and path of a URL, and the
namespace is that of the trigger. A path has one interpretation only, or no credentials are sent to it.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.urls import MAX_PORT
from keda_gpu_scaler.scrape.address_policy import matches_host, parse_pattern
from keda_gpu_scaler.scrape.types import Target

HOSTS, PORTS, PATHS, NAMESPACES = "hosts", "ports", "paths", "namespaces"
DEFAULT_PATH = "/metrics"
EVERY = "*"
PODS = "pods:"
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_OF_SERVICE = re.compile(r"(?:.*\.)?(?P<namespace>[a-z0-9-]+)\.svc(?:\.[a-z0-9.-]+)?\.?", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,=:@-]+", re.ASCII)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)


class BindingError(ValueError):
    """A file of the binding cannot be used; ``file`` is its name, and the text says why."""

    def __init__(self, file: str, reason: str) -> None:
        self.file = file
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class BoundHost:
    """A host name pattern or a network, and the namespaces whose triggers may name it; None for every trigger."""

    pattern: str | IPv4Network | IPv6Network
    namespaces: frozenset[str] | None

    def matches(self, host: str) -> bool:
        """Whether a URL's host matches.

        A network matches only a URL that contains an IP address. It does not match the addresses of a host name,
        because the owner of the name chooses these addresses.
        """
        if isinstance(self.pattern, str):
            return matches_host(self.pattern, host)
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address in self.pattern


@dataclass(frozen=True, slots=True)
class Binding:
    """What the credentials of one Secret are bound to.

    ``pod_namespaces`` are the namespaces whose pods receive them. ``ports`` and ``paths`` are None where any fits;
    ``paths`` are the segments of each path. ``is_secret`` is false for a CA, which is not sent.
    """

    hosts: tuple[BoundHost, ...] = ()
    pod_namespaces: frozenset[str] = frozenset()
    ports: frozenset[int] | None = None
    paths: tuple[tuple[str, ...], ...] | None = None
    is_secret: bool = False

    def is_for_host(self, host: str) -> bool:
        """Whether a URL with this host may receive the credentials, at some port and path, for some trigger."""
        return any(it.matches(host) for it in self.hosts)

    def fits(self, target: Target) -> bool:
        """Whether the credentials are sent to a target."""
        return self.is_for_place(target) and self.misfit(target) is None

    def is_for_place(self, target: Target) -> bool:
        """Whether the host or the pod of a target is listed."""
        if target.namespace is not None:
            return target.namespace in self.pod_namespaces
        return self.is_for_host(target.url.host)

    def misfit(self, target: Target) -> str | None:
        """Return why a listed host or pod does not receive the credentials, with the file; None if it receives them."""
        if self.ports is not None and target.url.port not in self.ports:
            return f"port {target.url.port}: list it in their file {PORTS}"
        if self.paths is not None and not _is_within(target.url.path, self.paths):
            return f"this path: list it in their file {PATHS}"
        if not self._allows_trigger(target):
            if target.trigger_namespace is None:
                return "a trigger that no ScaledObject declares"
            return f"the namespace {quoted(target.trigger_namespace, 63)}: list it in their file {NAMESPACES}"
        return None

    def _allows_trigger(self, target: Target) -> bool:
        if self.is_secret and target.trigger_namespace is None:
            return False
        if target.namespace is not None:
            return not self.is_secret or target.trigger_namespace == target.namespace
        allowed = [it.namespaces for it in self.hosts if it.matches(target.url.host)]
        return any(it is None or target.trigger_namespace in it for it in allowed)


def read_binding(
    hosts: str, *, ports: str | None, paths: str | None, namespaces: str | None, is_secret: bool
) -> Binding:
    """Read the files of a binding.

    Args:
        hosts: the text of the file of this name, as are the next three; None where there is no such file.
        ports: required for what is secret.
        paths: without it ``DEFAULT_PATH`` is the path of what is secret.
        namespaces: required for what is secret, unless each host is that of a Service, whose namespace counts then.
        is_secret: whether the Secret has a token or a certificate of a client, and not merely a CA.

    Raises:
        BindingError: a file is missing or invalid.
    """
    lines = _lines(hosts)
    if not lines:
        raise BindingError(
            HOSTS,
            "Required value: list the hosts of these credentials, one per line: a name (*.ai.svc), a network "
            "(10.0.0.0/8) or pods:NAMESPACE",
        )
    ports, paths, namespaces = (text if text and _lines(text) else None for text in (ports, paths, namespaces))
    if is_secret and ports is None:
        raise BindingError(PORTS, "Required value: list the ports of these credentials, one per line, such as 8000")
    listed = None if namespaces is None else frozenset(_namespace(NAMESPACES, line) for line in _lines(namespaces))
    if paths is None and is_secret:
        paths = DEFAULT_PATH
    return Binding(
        hosts=tuple(_host(line, listed, is_secret=is_secret) for line in lines if not line.startswith(PODS)),
        pod_namespaces=frozenset(_pods_namespace(line) for line in lines if line.startswith(PODS)),
        ports=None if ports is None else frozenset(map(_port, _lines(ports))),
        paths=None if paths is None else tuple(map(_prefix, _lines(paths))),
        is_secret=is_secret,
    )


def segments(path: str) -> tuple[str, ...] | None:
    """Return the segments of a path without its query; None where servers may read the path in different ways.

    These are paths with an empty segment, "." or "..", an escape (%2e), a backslash or a parameter (;).
    """
    parts = path.partition("?")[0].removeprefix("/").split("/")
    if not parts[-1]:
        parts.pop()  # a final slash
    if any(not _SEGMENT.fullmatch(part) or part in (".", "..") for part in parts):
        return None
    return tuple(parts)


def _is_within(path: str, prefixes: Iterable[tuple[str, ...]]) -> bool:
    found = segments(path)
    return found is not None and any(found[: len(prefix)] == prefix for prefix in prefixes)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _host(line: str, listed: frozenset[str] | None, *, is_secret: bool) -> BoundHost:
    try:
        pattern = parse_pattern(line)
    except ValueError as error:
        raise BindingError(HOSTS, f"Invalid value: {quoted(line)}: {error}, or pods:NAMESPACE") from None
    if listed is not None:
        return BoundHost(pattern, None if EVERY in listed else listed)
    if not is_secret:
        return BoundHost(pattern, None)
    service = _OF_SERVICE.fullmatch(pattern.lower()) if isinstance(pattern, str) else None
    if service is None:
        raise BindingError(
            NAMESPACES,
            f"Required value: {quoted(line)} in the file hosts is not in one namespace: list the namespaces whose "
            "triggers may use these credentials, one per line, or * for every namespace",
        )
    return BoundHost(pattern, frozenset({service["namespace"]}))


def _namespace(file: str, line: str) -> str:
    if line != EVERY and not _NAMESPACE.fullmatch(line):
        raise BindingError(file, f"Invalid value: {quoted(line)}: must be the name of a namespace, or {EVERY}")
    return line


def _pods_namespace(line: str) -> str:
    namespace = line.removeprefix(PODS)
    if not _NAMESPACE.fullmatch(namespace):
        raise BindingError(HOSTS, f"Invalid value: {quoted(line)}: must name one namespace after {PODS}")
    return namespace


def _port(line: str) -> int:
    if not _PORT.fullmatch(line) or int(line) > MAX_PORT:
        raise BindingError(PORTS, f"Invalid value: {quoted(line)}: must be a port from 1 to {MAX_PORT}")
    return int(line)


def _prefix(line: str) -> tuple[str, ...]:
    found = segments(line)
    if not line.startswith("/") or "?" in line or found is None:
        raise BindingError(
            PATHS,
            f"Invalid value: {quoted(line)}: must be a path like {DEFAULT_PATH}, without a query, an escape (%) and .. "
            "in it",
        )
    return found
