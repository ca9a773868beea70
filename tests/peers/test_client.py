# SPDX-License-Identifier: Apache-2.0
"""Tests of the client: synchronisation, discovery, names and histories of peers."""

import functools
import itertools
import logging
from collections.abc import AsyncIterator, Mapping

import pytest

from keda_gpu_scaler.core.instance_status import PeerCounts
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN
from keda_gpu_scaler.core.state.reading_interest import INTEREST_SECONDS
from keda_gpu_scaler.peers import client as client_module
from keda_gpu_scaler.peers import limits as limits_module
from keda_gpu_scaler.peers import server as server_module
from keda_gpu_scaler.peers.client import IDLE_TIMEOUT_SECONDS
from keda_gpu_scaler.peers.server import FleetServer
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire.snapshot_codec import encode
from tests.fakes import ManualClock, node_history, sample
from tests.peers.fleet import FleetScenario, RawPeer, run


def test_after_the_sync_the_snapshot_of_every_peer_is_available() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        await fleet.start(fleet.instance("gpu-7", sample(0, 0.5)), fleet.instance("gpu-8", sample(0, 0.9)))
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        assert {node: history.newest.samples for node, history in fleet.client.histories().items()} == {
            "gpu-7": (sample(0, 0.5),),
            "gpu-8": (sample(0, 0.9),),
        }
        assert fleet.client.unavailable() == {}

    run(scenario)


def test_a_change_arrives_and_unchanged_samples_stay_the_same_objects() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7", sample(0, 0.5), sample(1, 0.5))
        await fleet.start(peer)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        before = fleet.newest("gpu-7")
        fleet.news.clear()
        peer.publish(sample(0, 0.5), sample(1, 0.7))
        await fleet.news.wait()
        after = fleet.newest("gpu-7")
        assert before is not None
        assert after == (sample(0, 0.5), sample(1, 0.7))
        assert after[0] is before[0]
        assert len(fleet.client.histories()["gpu-7"].snapshots) == 2

    run(scenario)


def test_no_peer_is_followed_before_interest_is_registered() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        raw_peer = RawPeer()
        await fleet.start(raw_peer)
        fleet.client.expire_idle()
        await fleet.client.wait_for_sync()
        assert raw_peer.calls == 0

    run(scenario)


def test_counts_reports_the_followed_peers_and_the_longest_staleness() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        one, other = fleet.instance("gpu-1", sample(0, 0.5)), fleet.instance("gpu-2", sample(0, 0.5))
        await fleet.start(one, other)
        assert fleet.client.counts() == PeerCounts(0, 0.0)
        fleet.client.register_interest(10)
        await fleet.until(lambda: len(fleet.client.histories()) == 2 and not fleet.client.unavailable())
        assert fleet.client.counts() == PeerCounts(2, 0.0)
        other.publish(sample(0, 0.7), after_seconds=5)  # its last snapshot
        await fleet.until(lambda: fleet.newest("gpu-2") == (sample(0, 0.7),))
        fleet.clock.advance(7)
        await other.stop()
        await fleet.until(lambda: "gpu-2" in fleet.client.unavailable())
        assert fleet.client.counts() == PeerCounts(2, 7.0)
        fleet.clock.advance(5)
        assert fleet.client.counts() == PeerCounts(2, 12.0)
        fleet.discovery.change(one.address)
        await fleet.until(lambda: fleet.client.counts() == PeerCounts(1, 0.0))

    run(scenario)


def test_the_staleness_of_a_peer_without_any_snapshot_starts_when_it_is_listed() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        fleet.discovery.change("127.0.0.1:1")
        fleet.client.register_interest(10)
        await fleet.until(lambda: fleet.client.counts().followed)
        fleet.clock.advance(30)
        assert fleet.client.counts() == PeerCounts(1, 30.0)

    run(scenario)


