# SPDX-License-Identifier: Apache-2.0
"""TLS credentials for gRPC servers and clients, read again when their files change.

Law: invalid files replace nothing. A server keeps its certificates until it can read usable new ones, and logs it.

gRPC has its own TLS (BoringSSL), so Python's ``ssl`` is not loaded.
"""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

_BEGIN_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_BEGIN_KEY = (b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN RSA PRIVATE KEY-----", b"-----BEGIN EC PRIVATE KEY-----")
_MAX_FILE_BYTES = 1 << 20
_TRIES = 5

_log = logging.getLogger(__name__)


class TlsError(Exception):
    """A certificate or key cannot be used. The message is a sentence with the flag, the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Pem:
    """A PEM file, and the flag that named it."""

    flag: str
    path: Path
    is_key: bool = False

    def read(self) -> bytes:
        """Return the content of the file.

        Raises:
            TlsError: the file cannot be read, or contains no certificate (or key).
        """
        try:
            with self.path.open("rb") as file:
                text = file.read(_MAX_FILE_BYTES)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise TlsError(f"{self.flag}: cannot read {self.path}: {reason}; is the Secret mounted there?") from error
        markers = _BEGIN_KEY if self.is_key else (_BEGIN_CERTIFICATE,)
        if not any(marker in text for marker in markers):
            missing = "private key without a passphrase" if self.is_key else "certificate"
            raise TlsError(f"{self.flag}: {self.path} holds no {missing} in PEM form: name a file that does")
        return text


def own_pair(certificate: str | None, key: str | None) -> tuple[Pem, Pem] | None:
    """Return the files of ``--tls-cert`` and ``--tls-key``, None if they are not both given. Every command has them."""
    if certificate is None or key is None:
        return None
    return Pem("--tls-cert", Path(certificate)), Pem("--tls-key", Path(key), is_key=True)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The certificate of a server, and the CA of its clients. Without ``client_ca`` clients need no certificate."""

    certificate: Pem
    key: Pem
    client_ca: Pem | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow changes of the files.

        Raises:
            TlsError: the files cannot be used at the start.
        """
        changes = _FileChanges(self._pems())
        first = self._configuration()

        def changed() -> grpc.ServerCertificateConfiguration | None:
            # gRPC calls this for each connection, in another thread. None keeps the current configuration.
            return changes.read(self._configuration)

        return grpc.dynamic_ssl_server_credentials(
            first, changed, require_client_authentication=self.client_ca is not None
        )

    def _pems(self) -> list[Pem]:
        return [pem for pem in (self.certificate, self.key, self.client_ca) if pem is not None]

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, *ca = _read_together(self._pems())
        return grpc.ssl_server_certificate_configuration([(key, certificate)], ca[0] if ca else None)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The CA of the server, and the certificate of the client, if it has one.

    ``server_name`` is the expected name in the server's certificate, if it is not the host of the address.
    """

    ca: Pem
    certificate: Pem | None = None
    key: Pem | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files, and return the credentials.

        Raises:
            TlsError: the files cannot be used.
        """
        pems = [pem for pem in (self.ca, self.certificate, self.key) if pem is not None]
        ca, *own = _read_together(pems)
        certificate, key = own if own else (None, None)
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def options(self) -> tuple[tuple[str, str], ...]:
        """Return the channel options that the credentials need."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()


class _FileChanges:
    """Detects changes of the files since the last read, with one stat() for each."""

    def __init__(self, pems: list[Pem]) -> None:
        self._pems = pems
        self._lock = threading.Lock()
        self._last_signature = _signature(pems)

    def read(
        self, configuration: Callable[[], grpc.ServerCertificateConfiguration]
    ) -> grpc.ServerCertificateConfiguration | None:
        """Return a new configuration if the files have changed and can be used, None otherwise."""
        with self._lock:
            signature = _signature(self._pems)
            if signature == self._last_signature:
                return None
            self._last_signature = signature
            try:
                new = configuration()
            except TlsError as error:
                _log.error("%s; the files that were read before stay in use", error)
                return None
        # gRPC itself checks that key and certificate match. If not, it keeps the old ones without an error.
        _log.info(
            "the TLS files have changed, and are used from now on if the key matches the certificate: %s",
            self._pems[0].path,
        )
        return new


def _read_together(pems: list[Pem]) -> list[bytes]:
    """Return the content of files that belong together, all from before or all from after a change.

    Raises:
        TlsError: a file cannot be used, or the files change all the time.
    """
    for _ in range(_TRIES):
        before = _signature(pems)
        contents = [pem.read() for pem in pems]
        if _signature(pems) == before:
            return contents
    raise TlsError(f"{pems[0].flag}: {pems[0].path} and its companion files change while they are read: try again")


def _signature(pems: list[Pem]) -> list[tuple[int, int, int, int] | None]:
    """Return the state of every file, None if it is missing.

    Links are followed, because a mounted Secret changes by its link.
    """
    signature: list[tuple[int, int, int, int] | None] = []
    for pem in pems:
        try:
            status = os.stat(pem.path)
        except OSError:
            signature.append(None)
        else:
            signature.append((status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size))
    return signature
