# SPDX-License-Identifier: Apache-2.0
"""The samples of a simulated target are those that the scraper keeps."""

from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from keda_gpu_scaler.core.state.scrape import MAX_SAMPLES, retained
from keda_gpu_scaler.core.types import EngineSample, Histogram
from keda_gpu_scaler.simulate.sample_history import SampleHistory
from tests.examples_drawn import examples

HISTOGRAM = Histogram((1.0,), (1.0,))
NOTHING: tuple[EngineSample, ...] = ()


@settings(max_examples=examples(300))
@given(
    steps=st.lists(st.sampled_from([0.5, 1.0, 2.0, 2.0, 2.0, 7.0, 31.0, 400.0]), min_size=1, max_size=200),
    window=st.sampled_from([1.0, 2.0, 30.0, 60.0, 299.0, 600.0]),
    history=st.sampled_from([0.0, 10.0, 60.0, 300.0]),
    with_histograms=st.booleans(),
)
def test_the_samples_are_those_that_the_scraper_keeps(
    steps: list[float], window: float, history: float, with_histograms: bool
) -> None:
    own, kept = SampleHistory(window, history), NOTHING
    for at in accumulate(steps):
        sample = EngineSample(at, "vllm", running=1.0, token_time=HISTOGRAM if with_histograms else None)
        kept = retained(kept, sample, window_seconds=window, history_seconds=history)
        assert own.add(sample) == kept


def test_there_are_never_more_than_the_scraper_keeps() -> None:
    own, kept = SampleHistory(4000.0, 300.0), NOTHING
    for number in range(MAX_SAMPLES + 50):
        sample = EngineSample(float(number), "vllm")
        kept = retained(kept, sample, window_seconds=4000.0, history_seconds=300.0)
        found = own.add(sample)
    assert found == kept
    assert len(found) == MAX_SAMPLES
