# SPDX-License-Identifier: Apache-2.0
"""Where are the agents, for somebody outside of their cluster? On this machine, each forwarded through the API server.

The law of this module: an agent has an address here for as long as its pod runs. One whose port cannot be forwarded
takes none from the others, and is not dropped in silence.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.parse import is_name
from keda_gpu_scaler.kube.port_forward import PortForwarder
from keda_gpu_scaler.kube.reflector import Reflector, ResourceQuery
from keda_gpu_scaler.kube.scaler_discovery import DEFAULT_PORT, LABEL

AGENTS = f"{LABEL},app.kubernetes.io/component=agent"
AT_ONCE = 20
"""So many connections are being asked for at the same time."""
RETRY_SECONDS = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentPod:
    """A pod of ours that runs, and the port on which it answers."""

    namespace: str
    pod: str
    node: str
    port: int


class AgentPortForwards:
    """A directory of the pods that bear an agent's labels.

    ``refused`` says of those that cannot be reached why, by node or else pod.

    Args:
        api: the API server.
        namespace: where they are; empty for anywhere.
        clock: monotonic seconds.
    """

    def __init__(self, api: PortForwarder, namespace: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._place = ResourceQuery("pods", namespace=namespace, labels=AGENTS)
        self._clock = clock
        self._open: dict[AgentPod, tuple[int, contextlib.AsyncExitStack]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self.refused: dict[str, str] = {}

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield every agent's address on this machine with its node's name, at first and on every change.

        Raises:
            KubeError: they cannot be read, or not one can be reached.
        """
        news = asyncio.Event()
        collection = Reflector(self._api, self._place, agents, self._clock, news.set)
        task = asyncio.create_task(collection.run(), name=f"watch {self._place}")
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    is_missing = bool(_running(collection) - self._open.keys())
                    async with asyncio.timeout(RETRY_SECONDS if is_missing else None):
                        await news.wait()
                news.clear()
                if lack := collection.unavailable(self._clock()):
                    raise KubeError(f"{lack.reason}; or name instances: --address HOST:PORT")
                await self._turn_to(_running(collection))
                yield {f"127.0.0.1:{port}": one.node for one, (port, _) in self._open.items()}
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for one in list(self._open):
                await self._close(one)

    async def _turn_to(self, agents: frozenset[AgentPod]) -> None:
        for gone in self._open.keys() - agents:
            await self._close(gone)
        asked = sorted(agents - self._open.keys(), key=lambda one: (one.namespace, one.pod))
        refusals = await asyncio.gather(*map(self._forward, asked))
        self.refused = {one.node or one.pod: why for one, why in zip(asked, refusals, strict=True) if why}
        if self.refused and not self._open:
            why = next(iter(self.refused.values()))
            raise KubeError(f"{why}; a port-forward needs the right to create pods/portforward")

    async def _forward(self, one: AgentPod) -> str:
        """Open a way to an agent; return why there is none, empty where there is one."""
        stack = contextlib.AsyncExitStack()
        async with self._places:
            try:
                port = await stack.enter_async_context(self._api.forward(one.namespace, one.pod, one.port))
            except ApiError as error:
                _log.warning("pod %s/%s: %s", one.namespace, one.pod, error)
                return f"pod {one.namespace}/{one.pod}: {error}"
        self._open[one] = port, stack
        return ""

    async def _close(self, one: AgentPod) -> None:
        _, stack = self._open.pop(one)
        await stack.aclose()


def _running(collection: Reflector[tuple[AgentPod, ...]]) -> frozenset[AgentPod]:
    return frozenset(one for found in collection.items.values() for one in found)


def agents(item: Mapping[str, Any]) -> tuple[AgentPod, ...]:
    """Keep of a pod what is needed to reach it; nothing where it does not run."""
    metadata, spec, status = (_part(item, key) for key in ("metadata", "spec", "status"))
    namespace, name = str(metadata.get("namespace", "")), str(metadata.get("name", ""))
    if metadata.get("deletionTimestamp") or status.get("phase") != "Running" or not is_name(name):
        return ()
    return (AgentPod(namespace, name, str(spec.get("nodeName") or ""), _port(spec)),)


def _port(spec: Mapping[str, Any]) -> int:
    containers = spec.get("containers")
    for container in containers if isinstance(containers, list) else ():
        for port in container.get("ports") or ():
            if port.get("name") == "grpc" and isinstance(port.get("containerPort"), int):
                return int(port["containerPort"])
    return DEFAULT_PORT


def _part(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = item.get(key)
    return value if isinstance(value, Mapping) else {}
