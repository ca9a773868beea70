# SPDX-License-Identifier: Apache-2.0
"""Tests of the growth of counters, measured pair by pair."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.evaluate.load.counter_steps import CounterGrowth, CounterSteps, counter_bits, counter_steps
from keda_gpu_scaler.core.state.scrape import TargetHistory
from keda_gpu_scaler.core.types import EngineSample

_FIELDS = {
    "waits": "token_time_seconds_total",
    "times": "token_times_total",
    "tokens": "tokens_total",
    "first_tokens": "first_tokens_total",
    "ended": "requests_total",
    "prompts": "prompt_tokens_total",
    "service": "service_seconds_total",
    "services": "services_total",
    "executions": "executions_total",
}
_COUNTER = st.one_of(st.none(), st.integers(0, 3).map(float))
_PAGES = st.lists(st.fixed_dictionaries(dict.fromkeys(_FIELDS.values(), _COUNTER)), min_size=1, max_size=8)


def _engine_samples(pages: list[dict[str, float | None]]) -> tuple[EngineSample, ...]:
    return tuple([EngineSample(2.0 * number, **page) for number, page in enumerate(pages)])  # type: ignore[arg-type]


_SAMPLES = _PAGES.map(_engine_samples)
_RARELY_MISSING = st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, None])
_FEW = ("tokens_total", "token_times_total")
_HISTORY = st.lists(st.fixed_dictionaries(dict.fromkeys(_FEW, _RARELY_MISSING)), min_size=1, max_size=12).map(
    _engine_samples
)


def _by_definition(samples: tuple[EngineSample, ...]) -> tuple[float, CounterGrowth, int]:
    """Compare every sample with the next one, in each counter that no sample lacks."""
    known = [name for name, field in _FIELDS.items() if all(getattr(one, field) is not None for one in samples)]
    seconds, total = 0.0, dict.fromkeys(_FIELDS, 0.0)
    for earlier, later in pairwise(samples):
        grown = {name: getattr(later, _FIELDS[name]) - getattr(earlier, _FIELDS[name]) for name in known}
        if all(one >= 0 for one in grown.values()):
            seconds += later.at_seconds - earlier.at_seconds
            for name, one in grown.items():
                total[name] += one
    return seconds, CounterGrowth(**total), counter_bits(*[name for name in _FIELDS if name not in known])


@given(_SAMPLES)
def test_the_growth_is_that_of_every_pair_in_which_no_known_counter_fell(samples: tuple[EngineSample, ...]) -> None:
    assert CounterSteps().growth(samples) == _by_definition(samples)


@given(_HISTORY, st.data())
def test_known_pairs_change_no_growth(samples: tuple[EngineSample, ...], data: st.DataObject) -> None:
    steps, kept = CounterSteps(), []
    for sample in samples:  # a history: one sample is added at its end, and others are dropped
        kept.append(sample)
        for begin in data.draw(st.lists(st.integers(0, len(kept) - 1), max_size=2)):
            part = tuple(kept[begin : data.draw(st.integers(begin + 1, len(kept)))])
            assert steps.growth(part) == _by_definition(part)
        if data.draw(st.booleans()):
            del kept[data.draw(st.integers(0, len(kept) - 1))]


def test_pairs_of_dropped_samples_are_released() -> None:
    samples = tuple(EngineSample(float(number), tokens_total=float(number)) for number in range(200))
    page = TargetHistory("http://10.0.0.1:8000/metrics", samples)
    counter_steps(page).growth(samples)
    newer = page.followed_by(samples[-2:], None)
    assert counter_steps(newer).count <= 2, "what belongs to no sample is not kept"
