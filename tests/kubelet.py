# SPDX-License-Identifier: Apache-2.0
"""A kubelet that a test tells what to answer: a real gRPC server on a real unix socket."""

import threading
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from keda_gpu_scaler.core.types import Allocation
from keda_gpu_scaler.kube.podresources import LIST
from keda_gpu_scaler.wire import podresources_pb2 as pb


class FakeAllocations:
    """Allocations that a test sets."""

    def __init__(self, *allocations: Allocation) -> None:
        self.allocations: tuple[Allocation, ...] | None = tuple(sorted(allocations))

    def held(self, now: float) -> tuple[Allocation, ...] | None:
        return self.allocations


def container(name: str, resource: str, *device_ids: str) -> pb.ContainerResources:
    return pb.ContainerResources(
        name=name, devices=[pb.ContainerDevices(resource_name=resource, device_ids=list(device_ids))]
    )


def claiming(name: str, driver: str, device: str) -> pb.ContainerResources:
    claim = pb.ClaimResource(driver_name=driver, pool_name="gpu-7", device_name=device)
    return pb.ContainerResources(
        name=name, dynamic_resources=[pb.DynamicResource(claim_name="gpu", claim_resources=[claim])]
    )


def pod_resources(name: str, *containers: pb.ContainerResources, namespace: str = "ai") -> pb.PodResources:
    return pb.PodResources(name=name, namespace=namespace, containers=containers)


class FakeKubelet:
    """Listens on ``path`` while its ``with`` block lasts.

    ``pods`` is what List answers, and with them the agent's own, unless not ``has_read_pods``; ``error`` the status
    it answers with instead; ``raw`` bytes it answers with instead; while ``may_answer`` is not set it hangs. ``asked``
    counts the questions.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pods: list[pb.PodResources] = []
        self.error: grpc.StatusCode | None = None
        self.raw: bytes | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.has_read_pods = True
        self.asked = 0
        self._server: grpc.Server | None = None

    def hold(self, held: Mapping[str, Sequence[str]], namespace: str = "ai", resource: str = "nvidia.com/gpu") -> None:
        """Let these pods hold these devices, and no others anything."""
        self.pods = [
            pod_resources(name, container("server", resource, *ids), namespace=namespace) for name, ids in held.items()
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on a new socket file in the old one's place."""
        # An old server that is still there would take the new one's file along whenever it goes.
        self.stop()
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self) -> None:
        """Stop listening; the socket file goes, as it does with a kubelet."""
        self.may_answer.set()
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None
        self.path.unlink(missing_ok=True)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked += 1
        self.may_answer.wait()
        if self.error is not None:
            context.abort(self.error, "as told")
        if self.raw is not None:
            return self.raw
        pods = (
            [*self.pods, pod_resources("agent", pb.ContainerResources(name="serve"), namespace="keda")]
            if self.has_read_pods
            else []
        )
        answer: bytes = pb.ListPodResourcesResponse(pod_resources=pods).SerializeToString()
        return answer


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, kubelet: FakeKubelet) -> None:
        self._kubelet = kubelet

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method != LIST:
            return None
        return grpc.unary_unary_rpc_method_handler(self._kubelet.answer)
