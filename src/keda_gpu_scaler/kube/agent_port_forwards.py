# SPDX-License-Identifier: Apache-2.0
"""Discovers the agents from outside of their cluster, and forwards a local port to each of them.

Law: an agent keeps its address for as long as its pod runs. An agent whose port cannot be forwarded takes no address
from the others, and is reported.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.item_store import ItemStore
from keda_gpu_scaler.kube.port_forward import PortForwarder
from keda_gpu_scaler.kube.reflector import Reflector
from keda_gpu_scaler.kube.resource_query import ResourceQuery
from keda_gpu_scaler.kube.scaler_discovery import (
    AGENT,
    COMPONENT_LABEL,
    COMPONENTS,
    FRONT_END,
    LABEL,
    ScalerPod,
    scaler_pod,
)

AGENTS = f"{LABEL},{COMPONENT_LABEL}={AGENT}"
FRONT_ENDS = f"{LABEL},{COMPONENT_LABEL}={FRONT_END}"
ANSWERING = f"{LABEL},{COMPONENT_LABEL} in ({','.join(COMPONENTS)})"
MAX_CONCURRENT_REQUESTS = 20
"""How many connections are opened at the same time."""
RETRY_SECONDS = 10.0
"""How soon a connection is tried again that could not be opened."""

_log = logging.getLogger(__name__)


class AgentPortForwards:
    """A discovery of the pods with an agent's labels, or with those of a front end.

    ``refused`` says why an agent has no address, by node or, where the node is not known, by pod.

    Args:
        api: the API server.
        namespace: the agents' namespace; empty for every namespace.
        clock: monotonic seconds.
        labels: the selector of the pods.
        read: returns the pod and port of an object; None where it has none.
    """

    def __init__(
        self,
        api: PortForwarder,
        namespace: str = "",
        clock: Callable[[], float] = time.monotonic,
        labels: str = AGENTS,
        read: Callable[[Mapping[str, Any]], ScalerPod | None] = scaler_pod,
    ) -> None:
        self._api = api
        self._query = ResourceQuery("pods", namespace=namespace, labels=labels)
        self._clock = clock
        self._read = read
        self._open: dict[ScalerPod, tuple[int, contextlib.AsyncExitStack]] = {}
        self._requests = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)
        self.refused: dict[str, str] = {}

    def pods(self) -> Mapping[str, ScalerPod]:
        """Return the pod behind each local address."""
        return {_local(port): pod for pod, (port, _) in self._open.items()}

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield every agent's local address with its node's name, first at once and then on every change.

        Raises:
            KubeError: the pods cannot be listed, or no agent can be reached.
        """
        changed = asyncio.Event()
        store = ItemStore(self._query, self._read)
        reflector = Reflector(self._api, self._query, store, self._clock, changed.set)
        task = asyncio.create_task(reflector.run(), name=f"watch {self._query}")
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    is_missing = bool(_running(store) - self._open.keys())
                    async with asyncio.timeout(RETRY_SECONDS if is_missing else None):
                        await changed.wait()
                changed.clear()
                if unavailable := reflector.unavailable(self._clock()):
                    raise KubeError(f"{unavailable.reason}; or name instances: --address HOST:PORT")
                await self._update(_running(store))
                yield {address: pod.node for address, pod in self.pods().items()}
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for pod in list(self._open):
                await self._close(pod)

    async def _update(self, agents: frozenset[ScalerPod]) -> None:
        """Close the connections of pods that are gone, and open those of new pods.

        Raises:
            KubeError: no agent can be reached.
        """
        for gone in self._open.keys() - agents:
            await self._close(gone)
        new = sorted(agents - self._open.keys(), key=lambda pod: (pod.namespace, pod.pod))
        refusals = await asyncio.gather(*map(self._forward, new))
        self.refused = {pod.node or pod.pod: reason for pod, reason in zip(new, refusals, strict=True) if reason}
        if self.refused and not self._open:
            reason = next(iter(self.refused.values()))
            raise KubeError(f"{reason}; a port-forward needs the right to create pods/portforward")

    async def _forward(self, pod: ScalerPod) -> str:
        """Forward a port to an agent; return why it cannot be forwarded, empty where it is."""
        stack = contextlib.AsyncExitStack()
        async with self._requests:
            try:
                port = await stack.enter_async_context(self._api.forward(pod.namespace, pod.pod, pod.port))
            except ApiError as error:
                _log.warning("%s: %s", pod, error)
                return f"{pod}: {error}"
        self._open[pod] = port, stack
        return ""

    async def _close(self, pod: ScalerPod) -> None:
        _, stack = self._open.pop(pod)
        await stack.aclose()


def _local(port: int) -> str:
    return f"127.0.0.1:{port}"


def _running(store: ItemStore[ScalerPod | None]) -> frozenset[ScalerPod]:
    return frozenset(pod for pod in store.items.values() if pod is not None)
