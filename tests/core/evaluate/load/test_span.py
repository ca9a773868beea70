# SPDX-License-Identifier: Apache-2.0
"""Tests of the work of one engine over spans of its samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.load import rung as rung_module
from keda_gpu_scaler.core.evaluate.load import token_time as token_time_module
from keda_gpu_scaler.core.evaluate.load.rung import rung_of
from keda_gpu_scaler.core.evaluate.load.span import (
    AHEAD_SECONDS,
    EngineWork,
    Span,
    engine_work,
    measure_ahead,
)
from keda_gpu_scaler.core.state.scrape import TargetHistory, retained
from keda_gpu_scaler.core.trigger.engines import Engine, LoadRung
from keda_gpu_scaler.core.types import EngineSample, Histogram
from tests.core.evaluate.load.replicas import NOW, ReplicaModel, history, samples, steady


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three engines that reach different rungs."""
    rungs = {
        "vllm": LoadRung.TOKEN_TIME,
        "tgi": LoadRung.REQUEST_TOKEN_TIME,
        "triton": LoadRung.SERVICE_TIME,
    }
    table = {name: Engine(name, name, 80, detection_order=1, load_rung=rung) for name, rung in rungs.items()}
    for module in (rung_module, token_time_module):
        monkeypatch.setattr(module, "ENGINES", table)


def measured(*moments: Mapping[str, float | None], every: float = 2.0, engine: str = "vllm") -> EngineWork:
    """Measure samples that are so many seconds apart, over a window of 10 s."""
    count = len(moments)
    taken = [
        EngineSample(NOW - every * (count - 1 - number), engine, **moment)  # type: ignore[arg-type]
        for number, moment in enumerate(moments)
    ]
    work = engine_work(history(taken), 10.0)
    if work is None:
        raise ValueError("there is no sample")
    return work


def work_samples(moments: Sequence[Mapping[str, float | None]], later: float = 0.0) -> list[EngineSample]:
    """Return samples that are two seconds apart, the first so many seconds after ``NOW``."""
    return [
        EngineSample(NOW + later + 2.0 * number, "vllm", **moment)  # type: ignore[arg-type]
        for number, moment in enumerate(moments)
    ]


def current(work: EngineWork) -> Span:
    if work.current is None:
        raise ValueError("there is no span")
    return work.current


def token_times(seconds: float, times: float, **others: float | None) -> dict[str, float | None]:
    return {"token_time_seconds_total": seconds, "token_times_total": times, "running": 8.0, **others}


def test_times_between_tokens_say_how_many_requests_decode() -> None:
    """Eight requests with 20 ms per token: each second adds 8 s of waiting and 400 times."""
    span = current(measured(token_times(100.0, 5000.0), token_times(116.0, 5800.0)))
    assert span.token_seconds == pytest.approx(0.02)
    assert span.decoding == pytest.approx(8.0)
    assert span.seconds == 2.0


def test_without_times_the_running_requests_and_the_tokens_say_it() -> None:
    span = current(measured({"running": 8.0, "tokens_total": 0.0}, {"running": 12.0, "tokens_total": 1000.0}))
    assert span.token_seconds == pytest.approx(10.0 * 2 / 1000)
    assert span.decoding == 10.0
    assert span.prefilling == 0.0, "the requests in prefill are a part of the running requests and of this time"


@pytest.mark.parametrize("times", [0.0, 19.0])
def test_few_tokens_say_nothing_about_their_time(times: float) -> None:
    assert current(measured(token_times(0.0, 0.0), token_times(1.0, times))).token_seconds is None
    tokens = [{"running": 8.0, "tokens_total": 0.0}, {"running": 8.0, "tokens_total": times}]
    assert current(measured(*tokens)).token_seconds is None


def test_tokens_that_took_no_time_say_nothing() -> None:
    assert current(measured(token_times(5.0, 0.0), token_times(5.0, 400.0))).token_seconds is None


def test_one_ended_request_shows_its_mean_time_per_token(engines: None) -> None:
    span = current(measured(token_times(0.0, 0.0), token_times(0.03, 1.0), engine="tgi"))
    assert span.token_seconds == pytest.approx(0.03)
    assert span.decoding == 8.0


def test_an_interval_in_which_a_counter_fell_is_not_counted() -> None:
    """A pod restarts: the counters begin again, and the time of the restart is no time of work."""
    span = current(
        measured(
            token_times(100.0, 5000.0, requests_total=50.0),
            token_times(116.0, 5800.0, requests_total=54.0),
            token_times(2.0, 100.0, requests_total=1.0),
            token_times(18.0, 900.0, requests_total=5.0),
        )
    )
    assert (span.seconds, span.ended) == (4.0, 8.0)
    assert span.token_seconds == pytest.approx(0.02)


