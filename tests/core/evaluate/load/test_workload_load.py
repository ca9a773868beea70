# SPDX-License-Identifier: Apache-2.0
"""Tests of the metric load of a workload, and of what explain says about it."""

import math
from dataclasses import replace

import pytest

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation, evaluate
from keda_gpu_scaler.core.evaluate.load.workload_load import ScrapedEngine, WorkloadLoad, workload_load
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.state.scrape import Endpoint, ScrapeResult, TargetHistory
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import EngineSample, Histogram
from tests.core.evaluate.load.replicas import (
    HISTORY,
    NOW,
    ReplicaModel,
    asked_replicas,
    evaluated,
    history,
    samples,
    steady,
)
from tests.fakes import pod, workload

MODEL = ReplicaModel()
HALF = MODEL.most_requests / 2


def measured(*engines: ScrapedEngine, query: EngineQuery | None = None) -> WorkloadLoad:
    return workload_load(query or EngineQuery(), engines, window_seconds=10.0, stale_after_seconds=10.0, now=NOW)


def engine(page: TargetHistory, model: str = "") -> ScrapedEngine:
    return ScrapedEngine(ScrapeResult((page,)), model)


def value(evaluation: Evaluation) -> float:
    if evaluation.value is None:
        raise ValueError(evaluation.reason)
    return evaluation.value


def changed(page: TargetHistory, **changes: object) -> TargetHistory:
    return history([replace(one, **changes) for one in page.samples])  # type: ignore[arg-type]


def test_the_value_is_the_share_with_headroom_and_the_sentence_says_how() -> None:
    loads = measured(engine(steady(MODEL, HALF)))
    plain = measured(engine(steady(MODEL, HALF)), query=EngineQuery(headroom=1.0))
    assert loads.loads[0].value == pytest.approx(1.15 * (plain.loads[0].value or 0.0))
    assert "ms per token, seats and cache" in loads.loads[0].sentence
    assert "headroom 1.15" in loads.loads[0].sentence
    assert loads.sentences[0].startswith("load is computed from the time between tokens; the floor is 12 ms per token")


def test_a_backlog_is_added_in_replicas_without_headroom() -> None:
    calm, busy = steady(MODEL, HALF), steady(MODEL, HALF, waiting=100.0)
    without, loads = measured(engine(calm)).loads[0].value, measured(engine(busy))
    assert loads.loads[0].value is not None
    assert without is not None
    replicas = (loads.loads[0].value - without) / 100
    assert f"100 waiting requests need {replicas:.3g} replicas" in loads.sentences[0]
    assert f"100 waiting {100 * replicas:.0f} %" in loads.loads[0].sentence
    higher = measured(engine(busy), query=EngineQuery(headroom=2.0)).loads[0].value
    lower = measured(engine(busy), query=EngineQuery(headroom=1.0)).loads[0].value
    assert higher is not None
    assert lower is not None
    assert higher - lower == pytest.approx(without / 1.15)


def test_a_burst_of_long_answers_asks_for_no_more_replicas_than_run_them_all_at_once() -> None:
    """Four full replicas run 256 requests each, and of the burst hardly any has ended."""
    page = steady(ReplicaModel(answer_tokens=4000.0), 10.0, waiting=240.0)
    burst = history([replace(one, requests_total=min(1.0, float(it))) for it, one in enumerate(page.samples)])
    evaluation = evaluated([burst] * 4)
    assert 8 <= asked_replicas(evaluation, 4) <= 12
    assert any("requests at once, and one more takes as many; 960 waiting" in step for step in evaluation.steps)


def test_a_pod_that_restarts_keeps_the_floor_of_the_workload() -> None:
    pages = [steady(MODEL, HALF) for _ in range(3)]
    restarted = [*pages[0].samples[:20], *samples(MODEL, [HALF] * len(HISTORY[20:]), times=HISTORY[20:])]
    before, after = evaluated(pages), evaluated([history(restarted), *pages[1:]])
    assert value(after) == pytest.approx(value(before), rel=0.1)
    assert any("the floor is 12 ms per token" in step for step in after.steps)


