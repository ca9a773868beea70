# SPDX-License-Identifier: Apache-2.0
"""Which pod holds which device of this node? The kubelet's PodResources API, asked at our own pace.

The law of this module: what the kubelet said last holds until it is stale, and then nobody knows. A kubelet that
hangs, errs or restarts keeps nobody waiting.

Before Kubernetes 1.34 the kubelet also lists pods that have ended; whoever reads allocations beside the API server's
pods leaves those out.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError

from keda_gpu_scaler.core.model import Allocation
from keda_gpu_scaler.wire import podresources_pb2 as pb

DEFAULT_PATH = "/var/lib/kubelet/pod-resources/kubelet.sock"
LIST = "/v1.PodResourcesLister/List"
TIMEOUT_SECONDS = 2.0
"""For one List, which takes a kubelet about a millisecond."""
MAX_ALLOCATIONS = 16384
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
            # A channel of its own after every failure: one that saw the old socket vanish would wait out its back-off.
            async with grpc.aio.insecure_channel(f"unix:{self._path}", options=_OPTIONS) as channel:
                while await self.ask(channel):
                    await asyncio.sleep(self._interval)
            await asyncio.sleep(self._interval)

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
        allocations = _read(answer)
        if len(allocations) > MAX_ALLOCATIONS:
            self._note_failure(f"{self._path}: {len(allocations)} allocations: one node has at most {MAX_ALLOCATIONS}")
            return True
        before = self._heard
        # The same object as before says that nothing changed, to everybody who looks.
        same = before is not None and before[1] == allocations
        self._heard = (self._clock(), before[1] if before is not None and same else allocations)
        if self.failure is not None:
            _log.info("the kubelet tells allocations again: %d", len(allocations))
        self.failure = None
        return True

    def _note_failure(self, sentence: str) -> None:
        is_news, self.failure = sentence != self.failure, sentence
        if is_news:
            _log.warning("%s", sentence)


def _read(answer: pb.ListPodResourcesResponse) -> tuple[Allocation, ...]:
    """Return the allocations, sorted; names that no device of ours could have are left out."""
    return tuple(sorted({allocation for allocation in _allocations(answer) if _is_plausible(allocation)}))


def _allocations(answer: pb.ListPodResourcesResponse) -> Iterator[Allocation]:
    for pod in answer.pod_resources:
        for container in pod.containers:
            for devices in container.devices:
                for device_id in devices.device_ids:
                    yield Allocation(pod.namespace, pod.name, container.name, devices.resource_name, device_id)
            for dynamic in container.dynamic_resources:
                for claim in dynamic.claim_resources:
                    yield Allocation(pod.namespace, pod.name, container.name, claim.driver_name, claim.device_name)


def _is_plausible(allocation: Allocation) -> bool:
    texts = (allocation.namespace, allocation.pod, allocation.container, allocation.resource, allocation.device_id)
    return all(text and len(text) <= _MAX_TEXT_LENGTH and text.isprintable() for text in texts)


def _why(path: str, code: grpc.StatusCode, details: str) -> str:
    cannot = f"cannot open {path}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{path}: the kubelet gave no answer in {TIMEOUT_SECONDS:g} s; is it overloaded?"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{path}: this kubelet does not serve the PodResources API v1; it is there from Kubernetes 1.20 on"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f"{path}: the kubelet refuses, too many questions or too large an answer: {details[:200]!a}"
    if code is not grpc.StatusCode.UNAVAILABLE:
        return f"{path}: the kubelet answers {code.name}: {details[:200]!a}"
    if not Path(path).exists():
        return f"{cannot}: there is no such file; mount its directory (chart: podResources.path)"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"{cannot}: permission denied; run as root on the node (chart: podResources.path)"
    return f"{cannot}: nobody listens; is the kubelet running?"
