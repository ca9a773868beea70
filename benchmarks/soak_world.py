# SPDX-License-Identifier: Apache-2.0
"""A cluster in one process whose workloads, pods, nodes and engines are replaced all the time.

``python -m benchmarks.soak_world FACTOR FOLDER`` writes a line of JSON with the kubeconfig and the engines' port, and
then a line for every change: the ScaledObjects that exist, with the metadata of their triggers. It ends with standard
input.
"""

import asyncio
import itertools
import json
import logging
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

from benchmarks import fast_clock

if __name__ == "__main__":
    fast_clock.install(float(sys.argv[1]))

import grpc

from benchmarks.simulated_nodes import SimulatedNode
from keda_gpu_scaler.core.types import Allocation
from keda_gpu_scaler.wire import fleet_pb2_grpc as pb_grpc
from tests.apiserver import FakeApiServer
from tests.engines.vllm_pages import MODEL, vllm_page

NODES, DEVICES, PODS = 6, 4, 3
DEVICE_WORKLOADS = NODES * DEVICES // PODS
ENGINE_WORKLOADS = 4
CHANGE_SECONDS = 6.0
SERVICE = "agents"
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n"


class ChurningNode(SimulatedNode):
    """A node with a server of its own, whose devices get other pods."""

    def __init__(self, number: int) -> None:
        super().__init__(number, DEVICES, 1)
        self._allocations = ()
        self.pods: dict[int, str] = {}

    async def start(self) -> None:
        """Listen on a port of its own, and sample every second."""
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        pb_grpc.add_FleetServicer_to_server(self.server, self._server)  # type: ignore[no-untyped-call]
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self._sampling = asyncio.create_task(self.sample_forever(0.0))

    async def stop(self) -> None:
        """Stop as a node that is drained."""
        self._sampling.cancel()
        self.server.stop()
        await self._server.stop(None)

    def hold(self, index: int, pod: str) -> None:
        """Give a device to a pod."""
        self.pods[index] = pod
        self.percent = random.uniform(10, 95)  # noqa: S311 - a simulated load
        self._allocations = tuple(
            sorted(
                Allocation("ai", held, "server", "nvidia.com/gpu", self._devices[at].uuid)
                for at, held in self.pods.items()
            )
        )


