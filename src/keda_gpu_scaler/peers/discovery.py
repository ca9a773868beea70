# SPDX-License-Identifier: Apache-2.0
"""Where are the other instances? As somebody listed them, or as DNS tells."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Mapping

from keda_gpu_scaler.core.interfaces import Discovery, KubeError
from keda_gpu_scaler.core.quoting import quoted

REFRESH_SECONDS = 5.0
"""How often DNS is asked; a headless service's records live about as long."""

_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\]", re.ASCII)


class DiscoveryError(ValueError):
    """Text that names no directory; the message is a sentence."""


class StaticDiscovery:
    """Addresses that somebody wrote down."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    def __repr__(self) -> str:
        return f"<Listed {', '.join(self._addresses)}>"

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield them once; they never change."""
        yield dict.fromkeys(self._addresses, "")
        await asyncio.Event().wait()


class DnsDiscovery:
    """Every address that a name has: a headless service's pods."""

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self._port = port

    def __repr__(self) -> str:
        return f"<Dns {self._name}:{self._port}>"

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield them whenever they changed.

        Raises:
            KubeError: the name cannot be resolved now.
        """
        before: Mapping[str, str] | None = None
        loop = asyncio.get_running_loop()
        while True:
            try:
                found = await loop.getaddrinfo(self._name, self._port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:  # UnicodeError: a label that DNS cannot have
                why = getattr(error, "strerror", None) or error
                raise KubeError(
                    f"--peers: {self._name} cannot be resolved: {why}; is it a headless service, and does it "
                    "publish addresses that are not ready?"
                ) from error
            addresses = {_joined(str(address[0]), self._port): "" for *_, address in found}
            if addresses != before:
                before = addresses
                yield addresses
            await asyncio.sleep(REFRESH_SECONDS)


def parse_discovery(text: str) -> Discovery:
    """Read "static:HOST:PORT,…" or "dns:NAME:PORT".

    Raises:
        DirectoryError: it is neither, or one of its addresses is none.
    """
    kind, _, rest = text.partition(":")
    if kind == "static" and rest:
        return StaticDiscovery(tuple(dict.fromkeys(":".join(_address(one.strip())) for one in rest.split(","))))
    if kind == "dns" and rest:
        name, port = _address(rest)
        return DnsDiscovery(name.strip("[]"), int(port))
    raise DiscoveryError(
        f"--peers: Unsupported value: {quoted(text)}: must be auto, kubernetes, kubernetes:SERVICE, dns:NAME:PORT, "
        "static:HOST:PORT,… or none"
    )


def _address(text: str) -> tuple[str, str]:
    host, _, port = text.rpartition(":")
    if not _HOST.fullmatch(host) or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise DiscoveryError(f"--peers: Invalid value: {quoted(text)}: must be HOST:PORT, an IPv6 address in brackets")
    return host, port


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
