# SPDX-License-Identifier: Apache-2.0
"""Tests of values of which a part is known, because one of several series is not a number."""

from dataclasses import replace
from typing import Any

import pytest

from keda_gpu_scaler.core.evaluate.contradiction import ASSUMED_COLD_START_SECONDS
from keda_gpu_scaler.core.evaluate.engine_load import EngineLoad, engine_load
from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.evaluate.load.workload_load import ScrapedEngine, workload_load
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory, retained
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import EngineSample, Series
from keda_gpu_scaler.engines.scrape_parser import parse_page
from tests.core.evaluate.load import replicas
from tests.fakes import pod, workload

NOW = 1000.0
WHERE = "http://10.0.0.1:8000/metrics"
URL = "http://vllm-svc/metrics"
VLLM = 'vllm:num_requests_running{{engine="0"}} 1\n{}'
NOT_A_NUMBER = "is not known: a value of it is not a number, or differs from its copy"
WAITING_RANKS = 'vllm:num_requests_waiting{engine="0"} NaN\nvllm:num_requests_waiting{engine="1"} 50\n'
SELECTED = SeriesSelector("depth")


def scraped(*samples: EngineSample) -> ScrapeResult:
    return ScrapeResult((TargetHistory(WHERE, samples),))


def load(metric: str, *samples: EngineSample, query: EngineQuery | None = None) -> EngineLoad:
    return engine_load(
        query or EngineQuery(),
        ENGINE_METRICS[metric],
        scraped(*samples),
        window_seconds=10.0,
        stale_after_seconds=10.0,
        now=NOW,
    )


def read(text: str) -> EngineSample:
    return parse_page(VLLM.format(text).encode(), "text/plain; version=0.0.4", at_seconds=NOW)


def sample(ago: float = 0.0, **readings: Any) -> EngineSample:
    return EngineSample(NOW - ago, "vllm", **readings)


@pytest.mark.parametrize(
    ("metric", "page", "bound", "requests"),
    [
        pytest.param("saturation", WAITING_RANKS + "vllm:kv_cache_usage_perc 0.1\n", 1000.0, 51, id="saturation"),
        pytest.param("queue_depth", WAITING_RANKS, 50.0, 51, id="a queue"),
        pytest.param(
            "kv_cache_usage",
            'vllm:kv_cache_usage_perc{engine="0"} NaN\nvllm:kv_cache_usage_perc{engine="1"} 0.95\n',
            95.0,
            1,
            id="the fullest KV cache",
        ),
        pytest.param(
            "saturation",
            'vllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc{engine="0"} NaN\n'
            'vllm:kv_cache_usage_perc{engine="1"} 0.95\n',
            118.75,
            1,
            id="saturation by the fullest KV cache",
        ),
        pytest.param("running_requests", 'vllm:num_requests_running{engine="1"} NaN\n', 1.0, 1, id="running requests"),
    ],
)
def test_what_is_known_of_a_reading_is_a_lower_bound(metric: str, page: str, bound: float, requests: float) -> None:
    result = load(metric, read(page))
    assert (result.value, result.lower_bound, result.requests) == (None, bound, requests)
    assert NOT_A_NUMBER in result.sentence


def test_a_lower_bound_is_the_mean_over_the_window() -> None:
    whole, part = sample(2.0, waiting=10.0), sample(known_parts={"waiting": 4.0})
    assert load("queue_depth", whole, part).lower_bound == 7.0
    # The newest page has the whole reading: earlier ones of which only a part is known do not count.
    assert load("queue_depth", replace(part, at_seconds=NOW - 2), sample(waiting=10.0)).value == 10.0


