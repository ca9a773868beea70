# SPDX-License-Identifier: Apache-2.0
"""Tests the observation of demand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.demand import DemandObservation, observe_demand
from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.demand_params import DemandQuery
from keda_gpu_scaler.core.types import Series
from tests.core.evaluate.test_engine_load import NOW, counter, gauge, page

QUEUE = SeriesSelector("queue_size")
DEMAND = DemandQuery("http://epp:9090/metrics", (QUEUE,))


def observed(*pages: TargetHistory, demand: DemandQuery = DEMAND, failure: str | None = None) -> DemandObservation:
    return observe_demand(demand, ScrapeResult(pages, failure), window_seconds=10.0, stale_after_seconds=10.0, now=NOW)


ABSENT = Series(0.0, is_counter=False, is_absent=True)
ABSENT_COUNT = Series(0.0, is_counter=True, is_absent=True)


def queue(*sizes: float | Series | None, last_at: float = NOW, every: float = 0.5) -> TargetHistory:
    return page(
        *({"selected": {"queue_size": gauge(size) if isinstance(size, int | float) else size}} for size in sizes),
        every=every,
        last_at=last_at,
    )


def partial(value: float) -> Series:
    return Series(value, is_counter=False, is_partial=True)


def requests(*totals: float | Series | None, every: float = 0.5) -> TargetHistory:
    return page(
        *({"selected": {"queue_size": counter(it) if isinstance(it, int | float) else it}} for it in totals),
        every=every,
    )


@pytest.mark.parametrize(
    ("pages", "value", "is_active"),
    [
        pytest.param([queue(0, 1)], 1.0, True, id="the first request activates, whatever the mean over the window"),
        pytest.param([queue(0, 0)], 0.0, False, id="no demand"),
        pytest.param([queue(3, 0)], 0.0, True, id="demand half a second ago is held"),
        pytest.param([queue(3, 0, every=61)], 0.0, False, id="demand a minute ago is no longer held"),
        pytest.param([queue(None)], None, None, id="a series that is not exported is unknown, not 0"),
        pytest.param([queue(2, None)], None, True, id="a series that is no longer exported is held"),
        pytest.param([queue(partial(3))], 3.0, True, id="a part of the demand activates"),
        pytest.param([queue(partial(0))], None, None, id="no known demand of a part is not enough to scale to zero"),
        pytest.param([queue(partial(3), 0)], 0.0, True, id="a part of the demand half a second ago is held"),
        pytest.param([queue(0), queue(partial(0))], None, None, id="a part that is unknown at one address"),
        pytest.param([requests(100, Series(101, is_counter=True, is_partial=True))], None, None, id="a partial count"),
        pytest.param([queue(0), queue(4)], 4.0, True, id="the demand of all addresses is added up"),
        pytest.param(
            [queue(4), queue(0, last_at=900)], 4.0, True, id="the demand of one address is enough to activate"
        ),
        pytest.param(
            [queue(0), queue(0, last_at=900)], None, None, id="no demand at one address is not enough to scale to zero"
        ),
        pytest.param([], None, None, id="no address"),
        pytest.param([requests(100, 100)], 0.0, False, id="a counter that does not grow"),
        pytest.param([requests(100, 101)], 2.0, True, id="a counter that grows"),
        pytest.param([requests(None, 1)], 2.0, True, id="a counter's first request"),
        pytest.param([requests(100)], None, None, id="a counter with one reading"),
        pytest.param([queue(ABSENT)], 0.0, False, id="a source without the series, whose family is there"),
        pytest.param([queue(3, ABSENT)], 0.0, True, id="demand before the source deleted its series is held"),
        pytest.param(
            [queue(Series(0.0, is_counter=False, above_zero=1.0))], 1.0, True, id="a negative queue and another"
        ),
        pytest.param([requests(ABSENT_COUNT, 1)], 2.0, True, id="the first request of a counter that was absent"),
        pytest.param([requests(ABSENT_COUNT, ABSENT_COUNT)], 0.0, False, id="a counter that is absent"),
        pytest.param([requests(1e6, ABSENT_COUNT, 1e6)], 0.0, False, id="a counter that is absent once"),
        pytest.param([requests(100, 101, *[101] * 60)], 0.0, True, id="a request half a minute ago is held"),
        pytest.param(
            [requests(1e6, None, *[1e6] * 20)],
            0.0,
            False,
            id="a counter that was missing once does not count from zero",
        ),
        pytest.param(
            [queue(3, last_at=989.0), queue(*[0] * 140)],
            None,
            True,
            id="the demand of an address that stopped answering is held",
        ),
        pytest.param(
            [queue(3, 0, last_at=930.0), queue(*[0] * 140)],
            None,
            None,
            id="earlier demand of an address that stopped answering is not held for ever",
        ),
        pytest.param(
            [queue(3, last_at=915.0), queue(*[0] * 200)],
            None,
            None,
            id="the last demand of an address that stopped answering is not held for ever",
        ),
    ],
)
def test_some_demand_activates_and_only_complete_data_lets_scale_to_zero(
    pages: list[TargetHistory], value: float | None, is_active: bool | None
) -> None:
    observation = observed(*pages)
    assert (observation.value, observation.is_active) == (value, is_active)


def test_demand_activates_only_above_its_threshold() -> None:
    assert observed(queue(5, 5), demand=replace(DEMAND, threshold=5.0)).is_active is False
    assert observed(queue(5, 6), demand=replace(DEMAND, threshold=5.0)).is_active is True


def test_the_demand_of_all_addresses_together_is_held() -> None:
    several = [queue(3, 0, 0), queue(3, 3, 0), queue(3, 3, 0)]
    assert observed(*several, demand=replace(DEMAND, threshold=8.0)).is_active is True
    assert observed(*several, demand=replace(DEMAND, threshold=9.0)).is_active is False
    # The two addresses never had this demand at the same time.
    apart = [queue(9, 0, 0, 0), queue(0, 0, 9, 0)]
    assert observed(*apart, demand=replace(DEMAND, threshold=10.0)).is_active is False


def test_the_rate_of_a_counter_over_the_window_is_compared_with_the_threshold() -> None:
    # One request half a second before the newest reading is no rate of two per second.
    once = requests(*[100] * 30, *[101] * 30)
    assert observed(once, demand=replace(DEMAND, threshold=0.2)).is_active is False
    assert observed(once, demand=replace(DEMAND, threshold=0.05)).is_active is True


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=3), st.integers(0, 20))
def test_demand_that_activates_is_held_at_the_next_evaluation(sizes: list[list[int]], threshold: int) -> None:
    demand = replace(DEMAND, threshold=threshold)
    first = observed(*(queue(*one) for one in sizes), demand=demand).is_active
    later = observed(*(queue(*one, 0.0, last_at=NOW + 0.5) for one in sizes), demand=demand)
    assert first is not True or later.is_active is True


def test_the_first_of_several_series_that_is_exported_counts() -> None:
    either = replace(DEMAND, selectors=(SeriesSelector("newer"), QUEUE))
    result = page({"selected": {"newer": None, "queue_size": gauge(2.0)}})
    assert observed(result, demand=either).value == 2.0


@pytest.mark.parametrize(
    ("series", "value"),
    [
        pytest.param({"newer": ABSENT, "queue_size": gauge(2.0)}, 2.0, id="the older name"),
        pytest.param({"newer": ABSENT, "queue_size": ABSENT}, 0.0, id="neither"),
        pytest.param({"newer": None, "queue_size": ABSENT}, None, id="a name whose value is not known"),
    ],
)
def test_a_series_that_is_absent_counts_only_if_no_other_name_is_there(
    series: dict[str, Series | None], value: float | None
) -> None:
    either = replace(DEMAND, selectors=(SeriesSelector("newer"), QUEUE))
    assert observed(page({"selected": series}), demand=either).value == value


def test_the_sentence_says_why_a_selector_was_not_applied() -> None:
    result = page({"selected": {"queue_size": None}, "unread": {"queue_size": "it has too many series"}})
    assert observed(result).sentence.endswith("it has too many series")


def test_the_sentence_says_why_demand_is_unknown() -> None:
    assert observed(failure="epp does not resolve").sentence == (
        "demand at http://epp:9090/metrics is unknown: epp does not resolve"
    )
    assert "exports no series queue_size" in observed(queue(None)).sentence
    not_a_number = "http://10.0.0.1:8000/metrics: series queue_size is not known: a value of it is not a number"
    assert not_a_number in observed(queue(partial(0))).sentence
    assert observed(queue(partial(3))).sentence == f"demand at least 3 ({not_a_number}) is above demandThreshold 0"


WAITING, REFUSED = SeriesSelector("waiting"), SeriesSelector("refused_total")
GATEWAY = DemandQuery("http://envoy:9901/stats/prometheus", (WAITING,), plus=(REFUSED,), is_always_exported=True)


def gateway(*readings: tuple[float | Series | None, float | Series | None]) -> TargetHistory:
    return page(
        *(
            {
                "selected": {
                    "waiting": gauge(waiting) if isinstance(waiting, int | float) else waiting,
                    "refused_total": counter(refused) if isinstance(refused, int | float) else refused,
                }
            }
            for waiting, refused in readings
        ),
        every=0.5,
    )


@pytest.mark.parametrize(
    ("history", "value", "sentence"),
    [
        pytest.param(gateway((0, 7), (0, 8)), 2.0, "", id="refused requests alone"),
        pytest.param(gateway((3, 7), (3, 7)), 3.0, "", id="waiting requests alone"),
        pytest.param(gateway((3, 7), (3, 8)), 5.0, "", id="both"),
        pytest.param(gateway((0, 7)), None, "its counter has one reading so far", id="no rate yet"),
        pytest.param(gateway((3, 7)), 3.0, "demand at least 3 (", id="waiting requests, and no rate yet"),
        pytest.param(gateway((partial(3), 7), (partial(3), 8)), 5.0, "demand at least 5 (", id="a part of one part"),
        pytest.param(gateway((0, 7), (0, None)), None, "exports no series", id="a part that is not known"),
        pytest.param(
            gateway((ABSENT, ABSENT_COUNT)), None, "exports no series waiting", id="series that the source always has"
        ),
    ],
)
def test_the_series_of_a_sum(history: TargetHistory, value: float | None, sentence: str) -> None:
    observation = observed(history, demand=GATEWAY)
    assert observation.value == value
    assert sentence in observation.sentence


def test_a_gauge_that_counts_its_own_scrape_is_read_without_it() -> None:
    in_flight = SeriesSelector("litellm_in_flight_requests")
    for size, value in ((1, 0), (3, 2), (0, 0)):
        history = page({"selected": {in_flight.name: gauge(size)}})
        assert observed(history, demand=replace(DEMAND, selectors=(in_flight,))).value == value