def test_an_idle_fleet_is_no_longer_followed_until_the_next_interest() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        await fleet.start(fleet.instance("gpu-7", sample(0, 0.5)))
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        fleet.clock.advance(IDLE_TIMEOUT_SECONDS)
        fleet.client.expire_idle()
        assert fleet.client._peer_tasks  # exactly at the timeout
        fleet.clock.advance(1)
        fleet.client.expire_idle()
        assert (fleet.newest("gpu-7"), fleet.client._peer_tasks) == (None, {})
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        assert fleet.newest("gpu-7") == (sample(0, 0.5),)

    run(scenario)


def test_an_instance_recognises_itself() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        me = fleet.instance("me", sample(0, 0.5))
        await fleet.start(me)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        assert fleet.client.histories() == {}
        assert fleet.client.unavailable() == {}

    run(scenario)


def test_the_age_of_a_snapshot_starts_at_the_age_that_the_sender_measured() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7", sample(0, 0.5))
        elsewhere = ManualClock(5.0)
        peer.server = FleetServer(lambda: peer.history, lambda: None, elsewhere, "another clock")
        peer.history = node_history("gpu-7", sample(0, 0.5), at=2.0)
        await fleet.start(peer)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        assert fleet.client.histories()["gpu-7"].age_seconds(fleet.clock.now) == 3.0

    run(scenario)


def test_a_deviceless_front_end_is_not_unavailable() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        await fleet.start(fleet.instance("front", sample(0, 0.5), deviceless=True))
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        assert (fleet.client.histories(), fleet.client.unavailable()) == ({}, {})

    run(scenario)


def test_a_peer_without_a_snapshot_reports_the_reason() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7")
        peer.failure = "no NVIDIA driver library here"
        await fleet.start(peer)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        assert fleet.client.unavailable() == {peer.address: "no NVIDIA driver library here"}
        peer.failure = None
        peer.publish(sample(0, 0.5))
        await fleet.until(lambda: fleet.newest("gpu-7"))
        assert fleet.client.unavailable() == {}

    run(scenario)


def test_a_peer_with_a_hanging_driver_stays_connected_and_its_age_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "KEEPALIVE_SECONDS", 0.01)

    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7", sample(0, 0.5))
        await fleet.start(peer)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        peer.failure = "the driver does not answer"
        await fleet.until(lambda: fleet.client.unavailable() == {"gpu-7": "the driver does not answer"})
        fleet.clock.advance(30)
        assert fleet.client.histories()["gpu-7"].age_seconds(fleet.clock.now) == 30

    run(scenario)


def test_the_history_continues_after_a_restart_of_the_peer() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7", sample(0, 0.5))
        await fleet.start(peer)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        await peer.stop()
        await fleet.until(fleet.client.unavailable)
        assert fleet.newest("gpu-7") == (sample(0, 0.5),)
        fleet.clock.advance(3)
        again = fleet.instance("gpu-7", sample(0, 0.8))
        again.address = peer.address
        await fleet.start(again)
        await fleet.until(lambda: fleet.newest("gpu-7") == (sample(0, 0.8),))
        assert [one.at_seconds for one in fleet.client.histories()["gpu-7"].snapshots] == [1000.0, 1003.0]
        assert fleet.client.unavailable() == {}

    run(scenario)


def test_a_new_stream_without_a_new_snapshot_leaves_the_history_unchanged() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7", sample(0, 0.5))
        await fleet.start(peer)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        peer.publish(sample(0, 0.8))
        await fleet.until(lambda: fleet.newest("gpu-7") == (sample(0, 0.8),))
        before = fleet.client.histories()["gpu-7"]
        await peer.stop()
        await fleet.until(fleet.client.unavailable)
        again = fleet.instance("gpu-7")
        again.history, again.address = peer.history, peer.address
        await fleet.start(again)
        await fleet.until(lambda: not fleet.client.unavailable())
        assert fleet.client.histories()["gpu-7"] is before
        assert len(before.snapshots) == 2

    run(scenario)


