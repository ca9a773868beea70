# SPDX-License-Identifier: Apache-2.0
"""Simulates a cluster with an honest workload, hostile ScaledObjects and a forging peer.

``bench_attack`` starts this process with the ports of hostile pages, reads one line of JSON from it, and closes its
standard input at the end. All nodes listen on one port, each at its own address. The forging peer says in turn that it
is the node of the honest workload, and that its own node has the devices of that workload.
"""

import asyncio
import itertools
import json
import sys
from pathlib import Path

import grpc

from benchmarks.simulated_nodes import SimulatedNode, pod_name
from keda_gpu_scaler.wire import fleet_pb2_grpc as pb_grpc
from tests.apiserver import FakeApiServer

NAMESPACE, NAME = "ai", "llama-1"
HONEST = {"scalerAddress": "keda-gpu-scaler:6000"}
"""The metadata of the honest trigger: the utilisation of two pods with one device each."""
VALUE = 100.0
"""Its right value: each of its two devices is at 50 %."""
ROUTER = "router"
"""Another honest workload, whose trigger names the page of an engine."""
KINDS = ("wanted", "copies", "changing", "negated", "drip")
_NODES = 2
_FORGED_SECONDS = 0.02


class ForgingNode(SimulatedNode):
    """A node that speaks for others, fifty times a second."""

    def __init__(self, number: int) -> None:
        super().__init__(number, 1, 1)
        self.percent = 100.0
        self._names = itertools.cycle(["gpu-0", self.name])
        self._allocations = SimulatedNode(0, 1, 1)._allocations

    async def sample_forever(self, phase: float) -> None:
        """Send a forged snapshot after each pause."""
        while True:
            self.name = next(self._names)
            self._sample()
            await asyncio.sleep(_FORGED_SECONDS)


def hostile_metadata(kind: str, number: int, port: int) -> dict[str, str]:
    """Return the metadata of a hostile trigger."""
    read = {"metricType": "queue_depth"}
    if kind == "negated":
        read = {"engineMetric": f'depth{{queue!="{number}"}}', "targetValue": "1"}
    return {**HONEST, **read, "engineEndpoint": f"http://127.0.0.1:{port}/{kind}", "report": "average"}


def router_metadata(port: int) -> dict[str, str]:
    """Return the metadata of the honest trigger with an engine."""
    url = f"http://127.0.0.1:{port}/good"
    return {**HONEST, "metricType": "queue_depth", "engineEndpoint": url, "report": "average"}


def _populate(server: FakeApiServer, good: int, ports: list[int]) -> None:
    server.scale(ROUTER, 0)
    server.scaled_object(ROUTER, **router_metadata(good))  # type: ignore[arg-type]
    for node in range(_NODES):
        server.pod(pod_name(node, 0, 1), f"gpu-{node}", app=NAME)
    server.scale(NAME, _NODES)
    server.scaled_object(NAME, **HONEST)  # type: ignore[arg-type]
    for number, port in enumerate(ports):
        kind = KINDS[number % len(KINDS)]
        server.scale(f"hostile-{number}", 0, namespace="evil")
        server.scaled_object(f"hostile-{number}", namespace="evil", **hostile_metadata(kind, number, port))  # type: ignore[arg-type]


async def _serve(server: FakeApiServer, folder: Path) -> None:
    nodes = [*(SimulatedNode(number, 1, 1) for number in range(_NODES)), ForgingNode(_NODES)]
    titles = [f"gpu-{number}" for number in range(len(nodes))]
    port, grpc_servers = 0, []
    for number, node in enumerate(nodes):
        grpc_server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        pb_grpc.add_FleetServicer_to_server(node.server, grpc_server)  # type: ignore[no-untyped-call]
        port = grpc_server.add_insecure_port(f"127.0.0.{number + 10}:{port}")
        await grpc_server.start()
        grpc_servers.append(grpc_server)
    endpoints = [
        {"addresses": [f"127.0.0.{number + 10}"], "nodeName": title, "conditions": {}}
        for number, title in enumerate(titles)
    ]
    service = {"kubernetes.io/service-name": "keda-gpu-scaler-agents"}
    ports = [{"name": "grpc", "port": port, "protocol": "TCP"}]
    honest, forging = endpoints[:_NODES], endpoints[_NODES:]
    server.put(
        "endpointslices", "a", "gpu", metadata={"labels": service}, addressType="IPv4", ports=ports, endpoints=honest
    )
    sampling = [asyncio.create_task(node.sample_forever(0.0)) for node in nodes]
    print(json.dumps({"kubeconfig": str(server.kubeconfig(folder / "kubeconfig"))}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.startswith("forge"):
            server.put(
                "endpointslices",
                "b",
                "gpu",
                metadata={"labels": service},
                addressType="IPv4",
                ports=ports,
                endpoints=forging,
            )
    for task in sampling:
        task.cancel()
    for grpc_server in grpc_servers:
        await grpc_server.stop(None)


def main(folder: str, ports: list[int]) -> None:
    """Serve until standard input ends; the line "forge" adds the forging peer."""
    with FakeApiServer() as server:
        _populate(server, ports[0], ports[1:])
        asyncio.run(_serve(server, Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1], list(map(int, sys.argv[2:])))
