# SPDX-License-Identifier: Apache-2.0
"""Tests which servers a client trusts, whatever the version of Python refuses by default."""

import ast
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from keda_gpu_scaler.wire import ssl_context
from keda_gpu_scaler.wire.ssl_context import client_context
from tests.certificates import NAME, Authority, Pair

SOURCE = Path(ssl_context.__file__).parents[1]


@pytest.fixture(autouse=True)
def strict_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every version of Python have the defaults of version 3.13."""
    default = ssl.create_default_context

    def create_default_context(**arguments: object) -> ssl.SSLContext:
        context = default(**arguments)  # type: ignore[arg-type]
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", create_default_context)


def refusal(client: ssl.SSLContext, pair: Pair, name: str = NAME) -> str:
    """Return why the client refuses a server with this certificate, empty where it trusts it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.certificate, pair.key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=name)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (one, other):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return ""


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda ca: client_context(ca_file=ca), id="from a file"),
        pytest.param(lambda ca: client_context(ca_data=ca.read_text()), id="from text"),
    ],
)
def test_a_ca_without_key_usage_and_a_certificate_without_key_identifier_are_trusted(
    tmp_path: Path, made: Callable[[Path], ssl.SSLContext]
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    assert refusal(ssl.create_default_context(cafile=authority.certificate), pair) != ""
    assert refusal(made(authority.certificate), pair) == ""


def test_an_intermediate_ca_may_be_the_one_to_trust(tmp_path: Path) -> None:
    intermediate = Authority(tmp_path, issued_by=Authority(tmp_path, "root"))
    assert refusal(client_context(ca_file=intermediate.certificate), intermediate.issue("server")) == ""


def test_another_ca_another_name_and_an_expired_certificate_are_refused(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    client = client_context(ca_file=authority.certificate)
    assert refusal(client, other.issue("server")) == "unable to get local issuer certificate"
    assert "Hostname mismatch" in refusal(client, authority.issue("server"), "another.example")
    assert refusal(client, authority.issue("late", days=-1)) == "certificate has expired"


def test_every_context_that_verifies_a_server_is_made_here() -> None:
    made = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("create_default_context", "_create_default_https_context")
    }
    assert made == {"wire/ssl_context.py"}
