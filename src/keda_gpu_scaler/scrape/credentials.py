# SPDX-License-Identifier: Apache-2.0
"""Reads the tokens and certificates that the operator mounted for the hosts of endpoints.

Law: only the operator chooses credentials and the places that receive them (``credential_binding``). The author of a
ScaledObject chooses neither.
"""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.scrape.credential_binding import (
    HOSTS,
    NAMESPACES,
    PATHS,
    PORTS,
    Binding,
    BindingError,
    read_binding,
)
from keda_gpu_scaler.scrape.types import Target
from keda_gpu_scaler.wire.ssl_context import client_context

if TYPE_CHECKING:
    import ssl

FLAG = "--endpoint-credentials"
TOKEN, CA, CERTIFICATE, KEY, SERVER_NAME, INSECURE = (
    "token",
    "ca.crt",
    "tls.crt",
    "tls.key",
    "server-name",
    "insecure-token",
)
_FILES = (HOSTS, PORTS, PATHS, NAMESPACES, TOKEN, CA, CERTIFICATE, KEY, SERVER_NAME, INSECURE)
_SERVER_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,253}", re.ASCII)
_MAX_BYTES = 1 << 16
_UNREAD: tuple[object, ...] = ("not read",)

_log = logging.getLogger(__name__)


class CredentialsError(ValueError):
    """The credentials cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Secret:
    """The content of one mounted directory at the last read.

    ``binding`` says which places receive it. ``token`` is None if the directory has none. ``fingerprint`` changes when
    a file changes. ``fault`` says why the credentials cannot be used now, None if they can.
    """

    name: str
    folder: Path
    binding: Binding
    token: str | None
    server_name: str | None
    is_token_for_http: bool
    fingerprint: tuple[object, ...]
    fault: str | None = None


class Credentials:
    """All mounted credentials; changed files are read again.

    Args:
        folder: a directory with one subdirectory for each Secret; None for no credentials.

    Raises:
        CredentialsError: a file cannot be used.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = Path(folder) if folder else None
        self._secrets: tuple[Secret, ...] = ()
        self._contexts: dict[str | None, tuple[tuple[object, ...], ssl.SSLContext]] = {}
        self._faults: frozenset[str] = frozenset()
        if self._folder is not None:
            self._secrets = tuple(_read_secret(it, _fingerprint(it)) for it in _folders(self._folder))

    def refresh(self) -> None:
        """Read the files that changed. The caller calls this regularly.

        Credentials that cannot be used any more are logged once, and requests to their hosts are refused. The old
        content is not used: the operator may have revoked it.
        """
        if self._folder is None:
            return
        try:
            found = list(_folders(self._folder))
        except CredentialsError as error:
            self._secrets = tuple(_with_fault(secret, error) for secret in self._secrets)
        else:
            known = {secret.name: secret for secret in self._secrets}
            self._secrets = tuple(_refreshed(it, known.get(it.name)) for it in found)
        faults = frozenset(secret.fault for secret in self._secrets if secret.fault)
        for fault in sorted(faults - self._faults):
            _log.warning("%s", fault)
        self._faults = faults

    def are_for_host(self, host: str) -> bool:
        """Whether some credentials are for a URL's host, at some port and path, for some trigger."""
        return any(secret.binding.is_for_host(host) for secret in self._secrets)

    def find(self, target: Target) -> Secret | None:
        """Return the first credentials by name that are bound to a target; None if there are none."""
        return next((secret for secret in self._secrets if secret.binding.fits(target)), None)

    def misfit(self, target: Target) -> str | None:
        """Return why the credentials for the host or the pod of a target are not sent; None if there are none."""
        for secret in self._secrets:
            if secret.binding.is_for_place(target) and (reason := secret.binding.misfit(target)):
                return reason
        return None

    def context(self, secret: Secret | None) -> "ssl.SSLContext":
        """Return the TLS context of these credentials, or a context with the CAs of the system.

        Raises:
            CredentialsError: a certificate or key cannot be used.
        """
        name, fingerprint = (secret.name, secret.fingerprint) if secret else (None, ())
        if name in self._contexts and self._contexts[name][0] == fingerprint:
            return self._contexts[name][1]
        context = client_context() if secret is None else _client_context(secret.folder)
        self._contexts[name] = (fingerprint, context)
        return context


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(it for it in folder.iterdir() if it.is_dir() and not it.name.startswith("."))
    except OSError as error:
        raise CredentialsError(
            f"{FLAG}: Invalid value: {quoted(str(folder), 200)}: {_reason(error)}; "
            "must be a directory with one subdirectory for each Secret"
        ) from error


def _refreshed(folder: Path, before: Secret | None) -> Secret:
    """Return the credentials in a directory, or the previous ones with the fault."""
    try:
        fingerprint = _fingerprint(folder)
        is_unchanged = before is not None and before.fingerprint == fingerprint
        return before if before is not None and is_unchanged else _read_secret(folder, fingerprint)
    except CredentialsError as error:
        empty = Secret(folder.name, folder, Binding(), None, None, False, _UNREAD)
        return _with_fault(before or empty, error)


def _with_fault(secret: Secret, error: CredentialsError) -> Secret:
    return replace(secret, fingerprint=_UNREAD, fault=str(error))


def _read_secret(folder: Path, fingerprint: tuple[object, ...]) -> Secret:
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
        binding=_binding(folder, is_secret=token is not None or has_certificate),
        token=token.strip() if token else None,
        server_name=server_name,
        is_token_for_http=(folder / INSECURE).exists(),
        fingerprint=fingerprint,
    )


def _client_context(folder: Path) -> "ssl.SSLContext":
    import ssl

    ca, certificate = folder / CA, folder / CERTIFICATE
    path = ca
    try:
        # A mounted CA replaces the CAs of the system.
        context = client_context(ca_file=ca if ca.exists() else None)
        path = certificate
        if certificate.exists():
            # Without a password argument OpenSSL would prompt on the terminal.
            context.load_cert_chain(certificate, folder / KEY, password="")
    except (OSError, ssl.SSLError) as error:
        raise CredentialsError(f"{FLAG}: {path}: cannot be used: {_reason(error)}; it must be PEM") from error
    return context


def _binding(folder: Path, *, is_secret: bool) -> Binding:
    try:
        return read_binding(
            _text(folder / HOSTS) or "",
            ports=_text(folder / PORTS),
            paths=_text(folder / PATHS),
            namespaces=_text(folder / NAMESPACES),
            is_secret=is_secret,
        )
    except BindingError as error:
        raise CredentialsError(f"{FLAG}: {folder / error.file}: {error}") from None


def _fingerprint(folder: Path) -> tuple[object, ...]:
    """Return a value that changes when a file changes, or when the kubelet replaces the directory behind the links."""
    entries: list[object] = []
    for name in _FILES:
        try:
            status = os.stat(folder / name)
            entries.append((name, status.st_mtime_ns, status.st_size, status.st_ino))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CredentialsError(f"{FLAG}: {folder / name}: {_reason(error)}") from error
    return tuple(entries)


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            # A pattern that is cut short could match more hosts.
            raise CredentialsError(f"{FLAG}: {path}: Too long: must have at most {_MAX_BYTES >> 10} KiB")
        return content.decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{FLAG}: {path}: cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
