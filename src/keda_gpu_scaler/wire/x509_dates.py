# SPDX-License-Identifier: Apache-2.0
"""Reads the validity dates of X.509 certificates.

Sources: RFC 5280, section 4.1, for the fields of a certificate; X.690 for their encoding (DER).
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18


class CertificateError(ValueError):
    """Bytes that are not a certificate; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class Validity:
    """The times between which a certificate is valid."""

    begins: datetime
    ends: datetime


def validity(der: bytes) -> Validity:
    """Read the dates of a certificate.

    Raises:
        CertificateError: the bytes are not a certificate.
    """
    try:
        fields = [element for _, certificate in _elements(der, 1) for element in _elements(certificate, 1)]
        body = [(tag, content) for tag, content in _elements(fields[0][1]) if tag != _VERSION]
        # The fields are serialNumber, signature, issuer and validity, in this order.
        begins, ends = (_time(tag, content) for tag, content in _elements(body[3][1]))
    except (IndexError, ValueError) as error:
        raise CertificateError("it is not a certificate") from error
    return Validity(begins, ends)


def validities(pem: bytes) -> list[Validity]:
    """Read the dates of every certificate in a PEM file.

    Raises:
        CertificateError: the file has no certificate, or an invalid one.
    """
    found = []
    for match in _PEM.finditer(pem):
        try:
            found.append(validity(base64.b64decode(b"".join(match[1].split()), validate=True)))
        except binascii.Error as error:
            raise CertificateError("it is not a certificate") from error
    if not found:
        raise CertificateError("it contains no certificate")
    return found


def expiry(found: list[Validity], *, is_authority: bool) -> datetime:
    """Return when a file can no longer be used.

    Every certificate of a chain must be valid; of several authorities one is enough.
    """
    ends = [one.ends for one in found]
    return max(ends) if is_authority else min(ends)


def _elements(data: bytes, max_count: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each DER element in a sequence.

    Raises:
        ValueError: an element is longer than the data.
    """
    at, count = 0, 0
    while at < len(data) and count != max_count:
        tag, length, at = data[at], int.from_bytes(data[at + 1 : at + 2], "big"), at + 2
        if length > 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("an element is longer than the data")
        yield tag, data[at : at + length]
        at, count = at + length, count + 1


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = f"{'19' if text[:2] >= '50' else '20'}{text}"
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