def test_a_pod_that_restarted_alone_has_a_floor_from_its_own_history() -> None:
    first = [replace(one, token_time=None) for one in samples(MODEL, [HALF / 4] * 12, times=HISTORY[:12])]
    second = samples(MODEL, [1.9 * HALF] * (len(HISTORY) - 12), times=HISTORY[12:])
    evaluation = evaluated([history([*first, *second])])
    assert any("the floor is 12 ms per token (by a line through" in step for step in evaluation.steps)


def test_another_model_of_device_has_its_own_calibration() -> None:
    fast = ReplicaModel(base=0.006, each=0.0001)
    loads = measured(
        engine(steady(MODEL, HALF), "NVIDIA A100"),
        engine(steady(fast, fast.most_requests / 2), "NVIDIA H100"),
        engine(steady(MODEL, HALF), "NVIDIA A100"),
    )
    assert loads.sentences[0].startswith("NVIDIA A100: load is computed")
    assert "the floor is 12 ms per token" in loads.sentences[0]
    assert loads.sentences[1].startswith("NVIDIA H100: load is computed")
    assert "the floor is 6 ms per token" in loads.sentences[1]
    assert loads.loads[0] == loads.loads[2]
    alone = measured(engine(steady(MODEL, HALF), "NVIDIA A100"))
    assert alone.loads[0] == loads.loads[0]


def test_histograms_with_other_buckets_do_not_matter_to_each_other() -> None:
    page = steady(MODEL, HALF)
    total = page.samples[-1].token_times_total or 0.0
    other = changed(page, token_time=Histogram((0.011, 0.02, math.inf), (0.0, total, total)))
    evaluation = evaluated([page, other])
    assert value(evaluation) == pytest.approx(value(evaluated([page, page])), rel=1e-6)


def test_a_stated_floor_above_what_was_observed_is_not_used_and_explain_says_so() -> None:
    evaluation = evaluated([steady(MODEL, HALF)], metadata={"itlFloorMs": "40"})
    assert any("observed; itlFloorMs 40 is above it and is not used" in step for step in evaluation.steps)
    stated = evaluated([steady(MODEL, HALF)], metadata={"itlFloorMs": "9"})
    assert any("the floor is 9 ms per token (itlFloorMs)" in step for step in stated.steps)
    assert value(stated) > value(evaluated([steady(MODEL, HALF)], metadata={"itlFloorMs": "11"}))


def test_an_engine_that_stops_exporting_tokens_is_read_by_its_cache_or_has_no_value() -> None:
    page = steady(MODEL, HALF)
    newest = replace(
        page.samples[-1], token_time=None, token_time_seconds_total=None, token_times_total=None, tokens_total=None
    )
    by_cache = evaluated([history([*page.samples[:-1], newest])])
    assert any("load is computed from the running requests" in step for step in by_cache.steps)
    assert value(by_cache) > 0
    without = changed(history([*page.samples[:-1], newest]), kv_cache_ratio=None)
    unknown = evaluated([without])
    assert unknown.value is None
    assert "no limit of its running requests is known: set maxSeqs" in unknown.reason
    assert evaluated([without], metadata={"maxSeqs": "256"}).value is not None


@pytest.mark.parametrize("has_histogram", [True, False])
@pytest.mark.parametrize("back", [3, 6, 20])
def test_law_1_a_page_that_lacks_the_tokens_once_changes_no_value(has_histogram: bool, back: int) -> None:
    page = history(samples(MODEL, [HALF] * len(HISTORY), has_histogram=has_histogram))
    taken = [*page.samples]
    lacking = {"token_time": None, "token_time_seconds_total": None, "token_times_total": None, "tokens_total": None}
    taken[-back] = replace(taken[-back], **lacking)  # type: ignore[arg-type]
    evaluation = evaluated([history(taken)])
    assert value(evaluation) == pytest.approx(value(evaluated([page])), rel=0.05)
    assert not any("estimated" in step for step in evaluation.steps)


