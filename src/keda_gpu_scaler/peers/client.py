# SPDX-License-Identifier: Apache-2.0
"""Follows the other instances while the fleet is needed, and keeps what they report.

Law: peers that appear, vanish, restart, hang or send invalid data are normal. None of them stops another one, and a
reported snapshot stays in use until it is stale. A peer whose node discovery names reports that node and no other one.
"""

import asyncio
import contextlib
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping

import grpc
from google.protobuf.message import DecodeError

from keda_gpu_scaler.core.instance_status import DropReason, PeerCounts
from keda_gpu_scaler.core.interfaces import Discovery, KubeError
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.state.fleet import NOT_ANSWERED_YET, PEERS_UNKNOWN, History
from keda_gpu_scaler.core.state.reading_interest import ReadingInterest
from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.file_descriptors import shortage
from keda_gpu_scaler.peers.limits import PeerError
from keda_gpu_scaler.peers.node_store import LongestWindow, NodeStore
from keda_gpu_scaler.peers.stream import ConnectionSlot, PeerStream
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire.rpc_failure import rpc_failure
from keda_gpu_scaler.wire.snapshot_codec import CodecError
from keda_gpu_scaler.wire.tls import ClientTls, TlsError

IDLE_TIMEOUT_SECONDS = 600.0
"""The client stops following after this time without a request for the fleet."""
INTEREST_INTERVAL_SECONDS = 60.0
"""How often interest in the performance readings is forwarded to a peer, which keeps it for ten times as long."""
EXPIRE_AFTER_STALE_LIMITS = 6
"""A node is removed after this many times the stale limit without a snapshot."""
EXPIRE_NODES_SECONDS = 1.0
"""The least time between two searches for nodes to remove."""
MAX_SNAPSHOTS_PER_SECOND = 1000
"""The limit for all peers together. In a large fleet the interval of each peer grows accordingly."""

_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.5, 10.0
_MAX_CONNECTING = 50  # connections that are made at the same time; the limit keeps the event loop free for KEDA's calls
_DISCOVERY = "(discovery)"
_MAX_REASON_LENGTH = 500

_log = logging.getLogger(__name__)


