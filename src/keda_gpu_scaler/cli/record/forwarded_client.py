# SPDX-License-Identifier: Apache-2.0
"""Fetches pages of pods from outside of their cluster, each through a forwarded port.

Law: a port that the pod refuses is refused here too, and not merely closed.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.kube.port_forward import PortForwarder
from keda_gpu_scaler.scrape.http_client import HttpClient
from keda_gpu_scaler.scrape.types import FailureKind, FetchedPage, FetchError, OpenReader, ResolvedHost, Target

LOOPBACK = "127.0.0.1"
_REFUSED = "refused"
_Place = tuple[str, str, int]


class ForwardedClient:
    """Fetches pages of pods through the API server.

    Args:
        api: the API server.
        client: fetches pages from loopback.
    """

    def __init__(self, api: PortForwarder, client: HttpClient) -> None:
        self._api = api
        self._client = client
        self._stack = contextlib.AsyncExitStack()
        self._ports: dict[_Place, asyncio.Task[int]] = {}
        self._failures: dict[_Place, str] = {}

    async def resolve(self, url: Url, namespace: str | None) -> ResolvedHost:
        """Raise FetchError: the cluster's names and addresses have no meaning here."""
        raise FetchError("a URL is not scraped from outside of the cluster")

    async def fetch(self, target: Target, open_reader: OpenReader) -> FetchedPage:
        """Fetch the page of a pod for its reader; raises FetchError, and what the reader raises."""
        place = (target.namespace or "", target.pod or "", target.url.port)
        self._failures.pop(place, None)
        port = await self._port(place)
        local = replace(target, address=LOOPBACK, forwarded_port=port)  # credentials are bound to the port of the pod
        try:
            return await self._client.fetch(local, open_reader)
        except FetchError as error:
            reason = self._failures.get(place)
            if not reason:
                raise
            if _REFUSED in reason:
                sentence, kind = "the connection is refused", FailureKind.REFUSED
            else:
                sentence, kind = f"the port cannot be forwarded: {reason}", FailureKind.UNREADABLE
            raise FetchError(sentence, kind, answer_seconds=error.answer_seconds) from None

    def expire_idle(self) -> None:
        """Close connections that were not used recently."""
        self._client.expire_idle()

    def close(self) -> None:
        """Close every connection to loopback; ``aclose`` ends the port-forwards."""
        self._client.close()

    async def aclose(self) -> None:
        """End every port-forward."""
        for opening in self._ports.values():
            opening.cancel()
        await asyncio.gather(*self._ports.values(), return_exceptions=True)
        await self._stack.aclose()

    async def _port(self, place: _Place) -> int:
        """Return the local port of a pod's port.

        Raises:
            FetchError: the API server refuses to forward it.
        """
        if place not in self._ports:
            self._ports[place] = asyncio.create_task(self._forward(place))
        try:
            return await asyncio.shield(self._ports[place])
        except KubeError as error:
            self._ports.pop(place, None)
            raise FetchError(f"the port cannot be forwarded: {error}") from None

    async def _forward(self, place: _Place) -> int:
        note: Callable[[str], None] = lambda reason: self._failures.__setitem__(place, reason)  # noqa: E731
        return await self._stack.enter_async_context(self._api.forward(*place, on_failure=note))
