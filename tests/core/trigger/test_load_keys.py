# SPDX-License-Identifier: Apache-2.0
"""Tests the keys of the metric load: their limits, and the hints about keys without an effect."""

import pytest

import keda_gpu_scaler.engines  # noqa: F401 - registers the engines
from keda_gpu_scaler.core.trigger.parser import TriggerError, parse_trigger


@pytest.mark.parametrize(
    ("metadata", "hints"),
    [
        pytest.param(
            {"metricType": "saturation", "headroom": "1.2", "forecast": "trend"},
            [
                "metadata.headroom: is not used by saturation, only by load: remove it, or change metricType",
                "metadata.forecast: is not used by saturation, only by load: remove it, or change metricType",
            ],
            id="keys of load with saturation",
        ),
        pytest.param(
            {"metricType": "queue_depth", "kvTarget": "0.5", "quantile": "0.9"},
            [
                "metadata.kvTarget: is not used by queue_depth, only by load and saturation: remove it, or change "
                "metricType",
                "metadata.quantile: is not used by queue_depth, only by ttft_ms: remove it, or change metricType",
            ],
            id="keys of several metrics with another one",
        ),
        pytest.param(
            {"profile": "tgi", "queueTarget": "10"},
            ["metadata.queueTarget: is not used by load, only by saturation: set drainSeconds instead"],
            id="the key of the queue, which load counts in another way",
        ),
        pytest.param(
            {"metricType": "queue_depth", "queueTarget": "10"},
            ["metadata.queueTarget: is not used by queue_depth, only by saturation: remove it, or change metricType"],
            id="the key of the queue with the queue itself",
        ),
        pytest.param(
            {"profile": "llm", "itlTargetMs": "2"},
            [
                "metadata.itlTargetMs: 2 ms per token is less than most models need for one request alone, so a "
                "replica counts as full with a few requests: set 5 or more, about half of the time per token that "
                "your users accept"
            ],
            id="a target that no model reaches",
        ),
        pytest.param({"profile": "llm", "itlTargetMs": "5"}, [], id="the least plausible target"),
        pytest.param(
            {"profile": "llm", "engineEndpoint": "http://vllm-svc/metrics", "forecast": "trend"},
            [
                "metadata.forecast: is not used with engineEndpoint, whose replicas are not known: remove it, or let "
                "the pods be scraped and remove engineEndpoint"
            ],
            id="a forecast at a URL",
        ),
        pytest.param(
            {"profile": "llm", "engineEndpoint": "http://vllm-svc/metrics", "forecast": "none"}, [], id="none at a URL"
        ),
        pytest.param(
            {
                "profile": "llm",
                "itlTargetMs": "40",
                "itlFloorMs": "8",
                "headroom": "1",
                "drainSeconds": "30",
                "kvTarget": "0.7",
                "maxSeqs": "64",
                "forecast": "trend",
            },
            [],
            id="every key of load",
        ),
        pytest.param(
            {"metricType": "saturation", "queueTarget": "3", "kvTarget": "0.7", "maxSeqs": "64"},
            [],
            id="every key of saturation",
        ),
        pytest.param({"metricType": "ttft_ms", "targetValue": "500", "quantile": "0.9"}, [], id="the key of ttft_ms"),
    ],
)
def test_a_key_without_an_effect_gets_a_hint(metadata: dict[str, str], hints: list[str]) -> None:
    assert list(parse_trigger(metadata).hints) == hints


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        pytest.param(
            {"profile": "llm", "itlFloorMs": "50"},
            'metadata.itlFloorMs: Invalid value: "50": must be below itlTargetMs (50): it is the time per token of one '
            "request alone; remove the key, so that it is found by itself, or set a higher itlTargetMs",
            id="equal to the default target",
        ),
        pytest.param(
            {"profile": "llm", "itlFloorMs": "30", "itlTargetMs": "20"},
            'metadata.itlFloorMs: Invalid value: "30": must be below itlTargetMs (20): it is the time per token of one '
            "request alone; remove the key, so that it is found by itself, or set a higher itlTargetMs",
            id="above a given target",
        ),
    ],
)
def test_a_floor_above_the_target_is_refused(metadata: dict[str, str], problem: str) -> None:
    with pytest.raises(TriggerError) as caught:
        parse_trigger(metadata)
    assert caught.value.problems == (problem,)


def test_a_floor_just_below_the_target_is_accepted() -> None:
    query = parse_trigger({"profile": "llm", "itlFloorMs": "49.9"}).engine
    assert query is not None
    assert query.itl_floor_seconds == pytest.approx(0.0499)
