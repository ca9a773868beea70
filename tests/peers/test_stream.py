# SPDX-License-Identifier: Apache-2.0
"""Tests of the client with peers that hang, fail, send too fast or send invalid data."""

import asyncio
import itertools
import math
from dataclasses import replace

import pytest

from keda_gpu_scaler.peers import client as client_module
from keda_gpu_scaler.peers import stream as stream_module
from keda_gpu_scaler.peers.limits import MAX_MESSAGE_BYTES
from keda_gpu_scaler.peers.stream import ConnectionSlot
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire.snapshot_codec import encode, encode_change
from tests.fakes import node_history, sample
from tests.limits import WAIT_SECONDS
from tests.peers.fleet import FleetScenario, RawPeer, run


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        pytest.param([b"\xff\xff\xff"], "its answer cannot be read", id="no protobuf"),
        pytest.param([pb.Update(snapshot=b"{").SerializeToString()], "is not JSON", id="no JSON"),
        pytest.param(
            [pb.Update(change=b'{"version":1}').SerializeToString()],
            "it came before any snapshot",
            id="a change before any snapshot",
        ),
        pytest.param(
            [
                pb.Update(
                    snapshot=encode(node_history("gpu-9").newest).replace('"version":1', '"version":2').encode()
                ).SerializeToString()
            ],
            "is a later version than 1",
            id="a later version",
        ),
        pytest.param(
            [b"\0" * (MAX_MESSAGE_BYTES + 1)], "its answer is larger than the limit of a message", id="too long"
        ),
        *(
            pytest.param(
                [
                    pb.Update(
                        snapshot=encode(node_history("gpu-9").newest).encode(), age_seconds=age
                    ).SerializeToString()
                ],
                "age_seconds: Invalid value",
                id=f"an age of {age}",
            )
            for age in (math.nan, math.inf, -1.0)
        ),
    ],
)
def test_invalid_data_of_one_peer_does_not_affect_the_others(messages: list[bytes], sentence: str) -> None:
    async def scenario(fleet: FleetScenario) -> None:
        raw_peer = RawPeer(*messages)
        await fleet.start(fleet.instance("gpu-7", sample(0, 0.5)), raw_peer)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        assert sentence in fleet.client.unavailable()[raw_peer.address]
        assert fleet.newest("gpu-7") == (sample(0, 0.5),)
        await fleet.until(lambda: raw_peer.calls > 2)

    run(scenario)


def test_a_peer_that_hangs_is_called_again_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_MIN_TIMEOUT_SECONDS", 0.01)

    async def scenario(fleet: FleetScenario) -> None:
        raw_peer = RawPeer()
        await fleet.start(raw_peer)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        assert fleet.client.unavailable() == {raw_peer.address: "nothing came for 0.3 s"}
        await fleet.until(lambda: raw_peer.calls > 1)

    run(scenario)


@pytest.mark.parametrize(
    ("raw_peer", "sentence"),
    [
        pytest.param(RawPeer(ends_stream=True), "it ended the connection", id="ends the stream at once"),
        pytest.param(None, "nothing listens there", id="no server"),
    ],
)
def test_a_peer_without_a_connection_is_unavailable(raw_peer: RawPeer | None, sentence: str) -> None:
    async def scenario(fleet: FleetScenario) -> None:
        if raw_peer is not None:
            await fleet.start(raw_peer)
        else:
            fleet.discovery.change("127.0.0.1:9")
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        [reason] = fleet.client.unavailable().values()
        assert sentence in reason

    run(scenario)


def test_a_change_may_follow_updates_without_a_snapshot() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        before = node_history("gpu-7", sample(0, 0.5)).newest
        after = replace(before, sequence=before.sequence + 1, at_seconds=1001.0, samples=(sample(0, 0.8),))
        updates = [pb.Update(snapshot=encode(before).encode()), pb.Update(failure="hangs"), pb.Update()]
        updates.append(pb.Update(change=(encode_change(before, after) or "").encode()))
        raw_peer = RawPeer(*(update.SerializeToString() for update in updates))
        await fleet.start(raw_peer)
        fleet.client.register_interest(10)
        await fleet.until(lambda: fleet.newest("gpu-7") == (sample(0, 0.8),))
        assert (raw_peer.calls, fleet.client.unavailable()) == (1, {})

    run(scenario)


