# SPDX-License-Identifier: Apache-2.0
"""Where are the other instances? Where Kubernetes says that a headless service's endpoints are."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from keda_gpu_scaler.core.counters import Watches
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import ApiClient
from keda_gpu_scaler.kube.parse import SliceEndpoint, endpoints
from keda_gpu_scaler.kube.reflector import Reflector, ResourceQuery


class EndpointSlices:
    """A directory of the pods behind a service.

    Args:
        api: the API server.
        namespace: the service's.
        service: its name.
        clock: monotonic seconds.
    """

    def __init__(
        self, api: ApiClient, namespace: str, service: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._clock = clock
        self._place = ResourceQuery(
            "endpointslices",
            "discovery.k8s.io",
            namespace=namespace,
            labels=f"kubernetes.io/service-name={service}",
        )
        self._collection: Reflector[tuple[SliceEndpoint, ...]] | None = None

    def watches(self) -> Watches:
        """Count what is watched, by resource and state."""
        if self._collection is None:
            return {}
        return {(self._place.kind, self._collection.state(self._clock())): 1}

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield every endpoint's address with its node's name, at first and on every change.

        Raises:
            KubeError: they cannot be read now.
        """
        news = asyncio.Event()
        collection = Reflector(self._api, self._place, endpoints, self._clock, news.set)
        self._collection = collection
        task = asyncio.create_task(collection.run(), name=f"watch {self._place}")
        try:
            while True:
                await news.wait()
                news.clear()
                if lack := collection.unavailable(self._clock()):
                    raise KubeError(f"--peers: {lack.reason}")
                yield _addresses(collection.items.values())
        finally:
            self._collection = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _addresses(slices: Iterable[tuple[SliceEndpoint, ...]]) -> Mapping[str, str]:
    """Put slices together: one address a pod, the same for all who see the same; IPv4's where it has both."""
    every = sorted(
        (found for one in slices for found in one), key=lambda found: (found.address[0] == "[", found.address)
    )
    chosen: dict[str, SliceEndpoint] = {}
    for found in every:
        chosen.setdefault(found.pod, found)
    return {found.address: found.node for found in chosen.values()}
