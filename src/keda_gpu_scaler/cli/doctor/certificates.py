# SPDX-License-Identifier: Apache-2.0
"""Checks the certificates of the TLS flags: their dates, and a TLS handshake in memory.

Law: the dates are read from the certificates. TLS itself decides whether they are trusted: a server and a client with
these files, as two instances have them, make a handshake without a network.
"""

import ssl
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from keda_gpu_scaler.cli.doctor.findings import Check, Finding, Heading, ok, problem, skipped, split_remedy, warning
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.wire.tls import Pem, TlsError
from keda_gpu_scaler.wire.x509_dates import CertificateError, expiry, validities

EXPIRES_SOON = timedelta(days=14)
"""A certificate that expires sooner should have been renewed: cert-manager renews 30 days before the end of 90.

``serve`` warns earlier, at 30 days.
"""

_CHECK = "certificates"
_MAX_HANDSHAKE_ROUNDS = 10


def certificate_checks(config: Config, now: Callable[[], datetime]) -> Iterator[Check]:
    """Yield the checks of the certificates that the flags name, or one check that reports that there are none."""
    if config.tls_cert is None:
        yield Check("looking for certificates", lambda: iter((_no_certificate(),)))
        return
    yield Check("reading certificates", lambda: _check_dates(config, now()))
    yield Check("trying certificates", lambda: _check_handshake(config))


def _no_certificate() -> Finding:
    return skipped(_CHECK, "--tls-cert is not set, so instances and KEDA connect without TLS")


# ---- dates ----


def _check_dates(config: Config, now: datetime) -> Iterator[Finding]:
    for flag, path in (
        ("--tls-cert", config.tls_cert),
        ("--tls-ca", config.tls_ca),
        ("--tls-client-ca", config.tls_client_ca),
    ):
        if path is not None:
            yield _check_file_dates(Pem(flag, Path(path)), now)


def _check_file_dates(pem: Pem, now: datetime) -> Finding:
    name = f"{pem.flag}: {pem.path}"
    try:
        found = validities(pem.read())
    except TlsError as error:
        return problem(_CHECK, *split_remedy(str(error), "set a file that can be read"), Heading.TLS)
    except CertificateError as error:
        return problem(_CHECK, f"{name}: {error}", "set a PEM file with a certificate", Heading.TLS)
    begins = max(one.begins for one in found)
    ends = expiry(found, is_authority=pem.flag != "--tls-cert")
    if now < begins:
        remedy = "correct this machine's clock, or the clock of the machine that signed the certificate"
        return problem(_CHECK, f"{name} is not valid before {_minute(begins)}", remedy, Heading.CERTIFICATES)
    remedy = "renew it, and find out why it was not renewed automatically"
    if now >= ends:
        return problem(_CHECK, f"{name} expired at {_minute(ends)}", remedy, Heading.CERTIFICATES)
    days = (ends - now).days
    if ends - now < EXPIRES_SOON:
        return warning(_CHECK, f"{name} expires in {days} days, at {_minute(ends)}", remedy, Heading.CERTIFICATES)
    return ok(_CHECK, f"{name} is valid for {days} more days, until {_minute(ends)}")


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


# ---- handshake ----


def _check_handshake(config: Config) -> Iterator[Finding]:
    """Make a handshake between two instances with these files."""
    ca = config.tls_ca or config.tls_client_ca
    if ca is None:
        yield skipped(_CHECK, "--tls-ca is not set, so it is not known whether instances trust each other")
        return
    name = config.tls_peer_name
    try:
        server, client = _server(config), _client(config, ca)
        refusal = _handshake_refusal(server, client, name)
    except (ssl.SSLError, OSError, ValueError) as error:
        remedy = "use PEM files, and the key of this certificate without a passphrase"
        yield problem(_CHECK, f"the files cannot be used: {_reason(error)}", remedy, Heading.TLS)
        return
    if refusal is None:
        as_name = f" as {name}" if name else ""
        yield ok(_CHECK, f"two instances with these files trust each other{as_name}")
    else:
        remedy = "let the CA sign the certificate for servers and clients, and for the name in --tls-peer-name"
        text = f"two instances with these files would not trust each other: {refusal}"
        yield problem(_CHECK, text, remedy, Heading.TLS)


def _server(config: Config) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(config.tls_cert), str(config.tls_key), password=_no_passphrase)
    if config.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(config.tls_client_ca)
    return context


def _client(config: Config, ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = config.tls_peer_name is not None
    context.load_verify_locations(ca)
    context.load_cert_chain(str(config.tls_cert), str(config.tls_key), password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    """Return an empty passphrase, so that OpenSSL does not prompt for one."""
    return ""


def _handshake_refusal(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> str | None:
    """Make a handshake; return which side refused it and why, or None if it succeeded."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = {
        "the client reports that": client.wrap_bio(to_client, to_server, server_side=False, server_hostname=name),
        "the server reports that": server.wrap_bio(to_server, to_client, server_side=True),
    }
    done: set[str] = set()
    for _ in range(_MAX_HANDSHAKE_ROUNDS):
        for side, connection in sides.items():
            try:
                connection.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return f"{side} {_reason(error)}"
    return None if len(done) == len(sides) else "the handshake does not end"


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not valid: {error.verify_message.rstrip('.')}"
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(reason).replace("_", " ").lower()
