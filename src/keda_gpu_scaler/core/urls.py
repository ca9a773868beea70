# SPDX-License-Identifier: Apache-2.0
"""Parses URLs that may be scraped.

Law: an accepted URL has one interpretation only. A URL that another parser could read as another host is refused.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

MAX_URL_LENGTH = 2048
MAX_PORT = 65535
CLUSTER_DOMAIN = "cluster.local"
"""The usual domain of a cluster's Services."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\.?\Z)(?:{_LABEL}\.)*{_LABEL}\.?")
_NUMERIC_LABEL = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)\.?")
_BRACKETED = re.compile(r"\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")
_PRINTABLE = re.compile(r"[!-~]+")
_PATH = re.compile(r"/[!-~]{0,255}", re.ASCII)


class UrlError(ValueError):
    """The text is no URL that may be scraped. The message says what must be changed."""


@dataclass(frozen=True, slots=True)
class Url:
    """The parts of a URL: ``host`` is a name in lower case or an address without brackets, ``path`` begins with "/"."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as in the header Host; the default port of the scheme is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_url(text: str) -> Url:
    """Read "http://host:8000/metrics?query".

    Raises:
        UrlError: it has another scheme, a user name, a fragment, or an address in an unusual notation.
    """
    if len(text) > MAX_URL_LENGTH or not _PRINTABLE.fullmatch(text) or "\\" in text:
        raise UrlError(f"must be a URL of at most {MAX_URL_LENGTH} printable ASCII characters without a blank")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UrlError("must be a URL like http://host:8000/metrics, with a port from 1 to 65535") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise UrlError("must begin with http:// or https://")
    if "@" in parts.netloc or parts.fragment or "#" in text:
        raise UrlError("must have no user name, password or fragment: mount credentials with --endpoint-credentials")
    if port == 0 or parts.netloc.endswith(":"):
        raise UrlError("must be a URL like http://host:8000/metrics, with a port from 1 to 65535")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(parts.scheme, _host(parts), port or _DEFAULT_PORTS[parts.scheme], path)


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").lower()
    if "[" in parts.netloc or "]" in parts.netloc:
        try:
            if not _BRACKETED.fullmatch(parts.netloc):  # the standard library ignores the x in "[::1]x:80"
                raise ValueError
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise UrlError("must name a host, or an IPv6 address in brackets, without a zone") from None
    if not _NAME.fullmatch(host):
        raise UrlError("must name a host: letters, digits, '-' and '.'")
    if _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]):
        # The last label of a name is never a number. This is an address, and resolvers read it in different ways.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise UrlError("must write an IPv4 address as four numbers from 0 to 255") from None
    return host


def is_path(text: str) -> bool:
    """Whether the text is a path: it begins with a slash and has only printable characters without a blank."""
    return bool(_PATH.fullmatch(text))


def service_name(host: str, namespace: str, cluster_domain: str = CLUSTER_DOMAIN) -> str | None:
    """Return the name of the Service of a namespace that a host names ("llama.ai.svc"); None where it names no such.

    A Service is written NAME, NAME.NAMESPACE, NAME.NAMESPACE.svc or with the cluster's domain, and a pod behind a
    headless Service POD.NAME.NAMESPACE.svc. A name under another domain is never one, whatever it begins with.
    """
    name = host.rstrip(".")
    labels = name.removesuffix(f".{cluster_domain}").split(".")
    if len(labels) > 2 and labels[-1] == "svc":
        labels.pop()
    elif len(name.split(".")) > 2 or name == "localhost" or ":" in name:
        return None
    if len(labels) == 1:
        labels.append(namespace)
    is_own = len(labels) in (2, 3) and namespace != "" and labels[-1] == namespace
    return ".".join((*labels, "svc")) if is_own else None