def test_an_unavailable_second_address_of_a_node_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer, raw_peer = fleet.instance("gpu-7", sample(0, 0.1)), RawPeer(ends_stream=True)
        await fleet.start(peer, raw_peer)
        fleet.discovery.listing = dict.fromkeys((peer.address, raw_peer.address), "gpu-7")
        fleet.client.register_interest(10)
        for utilization in (0.2, 0.3, 0.4):
            await fleet.until(functools.partial(was_called_since, raw_peer.calls, raw_peer))
            peer.publish(sample(0, utilization))
            await fleet.until(functools.partial(has_utilization, fleet, utilization))

    def was_called_since(calls: int, raw_peer: RawPeer) -> bool:
        return raw_peer.calls > calls + 1

    def has_utilization(fleet: FleetScenario, utilization: float) -> bool:
        return fleet.newest("gpu-7") == (sample(0, utilization),)

    with caplog.at_level(logging.WARNING):
        run(scenario)
    logged = [record.getMessage() for record in caplog.records if record.name == client_module.__name__]
    assert logged == ["gpu-7: it ended the connection"]


def test_a_defect_of_discovery_is_reported_and_discovery_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(fleet: FleetScenario) -> None:
        listing = fleet.discovery.addresses
        times = itertools.count()

        def defective() -> AsyncIterator[Mapping[str, str]]:
            if next(times) < 2:
                raise ZeroDivisionError("by zero")
            return listing()

        fleet.discovery.addresses = defective  # type: ignore[method-assign]
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        assert list(fleet.client.unavailable().values()) == ["unexpected ZeroDivisionError: by zero"]
        await fleet.start(fleet.instance("gpu-7", sample(0, 0.5)))
        await fleet.until(lambda: fleet.newest("gpu-7"))
        assert fleet.client.unavailable() == {}

    run(scenario)


def test_peers_may_join_and_leave_the_listing() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        first, second = fleet.instance("gpu-7", sample(0, 0.5)), fleet.instance("gpu-8", sample(0, 0.9))
        await fleet.start(first)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        await second.start()
        fleet.discovery.change(second.address)
        await fleet.until(lambda: fleet.newest("gpu-8"))
        await second.stop()
        assert fleet.newest("gpu-7")  # the node may only be disconnected: its history ages, and expires later
        fleet.clock.advance(61)
        fleet.client.expire_idle()
        assert fleet.newest("gpu-7") is None

    run(scenario)


def test_law_1_without_a_listing_the_peers_are_unknown() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        fleet.client.register_interest(10)
        assert fleet.client.unavailable() == {PEERS_UNKNOWN: "they are being looked up"}
        await fleet.client.wait_for_sync()  # the listing is empty
        assert list(fleet.client.unavailable()) == [PEERS_UNKNOWN]
        assert fleet.client.unavailable()[PEERS_UNKNOWN].startswith("discovery finds no instance;")
        await fleet.start(fleet.instance("gpu-7", sample(0, 0.5)))
        await fleet.until(lambda: fleet.newest("gpu-7"))
        assert fleet.client.unavailable() == {}
        fleet.discovery.change()
        await fleet.until(lambda: PEERS_UNKNOWN in fleet.client.unavailable())

    run(scenario)


def test_law_1_a_listed_peer_is_unavailable_until_its_first_update() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        unresponsive = RawPeer()
        await unresponsive.start()
        fleet.discovery.change(unresponsive.address, **{"gpu-7": "127.0.0.1:1"})
        fleet.client.register_interest(10)
        await fleet.until(lambda: unresponsive.address in fleet.client.unavailable())
        assert fleet.client.unavailable()[unresponsive.address] == "it has not answered yet"
        assert "gpu-7" in fleet.client.unavailable()
        await unresponsive.stop()

    run(scenario)


