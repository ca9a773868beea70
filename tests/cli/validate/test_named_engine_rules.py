# SPDX-License-Identifier: Apache-2.0
"""Tests the rules of ``validate`` about the engine and the port that a trigger names."""

from typing import Any

import pytest

from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.named_engine_rules import _PARTS
from keda_gpu_scaler.cli.validate.rules import validate_text
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS
from tests.cli.validate.test_engine_rules import PROBE, messages, scaled, workload

VLLM = {"image": "docker.io/vllm/vllm-openai:v0.12.0", "readinessProbe": PROBE}
SGLANG = {"image": "lmsysorg/sglang:v0.5.2", "readinessProbe": PROBE}
TRITON = {"image": "nvcr.io/nvidia/tritonserver:25.01-vllm-python-py3", "readinessProbe": PROBE}
NOT_EXPORTED = "so the trigger never has a value; set another metricType, such as gpu_utilization"


def with_ports(*ports: Any) -> dict[str, Any]:
    return {**VLLM, "ports": [{"containerPort": port} for port in ports]}


def test_an_engine_that_the_containers_do_not_run_is_named() -> None:
    assert messages(scaled(profile="llm", engine="sglang") + workload(VLLM)) == [
        'metadata.engine: Invalid value: "sglang": the containers of Deployment llama run vLLM. A page of another '
        "engine than sglang does not count, so the trigger never has a value; set engine: vllm"
    ]


def test_a_metric_of_an_engine_that_the_containers_do_not_run_is_named() -> None:
    [message] = messages(scaled(metricType="vllm_queue_depth") + workload(SGLANG))
    assert message.startswith('metadata.metricType: Invalid value: "vllm_queue_depth": the containers of Deployment')


@pytest.mark.parametrize(
    ("metadata", "containers"),
    [
        pytest.param({"engine": "vllm"}, [VLLM], id="the engine of the container"),
        pytest.param({}, [VLLM], id="no engine is named"),
        pytest.param({"engine": "sglang"}, [VLLM, SGLANG], id="the engine of the second container"),
        pytest.param({"engine": "triton"}, [TRITON], id="Triton, which may run vLLM"),
        pytest.param({"engine": "nim"}, [VLLM], id="NIM, which may run vLLM"),
        pytest.param(
            {"engine": "vllm"}, [{**VLLM, "image": "docker.io/bentoml/llm:1"}], id="vLLM, which BentoML may run"
        ),
        pytest.param({"engine": "ray-serve-llm"}, [VLLM], id="an engine without images of its own"),
        pytest.param({"engine": "sglang"}, [{"image": "registry.example/serve:1"}], id="an image that is not known"),
        pytest.param(
            {"engine": "sglang", "engineEndpoint": "http://llama.ai/metrics"}, [VLLM], id="a URL of another workload"
        ),
    ],
)
def test_an_engine_that_may_be_in_the_containers_is_accepted(
    metadata: dict[str, Any], containers: list[dict[str, Any]]
) -> None:
    assert messages(scaled(profile="llm", **metadata) + workload(*containers)) == []


def test_a_page_counts_for_a_selected_series_whatever_its_engine_is() -> None:
    assert messages(scaled(engineMetric="x", engine="sglang", targetValue="5") + workload(VLLM)) == []


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        pytest.param(
            {"profile": "llm", "engine": "ollama"}, "metadata.engine: Ollama does not export what load needs", id="load"
        ),
        pytest.param(
            {"metricType": "kv_cache_usage", "engine": "llama.cpp"},
            "metadata.engine: llama.cpp does not export what kv_cache_usage needs",
            id="a KV cache",
        ),
        pytest.param(
            {"metricType": "saturation", "engine": "ollama"},
            "metadata.engine: Ollama does not export what saturation needs",
            id="saturation",
        ),
    ],
)
def test_a_metric_that_the_named_engine_never_exports_is_named(metadata: dict[str, Any], what: str) -> None:
    assert f"{what}, {NOT_EXPORTED}" in messages(scaled(**metadata))


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param(
            {"metricType": "saturation", "engine": "xinference"}, id="a part of the saturation is a lower bound"
        ),
        pytest.param({"metricType": "kv_cache_usage", "engine": "bentoml"}, id="BentoML may show the pages of vLLM"),
        pytest.param({"metricType": "kv_cache_usage"}, id="no engine is named"),
        pytest.param(
            {"engineMetric": "ollama_loaded_models", "engine": "ollama", "targetValue": "1"}, id="a selected series"
        ),
    ],
)
def test_a_metric_that_the_engine_may_export_is_accepted(metadata: dict[str, Any]) -> None:
    assert not [message for message in messages(scaled(**metadata)) if NOT_EXPORTED in message]


def test_every_metric_of_engines_has_the_parts_that_it_needs() -> None:
    assert {metric.reading for metric in ENGINE_METRICS.values()} == {*_PARTS, "load", "engine"}


def test_a_port_that_no_container_declares_is_a_note() -> None:
    text = scaled(profile="llm", enginePort="9999") + workload(with_ports(8000, 8001))
    [finding] = validate_text(text).findings
    assert finding.severity is Severity.INFO
    assert finding.message == (
        "metadata.enginePort: no container of Deployment llama declares this port; they declare 8000, 8001. Only "
        "enginePort is tried: correct it if the engine does not listen there"
    )
    [message] = messages(scaled(profile="llm", enginePort="9000-9001") + workload(with_ports(8000)))
    assert "declares one of these ports; they declare 8000." in message


@pytest.mark.parametrize(
    ("port", "container"),
    [
        pytest.param("8000", with_ports(8000), id="a declared port"),
        pytest.param("8000-8007", with_ports(8000), id="a range with a declared port"),
        pytest.param("9999", VLLM, id="no port is declared"),
        pytest.param("9999", with_ports("http", None), id="ports that are no numbers"),
    ],
)
def test_a_port_that_may_be_right_is_accepted(port: str, container: dict[str, Any]) -> None:
    assert messages(scaled(profile="llm", enginePort=port) + workload(container)) == []