def test_a_window_with_nothing_but_a_restart_is_unknown() -> None:
    assert measured(token_times(100.0, 5000.0), token_times(1.0, 50.0)).current is None


def test_samples_of_one_instant_have_no_rate() -> None:
    taken = EngineSample(NOW, "vllm", running=1.0, waiting=3.0, tokens_total=5.0, prompt_tokens_total=7.0)
    later = replace(taken, waiting=9.0, tokens_total=50.0, prompt_tokens_total=700.0)
    work = engine_work(history([taken, later]), 10.0)
    assert work is not None
    assert (work.current, work.waiting_growth, work.most_prompt_tokens) == (None, 0.0, 0.0)


@pytest.mark.parametrize(("counter", "field"), [("requests_total", "ended"), ("prompt_tokens_total", "prompt_tokens")])
def test_law_1_the_growth_of_a_counter_that_is_missing_once_is_not_known(counter: str, field: str) -> None:
    moments = [{"running": 1.0, counter: 1e6}, {"running": 1.0}, {"running": 1.0, counter: 1e6 + 8}]
    assert getattr(current(measured(*moments)), field) is None
    assert getattr(current(measured(*moments[:2])), field) is None
    assert getattr(current(measured(moments[0], moments[2])), field) == 8.0


def test_law_1_a_page_without_the_times_ends_the_window_and_is_no_part_of_a_span() -> None:
    times = [token_times(16.0 * it, 800.0 * it) for it in range(8)]
    without = {"running": 8.0}
    work = measured(*times[:3], without, *times[4:], every=8.0)
    assert [one.seconds for one in work.spans] == [8.0] * 5, "two spans have the page without the times"
    assert all(one.token_seconds == pytest.approx(0.02) for one in work.spans)
    window = engine_work(history([*work_samples(times[:3]), *work_samples([without, *times[4:]], 6.0)]), 60.0)
    assert window is not None
    assert current(window).seconds == 6.0
    assert current(window).token_seconds == pytest.approx(0.02)


def test_a_counter_that_appears_counts_from_its_second_sample_on() -> None:
    """SGLang exports its times from the first token on."""
    before = {"running": 8.0, "tokens_total": 1.0}
    appeared = token_times(16.0, 800.0, tokens_total=800.0)
    first = measured(before, before, appeared)
    assert (first.rung, current(first).decoding) == (LoadRung.TOKEN_RATE, 8.0)
    second = measured(before, before, appeared, token_times(32.0, 1600.0, tokens_total=1600.0))
    assert second.rung is LoadRung.TOKEN_TIME
    assert current(second).seconds == 2.0
    assert current(second).token_seconds == pytest.approx(0.02)
    gauges = measured({}, {"running": 3.0})
    assert gauges.rung is LoadRung.RUNNING, "a gauge counts at once"


def test_without_a_sample_there_is_no_work_and_with_one_no_span() -> None:
    assert engine_work(TargetHistory("http://10.0.0.1"), 10.0) is None
    assert measured({"running": 1.0, "tokens_total": 5.0}).current is None


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        pytest.param(404.0, 1.0, id="one token per time, and a first token of each request"),
        pytest.param(460.0, 1.0, id="a little more is an error of measurement"),
        pytest.param(1204.0, 3.0, id="speculative decoding"),
    ],
)
def test_tokens_per_time_show_speculative_decoding(tokens: float, expected: float) -> None:
    before = token_times(0.0, 0.0, tokens_total=0.0, first_tokens_total=0.0)
    after = token_times(8.0, 400.0, tokens_total=tokens, first_tokens_total=4.0)
    assert current(measured(before, after)).tokens_per_step == pytest.approx(expected)
    by_ended = [
        token_times(0.0, 0.0, tokens_total=0.0, requests_total=0.0),
        token_times(8.0, 400.0, tokens_total=tokens, requests_total=4.0),
    ]
    assert current(measured(*by_ended)).tokens_per_step == pytest.approx(expected)
    # SGLang observes the time of each token, and counts tokens when a request ends.
    assert current(measured(before, after, engine="sglang")).tokens_per_step == 1.0


def test_requests_of_one_batch_share_its_time(engines: None) -> None:
    before = {"service_seconds_total": 0.0, "services_total": 0.0, "executions_total": 0.0}
    after = {"service_seconds_total": 8.0, "services_total": 16.0, "executions_total": 4.0}
    assert current(measured(before, after, engine="triton")).busy == pytest.approx(8.0 * 4 / 16 / 2)
    del before["executions_total"], after["executions_total"]
    assert current(measured(before, after, engine="triton")).busy == pytest.approx(4.0)


