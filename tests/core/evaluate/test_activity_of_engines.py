# SPDX-License-Identifier: Apache-2.0
"""Tests that requests, and not a KV cache in use, say whether engines have work."""

import pytest

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import EngineSample
from tests.fakes import pod, workload

NOW = 1000.0
URL = "http://vllm-svc/metrics"
ONE_BLOCK = 1 / 27000
"""A vLLM before 0.11 counts a block that is never used."""
BY_REQUESTS = "inactive: no request is running, is waiting or ended within the window"
SATURATION, CACHE = {"metricType": "saturation"}, {"metricType": "kv_cache_usage"}


def vllm(kv: float, *, running: float | None = 0.0, waiting: float = 0.0, ended: float = 0.0) -> ScrapeResult:
    """Two samples of a vLLM; ``ended`` requests end between them."""
    samples = tuple(
        EngineSample(
            NOW - ago,
            "vllm",
            waiting=waiting,
            running=running,
            kv_cache_ratio=kv,
            requests_total=100.0 if ago else 100.0 + ended,
        )
        for ago in (2.0, 0.0)
    )
    return ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics", samples),))


def evaluated(metadata: dict[str, str], *engines: ScrapeResult, at_url: bool = False) -> Evaluation:
    trigger = parse_trigger({**metadata, **({"engineEndpoint": URL} if at_url else {})})
    pods = [pod(f"llama-{number}", address=f"10.0.0.{number + 1}") for number in range(len(engines))]
    endpoints = [Endpoint(url=URL)] if at_url else [Endpoint(one.ref, one.address) for one in pods]
    if metadata.get("metricType", "").startswith("vllm_"):
        endpoints = [Endpoint(one.pod, one.address, "vllm", url=one.url) for one in endpoints]
    results = dict(zip(endpoints, engines, strict=True))
    return evaluate(trigger, Fleet(None, 10.0, True, scrape_results=results), NOW, workload(*pods), metadata)


@pytest.mark.parametrize("at_url", [False, True], ids=["of pods", "at a URL"])
@pytest.mark.parametrize("kv", [ONE_BLOCK, 0.12], ids=["a block that is never used", "prefixes in the cache"])
@pytest.mark.parametrize(
    "metadata",
    [
        SATURATION,
        CACHE,
        {"metricType": "vllm_kv_cache_usage"},
        {"profile": "llm"},
        # The activation threshold of a profile is not the trigger's own.
        {"profile": "vllm-inference", "metricType": "kv_cache_usage"},
    ],
    ids=lambda metadata: " ".join(metadata.values()),
)
def test_a_cache_in_use_without_a_request_is_no_work(metadata: dict[str, str], kv: float, at_url: bool) -> None:
    evaluation = evaluated(metadata, vllm(kv), at_url=at_url)
    assert (evaluation.active, evaluation.known_activity) == (False, False)
    if "profile" not in metadata:
        assert evaluation.value is not None
        assert evaluation.value > 0
        assert evaluation.steps[-1].startswith(BY_REQUESTS)


@pytest.mark.parametrize("at_url", [False, True], ids=["of pods", "at a URL"])
@pytest.mark.parametrize(
    ("changes", "count"),
    [
        pytest.param({"running": 1.0}, 1, id="a running request"),
        pytest.param({"waiting": 3.0}, 3, id="waiting requests"),
        pytest.param({"ended": 4.0}, 4, id="requests that ended within the window"),
    ],
)
@pytest.mark.parametrize("metadata", [SATURATION, CACHE])
def test_requests_are_work(metadata: dict[str, str], changes: dict[str, float], count: int, at_url: bool) -> None:
    evaluation = evaluated(metadata, vllm(ONE_BLOCK, **changes), at_url=at_url)
    assert evaluation.steps[-1] == f"active: {count} requests are running, are waiting or ended within the window"


@pytest.mark.parametrize("at_url", [False, True], ids=["of pods", "at a URL"])
@pytest.mark.parametrize(
    ("threshold", "step"),
    [("5", "active: 12 is above activationThreshold 5"), ("20", "inactive: 12 is not above activationThreshold 20")],
)
def test_a_threshold_of_the_trigger_itself_counts(threshold: str, step: str, at_url: bool) -> None:
    assert evaluated({**CACHE, "activationThreshold": threshold}, vllm(0.12), at_url=at_url).steps[-1] == step


@pytest.mark.parametrize("at_url", [False, True], ids=["of pods", "at a URL"])
def test_law_1_where_requests_are_not_known_the_threshold_decides(at_url: bool) -> None:
    evaluation = evaluated(CACHE, vllm(0.12, running=None), at_url=at_url)
    assert evaluation.steps[-1] == "active: 12 is above activationThreshold 0"
    assert evaluated(CACHE, vllm(0.0, running=None), at_url=at_url).active is False


def test_law_1_one_pod_whose_requests_are_not_known_brings_the_threshold_back() -> None:
    assert evaluated(CACHE, vllm(0.12), vllm(0.12, running=None)).active is True
    assert evaluated(CACHE, vllm(0.12), vllm(0.12)).active is False


def test_law_1_a_pod_without_an_answer_keeps_an_idle_workload_active() -> None:
    evaluation = evaluated(CACHE, vllm(0.12), ScrapeResult(failure="no answer within 2 s"))
    assert (evaluation.active, evaluation.known_activity) == (True, None)


def test_a_metric_that_counts_requests_keeps_its_threshold() -> None:
    metadata = {"metricType": "running_requests", "targetValue": "10"}
    assert evaluated(metadata, vllm(0.0, running=2.0)).steps[-1] == "active: 2 is above activationThreshold 0"
