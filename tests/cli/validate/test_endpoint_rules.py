# SPDX-License-Identifier: Apache-2.0
"""Tests the notes of ``validate`` about URLs that lead to another namespace."""

from typing import Any

import pytest

from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.rules import validate_text
from tests.cli.validate.test_engine_rules import scaled


@pytest.mark.parametrize("key", ["engineEndpoint", "vllmEndpoint", "tritonEndpoint", "demandEndpoint"])
@pytest.mark.parametrize(
    ("host", "is_noted"),
    [
        pytest.param("router", False, id="a Service without a namespace"),
        pytest.param("router.ai.svc.cluster.local", False, id="a Service of the namespace"),
        pytest.param("interceptors.keda.svc.cluster.local", True, id="a Service of another namespace"),
        pytest.param("gateway.example.com", True, id="a host outside the cluster"),
        pytest.param("10.1.2.3", True, id="an address"),
    ],
)
def test_a_url_that_leads_to_another_namespace_is_noted_with_the_entry(key: str, host: str, is_noted: bool) -> None:
    metadata: dict[str, Any] = {"profile": "llm", key: f"http://{host}:9090/metrics"}
    if key == "demandEndpoint":
        metadata["demandMetric"] = "waiting"
    notes = [it.message for it in validate_text(scaled(**metadata)).findings if it.severity is Severity.INFO]
    expected = (
        f'metadata.{key}: "{host}" is no Service of namespace ai: it is scraped only if the operator allows it: '
        f"--allow-endpoints={host} (chart: engines.allowEndpoints)"
    )
    assert (expected in notes) == is_noted


def test_a_manifest_without_a_namespace_or_with_an_invalid_url_has_no_note() -> None:
    text = scaled(profile="llm", engineEndpoint="http://router.web.svc/metrics").replace(', "namespace": "ai"', "")
    assert not any("--allow-endpoints" in it.message for it in validate_text(text).findings)
    assert not any("is no Service" in it.message for it in validate_text(scaled(engineEndpoint="ftp://x")).findings)
