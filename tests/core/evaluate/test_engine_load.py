# SPDX-License-Identifier: Apache-2.0
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.demand import DemandObservation, observe_demand
from keda_gpu_scaler.core.evaluate.engine_load import EngineLoad, engine_load, pod_endpoint, quantile
from keda_gpu_scaler.core.selectors import SeriesSelector, parse_series
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engine_params import DemandQuery, EngineQuery
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
    metric: str, told: TargetHistory | ScrapeResult | None, *, window: float = 10.0, query: EngineQuery = ANY
) -> EngineLoad:
    scraped = ScrapeResult((told,)) if isinstance(told, TargetHistory) else told
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
        pytest.param("queue_depth", [{"waiting": 2.0}, {"waiting": 4.0}], 3.0, id="a queue is the window's mean"),
        pytest.param("vllm_queue_depth", [{"waiting": 4.0}], 4.0, id="by the original's name"),
        pytest.param("running_requests", [{"running": 12.0}], 12.0, id="running requests"),
        pytest.param("kv_cache_usage", [{"kv_cache_ratio": 0.57}], 57.0, id="the cache in per cent, to the digit"),
        pytest.param(
            "request_rate", [{"requests_total": 100.0}, {"requests_total": 130.0}], 15.0, id="a rate a second"
        ),
        pytest.param(
            "token_rate",
            [{"tokens_total": 900.0}, {"tokens_total": 1000.0}, {"tokens_total": 40.0}],
            50.0,
            id="a counter that fell tells nothing of that interval, and its time is not one without tokens",
        ),
        pytest.param(
            "queue_wait_ms",
            [
                {"queue_wait_seconds_total": 10.0, "queue_waits_total": 50.0},
                {"queue_wait_seconds_total": 11.5, "queue_waits_total": 60.0},
            ],
            150.0,
            id="the mean wait of those that left the queue in the window",
        ),
        pytest.param(
            "queue_wait_ms",
            [
                {"queue_wait_seconds_total": 1.0, "queue_waits_total": 1000.0},
                {"queue_wait_seconds_total": 100.0, "queue_waits_total": 50.0},
                {"queue_wait_seconds_total": 101.0, "queue_waits_total": 60.0},
            ],
            100.0,
            id="when a model is unloaded, whose requests were many and hardly waited, nothing is told of either sum",
        ),
        pytest.param(
            "queue_wait_ms",
            [{"queue_wait_seconds_total": 10.0, "queue_waits_total": 50.0, **IDLE}] * 2,
            0.0,
            id="nobody waited: 0",
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
            id="a histogram that began anew tells nothing of that interval",
        ),
    ],
)
def test_a_value_is_made_of_the_windows_readings(
    metric: str, moments: list[dict[str, object]], expected: float
) -> None:
    assert load(metric, page(*moments)).value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "moments", "why"),
    [
        pytest.param(
            "queue_depth", [{"waiting": 3.0}, {}], "exports no number of waiting requests", id="a gauge that went away"
        ),
        pytest.param("request_rate", [{"requests_total": 100.0}], "has one reading so far", id="a counter seen once"),
        pytest.param("request_rate", [{}, {}], "exports no count of requests", id="a counter that is not there"),
        pytest.param(
            "request_rate",
            [{"requests_total": 100.0}, {"requests_total": 3.0}],
            "was reset",
            id="a counter that began anew tells no rate of 0",
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
            id="no request left, and how many wait is not told",
        ),
        pytest.param(
            "ttft_ms",
            [{"first_token": histogram(5, 5, 5, 5), "waiting": 0.0, "running": 1.0}] * 2,
            "no request got its first token",
            id="a prefill that takes longer than the window is not 0 ms",
        ),
        pytest.param(
            "saturation", [{"waiting": 0.0}], "exports no KV cache usage", id="the fullest may be the unknown one"
        ),
        pytest.param(
            "saturation", [{"kv_cache_ratio": 0.1}], "exports no number of waiting requests", id="an unknown queue"
        ),
    ],
)
def test_law_1_what_an_engine_does_not_tell_is_unknown(metric: str, moments: list[dict[str, object]], why: str) -> None:
    told = load(metric, page(*moments))
    assert told.value is None
    assert why in told.sentence
    assert WHERE in told.sentence


def test_a_rate_reaches_back_to_the_reading_before_the_window() -> None:
    told = page({"requests_total": 0.0}, {"requests_total": 100.0}, every=20.0)
    assert load("request_rate", told, window=10.0).value == pytest.approx(5.0)


