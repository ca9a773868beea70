# SPDX-License-Identifier: Apache-2.0
"""Tests of the engines at several ports of one pod."""

import math
from collections.abc import Callable

import pytest

from keda_gpu_scaler.core.evaluate.engine_load import EngineLoad
from keda_gpu_scaler.core.evaluate.ranks import combine_ranks, ranks_of
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS
from keda_gpu_scaler.core.types import EngineSample

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


def test_a_part_that_is_known_of_a_rank_is_a_part_of_the_lower_bound() -> None:
    partial = EngineLoad(None, "at least 60", lower_bound=60.0, unknown_requests="its number is not known")
    for metric, others, bound in (("queue_depth", 40.0, 100.0), ("load", 40.0, 50.0), ("saturation", 40.0, 60.0)):
        combined = combine_ranks(ENGINE_METRICS[metric], [partial, of(others)])
        assert (combined.value, combined.lower_bound) == (None, bound)
        assert combined.unknown_requests == "its number is not known"
    assert combine_ranks(ENGINE_METRICS["load"], [partial, of(None)]).lower_bound == 30.0


def test_one_engine_is_its_pod() -> None:
    alone = of(7.0)
    assert combine_ranks(ENGINE_METRICS["load"], [alone]) is alone


def test_a_supervisor_of_an_engine_is_left_out_unless_its_port_is_named() -> None:
    supervisor = EngineLoad(None, "no requests", is_no_engine=True)
    metric = ENGINE_METRICS["queue_depth"]
    assert combine_ranks(metric, [supervisor, of(7.0)], are_named=False).value == 7.0
    assert combine_ranks(metric, [supervisor, of(7.0)]).value is None
    assert combine_ranks(metric, [supervisor, of(None)], are_named=False).value is None
    assert combine_ranks(metric, [of(None), of(7.0)], are_named=False).lower_bound == 7.0


def test_each_port_that_the_trigger_names_is_a_rank() -> None:
    assert ranks_of(EngineQuery(), TWO) == [TWO]
    assert ranks_of(EngineQuery(ports=(8000,)), TWO) == [TWO]
    assert ranks_of(EngineQuery(ports=(8000, 8001)), None) == [None]
    ranks = ranks_of(EngineQuery(ports=(8000, 8001)), TWO)
    assert [rank.targets[0].url for rank in ranks if rank] == [target.url for target in TWO.targets]


# ---- declared ports ----


def page(port: int, *samples: EngineSample) -> TargetHistory:
    return TargetHistory(f"http://10.0.0.1:{port}/metrics", tuple(samples))


def readings(
    engine: str = "vllm", *, offset: float = 0.0, count: int = 60, **of_second: Callable[[float], float]
) -> list[EngineSample]:
    """Samples every two seconds, whose readings are functions of the second."""
    seconds = [2.0 * number + offset for number in range(count)]
    return [
        EngineSample(at, engine, **{name: reading(at) for name, reading in of_second.items()})  # type: ignore[arg-type]
        for at in seconds
    ]


def tokens(at: float) -> float:
    """A counter that grows unevenly: 500 in each second, and 3000 in each tenth."""
    return 500.0 * at + 3000.0 * (at // 10)


@pytest.mark.parametrize(
    ("one", "other", "are_two"),
    [
        pytest.param(
            readings(tokens_total=tokens), readings(tokens_total=lambda at: tokens(at) + 90_000), True,
            id="ranks with other counters",
        ),
        pytest.param(
            readings(tokens_total=tokens), readings(tokens_total=lambda _: 0.0), True, id="an idle and a busy rank"
        ),
        pytest.param(
            readings(tokens_total=tokens), readings(tokens_total=tokens, offset=1.3), False, id="a proxy of one engine"
        ),
        pytest.param(
            readings(tokens_total=tokens), readings(tokens_total=lambda at: tokens(at - 5), offset=0.7), False,
            id="a proxy that answers after five seconds",
        ),
        pytest.param(
            readings(tokens_total=lambda at: at % 60), readings(tokens_total=lambda at: at % 60, offset=1.0), False,
            id="a proxy of an engine that starts again",
        ),
        pytest.param(
            readings(tokens_total=lambda _: 7.0), readings(tokens_total=lambda _: 7.0), False, id="without a difference"
        ),
        pytest.param(
            readings(waiting=lambda _: 0.0), readings(waiting=lambda _: 40.0), True, id="a queue at one of them"
        ),
        pytest.param(
            readings(waiting=lambda at: at % 9), readings(waiting=lambda at: at % 9, offset=1.0), False,
            id="a proxy of an engine with a queue",
        ),
        pytest.param(
            readings(waiting=lambda _: 0.0, count=5), readings(waiting=lambda _: 40.0), False, id="too few readings"
        ),
        pytest.param(readings("vllm"), readings("sglang"), True, id="two different engines"),
        pytest.param(readings("nim"), readings("vllm"), False, id="an engine that does its work with the other"),
        pytest.param(readings("vllm"), readings("bentoml"), False, id="the same, the other way round"),
        pytest.param(readings(tokens_total=tokens), [], False, id="no page yet"),
    ],
)  # fmt: skip
def test_a_declared_port_is_a_rank_where_it_certainly_is_another_engine(
    one: list[EngineSample], other: list[EngineSample], are_two: bool
) -> None:
    pages = (page(8000, *one), page(8001, *other))
    ranks = ranks_of(EngineQuery(), ScrapeResult(pages))
    expected = [(pages[0],), (pages[1],)] if are_two else [pages]
    assert [rank.targets for rank in ranks if rank] == expected
    assert ranks_of(EngineQuery(), ScrapeResult(pages)) == ranks


def test_a_proxy_takes_the_place_of_its_engine_and_another_engine_does_not() -> None:
    engine, proxy = readings(tokens_total=tokens), readings(tokens_total=tokens, offset=1.0)
    other = readings(tokens_total=lambda _: 0.0)
    pages = (page(8000, *engine), page(8001, *other), page(15020, *proxy))
    ranks = ranks_of(EngineQuery(), ScrapeResult(pages))
    assert [rank.targets for rank in ranks if rank] == [(pages[0], pages[2]), (pages[1],)]


def test_a_series_is_selected_from_the_first_page_of_a_pod() -> None:
    """Another engine need not export it."""
    pages = (page(8000, *readings("vllm")), page(30000, *readings("sglang")))
    query = EngineQuery(selector=SeriesSelector("vllm:num_preemptions_total"))
    assert ranks_of(query, ScrapeResult(pages)) == [ScrapeResult(pages)]
