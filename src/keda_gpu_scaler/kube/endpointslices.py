# SPDX-License-Identifier: Apache-2.0
"""Discovers the instances behind a headless Service through its EndpointSlices."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from keda_gpu_scaler.core.instance_status import Watches
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.item_store import ItemStore
from keda_gpu_scaler.kube.parse import SliceEndpoint, endpoints
from keda_gpu_scaler.kube.reflector import Reflector
from keda_gpu_scaler.kube.resource_query import ResourceQuery


class EndpointSlices:
    """A discovery of the pods behind a Service.

    Args:
        api: the API server.
        namespace: the Service's namespace.
        service: the Service's name.
        clock: monotonic seconds.
    """

    def __init__(
        self, api: ApiClient, namespace: str, service: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._clock = clock
        self._query = ResourceQuery(
            "endpointslices",
            "discovery.k8s.io",
            namespace=namespace,
            labels=f"kubernetes.io/service-name={service}",
        )
        self._reflector: Reflector | None = None

    def watches(self) -> Watches:
        """Count the open watches by resource and state."""
        if self._reflector is None:
            return {}
        return {(self._query.kind, self._reflector.state(self._clock())): 1}

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield every endpoint's address with its node's name, first at once and then on every change.

        Raises:
            KubeError: the slices cannot be read now.
        """
        changed = asyncio.Event()
        store = ItemStore(self._query, endpoints)
        reflector = Reflector(self._api, self._query, store, self._clock, changed.set)
        self._reflector = reflector
        task = asyncio.create_task(reflector.run(), name=f"watch {self._query}")
        try:
            while True:
                await changed.wait()
                changed.clear()
                if unavailable := reflector.unavailable(self._clock()):
                    raise KubeError(f"--peers: {unavailable.reason}")
                yield _merged(store.items.values())
        finally:
            self._reflector = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _merged(slices: Iterable[tuple[SliceEndpoint, ...]]) -> Mapping[str, str]:
    """Merge slices: one address for each pod, the IPv4 address where it has both kinds.

    The result depends on the endpoints alone and not on their order, so every instance gets the same one.
    """
    every = sorted(
        (endpoint for one_slice in slices for endpoint in one_slice),
        key=lambda endpoint: (endpoint.address[0] == "[", endpoint.address),
    )
    chosen: dict[str, SliceEndpoint] = {}
    for endpoint in every:
        chosen.setdefault(endpoint.pod_id, endpoint)
    return {endpoint.address: endpoint.node for endpoint in chosen.values()}
