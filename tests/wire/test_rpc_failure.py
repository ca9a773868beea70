# SPDX-License-Identifier: Apache-2.0
"""A call that does not succeed leads to a sentence with a remedy, and never to a text of gRPC."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.wire.rpc_failure import rpc_failure

TO = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:6000: "
TLS = "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"


@pytest.mark.parametrize(
    ("status", "details", "sentence"),
    [
        ("UNAVAILABLE", f"{TO}Failed to connect to remote host: Connection refused", "nothing listens there"),
        ("UNAVAILABLE", f"{TO}{TLS}CERTIFICATE_VERIFY_FAILED: certificate has expired: OK", "has expired: renew it"),
        ("UNAVAILABLE", f"{TO}{TLS}CERTIFICATE_VERIFY_FAILED: certificate is not yet valid", "check the clocks"),
        (
            "UNAVAILABLE",
            f"{TO}{TLS}CERTIFICATE_VERIFY_FAILED: unable to get local issuer",
            "not signed by the expected",
        ),
        ("UNAVAILABLE", f"{TO}{TLS}WRONG_VERSION_NUMBER: OK", "it does not use TLS"),
        ("UNAVAILABLE", f"{TO}Custom verification check failed: Hostname Verification Check failed.", "another name"),
        (
            "UNAVAILABLE",
            f"{TO}{TLS}TLSV1_ALERT_CERTIFICATE_EXPIRED: OK",
            "this client's certificate, which has expired",
        ),
        ("UNAVAILABLE", "DNS resolution failed for x:6000: C-ares status", "the name is not resolved"),
        ("UNAVAILABLE", "Socket closed", "the connection was closed"),
        ("UNAVAILABLE", "", "it cannot be reached"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "it does not answer in time"),
        ("UNIMPLEMENTED", "Method not found!", "it does not have this call"),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)", "larger than the limit"),
        ("UNAUTHENTICATED", "", "it refuses this client"),
        ("PERMISSION_DENIED", "Received http2 header with status: 403", "it refuses this client"),
        (
            "PERMISSION_DENIED",
            'Explain: user "a" may not get it: grant\x1b it',
            'user "a" may not get it: grant\ufffd it',
        ),
        ("INTERNAL", "Exception deserializing response!", "an error of its own: see its log"),
    ],
)
def test_each_failure_has_its_sentence(status: str, details: str, sentence: str) -> None:
    assert sentence in rpc_failure(status, details)


@given(st.sampled_from([code.name for code in grpc.StatusCode]), st.text(max_size=80))
def test_no_text_of_grpc_is_repeated(status: str, details: str) -> None:
    found = rpc_failure(status, f"{details}ipv4:10.0.0.1:6000 SSL_ERROR")
    assert found.isprintable()
    assert not any(part in found for part in (status, "ipv4:", "SSL_ERROR", "grpc"))
