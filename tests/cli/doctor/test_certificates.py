# SPDX-License-Identifier: Apache-2.0
"""Tests the checks of certificates, and the reading of their dates."""

import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.doctor.certificates import certificate_checks
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.wire.x509_dates import CertificateError, validities, validity
from tests.certificates import NAME, Authority
from tests.cli.doctor.support import PLAIN, findings_of


def config_of(authority: Authority, name: str = "server", peer: str | None = NAME, **how: Any) -> Config:
    pair, ca = authority.issue(name, **how), str(authority.certificate)
    return replace(
        PLAIN, tls_cert=str(pair.certificate), tls_key=str(pair.key), tls_ca=ca, tls_client_ca=ca, tls_peer_name=peer
    )


def certificates(config: Config, later: timedelta = timedelta()) -> list[str]:
    return findings_of(certificate_checks(config, lambda: datetime.now(UTC) + later))


def test_without_tls_the_checks_are_skipped() -> None:
    assert certificates(PLAIN) == ["skipped: --tls-cert is not set, so instances and KEDA connect without TLS"]


def test_valid_certificates_are_ok(tmp_path: Path) -> None:
    dates = certificates(config_of(Authority(tmp_path), days=90))
    assert dates[0].startswith("ok: --tls-cert: ")
    assert re.search(r"is valid for (89|90) more days, until \d{4}-\d\d-\d\d \d\d:\d\d UTC$", dates[0])
    assert dates[-1] == f"ok: two instances with these files trust each other as {NAME}"


def test_a_certificate_that_expires_soon_is_a_warning_and_an_expired_one_a_problem(tmp_path: Path) -> None:
    config = config_of(Authority(tmp_path), days=30)
    found = [certificates(config, timedelta(days=days))[0] for days in (0, 20, 31, -2)]
    assert [one.partition(": ")[0] for one in found] == ["ok", "warning", "problem", "problem"]
    assert " expires in 9 days" in found[1] or " expires in 10 days" in found[1]
    assert " expired at " in found[2]
    assert " is not valid before " in found[3]


def test_the_dates_are_those_of_the_certificate(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("server", days=47)
    [found] = validities(pair.certificate.read_bytes())
    assert found.ends - found.begins == timedelta(days=47)
    assert abs(datetime.now(UTC) - found.begins) < timedelta(minutes=10)


def test_a_chain_expires_at_its_first_end_and_several_cas_at_their_last(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    config = config_of(authority, days=90)
    short = authority.issue("short", days=3)
    for path in (config.tls_cert, config.tls_ca):
        assert path is not None
        Path(path).write_bytes(Path(path).read_bytes() + short.certificate.read_bytes())
    chain, authorities, _, _ = certificates(config)
    assert chain.startswith("warning: --tls-cert: ")
    assert "expires in 2 days" in chain
    assert re.search(r"expires in (1|2|3) days", authorities)  # the CA's own certificate has two days


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        pytest.param(
            {"host": "other.svc"}, "the client reports that the certificate is not valid: Hostname", id="another name"
        ),
        pytest.param(
            {"usage": "serverAuth"}, "the server reports that the certificate is not valid: ", id="for servers only"
        ),
        pytest.param(
            {"usage": "clientAuth"}, "the client reports that the certificate is not valid: ", id="for clients only"
        ),
        pytest.param({"days": -1}, "the client reports that the certificate is not valid: ", id="expired"),
    ],
)
def test_a_certificate_that_is_not_trusted(how: dict[str, Any], expected: str, tmp_path: Path) -> None:
    last = certificates(config_of(Authority(tmp_path), **how))[-1]
    assert last.startswith(f"problem: two instances with these files would not trust each other: {expected}")


def test_a_key_or_a_ca_of_another_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    other = replace(config_of(authority), tls_key=str(authority.issue("other").key))
    assert certificates(other)[-1] == "problem: the files cannot be used: key values mismatch"
    other_ca = replace(config_of(authority), tls_ca=str(Authority(tmp_path, "other").certificate))
    assert "would not trust each other: the client reports that" in certificates(other_ca)[-1]


def test_files_without_a_certificate(tmp_path: Path) -> None:
    config = config_of(Authority(tmp_path))
    (tmp_path / "invalid.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    found = certificates(replace(config, tls_cert=str(tmp_path / "invalid.pem"), tls_ca=str(tmp_path / "none.pem")))
    assert found[0] == f"problem: --tls-cert: {tmp_path}/invalid.pem: it is not a certificate"
    assert found[1] == f"problem: --tls-ca: cannot read {tmp_path}/none.pem: no such file or directory"


def der(tag: int, content: bytes) -> bytes:
    return bytes((tag, len(content))) + content


DATES = der(0x17, b"250101000000Z") + der(0x18, b"20490101000000Z")
SMALLEST = der(0x30, der(0x30, der(2, b"7") + der(0x30, b"") + der(0x30, b"") + der(0x30, DATES)))


def test_both_encodings_of_a_time_are_read() -> None:
    found = validity(SMALLEST)
    assert (found.begins, found.ends) == (datetime(2025, 1, 1, tzinfo=UTC), datetime(2049, 1, 1, tzinfo=UTC))


@given(
    changed=st.dictionaries(st.integers(0, len(SMALLEST) - 1), st.integers(0, 255)), end=st.integers(0, len(SMALLEST))
)
def test_changed_bytes_are_a_certificate_or_a_sentence(changed: dict[int, int], end: int) -> None:
    bytes_ = bytes(changed.get(place, byte) for place, byte in enumerate(SMALLEST[:end]))
    with suppress(CertificateError):
        assert validity(bytes_).begins.tzinfo is UTC


def test_truncated_bytes_are_not_a_certificate() -> None:
    with pytest.raises(CertificateError):
        validity(bytes((SMALLEST[0], SMALLEST[1] + 5)) + SMALLEST[2:])


@given(st.binary(max_size=300))
def test_random_bytes_are_not_a_certificate(data: bytes) -> None:
    with pytest.raises(CertificateError, match="it is not a certificate"):
        validity(data)
