# SPDX-License-Identifier: Apache-2.0
"""Who may listen to what is said here, and who is believed? Certificates, read anew when their files change.

The law of this module: what cannot be read replaces nothing. A server goes on with the certificates it had until
there are others that can be used, and says so.

gRPC brings its own TLS (BoringSSL); Python's ``ssl`` is not loaded.
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
    """A certificate or key cannot be used; the text is a sentence that names the flag, the file and what to do."""


@dataclass(frozen=True, slots=True)
class Pem:
    """A PEM file, and the flag that named it."""

    flag: str
    path: Path
    is_key: bool = False

    def read(self) -> bytes:
        """Return what it holds.

        Raises:
            TlsError: it cannot be read, or holds no certificate (or key).
        """
        try:
            with self.path.open("rb") as file:
                text = file.read(_MAX_FILE_BYTES)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise TlsError(f"{self.flag}: cannot read {self.path}: {reason}; is the Secret mounted there?") from error
        begins = _BEGIN_KEY if self.is_key else (_BEGIN_CERTIFICATE,)
        if not any(begin in text for begin in begins):
            wanted = "a private key without a passphrase" if self.is_key else "a certificate"
            raise TlsError(f"{self.flag}: {self.path} holds no {wanted[2:]} in PEM form: name a file that does")
        return text


def own_pair(certificate: str | None, key: str | None) -> tuple[Pem, Pem] | None:
    """Name the files of ``--tls-cert`` and ``--tls-key``, which every command calls so; None where there are none."""
    if certificate is None or key is None:
        return None
    return Pem("--tls-cert", Path(certificate)), Pem("--tls-key", Path(key), is_key=True)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a server shows, and by what it knows its clients: none is asked who it is where ``client_ca`` is None."""

    certificate: Pem
    key: Pem
    client_ca: Pem | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files.

        Raises:
            TlsError: the files cannot be used at the start.
        """
        changes = _Changes(self._pems())
        first = self._configuration()

        def newest() -> grpc.ServerCertificateConfiguration | None:
            # Called by gRPC at each connection, in a thread of its own; None keeps what there was.
            return changes.read(self._configuration)

        return grpc.dynamic_ssl_server_credentials(
            first, newest, require_client_authentication=self.client_ca is not None
        )

    def _pems(self) -> list[Pem]:
        return [pem for pem in (self.certificate, self.key, self.client_ca) if pem is not None]

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, *ca = _read_together(self._pems())
        return grpc.ssl_server_certificate_configuration([(key, certificate)], ca[0] if ca else None)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """By what a client knows the server, and what it shows of itself, if anything.

    ``server_name`` is the name that the server's certificate must bear, where it is not the host that is dialled.
    """

    ca: Pem
    certificate: Pem | None = None
    key: Pem | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files and return what they make.

        Raises:
            TlsError: the files cannot be used.
        """
        pems = [pem for pem in (self.ca, self.certificate, self.key) if pem is not None]
        ca, *own = _read_together(pems)
        certificate, key = own if own else (None, None)
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def options(self) -> tuple[tuple[str, str], ...]:
        """Return the channel's options that go with the credentials."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()


class _Changes:
    """Notices that files have changed since they were last read, by one look at each."""

    def __init__(self, pems: list[Pem]) -> None:
        self._pems = pems
        self._lock = threading.Lock()
        self._seen = _signature(pems)

    def read(
        self, configuration: Callable[[], grpc.ServerCertificateConfiguration]
    ) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files make if they have changed and can be used."""
        with self._lock:
            now = _signature(self._pems)
            if now == self._seen:
                return None
            self._seen = now
            try:
                made = configuration()
            except TlsError as error:
                _log.error("%s; what was read before is used on", error)
                return None
        # Whether they belong together is gRPC's to find out, which keeps what it had if not, and tells nobody.
        _log.info(
            "the TLS files have changed, and are used from now on if the key is the certificate's own: %s",
            self._pems[0].path,
        )
        return made


def _read_together(pems: list[Pem]) -> list[bytes]:
    """Read files that belong together: not a certificate from before a change and a key from after it.

    Raises:
        TlsError: one of them cannot be used, or they change without a pause.
    """
    for _ in range(_TRIES):
        before = _signature(pems)
        read = [pem.read() for pem in pems]
        if _signature(pems) == before:
            return read
    raise TlsError(f"{pems[0].flag}: {pems[0].path} and its companions change while they are read: try again")


def _signature(pems: list[Pem]) -> list[tuple[int, int, int, int] | None]:
    """Tell a file's state from a later one; a Secret that is mounted changes by a link, so links are followed."""
    signature: list[tuple[int, int, int, int] | None] = []
    for pem in pems:
        try:
            found = os.stat(pem.path)
        except OSError:
            signature.append(None)
        else:
            signature.append((found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size))
    return signature
