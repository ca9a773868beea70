# SPDX-License-Identifier: Apache-2.0
"""With what is an endpoint asked? Tokens and certificates that the operator mounted, for the hosts the operator named.

The law of this module: whoever writes a ScaledObject chooses no credentials and no host that is given any.
"""

import ipaddress
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.scrape.address_policy import fits_name, read_pattern

if TYPE_CHECKING:
    import ssl

FLAG = "--endpoint-credentials"
HOSTS, TOKEN, CA, CERTIFICATE, KEY, SERVER_NAME, INSECURE = (
    "hosts",
    "token",
    "ca.crt",
    "tls.crt",
    "tls.key",
    "server-name",
    "insecure-token",
)
_FILES = (HOSTS, TOKEN, CA, CERTIFICATE, KEY, SERVER_NAME, INSECURE)
_PODS = "pods:"
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SERVER_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,253}", re.ASCII)
_MAX_BYTES = 1 << 16
_NEVER: tuple[object, ...] = ("never read",)

_log = logging.getLogger(__name__)


class CredentialsError(ValueError):
    """Credentials that cannot be used; the message names the file, and what to do."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What was mounted in one directory, as it was last read.

    ``hosts`` are names' globs and networks, ``namespaces`` those whose pods are meant. ``token`` is None where there is
    none. ``fault`` says why it can be used no more, None where it can.
    """

    name: str
    folder: Path
    hosts: tuple[str | IPv4Network | IPv6Network, ...]
    namespaces: frozenset[str]
    token: str | None
    server_name: str | None
    is_token_for_http: bool
    stamp: tuple[object, ...]
    fault: str | None = None

    def is_for(self, host: str, namespace: str | None) -> bool:
        """Whether it is meant for a URL's host, or for a pod's address in its namespace.

        A pod's address is nobody's name, and a network is meant where a URL spells an address: what a name resolves to
        is the word of whoever keeps the name.
        """
        if namespace is not None:
            return namespace in self.namespaces
        return any(_fits(pattern, host) for pattern in self.hosts)


