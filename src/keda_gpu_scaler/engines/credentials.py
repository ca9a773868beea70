# SPDX-License-Identifier: Apache-2.0
"""With what is an endpoint asked? Tokens and certificates that the operator mounted, for the hosts the operator named.

The law of this module: whoever writes a ScaledObject chooses no credentials and no host that is given any.
"""

import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keda_gpu_scaler.core.selector import matches_glob
from keda_gpu_scaler.core.wording import quoted

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
_MAX_BYTES = 1 << 16


class CredentialsError(ValueError):
    """Credentials that cannot be used; the message names the file, and what to do."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What was mounted in one directory, as it was last read.

    ``hosts`` are patterns: a name's glob, a network, or "pods:NAMESPACE". ``token`` is None where there is none.
    """

    name: str
    folder: Path
    hosts: tuple[str, ...]
    token: str | None
    server_name: str | None
    is_token_for_http: bool
    stamp: tuple[object, ...]

    def is_for(self, host: str, namespace: str | None) -> bool:
        """Whether it is meant for a URL's host, or for a pod's address in its namespace."""
        return any(_fits(pattern, host, namespace) for pattern in self.hosts)


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
        self.refresh()

    def refresh(self) -> None:
        """Read what has changed; called before a connection is made, not for each request.

        Raises:
            CredentialsError: something there cannot be used.
        """
        if self._folder is not None:
            self._secrets = tuple(self._read(self._folder))

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

    def _read(self, folder: Path) -> Iterator[Secret]:
        known = {secret.name: secret for secret in self._secrets}
        try:
            found = sorted(it for it in folder.iterdir() if it.is_dir() and not it.name.startswith("."))
        except OSError as error:
            raise CredentialsError(
                f"{FLAG}: Invalid value: {quoted(str(folder), 200)}: {_reason(error)}; name a directory of directories"
            ) from error
        for one in found:
            stamp = _stamp(one)
            before = known.get(one.name)
            yield before if before is not None and before.stamp == stamp else _secret(one, stamp)


def _secret(folder: Path, stamp: tuple[object, ...]) -> Secret:
    hosts = tuple(line.strip() for line in (_text(folder / HOSTS) or "").splitlines() if line.strip())
    if not hosts:
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
    return Secret(
        name=folder.name,
        folder=folder,
        hosts=hosts,
        token=token.strip() if token else None,
        server_name=(_text(folder / SERVER_NAME) or "").strip() or None,
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
            context.load_cert_chain(certificate, folder / KEY)
    except (OSError, ssl.SSLError) as error:
        raise CredentialsError(f"{FLAG}: {path}: cannot be used: {_reason(error)}; it must be PEM") from error
    return context


def _fits(pattern: str, host: str, namespace: str | None) -> bool:
    if pattern.startswith(_PODS):
        return namespace is not None and pattern.removeprefix(_PODS) == namespace
    if namespace is not None:
        return False  # a pod's address is nobody's name, and networks are for URLs
    try:
        network = ipaddress.ip_network(pattern)
    except ValueError:
        return matches_glob(pattern, host)
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False


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
            return file.read(_MAX_BYTES).decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{FLAG}: {path}: cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
