# SPDX-License-Identifier: Apache-2.0
"""Tests of the watch over the dates of certificates, with real certificates."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keda_gpu_scaler.wire.certificate_expiry import CHECK_SECONDS, CertificateExpiry
from keda_gpu_scaler.wire.tls import Pem
from tests.certificates import Authority, Pair


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Authority(tmp_path).issue("server", days=90)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    lines = [(it.levelname, it.getMessage().partition(" at ")[0]) for it in caplog.records]
    caplog.clear()
    return lines


def test_a_certificate_is_warned_about_30_days_before_its_end_and_is_an_error_after_it(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    watch = CertificateExpiry([Pem("--tls-cert", pair.certificate)], clock)
    name = f"--tls-cert: {pair.certificate}"
    began = clock.now
    expected = {
        59: [],
        61: [("WARNING", f"{name} expires in 28 days,")],
        61.5: [],
        62.5: [("WARNING", f"{name} expires in 27 days,")],
        91: [("ERROR", f"{name} expired")],
        91.5: [],
    }
    for days, lines in expected.items():
        clock.now = began + timedelta(days=days)
        watch.check()
        assert logged(caplog) == lines, days


def test_a_renewed_certificate_is_valid_again(pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    watch = CertificateExpiry([Pem("--tls-cert", pair.certificate)], clock)
    clock.now += timedelta(days=80)
    watch.check()
    assert logged(caplog)[0][0] == "WARNING"
    first = watch.expiries()["--tls-cert"]
    pair.replace(Authority(tmp_path, "other").issue("server", days=200))
    watch.check()
    [(level, sentence)] = logged(caplog)
    assert (level, sentence.split(" UTC")[0][:40]) == ("INFO", f"--tls-cert: {pair.certificate}"[:40])
    assert watch.expiries()["--tls-cert"] > first + 86_400


def test_of_a_chain_the_first_end_counts_and_of_authorities_the_last(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    short, long = authority.issue("short", days=3), authority.issue("long", days=90)
    both = tmp_path / "both.crt"
    both.write_bytes(short.certificate.read_bytes() + long.certificate.read_bytes())
    watch = CertificateExpiry([Pem("--tls-cert", both), Pem("--tls-client-ca", both)])
    watch.check()
    ends = watch.expiries()
    assert ends["--tls-client-ca"] - ends["--tls-cert"] == pytest.approx(87 * 86_400, abs=60)


def test_a_file_that_cannot_be_read_has_no_end(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    watch = CertificateExpiry([Pem("--tls-cert", pair.certificate)])
    watch.check()
    assert watch.expiries()
    pair.certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    watch.check()
    assert watch.expiries() == {}
    pair.certificate.unlink()
    watch.check()
    assert watch.expiries() == {}
    assert not caplog.records


def test_the_files_are_read_again_after_a_minute(pair: Pair) -> None:
    watch = CertificateExpiry([Pem("--tls-cert", pair.certificate)])
    watch.check_regularly(1000.0)
    pair.certificate.unlink()
    watch.check_regularly(1000.0 + CHECK_SECONDS - 1)
    assert watch.expiries()
    watch.check_regularly(1000.0 + CHECK_SECONDS)
    assert watch.expiries() == {}