@pytest.mark.parametrize("numbers", [slice(None), slice(-1, None), slice(-2, -1), slice(None, None, 2)])
def test_law_1_tokens_that_are_not_a_number_leave_a_lower_bound(numbers: slice) -> None:
    """The KV cache alone shows less than the times between tokens do."""
    page = steady(MODEL, 1.6 * HALF)
    names = ("token_time", "token_time_seconds_total", "token_times_total", "tokens_total")
    taken = [*page.samples]
    lacking = {**dict.fromkeys(names), "known_parts": dict.fromkeys(names, 0.0)}
    taken[numbers] = [replace(one, **lacking) for one in taken[numbers]]  # type: ignore[arg-type]
    load = measured(engine(history(taken))).loads[0]
    assert load.value is None
    assert 0 < (load.lower_bound or 0.0) < (measured(engine(page)).loads[0].value or 0.0)
    assert "its time per token is not known: a value of it is not a number" in load.sentence
    by_rate = history(
        [replace(one, tokens_total=before.tokens_total) for one, before in zip(taken, page.samples, strict=True)]
    )
    assert measured(engine(by_rate)).loads[0].value is not None, "the rate of tokens shows a time per token too"


def long_answers(engine: str, *, ended_before: bool, prompts: float = 0.0, ended: float = 0.0) -> TargetHistory:
    """Forty requests run in an engine that counts tokens and times when a request ends, and none of them does.

    With ``ended_before`` some ended until a minute ago, with 40 ms per token. ``prompts`` are tokens per second.
    """
    taken = []
    for at in HISTORY:
        before = float(max(0, min(at, -60) + 300)) if ended_before else 0.0
        one = EngineSample(
            NOW + at,
            engine,
            waiting=0.0,
            running=40.0,
            requests_total=before + ended * (at + 300),
            tokens_total=1000.0 * before,
            prompt_tokens_total=prompts * (at + 300),
        )
        if engine in ("tgi", "nim", "llama.cpp", "trtllm-serve", "lightllm", "dynamo"):
            one = replace(one, token_time_seconds_total=40.0 * before, token_times_total=1000.0 * before)
        taken.append(one)
    return history(taken)


ENDED_ONLY = ["tgi", "nim", "llama.cpp", "trtllm-serve", "lightllm", "dynamo", "sglang", "triton", "xinference"]
"""These engines count tokens, or the times between them, when a request ends."""


@pytest.mark.parametrize("engine", ENDED_ONLY)
def test_law_1_requests_of_which_none_ended_yet_are_not_an_idle_engine(engine: str) -> None:
    evaluation = evaluated([long_answers(engine, ended_before=False, prompts=100.0)] * 3)
    assert value(evaluation) == 300.0, "how much they work is not known, so the size stays"
    assert any("requests run, and nothing shows their time per token" in step for step in evaluation.steps)


@pytest.mark.parametrize("engine", ENDED_ONLY)
def test_while_none_ends_the_time_of_the_requests_that_ended_before_counts(engine: str) -> None:
    evaluation = evaluated([long_answers(engine, ended_before=True)])
    floor = 50 / 6  # assumed, because a token took 40 ms at least
    assert value(evaluation) == pytest.approx(115 * (1 - floor / 40) / (1 - floor / 50), rel=0.001)
    assert any("40 ms per token of requests that ended before" in step for step in evaluation.steps)


def test_requests_that_were_aborted_leave_an_idle_engine() -> None:
    page = long_answers("tgi", ended_before=False)
    aborted = history([*page.samples[:-1], replace(page.samples[-1], running=0.0)])
    assert value(evaluated([aborted])) == 0.0


def test_requests_that_end_without_a_token_time_are_those_of_a_prefill_pool() -> None:
    evaluation = evaluated([long_answers("dynamo", ended_before=False, prompts=3000.0, ended=2.0)])
    assert any("of it prompts" in step for step in evaluation.steps)
    assert not any("nothing shows" in step for step in evaluation.steps)


def test_law_1_an_engine_that_is_stuck_is_not_idle() -> None:
    """Its requests run, and no token and no prompt is counted in the whole window."""
    last = steady(MODEL, HALF).samples[-1]
    stuck = history([replace(last, at_seconds=NOW + at, kv_cache_ratio=0.05) for at in HISTORY])
    evaluation = evaluated([stuck, stuck])
    assert value(evaluation) == 200.0
    assert any("requests run, and nothing shows their time per token" in step for step in evaluation.steps)
    in_prefill = [replace(one, running=0.0 if one.at_seconds < NOW - 6 else 1.0) for one in stuck.samples]
    assert value(evaluated([history(in_prefill)])) < 20, "a prompt takes some seconds"