def test_a_peer_with_invalid_data_is_called_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def no_pause(seconds: float) -> float:
        pauses.append(seconds)
        return 0.0

    monkeypatch.setattr(client_module, "_jittered", no_pause)

    async def scenario(fleet: FleetScenario) -> None:
        good = encode(node_history("gpu-9").newest)
        later = pb.Update(snapshot=good.replace('"version":1', '"version":2').encode()).SerializeToString()
        valid = pb.Update(snapshot=good.encode()).SerializeToString()
        await fleet.start(RawPeer(later), RawPeer(valid, b"\xff"))
        fleet.client.register_interest(10)
        await fleet.until(lambda: pauses.count(10.0) >= 4)
        assert [seconds for seconds, _ in itertools.groupby(sorted(pauses))] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
        assert pauses.count(0.5) == 2

    run(scenario)


def test_after_a_long_valid_stream_the_backoff_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def no_pause(seconds: float) -> float:
        pauses.append(seconds)
        return 0.0

    monkeypatch.setattr(client_module, "_jittered", no_pause)
    monkeypatch.setattr(client_module, "_MAX_BACKOFF_SECONDS", 0.0)  # every stream lasts longer than this

    async def scenario(fleet: FleetScenario) -> None:
        valid = pb.Update(snapshot=encode(node_history("gpu-9").newest).encode()).SerializeToString()
        await fleet.start(RawPeer(valid, ends_stream=True))
        fleet.client.register_interest(10)
        await fleet.until(lambda: len(pauses) >= 5)
        assert set(pauses) == {0.5}

    run(scenario)


@pytest.mark.parametrize("seconds", [0.0, 3600.0], ids=["after the timer", "before the timer"])
def test_a_connection_slot_is_released_once(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_MAX_CONNECT_SECONDS", seconds)

    async def in_loop() -> None:
        slots = asyncio.Semaphore(1)
        async with ConnectionSlot(slots):
            if seconds == 0:
                await slots.acquire()
                slots.release()
        await slots.acquire()
        assert slots.locked()

    asyncio.run(in_loop())


def test_a_peer_that_does_not_answer_releases_its_connection_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_MAX_CONNECTING", 1)
    monkeypatch.setattr(stream_module, "_MIN_TIMEOUT_SECONDS", 2 * WAIT_SECONDS)
    monkeypatch.setattr(stream_module, "_MAX_CONNECT_SECONDS", 0.01)

    async def scenario(fleet: FleetScenario) -> None:
        await fleet.start(RawPeer(), RawPeer(), fleet.instance("gpu-7", sample(0, 0.5)))
        fleet.client.register_interest(10)
        await fleet.until(lambda: fleet.newest("gpu-7"))

    run(scenario)


def test_a_peer_that_answers_releases_its_connection_slot_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_MAX_CONNECTING", 1)
    monkeypatch.setattr(stream_module, "_MAX_CONNECT_SECONDS", 2 * WAIT_SECONDS)

    async def scenario(fleet: FleetScenario) -> None:
        await fleet.start(fleet.instance("gpu-7", sample(0, 0.5)), fleet.instance("gpu-8", sample(0, 0.5)))
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        assert sorted(fleet.client.histories()) == ["gpu-7", "gpu-8"]

    run(scenario)


def test_the_failure_of_a_peer_is_printable_and_of_bounded_length() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7")
        peer.failure = "\x1b[2Jall\nis well" + "!" * 5000
        await fleet.start(peer)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        [reason] = fleet.client.unavailable().values()
        assert reason.startswith("?[2Jall?is well!!!")
        assert len(reason) == 500

    run(scenario)


def test_the_interval_grows_with_the_number_of_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_SNAPSHOTS_PER_SECOND", 2)
    intervals: list[float] = []

    async def scenario(fleet: FleetScenario) -> None:
        raw_peers = [RawPeer(ends_stream=True) for _ in range(3)]
        for raw_peer in raw_peers:
            raw_peer.intervals = intervals
        await fleet.start(raw_peers[0])
        fleet.client.register_interest(10)
        await fleet.until(lambda: intervals)
        assert set(intervals) == {0.5}
        intervals.clear()
        await fleet.start(*raw_peers[1:])
        await fleet.until(lambda: intervals.count(1.5) > 6)  # the peers of the first listing too

    run(scenario)