def test_a_counter_that_is_missing_for_once_makes_no_crowd() -> None:
    told = page({"requests_total": 1e6}, {}, {"requests_total": 1e6 + 8})
    assert load("request_rate", told).value == pytest.approx(2.0)
    assert load("request_rate", page({}, {"requests_total": 1e6})).value is None


@pytest.mark.parametrize(
    ("scraped", "why"),
    [
        pytest.param(None, "not scraped yet", id="nobody asked yet"),
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
def test_law_1_an_engine_that_cannot_be_read_is_unknown(scraped: ScrapeResult | None, why: str) -> None:
    told = load("queue_depth", scraped)
    assert (told.value, told.sentence) == (None, why)


def test_a_scrape_that_was_missed_changes_nothing_until_it_is_too_old() -> None:
    told = replace(page({"waiting": 3.0}, last_at=NOW - 10), failure="no answer within 2 s")
    assert load("queue_depth", told).value == 3.0


@pytest.mark.parametrize(
    ("query", "told", "expected", "part"),
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
            id="a limit that the engine tells itself",
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
    query: dict[str, float], told: dict[str, object], expected: float, part: str
) -> None:
    found = load("saturation", page(told), query=EngineQuery(**query))  # type: ignore[arg-type]
    assert found.value == pytest.approx(expected)
    assert part in found.sentence


def test_an_engine_without_a_cache_is_judged_by_its_queue() -> None:
    assert load("saturation", page({"waiting": 10.0}, engine="tgi")).value == 200.0


def test_an_engine_that_tells_neither_stands_for_none_and_one_that_ought_to_does_not() -> None:
    assert load("saturation", page({}, engine="ollama")).is_no_engine is True
    assert load("saturation", page({}, engine="vllm")).is_no_engine is False
    assert load("saturation", page({}, engine="")).is_no_engine is False


def test_any_series_can_be_the_metric() -> None:
    query = EngineQuery(selector=parse_series('queue_size{model="a"}'))
    told = page({"selected": {'queue_size{model="a"}': gauge(7.0)}}, engine="")
    assert load("engine", told, query=query).value == 7.0


def test_of_a_counter_the_metric_is_its_rate_since_it_was_asked_for() -> None:
    query = EngineQuery(selector=SeriesSelector("done_total"))
    told = page({}, {"selected": {"done_total": counter(1000)}}, {"selected": {"done_total": counter(1010)}})
    # The first reading was made before anybody asked for the series: it does not say that there was none.
    assert load("engine", told, query=query).value == pytest.approx(5.0)
    once = page({}, {"selected": {"done_total": counter(1000)}})
    assert load("engine", once, query=query).value is None


def test_requests_at_work_are_told_beside_the_value() -> None:
    assert load("queue_depth", page({"waiting": 1.0, "running": 3.0})).requests == 4.0


def test_an_endpoint_is_what_was_said_then_what_the_pod_says_then_the_engines_own() -> None:
    one = pod("a", address="10.0.0.1", ports=(9000,))
    annotated = replace(one, metrics_port=9100, metrics_path="/stats", metrics_scheme="https")
    assert pod_endpoint(EngineQuery(), one) == Endpoint(one.ref, "10.0.0.1", declared_ports=(9000,))
    assert pod_endpoint(EngineQuery(), annotated) == Endpoint(
        one.ref, "10.0.0.1", port=9100, path="/stats", scheme="https", declared_ports=(9000,)
    )
    # What the annotations say is about their port, not about another one.
    assert pod_endpoint(EngineQuery(port=8000), annotated) == Endpoint(
        one.ref, "10.0.0.1", port=8000, declared_ports=(9000,)
    )


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=8),
    st.floats(0.001, 0.999),
)
def test_a_quantile_lies_within_the_buckets_that_hold_something(sizes: list[int], ratio: float) -> None:
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


# ---- demand ----

QUEUE = SeriesSelector("queue_size")
DEMAND = DemandQuery("http://epp:9090/metrics", (QUEUE,))


def look(*pages: TargetHistory, demand: DemandQuery = DEMAND, failure: str | None = None) -> DemandObservation:
    return observe_demand(demand, ScrapeResult(pages, failure), window_seconds=10.0, stale_after_seconds=10.0, now=NOW)


def queue(*sizes: float | None, last_at: float = NOW, every: float = 0.5) -> TargetHistory:
    return page(
        *({"selected": {"queue_size": None if size is None else gauge(size)}} for size in sizes),
        every=every,
        last_at=last_at,
    )


def requests(*totals: float | None, every: float = 0.5) -> TargetHistory:
    return page(
        *({"selected": {"queue_size": None if total is None else counter(total)}} for total in totals), every=every
    )


