# SPDX-License-Identifier: Apache-2.0
"""Tests of the server: limits, pace and the content of updates."""

import asyncio
import math

import grpc
import pytest

from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.peers import server as server_module
from keda_gpu_scaler.peers.server import MAX_FOLLOWERS
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire import fleet_pb2_grpc as pb_grpc
from keda_gpu_scaler.wire.snapshot_codec import apply_change, decode
from tests.fakes import ManualClock, sample
from tests.limits import WAIT_SECONDS
from tests.peers.fleet import FleetScenario, Instance, run


def test_the_number_of_followers_is_limited() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7", sample(0, 0.5))
        await fleet.start(peer)
        async with grpc.aio.insecure_channel(peer.address) as channel:
            watch = pb_grpc.FleetStub(channel).Watch  # type: ignore[no-untyped-call]
            calls = [watch(pb.WatchRequest(interval_seconds=1)) for _ in range(MAX_FOLLOWERS)]
            for call in calls:
                await call.read()
            with pytest.raises(grpc.aio.AioRpcError, match="64 instances follow this one, the maximum"):
                await watch(pb.WatchRequest()).read()

    run(scenario)


def test_stop_ends_a_stream_at_once_with_ok() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7", sample(0, 0.5))
        await fleet.start(peer)
        async with grpc.aio.insecure_channel(peer.address) as channel:
            call = pb_grpc.FleetStub(channel).Watch(pb.WatchRequest(interval_seconds=0.1))  # type: ignore[no-untyped-call]
            await call.read()
            peer.server.stop()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    run(scenario)


def test_stop_does_not_wait_for_a_follower_with_a_long_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "KEEPALIVE_SECONDS", 2 * WAIT_SECONDS)

    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7", sample(0, 0.5))
        await fleet.start(peer)
        async with grpc.aio.insecure_channel(peer.address) as channel:
            call = pb_grpc.FleetStub(channel).Watch(pb.WatchRequest(interval_seconds=3600))  # type: ignore[no-untyped-call]
            await call.read()
            peer.server.stop()
            assert await call.read() is grpc.aio.EOF

    run(scenario)


@pytest.mark.parametrize("deviceless", [False, True], ids=["with a lasting failure", "without devices"])
def test_updates_are_not_sent_faster_than_requested(deviceless: bool) -> None:
    async def in_loop() -> None:
        peer = Instance("gpu-7", clock=ManualClock(), deviceless=deviceless)
        peer.failure = None if deviceless else "the driver does not answer"
        updates = peer.server.Watch(pb.WatchRequest(interval_seconds=60), None)
        await anext(updates)
        second = asyncio.ensure_future(anext(updates))
        for _ in range(100):
            peer.server.published()
            await asyncio.sleep(0)
        assert not second.done()
        peer.server.stop()
        with pytest.raises(StopAsyncIteration):
            await second

    asyncio.run(in_loop())


def test_the_first_snapshot_is_sent_without_a_pause() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7")
        updates = peer.server.Watch(pb.WatchRequest(interval_seconds=60), None)
        assert not (await anext(updates)).snapshot
        peer.publish(sample(0, 0.5))
        assert (await anext(updates)).snapshot
        await updates.aclose()  # type: ignore[attr-defined]

    run(scenario)


def test_a_snapshot_that_cannot_be_encoded_is_reported_as_a_failure() -> None:
    peer = Instance("gpu-7", sample(0, 0.5), clock=ManualClock())
    assert peer.history is not None
    before = peer.history.newest
    peer.publish(Sample(Device("GPU-0", 0, "M"), gpu_utilization_ratio=57.0))
    whole, change = peer.server._update(peer.history, None), peer.server._update(peer.history, before)
    for update in (whole, change):
        assert (update.snapshot, update.change) == (b"", b"")
        assert update.failure.startswith("its snapshot cannot be encoded: samples")


def test_a_change_refers_to_the_last_snapshot_that_was_sent() -> None:
    async def scenario() -> None:
        peer = Instance("gpu-7", sample(0, 0.5), clock=ManualClock())
        updates = peer.server.Watch(pb.WatchRequest(interval_seconds=math.nan), None)  # NaN becomes the minimum
        sent = decode((await anext(updates)).snapshot)
        peer.publish(sample(0, 57.0))
        assert (await anext(updates)).failure
        peer.publish(sample(0, 0.8))
        assert apply_change(sent, (await anext(updates)).change).samples == (sample(0, 0.8),)
        await updates.aclose()  # type: ignore[attr-defined]

    async def bounded() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await scenario()

    asyncio.run(bounded())


def test_a_keepalive_has_no_snapshot_and_a_slow_follower_gets_the_newest() -> None:
    clock = ManualClock()
    peer = Instance("gpu-7", sample(0, 0.1), sample(1, 0.1), clock=clock)
    update = peer.server._update
    first = peer.history
    assert first is not None
    assert update(first, None).snapshot
    keepalive = update(first, first.newest)
    assert (keepalive.snapshot, keepalive.change) == (b"", b"")
    for load in (0.2, 0.3):
        peer.publish(sample(0, load), sample(1, 0.1))
        now = peer.history
        assert now is not None
        message = update(now, first.newest)
        assert not message.snapshot
        assert apply_change(first.newest, message.change) == now.newest