def test_the_parts_of_saturation_are_listed_with_what_is_known_of_them() -> None:
    both = load("saturation", sample(kv_cache_ratio=0.4, known_parts={"waiting": 10.0}))
    assert f"its number of waiting requests {NOT_A_NUMBER}" in both.sentence
    assert "the saturation is at least 200 % (KV cache 50 %, queue at least 200 %)" in both.sentence
    none = load("saturation", sample(known_parts={"waiting": 0.0, "kv_cache_ratio": 0.0}))
    assert (none.value, none.lower_bound) == (None, 0.0)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("request_rate", "requests_total"),
        ("token_rate", "tokens_total"),
        ("queue_wait_ms", "queue_waits_total"),
        ("ttft_ms", "first_token"),
    ],
)
def test_a_counter_whose_value_is_not_a_number_has_no_lower_bound(metric: str, name: str) -> None:
    """The counts of two pages, of which one misses a part, have no difference."""
    result = load(metric, sample(2.0, known_parts={name: 3.0}), sample(known_parts={name: 9.0}))
    assert (result.value, result.lower_bound) == (None, None)
    assert NOT_A_NUMBER in result.sentence


def test_a_selected_series_with_an_unknown_part_is_unknown() -> None:
    """Its values may be negative, so its sum may be smaller than what is known of it."""
    part = sample(selected={"depth": Series(9.0, is_counter=False, is_partial=True)})
    result = load("engine", part, query=EngineQuery(selector=SELECTED))
    assert (result.value, result.lower_bound) == (None, None)
    assert "series depth is not known: a value of it is not a number" in result.sentence


@pytest.mark.parametrize("metric", ["ttft_ms", "queue_wait_ms"])
def test_a_queue_of_which_a_part_is_unknown_is_not_empty(metric: str) -> None:
    counted: dict[str, Any] = {
        "queue_wait_seconds_total": 1.0,
        "queue_waits_total": 5.0,
        "waiting": 0.0,
        "running": 0.0,
    }
    newest = replicas.steady(replicas.ReplicaModel(), 1.0).samples[-1]
    counted["first_token"] = newest.token_time
    assert load(metric, sample(2.0, **counted), sample(**counted)).value == 0.0
    unknown = {**counted, "known_parts": {"deferred": 0.0}}
    assert load(metric, sample(2.0, **unknown), sample(**unknown)).value is None


def evaluated(engine: ScrapeResult, metadata: dict[str, str], *, at_url: bool = False) -> Evaluation:
    trigger = parse_trigger({**metadata, **({"engineEndpoint": URL} if at_url else {})})
    one = pod("llama-0", address="10.0.0.1")
    endpoint = Endpoint(url=URL) if at_url else Endpoint(one.ref, one.address)
    return evaluate(trigger, Fleet(None, 10.0, True, scrape_results={endpoint: engine}), NOW, workload(one), metadata)


@pytest.mark.parametrize("at_url", [False, True], ids=["of a pod", "at a URL"])
def test_a_lower_bound_above_the_target_lets_the_workload_grow(at_url: bool) -> None:
    evaluation = evaluated(
        scraped(read(WAITING_RANKS)), {"metricType": "queue_depth", "targetValue": "5"}, at_url=at_url
    )
    assert evaluation.value == 50.0
    assert any("at least 50: vllm at" in step for step in evaluation.steps)
    below = evaluated(scraped(read(WAITING_RANKS)), {"metricType": "queue_depth", "targetValue": "60"}, at_url=at_url)
    assert below.value is None or below.with_value == 0


@pytest.mark.parametrize("at_url", [False, True], ids=["of a pod", "at a URL"])
@pytest.mark.parametrize("name", ["waiting", "running", "deferred"])
def test_law_1_an_engine_whose_requests_are_not_a_number_is_not_idle(name: str, at_url: bool) -> None:
    idle: dict[str, Any] = {"running": 0.0, "waiting": 0.0, "kv_cache_ratio": 0.0}
    metadata = {"metricType": "kv_cache_usage"}
    assert evaluated(scraped(sample(**idle)), metadata, at_url=at_url).active is False
    unknown = sample(**{**idle, name: None}, known_parts={name: 0.0})
    evaluation = evaluated(scraped(unknown), metadata, at_url=at_url)
    assert (evaluation.active, evaluation.known_activity) == (True, None)
    assert NOT_A_NUMBER in evaluation.steps[-1]