class ChurningCluster:
    """The API server, the nodes and the workloads."""

    def __init__(self, server: FakeApiServer, engine_port: int) -> None:
        self._server = server
        self._numbers = itertools.count()
        self._engine_port = engine_port
        self._nodes: list[ChurningNode] = []
        self._workloads: dict[str, dict[str, str]] = {}
        self._pods: dict[str, list[str]] = {}

    async def start(self) -> None:
        """Create everything once."""
        self._nodes = [await self._new_node() for _ in range(NODES)]
        for slot in range(DEVICE_WORKLOADS):
            self._new_workload(self._slots(slot))
        for _ in range(ENGINE_WORKLOADS):
            self._new_workload(None)

    def live(self) -> str:
        """Return the existing ScaledObjects as a line."""
        return json.dumps({"live": self._workloads})

    async def change_forever(self) -> None:
        """Replace something every few seconds."""
        for step in itertools.count():
            await asyncio.sleep(CHANGE_SECONDS)
            await self._change(step)
            print(self.live(), flush=True)

    async def _change(self, step: int) -> None:
        match step % 6:
            case 0:
                self._replace_workload(step)
            case 1 | 4:
                self._replace_engines(step)
            case 2:
                await self._replace_node(step // 6 % NODES)
            case _:
                self._move_pods(step // 3 % DEVICE_WORKLOADS)

    def _slots(self, slot: int) -> list[tuple[int, int]]:
        """Return the nodes and devices of the pods of a workload."""
        return [divmod(slot * PODS + pod, DEVICES) for pod in range(PODS)]

    def _new_workload(self, slots: list[tuple[int, int]] | None) -> None:
        name = f"llama-{next(self._numbers)}"
        own = {"metricType": "gpu_utilization"} if slots else {"profile": "llm", "enginePort": str(self._engine_port)}
        metadata = {"scalerAddress": "keda-gpu-scaler:6000", **own}
        self._server.scale(name, PODS)
        self._workloads[name], self._pods[name] = metadata, []
        self._add_pods(name, slots)
        self._server.scaled_object(name, **cast("Any", metadata))

    def _add_pods(self, name: str, slots: list[tuple[int, int]] | None) -> None:
        for index in range(PODS):
            number = next(self._numbers)
            pod = f"{name}-{number}"
            if slots:
                node, device = slots[index]
                self._nodes[node].hold(device, pod)
                self._server.pod(pod, self._nodes[node].name, app=name)
            else:
                address = f"127.{number // 62500 % 100 + 1}.{number // 250 % 250 + 1}.{number % 250 + 1}"
                self._server.pod(pod, self._nodes[0].name, app=name, address=address)
            self._pods[name].append(pod)

    def _delete_pods(self, name: str) -> None:
        for pod in self._pods[name]:
            self._server.delete("pods", pod)
        self._pods[name] = []

    def _devices(self) -> list[str]:
        return [name for name, metadata in self._workloads.items() if "profile" not in metadata]

    def _engines(self) -> list[str]:
        return [name for name, metadata in self._workloads.items() if "profile" in metadata]

    def _replace_workload(self, step: int) -> None:
        """Delete the oldest workload, and create one in its place."""
        old = self._devices()[0]
        slots = [
            (node, index)
            for node, each in enumerate(self._nodes)
            for index, pod in each.pods.items()
            if pod in self._pods[old]
        ]
        self._delete(old)
        self._new_workload(slots)

    def _replace_engines(self, step: int) -> None:
        """Replace a workload of engines, or only its pods, which get other addresses."""
        old = self._engines()[0]
        if step % 12 == 1:
            self._delete(old)
            self._new_workload(None)
        else:
            self._delete_pods(old)
            self._add_pods(old, None)

    def _delete(self, name: str) -> None:
        self._delete_pods(name)
        for resource in ("scaledobjects", "deployments"):
            self._server.delete(resource, name)
        del self._workloads[name], self._pods[name]

    def _move_pods(self, position: int) -> None:
        """Replace the pods of a workload on the same devices."""
        name = self._devices()[position]
        slots = [
            (node, index)
            for node, each in enumerate(self._nodes)
            for index, pod in each.pods.items()
            if pod in self._pods[name]
        ]
        self._delete_pods(name)
        self._add_pods(name, slots)

    async def _replace_node(self, position: int) -> None:
        """Drain a node: its pods are on a new node of another name."""
        old = self._nodes[position]
        new = self._nodes[position] = await self._new_node()
        self._server.delete("endpointslices", f"{SERVICE}-{old.name}", "gpu")
        for index, pod in old.pods.items():
            new.hold(index, pod)
            name = next(name for name, pods in self._pods.items() if pod in pods)
            self._server.pod(pod, new.name, app=name)
        await old.stop()

    async def _new_node(self) -> ChurningNode:
        node = ChurningNode(next(self._numbers))
        await node.start()
        agent = {"kind": "Pod", "name": f"agent-{node.name}", "uid": node.name}
        self._server.put(
            "endpointslices", f"{SERVICE}-{node.name}", "gpu",
            metadata={"labels": {"kubernetes.io/service-name": SERVICE}},
            addressType="IPv4",
            ports=[{"name": "grpc", "port": node.port, "protocol": "TCP"}],
            endpoints=[{"addresses": ["127.0.0.1"], "nodeName": node.name, "targetRef": agent}],
        )  # fmt: skip
        return node


class EnginePage(asyncio.Protocol):
    """Answers every request with the page of an engine whose series have the address as a label."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the address."""
        self._transport: Any = transport
        self._model = MODEL.replace("Llama", f"Llama-{transport.get_extra_info('sockname')[0]}")

    def data_received(self, data: bytes) -> None:
        """Answer with counters that grow."""
        done = time.monotonic()
        page = vllm_page(
            running=40,
            waiting=3,
            kv=0.5,
            requests=done,
            tokens=100 * done,
            first_tokens=done,
            token_times=99 * done,
            token_time=0.03,
        ).replace(MODEL.encode(), self._model.encode())
        self._transport.write(_HEAD.format(len(page)).encode() + page)


async def _serve(server: FakeApiServer, folder: Path) -> None:
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(EnginePage, "0.0.0.0", 0, backlog=1024)  # noqa: S104 - 127.x.y.z
    cluster = ChurningCluster(server, listener.sockets[0].getsockname()[1])
    await cluster.start()
    print(json.dumps({"kubeconfig": str(server.kubeconfig(folder / "kubeconfig"))}), flush=True)
    print(cluster.live(), flush=True)
    ended = asyncio.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
    changes = asyncio.create_task(cluster.change_forever())
    await asyncio.wait([changes, asyncio.create_task(ended.wait())], return_when=asyncio.FIRST_COMPLETED)
    if changes.done():
        changes.result()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # a client that goes away in the middle of a response is no news here
    with FakeApiServer() as api_server:
        asyncio.run(_serve(api_server, Path(sys.argv[2])))
