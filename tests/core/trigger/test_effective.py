# SPDX-License-Identifier: Apache-2.0
"""Tests of the effective settings and their origins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.trigger.effective import effective_settings
from keda_gpu_scaler.core.trigger.parser import PARAMETERS, Scope, parse_trigger
from keda_gpu_scaler.core.trigger.profiles import PROFILES

KEYS = {parameter.key for parameter in PARAMETERS}


def settings_of(**metadata: str) -> dict[str, tuple[str, str]]:
    found = effective_settings(parse_trigger(metadata), metadata, Scope.WORKLOAD)
    assert len({one.key for one in found}) == len(found)
    return {one.key: (one.value, one.origin) for one in found}


@pytest.mark.parametrize(
    ("metadata", "key", "value", "origin"),
    [
        ({}, "targetValue", "80 %", "default"),
        ({}, "metricName", "keda_gpu_metric", "default"),
        ({"targetValue": "70"}, "targetValue", "70 %", "given"),
        ({"targetValueFromEnv": "70"}, "targetValue", "70 %", "given"),
        ({"profile": "triton-inference"}, "targetValue", "75 %", "profile triton-inference"),
        ({"profile": "triton-inference", "targetValue": "60"}, "targetValue", "60 %", "given"),
        ({"profile": "triton-inference"}, "windowSeconds", "10", "default"),
        ({"targetGpuUtilization": "60", "targetValue": "70"}, "targetValue", "60 %", "given as targetGpuUtilization"),
        ({"targetMemoryUtilization": "60"}, "metricType", "memory_used_percent", "given as targetMemoryUtilization"),
        ({"gpuIndex": "1"}, "gpuIndex", "1", "given"),
        ({"nodeSelector": "pool=a"}, "nodeSelector", "pool=a", "given"),
        ({"metricType": "saturation", "queueTarget": "9"}, "queueTarget", "9", "given"),
        ({"metricType": "saturation"}, "kvTarget", "0.8", "default"),
        ({"profile": "llm"}, "windowSeconds", "30", "default"),
        ({"profile": "llm"}, "itlTargetMs", "50", "default"),
        ({"profile": "llm", "itlFloorMs": "6.5"}, "itlFloorMs", "6.5", "given"),
        ({"profile": "llm", "forecast": "trend"}, "forecast", "trend", "given"),
        ({"profile": "llm", "drainSeconds": "90"}, "drainSeconds", "90", "given"),
        ({"metricType": "ttft_ms", "targetValue": "9"}, "quantile", "0.95", "default"),
        (
            {"engineMetric": 'queue{a="b"}', "targetValue": "9", "vllmEndpoint": "http://x/metrics"},
            "engineEndpoint", "http://x/metrics", "given as vllmEndpoint",
        ),
        ({"engineMetric": 'queue{a="b"}', "targetValue": "9"}, "engineMetric", 'queue{a="b"}', "given"),
        ({"engineMetric": "queue", "targetValue": "9"}, "metricType", "engine", "given as engineMetric"),
        ({"profile": "vllm-queue-depth"}, "engine", "vllm", "metricType vllm_queue_depth"),
        ({"metricType": "saturation", "vllmEndpoint": "http://x/metrics"}, "engine", "vllm", "given as vllmEndpoint"),
        ({"profile": "sglang"}, "engine", "sglang", "profile sglang"),
        ({"metricType": "saturation"}, "engine", "auto", "default"),
        (
            {"demandEndpoint": "http://x/metrics", "demandMetric": "requests", "demandPerReplica": "4"},
            "demandPerReplica", "4", "given",
        ),
        ({"demandEndpoint": "http://x/metrics", "demandMetric": "requests"}, "demandHoldSeconds", "60", "default"),
    ],
)  # fmt: skip
def test_a_setting_is_listed_with_its_origin(metadata: dict[str, str], key: str, value: str, origin: str) -> None:
    assert settings_of(**metadata)[key] == (value, origin)


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ({}, "gpuIndex"),
        ({"gpuIndex": "-1"}, "gpuIndex"),
        ({}, "engine"),
        ({}, "demandHoldSeconds"),
        ({"metricType": "queue_depth"}, "aggregation"),
        ({"metricType": "queue_depth"}, "kvTarget"),
        ({"metricType": "saturation"}, "quantile"),
        ({"metricType": "saturation"}, "headroom"),
        ({"profile": "llm"}, "queueTarget"),
    ],
)
def test_a_key_without_effect_is_not_listed(metadata: dict[str, str], key: str) -> None:
    assert key not in settings_of(**metadata)


@given(st.sampled_from(sorted(PROFILES)), st.booleans())
def test_every_listed_key_is_a_parameter_and_given_keys_have_the_origin_given(
    profile: str, has_threshold: bool
) -> None:
    metadata = {"profile": profile, "windowSeconds": "30", **({"activationThreshold": "1"} if has_threshold else {})}
    found = settings_of(**metadata)
    assert found.keys() <= KEYS
    assert all(found[key][1] == "given" for key in metadata)


def test_the_scope_is_the_one_that_was_used() -> None:
    found = effective_settings(parse_trigger({}), {}, Scope.FLEET)
    assert ("scope", "fleet", "default") in [(one.key, one.value, one.origin) for one in found]