class Credentials:
    """Everything that was mounted; read anew when it changes.

    Args:
        folder: a directory of directories, None for none.

    Raises:
        CredentialsError: something there cannot be used.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = Path(folder) if folder else None
        self._secrets: tuple[Secret, ...] = ()
        self._contexts: dict[str | None, tuple[tuple[object, ...], ssl.SSLContext]] = {}
        self._faults: frozenset[str] = frozenset()
        if self._folder is not None:
            self._secrets = tuple(_secret(one, _stamp(one)) for one in _folders(self._folder))

    def refresh(self) -> None:
        """Read what has changed; to be called now and then.

        What cannot be used any more is told, once in the log and to whoever asks a host that it was for: what it held
        before may be just what was to be taken back.
        """
        if self._folder is None:
            return
        try:
            found = list(_folders(self._folder))
        except CredentialsError as error:
            self._secrets = tuple(_faulty(secret, error) for secret in self._secrets)
        else:
            known = {secret.name: secret for secret in self._secrets}
            self._secrets = tuple(_read(one, known.get(one.name)) for one in found)
        faults = frozenset(secret.fault for secret in self._secrets if secret.fault)
        for fault in sorted(faults - self._faults):
            _log.warning("%s", fault)
        self._faults = faults

    def find(self, host: str, namespace: str | None) -> Secret | None:
        """Return what is meant for a host (or a pod), the first by name."""
        return next((secret for secret in self._secrets if secret.is_for(host, namespace)), None)

    def context(self, secret: Secret | None) -> "ssl.SSLContext":
        """Return how TLS is spoken: with these credentials, or with the system's CAs.

        Raises:
            CredentialsError: a certificate or key cannot be used.
        """
        import ssl  # OpenSSL takes 4 MiB, which whoever asks no https need not pay for

        name, stamp = (secret.name, secret.stamp) if secret else (None, ())
        if name in self._contexts and self._contexts[name][0] == stamp:
            return self._contexts[name][1]
        context = ssl.create_default_context() if secret is None else _equipped(secret.folder)
        self._contexts[name] = (stamp, context)
        return context


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(it for it in folder.iterdir() if it.is_dir() and not it.name.startswith("."))
    except OSError as error:
        raise CredentialsError(
            f"{FLAG}: Invalid value: {quoted(str(folder), 200)}: {_reason(error)}; name a directory of directories"
        ) from error


def _read(folder: Path, before: Secret | None) -> Secret:
    """Return what is in a directory now, or what it was with its fault."""
    try:
        stamp = _stamp(folder)
        return before if before is not None and before.stamp == stamp else _secret(folder, stamp)
    except CredentialsError as error:
        nothing = Secret(folder.name, folder, (), frozenset(), None, None, False, _NEVER)
        return _faulty(before or nothing, error)


def _faulty(secret: Secret, error: CredentialsError) -> Secret:
    return replace(secret, stamp=_NEVER, fault=str(error))


def _secret(folder: Path, stamp: tuple[object, ...]) -> Secret:
    lines = [line.strip() for line in (_text(folder / HOSTS) or "").splitlines() if line.strip()]
    if not lines:
        raise CredentialsError(
            f"{FLAG}: {folder / HOSTS}: Required value: say for which hosts it is, one a line: a name (*.ai.svc), a "
            "network (10.0.0.0/8) or pods:NAMESPACE"
        )
    has_certificate, has_key = (folder / CERTIFICATE).exists(), (folder / KEY).exists()
    if has_certificate != has_key:
        missing = KEY if has_certificate else CERTIFICATE
        raise CredentialsError(f"{FLAG}: {folder / missing}: Required value: {CERTIFICATE} and {KEY} belong together")
    token = _text(folder / TOKEN)
    if token is not None and not (token.strip().isascii() and token.strip().isprintable() and token.strip()):
        raise CredentialsError(f"{FLAG}: {folder / TOKEN}: Invalid value: must be one line of printable ASCII")
    server_name = (_text(folder / SERVER_NAME) or "").strip() or None
    if server_name is not None and not _SERVER_NAME.fullmatch(server_name):
        raise CredentialsError(f"{FLAG}: {folder / SERVER_NAME}: Invalid value: must be one host name")
    return Secret(
        name=folder.name,
        folder=folder,
        hosts=tuple(_pattern(line, folder) for line in lines if not line.startswith(_PODS)),
        namespaces=frozenset(_namespace(line, folder) for line in lines if line.startswith(_PODS)),
        token=token.strip() if token else None,
        server_name=server_name,
        is_token_for_http=(folder / INSECURE).exists(),
        stamp=stamp,
    )


def _equipped(folder: Path) -> "ssl.SSLContext":
    import ssl

    ca, certificate = folder / CA, folder / CERTIFICATE
    path = ca
    try:
        # The mounted CA alone: whoever names one does not want the whole web's besides.
        context = ssl.create_default_context(cafile=ca if ca.exists() else None)
        path = certificate
        if certificate.exists():
            # Without a password OpenSSL would ask the terminal for one.
            context.load_cert_chain(certificate, folder / KEY, password="")
    except (OSError, ssl.SSLError) as error:
        raise CredentialsError(f"{FLAG}: {path}: cannot be used: {_reason(error)}; it must be PEM") from error
    return context


def _pattern(line: str, folder: Path) -> str | IPv4Network | IPv6Network:
    try:
        return read_pattern(line)
    except ValueError as error:
        raise CredentialsError(
            f"{FLAG}: {folder / HOSTS}: Invalid value: {quoted(line)}: {error}, or pods:NAMESPACE"
        ) from None


def _namespace(line: str, folder: Path) -> str:
    namespace = line.removeprefix(_PODS)
    if not _NAMESPACE.fullmatch(namespace):
        raise CredentialsError(
            f"{FLAG}: {folder / HOSTS}: Invalid value: {quoted(line)}: must name one namespace after {_PODS}"
        )
    return namespace


def _fits(pattern: str | IPv4Network | IPv6Network, host: str) -> bool:
    if isinstance(pattern, str):
        return fits_name(pattern, host)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address in pattern


def _stamp(folder: Path) -> tuple[object, ...]:
    """What changes when a file does, or when the kubelet swaps the directory behind its links."""
    stamps: list[object] = []
    for name in _FILES:
        try:
            status = os.stat(folder / name)
            stamps.append((name, status.st_mtime_ns, status.st_size, status.st_ino))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CredentialsError(f"{FLAG}: {folder / name}: {_reason(error)}") from error
    return tuple(stamps)


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            # Cut short, a pattern could mean more than it said.
            raise CredentialsError(f"{FLAG}: {path}: Too long: must have at most {_MAX_BYTES >> 10} KiB")
        return content.decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{FLAG}: {path}: cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
