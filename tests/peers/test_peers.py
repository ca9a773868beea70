# SPDX-License-Identifier: Apache-2.0
"""Instances that share and instances that follow, over real connections on loopback; strangers among them."""

import asyncio
import contextlib
import functools
import itertools
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.core.counters import PeerCounts
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, History
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.peers import client as following_module
from keda_gpu_scaler.peers import server as sharing_module
from keda_gpu_scaler.peers.client import IDLE_TIMEOUT_SECONDS, WATCH, FleetClient
from keda_gpu_scaler.peers.server import MAX_FOLLOWERS, FleetServer
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire import fleet_pb2_grpc as pb_grpc
from keda_gpu_scaler.wire.snapshot_codec import apply_change, decode, encode, encode_change
from tests.fakes import ManualClock, node_history, sample

WAIT_SECONDS = 20.0


class Instance:
    """One peer: its history is what the test says."""

    def __init__(self, node: str, *samples: Sample, clock: ManualClock, deviceless: bool = False) -> None:
        self.node = node
        self.clock = clock
        self.history: History | None = node_history(node, *samples, at=clock.now) if samples else None
        self.failure: str | None = None
        self.sharing = FleetServer(
            lambda: self.history, lambda: self.failure, clock, f"instance of {node}", deviceless=deviceless
        )
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        pb_grpc.add_FleetServicer_to_server(self.sharing, self._server)  # type: ignore[no-untyped-call]
        port = self._server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = self.address or f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        self.sharing.stop()
        if self._server is not None:
            await self._server.stop(None)

    def see(self, *samples: Sample, after_seconds: float = 1.0) -> None:
        """Let time pass, and publish a newer snapshot."""
        self.clock.advance(after_seconds)
        before = self.history.newest if self.history else node_history(self.node, at=self.clock.now).newest
        newest = replace(before, sequence=before.sequence + 1, at_seconds=self.clock.now, samples=samples)
        self.history = History((newest,), self.clock.now)
        self.sharing.published()


