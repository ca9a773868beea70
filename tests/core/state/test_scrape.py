# SPDX-License-Identifier: Apache-2.0
"""Tests of the samples that are kept for one target."""

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.state.data_run import DataRun
from keda_gpu_scaler.core.state.scrape import MAX_SAMPLES, TargetHistory, retained, step_begin
from keda_gpu_scaler.core.types import EngineSample, Histogram

TIMES = Histogram((0.1, math.inf), (1.0, 2.0))


def scraped(at: float, engine: str = "vllm") -> EngineSample:
    kv = 0.3 if at % 4 else None
    return EngineSample(
        at,
        engine,
        waiting=at,
        running=at,
        kv_cache_ratio=kv,
        tokens_total=at,
        token_time=TIMES,
        first_token=TIMES,
    )


def after(times: Iterable[float], *, window: float = 30.0, history: float = 300.0) -> tuple[EngineSample, ...]:
    """Return what is kept after samples at these times, which came one by one."""
    samples: tuple[EngineSample, ...] = ()
    for at in times:
        samples = retained(samples, scraped(at), window_seconds=window, history_seconds=history)
    return samples


def ages(samples: tuple[EngineSample, ...]) -> list[float]:
    return [samples[-1].at_seconds - sample.at_seconds for sample in reversed(samples)]


def test_the_window_has_every_sample_and_one_before_it() -> None:
    assert ages(after(range(1000, 1100, 2), history=0.0)) == [*range(0, 30, 2), 30]


def test_the_one_sample_before_the_window_is_kept_at_any_age_with_its_histograms() -> None:
    samples = after([1000.0, 1900.0], window=30.0, history=0.0)
    assert ages(samples) == [0.0, 900.0]
    assert samples[0].token_time == TIMES


def test_without_a_window_the_newest_two_samples_are_kept() -> None:
    assert ages(after(range(1000, 1100, 2), window=0.0, history=0.0)) == [0, 2]


def test_before_the_window_one_sample_a_step_is_kept_as_far_back_as_the_history_goes() -> None:
    samples = after(range(1000, 2001, 2))
    older = [sample.at_seconds for sample in samples if sample.at_seconds < 1970]
    assert older == [*range(1700, 1970, 10)]


def test_samples_that_leave_the_window_lose_their_histograms_and_keep_their_counters() -> None:
    samples = after(range(1000, 1101, 2))
    older = [sample for sample in samples if sample.at_seconds < 1070]
    assert len(older) == 7
    assert {(sample.token_time, sample.first_token) for sample in older} == {(None, None)}
    assert [sample.tokens_total for sample in older] == [sample.at_seconds for sample in older]


def test_a_sample_of_the_older_history_has_the_mean_requests_and_cache_of_its_step_and_the_queue_of_a_moment() -> None:
    samples = after(range(1000, 1101, 2))
    older = [sample for sample in samples if sample.at_seconds < 1070]
    assert [sample.running for sample in older] == [sample.at_seconds + 4 for sample in older]
    assert [sample.waiting for sample in older] == [sample.at_seconds for sample in older]
    assert {sample.kv_cache_ratio for sample in older} == {0.3}
    assert retained(samples, scraped(1102), window_seconds=30.0, history_seconds=300.0)[: len(older)] == tuple(older)
    assert {sample.token_time for sample in samples[len(older) :]} == {TIMES}


@pytest.mark.parametrize(
    ("exported", "ratios"),
    [
        pytest.param([(0.4, True), (1.0, False), (0.2, False)], [0.4, 0.01, 0.002], id="small numbers follow"),
        pytest.param([(0.8, False), (0.4, True)], [0.008, 0.4], id="small numbers came first"),
        pytest.param([(0.4, True), (None, False), (1.0, False)], [0.4, None, 0.01], id="one is missing between"),
        pytest.param([(0.4, False), (0.8, False)], [0.4, 0.8], id="they are ratios"),
    ],
)
def test_an_engine_that_once_exports_its_kv_cache_in_per_cent_always_does(
    exported: list[tuple[float | None, bool]], ratios: list[float | None]
) -> None:
    samples: tuple[EngineSample, ...] = ()
    for at, (ratio, is_percent) in enumerate(exported):
        sample = replace(scraped(float(at)), kv_cache_ratio=ratio, is_kv_percent=is_percent)
        samples = retained(samples, sample, window_seconds=30.0, history_seconds=300.0)
    assert [sample.kv_cache_ratio for sample in samples] == ratios


def test_another_engine_begins_a_new_history() -> None:
    other = scraped(1100, "sglang")
    assert retained(after(range(1000, 1100, 2)), other, window_seconds=30.0, history_seconds=300.0) == (other,)


def test_a_longer_window_never_keeps_more_than_the_limit() -> None:
    samples = tuple(scraped(float(at)) for at in range(MAX_SAMPLES))
    kept = retained(samples, scraped(float(MAX_SAMPLES)), window_seconds=1e9, history_seconds=1e9)
    assert len(kept) == MAX_SAMPLES
    assert (kept[0].at_seconds, kept[-1].at_seconds) == (1, MAX_SAMPLES)


@given(
    st.lists(st.one_of(st.floats(0.1, 4.0), st.floats(0.1, 40.0)), min_size=1, max_size=60),
    st.floats(0.0, 60.0),
    st.floats(0.0, 400.0),
)
def test_what_is_kept_is_in_order_and_as_dense_as_promised(gaps: list[float], window: float, history: float) -> None:
    times = [1000.0 + sum(gaps[: number + 1]) for number in range(len(gaps))]
    kept = [sample.at_seconds for sample in after(times, window=window, history=history)]
    assert kept == sorted(set(kept))
    assert kept[-1] == times[-1]
    begin = times[-1] - window
    assert [at for at in kept if at > begin or at == times[-1]] == [at for at in times if at > begin or at == times[-1]]
    before = [at for at in times[:-1] if at <= begin]
    if history <= window:
        assert [at for at in kept[:-1] if at <= begin] == before[-1:]
        return
    # The step of the last sample before the window is complete, and earlier ones have their first sample alone.
    oldest = step_begin(times[-1] - history)
    firsts = {step_begin(at): at for at in reversed(before) if at >= oldest}
    last_step = step_begin(before[-1]) if before else 0.0
    whole = [at for at in before if step_begin(at) == last_step >= oldest] or before[-1:]
    assert [at for at in kept[:-1] if at <= begin] == [
        *sorted(at for step, at in firsts.items() if step < last_step),
        *whole,
    ]


def test_most_scrapes_change_nothing_but_the_end_of_what_is_kept() -> None:
    samples = after(range(1000, 2001, 2))
    for at, is_whole in ((2002, True), (2004, True), (2006, True), (2008, True), (2010, False), (2012, True)):
        older, samples = samples, retained(samples, scraped(at), window_seconds=30.0, history_seconds=300.0)
        assert (samples[:-1] == older) is is_whole, at


def test_a_target_knows_since_when_its_pages_come_without_a_long_gap() -> None:
    history = TargetHistory("http://pod/metrics")
    runs = []
    samples: tuple[EngineSample, ...] = ()
    for at in (100.0, None, 110.0, None, 150.0, 151.0):
        samples = samples if at is None else (*samples, scraped(at))
        history = history.followed_by(samples, "no answer" if at is None else None)
        runs.append(history.run)
    first, later = DataRun(100.0), DataRun(150.0, 110.0)
    assert runs == [first, first, first, first, later, later]
