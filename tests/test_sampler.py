# SPDX-License-Identifier: Apache-2.0
"""Tests of the sampler: snapshots, failures, counts, and the pace of its thread."""

import logging
import threading

import pytest

from keda_gpu_scaler.core.state.fleet import MAX_WINDOW_SECONDS
from keda_gpu_scaler.sampler import Sampler
from tests.fakes import FakeBackend, ManualClock, sample
from tests.limits import WAIT_SECONDS


def sampler_of(backend: FakeBackend, clock: ManualClock, interval: float = 1.0) -> Sampler:
    return Sampler(backend, node="gpu-7", interval_seconds=interval, clock=clock, wall_clock=lambda: 1.7e9)


def test_a_tick_publishes_a_snapshot_with_a_number_and_a_time() -> None:
    clock = ManualClock(100.0)
    sampler = sampler_of(FakeBackend(sample(0, 0.1)), clock)
    sampler.tick()
    clock.advance(1)
    sampler.tick()
    assert sampler.history is not None
    assert sampler.history.received_at_seconds == 101.0
    first, second = sampler.history.snapshots
    assert (first.sequence, first.at_seconds) == (1, 100.0)
    assert (second.sequence, second.at_seconds) == (2, 101.0)
    assert (second.node, second.source, second.unix_seconds) == ("gpu-7", "fake", 1.7e9)
    assert second.samples == (sample(0, 0.1),)


def test_a_snapshot_is_dated_after_the_read() -> None:
    clock = ManualClock(100.0)
    backend = FakeBackend(sample(0, 0.1))
    backend.before_read = lambda: clock.advance(12)
    asked: list[float] = []
    sampler = Sampler(backend, node="gpu-7", interval_seconds=1, allocations=asked.append, clock=clock)
    sampler.tick()
    assert sampler.history is not None
    assert (sampler.history.newest.at_seconds, sampler.history.received_at_seconds) == (112.0, 112.0)
    assert (backend.reads, asked) == ([100.0], [112.0])
    assert sampler.counts.duration_seconds_sum == 12.0


def test_a_call_that_keeps_the_read_waiting_is_the_failure_until_it_returns() -> None:
    backend = FakeBackend(sample())
    sampler = sampler_of(backend, ManualClock())
    sampler.tick()
    backend.overdue = "the driver: nvmlInit has not returned for 7 s"
    assert sampler.failure == "the driver: nvmlInit has not returned for 7 s"
    backend.overdue = None
    assert sampler.failure is None
    backend.failure = "the driver is gone"
    sampler.tick()
    backend.overdue = "the driver: nvmlInit has not returned for 7 s"
    assert sampler.failure == "the driver is gone"
    assert sampler.counts.errors == 1


def test_a_published_history_does_not_change_with_later_ticks() -> None:
    sampler = sampler_of(FakeBackend(sample()), ManualClock())
    sampler.tick()
    published = sampler.history
    sampler.tick()
    assert published is not None
    assert len(published.snapshots) == 1


def test_the_history_covers_the_longest_window_of_a_trigger_and_no_more() -> None:
    clock = ManualClock()
    sampler = sampler_of(FakeBackend(sample()), clock)
    for _ in range(int(MAX_WINDOW_SECONDS) * 2):
        sampler.tick()
        clock.advance(1)
    assert sampler.history is not None
    assert len(sampler.history.snapshots) == MAX_WINDOW_SECONDS + 1


def test_a_failure_keeps_the_last_snapshot_and_reports_the_reason() -> None:
    clock = ManualClock()
    backend = FakeBackend(sample())
    sampler = sampler_of(backend, clock)
    sampler.tick()
    backend.failure = "the driver is gone"
    clock.advance(1)
    sampler.tick()
    assert sampler.history is not None
    assert sampler.history.newest.sequence == 1
    assert sampler.failure == "the driver is gone"
    backend.failure = None
    sampler.tick()
    assert sampler.failure is None
    assert sampler.history.newest.sequence == 2


