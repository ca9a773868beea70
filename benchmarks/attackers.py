# SPDX-License-Identifier: Apache-2.0
"""Attacks one instance with hostile triggers, invented names and slow connections.

``bench_attack`` starts this process with the address, the ports of the pages for people and probes, and the ports of
the hostile pages.
"""

import asyncio
import contextlib
import itertools
import random
import sys
from collections.abc import Coroutine
from typing import Any

import grpc

from benchmarks.attack_scene import HONEST, KINDS, NAME, NAMESPACE, hostile_metadata
from keda_gpu_scaler.wire import externalscaler_pb2 as pb

INVENTED = 2_000
INVENTED_PER_SECOND = INVENTED / 30
"""Names that are asked in a second, with GetMetrics and StreamIsActive: each once in KEDA's usual interval."""
INVENTED_NAMESPACES = 20
SLOW_CONNECTIONS = 600
_HOSTILE_SECONDS = 2.0
_CHANNELS = 8
_SERVICE = "/externalscaler.ExternalScaler"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


class Client:
    """Connections of their own, over which calls are sent."""

    def __init__(self, address: str) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channels = itertools.cycle(
            [grpc.aio.insecure_channel(address, options=options) for _ in range(_CHANNELS)]
        )
        self._streams: set[asyncio.Task[None]] = set()

    async def get_metrics(self, ref: pb.ScaledObjectRef) -> None:
        """Ask for the value, and ignore the answer."""
        request = pb.GetMetricsRequest(scaledObjectRef=ref).SerializeToString()
        with contextlib.suppress(grpc.aio.AioRpcError):
            await next(self._channels).unary_unary(f"{_SERVICE}/GetMetrics")(request, timeout=20)

    def stream(self, ref: pb.ScaledObjectRef) -> None:
        """Open a stream, and keep it open if it is not refused."""
        task = asyncio.create_task(self._read(next(self._channels), ref.SerializeToString()))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    async def _read(self, channel: grpc.aio.Channel, request: bytes) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in channel.unary_stream(f"{_SERVICE}/StreamIsActive")(request):
                pass


async def invent(client: Client) -> None:
    """Ask for names that do not exist, and for an existing name with invented metadata."""
    for number in itertools.count():
        name = number % INVENTED
        ref = pb.ScaledObjectRef(
            name=f"invented-{name}",
            namespace=f"invented-{name % INVENTED_NAMESPACES}" if name % 2 else NAMESPACE,
            scalerMetadata={**HONEST, "metricName": f"evil{name}"},
        )
        if not name % 5:
            ref = pb.ScaledObjectRef(
                name=NAME, namespace=NAMESPACE, scalerMetadata={**HONEST, "metricName": f"e{name}"}
            )
        client.stream(ref)
        task = asyncio.create_task(client.get_metrics(ref))
        await asyncio.sleep(1 / INVENTED_PER_SECOND)
        del task


async def ask_hostile(client: Client, number: int, port: int) -> None:
    """Ask for a hostile trigger that its ScaledObject declares."""
    metadata = hostile_metadata(KINDS[number % len(KINDS)], number, port)
    while True:
        ref = pb.ScaledObjectRef(name=f"hostile-{number}", namespace="evil", scalerMetadata=metadata)
        await client.get_metrics(ref)
        await asyncio.sleep(_HOSTILE_SECONDS)


async def hold_slowly(host: str, port: int, beginning: bytes) -> None:
    """Hold a connection by sending a byte now and then; connect again when it is closed."""
    while True:
        await asyncio.sleep(random.random())  # noqa: S311 - not all at once
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(beginning)
                while not reader.at_eof():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1.0):
                            await reader.read(1 << 16)
                    writer.write(b"x")
            finally:
                writer.transport.abort()


async def attack(kinds: str, address: str, pages: int, probes: int, hostile: list[int]) -> None:
    """Attack in these ways until standard input ends."""
    client = Client(address)
    host, _, port = address.rpartition(":")
    slow = itertools.cycle(
        [(pages, b"GET /metrics HTTP/1.1\r\nHost: "), (probes, b""), (int(port), b""), (int(port), _PREFACE)]
    )
    attacks: list[Coroutine[Any, Any, None]] = []
    if "invented" in kinds:
        attacks.append(invent(client))
    if "hostile" in kinds:
        attacks += [ask_hostile(client, number, page) for number, page in enumerate(hostile)]
    if "slow" in kinds:
        attacks += [hold_slowly(host, place, begin) for place, begin in itertools.islice(slow, SLOW_CONNECTIONS)]
    running = list(map(asyncio.ensure_future, attacks))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(attack(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), list(map(int, sys.argv[5:]))))
