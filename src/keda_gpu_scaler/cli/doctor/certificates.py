# SPDX-License-Identifier: Apache-2.0
"""Will the certificates be believed, today and in two weeks? Their dates, and a handshake without a network.

The law of this module: dates are read from the certificates themselves, and whether they are believed is for TLS to
say: two ends that have these files, as two instances have them, speak to each other in memory.

Which fields stand where in a certificate is from RFC 5280, section 4.1; how they are written, from X.690.
"""

import base64
import binascii
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from keda_gpu_scaler.cli.doctor.findings import Finding, Findings, Step, ok, parted, problem, skipped, warning
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.wire.tls import Pem, TlsError

SOON = timedelta(days=14)
"""A certificate that ends sooner should have been renewed: who renews leaves a third of its life, 30 days of 90."""

_CHECK, _HEADING = "certificates", "certificates-expire"
_TLS_HEADING = "tls-does-not-work"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_ROUNDS = 10


class CertificateError(ValueError):
    """Bytes that are no certificate."""


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate is believed."""

    begins: datetime
    ends: datetime


def certificate_steps(config: Config, now: Callable[[], datetime]) -> Iterator[Step]:
    """Yield the checks of the certificates that the flags name; one that says that they name none."""
    if config.tls_cert is None:
        yield Step("looking for certificates", lambda: iter((_none_named(),)))
        return
    yield Step("reading certificates", lambda: _dates(config, now()))
    yield Step("trying certificates", lambda: _handshake(config))


def validity(der: bytes) -> Validity:
    """Read a certificate's dates.

    Raises:
        CertificateError: it is none.
    """
    try:
        fields = [element for _, certificate in _elements(der, 1) for element in _elements(certificate, 1)]
        body = [(tag, content) for tag, content in _elements(fields[0][1]) if tag != _VERSION]
        # serialNumber, signature, issuer, and then what is looked for.
        begins, ends = (_time(tag, content) for tag, content in _elements(body[3][1]))
    except (IndexError, ValueError) as error:
        raise CertificateError("it is no certificate") from error
    return Validity(begins, ends)


def validities(pem: bytes) -> list[Validity]:
    """Read the dates of every certificate in a PEM file.

    Raises:
        CertificateError: one of them is none, or there is none.
    """
    found = []
    for match in _PEM.finditer(pem):
        try:
            found.append(validity(base64.b64decode(b"".join(match[1].split()), validate=True)))
        except binascii.Error as error:
            raise CertificateError("it is no certificate") from error
    if not found:
        raise CertificateError("it holds no certificate")
    return found


def _none_named() -> Finding:
    return skipped(_CHECK, "no --tls-cert is named, so instances and KEDA speak without TLS")


def _dates(config: Config, now: datetime) -> Findings:
    for flag, path in (
        ("--tls-cert", config.tls_cert),
        ("--tls-ca", config.tls_ca),
        ("--tls-client-ca", config.tls_client_ca),
    ):
        if path is not None:
            yield _date(Pem(flag, Path(path)), now)


def _date(pem: Pem, now: datetime) -> Finding:
    name = f"{pem.flag}: {pem.path}"
    try:
        found = validities(pem.read())
    except TlsError as error:
        return problem(_CHECK, *parted(str(error), "name a file that can be read"), _TLS_HEADING)
    except CertificateError as error:
        return problem(_CHECK, f"{name}: {error}", "name a PEM file that holds one", _TLS_HEADING)
    # A chain is as good as its weakest certificate; of several authorities, one is enough.
    begins = max(one.begins for one in found)
    ends = min(one.ends for one in found) if pem.flag == "--tls-cert" else max(one.ends for one in found)
    if now < begins:
        remedy = "set this machine's clock, or the clock of whoever signed it"
        return problem(_CHECK, f"{name} begins to be good at {_moment(begins)} only", remedy, _HEADING)
    if now >= ends:
        return problem(_CHECK, f"{name} has expired at {_moment(ends)}", "renew it, and see why nothing did", _HEADING)
    days = (ends - now).days
    if ends - now < SOON:
        text = f"{name} expires in {days} days, at {_moment(ends)}"
        return warning(_CHECK, text, "renew it, and see why nothing did", _HEADING)
    return ok(_CHECK, f"{name} is good for {days} days more, until {_moment(ends)}")


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _elements(data: bytes, at_most: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield the tags and contents that stand one behind the other.

    Raises:
        ValueError: an element ends behind the data.
    """
    at, seen = 0, 0
    while at < len(data) and seen != at_most:
        tag, length, at = data[at], int.from_bytes(data[at + 1 : at + 2], "big"), at + 2
        if length > 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("an element ends behind the data")
        yield tag, data[at : at + length]
        at, seen = at + length, seen + 1


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = f"{'19' if text[:2] >= '50' else '20'}{text}"
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _handshake(config: Config) -> Findings:
    """Let two instances with these files speak to each other."""
    ca = config.tls_ca or config.tls_client_ca
    if ca is None:
        yield skipped(_CHECK, "no --tls-ca is named, so nobody can say whether other instances would be believed")
        return
    name = config.tls_peer_name
    try:
        server, client = _server(config), _client(config, ca)
        refusal = _shaken(server, client, name)
    except (ssl.SSLError, OSError, ValueError) as error:
        remedy = "they must be PEM, and the key the certificate's own and without a passphrase"
        yield problem(_CHECK, f"the files cannot be used: {_why(error)}", remedy, _TLS_HEADING)
        return
    if refusal is None:
        for_whom = f" as {name}" if name else ""
        yield ok(_CHECK, f"two instances with these files believe each other{for_whom}")
    else:
        remedy = "the CA must have signed the certificate, for servers and clients, and for the name of --tls-peer-name"
        yield problem(_CHECK, f"two instances with these files would not speak: {refusal}", remedy, _TLS_HEADING)


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
    """Answer where OpenSSL would ask at the terminal."""
    return ""


def _shaken(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> str | None:
    """Carry a handshake to and fro; say who refused it and why, None where nobody did."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = {
        "a client finds that": client.wrap_bio(back, there, server_side=False, server_hostname=name),
        "a server finds that": server.wrap_bio(there, back, server_side=True),
    }
    done: set[str] = set()
    for _ in range(_ROUNDS):
        for who, end in ends.items():
            try:
                end.do_handshake()
                done.add(who)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return f"{who} {_why(error)}"
    return None if len(done) == len(ends) else "the handshake does not end"


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not good: {error.verify_message.rstrip('.')}"
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(reason).replace("_", " ").lower()
