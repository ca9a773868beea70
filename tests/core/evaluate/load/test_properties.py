# SPDX-License-Identifier: Apache-2.0
"""Properties of the metric load of a whole workload, on a computed replica and on arbitrary pages."""

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.evaluation import Evaluation
from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.types import EngineSample, Histogram
from tests.core.evaluate.load.replicas import HISTORY, NOW, ReplicaModel, evaluated, history, samples, steady
from tests.examples_drawn import examples

SLOW = ReplicaModel()
FAST = ReplicaModel(base=0.007, each=0.0001)
LONG_PROMPTS = ReplicaModel(prompt_tokens=4000.0, answer_tokens=400.0)
BELOW_THE_FIRST_BUCKET = ReplicaModel(base=0.003, each=0.0002)
MODELS = st.sampled_from([SLOW, FAST, LONG_PROMPTS, BELOW_THE_FIRST_BUCKET])
LINEAR_WITHIN, TOLERANCE = 1.2, 1.1


def total(model: ReplicaModel, requests: float, replicas: int) -> float:
    """Return the value for so many equal replicas that get this traffic together."""
    evaluation = evaluated([steady(model, requests / replicas)] * replicas)
    assert evaluation.value is not None
    return evaluation.value


@settings(max_examples=60)
@given(MODELS, st.integers(1, 8), st.floats(0.35, 0.7))
def test_load_is_the_same_for_n_and_2n_replicas(model: ReplicaModel, replicas: int, share: float) -> None:
    """The HPA divides the total by the target to find the size, so the total must not depend on the size."""
    requests = share * replicas * model.most_requests
    few, many = total(model, requests, replicas), total(model, requests, 2 * replicas)
    assert max(few, many) / min(few, many) <= LINEAR_WITHIN


@settings(max_examples=60)
@given(MODELS, st.integers(1, 8), st.integers(1, 8), st.floats(0.35, 0.9))
def test_added_replicas_do_not_raise_the_load(model: ReplicaModel, replicas: int, added: int, share: float) -> None:
    requests = share * replicas * model.most_requests
    before, after = total(model, requests, replicas), total(model, requests, replicas + min(added, replicas))
    assert after <= before * TOLERANCE


@settings(max_examples=60)
@given(MODELS, st.integers(1, 6), st.floats(0.2, 0.7), st.floats(1.0, 1.3))
def test_load_is_monotone_in_the_traffic_of_a_fleet(
    model: ReplicaModel, replicas: int, share: float, more: float
) -> None:
    requests = share * replicas * model.most_requests
    assert total(model, requests * more, replicas) >= total(model, requests, replicas) * 0.99


@settings(max_examples=60)
@given(MODELS, st.integers(1, 8), st.floats(0.35, 0.9), st.floats(0.0, 2.0))
def test_law_5_instances_that_scrape_at_other_moments_answer_the_same(
    model: ReplicaModel, replicas: int, share: float, later: float
) -> None:
    """Each instance has scraped the same engines, at its own moments."""
    answers = []
    for phase in (0.0, later):
        times = [at + phase for at in HISTORY[:-1]]
        rates = [share * model.most_requests * (1 + 0.33 * math.sin(at / 20)) for at in times]
        taken = samples(model, rates, times=times)
        answers.append(evaluated([history(taken)] * replicas).value)
    assert None not in answers
    one, other = answers
    assert one == pytest.approx(other, rel=0.1)


@settings(max_examples=60)
@given(st.sampled_from([SLOW, FAST, LONG_PROMPTS]), st.integers(1, 8), st.floats(0.35, 0.9), st.integers(2, 30))
def test_law_5_an_instance_that_was_restarted_asks_for_no_less(
    model: ReplicaModel, replicas: int, share: float, kept: int
) -> None:
    """It has only the newest samples. The histograms of engines that had little load once bound its floor."""
    rate, metadata = share * model.most_requests, {"windowSeconds": "10"}
    quiet, times = (-7200, -3600), HISTORY
    rates = [rate * (1 + 0.33 * math.sin(at / 20)) for at in times[:-6]] + [rate] * 6
    taken = samples(model, [0.01 * rate, 0.01 * rate, *rates], times=(*quiet, *times))[len(quiet) :]
    before = evaluated([history(taken)] * replicas, metadata=metadata).value
    after = evaluated([history(taken[-kept:])] * replicas, metadata=metadata).value
    assert before is not None
    assert after is not None
    assert after >= before / TOLERANCE


@pytest.mark.parametrize("replicas", [2, 4, 8, 16])
@pytest.mark.parametrize("has_histogram", [True, False])
def test_replicas_that_only_compute_prompts_do_not_look_full_when_replicas_are_added(
    replicas: int, has_histogram: bool
) -> None:
    """The most that an idle replica was seen to do is what it does now. That is no reason to call it full."""
    model = ReplicaModel(prompt_tokens=4000.0, answer_tokens=1.0)
    requests = 0.2 * model.most_requests
    page = steady(model, requests / replicas, has_histogram=has_histogram)
    evaluation = evaluated([page] * replicas)
    assert evaluation.value is not None
    assert evaluation.value < 60


numbers = st.none() | st.floats(0, 1e15) | st.integers(0, 50).map(float) | st.sampled_from([0.0, 1e300, 1e-300])
histograms = st.none() | st.lists(st.floats(0, 1e12), min_size=1, max_size=4).map(
    lambda counts: Histogram((*[0.01 * 2**n for n in range(len(counts) - 1)], math.inf), tuple(sorted(counts)))
)
readings = st.builds(
    EngineSample,
    at_seconds=st.just(NOW),
    waiting=numbers,
    running=numbers,
    running_limit=numbers,
    kv_cache_ratio=st.none() | st.floats(0, 1),
    requests_total=numbers,
    tokens_total=numbers,
    first_tokens_total=numbers,
    prompt_tokens_total=numbers,
    token_time=histograms,
    token_time_seconds_total=numbers,
    token_times_total=numbers,
    service_seconds_total=numbers,
    services_total=numbers,
    executions_total=numbers,
)
gaps = st.sampled_from([0.0, 2.0, 10.0]) | st.floats(1e-6, 20)
METADATA = st.sampled_from([{}, {"forecast": "trend"}, {"itlFloorMs": "5", "maxSeqs": "8"}, {"itlTargetMs": "1"}])


def page(taken: list[tuple[float, EngineSample]], engine: str) -> TargetHistory:
    """Return samples with these gaps in seconds, the newest now."""
    at, samples = NOW, []
    for gap, one in reversed(taken):
        samples.append(replace(one, at_seconds=at, engine=engine))
        at -= gap
    return history(samples[::-1])


@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    st.lists(st.lists(st.tuples(gaps, readings), min_size=1, max_size=12), min_size=1, max_size=3),
    st.sampled_from(["vllm", "sglang", "tgi", "triton", ""]),
    METADATA,
    st.integers(0, 2),
)
def test_arbitrary_pages_give_finite_values_and_the_same_ones_twice(
    engines: list[list[tuple[float, EngineSample]]], engine: str, metadata: dict[str, str], starting: int
) -> None:
    pages = [page(taken, engine) for taken in engines]
    evaluation: Evaluation = evaluated(pages, starting=starting, metadata=metadata)
    values = [one.value for one in evaluation.observations if one.value is not None]
    assert all(math.isfinite(value) and value >= 0 for value in values)
    fresh = [TargetHistory(one.url, one.samples) for one in pages]
    assert evaluated(fresh, starting=starting, metadata=metadata) == evaluation
