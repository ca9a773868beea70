# SPDX-License-Identifier: Apache-2.0
"""Tests of the load of an engine and of demand."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.engine_load import EngineLoad, engine_load, pod_endpoint, quantile
from keda_gpu_scaler.core.selectors import SeriesSelector, parse_series
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory, retained
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.metrics import ENGINE_METRICS
from keda_gpu_scaler.core.types import EngineSample, Histogram, Series
from tests.fakes import pod

NOW = 1000.0
WHERE = "http://10.0.0.1:8000/metrics"
ANY = EngineQuery()
IDLE = {"waiting": 0.0, "running": 0.0}


def page(
    *moments: Mapping[str, object], every: float = 2.0, last_at: float = NOW, engine: str = "vllm"
) -> TargetHistory:
    """One reading a moment, ``every`` seconds apart, the last at ``last_at``."""
    return TargetHistory(
        WHERE,
        tuple(
            EngineSample(last_at - every * (len(moments) - 1 - number), engine, **moment)  # type: ignore[arg-type]
            for number, moment in enumerate(moments)
        ),
    )


def load(
    metric: str, result: TargetHistory | ScrapeResult | None, *, window: float = 10.0, query: EngineQuery = ANY
) -> EngineLoad:
    scraped = ScrapeResult((result,)) if isinstance(result, TargetHistory) else result
    return engine_load(query, ENGINE_METRICS[metric], scraped, window_seconds=window, stale_after_seconds=10.0, now=NOW)


def histogram(*counts: float, bounds: tuple[float, ...] = (0.1, 0.5, 1.0, math.inf)) -> Histogram:
    return Histogram(bounds, counts)


def counter(value: float) -> Series:
    return Series(value, is_counter=True)


def gauge(value: float) -> Series:
    return Series(value, is_counter=False)


@pytest.mark.parametrize(
    ("metric", "moments", "expected"),
    [
        pytest.param(
            "queue_depth", [{"waiting": 2.0}, {"waiting": 4.0}], 3.0, id="a queue is the mean over the window"
        ),
        pytest.param("vllm_queue_depth", [{"waiting": 4.0}], 4.0, id="under the name of the original scaler"),
        pytest.param("running_requests", [{"running": 12.0}], 12.0, id="running requests"),
        pytest.param(
            "kv_cache_usage", [{"kv_cache_ratio": 0.57}], 57.0, id="the cache in per cent, without a rounding error"
        ),
        pytest.param(
            "request_rate", [{"requests_total": 100.0}, {"requests_total": 130.0}], 15.0, id="a rate a second"
        ),
        pytest.param(
            "token_rate",
            [{"tokens_total": 900.0}, {"tokens_total": 1000.0}, {"tokens_total": 40.0}],
            50.0,
            id="an interval in which a counter fell counts neither its growth nor its time",
        ),
        pytest.param(
            "queue_wait_ms",
            [
                {"queue_wait_seconds_total": 10.0, "queue_waits_total": 50.0},
                {"queue_wait_seconds_total": 11.5, "queue_waits_total": 60.0},
            ],
            150.0,
            id="the mean wait of the requests that left the queue in the window",
        ),
        pytest.param(
            "queue_wait_ms",
            [
                {"queue_wait_seconds_total": 1.0, "queue_waits_total": 1000.0},
                {"queue_wait_seconds_total": 100.0, "queue_waits_total": 50.0},
                {"queue_wait_seconds_total": 101.0, "queue_waits_total": 60.0},
            ],
            100.0,
            id="an interval in which one of two counters fell counts for neither",
        ),
        pytest.param(
            "queue_wait_ms",
            [{"queue_wait_seconds_total": 10.0, "queue_waits_total": 50.0, **IDLE}] * 2,
            0.0,
            id="no request waited: 0",
        ),
        pytest.param(
            "ttft_ms",
            [{"first_token": histogram(5, 5, 5, 5)}, {"first_token": histogram(15, 15, 15, 15)}],
            95.0,
            id="time to first token: the 0.95 quantile of ten in the first bucket",
        ),
        pytest.param("ttft_ms", [{"first_token": histogram(5, 5, 5, 5), **IDLE}] * 2, 0.0, id="idle: 0"),
        pytest.param(
            "ttft_ms",
            [{"first_token": histogram(*counts)} for counts in ((90, 90, 90, 90), (0, 1, 1, 1), (0, 11, 11, 11))],
            480.0,
            id="an interval in which a histogram was reset does not count",
        ),
    ],
)
def test_a_value_is_computed_from_the_readings_of_the_window(
    metric: str, moments: list[dict[str, object]], expected: float
) -> None:
    assert load(metric, page(*moments)).value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "moments", "why"),
    [
        pytest.param(
            "queue_depth",
            [{"waiting": 3.0}, {}],
            "exports no number of waiting requests",
            id="a gauge that is no longer exported",
        ),
        pytest.param(
            "request_rate", [{"requests_total": 100.0}], "has one reading so far", id="a counter with one reading"
        ),
        pytest.param("request_rate", [{}, {}], "exports no count of requests", id="a counter that is not exported"),
        pytest.param(
            "request_rate",
            [{"requests_total": 100.0}, {"requests_total": 3.0}],
            "was reset",
            id="a counter that was reset has no rate of 0",
        ),
        pytest.param(
            "queue_wait_ms",
            [{"queue_wait_seconds_total": 10.0, "queue_waits_total": 50.0, "waiting": 3.0}] * 2,
            "no request left the queue, and it is not known whether a request waits",
            id="a queue that is stuck is not an empty one",
        ),
        pytest.param(
            "queue_wait_ms",
            [{"queue_wait_seconds_total": 10.0, "queue_waits_total": 50.0}] * 2,
            "no request left the queue, and it is not known whether a request waits",
            id="no request left, and the number of waiting requests is not exported",
        ),
        pytest.param(
            "ttft_ms",
            [{"first_token": histogram(5, 5, 5, 5), "waiting": 0.0, "running": 1.0}] * 2,
            "no request got its first token",
            id="a prefill that takes longer than the window is not 0 ms",
        ),
        pytest.param(
            "saturation", [{"waiting": 0.0}], "exports no KV cache usage", id="the unknown part may be the fullest"
        ),
        pytest.param(
            "saturation", [{"kv_cache_ratio": 0.1}], "exports no number of waiting requests", id="an unknown queue"
        ),
    ],
)
def test_law_1_a_reading_that_an_engine_does_not_export_is_unknown(
    metric: str, moments: list[dict[str, object]], why: str
) -> None:
    result = load(metric, page(*moments))
    assert result.value is None
    assert why in result.sentence
    assert WHERE in result.sentence


def test_a_rate_reaches_back_to_the_reading_before_the_window() -> None:
    result = page({"requests_total": 0.0}, {"requests_total": 100.0}, every=20.0)
    assert load("request_rate", result, window=10.0).value == pytest.approx(5.0)


def test_a_counter_that_is_missing_once_does_not_count_from_zero() -> None:
    result = page({"requests_total": 1e6}, {}, {"requests_total": 1e6 + 8})
    assert load("request_rate", result).value == pytest.approx(2.0)
    assert load("request_rate", page({}, {"requests_total": 1e6})).value is None


@pytest.mark.parametrize(
    ("scraped", "why"),
    [
        pytest.param(None, "not scraped yet", id="no scrape yet"),
        pytest.param(
            ScrapeResult(failure="no address of llama"), "no address of llama", id="its name does not resolve"
        ),
        pytest.param(
            ScrapeResult((TargetHistory(WHERE, failure="no answer within 2 s"),)),
            "no answer within 2 s",
            id="it never answered",
        ),
        pytest.param(
            ScrapeResult((replace(page({"waiting": 3.0}, last_at=NOW - 11), failure="no answer within 2 s"),)),
            "no answer within 2 s; its last page came 11 s ago",
            id="it has not answered for too long",
        ),
    ],
)
def test_law_1_an_engine_without_a_fresh_page_is_unknown(scraped: ScrapeResult | None, why: str) -> None:
    result = load("queue_depth", scraped)
    assert (result.value, result.sentence) == (None, why)


def test_a_failed_scrape_changes_nothing_until_the_last_page_is_stale() -> None:
    result = replace(page({"waiting": 3.0}, last_at=NOW - 10), failure="no answer within 2 s")
    assert load("queue_depth", result).value == 3.0


@pytest.mark.parametrize(
    ("query", "result", "expected", "part"),
    [
        pytest.param({}, {"waiting": 4.0, "kv_cache_ratio": 0.2}, 80.0, "queue 80 %", id="the queue"),
        pytest.param({}, {"waiting": 0.0, "kv_cache_ratio": 0.88}, 110.0, "KV cache 110 %", id="the cache"),
        pytest.param(
            {"max_seqs": 50.0},
            {"waiting": 0.0, "kv_cache_ratio": 0.22, "running": 48.0},
            120.0,
            "running 120 %",
            id="the limit of requests that run",
        ),
        pytest.param(
            {},
            {"waiting": 0.0, "kv_cache_ratio": 0.22, "running": 48.0, "running_limit": 50.0},
            120.0,
            "running 120 %",
            id="a limit that the engine exports",
        ),
        pytest.param(
            {"queue_target": 2.0, "kv_target": 0.5},
            {"waiting": 1.0, "kv_cache_ratio": 0.1},
            50.0,
            "queue 50 %",
            id="targets",
        ),
    ],
)
def test_saturation_is_the_fullest_part(
    query: dict[str, float], result: dict[str, object], expected: float, part: str
) -> None:
    found = load("saturation", page(result), query=EngineQuery(**query))  # type: ignore[arg-type]
    assert found.value == pytest.approx(expected)
    assert part in found.sentence


def test_the_saturation_of_an_engine_without_a_cache_is_its_queue() -> None:
    assert load("saturation", page({"waiting": 10.0}, engine="tgi")).value == 200.0


def test_only_an_engine_that_never_exports_a_queue_counts_as_no_engine() -> None:
    assert load("saturation", page({}, engine="ollama")).is_no_engine is True
    assert load("saturation", page({}, engine="vllm")).is_no_engine is False
    assert load("saturation", page({}, engine="")).is_no_engine is False


def test_any_series_can_be_the_metric() -> None:
    query = EngineQuery(selector=parse_series('queue_size{model="a"}'))
    result = page({"selected": {'queue_size{model="a"}': gauge(7.0)}}, engine="")
    assert load("engine", result, query=query).value == 7.0


def test_the_metric_of_a_counter_is_its_rate_since_it_was_selected() -> None:
    query = EngineQuery(selector=SeriesSelector("done_total"))
    result = page({}, {"selected": {"done_total": counter(1000)}}, {"selected": {"done_total": counter(1010)}})
    # The first scrape did not select the series: it does not say that the series was missing.
    assert load("engine", result, query=query).value == pytest.approx(5.0)
    once = page({}, {"selected": {"done_total": counter(1000)}})
    assert load("engine", once, query=query).value is None


def test_requests_are_counted_in_addition_to_the_value() -> None:
    assert load("queue_depth", page({"waiting": 1.0, "running": 3.0})).requests == 4.0


def test_an_endpoint_has_what_the_trigger_and_the_pod_say() -> None:
    one = pod("a", address="10.0.0.1", ports=(9000,))
    annotated = replace(
        one, metrics_port=9100, metrics_path="/stats", metrics_scheme="https", other_addresses=("fd00::1",)
    )
    assert pod_endpoint(EngineQuery(), one) == Endpoint(one.ref, "10.0.0.1", declared_ports=(9000,))
    assert pod_endpoint(EngineQuery("vllm", (8000,), "/m", "http"), annotated) == Endpoint(
        one.ref,
        "10.0.0.1",
        "vllm",
        (8000,),
        "/m",
        "http",
        declared_ports=(9000,),
        other_addresses=("fd00::1",),
        annotated_port=9100,
        annotated_path="/stats",
        annotated_scheme="https",
    )


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=8),
    st.floats(0.001, 0.999),
)
@example([3, 3], 0.5)  # 0.1 * 3 / 3 is above 0.1
def test_a_quantile_lies_within_the_buckets_with_observations(sizes: list[int], ratio: float) -> None:
    bounds = (*(0.1 * 2**number for number in range(len(sizes) - 1)), math.inf)
    counts, total = [], 0
    for size in sizes:
        total += size
        counts.append(float(total))
    found = quantile(Histogram(bounds, tuple(counts)), ratio)
    if total:
        last = max(number for number, size in enumerate(sizes) if size)
        highest = bounds[last] if math.isfinite(bounds[last]) else ([0.0, *bounds])[last]
        assert 0 <= found <= highest


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        pytest.param(
            {"selected": {"depth": Series(0.0, is_counter=False, is_absent=True)}},
            "exports no series depth",
            id="a series that is absent beside its family is unknown, unlike demand",
        ),
        pytest.param(
            {"selected": {"depth": None}, "unread": {"depth": "too many"}},
            "series depth is not read: too many",
            id="a selector that was not applied",
        ),
    ],
)
def test_a_selected_series_of_an_engine_without_a_value(moment: Mapping[str, object], reason: str) -> None:
    found = load("engine", page(moment), query=EngineQuery(selector=SeriesSelector("depth")))
    assert found.value is None
    assert reason in found.sentence


@pytest.mark.parametrize(
    ("moment", "query", "bound"),
    [
        pytest.param({"waiting": 10.0}, {}, 200.0, id="a full queue beside an unknown cache"),
        pytest.param({"waiting": 0.0}, {}, 0.0, id="an empty queue beside an unknown cache"),
        pytest.param({"kv_cache_ratio": 0.72}, {}, 90.0, id="a cache beside an unknown queue"),
        pytest.param({"waiting": 1.0, "kv_cache_ratio": 0.4}, {"max_seqs": 10.0}, 50.0, id="unknown running requests"),
        pytest.param({"running": 8.0}, {"max_seqs": 5.0}, 200.0, id="running requests alone"),
    ],
)
def test_the_known_parts_of_saturation_are_a_lower_bound(
    moment: Mapping[str, object], query: Mapping[str, float], bound: float
) -> None:
    found = load("saturation", page(moment), query=EngineQuery(**query))  # type: ignore[arg-type]
    assert (found.value, found.lower_bound) == (None, bound)
    assert f"the saturation is at least {bound:g} %" in found.sentence


def test_a_value_that_is_known_has_no_lower_bound_and_nor_has_one_without_any_part() -> None:
    assert load("saturation", page({"waiting": 1.0, "kv_cache_ratio": 0.1})).lower_bound is None
    assert load("saturation", page({})).lower_bound is None


def test_an_engine_that_reports_its_cache_in_per_cent_does_so_for_small_numbers_too() -> None:
    first, second = page({"kv_cache_ratio": 0.4, "is_kv_percent": True}, {"kv_cache_ratio": 1.0}).samples
    kept = retained((first,), second, window_seconds=60.0, history_seconds=0.0)  # 40 %, then 1 %
    found = load("kv_cache_usage", ScrapeResult((TargetHistory("http://10.0.0.1:8000/metrics", kept),)))
    assert found.value == 20.5
    assert "in per cent" in found.sentence
    assert (
        "in per cent"
        in load("saturation", page({"waiting": 0.0, "kv_cache_ratio": 0.4, "is_kv_percent": True})).sentence
    )


def test_requests_that_are_deferred_keep_an_engine_busy_without_saturating_it() -> None:
    found = load("saturation", page({"waiting": 0.0, "running": 0.0, "deferred": 40.0, "kv_cache_ratio": 0.0}))
    assert (found.value, found.requests) == (0.0, 40.0)
    waits = {"waiting": 0.0, "deferred": 1.0, "queue_waits_total": 5.0, "queue_wait_seconds_total": 1.0}
    assert load("queue_wait_ms", page(waits, waits)).value is None
