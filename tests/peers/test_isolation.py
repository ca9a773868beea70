# SPDX-License-Identifier: Apache-2.0
"""Tests of the client with peers that report another node, too much, or old snapshots as new ones."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.instance_status import DropReason
from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.peers import client as client_module
from keda_gpu_scaler.peers.limits import MAX_DEVICES
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire.snapshot_codec import encode
from tests.fakes import node_history, sample
from tests.peers.fleet import FleetScenario, RawPeer, run


def encoded(snapshot: Snapshot, age_seconds: float = 0.0) -> bytes:
    return pb.Update(snapshot=encode(snapshot).encode(), age_seconds=age_seconds).SerializeToString()


def series(node: str, number: int, step_seconds: float, utilization: float = 1.0) -> list[bytes]:
    """A peer's snapshots, each with an age of 0."""
    first = node_history(node, sample(0, utilization)).newest
    return [encoded(replace(first, sequence=n, at_seconds=first.at_seconds + n * step_seconds)) for n in range(number)]


class PacedPeer(RawPeer):
    """Sends its first message at once, and each further one when the test allows it."""

    def __init__(self, *messages: bytes) -> None:
        super().__init__(*messages)
        self.next = asyncio.Semaphore(1)

    async def _watch(self, request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        self.calls += 1
        for message in self.messages:
            await self.next.acquire()
            yield message
        await asyncio.Event().wait()


async def followed(fleet: FleetScenario, named: dict[str, Any], *unnamed: Any) -> None:
    """Follow peers, some with the node that discovery names for them."""
    await fleet.start(*named.values(), *unnamed)
    fleet.discovery.listing = {
        **{peer.address: node for node, peer in named.items()}, **dict.fromkeys((peer.address for peer in unnamed), "")
    }  # fmt: skip
    fleet.client.register_interest(10)
    await fleet.client.wait_for_sync()


def warnings(records: Sequence[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records if record.name == client_module.__name__]


def test_a_snapshot_of_another_node_is_dropped_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(fleet: FleetScenario) -> None:
        forger, victim = fleet.instance("gpu-7"), fleet.instance("gpu-7", sample(0, 0.5))
        forger.publish(sample(0, 1.0))  # a later clock than that of the victim
        await followed(fleet, {"gpu-8": forger, "gpu-7": victim})
        forger.publish(sample(0, 0.0))
        await fleet.until(lambda: fleet.client.counts().dropped.get(DropReason.NODE) == 2)
        assert {node: history.newest.samples for node, history in fleet.client.histories().items()} == {
            "gpu-7": (sample(0, 0.5),)
        }
        assert list(fleet.client.unavailable()) == ["gpu-8"]

    with caplog.at_level(logging.WARNING):
        run(scenario)
    assert warnings(caplog.records) == [
        'gpu-8: it reports the node name "gpu-7", but it runs on node gpu-8: its snapshots are dropped, and the pods '
        "of its node get no readings; pass spec.nodeName to it as KEDA_GPU_SCALER_NODE_NAME"
    ]


def test_an_update_without_a_snapshot_does_not_make_a_forger_available() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        forged = series("gpu-7", 1, 1.0)
        forger = PacedPeer(
            *forged, pb.Update(failure="all is well").SerializeToString(), pb.Update().SerializeToString()
        )
        await followed(fleet, {"gpu-8": forger})
        for _ in range(2):
            forger.next.release()
            for _ in range(200):
                await asyncio.sleep(0)
        assert "it reports the node name" in fleet.client.unavailable()["gpu-8"]

    run(scenario)


def test_an_address_without_a_node_cannot_speak_for_a_node_that_discovery_names() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        victim = fleet.instance("gpu-7", sample(0, 0.5))
        forger, other = RawPeer(*series("gpu-7", 1, 1.0)), fleet.instance("gpu-9", sample(0, 0.3))
        await followed(fleet, {"gpu-7": victim}, forger, other)
        assert fleet.newest("gpu-7") == (sample(0, 0.5),)
        assert fleet.newest("gpu-9") == (sample(0, 0.3),)
        assert "the node of another address" in fleet.client.unavailable()[forger.address]

    run(scenario)


def test_an_address_that_moves_to_another_node_is_another_instance() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = fleet.instance("gpu-8", sample(0, 0.5))
        await followed(fleet, {"gpu-7": peer})
        assert (fleet.newest("gpu-8"), list(fleet.client.unavailable())) == (None, ["gpu-7"])
        fleet.discovery.change(**{"gpu-8": peer.address})
        await fleet.until(lambda: fleet.newest("gpu-8") == (sample(0, 0.5),))
        assert fleet.client.unavailable() == {}

    run(scenario)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        pytest.param(
            [*series("gpu-7", 1, 1.0), *series("gpu-8", 2, 1.0)[1:]],
            'it changed its node name from "gpu-7" to "gpu-8"',
            id="a second node",
        ),
        pytest.param(series("gpu-7", 100, 1e-6), "it sends more often than every 0.05 s", id="too many snapshots"),
        pytest.param(series("gpu-7", 5, 4.0), "its clock ran ahead by", id="a clock that runs ahead"),
        pytest.param(series("gpu-7", 3, -1.0), "its clock went back by 1 s", id="a clock that goes back"),
        pytest.param(
            [encoded(node_history("gpu-7", *(sample(n) for n in range(MAX_DEVICES + 1))).newest)],
            "it reports 513 devices (limit 512)",
            id="too many devices",
        ),
    ],
)
def test_a_peer_above_a_limit_is_unavailable_and_counted(messages: list[bytes], sentence: str) -> None:
    async def scenario(fleet: FleetScenario) -> None:
        await followed(fleet, {"": RawPeer(*messages)})
        await fleet.until(lambda: any(sentence in reason for reason in fleet.client.unavailable().values()))
        assert fleet.client.counts().dropped[DropReason.LIMIT] > 0
        assert len(fleet.client.histories()) <= 1

    run(scenario)


def test_a_snapshot_that_waited_in_the_stream_is_dated_by_its_age_and_not_by_its_arrival() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = PacedPeer(*series("gpu-7", 2, 1.0))
        await followed(fleet, {"gpu-7": peer})
        fleet.clock.advance(9)
        fleet.news.clear()
        peer.next.release()
        await fleet.news.wait()
        history = fleet.client.histories()["gpu-7"]
        assert len(history.snapshots) == 2
        assert history.age_seconds(fleet.clock.now) == pytest.approx(8, abs=0.01)

    run(scenario)


def test_the_snapshots_of_a_forger_that_stopped_become_stale() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = PacedPeer(*series("gpu-7", 100, 1.0))
        await followed(fleet, {"gpu-7": peer})
        fleet.clock.advance(30)
        peer.next.release()
        await fleet.until(lambda: peer.calls == 2)  # the first stream has ended
        assert len(fleet.client.histories()["gpu-7"].snapshots) == 1
        assert fleet.client.histories()["gpu-7"].age_seconds(fleet.clock.now) == 30
        assert "what it sends is 29 s late" in fleet.client.unavailable()["gpu-7"]

    run(scenario)


def test_a_clock_that_hardly_moves_adds_no_snapshots() -> None:
    async def scenario(fleet: FleetScenario) -> None:
        peer = PacedPeer(*series("gpu-7", 50, 1e-6))
        await followed(fleet, {"gpu-7": peer})
        for _ in range(5):
            fleet.clock.advance(1)
            peer.next.release()
            for _ in range(200):
                await asyncio.sleep(0)
        assert len(fleet.client.histories()["gpu-7"].snapshots) == 1

    run(scenario)
