# SPDX-License-Identifier: Apache-2.0
"""What do the other instances tell? Follows every one of them while somebody needs to know.

The law of this module: peers that appear, vanish, restart, hang, or talk nonsense are normal life. None of them
stops another, and what was told before holds until it is stale.
"""

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Callable, Mapping
from types import TracebackType

import grpc
from google.protobuf.message import DecodeError

from keda_gpu_scaler.core.counters import PeerCounts
from keda_gpu_scaler.core.interfaces import Discovery, KubeError
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, History
from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.peers.node_store import LongestWindow, NodeStore
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire.snapshot_codec import MAX_LENGTH, MAX_NUMBER, CodecError, apply_change, decode
from keda_gpu_scaler.wire.tls import ClientTls, TlsError

IDLE_TIMEOUT_SECONDS = 600.0
"""A fleet that nobody asked about for so long is not followed any longer."""
FORGET_AFTER = 6
"""A node that was silent for so many times the stale limit is forgotten."""
PEERS_PER_SECOND = 1000
"""The cadence slows with the fleet: so many snapshots a second are read, in all."""
WATCH = "/keda_gpu_scaler.fleet.v1.Fleet/Watch"

_HANGS_AFTER_SECONDS = 6.0  # three words that did not come
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0
_AT_ONCE = 50  # so many connections are being made at the same time, and no more: KEDA's calls come first
_TURN_SECONDS = 0.25  # a peer that does not answer so soon makes room: hundreds of mute ones must not hold up one
# A peer may talk this much faster than it was asked to, and say so many words in one breath; then it has to wait.
_HURRY, _BREATH = 0.5, 3
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_LENGTH + 4096),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a peer that is asked again is connected again, without gRPC's back-off
)
_DIRECTORY = "(discovery)"
_LONGEST_SENTENCE = 500

_log = logging.getLogger(__name__)