def test_a_failure_is_logged_when_it_starts_and_ends_and_not_at_every_tick(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    backend = FakeBackend(sample())
    sampler = sampler_of(backend, ManualClock())
    for failure in (None, "gone", "gone", "gone", None, None):
        backend.failure = failure
        sampler.tick()
    assert caplog.messages == ["first sample: 1 device(s)", "gone", "devices can be read again"]


def test_a_backend_that_breaks_its_contract_does_not_end_sampling(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend(sample())

    def defect() -> None:
        raise ZeroDivisionError("a defect")

    backend.before_read = defect
    sampler = sampler_of(backend, ManualClock())
    sampler.tick()
    assert sampler.failure == "unexpected ZeroDivisionError in the fake backend: a defect"
    assert "broke its contract" in caplog.text
    backend.before_read = lambda: None
    sampler.tick()
    assert sampler.history is not None


def test_collections_are_counted_with_their_errors_and_durations() -> None:
    clock = ManualClock()
    backend = FakeBackend(sample())
    sampler = sampler_of(backend, clock)
    sampler.tick()
    backend.before_read = lambda: clock.advance(0.3)
    backend.failure = "gone"
    sampler.tick()
    backend.before_read = lambda: clock.advance(60)
    sampler.tick()
    counts = sampler.counts
    assert (counts.collections, counts.errors) == (3, 2)
    assert counts.duration_seconds_sum == pytest.approx(60.3)
    assert counts.duration_buckets == (1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1)


def test_the_thread_samples_at_once_and_closes_the_backend_at_the_end() -> None:
    backend = FakeBackend(sample())
    published = threading.Event()
    sampler = Sampler(backend, node="gpu-7", interval_seconds=3600, on_publish=published.set)
    sampler.start()
    assert published.wait(WAIT_SECONDS)
    sampler.stop()
    assert sampler.history is not None
    assert backend.is_closed


def test_a_line_of_the_log_comes_after_the_new_state_was_published(caplog: pytest.LogCaptureFixture) -> None:
    """A program that waits for "first sample" and then stops the recording expects the sample in it."""
    caplog.set_level(logging.INFO)
    logged: list[list[str]] = []
    backend = FakeBackend(sample())
    sampler = Sampler(backend, node="gpu-7", interval_seconds=1, on_publish=lambda: logged.append(caplog.messages[:]))
    sampler.tick()
    backend.failure = "the driver is gone"
    sampler.tick()
    backend.failure = None
    sampler.tick()
    lines = ["first sample: 1 device(s)", "the driver is gone", "devices can be read again"]
    assert logged == [lines[:number] for number in range(3)]
    assert caplog.messages == lines


def test_the_thread_keeps_sampling() -> None:
    backend = FakeBackend(sample())
    third = threading.Semaphore(0)
    sampler = Sampler(backend, node="gpu-7", interval_seconds=0.001, on_publish=third.release)
    sampler.start()
    for _ in range(3):
        assert third.acquire(timeout=WAIT_SECONDS)
    sampler.stop()
    assert len(backend.reads) >= 3


def test_a_hanging_call_blocks_neither_readers_nor_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend(sample())
    first, hanging, released = threading.Event(), threading.Event(), threading.Event()
    sampler = Sampler(backend, node="gpu-7", interval_seconds=0.001, on_publish=first.set)

    def hang_from_the_second_read_on() -> None:
        if len(backend.reads) > 1:
            hanging.set()
            assert released.wait(WAIT_SECONDS)

    backend.before_read = hang_from_the_second_read_on
    sampler.start()
    assert first.wait(WAIT_SECONDS)
    assert hanging.wait(WAIT_SECONDS)
    assert sampler.history is not None
    assert sampler.history.newest.sequence == 1
    sampler.stop(timeout_seconds=0.01)
    assert not backend.is_closed
    assert "has not returned" in caplog.text
    released.set()


@pytest.mark.parametrize(
    ("took", "next_read"),
    [
        pytest.param(0.0, 1.0, id="no time: the next read is one interval later"),
        pytest.param(0.4, 1.0, id="less than the interval: the pace stays"),
        pytest.param(2.5, 3.0, id="more than two intervals: the missed ticks are skipped"),
    ],
)
def test_ticks_keep_their_pace_and_missed_ticks_are_skipped(took: float, next_read: float) -> None:
    clock = ManualClock(0.0)
    backend = FakeBackend(sample())
    sampler = sampler_of(backend, clock)
    waits: list[float] = []

    class Stopping:
        """A stop event whose wait advances the manual clock. It is set after two ticks."""

        def is_set(self) -> bool:
            return len(waits) == 2

        def wait(self, seconds: float) -> None:
            waits.append(seconds)
            clock.advance(seconds)

        def set(self) -> None: ...

    sampler._stopping = Stopping()  # type: ignore[assignment]
    backend.before_read = lambda: clock.advance(took)
    sampler._sample_until_stopped()
    assert backend.reads == pytest.approx([0.0, next_read])