@pytest.mark.parametrize("last", [pytest.param(30.0, id="in an earlier span"), pytest.param(90.0, id="just now")])
def test_the_most_executions_at_once_are_those_of_any_span(last: float, engines: None) -> None:
    seconds = (0.0, 10.0, 30.0, last)  # one execution at once, then two, and then none or six
    work = measured(
        *[{"service_seconds_total": it, "services_total": it} for it in seconds], every=10.0, engine="triton"
    )
    assert work.most_busy == pytest.approx(2.0 if last == 30.0 else 6.0)


@pytest.mark.parametrize(
    ("engine", "readings", "expected"),
    [
        ("vllm", token_times(1.0, 1.0, tokens_total=1.0), LoadRung.TOKEN_TIME),
        ("vllm", {"running": 1.0, "tokens_total": 1.0}, LoadRung.TOKEN_RATE),
        ("vllm", {"tokens_total": 1.0}, LoadRung.NONE),
        ("vllm", {"running": 1.0}, LoadRung.RUNNING),
        ("triton", {"service_seconds_total": 1.0, "services_total": 1.0}, LoadRung.SERVICE_TIME),
        ("triton", {"running": 1.0}, LoadRung.RUNNING),
        ("", {"running": 1.0, "tokens_total": 1.0}, LoadRung.NONE),
    ],
)
def test_an_engine_is_read_by_the_best_rung_that_its_page_allows(
    engines: None, engine: str, readings: dict[str, float], expected: LoadRung
) -> None:
    assert rung_of(EngineSample(NOW, engine, **readings)) is expected  # type: ignore[arg-type]


def test_law_1_an_engine_that_exports_nothing_is_not_idle() -> None:
    assert current(measured({}, {}, engine="")).is_idle is False
    assert current(measured({"running": 0.0, "tokens_total": 9.0}, {"running": 0.0, "tokens_total": 9.0})).is_idle


@pytest.mark.parametrize(
    "later",
    [
        {"running": 1.0, "tokens_total": 9.0},
        {"running": 0.0, "waiting": 1.0, "tokens_total": 9.0},
        {"running": 0.0, "tokens_total": 10.0},
        {"running": 0.0, "tokens_total": 9.0, "prompt_tokens_total": 5.0},
    ],
)
def test_a_request_or_a_token_is_work(later: dict[str, float]) -> None:
    before: dict[str, float | None] = {"running": 0.0, "tokens_total": 9.0, "prompt_tokens_total": 0.0}
    assert current(measured(before, {**before, **later})).is_idle is False


def test_the_queue_grows_by_its_change_over_the_window() -> None:
    work = measured(*[{"running": 1.0, "waiting": float(n)} for n in (0, 0, 4, 8, 12, 16, 20)])
    assert work.waiting == 20.0
    assert work.waiting_growth == pytest.approx(20.0 / 10)
    unknown = measured({"running": 1.0}, {"running": 1.0, "waiting": 20.0})
    assert (unknown.waiting, unknown.waiting_growth) == (20.0, 0.0)


def test_the_history_is_divided_into_spans_of_ten_seconds_although_scrapes_are_not_exact() -> None:
    exact = [EngineSample(NOW + at, "vllm", running=1.0) for at in range(-100, 1, 10)]
    late = [replace(one, at_seconds=one.at_seconds + (0.01 if number % 2 else 0.0)) for number, one in enumerate(exact)]
    for taken in (exact, late):
        work = engine_work(history(taken), 10.0)
        assert work is not None
        assert len(work.spans) == 10
    often = [EngineSample(NOW + at, "vllm", running=1.0) for at in range(-100, 1, 2)]
    work = engine_work(history(often), 10.0)
    assert work is not None
    assert {one.seconds for one in work.spans} == {8.0}


def test_prompt_tokens_of_one_span_are_the_most_that_was_seen() -> None:
    """A prompt counts when it is complete, so two samples may show far more than an engine computes."""
    totals = [0.0, 0.0, 0.0, 0.0, 8000.0, 8000.0, 8000.0]
    work = measured(*[{"running": 1.0, "prompt_tokens_total": total} for total in totals])
    assert work.most_prompt_tokens == pytest.approx(8000.0 / 8)


def test_requests_that_run_and_generate_nothing_are_in_prefill() -> None:
    readings = [token_times(8.0 * at, 400.0 * at, running=10.0, prompt_tokens_total=500.0 * at) for at in (0, 10, 20)]
    work = measured(*readings, every=10.0)
    assert current(work).prefilling == pytest.approx(2.0)
    assert work.prefill_seconds == pytest.approx(2.0 * 20)
    assert work.prompt_tokens == 10_000.0
    never = measured(*[{**one, "running": 0.0} for one in readings], every=10.0)
    assert never.prefill_seconds is None, "the engine does not count requests in prefill"


