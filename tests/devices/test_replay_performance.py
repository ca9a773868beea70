# SPDX-License-Identifier: Apache-2.0
"""Recordings keep what a sample has beside its basic readings: activity, traffic, lags and reasons."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.state.fleet import Fleet
from keda_gpu_scaler.core.trigger.metrics import METRICS
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import PerformanceReadings, ReadingFailure, Sample, Snapshot
from keda_gpu_scaler.devices.replay import backend as replay_backend
from keda_gpu_scaler.devices.replay.backend import ReplayBackend
from keda_gpu_scaler.sampler import Sampler
from keda_gpu_scaler.wire.recording import RecordingWriter
from keda_gpu_scaler.wire.snapshot_codec import decode
from tests.fake_nvml import Card, FakeNvml
from tests.fakes import ManualClock, sample
from tests.polling import interrupted_when

MIB = 1 << 20
STARTED_AT = 500.0
FIRST = PerformanceReadings(997.0, 5.0, 0.5, 0.25, 0.125, 100 * MIB, 200 * MIB, 300 * MIB, 400 * MIB, 1e6)
SECOND = replace(FIRST, at_seconds=1002.0, sm_active_ratio=0.75, nvlink_tx_bytes_per_second=800.0 * MIB)
HANGS = ReadingFailure("", "nvmlDeviceGetPowerUsage has not returned", 996.0)
NO_GPM = ReadingFailure("activity", "the GPU has no GPM, which needs Hopper or newer")


def recording(path: Path, *moments: Sequence[Sample], at_seconds: float = 1000.0) -> Path:
    """Writes one snapshot a second."""
    with RecordingWriter(path, "nvml") as file:
        for second, samples in enumerate(moments):
            file.write(Snapshot("gpu-7", second + 1, at_seconds + second, 0.0, "nvml", tuple(samples)))
    return path


def played(path: Path, *seconds: float, speed: float = 1.0) -> list[Sample]:
    """The first device's samples at these times after the first read."""
    backend = ReplayBackend(path, speed)
    backend.read(STARTED_AT)
    return [backend.read(STARTED_AT + second)[0] for second in seconds]


def performances(samples: Sequence[Sample]) -> list[PerformanceReadings]:
    assert all(one.performance is not None for one in samples)
    return [one.performance for one in samples if one.performance is not None]


FIVE_SECONDS = [[sample(performance=FIRST)], [sample(performance=FIRST)], [sample(performance=SECOND)]]