class FleetClient:
    """Follows the instances that a directory lists. Everything happens in one event loop.

    Args:
        discovery: where they are.
        instance: this instance's own random name, by which it recognises itself among them.
        clock: monotonic seconds.
        sample_interval_seconds: how often snapshots are wanted; more seldom from a very large fleet.
        stale_after_seconds: from which age on a snapshot is of no use.
        on_news: called after every snapshot that came.
        tls: what instances show each other; None where they speak in the clear.
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
        self._directory = discovery
        self._instance = instance
        self._clock = clock
        self._interval = sample_interval_seconds
        self._stale_after = stale_after_seconds
        self._on_news = on_news
        self._tls = tls
        self._nodes = NodeStore(stale_after_seconds)
        self._unavailable: dict[str, str] = {}
        self._whys: dict[str, str] = {}
        self._listing: Mapping[str, str] = {}
        self._titles: dict[str, str] = {}
        self._heard_at: dict[str, float] = {}
        self._pace = sample_interval_seconds
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._asked_at = 0.0
        self._window = LongestWindow(IDLE_TIMEOUT_SECONDS)
        self._unheard: set[str] = set()
        self._settled = asyncio.Event()
        self._connecting = asyncio.Semaphore(_AT_ONCE)

    def register_interest(self, window_seconds: float) -> None:
        """Say that somebody needs the fleet, and so much history of it."""
        now = self._clock()
        self._asked_at = now
        self._nodes.window_seconds = self._window.ask(window_seconds, now)
        if self._task is None:
            self._unavailable[PEERS_UNKNOWN] = "they are being looked up"
            self._task = asyncio.create_task(self._follow_directory(), name="peers")

    def histories(self) -> Mapping[str, History]:
        """Return what peers told, by node; live."""
        return self._nodes.histories

    def unavailable(self) -> Mapping[str, str]:
        """Return peers that ought to be there and tell nothing, by node or else address: why."""
        return self._unavailable

    def counts(self) -> PeerCounts:
        """Return how many instances are followed, and for how long the longest silent of them has been so."""
        now = self._clock()
        silences = (now - at for address, at in self._heard_at.items() if self._titles[address] in self._unavailable)
        return PeerCounts(len(self._titles), max(silences, default=0.0))

    async def wait_for_sync(self) -> None:
        """Return once every peer was found, and has told something or could not."""
        if self._task is not None:
            await self._settled.wait()

    def expire_idle(self) -> None:
        """Let go of what nobody needs any more; to be called now and then."""
        now = self._clock()
        if self._task is not None and now - self._asked_at > IDLE_TIMEOUT_SECONDS:
            _log.info(
                "nobody asked about the fleet for %.0f s: peers are not followed any longer", IDLE_TIMEOUT_SECONDS
            )
            self._let_go()
        self._nodes.forget_since(now, FORGET_AFTER * self._stale_after)

    async def close(self) -> None:
        """Let go of everything, and wait until it is gone."""
        tasks = [task for task in (self._task, *self._tasks.values()) if task is not None]
        self._let_go()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _let_go(self) -> None:
        for task in (self._task, *self._tasks.values()):
            if task is not None:
                task.cancel()
        self._task = None
        self._tasks.clear()
        self._nodes.clear()
        for table in (self._unavailable, self._whys, self._titles, self._heard_at):
            table.clear()
        self._unheard.clear()
        self._settled.clear()

    # ---- who is there ----

    async def _follow_directory(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with contextlib.aclosing(self._directory.addresses()) as listings:  # type: ignore[type-var]
                    async for listing in listings:
                        pause = _FIRST_PAUSE_SECONDS
                        self._is_well(_DIRECTORY)
                        self._turn_to(listing)
            except KubeError as error:
                self._say_unlisted(str(error))
            except Exception as error:  # a directory's defect must not end discovery for good
                _log.exception("the directory %r broke its contract", self._directory)
                self._say_unlisted(f"unexpected {type(error).__name__}: {str(error)[:200]}")
            self._settle()
            await asyncio.sleep(_jittered(pause))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _turn_to(self, listing: Mapping[str, str]) -> None:
        for address in self._tasks.keys() - listing.keys():
            self._tasks.pop(address).cancel()
            self._is_well(address)
            self._titles.pop(address)
            self._heard_at.pop(address)
            self._unheard.discard(address)
        self._listing = listing
        if listing:
            self._unavailable.pop(PEERS_UNKNOWN, None)
        else:
            self._unavailable[PEERS_UNKNOWN] = (
                "discovery finds no instance at all; is --peers right, and does any agent run?"
            )
        self._pace = max(self._interval, len(listing) / PEERS_PER_SECOND)
        for address, node in listing.items():
            if address not in self._tasks:
                self._titles[address] = node or address
                self._heard_at[address] = self._clock()
                self._unavailable.setdefault(node or address, "it has not been heard yet")
                self._unheard.add(address)
                self._tasks[address] = asyncio.create_task(self._follow(address), name=f"peer {address}")
        self._settle()

    def _heard(self, address: str) -> None:
        self._unheard.discard(address)
        self._settle()

    def _settle(self) -> None:
        if not self._unheard:
            self._settled.set()

    def _say_unlisted(self, sentence: str) -> None:
        """Note that discovery does not work; what it found before stands, if it ever found anything."""
        self._say(_DIRECTORY, sentence)
        if PEERS_UNKNOWN in self._unavailable:
            self._unavailable[PEERS_UNKNOWN] = self._unavailable.pop(_DIRECTORY)

    def _say(self, address: str, sentence: str) -> None:
        """Note why a peer is silent; log it when it is news of this address: a node may have had two."""
        title = self._titles.get(address, address)
        if self._whys.get(address) != sentence:
            _log.warning("%s: %s", title, sentence)
        self._whys[address] = self._unavailable[title] = sentence

    def _is_well(self, address: str) -> None:
        self._whys.pop(address, None)
        self._unavailable.pop(self._titles.get(address, address), None)

    # ---- one of them ----

    async def _follow(self, address: str) -> None:
        pause = _FIRST_PAUSE_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            stream, began = _PeerStream(address, self._pace, self._tls), loop.time()
            try:
                await self._listen(stream)
                why = "it ended the connection"
            except grpc.aio.AioRpcError as error:
                why = _refusal(error)
            except TimeoutError:
                why = f"nothing came for {stream.patience_seconds:g} s"
            except TlsError as error:
                why = str(error)
            except (CodecError, DecodeError) as error:
                why = f"what it tells cannot be read: {str(error)[:200]}; is it another version?"
            except Exception as error:  # whatever a peer does, it is followed again
                _log.exception("peer %s", address)
                why = f"unexpected {type(error).__name__}: {str(error)[:200]}"
            finally:
                await stream.close()
            # One that only ever says hello, or what cannot be read, is asked less and less often.
            if stream.told_something and loop.time() - began > _LONGEST_PAUSE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            if address in self._titles:
                self._say(address, why)
            self._heard(address)
            await asyncio.sleep(_jittered(pause))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _listen(self, stream: "_PeerStream") -> None:
        async with _Turn(self._connecting):
            await stream.open()
            message = await stream.read()
        while message is not None:
            update = pb.Update.FromString(message)
            if update.instance == self._instance:
                await self._know_oneself(stream)
            self._take(stream, update)
            self._heard(stream.address)
            await stream.breathe()
            message = await stream.read()

    async def _know_oneself(self, stream: "_PeerStream") -> None:
        """Listen no more to our own address, where nothing is told that is not known here, while it is listed."""
        await stream.close()
        self._is_well(stream.address)
        self._heard(stream.address)
        await asyncio.Event().wait()

    def _take(self, stream: "_PeerStream", update: pb.Update) -> None:
        snapshot = stream.snapshot_of(update)
        if stream.address not in self._titles:
            return
        if snapshot is not None:
            self._call_it(stream.address, snapshot.node)
            now = self._heard_at[stream.address] = self._clock()
            if self._nodes.take(stream.address, snapshot, now - update.age_seconds, now):
                self._on_news()
        if update.failure or (stream.last is None and not update.deviceless):
            self._say(stream.address, _printable(update.failure) or "it has no snapshot yet")
        else:
            self._is_well(stream.address)

    def _call_it(self, address: str, node: str) -> None:
        """From now on speak of this peer by its node's name."""
        if self._titles[address] == node:
            return
        if self._listing.get(address, "") not in ("", node):
            _log.warning(
                "%s: it says that it is node %s, and it runs on node %s: its pods are looked for there and not found; "
                "pass spec.nodeName to it as KEDA_GPU_SCALER_NODE_NAME", address, node, self._listing[address],
            )  # fmt: skip
        self._unavailable.pop(self._titles[address], None)
        self._titles[address] = node


