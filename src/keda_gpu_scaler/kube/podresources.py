# SPDX-License-Identifier: Apache-2.0
"""Reads from the kubelet's PodResources API which pod holds which device of this node.

Law: the kubelet's last list counts until it is stale, and then the allocations are unavailable. No caller waits for a
kubelet that hangs, returns errors or restarts.

Before Kubernetes 1.34 the kubelet also lists pods that have ended. It releases their devices before it lists them, and
the API server has no pod of that name any more, so their allocations match no pod.
"""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import grpc
from google.protobuf.message import DecodeError

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.types import Allocation
from keda_gpu_scaler.wire import podresources_pb2 as pb

DEFAULT_PATH = "/var/lib/kubelet/pod-resources/kubelet.sock"
LIST = "/v1.PodResourcesLister/List"
TIMEOUT_SECONDS = 2.0
"""The limit of one List, for which a kubelet needs about a millisecond."""
MAX_ALLOCATIONS = 16384
MAX_SINGLE_IDS = 128
"""A container with more ids of one resource holds units and not devices: no node has as many devices and replicas."""
MAX_UNIT_GROUPS = 1024
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
    """A node's allocations, as its kubelet reports them.

    ``failure`` says why the last List did not succeed, None where it did. ``held`` may be called from any thread;
    ``run`` belongs to one event loop.

    Args:
        path: the socket. A pod must mount its directory, because the kubelet replaces the socket when it restarts.
        interval_seconds: the time between two calls of List.
        stale_after_seconds: the age above which a list is stale.
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
        self._received: tuple[float, tuple[Allocation, ...]] | None = None
        self._ignored_text: str | None = None
        self._uncounted_resource: str | None = None
        self.failure: str | None = None

    def held(self, now: float) -> tuple[Allocation, ...] | None:
        """Return every allocation, sorted, or None where they are unavailable; the same object until they change."""
        received = self._received
        if received is None or now - received[0] > self._stale_after:
            return None
        return received[1]

    async def run(self) -> None:
        """Call List in a loop, until cancelled."""
        while True:
            try:
                # Each failure is followed by a new channel: the old one would wait for its back-off to end.
                async with grpc.aio.insecure_channel(f"unix:{self._path}", options=_OPTIONS) as channel:
                    while await self.list_once(channel):
                        await asyncio.sleep(self._interval)
            except Exception as error:  # an unexpected error must not end the loop
                sentence = f"{self._path}: unexpected {type(error).__name__}: {str(error)[:200]}"
                self._record_failure(sentence, error)
            await asyncio.sleep(min(self._interval, _RETRY_SECONDS))

    async def list_once(self, channel: grpc.aio.Channel) -> bool:
        """Call List once; return whether there was a response that is a list."""
        # The response is read as bytes: gRPC would turn one that cannot be parsed into None, and log a traceback.
        list_pods = channel.unary_unary(LIST)
        try:
            response = pb.ListPodResourcesResponse.FromString(await list_pods(b"", timeout=TIMEOUT_SECONDS))
        except grpc.aio.AioRpcError as error:
            self._record_failure(_explained(self._path, error.code(), error.details() or ""))
            return False
        except DecodeError:
            self._record_failure(f"{self._path}: the server is not a kubelet: it speaks another protocol")
            return False
        self.accept(response)
        return True

    def accept(self, response: pb.ListPodResourcesResponse) -> None:
        """Keep a list, if it is plausible for a node."""
        if not response.pod_resources:
            # This program runs in a pod of the node, so a kubelet that lists none has not read its pods yet.
            self._record_failure(f"{self._path}: the kubelet lists no pods, not even this one: has it just started?")
            return
        # The number is checked before any other work: a faulty kubelet must not block the event loop.
        refused: list[str] = []
        listed = list(islice(_allocations(response, refused), MAX_ALLOCATIONS + 1))
        self._record_uncounted(refused[0] if refused else None)
        if len(listed) > MAX_ALLOCATIONS:
            self._record_failure(f"{self._path}: more than {MAX_ALLOCATIONS} allocations: not plausible for one node")
            return
        ignored = [text for allocation in listed for text in _texts(allocation) if not _is_plausible(text)]
        self._record_ignored(ignored[0] if ignored else None)
        if ignored:
            listed = [allocation for allocation in listed if all(map(_is_plausible, _texts(allocation)))]
        allocations = tuple(sorted(set(listed)))
        before = self._received
        # An unchanged list stays the same object, so that callers can compare by identity.
        is_same = before is not None and before[1] == allocations
        self._received = (self._clock(), before[1] if before is not None and is_same else allocations)
        if self.failure is not None:
            _log.info("the kubelet reports allocations again: %d", len(allocations))
        self.failure = None

    def _record_failure(self, sentence: str, error: Exception | None = None) -> None:
        """Keep a failure, and log it if it is another one than before."""
        is_new, self.failure = sentence != self.failure, sentence
        if is_new:
            _log.warning("%s", sentence, exc_info=error)

    def _record_ignored(self, text: str | None) -> None:
        """Log once that allocations with an implausible name are left out."""
        is_new, self._ignored_text = text is not None and text != self._ignored_text, text
        if is_new:
            _log.warning(
                "%s: allocations with names like %s are left out: names must have 1 to %d printable characters",
                self._path,
                quoted(text),
                _MAX_TEXT_LENGTH,
            )

    def _record_uncounted(self, resource: str | None) -> None:
        """Log once that a resource is left out, because its ids are neither devices nor units of devices."""
        is_new, self._uncounted_resource = resource is not None and resource != self._uncounted_resource, resource
        if is_new:
            _log.warning(
                "%s: the resource %s is left out: a container has more than %d ids of it that differ in more than a "
                "number at their end",
                self._path,
                quoted(resource),
                MAX_UNIT_GROUPS,
            )


def _allocations(response: pb.ListPodResourcesResponse, refused: list[str]) -> Iterator[Allocation]:
    """Yield every allocation; resources that are left out are added to ``refused``."""
    for pod in response.pod_resources:
        for container in pod.containers:
            for devices in container.devices:
                resource = devices.resource_name
                counted = _counted(devices.device_ids)
                if counted is None:
                    refused.append(resource)
                    continue
                for device_id, quantity in counted:
                    yield Allocation(pod.namespace, pod.name, container.name, resource, device_id, quantity)
            for dynamic in container.dynamic_resources:
                for claim in dynamic.claim_resources:
                    yield Allocation(pod.namespace, pod.name, container.name, claim.driver_name, claim.device_name)


def _counted(ids: Sequence[str]) -> Iterable[tuple[str, int]] | None:
    """Return ids with their quantities; None where there are too many.

    Plugins that share memory list each unit as a device ("GPU-…-_-17"), 20,000 of them on a node. Units that differ
    only in the number at their end are one entry: the first of them, with their quantity.
    """
    if len(ids) <= MAX_SINGLE_IDS:
        return [(one, 1) for one in ids]
    units: dict[str, list[str]] = {}
    for one in ids:
        stem = one.rstrip("0123456789")
        if stem not in units and len(units) >= MAX_UNIT_GROUPS:
            return None
        units.setdefault(stem, []).append(one)
    return [(min(alike, key=lambda one: (len(one), one)), len(alike)) for alike in units.values()]


def _texts(allocation: Allocation) -> tuple[str, ...]:
    return allocation.namespace, allocation.pod, allocation.container, allocation.resource, allocation.device_id


def _is_plausible(text: str) -> bool:
    return 0 < len(text) <= _MAX_TEXT_LENGTH and text.isprintable()


def _explained(path: str, code: grpc.StatusCode, details: str) -> str:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{path}: the kubelet gave no answer in {TIMEOUT_SECONDS:g} s; is it overloaded?"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{path}: this kubelet does not serve the PodResources API v1; Kubernetes 1.20 and later do"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f"{path}: the kubelet refuses: too many requests, or too large a response: {details[:200]!a}"
    reason = _connect_error(path)
    return f"cannot open {path}: {reason}" if reason else f"{path}: the kubelet answers {code.name}: {details[:200]!a}"


_REASONS = {
    errno.ENOENT: "there is no such file; mount its directory (chart: podResources.path)",
    errno.ENOTDIR: "there is no such file; mount its directory (chart: podResources.path)",
    errno.EACCES: "permission denied; run as root on the node (chart: podResources.path)",
    errno.EPERM: "permission denied; run as root on the node (chart: podResources.path)",
    errno.ECONNREFUSED: "no process listens; is the kubelet running?",
}


def _connect_error(path: str) -> str | None:
    """Return why a socket cannot be opened, from an attempt of its own: gRPC does not report the reason."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return None  # a process listens, and its queue is full
        except (OSError, ValueError) as error:  # ValueError: the path contains a NUL character
            return _REASONS.get(getattr(error, "errno", None) or 0) or str(error)
    return None
