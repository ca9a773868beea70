# SPDX-License-Identifier: Apache-2.0
"""Tests of the limits of one peer: rate, size and clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.peers.limits import (
    MAX_DEVICES,
    MAX_PEER_ALLOCATIONS,
    PeerClock,
    PeerError,
    RateLimit,
    check_size,
)
from tests.fakes import allocation, sample

LIMIT = 10.0
BOOTED_AT = -250.0
"""When the peer's machine started, on the clock of this instance."""


def received(clock: PeerClock, taken: float, sent: float, at: float) -> float:
    """Return the date of a snapshot. All three times are true ones, on the clock of this instance."""
    return clock.to_local(taken - BOOTED_AT, sent - taken, at)


@pytest.mark.parametrize(
    ("updates", "date"),
    [
        pytest.param([(1000, 1000, 1000)], 1000.0, id="the first snapshot counts from its arrival"),
        pytest.param([(997, 1000, 1000)], 997.0, id="an old first snapshot is as old as the sender says"),
        pytest.param([(1000, 1000, 1000), (1001, 1001, 1009)], 1001.0, id="a late snapshot is as old as it is"),
        pytest.param(
            [(1000, 1000, 1000), *((1000 + n, 1000 + n, 1008) for n in range(1, 8))],
            1007.0,
            id="the snapshots behind a pause keep their distance",
        ),
        pytest.param([(1000, 1000, 1006), (1001, 1001, 1001)], 1001.0, id="a late first snapshot is corrected"),
    ],
)
def test_a_snapshot_is_dated_by_the_clock_of_its_peer(updates: list[tuple[float, float, float]], date: float) -> None:
    clock = PeerClock(LIMIT)
    assert [received(clock, *update) for update in updates][-1] == pytest.approx(date, abs=0.02)


@pytest.mark.parametrize(
    ("updates", "sentence"),
    [
        pytest.param([(50.0, 0.0, 1000.0), (49.5, 0.0, 1001.0)], "its clock went back by 0.5 s", id="goes back"),
        pytest.param(
            [(50.0 + n, 0.0, 1000.0 + n / 100) for n in range(12)],
            "its clock ran ahead by 10.9 s (limit 10 s)",
            id="runs ahead, so that what waits in the stream seems new",
        ),
        pytest.param(
            [(50.0 + n / 1e6, 0.0, 1000.0 + n) for n in range(12)],
            "by its clock, what it sends is 11 s late (limit 10 s): does its clock stand still?",
            id="advances a microsecond with each snapshot",
        ),
    ],
)
def test_a_clock_that_cannot_be_right_ends_the_stream(updates: list[tuple[float, float, float]], sentence: str) -> None:
    clock = PeerClock(LIMIT)
    for update in updates[:-1]:
        clock.to_local(*update)
    with pytest.raises(PeerError) as error:
        clock.to_local(*updates[-1])
    assert str(error.value) == sentence


@pytest.mark.parametrize("speed", [0.9995, 1.0005], ids=["a slow clock", "a fast clock"])
def test_the_drift_of_a_clock_makes_no_snapshot_old_in_a_week(speed: float) -> None:
    clock = PeerClock(LIMIT)
    for now in range(0, 7 * 86400, 10):
        assert clock.to_local(50.0 + now * speed, 0.0, float(now)) == pytest.approx(now, abs=0.02)


@given(
    delays=st.lists(st.floats(0, 9), min_size=1, max_size=30),
    ages=st.lists(st.floats(0, 5), min_size=30, max_size=30),
)
def test_a_delayed_snapshot_is_never_dated_after_it_came_and_hardly_before_it_was_taken(
    delays: list[float], ages: list[float]
) -> None:
    clock, now = PeerClock(LIMIT), 1000.0
    for number, delay in enumerate(delays):
        taken = 1000.0 + 6 * number
        sent = taken + ages[number]
        now = max(now, sent + delay)
        date = received(clock, taken, sent, now)
        assert taken - 1e-6 <= date <= now - (sent - taken) + 1e-6


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        pytest.param([(b"x", n / 100) for n in range(99)], "it sends more often than every 0.5 s", id="too often"),
        pytest.param(
            [(b"x" * (1 << 20), float(n)) for n in range(9)], "it sends more than 262144 bytes a second", id="too much"
        ),
    ],
)
def test_a_peer_above_the_rate_is_refused(messages: list[tuple[bytes, float]], sentence: str) -> None:
    limit = RateLimit(1.0, 0.0)

    def send_all() -> None:
        for message, now in messages:
            limit.check(message, now)

    with pytest.raises(PeerError, match=sentence):
        send_all()


def test_an_honest_peer_is_within_the_rate_also_after_a_pause_of_the_event_loop() -> None:
    limit = RateLimit(1.0, 0.0)
    for n in range(100):
        limit.check(b"x" * 100_000, 0.8 * n)
    for _ in range(25):  # twenty seconds in which nothing was read
        limit.check(b"x" * 10_000, 100.0)


@pytest.mark.parametrize(
    ("devices", "allocations", "sentence"),
    [
        pytest.param(MAX_DEVICES + 1, 0, "it reports 513 devices (limit 512)", id="devices"),
        pytest.param(1, MAX_PEER_ALLOCATIONS + 1, "it reports 4097 allocations (limit 4096)", id="allocations"),
    ],
)
def test_the_size_of_a_snapshot_is_limited(devices: int, allocations: int, sentence: str) -> None:
    check_size(snapshot_of(min(devices, MAX_DEVICES), min(allocations, MAX_PEER_ALLOCATIONS)))
    with pytest.raises(PeerError) as error:
        check_size(snapshot_of(devices, allocations))
    assert str(error.value) == sentence


def snapshot_of(devices: int, allocations: int) -> Snapshot:
    held = (allocation("llama-1", "GPU-0000"),) * allocations
    return Snapshot("gpu-7", 1, 1.0, 1.7e9, "fake", (sample(0),) * devices, held)