@pytest.mark.parametrize(
    ("pages", "value", "is_active"),
    [
        pytest.param([queue(0, 1)], 1.0, True, id="the first request wakes, whatever the window's mean"),
        pytest.param([queue(0, 0)], 0.0, False, id="no demand"),
        pytest.param([queue(3, 0)], 0.0, True, id="demand of half a second ago still holds"),
        pytest.param([queue(3, 0, every=61)], 0.0, False, id="demand of a minute ago holds no more"),
        pytest.param([queue(None)], None, None, id="a series that is not there is unknown, not 0"),
        pytest.param([queue(2, None)], None, True, id="it was there, and it is held for what it was"),
        pytest.param([queue(0), queue(4)], 4.0, True, id="what every address tells is added up"),
        pytest.param([queue(4), queue(0, last_at=900)], 4.0, True, id="what one tells is enough to wake"),
        pytest.param([queue(0), queue(0, last_at=900)], None, None, id="what one tells is not enough to sleep"),
        pytest.param([], None, None, id="no address"),
        pytest.param([requests(100, 100)], 0.0, False, id="a counter that stands still"),
        pytest.param([requests(100, 101)], 2.0, True, id="a counter that grows"),
        pytest.param([requests(None, 1)], 2.0, True, id="a counter's first request"),
        pytest.param([requests(100)], None, None, id="a counter seen once"),
        pytest.param([requests(100, 101, *[101] * 60)], 0.0, True, id="a request of half a minute ago still holds"),
        pytest.param([requests(1e6, None, *[1e6] * 20)], 0.0, False, id="a counter that was missing once is no crowd"),
        pytest.param(
            [queue(3, last_at=989.0), queue(*[0] * 140)], None, True, id="what an address told that fell silent"
        ),
        pytest.param(
            [queue(3, 0, last_at=930.0), queue(*[0] * 140)],
            None,
            None,
            id="what an address told before it fell silent does not hold for ever",
        ),
        pytest.param(
            [queue(3, last_at=915.0), queue(*[0] * 200)],
            None,
            None,
            id="nor what it told last",
        ),
    ],
)
def test_demand_wakes_when_it_is_seen_and_sleeps_when_all_of_it_is(
    pages: list[TargetHistory], value: float | None, is_active: bool | None
) -> None:
    observation = look(*pages)
    assert (observation.value, observation.is_active) == (value, is_active)


def test_demand_wakes_above_its_threshold_only() -> None:
    assert look(queue(5, 5), demand=replace(DEMAND, threshold=5.0)).is_active is False
    assert look(queue(5, 6), demand=replace(DEMAND, threshold=5.0)).is_active is True


def test_what_all_addresses_told_together_is_held() -> None:
    several = [queue(3, 0, 0), queue(3, 3, 0), queue(3, 3, 0)]
    assert look(*several, demand=replace(DEMAND, threshold=8.0)).is_active is True
    assert look(*several, demand=replace(DEMAND, threshold=9.0)).is_active is False
    # One after the other they never were so many.
    apart = [queue(9, 0, 0, 0), queue(0, 0, 9, 0)]
    assert look(*apart, demand=replace(DEMAND, threshold=10.0)).is_active is False


def test_of_a_counter_the_rate_over_the_window_is_held_against_the_threshold() -> None:
    # One request within half a second is no rate of two a second.
    once = requests(*[100] * 30, *[101] * 30)
    assert look(once, demand=replace(DEMAND, threshold=0.2)).is_active is False
    assert look(once, demand=replace(DEMAND, threshold=0.05)).is_active is True


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=3), st.integers(0, 20))
def test_demand_that_wakes_is_held_at_the_next_look(sizes: list[list[int]], threshold: int) -> None:
    demand = replace(DEMAND, threshold=threshold)
    woken = look(*(queue(*one) for one in sizes), demand=demand).is_active
    later = look(*(queue(*one, 0.0, last_at=NOW + 0.5) for one in sizes), demand=demand)
    assert woken is not True or later.is_active is True


def test_the_first_of_several_series_that_is_there_counts() -> None:
    either = replace(DEMAND, selectors=(SeriesSelector("newer"), QUEUE))
    told = page({"selected": {"newer": None, "queue_size": gauge(2.0)}})
    assert look(told, demand=either).value == 2.0


def test_it_is_said_why_demand_is_unknown() -> None:
    assert look(failure="epp does not resolve").sentence == (
        "demand at http://epp:9090/metrics is unknown: epp does not resolve"
    )
    assert "exports no series queue_size" in look(queue(None)).sentence