def test_performance_readings_keep_their_age_and_are_one_reading_until_the_next(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.jsonl", *FIVE_SECONDS)
    first, again, second = performances(played(path, 0, 1, 2))
    assert first == again == replace(FIRST, at_seconds=STARTED_AT - 3)
    assert second == replace(SECOND, at_seconds=STARTED_AT + 2)


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_at_another_speed_rates_stay_and_times_do_not(tmp_path: Path, speed: float) -> None:
    path = recording(tmp_path / "a.jsonl", *FIVE_SECONDS)
    (second,) = performances(played(path, 2 / speed, speed=speed))
    assert second == replace(SECOND, at_seconds=STARTED_AT + 2 / speed, seconds=5 / speed)


def test_after_the_end_the_readings_are_new_ones(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.jsonl", *FIVE_SECONDS)
    times = [one.at_seconds for one in performances(played(path, 0, 2, 3, 5))]
    assert times == [STARTED_AT - 3, STARTED_AT + 2, STARTED_AT, STARTED_AT + 5]


def test_joined_recordings_with_two_clocks_keep_the_ages(tmp_path: Path) -> None:
    one = recording(tmp_path / "1.jsonl", *FIVE_SECONDS)
    late = replace(SECOND, at_seconds=2.5)
    two = recording(tmp_path / "2.jsonl", [sample(performance=late)], at_seconds=4.0)
    joined = tmp_path / "joined.jsonl"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    assert performances(played(joined, 3))[0].at_seconds == STARTED_AT + 3 - 1.5


def test_a_reading_that_is_dated_after_its_snapshot_is_as_old_as_the_snapshot(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.jsonl", [sample(performance=replace(FIRST, at_seconds=9999.0))])
    assert performances(played(path, 0))[0].at_seconds == STARTED_AT


def test_a_date_is_never_before_the_start_of_the_clock(tmp_path: Path) -> None:
    backend = ReplayBackend(recording(tmp_path / "a.jsonl", *FIVE_SECONDS))
    assert performances(backend.read(1.0))[0].at_seconds == 0.0


@pytest.mark.parametrize(
    "without",
    [
        pytest.param([sample()], id="while nobody wanted them"),
        pytest.param([], id="while the device was not seen"),
    ],
)
def test_readings_that_were_not_recorded_are_unknown(tmp_path: Path, without: list[Sample]) -> None:
    path = recording(tmp_path / "a.jsonl", [sample(performance=FIRST)], without, [sample(performance=SECOND)])
    before, missing, after = played(path, 0, 1, 2)
    assert missing.performance is None
    assert len(performances([before, after])) == 2


def test_a_recording_of_an_older_version_has_none(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.jsonl", [sample()], [sample()])
    assert "performance" not in path.read_text()
    assert [one.performance for one in played(path, 0, 1)] == [None, None]


def test_lags_and_reasons_keep_their_distance_from_the_moment(tmp_path: Path) -> None:
    late = replace(sample(lag_seconds=40.0), failures=(NO_GPM,))
    lost = Sample(sample().device, failures=(HANGS,))
    path = recording(tmp_path / "a.jsonl", [late], [lost], [lost])
    first, second, third = played(path, 0, 1, 2)
    assert (first.lag_seconds, first.failures) == (40.0, (NO_GPM,))
    # It was unknown for 5 s at the second snapshot, and for 6 s at the third.
    assert second.failures == third.failures == (replace(HANGS, since_seconds=STARTED_AT + 1 - 5),)
    assert played(path, 0.5, speed=2.0)[0].failures[0].since_seconds == STARTED_AT + (1 - 5) / 2
    assert played(path, 0, speed=2.0)[0].lag_seconds == 20.0


def test_reasons_without_end_take_no_memory_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keda_gpu_scaler.devices.replay.timeline.MAX_REASONS", 2)
    reasons = [(ReadingFailure("power", f"error {number}"),) for number in range(3)]
    path = recording(tmp_path / "a.jsonl", *([sample(failures=each, power_watts=None)] for each in reasons))
    assert [one.failures for one in played(path, 0, 1, 2)] == [*reasons[:2], ()]


def test_performance_readings_count_as_samples_of_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording(tmp_path / "a.jsonl", *FIVE_SECONDS)
    monkeypatch.setattr(replay_backend, "MAX_ROWS", 5)
    ReplayBackend(path)
    monkeypatch.setattr(replay_backend, "MAX_ROWS", 4)
    with pytest.raises(BackendError, match="it has more than 4 samples"):
        ReplayBackend(path)


readings = st.builds(
    PerformanceReadings,
    st.floats(0, 1000),
    st.floats(0, 60),
    *[st.none() | st.floats(0, 1)] * 3,
    *[st.none() | st.floats(0, 1e12)] * 5,
)


@given(st.lists(st.none() | readings, min_size=1, max_size=6))
def test_any_readings_are_played_with_their_values_and_ages(
    tmp_path_factory: pytest.TempPathFactory, recorded: list[PerformanceReadings | None]
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    recording(path, *([sample(performance=each)] for each in recorded))
    for second, (theirs, one) in enumerate(zip(recorded, played(path, *range(len(recorded))), strict=True)):
        ours = one.performance
        if theirs is None or ours is None:
            assert theirs is ours
            continue
        assert replace(ours, at_seconds=0.0) == replace(theirs, at_seconds=0.0)
        age = STARTED_AT + second - ours.at_seconds
        assert age == pytest.approx(min(1000.0 + second - theirs.at_seconds, STARTED_AT + second), abs=1e-6)


# From the driver to the answer


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if metric.is_performance])
def test_a_trigger_gets_from_a_recording_what_it_gets_from_the_devices(tmp_path: Path, metric: str) -> None:
    path = recording(tmp_path / "a.jsonl", *([sample(performance=FIRST)] for _ in range(5)))
    clock = ManualClock()
    sampler = Sampler(ReplayBackend(path), node="gpu-7", interval_seconds=1, clock=clock)
    sampler.tick()
    metadata = {"metricType": metric, "targetValue": "50", "scope": "node", "report": "average"}
    evaluation = evaluate(parse_trigger(metadata), Fleet(sampler.history, 10.0), clock.now)
    assert evaluation.value == METRICS[metric].read(sample(performance=FIRST))
    assert evaluation.value is not None


def test_the_profile_for_distributed_training_is_played_from_a_recording(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.jsonl", *FIVE_SECONDS, *([sample(performance=SECOND)] for _ in range(9)))
    clock = ManualClock()
    sampler = Sampler(ReplayBackend(path), node="gpu-7", interval_seconds=1, clock=clock)
    trigger = parse_trigger({"profile": "distributed-training", "scope": "node", "report": "average"})
    values = []
    for _ in range(10):
        sampler.tick()
        values.append(evaluate(trigger, Fleet(sampler.history, 10.0), clock.now).value)
        clock.advance(1)
    # Each reading counts once in the mean of the window, however many snapshots have it. The first one leaves it.
    assert values == [400.0, 400.0, *[600.0] * 5, *[800.0] * 3]


def test_the_performance_readings_of_a_driver_are_recorded(tmp_path: Path, fake_nvml: FakeNvml) -> None:
    fake_nvml.devices = [Card("GPU-a", "NVIDIA A100-SXM4-80GB", fields=True)]
    file = tmp_path / "gpus.jsonl"
    arguments = ["--nvml-library", fake_nvml.library, "--out", str(file), "--sample-interval", "0.5"]

    def snapshots() -> list[Snapshot]:
        text = file.read_text() if file.exists() else ""
        return [decode(line) for line in text[: text.rfind("\n") + 1].splitlines()[1:]]

    def performance() -> list[PerformanceReadings]:
        return [one.samples[0].performance for one in snapshots() if one.samples[0].performance is not None]

    with interrupted_when(performance):
        result = CliRunner().invoke(main, ["record", "--backend", "nvml", *arguments])
    assert result.exit_code == 0, result.stderr
    found = performance()
    assert found[-1].nvlink_tx_bytes_per_second == 0.0
    (last,) = ReplayBackend(file).read(0.0)
    assert last.failures == snapshots()[0].samples[0].failures
