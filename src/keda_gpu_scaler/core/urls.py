# SPDX-License-Identifier: Apache-2.0
"""Is this a URL that may be asked? Its parts, or what is wrong with it.

The law of this module: what comes out has one reading only; whatever another reader could take for another host is
refused.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

MAX_URL_LENGTH = 2048
MAX_PORT = 65535
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\.?\Z)(?:{_LABEL}\.)*{_LABEL}\.?")
_NUMERIC_LABEL = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)\.?")
_BRACKETED = re.compile(r"\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")
_PRINTABLE = re.compile(r"[!-~]+")
_PATH = re.compile(r"/[!-~]{0,255}", re.ASCII)


class UrlError(ValueError):
    """Text that is no URL to be asked; the message says what must be changed."""


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in parts: ``host`` is a name in lower case or an address without brackets, ``path`` begins with "/"."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port, as in a header Host; the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_url(text: str) -> Url:
    """Read "http://host:8000/metrics?query".

    Raises:
        UrlError: it is anything else: another scheme, a user's name, a fragment, an oddly spelt address.
    """
    if len(text) > MAX_URL_LENGTH or not _PRINTABLE.fullmatch(text) or "\\" in text:
        raise UrlError(f"must be a URL of at most {MAX_URL_LENGTH} printable ASCII characters, none of them blank")
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
            if not _BRACKETED.fullmatch(parts.netloc):  # of "[::1]x:80" the standard library drops the x
                raise ValueError
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise UrlError("must name a host, or an IPv6 address in brackets, without a zone") from None
    if not _NAME.fullmatch(host):
        raise UrlError("must name a host: letters, digits, '-' and '.'")
    if _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]):
        # A name's last label is never a number: it is an address, which resolvers read in several ways.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise UrlError("must spell an IPv4 address as four numbers from 0 to 255") from None
    return host


def is_path(text: str) -> bool:
    """Whether a page may be asked for by this path: from its slash on, printable, without a blank."""
    return bool(_PATH.fullmatch(text))
