# SPDX-License-Identifier: Apache-2.0
"""Checks the decoders of formulas, endpoint rules, URLs, credentials and certificates."""

import math
import tempfile
from pathlib import Path

from keda_gpu_scaler.cli.formula import FormulaError, formula_names, formula_result
from keda_gpu_scaler.core.urls import UrlError, parse_url
from keda_gpu_scaler.scrape.address_policy import AddressPolicy, AddressPolicyError
from keda_gpu_scaler.scrape.credential_binding import HOSTS
from keda_gpu_scaler.scrape.credentials import SERVER_NAME, TOKEN, Credentials, CredentialsError
from keda_gpu_scaler.scrape.types import Target
from keda_gpu_scaler.wire.x509_dates import CertificateError, validities, validity
from tests.fuzz.target import PARTS, check_has_message, check_message

_SCRATCH = tempfile.TemporaryDirectory(prefix="fuzz-settings-")
_METADATA_ADDRESSES = ("169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe")


def check_formula(data: bytes) -> None:
    """Check that a formula has a finite result, is nil, or is refused."""
    text = data.decode("utf-8", "replace")
    try:
        names = formula_names(text)
        result = formula_result(text, dict.fromkeys(names, 2.0))
    except FormulaError as error:
        check_has_message(error)
        return
    assert result is None or math.isfinite(result)


def check_allowed_endpoints(data: bytes) -> None:
    """Check that a list is refused or obeyed, and that none allows the addresses of metadata."""
    try:
        policy = AddressPolicy(data.decode("utf-8", "replace"))
    except AddressPolicyError as error:
        check_message(error)
        return
    for address in _METADATA_ADDRESSES:
        for namespace in (None, "ai"):
            try:
                policy.check(address, address, 80, namespace)
            except AddressPolicyError as error:
                check_message(error)
            else:
                raise AssertionError(f"{address} is allowed")


def check_url(data: bytes) -> None:
    """Check that a URL is read or refused."""
    try:
        url = parse_url(data.decode("utf-8", "replace"))
    except UrlError as error:
        check_message(error)
        return
    assert url.scheme in ("http", "https")
    assert 1 <= url.port <= 65535
    assert url.host


def check_credentials(data: bytes) -> None:
    """Check the files hosts, token and server-name: they are used or refused, without the content of the token."""
    parts = data.split(PARTS)[:3]
    folder = Path(_SCRATCH.name) / "credentials" / "engines"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (HOSTS, TOKEN, SERVER_NAME):
        (folder / name).unlink(missing_ok=True)
    for name, content in zip((HOSTS, TOKEN, SERVER_NAME), parts, strict=False):
        (folder / name).write_bytes(content)
    try:
        credentials = Credentials(str(folder.parent))
    except CredentialsError as error:
        check_message(error)
        return
    for url in ("https://engines.ai.svc/metrics", "http://10.0.0.1:8000/", "http://[fd00::1]/"):
        for namespace in (None, "ai"):
            target = Target(parse_url(url), "10.0.0.1", namespace, trigger_namespace="ai")
            found = credentials.find(target)
            assert found is None or found.token is None or found.token.isprintable()
            assert credentials.misfit(target) != ""


def check_certificate(data: bytes) -> None:
    """Check that PEM and DER have dates or are refused."""
    for read in (validities, validity):
        try:
            assert read(data)
        except CertificateError as error:
            check_message(error)