class Stranger:
    """Answers Watch with whatever bytes the test says, and then stays on the line or hangs up."""

    def __init__(self, *messages: bytes, hangs_up: bool = False) -> None:
        self.messages = messages
        self.hangs_up = hangs_up
        self.asked = 0
        self.address = ""

    async def start(self) -> None:
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_stream_rpc_method_handler(self._watch) if details.method == WATCH else None

    async def _watch(self, request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        self.asked += 1
        for message in self.messages:
            yield message
        if not self.hangs_up:
            await asyncio.Event().wait()


class Listing:
    """A directory whose listing a test changes."""

    def __init__(self, *addresses: str) -> None:
        self.listing: Mapping[str, str] = dict.fromkeys(addresses, "")
        self.failure: str | None = None
        self.news = asyncio.Event()

    def change(self, *addresses: str, **nodes: str) -> None:
        self.listing = {**dict.fromkeys(addresses, ""), **{address: node for node, address in nodes.items()}}
        self.news.set()

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        while True:
            if self.failure is not None:
                raise KubeError(self.failure)
            self.news.clear()
            yield self.listing
            await self.news.wait()


class Crowd:
    """Started peers, and a follower of them whose news can be waited for."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.listing = Listing()
        self.news = asyncio.Event()
        self.following = FleetClient(
            self.listing, instance="instance of me", clock=self.clock, sample_interval_seconds=0.1,
            on_news=self.news.set,
        )  # fmt: skip
        self._started: list[Any] = []

    async def start(self, *peers: Any) -> None:
        for peer in peers:
            await peer.start()
            self._started.append(peer)
        self.listing.change(*self.listing.listing, *(peer.address for peer in peers))

    def instance(self, node: str, *samples: Sample, **more: Any) -> Instance:
        return Instance(node, *samples, clock=self.clock, **more)

    async def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            await asyncio.sleep(0)

    def newest(self, node: str) -> tuple[Sample, ...] | None:
        history = self.following.histories().get(node)
        return history.newest.samples if history else None

    async def close(self) -> None:
        await self.following.close()
        for peer in self._started:
            with contextlib.suppress(Exception):
                await peer.stop()


def among(talk: Callable[[Crowd], Awaitable[None]]) -> None:
    async def run() -> None:
        crowd = Crowd()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await talk(crowd)
        finally:
            await crowd.close()

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_module, "_jittered", lambda seconds: 0.0)


def test_what_every_peer_tells_is_there_once_the_fleet_has_settled() -> None:
    async def talk(crowd: Crowd) -> None:
        await crowd.start(crowd.instance("gpu-7", sample(0, 0.5)), crowd.instance("gpu-8", sample(0, 0.9)))
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        assert {node: history.newest.samples for node, history in crowd.following.histories().items()} == {
            "gpu-7": (sample(0, 0.5),),
            "gpu-8": (sample(0, 0.9),),
        }
        assert crowd.following.unavailable() == {}

    among(talk)


def test_a_change_comes_by_itself_and_what_did_not_change_is_the_same_object() -> None:
    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7", sample(0, 0.5), sample(1, 0.5))
        await crowd.start(peer)
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        before = crowd.newest("gpu-7")
        crowd.news.clear()
        peer.see(sample(0, 0.5), sample(1, 0.7))
        await crowd.news.wait()
        after = crowd.newest("gpu-7")
        assert before is not None
        assert after == (sample(0, 0.5), sample(1, 0.7))
        assert after[0] is before[0]
        assert len(crowd.following.histories()["gpu-7"].snapshots) == 2

    among(talk)


def test_nobody_is_followed_before_somebody_asks() -> None:
    async def talk(crowd: Crowd) -> None:
        stranger = Stranger()
        await crowd.start(stranger)
        crowd.following.expire_idle()
        await crowd.following.wait_for_sync()
        assert stranger.asked == 0

    among(talk)


def test_it_is_told_how_many_are_followed_and_for_how_long_the_longest_silent_has_been() -> None:
    async def talk(crowd: Crowd) -> None:
        one, other = crowd.instance("gpu-1", sample(0, 0.5)), crowd.instance("gpu-2", sample(0, 0.5))
        await crowd.start(one, other)
        assert crowd.following.counts() == PeerCounts(0, 0.0)
        crowd.following.register_interest(10)
        await crowd.until(lambda: len(crowd.following.histories()) == 2 and not crowd.following.unavailable())
        assert crowd.following.counts() == PeerCounts(2, 0.0)
        other.see(sample(0, 0.7), after_seconds=5)  # from now on it is silent
        await crowd.until(lambda: crowd.newest("gpu-2") == (sample(0, 0.7),))
        crowd.clock.advance(7)
        await other.stop()
        await crowd.until(lambda: "gpu-2" in crowd.following.unavailable())
        assert crowd.following.counts() == PeerCounts(2, 7.0)
        crowd.clock.advance(5)
        assert crowd.following.counts() == PeerCounts(2, 12.0)
        crowd.listing.change(one.address)
        await crowd.until(lambda: crowd.following.counts() == PeerCounts(1, 0.0))

    among(talk)


def test_a_peer_that_never_told_anything_is_silent_since_it_was_listed() -> None:
    async def talk(crowd: Crowd) -> None:
        crowd.listing.change("127.0.0.1:1")
        crowd.following.register_interest(10)
        await crowd.until(lambda: crowd.following.counts().followed)
        crowd.clock.advance(30)
        assert crowd.following.counts() == PeerCounts(1, 30.0)

    among(talk)


def test_a_fleet_that_nobody_asks_about_is_let_go_and_found_again() -> None:
    async def talk(crowd: Crowd) -> None:
        await crowd.start(crowd.instance("gpu-7", sample(0, 0.5)))
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        crowd.clock.advance(IDLE_TIMEOUT_SECONDS)
        crowd.following.expire_idle()
        assert crowd.following._tasks  # asked for the last time just then
        crowd.clock.advance(1)
        crowd.following.expire_idle()
        assert (crowd.newest("gpu-7"), crowd.following._tasks) == (None, {})
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        assert crowd.newest("gpu-7") == (sample(0, 0.5),)

    among(talk)


def test_an_instance_recognises_itself() -> None:
    async def talk(crowd: Crowd) -> None:
        me = crowd.instance("me", sample(0, 0.5))
        await crowd.start(me)
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        assert crowd.following.histories() == {}
        assert crowd.following.unavailable() == {}

    among(talk)


def test_age_is_counted_by_the_receiver_from_what_the_sender_measured() -> None:
    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7", sample(0, 0.5))
        elsewhere = ManualClock(5.0)
        peer.sharing = FleetServer(lambda: peer.history, lambda: None, elsewhere, "another clock")
        peer.history = node_history("gpu-7", sample(0, 0.5), at=2.0)
        await crowd.start(peer)
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        assert crowd.following.histories()["gpu-7"].age_seconds(crowd.clock.now) == 3.0

    among(talk)


def test_a_front_end_has_nothing_to_tell_and_is_not_missed() -> None:
    async def talk(crowd: Crowd) -> None:
        await crowd.start(crowd.instance("front", sample(0, 0.5), deviceless=True))
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        assert (crowd.following.histories(), crowd.following.unavailable()) == ({}, {})

    among(talk)


def test_a_peer_without_a_snapshot_says_why() -> None:
    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7")
        peer.failure = "no NVIDIA driver library here"
        await crowd.start(peer)
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        assert crowd.following.unavailable() == {peer.address: "no NVIDIA driver library here"}
        peer.failure = None
        peer.see(sample(0, 0.5))
        await crowd.until(lambda: crowd.newest("gpu-7"))
        assert crowd.following.unavailable() == {}

    among(talk)


def test_a_peer_whose_driver_hangs_keeps_the_line_and_its_age_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing_module, "WORD_SECONDS", 0.01)

    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7", sample(0, 0.5))
        await crowd.start(peer)
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        peer.failure = "the driver does not answer"
        await crowd.until(lambda: crowd.following.unavailable() == {"gpu-7": "the driver does not answer"})
        crowd.clock.advance(30)
        assert crowd.following.histories()["gpu-7"].age_seconds(crowd.clock.now) == 30

    among(talk)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        pytest.param([b"\xff\xff\xff"], "what it tells cannot be read", id="no protobuf"),
        pytest.param([pb.Update(snapshot=b"{").SerializeToString()], "is not JSON", id="no JSON"),
        pytest.param(
            [pb.Update(change=b'{"version":1}').SerializeToString()],
            "it came before any snapshot",
            id="a change of nothing",
        ),
        pytest.param(
            [
                pb.Update(
                    snapshot=encode(node_history("gpu-9").newest).replace('"version":1', '"version":2').encode()
                ).SerializeToString()
            ],
            "is of a later version than 1",
            id="a later version",
        ),
        pytest.param([b"\0" * (5 << 20)], "RESOURCE_EXHAUSTED", id="megabytes"),
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
def test_nonsense_is_named_and_does_not_disturb_the_others(messages: list[bytes], sentence: str) -> None:
    async def talk(crowd: Crowd) -> None:
        stranger = Stranger(*messages)
        await crowd.start(crowd.instance("gpu-7", sample(0, 0.5)), stranger)
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        assert sentence in crowd.following.unavailable()[stranger.address]
        assert crowd.newest("gpu-7") == (sample(0, 0.5),)
        await crowd.until(lambda: stranger.asked > 2)

    among(talk)


def test_a_peer_that_hangs_is_given_up_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_module, "_HANGS_AFTER_SECONDS", 0.01)

    async def talk(crowd: Crowd) -> None:
        stranger = Stranger()
        await crowd.start(stranger)
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        assert crowd.following.unavailable() == {stranger.address: "nothing came for 0.3 s"}
        await crowd.until(lambda: stranger.asked > 1)

    among(talk)


@pytest.mark.parametrize(
    ("stranger", "sentence"),
    [
        pytest.param(Stranger(hangs_up=True), "it ended the connection", id="hangs up at once"),
        pytest.param(None, "UNAVAILABLE", id="is not there"),
    ],
)
def test_a_peer_that_is_not_there_is_silent_and_tried_again(stranger: Stranger | None, sentence: str) -> None:
    async def talk(crowd: Crowd) -> None:
        if stranger is not None:
            await crowd.start(stranger)
        else:
            crowd.listing.change("127.0.0.1:9")
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        [said] = crowd.following.unavailable().values()
        assert sentence in said

    among(talk)


def test_a_peer_that_restarts_is_followed_again_and_its_history_goes_on() -> None:
    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7", sample(0, 0.5))
        await crowd.start(peer)
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        await peer.stop()
        await crowd.until(crowd.following.unavailable)
        assert crowd.newest("gpu-7") == (sample(0, 0.5),)
        crowd.clock.advance(3)
        again = crowd.instance("gpu-7", sample(0, 0.8))
        again.address = peer.address
        await crowd.start(again)
        await crowd.until(lambda: crowd.newest("gpu-7") == (sample(0, 0.8),))
        assert [one.at_seconds for one in crowd.following.histories()["gpu-7"].snapshots] == [1000.0, 1003.0]
        assert crowd.following.unavailable() == {}

    among(talk)


def test_a_stream_that_is_opened_anew_before_anything_happened_leaves_the_history_as_it_is() -> None:
    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7", sample(0, 0.5))
        await crowd.start(peer)
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        peer.see(sample(0, 0.8))
        await crowd.until(lambda: crowd.newest("gpu-7") == (sample(0, 0.8),))
        before = crowd.following.histories()["gpu-7"]
        await peer.stop()
        await crowd.until(crowd.following.unavailable)
        again = crowd.instance("gpu-7")
        again.history, again.address = peer.history, peer.address
        await crowd.start(again)
        await crowd.until(lambda: not crowd.following.unavailable())
        assert crowd.following.histories()["gpu-7"] is before
        assert len(before.snapshots) == 2

    among(talk)


def test_a_change_may_come_after_words_without_news() -> None:
    async def talk(crowd: Crowd) -> None:
        before = node_history("gpu-7", sample(0, 0.5)).newest
        after = replace(before, sequence=before.sequence + 1, at_seconds=1001.0, samples=(sample(0, 0.8),))
        told = [pb.Update(snapshot=encode(before).encode()), pb.Update(failure="hangs"), pb.Update()]
        told.append(pb.Update(change=(encode_change(before, after) or "").encode()))
        stranger = Stranger(*(update.SerializeToString() for update in told))
        await crowd.start(stranger)
        crowd.following.register_interest(10)
        await crowd.until(lambda: crowd.newest("gpu-7") == (sample(0, 0.8),))
        assert (stranger.asked, crowd.following.unavailable()) == (1, {})

    among(talk)


def test_who_only_talks_nonsense_is_asked_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def at_once(seconds: float) -> float:
        pauses.append(seconds)
        return 0.0

    monkeypatch.setattr(following_module, "_jittered", at_once)

    async def talk(crowd: Crowd) -> None:
        good = encode(node_history("gpu-9").newest)
        later = pb.Update(snapshot=good.replace('"version":1', '"version":2').encode()).SerializeToString()
        hello = pb.Update(snapshot=good.encode()).SerializeToString()
        await crowd.start(Stranger(later), Stranger(hello, b"\xff"))
        crowd.following.register_interest(10)
        await crowd.until(lambda: pauses.count(10.0) >= 4)
        assert [seconds for seconds, _ in itertools.groupby(sorted(pauses))] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
        assert pauses.count(0.5) == 2

    among(talk)


def test_who_talked_sense_for_a_while_is_asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def at_once(seconds: float) -> float:
        pauses.append(seconds)
        return 0.0

    monkeypatch.setattr(following_module, "_jittered", at_once)
    monkeypatch.setattr(following_module, "_LONGEST_PAUSE_SECONDS", 0.0)  # every stream lasts longer

    async def talk(crowd: Crowd) -> None:
        hello = pb.Update(snapshot=encode(node_history("gpu-9").newest).encode()).SerializeToString()
        await crowd.start(Stranger(hello, hangs_up=True))
        crowd.following.register_interest(10)
        await crowd.until(lambda: len(pauses) >= 5)
        assert set(pauses) == {0.5}

    among(talk)


@pytest.mark.parametrize("seconds", [0.0, 3600.0], ids=["it was over before", "it was still running"])
def test_a_turn_is_given_back_once(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_module, "_TURN_SECONDS", seconds)

    async def run() -> None:
        places = asyncio.Semaphore(1)
        async with following_module._Turn(places):
            if seconds == 0:
                await places.acquire()
                places.release()
        await places.acquire()
        assert places.locked()

    asyncio.run(run())


def test_a_peer_that_does_not_answer_makes_room_for_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_module, "_AT_ONCE", 1)
    monkeypatch.setattr(following_module, "_HANGS_AFTER_SECONDS", 2 * WAIT_SECONDS)
    monkeypatch.setattr(following_module, "_TURN_SECONDS", 0.01)

    async def talk(crowd: Crowd) -> None:
        await crowd.start(Stranger(), Stranger(), crowd.instance("gpu-7", sample(0, 0.5)))
        crowd.following.register_interest(10)
        await crowd.until(lambda: crowd.newest("gpu-7"))

    among(talk)


def test_one_that_answers_makes_room_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_module, "_AT_ONCE", 1)
    monkeypatch.setattr(following_module, "_TURN_SECONDS", 2 * WAIT_SECONDS)

    async def talk(crowd: Crowd) -> None:
        await crowd.start(crowd.instance("gpu-7", sample(0, 0.5)), crowd.instance("gpu-8", sample(0, 0.5)))
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        assert sorted(crowd.following.histories()) == ["gpu-7", "gpu-8"]

    among(talk)


def test_a_peer_that_talks_without_end_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_module, "_HURRY", 1e6)

    async def talk(crowd: Crowd) -> None:
        first = node_history("gpu-9", sample(0, 0.5)).newest
        messages = [pb.Update(snapshot=encode(first).encode())]
        for number in range(1, 1000):
            later = replace(first, sequence=first.sequence + number, at_seconds=first.at_seconds + number / 1e6)
            before = replace(first, sequence=first.sequence + number - 1)
            messages.append(pb.Update(change=(encode_change(before, later) or "").encode()))
        await crowd.start(
            Stranger(*(message.SerializeToString() for message in messages)),
            crowd.instance("gpu-7", sample(0, 0.5)),
        )
        crowd.following.register_interest(10)
        await crowd.until(lambda: len(crowd.following.histories()) == 2 and crowd.news.is_set())
        await crowd.until(lambda: len(crowd.following.histories()["gpu-9"].snapshots) >= 3)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(crowd.following.histories()["gpu-9"].snapshots) == 3

    among(talk)


def test_what_a_peer_says_of_itself_is_printable_and_of_bounded_length() -> None:
    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7")
        peer.failure = "\x1b[2Jall\nis well" + "!" * 5000
        await crowd.start(peer)
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        [said] = crowd.following.unavailable().values()
        assert said.startswith("?[2Jall?is well!!!")
        assert len(said) == 500

    among(talk)


def test_a_node_that_calls_itself_otherwise_than_the_directory_does_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("0a1b2c3d", sample(0, 0.5))
        await peer.start()
        other = crowd.instance("gpu-8", sample(0, 0.5))
        await crowd.start(other)
        crowd.listing.listing = {peer.address: "gpu-7", other.address: "gpu-8"}
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        peer.see(sample(0, 0.8))
        await crowd.until(lambda: crowd.newest("0a1b2c3d") == (sample(0, 0.8),))
        await peer.stop()
        assert [record.getMessage() for record in caplog.records if "spec.nodeName" in record.getMessage()] == [
            f"{peer.address}: it says that it is node 0a1b2c3d, and it runs on node gpu-7: its pods are looked for "
            "there and not found; pass spec.nodeName to it as KEDA_GPU_SCALER_NODE_NAME"
        ]

    with caplog.at_level(logging.WARNING):
        among(talk)


def test_a_dead_address_of_a_node_that_lives_at_another_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def talk(crowd: Crowd) -> None:
        peer, stranger = crowd.instance("gpu-7", sample(0, 0.1)), Stranger(hangs_up=True)
        await crowd.start(peer, stranger)
        crowd.listing.listing = dict.fromkeys((peer.address, stranger.address), "gpu-7")
        crowd.following.register_interest(10)
        for utilization in (0.2, 0.3, 0.4):
            await crowd.until(functools.partial(tried_since, stranger.asked, stranger))
            peer.see(sample(0, utilization))
            await crowd.until(functools.partial(known, crowd, utilization))

    def tried_since(asked: int, stranger: Stranger) -> bool:
        return stranger.asked > asked + 1

    def known(crowd: Crowd, utilization: float) -> bool:
        return crowd.newest("gpu-7") == (sample(0, utilization),)

    with caplog.at_level(logging.WARNING):
        among(talk)
    said = [record.getMessage() for record in caplog.records if record.name == following_module.__name__]
    assert said == ["gpu-7: it ended the connection"]


def test_a_directory_with_a_defect_is_named_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    async def talk(crowd: Crowd) -> None:
        listing = crowd.listing.addresses
        times = itertools.count()

        def broken() -> AsyncIterator[Mapping[str, str]]:
            if next(times) < 2:
                raise ZeroDivisionError("by zero")
            return listing()

        crowd.listing.addresses = broken  # type: ignore[method-assign]
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        assert list(crowd.following.unavailable().values()) == ["unexpected ZeroDivisionError: by zero"]
        await crowd.start(crowd.instance("gpu-7", sample(0, 0.5)))
        await crowd.until(lambda: crowd.newest("gpu-7"))
        assert crowd.following.unavailable() == {}

    among(talk)


def test_the_cadence_slows_with_the_number_of_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_module, "PEERS_PER_SECOND", 2)
    wanted: list[float] = []

    async def talk(crowd: Crowd) -> None:
        strangers = [Stranger(hangs_up=True) for _ in range(3)]
        for stranger in strangers:
            watch = stranger._watch

            def noting(request: bytes, context: Any, watch: Any = watch) -> AsyncIterator[bytes]:
                wanted.append(pb.WatchRequest.FromString(request).interval_seconds)
                answers: AsyncIterator[bytes] = watch(request, context)
                return answers

            stranger._watch = noting  # type: ignore[method-assign]
        await crowd.start(strangers[0])
        crowd.following.register_interest(10)
        await crowd.until(lambda: wanted)
        assert set(wanted) == {0.5}
        wanted.clear()
        await crowd.start(*strangers[1:])
        await crowd.until(lambda: wanted.count(1.5) > 6)  # those that were followed before as well

    among(talk)


def test_peers_that_come_and_go_in_the_directory() -> None:
    async def talk(crowd: Crowd) -> None:
        first, second = crowd.instance("gpu-7", sample(0, 0.5)), crowd.instance("gpu-8", sample(0, 0.9))
        await crowd.start(first)
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        await second.start()
        crowd.listing.change(second.address)
        await crowd.until(lambda: crowd.newest("gpu-8"))
        await second.stop()
        assert crowd.newest("gpu-7")  # it may be a node that is cut off: it ages, and is forgotten later
        crowd.clock.advance(61)
        crowd.following.expire_idle()
        assert crowd.newest("gpu-7") is None

    among(talk)


def test_law_1_until_there_is_a_listing_it_is_said_that_nobody_knows_the_peers() -> None:
    async def talk(crowd: Crowd) -> None:
        crowd.following.register_interest(10)
        assert crowd.following.unavailable() == {PEERS_UNKNOWN: "they are being looked up"}
        await crowd.following.wait_for_sync()  # with a listing that is empty
        assert list(crowd.following.unavailable()) == [PEERS_UNKNOWN]
        assert crowd.following.unavailable()[PEERS_UNKNOWN].startswith("discovery finds no instance at all")
        await crowd.start(crowd.instance("gpu-7", sample(0, 0.5)))
        await crowd.until(lambda: crowd.newest("gpu-7"))
        assert crowd.following.unavailable() == {}
        crowd.listing.change()
        await crowd.until(lambda: PEERS_UNKNOWN in crowd.following.unavailable())

    among(talk)


def test_law_1_a_peer_that_is_listed_is_silent_until_it_was_heard() -> None:
    async def talk(crowd: Crowd) -> None:
        mute = Stranger()
        await mute.start()
        crowd.listing.change(mute.address, **{"gpu-7": "127.0.0.1:1"})
        crowd.following.register_interest(10)
        await crowd.until(lambda: mute.address in crowd.following.unavailable())
        assert crowd.following.unavailable()[mute.address] == "it has not been heard yet"
        assert "gpu-7" in crowd.following.unavailable()
        await mute.stop()

    among(talk)


def test_a_directory_that_fails_later_leaves_the_listing_as_it_was() -> None:
    async def talk(crowd: Crowd) -> None:
        await crowd.start(crowd.instance("gpu-7", sample(0, 0.5)))
        crowd.following.register_interest(10)
        await crowd.until(lambda: crowd.newest("gpu-7"))
        crowd.listing.failure = "--peers: agents cannot be resolved"
        crowd.listing.news.set()
        await crowd.until(crowd.following.unavailable)
        assert dict(crowd.following.unavailable()) == {"(discovery)": "--peers: agents cannot be resolved"}

    among(talk)


def test_a_directory_that_cannot_tell_is_named_and_what_it_told_stands() -> None:
    async def talk(crowd: Crowd) -> None:
        crowd.listing.failure = "--peers: agents cannot be resolved"
        crowd.following.register_interest(10)
        await crowd.following.wait_for_sync()
        assert list(crowd.following.unavailable().values()) == ["--peers: agents cannot be resolved"]
        crowd.listing.failure = None
        await crowd.start(crowd.instance("gpu-7", sample(0, 0.5)))
        await crowd.until(lambda: crowd.newest("gpu-7"))
        assert crowd.following.unavailable() == {}

    among(talk)


def test_history_is_kept_as_long_as_the_longest_window_that_is_asked_for() -> None:
    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7", sample(0, 0.0))
        await crowd.start(peer)

        async def kept_after(seconds: int) -> int:
            for number in range(seconds):
                peer.see(sample(0, number / 1000))
                await crowd.until(lambda: crowd.newest("gpu-7") == peer.history.newest.samples)  # type: ignore[union-attr]
            return len(crowd.following.histories()["gpu-7"].snapshots)

        crowd.following.register_interest(0)
        await crowd.following.wait_for_sync()
        assert await kept_after(15) == 11
        crowd.following.register_interest(20)
        crowd.following.register_interest(5)
        assert await kept_after(25) == 21

    monkey = pytest.MonkeyPatch()
    monkey.setattr(sharing_module, "_EARLY", 0.0)
    monkey.setattr(following_module, "_HURRY", 0.0)
    try:
        among(talk)
    finally:
        monkey.undo()


def test_followers_are_bounded() -> None:
    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7", sample(0, 0.5))
        await crowd.start(peer)
        async with grpc.aio.insecure_channel(peer.address) as channel:
            watch = pb_grpc.FleetStub(channel).Watch  # type: ignore[no-untyped-call]
            calls = [watch(pb.WatchRequest(interval_seconds=1)) for _ in range(MAX_FOLLOWERS)]
            for call in calls:
                await call.read()
            with pytest.raises(grpc.aio.AioRpcError, match="64 instances follow this one, the most there may be"):
                await watch(pb.WatchRequest()).read()

    among(talk)


def test_the_end_is_ok_and_at_once() -> None:
    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7", sample(0, 0.5))
        await crowd.start(peer)
        async with grpc.aio.insecure_channel(peer.address) as channel:
            call = pb_grpc.FleetStub(channel).Watch(pb.WatchRequest(interval_seconds=0.1))  # type: ignore[no-untyped-call]
            await call.read()
            peer.sharing.stop()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    among(talk)


def test_the_end_does_not_wait_for_a_follower_of_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing_module, "WORD_SECONDS", 2 * WAIT_SECONDS)

    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7", sample(0, 0.5))
        await crowd.start(peer)
        async with grpc.aio.insecure_channel(peer.address) as channel:
            call = pb_grpc.FleetStub(channel).Watch(pb.WatchRequest(interval_seconds=3600))  # type: ignore[no-untyped-call]
            await call.read()
            peer.sharing.stop()
            assert await call.read() is grpc.aio.EOF

    among(talk)


@pytest.mark.parametrize("deviceless", [False, True], ids=["that fails all the time", "without devices"])
def test_a_peer_is_told_nothing_faster_than_it_asked(deviceless: bool) -> None:
    async def run() -> None:
        peer = Instance("gpu-7", clock=ManualClock(), deviceless=deviceless)
        peer.failure = None if deviceless else "the driver does not answer"
        words = peer.sharing.Watch(pb.WatchRequest(interval_seconds=60), None)
        await anext(words)
        second = asyncio.ensure_future(anext(words))
        for _ in range(100):
            peer.sharing.published()
            await asyncio.sleep(0)
        assert not second.done()
        peer.sharing.stop()
        with pytest.raises(StopAsyncIteration):
            await second

    asyncio.run(run())


def test_a_first_snapshot_comes_as_soon_as_it_is_there() -> None:
    async def talk(crowd: Crowd) -> None:
        peer = crowd.instance("gpu-7")
        words = peer.sharing.Watch(pb.WatchRequest(interval_seconds=60), None)
        assert not (await anext(words)).snapshot
        peer.see(sample(0, 0.5))
        assert (await anext(words)).snapshot
        await words.aclose()  # type: ignore[attr-defined]

    among(talk)


def test_a_snapshot_that_cannot_be_written_is_a_failure_with_a_sentence() -> None:
    peer = Instance("gpu-7", sample(0, 0.5), clock=ManualClock())
    assert peer.history is not None
    before = peer.history.newest
    peer.see(Sample(Device("GPU-0", 0, "M"), gpu_utilization_ratio=57.0))
    whole, change = peer.sharing._update(peer.history, None), peer.sharing._update(peer.history, before)
    for update in (whole, change):
        assert (update.snapshot, update.change) == (b"", b"")
        assert update.failure.startswith("its snapshot cannot be told: samples")


def test_a_change_is_of_what_was_really_told() -> None:
    async def run() -> None:
        peer = Instance("gpu-7", sample(0, 0.5), clock=ManualClock())
        words = peer.sharing.Watch(pb.WatchRequest(interval_seconds=math.nan), None)  # as often as there is news
        told = decode((await anext(words)).snapshot)
        peer.see(sample(0, 57.0))
        assert (await anext(words)).failure
        peer.see(sample(0, 0.8))
        assert apply_change(told, (await anext(words)).change).samples == (sample(0, 0.8),)
        await words.aclose()  # type: ignore[attr-defined]

    async def bounded() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await run()

    asyncio.run(bounded())


def test_a_word_without_news_carries_no_snapshot_and_a_slow_follower_gets_the_newest() -> None:
    clock = ManualClock()
    peer = Instance("gpu-7", sample(0, 0.1), sample(1, 0.1), clock=clock)
    update = peer.sharing._update
    first = peer.history
    assert first is not None
    assert update(first, None).snapshot
    word = update(first, first.newest)
    assert (word.snapshot, word.change) == (b"", b"")
    for load in (0.2, 0.3):
        peer.see(sample(0, load), sample(1, 0.1))
        now = peer.history
        assert now is not None
        told = update(now, first.newest)
        assert not told.snapshot
        assert apply_change(first.newest, told.change) == now.newest
