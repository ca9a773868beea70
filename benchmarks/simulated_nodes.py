# SPDX-License-Identifier: Apache-2.0
"""Simulates nodes that share their snapshots, and an API server with workloads, in one process.

Each node is a ``FleetServer`` with a new simulated snapshot every second; the nodes start at different times within the
second. The utilisation changes only on request; all other readings change every second. All nodes listen on one port,
each at its own address (127.0.x.y). ``bench_fleet`` starts this process, reads one line of JSON from it, and writes
"NODE PERCENT" to set the utilisation of a node.
"""

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from benchmarks.lab import namespace_of
from keda_gpu_scaler.core.state.fleet import History
from keda_gpu_scaler.core.types import Allocation, Device, Sample, Snapshot
from keda_gpu_scaler.peers.server import FleetServer
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire import fleet_pb2_grpc as pb_grpc
from tests.apiserver import FakeApiServer

GIB = 1 << 30
_MODEL = "NVIDIA H100 80GB HBM3"


class SimulatedNode:
    """A node whose utilisation is set from outside, and whose pods have one device each."""

    def __init__(self, number: int, devices: int, workloads: int, namespaces: int = 1) -> None:
        namespace = namespace_of(number % workloads + 1, namespaces)
        self.name = f"gpu-{number}"
        self.percent = 50.0
        self._devices = tuple(
            Device(f"GPU-{number:08x}-0000-0000-0000-{index:012x}", index, _MODEL, f"0000:{index:02x}:00.0")
            for index in range(devices)
        )
        self._allocations = tuple(
            sorted(
                Allocation(namespace, pod_name(number, index, workloads), "server", "nvidia.com/gpu", device.uuid)
                for index, device in enumerate(self._devices)
            )
        )
        self._tick = (-1, 0.0, 0.0)  # the number of the newest sample, and when it was taken by both clocks
        self._built: History | None = None
        self.bytes_sent = self.updates_sent = 0
        self.server = FleetServer(self._history, lambda: None, time.monotonic, self.name)

    async def sample_forever(self, phase: float) -> None:
        """Sample at once, and then once a second, the first time after ``phase`` seconds."""
        self._sample()
        await asyncio.sleep(phase)
        due = time.monotonic()
        while True:
            self._sample()
            due += 1.0
            await asyncio.sleep(due - time.monotonic())

    def _sample(self) -> None:
        self._tick = (self._tick[0] + 1, time.monotonic(), time.time())
        self.server.published()

    def _history(self) -> History:
        """Return the newest snapshot. It is built here: one that no follower gets costs the simulation nothing."""
        sequence, now, wall = self._tick
        if self._built is None or self._built.newest.sequence != sequence:
            snapshot = Snapshot(self.name, sequence, now, wall, "simulation", self._samples(), self._allocations)
            self._built = History((snapshot,), now)
        return self._built

    def _samples(self) -> tuple[Sample, ...]:
        return tuple(
            Sample(
                device,
                gpu_utilization_ratio=self.percent / 100,
                memory_utilization_ratio=random.randrange(100) / 100,  # noqa: S311 - a simulated load
                memory_used_bytes=random.randrange(80 * GIB),  # noqa: S311
                memory_total_bytes=80 * GIB,
                temperature_celsius=float(random.randrange(40, 80)),  # noqa: S311
                power_watts=random.randrange(100_000, 700_000) / 1000,  # noqa: S311
            )
            for device in self._devices
        )


class NodePool(pb_grpc.FleetServicer):
    """Serves each Watch call from another node, independent of the called address."""

    def __init__(self, nodes: list[SimulatedNode]) -> None:
        self._free = list(reversed(nodes))

    async def Watch(  # noqa: N802
        self, request: pb.WatchRequest, context: "grpc.aio.ServicerContext[pb.WatchRequest, pb.Update]"
    ) -> AsyncIterator[pb.Update]:
        """Yield the updates of the next free node."""
        node = self._free.pop()
        try:
            async for update in node.server.Watch(request, context):
                node.bytes_sent += update.ByteSize()
                node.updates_sent += bool(update.snapshot or update.change)
                yield update
        finally:
            self._free.append(node)


def pod_name(node: int, index: int, workloads: int) -> str:
    """Return the name of the pod that has this device. The nodes are assigned to the workloads in turn."""
    return f"llama-{node % workloads + 1}-{node // workloads}-{index}"


def populate(server: FakeApiServer, nodes: int, devices: int, workloads: int, namespaces: int = 1) -> None:
    """Create the workloads whose pods have the devices of the nodes."""
    sizes = dict.fromkeys(range(1, workloads + 1), 0)
    for node, index in itertools.product(range(nodes), range(devices)):
        workload = node % workloads + 1
        sizes[workload] += 1
        namespace = namespace_of(workload, namespaces)
        server.pod(pod_name(node, index, workloads), f"gpu-{node}", app=f"llama-{workload}", namespace=namespace)
    for workload, size in sizes.items():
        namespace = namespace_of(workload, namespaces)
        server.scale(f"llama-{workload}", size, namespace=namespace)
        server.scaled_object(f"llama-{workload}", namespace=namespace)


async def _serve(nodes: list[SimulatedNode], server: FakeApiServer, kubeconfig: Path) -> None:
    grpc_server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    pb_grpc.add_FleetServicer_to_server(NodePool(nodes), grpc_server)  # type: ignore[no-untyped-call]
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    addresses = [f"127.0.{number // 250 + 1}.{number % 250 + 1}:{port}" for number in range(len(nodes))]
    for address in addresses:
        grpc_server.add_insecure_port(address)
    await grpc_server.start()
    sampling = [asyncio.create_task(node.sample_forever(number / len(nodes))) for number, node in enumerate(nodes)]
    print(json.dumps({"addresses": addresses, "kubeconfig": str(server.kubeconfig(kubeconfig))}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.startswith("sent"):
            totals = (sum(node.bytes_sent for node in nodes), sum(node.updates_sent for node in nodes))
            print(json.dumps(totals), flush=True)
            continue
        number, percent = line.split()
        nodes[int(number)].percent = float(percent)
    for task in sampling:
        task.cancel()
    await grpc_server.stop(None)


def main(nodes: int, devices: int, workloads: int, namespaces: int, folder: str) -> None:
    """Serve until standard input ends."""
    with FakeApiServer() as server:
        populate(server, nodes, devices, workloads, namespaces)
        simulated = [SimulatedNode(number, devices, workloads, namespaces) for number in range(nodes)]
        asyncio.run(_serve(simulated, server, Path(folder) / "kubeconfig"))


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:5]]
    main(numbers[0], numbers[1], numbers[2], numbers[3], sys.argv[5])