def test_the_load_counts_the_known_part_of_a_queue_and_is_a_lower_bound() -> None:
    page = replicas.steady(replicas.ReplicaModel(), 1.0, waiting=100.0)
    whole, none = loaded(page), loaded(changed(page, waiting=0.0))
    partial = loaded(changed(page, waiting=None, known_parts={"waiting": 100.0}))
    assert whole.value is not None
    assert none.value is not None
    assert whole.value > none.value
    assert (partial.value, partial.lower_bound) == (None, whole.value)
    assert f"its number of waiting requests {NOT_A_NUMBER}; the load is at least" in partial.sentence


@pytest.mark.parametrize("name", ["running", "kv_cache_ratio"])
def test_law_1_the_load_of_an_engine_with_an_unknown_gauge_is_not_known(name: str) -> None:
    page = replicas.steady(replicas.ReplicaModel(), 1.0)
    whole, partial = loaded(page), loaded(changed(page, **{name: None}, known_parts={name: 0.0}))
    assert whole.value is not None
    assert partial.value is None
    assert partial.lower_bound is not None
    assert 0 < partial.lower_bound <= whole.value


@pytest.mark.parametrize("metric", ["queue_depth", "saturation", "load", "engine"])
@pytest.mark.parametrize("number", ["1e308", "-1e308", "1e101"])
def test_a_number_that_cannot_be_added_up_is_unknown(metric: str, number: str) -> None:
    body = VLLM.format(f"vllm:num_requests_waiting {number}\nvllm:kv_cache_usage_perc 0.3\ndepth {number}\n").encode()
    pages = [
        parse_page(body, "text/plain; version=0.0.4", at_seconds=NOW - ago, selectors=[SELECTED]) for ago in (4, 2, 0)
    ]
    metadata = {"metricType": metric}
    if metric in ("queue_depth", "engine"):
        metadata["targetValue"] = "5"
    if metric == "engine":
        metadata["engineMetric"] = SELECTED.text
    evaluation = evaluated(scraped(*pages), metadata)
    assert evaluation.value is None
    assert evaluation.active
    assert "a value of it is not a number" in evaluation.reason


def changed(page: TargetHistory, **readings: object) -> TargetHistory:
    return TargetHistory(page.url, tuple(replace(one, **readings) for one in page.samples))  # type: ignore[arg-type]


def loaded(page: TargetHistory) -> EngineLoad:
    return workload_load(
        EngineQuery(),
        [ScrapedEngine(ScrapeResult((page,)))],
        window_seconds=10.0,
        stale_after_seconds=10.0,
        now=replicas.NOW,
    ).loads[0]


def test_a_known_part_of_a_queue_that_the_value_does_not_answer_is_named() -> None:
    long = int(ASSUMED_COLD_START_SECONDS) + 50
    parts = {"waiting": 10.0}
    waiting = [sample(float(ago), running=1.0, kv_cache_ratio=0.3, known_parts=parts) for ago in range(long, -1, -10)]
    evaluation = evaluated(scraped(*waiting), {"metricType": "kv_cache_usage"})
    assert any(step.startswith("contradiction: 10 requests wait") for step in evaluation.steps)


def test_the_known_part_of_a_kv_cache_is_in_the_unit_of_the_engine() -> None:
    earlier = sample(2.0, kv_cache_ratio=0.95, is_kv_percent=True)
    part = sample(known_parts={"kv_cache_ratio": 1.0, "waiting": 3.0})  # 1 %, which is small enough for a ratio
    kept = retained((earlier,), part, window_seconds=10.0, history_seconds=10.0)[-1]
    assert kept.known_parts == {"kv_cache_ratio": 0.01, "waiting": 3.0}
    assert kept.is_kv_percent