class FleetClient:
    """Follows the instances that discovery lists. Everything happens in one event loop.

    Args:
        discovery: lists the addresses.
        instance: the random name of this instance, by which it recognises itself among the addresses.
        clock: monotonic seconds.
        sample_interval_seconds: the requested time between two snapshots; longer in a very large fleet.
        stale_after_seconds: the age at which a snapshot becomes stale.
        on_news: called after every new snapshot.
        tls: the certificates between instances; None for plain text.
    """

    def __init__(
        self,
        discovery: Discovery,
        *,
        instance: str,
        clock: Callable[[], float],
        sample_interval_seconds: float = 1.0,
        stale_after_seconds: float = 10.0,
        on_news: Callable[[], None] = lambda: None,
        tls: ClientTls | None = None,
    ) -> None:
        self._discovery = discovery
        self._instance = instance
        self._clock = clock
        self._sample_interval = sample_interval_seconds
        self._stale_after = stale_after_seconds
        self._on_news = on_news
        self._tls = tls
        self._nodes = NodeStore(stale_after_seconds, sample_interval_seconds)
        self._dropped: Counter[DropReason] = Counter()
        self._unavailable: dict[str, str] = {}  # by title: a node's name, or an address while the node is not known
        self._logged_reasons: dict[str, str] = {}  # by address
        self._listing: Mapping[str, str] = {}
        self._named_nodes: frozenset[str] = frozenset()  # the nodes that discovery names
        self._titles: dict[str, str] = {}  # by address
        self._received_at: dict[str, float] = {}  # by address
        self._interval = sample_interval_seconds
        self._peer_tasks: dict[str, asyncio.Task[None]] = {}
        self._discovery_task: asyncio.Task[None] | None = None
        self._requested_at = 0.0
        self._expire_nodes_at = -math.inf
        self._window = LongestWindow(IDLE_TIMEOUT_SECONDS)
        self._performance = ReadingInterest()
        self._pending: set[str] = set()  # addresses without a first outcome
        self._synced = asyncio.Event()
        self._connecting = asyncio.Semaphore(_MAX_CONNECTING)

    def register_interest(self, window_seconds: float, *, performance: bool = False) -> None:
        """Follow the fleet, and keep this much history of every node, with the performance readings if wanted."""
        now = self._clock()
        if performance:
            self._performance.register(now)
        self._requested_at = now
        self._nodes.window_seconds = self._window.register(window_seconds, now)
        if self._discovery_task is None:
            self._unavailable[PEERS_UNKNOWN] = "they are being looked up"
            self._discovery_task = asyncio.create_task(self._run_discovery(), name="peers")

    def histories(self) -> Mapping[str, History]:
        """Return the history of every node. The mapping is live."""
        return self._nodes.histories

    def unavailable(self) -> Mapping[str, str]:
        """Return the reason for every unavailable peer, by node, or by address while the node is not known."""
        return self._unavailable

    def counts(self) -> PeerCounts:
        """Return the number of followed instances, and the longest time without a snapshot of an unavailable one."""
        now = self._clock()
        staleness = (
            now - received_at
            for address, received_at in self._received_at.items()
            if self._titles[address] in self._unavailable
        )
        return PeerCounts(len(self._titles), max(staleness, default=0.0), dict(self._dropped))

    async def wait_for_sync(self) -> None:
        """Wait until discovery has listed the peers and each has a first outcome: an update or an error."""
        if self._discovery_task is not None:
            await self._synced.wait()

    def expire_idle(self) -> None:
        """Stop following an idle fleet, and remove old nodes. The caller runs this regularly."""
        now = self._clock()
        if self._discovery_task is not None and now - self._requested_at > IDLE_TIMEOUT_SECONDS:
            _log.info("no request for the fleet in %.0f s: its instances are no longer followed", IDLE_TIMEOUT_SECONDS)
            self._stop()
        if now >= self._expire_nodes_at:  # the caller comes several times a second, and this looks at every node
            self._expire_nodes_at = now + EXPIRE_NODES_SECONDS
            self._nodes.expire(now, EXPIRE_AFTER_STALE_LIMITS * self._stale_after)

    async def close(self) -> None:
        """Stop following, and wait until every connection is closed."""
        tasks = [task for task in (self._discovery_task, *self._peer_tasks.values()) if task is not None]
        self._stop()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self) -> None:
        for task in (self._discovery_task, *self._peer_tasks.values()):
            if task is not None:
                task.cancel()
        self._discovery_task = None
        self._peer_tasks.clear()
        self._nodes.clear()
        for table in (self._unavailable, self._logged_reasons, self._titles, self._received_at):
            table.clear()
        self._pending.clear()
        self._synced.clear()

    # ---- discovery ----

    async def _run_discovery(self) -> None:
        backoff = _MIN_BACKOFF_SECONDS
        while True:
            try:
                async with contextlib.aclosing(self._discovery.addresses()) as listings:  # type: ignore[type-var]
                    async for listing in listings:
                        backoff = _MIN_BACKOFF_SECONDS
                        self._mark_available(_DISCOVERY)
                        self._apply_listing(listing)
            except KubeError as error:
                self._mark_discovery_unavailable(str(error))
            except Exception as error:  # a defect of the implementation must not end discovery for good
                _log.exception("the discovery %r broke its contract", self._discovery)
                self._mark_discovery_unavailable(f"unexpected {type(error).__name__}: {str(error)[:200]}")
            self._check_sync()
            await asyncio.sleep(_jittered(backoff))
            backoff = min(2 * backoff, _MAX_BACKOFF_SECONDS)

    def _apply_listing(self, listing: Mapping[str, str]) -> None:
        for address in list(self._peer_tasks):
            # An address that moved to another node belongs to another instance.
            if listing.get(address) != self._listing.get(address):
                self._forget(address)
        self._listing, self._named_nodes = listing, frozenset(listing.values()) - {""}
        if listing:
            self._unavailable.pop(PEERS_UNKNOWN, None)
        else:
            self._unavailable[PEERS_UNKNOWN] = "discovery finds no instance; is --peers right, and does any agent run?"
        self._interval = max(self._sample_interval, len(listing) / MAX_SNAPSHOTS_PER_SECOND)
        for address, node in listing.items():
            if address not in self._peer_tasks:
                self._titles[address] = node or address
                self._received_at[address] = self._clock()
                self._unavailable.setdefault(node or address, NOT_ANSWERED_YET)
                self._pending.add(address)
                self._peer_tasks[address] = asyncio.create_task(self._follow(address), name=f"peer {address}")
        self._check_sync()

    def _forget(self, address: str) -> None:
        self._peer_tasks.pop(address).cancel()
        self._mark_available(address)
        self._titles.pop(address)
        self._received_at.pop(address)
        self._pending.discard(address)

    def _mark_synced(self, address: str) -> None:
        self._pending.discard(address)
        self._check_sync()

    def _check_sync(self) -> None:
        if not self._pending:
            self._synced.set()

    def _mark_discovery_unavailable(self, reason: str) -> None:
        """Keep the reason. The last listing, if there is one, stays in use."""
        self._mark_unavailable(_DISCOVERY, reason)
        if PEERS_UNKNOWN in self._unavailable:
            self._unavailable[PEERS_UNKNOWN] = self._unavailable.pop(_DISCOVERY)

    def _mark_unavailable(self, address: str, reason: str) -> None:
        """Keep the reason. Log it if it is new for this address, because one node may have two addresses."""
        title = self._titles.get(address, address)
        if self._logged_reasons.get(address) != reason:
            _log.warning("%s: %s", title, reason)
        self._logged_reasons[address] = self._unavailable[title] = reason

    def _mark_available(self, address: str) -> None:
        self._logged_reasons.pop(address, None)
        self._unavailable.pop(self._titles.get(address, address), None)

    # ---- one peer ----

    async def _follow(self, address: str) -> None:
        backoff = _MIN_BACKOFF_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            stream, started_at = PeerStream(address, self._interval, self._stale_after, self._tls), loop.time()
            try:
                reason = await self._receive_until_error(stream)
            finally:
                await stream.close()
            # The backoff is reset only after a long stream. A peer that sends one valid update and then fails is
            # called less and less often.
            if stream.has_valid_update and loop.time() - started_at > _MAX_BACKOFF_SECONDS:
                backoff = _MIN_BACKOFF_SECONDS
            if address in self._titles:
                self._mark_unavailable(address, reason)
            self._mark_synced(address)
            await asyncio.sleep(_jittered(backoff))
            backoff = min(2 * backoff, _MAX_BACKOFF_SECONDS)

    async def _receive_until_error(self, stream: PeerStream) -> str:
        """Receive updates until the stream ends, and return why it ended."""
        if reason := shortage():
            return reason
        try:
            await self._receive(stream)
        except grpc.aio.AioRpcError as error:
            return _rpc_reason(error)
        except TimeoutError:
            return f"nothing came for {stream.timeout_seconds:g} s"
        except TlsError as error:
            return str(error)
        except PeerError as error:
            self._dropped[DropReason.LIMIT] += 1
            return str(error)
        except (CodecError, DecodeError) as error:
            return f"its answer cannot be read: {str(error)[:200]}; is it another version?"
        except Exception as error:  # the client follows a peer again after any error
            _log.exception("peer %s", stream.address)
            return f"unexpected {type(error).__name__}: {str(error)[:200]}"
        return "it ended the connection"

    async def _receive(self, stream: PeerStream) -> None:
        async with ConnectionSlot(self._connecting):
            await stream.open()
            message = await stream.read()
        while message is not None:
            update = pb.Update.FromString(message)
            if update.instance == self._instance:
                await self._ignore_own_address(stream)
            self._apply_update(stream, update)
            self._mark_synced(stream.address)
            await self._forward_interest(stream)
            message = await stream.read()

    async def _forward_interest(self, stream: PeerStream) -> None:
        """Have the peer take its performance readings while they are wanted here. An older version has none."""
        now = self._clock()
        seconds = self._performance.remaining_seconds(now)
        if not seconds or now < stream.interest_due_at:
            return
        stream.interest_due_at = now + INTEREST_INTERVAL_SECONDS
        try:
            await stream.register_interest(seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                stream.interest_due_at = math.inf
            _log.info("%s: it takes no performance readings: %s", self._titles.get(stream.address), _rpc_reason(error))

    async def _ignore_own_address(self, stream: PeerStream) -> None:
        """Wait without a connection while discovery lists this instance's own address."""
        await stream.close()
        self._mark_available(stream.address)
        self._mark_synced(stream.address)
        await asyncio.Event().wait()

    def _apply_update(self, stream: PeerStream, update: pb.Update) -> None:
        snapshot = stream.decode(update)
        if stream.address not in self._titles:
            return
        if snapshot is not None:
            now = self._clock()
            taken_at = stream.taken_at(snapshot, update.age_seconds, now)
            if not self._is_own_node(stream.address, snapshot):
                return
            self._received_at[stream.address] = now
            if self._nodes.add(stream.address, snapshot, taken_at, now, stream.decoded_bytes):
                self._on_news()
        elif stream.last is not None and self._wrong_node(stream.address, stream.last.node):
            return
        if update.failure or (stream.last is None and not update.deviceless):
            self._mark_unavailable(stream.address, _printable(update.failure) or "it has no snapshot yet")
        else:
            self._mark_available(stream.address)

    def _is_own_node(self, address: str, snapshot: Snapshot) -> bool:
        """Whether a snapshot is of the peer's own node. Another one is dropped."""
        if reason := self._wrong_node(address, snapshot.node):
            self._dropped[DropReason.NODE] += 1
            self._mark_unavailable(address, reason)
            return False
        if self._titles[address] != snapshot.node:
            self._unavailable.pop(self._titles[address], None)
            self._titles[address] = snapshot.node
        return True

    def _wrong_node(self, address: str, node: str) -> str:
        """Return why a peer cannot speak for a node, empty where it can."""
        own = self._listing.get(address, "")
        if own in ("", node) and (own or node not in self._named_nodes):
            return ""
        runs = f"but it runs on node {own}" if own else "which is the node of another address"
        return (
            f"it reports the node name {quoted(node)}, {runs}: its snapshots are dropped, and the pods of its node get "
            "no readings; pass spec.nodeName to it as KEDA_GPU_SCALER_NODE_NAME"
        )


def _rpc_reason(error: grpc.aio.AioRpcError) -> str:
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return "it does not share its snapshots: is it an older version?"
    return rpc_failure(error.code().name, str(error.details() or ""))


def _printable(untrusted: str) -> str:
    """Return untrusted text in a form that is safe for terminals and logs."""
    return "".join(letter if letter.isprintable() else "?" for letter in untrusted[:_MAX_REASON_LENGTH])


def _jittered(seconds: float) -> float:
    return seconds * (0.5 + os.urandom(1)[0] / 255)
