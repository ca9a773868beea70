# SPDX-License-Identifier: Apache-2.0
"""The connection to the API server, and the workloads and agents that are read through it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING

from keda_gpu_scaler.core.instance_status import Watches
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.core.trigger.declared_objects import DeclaredObjects
from keda_gpu_scaler.core.types import Unavailable, Workload
from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.remote.on_first_use import OnFirstUse

if TYPE_CHECKING:
    from keda_gpu_scaler.kube.client import ApiClient
    from keda_gpu_scaler.kube.endpointslices import EndpointSlices
    from keda_gpu_scaler.kube.workloads import Workloads


class ApiConnection:
    """The connection to the API server, which the cluster, the events and the discovery of agents share."""

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self._opening = OnFirstUse(lambda: asyncio.create_task(self._open(), name="API server"))

    async def client(self) -> "ApiClient":
        """Return the client, connected on first use.

        Raises:
            KubeError: the certificates cannot be used.
        """
        return await asyncio.shield(self._opening.open())

    async def close(self) -> None:
        """Close the connection."""
        if self._opening.opened is not None:
            [outcome] = await asyncio.gather(self._opening.opened, return_exceptions=True)
            if not isinstance(outcome, BaseException):
                await outcome.close()

    async def _open(self) -> "ApiClient":
        from keda_gpu_scaler.kube.client import ApiClient, preload

        await asyncio.get_running_loop().run_in_executor(None, preload)
        return ApiClient(self.config)


class RemoteCluster:
    """The cluster's workloads; the first request opens the connection to the API server."""

    def __init__(self, api: ApiConnection, clock: Callable[[], float], on_change: Callable[[], None]) -> None:
        self._api = api
        self._clock = clock
        self._on_change = on_change
        self._opening = OnFirstUse(lambda: asyncio.create_task(self._open(), name="cluster"))
        self._workloads: Workloads | None = None
        self._unavailable = Unavailable("the connection to the API server is being opened", is_permanent=False)

    def workload(self, namespace: str, name: str, proposed_spec: str = "") -> Workload | Unavailable:
        """Return what is known of a workload; it is watched from now on."""
        if self._workloads is not None:
            return self._workloads.workload(namespace, name, proposed_spec)
        self._opening.open()
        return self._unavailable

    async def wait_for_sync(self, namespace: str, name: str, proposed_spec: str = "") -> None:
        """Return once the workload was read, or found to be unreadable."""
        await asyncio.shield(self._opening.open())
        if self._workloads is not None:
            await self._workloads.wait_for_sync(namespace, name, proposed_spec)

    def node_labels(self) -> Mapping[str, Mapping[str, str]] | Unavailable:
        """Return every node's labels by its name, or why they are unknown."""
        if self._workloads is not None:
            return self._workloads.node_labels()
        self._opening.open()
        return self._unavailable

    def declarations(self) -> Mapping[str, DeclaredObjects]:
        """Return what the objects of each watched namespace declare."""
        return self._workloads.declarations() if self._workloads is not None else {}

    def pod_addresses(self, namespace: str) -> frozenset[str]:
        """Return the addresses of the pods of the watched workloads of a namespace."""
        return self._workloads.pod_addresses(namespace) if self._workloads is not None else frozenset()

    def watches(self) -> Watches:
        """Count the watches, by resource and state."""
        return self._workloads.watches() if self._workloads is not None else {}

    def expire_idle(self) -> None:
        """Release the workloads that were not requested for a while."""
        if self._workloads is not None:
            self._workloads.expire_idle()

    async def close(self) -> None:
        """End all watches."""
        if self._opening.opened is not None:
            self._opening.opened.cancel()
            await asyncio.gather(self._opening.opened, return_exceptions=True)
        if self._workloads is not None:
            await self._workloads.close()

    async def _open(self) -> None:
        try:
            client = await self._api.client()
        except KubeError as error:
            self._unavailable = Unavailable(str(error), is_permanent=True)
            return
        from keda_gpu_scaler.kube.workloads import Workloads

        self._workloads = Workloads(client, clock=self._clock, on_change=self._on_change)
        self._on_change()


class AgentDiscovery:
    """The agents' addresses: the endpoints of their headless service, watched on first use."""

    def __init__(self, api: ApiConnection, service: str, clock: Callable[[], float]) -> None:
        self._api = api
        self._service = service
        self._clock = clock
        self._slices: EndpointSlices | None = None

    def watches(self) -> Watches:
        """Count the watches, by resource and state."""
        return self._slices.watches() if self._slices is not None else {}

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield the addresses as ``EndpointSlices`` does."""
        from keda_gpu_scaler.kube.endpointslices import EndpointSlices

        client = await self._api.client()
        slices = self._slices = EndpointSlices(client, self._api.config.namespace, self._service, self._clock)
        async for addresses in slices.addresses():
            yield addresses