def test_a_later_failure_of_discovery_leaves_the_listing_in_use() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        await fleet.start(fleet.instance("gpu-7", sample(0, 0.5)))
        fleet.client.register_interest(10)
        await fleet.until(lambda: fleet.newest("gpu-7"))
        fleet.discovery.failure = "--peers: agents cannot be resolved"
        fleet.discovery.news.set()
        await fleet.until(fleet.client.unavailable)
        assert dict(fleet.client.unavailable()) == {"(discovery)": "--peers: agents cannot be resolved"}

    run(scenario)


def test_a_failure_of_discovery_is_reported_until_a_listing_comes() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        fleet.discovery.failure = "--peers: agents cannot be resolved"
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        assert list(fleet.client.unavailable().values()) == ["--peers: agents cannot be resolved"]
        fleet.discovery.failure = None
        await fleet.start(fleet.instance("gpu-7", sample(0, 0.5)))
        await fleet.until(lambda: fleet.newest("gpu-7"))
        assert fleet.client.unavailable() == {}

    run(scenario)


def test_the_history_covers_the_longest_registered_window() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-7", sample(0, 0.0))
        await fleet.start(peer)

        async def kept_after(seconds: int) -> int:
            for number in range(seconds):
                peer.publish(sample(0, number / 1000))
                await fleet.until(lambda: fleet.newest("gpu-7") == peer.history.newest.samples)  # type: ignore[union-attr]
            return len(fleet.client.histories()["gpu-7"].snapshots)

        fleet.client.register_interest(0)
        await fleet.client.wait_for_sync()
        assert await kept_after(15) == 11
        fleet.client.register_interest(20)
        fleet.client.register_interest(5)
        assert await kept_after(25) == 21

    monkey = pytest.MonkeyPatch()
    monkey.setattr(server_module, "_PAUSE_FACTOR", 0.0)
    monkey.setattr(limits_module, "_MIN_INTERVAL_FACTOR", 1e-6)
    try:
        run(scenario)
    finally:
        monkey.undo()


def shows(fleet: FleetScenario, utilization: float) -> bool:
    return fleet.newest("gpu-1") == (sample(0, utilization),)


def test_interest_in_performance_reaches_every_peer_and_is_renewed() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        one, other = fleet.instance("gpu-1", sample(0, 0.5)), fleet.instance("gpu-2", sample(0, 0.5))
        await fleet.start(one, other)
        fleet.client.register_interest(10)
        await fleet.client.wait_for_sync()
        one.publish(sample(0, 0.6))
        await fleet.until(lambda: fleet.newest("gpu-1") == (sample(0, 0.6),))
        assert (one.interests, other.interests) == ([], [])
        fleet.client.register_interest(10, performance=True)
        one.publish(sample(0, 0.7), after_seconds=0.0)
        other.publish(sample(0, 0.7), after_seconds=0.0)
        await fleet.until(lambda: one.interests and other.interests)
        assert (one.interests, other.interests) == ([INTEREST_SECONDS], [INTEREST_SECONDS])
        for passed in range(60, 721, 60):
            one.publish(sample(0, passed / 1000), after_seconds=60.0)
            await fleet.until(functools.partial(shows, fleet, passed / 1000))
        assert one.interests == [INTEREST_SECONDS - passed for passed in range(0, 600, 60)]

    run(scenario)


def test_a_peer_of_an_older_version_is_followed_without_its_performance() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        snapshots = [node_history("gpu-7", sample(0, 0.5), at=at).newest for at in (1.0, 2.0)]
        older = RawPeer(*[pb.Update(snapshot=encode(each).encode()).SerializeToString() for each in snapshots])
        await fleet.start(older)
        fleet.client.register_interest(10, performance=True)
        await fleet.until(lambda: (found := fleet.client.histories().get("gpu-7")) and found.newest == snapshots[1])
        assert fleet.client.unavailable() == {}
        assert older.calls == 1

    run(scenario)
