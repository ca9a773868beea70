# SPDX-License-Identifier: Apache-2.0
"""A fake kubelet whose answers a test sets: a real gRPC server on a real unix socket."""

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


def claim(name: str, driver: str, device: str) -> pb.ContainerResources:
    resource = pb.ClaimResource(driver_name=driver, pool_name="gpu-7", device_name=device)
    return pb.ContainerResources(
        name=name, dynamic_resources=[pb.DynamicResource(claim_name="gpu", claim_resources=[resource])]
    )


def pod_resources(name: str, *containers: pb.ContainerResources, namespace: str = "ai") -> pb.PodResources:
    return pb.PodResources(name=name, namespace=namespace, containers=containers)


class FakeKubelet:
    """Listens on ``path`` while its ``with`` block lasts.

    List returns ``pods`` and the agent's own pod, or no pods while ``has_read_pods`` is False. Where ``error`` or
    ``raw`` is set, it returns that status or these bytes. While ``may_answer`` is not set it hangs. ``calls`` counts
    the calls.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pods: list[pb.PodResources] = []
        self.error: grpc.StatusCode | None = None
        self.raw: bytes | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.has_read_pods = True
        self.calls = 0
        self._server: grpc.Server | None = None

    def hold(self, held: Mapping[str, Sequence[str]], namespace: str = "ai", resource: str = "nvidia.com/gpu") -> None:
        """Assign these devices to these pods, and no device to any other pod."""
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
        """Listen on a new socket file, which replaces the old one."""
        # An old server that still runs would remove the new socket file when it stops.
        self.stop()
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self) -> None:
        """Stop listening, and remove the socket file, as a kubelet does."""
        self.may_answer.set()
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None
        self.path.unlink(missing_ok=True)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        self.may_answer.wait()
        if self.error is not None:
            context.abort(self.error, "requested by the test")
        if self.raw is not None:
            return self.raw
        pods = (
            [*self.pods, pod_resources("agent", pb.ContainerResources(name="serve"), namespace="keda")]
            if self.has_read_pods
            else []
        )
        response: bytes = pb.ListPodResourcesResponse(pod_resources=pods).SerializeToString()
        return response


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, kubelet: FakeKubelet) -> None:
        self._kubelet = kubelet

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method != LIST:
            return None
        return grpc.unary_unary_rpc_method_handler(self._kubelet.answer)