class _Turn:
    """A place among those that are being connected, given back by the first answer or soon anyway."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._places.acquire()
        self._timer = asyncio.get_running_loop().call_later(_TURN_SECONDS, self._give_back)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def _give_back(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._places.release()


class _PeerStream:
    """One open Watch of one peer, and the snapshot it told last."""

    def __init__(self, address: str, interval_seconds: float, tls: ClientTls | None = None) -> None:
        self.address = address
        self._tls = tls
        self.patience_seconds = max(3 * interval_seconds, _HANGS_AFTER_SECONDS)
        self.last: Snapshot | None = None
        self.told_something = False
        self._interval = interval_seconds
        self._due = -math.inf
        self._channel: grpc.aio.Channel | None = None
        self._call: grpc.aio.UnaryStreamCall | None = None

    async def open(self) -> None:
        """Connect, with the certificates of this moment.

        Raises:
            TlsError: they cannot be used.
        """
        if self._tls is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        else:
            options = (*_OPTIONS, *self._tls.options())
            self._channel = grpc.aio.secure_channel(self.address, self._tls.credentials(), options=options)
        # Bytes, because gRPC would turn what cannot be read into None, and log a traceback.
        watch = self._channel.unary_stream(WATCH)
        self._call = watch(pb.WatchRequest(interval_seconds=self._interval).SerializeToString())

    async def read(self) -> bytes | None:
        """Return the next message, None at the end of the stream.

        Raises:
            TimeoutError: nothing came for ``patience_seconds``.
            AioRpcError: the call has failed.
        """
        assert self._call is not None  # noqa: S101 - it was opened
        async with asyncio.timeout(self.patience_seconds):
            message = await self._call.read()
        return None if message is grpc.aio.EOF else message

    def snapshot_of(self, update: pb.Update) -> Snapshot | None:
        """Read the update's snapshot, None if there is none.

        Raises:
            CodecError: it cannot be read.
        """
        snapshot = None
        # NaN compares false with everything: what is of no age would be young for ever.
        if not 0 <= update.age_seconds <= MAX_NUMBER:
            raise CodecError(f"age_seconds: Invalid value: {update.age_seconds:g}: must be from 0 to {MAX_NUMBER:g}")
        if update.snapshot:
            snapshot = decode(update.snapshot)
        elif update.change:
            if self.last is None:
                raise CodecError("change: Invalid value: it came before any snapshot")
            snapshot = apply_change(self.last, update.change)
        self.told_something = True
        self.last = snapshot or self.last
        return snapshot

    async def breathe(self) -> None:
        """Let a peer wait that talks faster than it was asked to: what is not read is not sent."""
        now, step = asyncio.get_running_loop().time(), _HURRY * self._interval
        self._due = max(self._due, now - (_BREATH - 1) * step) + step
        if self._due > now:
            await asyncio.sleep(self._due - now)

    async def close(self) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()


def _refusal(error: grpc.aio.AioRpcError) -> str:
    details = ascii(str(error.details() or "")[:200])
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return "it does not share its snapshots: is it an older version?"
    return f"{error.code().name}: {details}"


def _printable(text: str) -> str:
    """Make a stranger's sentence fit for terminals and logs."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST_SENTENCE])


def _jittered(seconds: float) -> float:
    return seconds * (0.5 + os.urandom(1)[0] / 255)