def test_speculative_decoding_has_an_aim_for_each_token() -> None:
    page = steady(MODEL, HALF)
    tripled = history([replace(one, tokens_total=3 * (one.tokens_total or 0.0)) for one in page.samples])
    assert value(evaluated([tripled])) < value(evaluated([page]))


def test_an_hour_without_traffic_is_no_load_and_keeps_the_floor() -> None:
    before = samples(MODEL, [HALF] * len(HISTORY))[-1]
    idle = history([replace(before, at_seconds=NOW + at, running=0.0, kv_cache_ratio=0.0) for at in HISTORY])
    evaluation = evaluated([idle])
    assert value(evaluation) == 0.0
    assert any("the floor is 10 ms per token (the lower bound of the lowest" in step for step in evaluation.steps)


@pytest.mark.parametrize("has_histogram", [True, False])
def test_the_first_request_ever_asks_for_no_second_replica(has_histogram: bool) -> None:
    nothing = EngineSample(
        NOW, "vllm", running=0.0, waiting=0.0, tokens_total=0.0, prompt_tokens_total=0.0, requests_total=0.0
    )
    if has_histogram:
        nothing = replace(nothing, token_time_seconds_total=0.0, token_times_total=0.0)
    waits = replace(nothing, at_seconds=NOW - 6, waiting=1.0)
    prefill = replace(nothing, at_seconds=NOW - 4, running=1.0, prompt_tokens_total=8000.0)
    decodes = replace(prefill, at_seconds=NOW - 2, tokens_total=100.0)
    longer = replace(decodes, at_seconds=NOW, tokens_total=220.0)
    if has_histogram:
        decodes = replace(decodes, token_time_seconds_total=1.3, token_times_total=100.0)
        longer = replace(longer, token_time_seconds_total=3.1, token_times_total=220.0)
    taken = [replace(nothing, at_seconds=NOW + at) for at in range(-60, -7, 2)]
    for arriving in ([waits], [waits, prefill], [waits, prefill, decodes], [waits, prefill, decodes, longer]):
        now = arriving[-1].at_seconds
        page = history([replace(one, at_seconds=one.at_seconds + NOW - now) for one in [*taken, *arriving]])
        evaluation = evaluated([page])
        assert asked_replicas(evaluation, 1) == 1, evaluation.steps
        assert evaluation.active


def test_waiting_requests_of_an_engine_whose_rate_is_not_known_keep_it_at_the_target() -> None:
    """Nothing says how long they wait. The size stays: it neither grows by their number nor shrinks."""
    one = EngineSample(NOW, "vllm", running=0.0, waiting=500.0, kv_cache_ratio=0.0)
    stuck = history([replace(one, at_seconds=NOW + at) for at in HISTORY])
    evaluation = evaluated([stuck] * 4)
    assert value(evaluation) == 400.0
    assert asked_replicas(evaluation, 4) == 4


def test_an_engine_with_one_sample_and_one_that_does_not_answer_have_no_value() -> None:
    page = steady(MODEL, HALF)
    young = history(page.samples[-1:])
    loads = measured(engine(page), engine(young), ScrapedEngine(None), ScrapedEngine(ScrapeResult(failure="no answer")))
    assert [one.value is None for one in loads.loads] == [False, True, True, True]
    assert "it has one sample so far, and its work needs two" in loads.loads[1].sentence
    assert loads.loads[2].sentence == "not scraped yet"
    assert loads.loads[3].sentence == "no answer"


def test_law_1_a_page_of_which_nothing_is_known_has_no_value() -> None:
    one = EngineSample(NOW, "", requests_total=5.0)
    loads = measured(engine(history([replace(one, at_seconds=NOW - 2), one])))
    assert loads.loads[0].value is None
    assert "exports neither times per token nor running requests" in loads.loads[0].sentence


def test_an_engine_whose_page_lacks_its_queue_says_what_to_switch_on() -> None:
    one = EngineSample(NOW, "trtllm-serve", requests_total=5.0)
    loads = measured(engine(history([replace(one, at_seconds=NOW - 2), one])))
    assert "enable_iter_perf_stats" in loads.loads[0].sentence