def buckets(*counts: float) -> Histogram:
    return Histogram((0.01, 0.025, 0.05, math.inf), counts)


@pytest.mark.parametrize(
    ("histogram", "expected"),
    [
        pytest.param(buckets(0, 0, 0, 99), None, id="too few"),
        pytest.param(buckets(50, 100, 100, 100), (0.0, 0.01), id="the first bucket"),
        pytest.param(buckets(9, 100, 100, 100), (0.01, 0.025), id="a few errors in the first bucket"),
        pytest.param(buckets(99, 1e6, 1e6, 1e6), (0.01, 0.025), id="less than a thousandth"),
        pytest.param(buckets(0, 0, 0, 1000), (0.05, math.inf), id="the last bucket"),
        pytest.param(None, None, id="no histogram"),
    ],
)
def test_the_lowest_populated_bucket_bounds_the_floor(
    histogram: Histogram | None, expected: tuple[float, float] | None
) -> None:
    work = engine_work(history([EngineSample(NOW, "vllm", token_time=histogram)]), 10.0)
    assert work is not None
    assert work.lowest_bucket == expected


def test_work_is_measured_once_for_each_page_and_a_span_once_for_its_samples() -> None:
    page = steady(ReplicaModel(), 4.0)
    first = engine_work(page, 10.0)
    assert engine_work(page, 10.0) is first
    assert first is not None
    newer = samples(ReplicaModel(), [4.0, 4.0], times=(0, 2))[-1]
    followed = page.followed_by((*page.samples[1:], replace(newer, at_seconds=NOW + 2)), None)
    second = engine_work(followed, 10.0)
    fresh = engine_work(TargetHistory(page.url, followed.samples), 10.0)
    assert second == fresh
    assert second is not None
    assert any(one is other for one in first.spans for other in second.spans)


def test_the_work_is_measured_ahead_while_evaluations_ask_for_it() -> None:
    page = steady(ReplicaModel(), 4.0)
    engine_work(page, 10.0)
    followed = page.followed_by((*page.samples, _later(page, AHEAD_SECONDS)), None)
    measure_ahead(followed)
    assert followed.cache, "an evaluation asked a minute ago"
    work = engine_work(TargetHistory(page.url, followed.samples), 10.0)
    assert [*followed.cache.values()] == [work], "it is the same work"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(TargetHistory("http://10.0.0.1:8000/metrics"), id="there is no sample yet"),
        pytest.param(steady(ReplicaModel(), 4.0), id="no evaluation asked"),
    ],
)
def test_nothing_is_measured_ahead_without_an_evaluation(page: TargetHistory) -> None:
    measure_ahead(page)
    assert not page.cache


def test_nothing_is_measured_ahead_long_after_the_last_evaluation() -> None:
    page = steady(ReplicaModel(), 4.0)
    engine_work(page, 10.0)
    for seconds in (AHEAD_SECONDS + 2, AHEAD_SECONDS + 4):
        page = page.followed_by((*page.samples, _later(page, seconds)), None)
        measure_ahead(page)
        assert not page.cache


def _later(page: TargetHistory, seconds: float) -> EngineSample:
    return replace(page.samples[-1], at_seconds=NOW + seconds)


def test_a_kept_span_is_measured_again_when_the_engine_exports_less() -> None:
    page = steady(ReplicaModel(), 4.0)
    engine_work(page, 10.0)
    poorer = replace(page.samples[-1], token_time_seconds_total=None, token_times_total=None, at_seconds=NOW + 2)
    followed = page.followed_by((*page.samples, poorer), None)
    assert engine_work(followed, 10.0) == engine_work(history(followed.samples), 10.0)


@given(st.lists(st.sampled_from([0.5, 2.0, 2.1, 4.0, 11.0]), min_size=2, max_size=60), st.sampled_from([4.0, 30.0]))
def test_a_history_that_was_measured_page_by_page_has_the_work_of_one_that_was_not(
    gaps: list[float], window: float
) -> None:
    page, at = TargetHistory("http://10.0.0.1:8000/metrics"), NOW
    for number, gap in enumerate(gaps):
        at += gap
        sample = EngineSample(
            at,
            "vllm",
            running=number % 7,
            token_time=buckets(0, number, number, number),
            token_time_seconds_total=0.3 * at,
            token_times_total=10.0 * at,
            prompt_tokens_total=3.0 * at,
        )
        kept = retained(page.samples, sample, window_seconds=window, history_seconds=120.0)
        page = page.followed_by(kept, None)
        assert engine_work(page, window) == engine_work(TargetHistory(page.url, kept), window)
