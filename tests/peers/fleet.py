# SPDX-License-Identifier: Apache-2.0
"""Instances, raw peers and a following client, over real connections on loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import grpc

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.core.state.fleet import History
from keda_gpu_scaler.core.types import Sample
from keda_gpu_scaler.peers.client import FleetClient
from keda_gpu_scaler.peers.server import FleetServer
from keda_gpu_scaler.peers.stream import WATCH
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire import fleet_pb2_grpc as pb_grpc
from tests.fakes import ManualClock, node_history
from tests.limits import WAIT_SECONDS


class Instance:
    """One instance, with the history that the test sets."""

    def __init__(self, node: str, *samples: Sample, clock: ManualClock, deviceless: bool = False) -> None:
        self.node = node
        self.clock = clock
        self.history: History | None = node_history(node, *samples, at=clock.now) if samples else None
        self.failure: str | None = None
        self.interests: list[float] = []
        self.server = FleetServer(
            lambda: self.history,
            lambda: self.failure,
            clock,
            f"instance of {node}",
            deviceless=deviceless,
            on_interest=self.interests.append,
        )
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        pb_grpc.add_FleetServicer_to_server(self.server, self._server)  # type: ignore[no-untyped-call]
        port = self._server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = self.address or f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        self.server.stop()
        if self._server is not None:
            await self._server.stop(None)

    def publish(self, *samples: Sample, after_seconds: float = 1.0) -> None:
        """Advance the clock, and publish a newer snapshot."""
        self.clock.advance(after_seconds)
        before = self.history.newest if self.history else node_history(self.node, at=self.clock.now).newest
        newest = replace(before, sequence=before.sequence + 1, at_seconds=self.clock.now, samples=samples)
        self.history = History((newest,), self.clock.now)
        self.server.published()


class RawPeer:
    """Answers Watch with the bytes that the test sets, and then ends the stream or keeps it open."""

    def __init__(self, *messages: bytes, ends_stream: bool = False) -> None:
        self.messages = messages
        self.ends_stream = ends_stream
        self.calls = 0
        self.intervals: list[float] = []  # the requested ones
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
        self.calls += 1
        self.intervals.append(pb.WatchRequest.FromString(request).interval_seconds)
        for message in self.messages:
            yield message
        if not self.ends_stream:
            await asyncio.Event().wait()


class ManualDiscovery:
    """A discovery whose listing is changed by the test."""

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


class FleetScenario:
    """Running peers, and a client that follows them. A test can wait for its news."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.discovery = ManualDiscovery()
        self.news = asyncio.Event()
        self.client = FleetClient(
            self.discovery, instance="instance of me", clock=self.clock, sample_interval_seconds=0.1,
            on_news=self.news.set,
        )  # fmt: skip
        self._started: list[Any] = []

    async def start(self, *peers: Any) -> None:
        for peer in peers:
            await peer.start()
            self._started.append(peer)
        self.discovery.change(*self.discovery.listing, *(peer.address for peer in peers))

    def instance(self, node: str, *samples: Sample, **more: Any) -> Instance:
        return Instance(node, *samples, clock=self.clock, **more)

    async def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            await asyncio.sleep(0)

    def newest(self, node: str) -> tuple[Sample, ...] | None:
        history = self.client.histories().get(node)
        return history.newest.samples if history else None

    async def close(self) -> None:
        await self.client.close()
        for peer in self._started:
            with contextlib.suppress(Exception):
                await peer.stop()


def run(scenario: Callable[[FleetScenario], Awaitable[None]]) -> None:
    async def run_bounded() -> None:
        fleet = FleetScenario()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await scenario(fleet)
        finally:
            await fleet.close()

    asyncio.run(run_bounded())
