# SPDX-License-Identifier: Apache-2.0
"""Asks the instances that answer KEDA for their workloads, again and again.

Law: the list of an instance stays in use until its next one, or until the instance is no longer listed. An instance
that does not answer takes nothing from the others, and is reported. Reading the rows never waits.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

import grpc

from keda_gpu_scaler.cli.top.workload_rows import WorkloadRow, newest_rows, refused_row, workload_row
from keda_gpu_scaler.cli.top.workload_table import MAX_CHARACTERS, SECONDS_PER_CHARACTER
from keda_gpu_scaler.core.interfaces import Discovery, KubeError
from keda_gpu_scaler.wire import evaluation_pb2 as pb
from keda_gpu_scaler.wire.rpc_failure import rpc_failure
from keda_gpu_scaler.wire.tls import ClientTls

INTERVAL_SECONDS = 2.0
TIMEOUT_SECONDS = 3.0
MAX_CONCURRENT_CALLS = 20

_METHOD = "/keda_gpu_scaler.evaluation.v1.Evaluations/ListWorkloads"
_STEP_SECONDS = 10.0
_MAX_POINTS = int(MAX_CHARACTERS * SECONDS_PER_CHARACTER / _STEP_SECONDS)
_OPTIONS = (("grpc.enable_http_proxy", 0),)


class ListedAddresses:
    """A discovery that keeps the last listing of another one; ``listing`` has the node of each address."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self.listing: Mapping[str, str] = {}
        self.is_listed = asyncio.Event()

    async def addresses(self) -> AsyncIterator[Mapping[str, str]]:
        """Yield what the other discovery yields."""
        async with contextlib.aclosing(self._discovery.addresses()) as listings:  # type: ignore[type-var]
            async for listing in listings:
                self.listing = listing
                self.is_listed.set()
                yield listing

    async def keep_listing(self) -> None:
        """List the addresses for as long as this runs; an error is tried again."""
        while True:
            with contextlib.suppress(KubeError):
                async for _ in self.addresses():
                    pass
            self.is_listed.set()
            await asyncio.sleep(INTERVAL_SECONDS)


class WorkloadClient:
    """The workloads of the instances at some addresses.

    ``is_synced`` is set once every instance has answered, or has not.

    Args:
        addresses: the addresses to ask, and how each is shown.
        tls: how to connect; None without TLS.
        token: returns the token of the person for an address, empty for none; or raises KubeError.
    """

    def __init__(
        self,
        addresses: Callable[[], Mapping[str, str]],
        tls: ClientTls | None,
        token: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._addresses = addresses
        self._tls = tls
        self._token = token
        self._rows: dict[str, Sequence[WorkloadRow]] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._places = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self.unavailable: dict[str, str] = {}
        self.is_synced = asyncio.Event()

    def rows(self) -> tuple[WorkloadRow, ...]:
        """Return one row for each trigger, in the order of the names."""
        return newest_rows(self._rows)

    async def run(self) -> None:
        """Ask every instance at an interval."""
        while True:
            addresses = self._addresses()
            await self._forget(addresses.keys())
            await asyncio.gather(*(self._ask(address, name or address) for address, name in addresses.items()))
            if addresses:
                self.is_synced.set()
            await asyncio.sleep(INTERVAL_SECONDS if addresses else INTERVAL_SECONDS / 10)

    async def close(self) -> None:
        """Close every connection."""
        await self._forget(())

    async def _forget(self, listed: Collection[str]) -> None:
        for address in [address for address in self._channels if address not in listed]:
            await self._channels.pop(address).close()
            self._rows.pop(address, None)
            self.unavailable.pop(address, None)

    async def _ask(self, address: str, name: str) -> None:
        call = self._channel(address).unary_unary(_METHOD)
        request = pb.ListWorkloadsRequest(max_points=_MAX_POINTS).SerializeToString()
        try:
            token = self._token(address)
            headers = (("authorization", f"Bearer {token}"),) if token else ()
            async with self._places:
                answer = await call(request, timeout=TIMEOUT_SECONDS, metadata=headers)
                response = pb.WorkloadList.FromString(answer)
        except KubeError as error:
            self.unavailable[address] = str(error)
            return
        except grpc.aio.AioRpcError as error:
            self.unavailable[address] = f"{name}: {rpc_failure(error.code().name, error.details() or '')}"
            return
        except ValueError:  # the bytes are no such message
            self.unavailable[address] = f"{name}: its list of workloads cannot be read: is it another version?"
            return
        self.unavailable.pop(address, None)
        self._rows[address] = [
            *(refused_row(one, name) for one in response.refused),
            *(workload_row(one, name) for one in response.answers),
        ]

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            if self._tls is None:
                self._channels[address] = grpc.aio.insecure_channel(address, options=_OPTIONS)
            else:
                options = (*_OPTIONS, *self._tls.options())
                self._channels[address] = grpc.aio.secure_channel(address, self._tls.credentials(), options=options)
        return self._channels[address]


@asynccontextmanager
async def asked_workloads(
    agents: ListedAddresses,
    front_ends: ListedAddresses | None,
    tls: ClientTls | None,
    token: Callable[[str], str] = lambda _: "",
) -> AsyncIterator[WorkloadClient]:
    """Ask the front ends, or the agents where there is no front end, for the time of the block.

    Args:
        agents: the instances that the fleet is followed by; another task lists them.
        front_ends: the instances that KEDA calls instead; None where they cannot be found.
        tls: how to connect.
        token: as for ``WorkloadClient``.
    """

    def addresses() -> Mapping[str, str]:
        if front_ends is None:
            return agents.listing
        if not front_ends.is_listed.is_set():
            return {}
        return front_ends.listing or agents.listing

    client = WorkloadClient(addresses, tls, token)
    tasks = [asyncio.create_task(client.run(), name="workloads")]
    if front_ends is not None:
        tasks.append(asyncio.create_task(front_ends.keep_listing(), name="front ends"))
    try:
        yield client
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