def test_an_engine_on_no_rung_is_read_by_its_cache_and_explain_says_so() -> None:
    one = EngineSample(NOW, "vllm", waiting=0.0, kv_cache_ratio=0.4)
    evaluation = evaluated([history([replace(one, at_seconds=NOW - 2), one])])
    assert value(evaluation) == pytest.approx(1.15 * 50)
    assert evaluation.steps[1] == (
        "load is computed from a KV cache at most: the page has neither times per token nor running requests"
    )


def test_at_a_url_explain_names_the_rung_and_the_floor_too() -> None:
    metadata = {"profile": "llm", "engineEndpoint": "http://vllm-svc/metrics"}
    page = steady(MODEL, HALF)
    fleet = Fleet(
        None, 10.0, deviceless=True, scrape_results={Endpoint(url=metadata["engineEndpoint"]): ScrapeResult((page,))}
    )
    evaluation = evaluate(parse_trigger(metadata), fleet, NOW, workload(pod("llama-0")), metadata)
    assert value(evaluation) == pytest.approx(value(evaluated([page])))
    assert evaluation.steps[1].startswith("load is computed from the time between tokens; the floor is 12 ms per token")


GROWING = [HALF * (0.5 + 0.5 * number / (len(HISTORY) - 1)) for number in range(len(HISTORY))]


def factor_of(evaluation: Evaluation) -> float:
    """Return the factor that the forecast's sentence names."""
    (sentence,) = [step for step in evaluation.steps if step.startswith("forecast:")]
    return float(sentence.partition("the load counts ")[2].partition(" times")[0])


def test_a_forecast_multiplies_the_work_and_not_the_backlog() -> None:
    calm, busy = (history(samples(MODEL, GROWING, waiting=waiting)) for waiting in (0.0, 600.0))
    work, both = value(evaluated([calm], cold_start=85.0)), value(evaluated([busy], cold_start=85.0))
    ready = evaluated([busy], cold_start=85.0, metadata={"forecast": "trend"})
    assert any("a new replica is ready after 85 s" in step for step in ready.steps)
    assert factor_of(ready) > 1.1
    assert value(ready) == pytest.approx(work * factor_of(ready) + both - work, rel=0.01)


def test_a_forecast_looks_as_far_ahead_as_the_measured_cold_start() -> None:
    page = history(samples(MODEL, GROWING))
    plain, trend = evaluated([page], cold_start=85.0), {"forecast": "trend"}
    factors = [factor_of(evaluated([page], cold_start=seconds, metadata=trend)) for seconds in (30.0, 85.0, 200.0)]
    assert factors == sorted(factors)
    assert factors[0] < factors[1] < factors[2]
    unknown = evaluated([page], metadata=trend)
    assert any("no forecast: no cold start of a pod was measured" in step for step in unknown.steps)
    left = evaluated([page], cold_start=85.0, metadata=trend, removed_at_seconds=NOW - 30)
    assert any("in which no replica left" in step for step in left.steps)
    assert value(unknown) == value(left) == value(plain)


def test_a_pod_that_is_ready_since_a_minute_carried_nothing_before() -> None:
    """It takes over half of the traffic, which is constant. That is no growth of the first, nor a new load."""
    old = history(samples(MODEL, [HALF if at < -60 else HALF / 2 for at in HISTORY]))
    times = [at for at in HISTORY if at >= -60]
    new = history(samples(MODEL, [HALF / 2] * len(times), times=times))
    evaluation = evaluated([old, new], cold_start=3600.0 - 65.0, metadata={"forecast": "trend"})
    assert any("no forecast: the load does not certainly grow" in step for step in evaluation.steps)


def test_requests_of_an_engine_are_those_that_run_or_wait_or_ended() -> None:
    page = steady(MODEL, HALF, waiting=3.0)
    newest = page.samples[-1]
    assert measured(engine(page)).loads[0].requests == pytest.approx((newest.running or 0.0) + 3.0)
    idle = history([*page.samples[:-1], replace(newest, running=0.0, waiting=0.0)])
    deferred = history([*page.samples[:-1], replace(newest, running=0.0, waiting=0.0, deferred=7.0)])
    assert measured(engine(deferred)).loads[0].requests == 7.0
    assert measured(engine(idle)).loads[0].requests > 0
    assert measured(engine(page)).loads[0].expires_at_seconds == NOW + 10.0
