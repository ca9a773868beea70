# SPDX-License-Identifier: Apache-2.0
"""Tests of the engines at several ports of one pod."""

import math

import pytest

from keda_gpu_scaler.core.evaluate.engine_load import EngineLoad
from keda_gpu_scaler.core.evaluate.ranks import combine_ranks, ranks_of
from keda_gpu_scaler.core.state.scrape import ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS

TWO = ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics"), TargetHistory("http://10.0.0.1:8001/metrics")))


def of(value: float | None, requests: float = 0.0, expires: float = math.inf) -> EngineLoad:
    return EngineLoad(value, f"{value}", requests, expires, are_requests_known=True)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("queue_depth", 40.0),
        ("running_requests", 40.0),
        ("token_rate", 40.0),
        ("request_rate", 40.0),
        ("engine", 40.0),
        ("load", 20.0),
        ("saturation", 40.0),
        ("kv_cache_usage", 40.0),
        ("ttft_ms", 40.0),
    ],
)
def test_the_value_of_a_pod_by_its_ranks(metric: str, expected: float) -> None:
    combined = combine_ranks(ENGINE_METRICS[metric], [of(0.0, 1.0, 9.0), of(40.0, 2.0, 8.0)])
    assert (combined.value, combined.requests, combined.expires_at_seconds) == (expected, 3.0, 8.0)
    assert combined.are_requests_known
    assert combined.sentence.endswith("of 2 engines): 0.0; 40.0")


def test_a_rank_without_a_value_leaves_a_lower_bound() -> None:
    for metric, bound in (("queue_depth", 40.0), ("load", 20.0), ("saturation", 40.0)):
        combined = combine_ranks(ENGINE_METRICS[metric], [of(None), of(40.0)])
        assert (combined.value, combined.lower_bound) == (None, bound)
    assert combine_ranks(ENGINE_METRICS["load"], [of(None), of(None)]).lower_bound is None


def test_one_engine_is_its_pod() -> None:
    alone = of(7.0)
    assert combine_ranks(ENGINE_METRICS["load"], [alone]) is alone


def test_only_ports_that_the_trigger_names_are_ranks() -> None:
    assert ranks_of(EngineQuery(), TWO) == [TWO]
    assert ranks_of(EngineQuery(ports=(8000,)), TWO) == [TWO]
    assert ranks_of(EngineQuery(ports=(8000, 8001)), None) == [None]
    ranks = ranks_of(EngineQuery(ports=(8000, 8001)), TWO)
    assert [rank.targets[0].url for rank in ranks if rank] == [target.url for target in TWO.targets]
