# SPDX-License-Identifier: Apache-2.0
"""Tests of the floor: the time per token of an engine that serves one request alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.load.floor import MIN_POINTS, Floor, find_floor
from keda_gpu_scaler.core.evaluate.load.line import add_sums, fit_line
from keda_gpu_scaler.core.evaluate.load.span import EngineWork, Span
from tests.core.evaluate.load.works import span, work

TARGET = 0.05
EACH = 0.0003


def spans(*requests: float, floor: float = 0.012) -> list[Span]:
    return [span(n, floor + EACH * n) for n in requests]


def found(*works: EngineWork, stated: float | None = None, target: float = TARGET) -> Floor:
    return find_floor(works, target_seconds=target, stated_seconds=stated)


VARIED = (4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 40.0, 48.0)


def test_a_line_through_spans_of_different_load_leads_to_the_floor() -> None:
    floor = found(work(*spans(*VARIED), lowest_bucket=(0.01, 0.025)))
    assert floor.seconds == pytest.approx(0.012)
    assert floor.sentence == "by a line through 8 spans of 10 s"


def test_engines_of_one_workload_share_the_line() -> None:
    one, other = work(*spans(4.0, 5.0, 6.0, 7.0)), work(*spans(30.0, 31.0, 32.0, 33.0))
    assert found(one, other).seconds == pytest.approx(0.012)
    assert "assumed" in found(one).sentence


def test_a_line_needs_enough_spans() -> None:
    assert len(VARIED) == MIN_POINTS
    assert "assumed" in found(work(*spans(*VARIED[1:]))).sentence


def test_two_standard_errors_are_subtracted() -> None:
    noisy = [span(n, 0.012 + EACH * n + (0.0005 if number % 2 else -0.0005)) for number, n in enumerate(VARIED * 2)]
    assert 0.0105 < found(work(*noisy)).seconds < 0.0118


@pytest.mark.parametrize(
    ("buckets", "expected", "sentence"),
    [
        pytest.param([(0.0075, 0.01)], 0.0075, "the lower bound of the lowest", id="a bucket"),
        pytest.param([(0.0075, 0.01), (0.005, 0.0075)], 0.005, "the lower bound of the lowest", id="the lowest of all"),
        pytest.param([(0.025, 0.05)], 0.01, "assumed: 20 % of itlTargetMs", id="only hours under load"),
        pytest.param([(0.0, 0.01)], 0.005, "assumed: half of the upper bound", id="the first bucket begins at 0"),
        pytest.param([(0.0, 0.3)], 0.01, "assumed: half of the upper bound", id="a wide first bucket"),
    ],
)
def test_without_a_line_the_floor_is_a_lower_bound(
    buckets: list[tuple[float, float]], expected: float, sentence: str
) -> None:
    constant = spans(*[16.0] * 9)
    floor = found(*[work(*constant, lowest_bucket=bucket) for bucket in buckets] or [work(*constant)])
    assert floor.seconds == pytest.approx(expected)
    assert sentence in floor.sentence


@pytest.mark.parametrize(
    ("observed", "expected", "sentence"),
    [
        pytest.param(None, 0.005, "assumed: 10 % of itlTargetMs", id="nothing was observed"),
        pytest.param(0.014, 0.005, "assumed: 10 % of itlTargetMs", id="little load"),
        pytest.param(0.021, 0.007, "assumed: a third of the 21 ms that were observed at least", id="some load"),
        pytest.param(0.04, 1 / 120, "assumed: a sixth of itlTargetMs, because at least 40 ms", id="much load"),
        pytest.param(2.0, 1 / 120, "assumed: a sixth of itlTargetMs, because at least 2e+03 ms", id="an overload"),
    ],
)
def test_without_a_histogram_the_floor_is_assumed(observed: float | None, expected: float, sentence: str) -> None:
    floor = found(work(*[span(16.0, observed)] * 9) if observed is not None else work())
    assert floor.seconds == pytest.approx(expected)
    assert floor.sentence.startswith(sentence)


@given(st.floats(min_value=0.015, max_value=TARGET), st.floats(min_value=0.08 * TARGET, max_value=0.02))
def test_an_assumed_floor_hides_no_more_load_than_the_headroom(observed: float, true_floor: float) -> None:
    """Of an engine with some load, whose time per token does not vary."""
    if true_floor < observed:
        floor = found(work(*[span(16.0, observed)] * 9)).seconds
        found_share = (1 - floor / observed) / (1 - floor / TARGET)
        assert (1 - true_floor / observed) / (1 - true_floor / TARGET) <= 1.15 * found_share


def test_a_time_between_tokens_below_the_bound_is_the_floor() -> None:
    """The first request ever, or an engine that became faster: what was observed is never below the floor."""
    floor = found(work(span(1.0, 0.004)))
    assert floor.seconds == 0.004
    assert floor.sentence == "the least that was observed in 1 spans of 10 s"


def test_a_line_never_leads_above_what_was_observed() -> None:
    fast = work(span(0.5, 0.0115), *spans(*VARIED, floor=0.013))
    assert found(fast).seconds <= 0.0115
    assert found(work(*spans(*VARIED), lowest_bucket=(0.0075, 0.01))).seconds == 0.01


def test_a_certain_line_lowers_the_floor() -> None:
    """The lowest bucket of an engine that was never alone says nothing about a request alone."""
    never_alone = [span(n, 0.007 + 0.001 * n) for n in VARIED]
    assert found(work(*never_alone, lowest_bucket=(0.01, 0.025))).seconds == pytest.approx(0.007)
    assert found(work(*spans(*VARIED, floor=0.003))).seconds == pytest.approx(0.003)
    assert found(work(*spans(*VARIED, floor=0.003), lowest_bucket=(0.0, 0.01))).seconds == pytest.approx(0.003)
    noisy = [span(n, 0.012 + EACH * n + (0.004 if number % 2 else -0.004)) for number, n in enumerate(VARIED * 2)]
    assert found(work(*noisy)).seconds == pytest.approx(0.005), "a line through noise leads far too low"


def test_a_line_that_explains_little_does_not_lower_the_floor() -> None:
    """Noise of the seconds makes the slope too large: the line would lead to 11 ms, and one request takes 20 ms."""
    noisy = [span(n / 25, 0.02 + EACH * n / 25 + (0.0042 if n % 2 else -0.0042)) for n in range(1, 1001)]
    floor = found(work(*noisy, lowest_bucket=(0.025, 0.05)), target=0.2)
    assert floor.sentence.startswith("the least that was observed")


def test_a_stated_floor_counts_unless_a_token_was_faster() -> None:
    assert found(work(*spans(*VARIED)), stated=0.009) == Floor(0.009, "itlFloorMs")
    lowered = found(work(*spans(*VARIED)), stated=0.02)
    assert lowered.seconds == pytest.approx(0.0132)
    assert lowered.sentence == "observed; itlFloorMs 20 is above it and is not used"
    assert found(stated=0.009).seconds == 0.009


def test_a_stated_floor_above_the_lowest_bucket_counts_and_the_faster_tokens_are_named() -> None:
    """The pods are busy now, so nothing below the stated floor was observed in the last minutes."""
    busy = work(*spans(120.0, 130.0), lowest_bucket=(0.0, 0.01))
    floor = found(busy, work(*spans(120.0), lowest_bucket=(0.01, 0.025)), stated=0.03)
    assert floor == Floor(0.03, "itlFloorMs, although some tokens took less than 10 ms")
    assert found(busy, stated=0.01).sentence == "itlFloorMs"


CACHE = (0.03, 0.05, 0.06, 0.08, 0.1, 0.11, 0.13, 0.15)
BY_CACHE = "by a line through the KV cache usage of 8 spans of 10 s"


def constant(requests: float, each: float = 0.0, *, caches: tuple[float, ...] = CACHE) -> list[Span]:
    """Return spans with always as many requests, whose contexts have different lengths."""
    return [span(requests, 0.012 * (1 + each * requests) + 0.05 * cache, cache=cache) for cache in caches]


@pytest.mark.parametrize(
    ("requests", "each", "expected"),
    [
        pytest.param(4.0, 0.0, 0.012, id="few requests, which add nothing but their contexts"),
        pytest.param(4.0, 1 / 39, 0.012 * (1 + 4 / 39), id="few requests, each of which adds a 39th of the floor"),
        pytest.param(16.0, 0.0, 0.012 * 1.3 / (1 + 16 / 39), id="sixteen requests"),
        pytest.param(16.0, 1 / 39, 0.012 * 1.3, id="sixteen requests at most, a third too high"),
        pytest.param(64.0, 1 / 39, 0.012 * 1.3, id="many requests at most"),
    ],
)
def test_always_as_many_requests_show_the_floor_by_their_kv_cache(
    requests: float, each: float, expected: float
) -> None:
    floor = found(work(*constant(requests, each)))
    assert floor.seconds == pytest.approx(expected)
    assert floor.sentence == BY_CACHE


def test_the_kv_cache_raises_the_floor_and_does_not_lower_it() -> None:
    """Many requests, of which nobody knows how much they add, lead to less than the base."""
    assert found(work(*constant(128.0))).seconds == 0.1 * TARGET
    bucket = found(work(*constant(16.0), lowest_bucket=(0.0115, 0.025)), target=0.1)
    assert bucket.sentence.startswith("the lower bound")


def test_a_kv_cache_that_does_not_vary_or_is_not_exported_shows_no_floor() -> None:
    assert "assumed" in found(work(*constant(16.0, caches=(0.1,) * 8))).sentence
    assert "assumed" in found(work(*[span(16.0, 0.012 + 0.05 * cache) for cache in CACHE])).sentence
    assert "assumed" in found(work(*constant(16.0, caches=CACHE[1:]))).sentence, "a line needs enough spans"


def test_noise_lowers_the_floor_by_the_kv_cache() -> None:
    noisy = [
        span(8.0, 0.012 + 0.05 * cache + (0.001 if number % 2 else -0.001), cache=cache)
        for number, cache in enumerate(CACHE * 4)
    ]
    assert 0.005 < found(work(*noisy)).seconds < 0.0118


def test_the_kv_cache_leads_never_above_what_was_observed_nor_above_a_certain_line_of_the_requests() -> None:
    faster = [*constant(4.0), span(4.0, 0.0115, cache=0.0)]
    assert found(work(*faster)).seconds == pytest.approx(0.0115)
    # The requests vary and explain the time: the line through them leads to 4 to 7 ms.
    both = [
        span(n, 0.006 + 0.001 * n + (0.0011 if number % 2 else -0.0011), cache=0.02 + 0.01 * (n - 3))
        for number, n in enumerate((4.0, 8.0, 12.0, 16.0, 6.0, 10.0, 14.0, 18.0) * 2)
    ]
    sums = add_sums([one.sums for one in both])
    fit = fit_line(sums)
    assert fit is not None
    assert fit.low < 0.1 * TARGET < fit.high
    assert found(work(*both)).seconds <= fit.high


def test_an_hour_without_traffic_keeps_the_floor() -> None:
    """The histogram counts since the engine started, so the bound stays when no span of the history has a token."""
    idle = [span(None, None, is_idle=True)] * 30
    assert found(work(*idle, lowest_bucket=(0.0075, 0.01))).seconds == 0.0075


def test_no_engine_has_an_assumed_floor() -> None:
    assert found().seconds == 0.1 * TARGET


@given(
    st.lists(st.tuples(st.floats(0.01, 1e6), st.floats(1e-5, 1e3), st.none() | st.floats(0, 1)), max_size=30),
    st.none() | st.tuples(st.floats(0, 1), st.floats(1, 10)),
    st.floats(0.001, 60),
)
def test_a_floor_is_above_0_and_never_above_what_was_observed(
    points: list[tuple[float, float, float | None]], bucket: tuple[float, float] | None, target: float
) -> None:
    floor = found(work(*[span(n, t, cache=kv) for n, t, kv in points], lowest_bucket=bucket), target=target)
    assert 0 < floor.seconds <= min([t for _, t, _ in points], default=1e3)


@given(
    st.floats(1, 300),
    st.floats(0, 1 / 39),
    st.floats(0.001, 0.2),
    st.lists(st.floats(0.001, 1), min_size=MIN_POINTS, max_size=20, unique=True),
)
def test_a_constant_number_of_requests_never_raises_the_floor_above_a_third_too_much(
    requests: float, each: float, cache_seconds: float, caches: list[float]
) -> None:
    seconds = 0.012
    spans_ = [span(requests, seconds * (1 + each * requests) + cache_seconds * kv, cache=kv) for kv in caches]
    assert found(work(*spans_)).seconds <= 1.3 * seconds * (1 + 1e-6)
