# SPDX-License-Identifier: Apache-2.0
"""Finds out why a TLS connection to an instance is not made, by a handshake of its own.

Law: the certificate and the system's TLS library say why. gRPC's own text is used only where both sides would agree.
"""

import contextlib
import socket
import ssl
from datetime import UTC, datetime

from keda_gpu_scaler.wire.rpc_failure import rpc_failure
from keda_gpu_scaler.wire.tls import ClientTls, TlsError
from keda_gpu_scaler.wire.x509_dates import CertificateError, Validity, validities

_SECONDS = 1.0
_CLOSED = "it closed the connection"
_REASONS = {
    "hostname mismatch": "its certificate contains another name: give that name with --tls-server-name",
    "ip address mismatch": "its certificate contains another name: give that name with --tls-server-name",
    "self-signed": "its certificate is not signed by this --tls-ca: give the CA that signed it",
    "self signed": "its certificate is not signed by this --tls-ca: give the CA that signed it",
    "unable to get": "its certificate is not signed by this --tls-ca: give the CA that signed it",
}


def tls_failure(address: str, tls: ClientTls | None, details: str) -> str:
    """Return why no connection is made to an address where something listens, as a sentence with a remedy.

    Args:
        address: HOST:PORT.
        tls: how this client connects; None without TLS.
        details: gRPC's own text.
    """
    if "failed to connect" not in details and "closed" not in details.lower():
        return rpc_failure("UNAVAILABLE", details)
    if tls is None:
        return f"{_CLOSED}: if it uses TLS, give its CA with --tls-ca"
    dates = _dates_problem(address)
    if dates:
        return dates
    return _handshake_problem(address, tls) or _own_certificate_problem(tls)


def _dates_problem(address: str) -> str:
    """Return what is wrong with the dates of a server's certificate; empty where nothing is."""
    pem = _server_certificate(address)
    if not pem:
        return ""
    try:
        return _dates(validities(pem), "its certificate")
    except CertificateError:
        return "its certificate cannot be read: issue it again"


def _dates(found: list[Validity], subject: str) -> str:
    now = datetime.now(UTC)
    expired = [one for one in found if now >= one.ends]
    if expired:
        return (
            f"{subject} expired at {expired[0].ends:%Y-%m-%d %H:%M} UTC: renew it, and check why it was not renewed; "
            "or correct a wrong clock"
        )
    early = [one for one in found if now < one.begins]
    if early:
        begins = f"{early[0].begins:%Y-%m-%d %H:%M} UTC"
        return f"{subject} is not valid before {begins}: correct this machine's clock, or the clock of the CA"
    return ""


def _server_certificate(address: str) -> bytes:
    """Return a server's certificate, whatever it is worth; empty where it sends none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: the certificate is only read
    try:
        with _connected(address) as plain, context.wrap_socket(plain) as wrapped:
            return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"").encode()
    except (OSError, ValueError):
        return b""


def _handshake_problem(address: str, tls: ClientTls) -> str:
    """Return why this client does not accept a server's certificate; empty where it does."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(str(tls.ca.path))
        name = tls.server_name or address.rpartition(":")[0].strip("[]")
        with _connected(address) as plain, context.wrap_socket(plain, server_hostname=name):
            return ""
    except ssl.SSLCertVerificationError as error:
        message = error.verify_message.lower()
        known = next((sentence for part, sentence in _REASONS.items() if part in message), "")
        return known or f"its certificate is not accepted: {message.rstrip('.')}; check it and --tls-ca"
    except ssl.SSLError:
        return "it does not use TLS, or no version that this client has: leave out --tls-ca, or check its flags"
    except (OSError, ValueError):
        return f"{_CLOSED}: try again"


def _own_certificate_problem(tls: ClientTls) -> str:
    """Return why a server that this client accepts may refuse this client."""
    if tls.certificate is None:
        return f"{_CLOSED}: if it requires a client certificate, give one with --tls-cert and --tls-key"
    with contextlib.suppress(TlsError, CertificateError):
        if dates := _dates(validities(tls.certificate.read()), f"this client's certificate ({tls.certificate.path})"):
            return dates
    return f"{_CLOSED}: check that its client CA signed this --tls-cert, and that the certificate allows clients"


def _connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), _SECONDS)
