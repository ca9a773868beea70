# SPDX-License-Identifier: Apache-2.0
"""Which pod holds which device of this node? The kubelet's PodResources API, asked at our own pace.

The law of this module: what the kubelet said last holds until it is stale, and then nobody knows. A kubelet that
hangs, errs or restarts keeps nobody waiting.

Before Kubernetes 1.34 the kubelet also lists pods that have ended, whose devices it takes back before it lists; whoever
reads allocations beside the API server's pods has no pod of that name any more.
"""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterator
from itertools import islice

import grpc
from google.protobuf.message import DecodeError

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.types import Allocation
from keda_gpu_scaler.wire import podresources_pb2 as pb

DEFAULT_PATH = "/var/lib/kubelet/pod-resources/kubelet.sock"
LIST = "/v1.PodResourcesLister/List"
TIMEOUT_SECONDS = 2.0
"""For one List, which takes a kubelet about a millisecond."""
MAX_ALLOCATIONS = 16384
_RETRY_SECONDS = 1.0
_MAX_TEXT_LENGTH = 253
_MAX_MESSAGE_BYTES = 16 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

_log = logging.getLogger(__name__)


class PodResources:
    """A node's allocations, as its kubelet tells them.

    ``failure`` says why the last question had no answer, None when it had one. ``held`` may be called from any
    thread; ``run`` belongs to one event loop.

    Args:
        path: the socket. Its directory is what must be mounted: the kubelet replaces the socket when it restarts.
        interval_seconds: how often to ask.
        stale_after_seconds: from which age on an answer is no longer believed.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        path: str,
        *,
        interval_seconds: float = 1.0,
        stale_after_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._interval = interval_seconds
        self._stale_after = stale_after_seconds
        self._clock = clock
        self._heard: tuple[float, tuple[Allocation, ...]] | None = None
        self._odd: str | None = None
        self.failure: str | None = None

    def held(self, now: float) -> tuple[Allocation, ...] | None:
        """Return every allocation, sorted, or None while nobody can tell; the same object while nothing changes."""
        heard = self._heard
        if heard is None or now - heard[0] > self._stale_after:
            return None
        return heard[1]

    async def run(self) -> None:
        """Ask and ask again, until cancelled."""
        while True:
            try:
                # A channel of its own after every failure: one that saw the old socket vanish would wait out its
                # back-off.
                async with grpc.aio.insecure_channel(f"unix:{self._path}", options=_OPTIONS) as channel:
                    while await self.ask(channel):
                        await asyncio.sleep(self._interval)
            except Exception as error:  # whatever the kubelet does, it is asked again
                sentence = f"{self._path}: unexpected {type(error).__name__}: {str(error)[:200]}"
                self._note_failure(sentence, error)
            await asyncio.sleep(min(self._interval, _RETRY_SECONDS))

    async def ask(self, channel: grpc.aio.Channel) -> bool:
        """Ask once over this channel; return whether there was an answer."""
        # Bytes, because gRPC would turn an answer that cannot be read into None, and log a traceback.
        list_pods = channel.unary_unary(LIST)
        try:
            answer = pb.ListPodResourcesResponse.FromString(await list_pods(b"", timeout=TIMEOUT_SECONDS))
        except grpc.aio.AioRpcError as error:
            self._note_failure(_why(self._path, error.code(), error.details() or ""))
            return False
        except DecodeError:
            self._note_failure(f"{self._path}: what answers there is no kubelet: it speaks another protocol")
            return False
        self.take(answer)
        return True

    def take(self, answer: pb.ListPodResourcesResponse) -> None:
        """Believe an answer, if it can be true of a node."""
        if not answer.pod_resources:
            # On a node where this runs there is a pod at least: its kubelet has just started, and not read them yet.
            self._note_failure(
                f"{self._path}: the kubelet lists no pod at all, not even this one: it has just started?"
            )
            return
        # Counted before anything is made of them: a kubelet gone wrong must not hold up the loop.
        listed = list(islice(_allocations(answer), MAX_ALLOCATIONS + 1))
        if len(listed) > MAX_ALLOCATIONS:
            self._note_failure(f"{self._path}: more than {MAX_ALLOCATIONS} allocations: not believed of one node")
            return
        odd = [text for allocation in listed for text in _texts(allocation) if not _is_plausible(text)]
        self._note_odd(odd[0] if odd else None)
        if odd:
            listed = [allocation for allocation in listed if all(map(_is_plausible, _texts(allocation)))]
        allocations = tuple(sorted(set(listed)))
        before = self._heard
        # The same object as before says that nothing changed, to everybody who looks.
        same = before is not None and before[1] == allocations
        self._heard = (self._clock(), before[1] if before is not None and same else allocations)
        if self.failure is not None:
            _log.info("the kubelet tells allocations again: %d", len(allocations))
        self.failure = None

    def _note_failure(self, sentence: str, error: Exception | None = None) -> None:
        is_news, self.failure = sentence != self.failure, sentence
        if is_news:
            _log.warning("%s", sentence, exc_info=error)

    def _note_odd(self, text: str | None) -> None:
        """Say once of a name that no device of ours could have, that what bears it is left out."""
        is_news, self._odd = text is not None and text != self._odd, text
        if is_news:
            _log.warning(
                "%s: allocations with names like %s are left out: names must have 1 to %d printable characters",
                self._path,
                quoted(text),
                _MAX_TEXT_LENGTH,
            )


def _allocations(answer: pb.ListPodResourcesResponse) -> Iterator[Allocation]:
    for pod in answer.pod_resources:
        for container in pod.containers:
            for devices in container.devices:
                for device_id in devices.device_ids:
                    yield Allocation(pod.namespace, pod.name, container.name, devices.resource_name, device_id)
            for dynamic in container.dynamic_resources:
                for claim in dynamic.claim_resources:
                    yield Allocation(pod.namespace, pod.name, container.name, claim.driver_name, claim.device_name)


def _texts(allocation: Allocation) -> tuple[str, ...]:
    return allocation.namespace, allocation.pod, allocation.container, allocation.resource, allocation.device_id


def _is_plausible(text: str) -> bool:
    return 0 < len(text) <= _MAX_TEXT_LENGTH and text.isprintable()


def _why(path: str, code: grpc.StatusCode, details: str) -> str:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{path}: the kubelet gave no answer in {TIMEOUT_SECONDS:g} s; is it overloaded?"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{path}: this kubelet does not serve the PodResources API v1; it is there from Kubernetes 1.20 on"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f"{path}: the kubelet refuses, too many questions or too large an answer: {details[:200]!a}"
    reason = _why_not_open(path)
    return f"cannot open {path}: {reason}" if reason else f"{path}: the kubelet answers {code.name}: {details[:200]!a}"


_REASONS = {
    errno.ENOENT: "there is no such file; mount its directory (chart: podResources.path)",
    errno.ENOTDIR: "there is no such file; mount its directory (chart: podResources.path)",
    errno.EACCES: "permission denied; run as root on the node (chart: podResources.path)",
    errno.EPERM: "permission denied; run as root on the node (chart: podResources.path)",
    errno.ECONNREFUSED: "nobody listens; is the kubelet running?",
}


def _why_not_open(path: str) -> str | None:
    """Say why a socket cannot be opened, in the words of another try: gRPC keeps the reason to itself."""
    with socket.socket(socket.AF_UNIX) as again:
        again.setblocking(False)
        try:
            again.connect(path)
        except BlockingIOError:
            return None  # somebody listens, and has much to do
        except (OSError, ValueError) as error:  # the latter of a path that can be none
            return _REASONS.get(getattr(error, "errno", None) or 0) or str(error)
    return None
