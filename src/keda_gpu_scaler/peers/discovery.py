# SPDX-License-Identifier: Apache-2.0
"""Lists the addresses of the other instances: a fixed list, or the records of a DNS name."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Mapping

from keda_gpu_scaler.core.interfaces import Discovery, KubeError
from keda_gpu_scaler.core.quoting import quoted

REFRESH_SECONDS = 5.0
"""The time between two DNS queries. The records of a headless Service have about this lifetime."""

_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\]", re.ASCII)


class DiscoveryError(ValueError):
    """The value of --peers is invalid. The message is a sentence."""


class StaticDiscovery:
    """A fixed list of addresses."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    def __repr__(self) -> str:
        return f"<StaticDiscovery {', '.join(self._addresses)}>"

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield the addresses once. They never change."""
        yield dict.fromkeys(self._addresses, "")
        await asyncio.Event().wait()


class DnsDiscovery:
    """The addresses of a DNS name, usually the pods of a headless Service."""

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self._port = port

    def __repr__(self) -> str:
        return f"<DnsDiscovery {self._name}:{self._port}>"

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield the addresses at first and after each change.

        Raises:
            KubeError: the name cannot be resolved.
        """
        previous: Mapping[str, str] | None = None
        loop = asyncio.get_running_loop()
        while True:
            try:
                records = await loop.getaddrinfo(self._name, self._port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or error
                if isinstance(error, UnicodeError):  # its text depends on the version of Python
                    reason = "it is no host name: a part between dots is empty, or longer than 63 characters"
                raise KubeError(
                    f"--peers: {self._name} cannot be resolved: {reason}; is it a headless Service, and does "
                    "it publish addresses that are not ready?"
                ) from error
            addresses = {_join(str(address[0]), self._port): "" for *_, address in records}
            if addresses != previous:
                previous = addresses
                yield addresses
            await asyncio.sleep(REFRESH_SECONDS)


def parse_discovery(text: str) -> Discovery:
    """Parse "static:HOST:PORT,…" or "dns:NAME:PORT".

    Raises:
        DiscoveryError: the text has neither form, or an address in it is invalid.
    """
    kind, _, rest = text.partition(":")
    if kind == "static" and rest:
        return StaticDiscovery(tuple(dict.fromkeys(":".join(_parse_address(part.strip())) for part in rest.split(","))))
    if kind == "dns" and rest:
        name, port = _parse_address(rest)
        return DnsDiscovery(name.strip("[]"), int(port))
    raise DiscoveryError(
        f"--peers: Unsupported value: {quoted(text)}: must be auto, kubernetes, kubernetes:SERVICE, dns:NAME:PORT, "
        "static:HOST:PORT,… or none"
    )


def _parse_address(text: str) -> tuple[str, str]:
    host, _, port = text.rpartition(":")
    if not _HOST.fullmatch(host) or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise DiscoveryError(f"--peers: Invalid value: {quoted(text)}: must be HOST:PORT, an IPv6 address in brackets")
    return host, port


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
