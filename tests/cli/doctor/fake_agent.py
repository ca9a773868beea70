# SPDX-License-Identifier: Apache-2.0
"""A fake agent that sends one message to every watch."""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

from keda_gpu_scaler.core.types import Device, Sample, Snapshot
from keda_gpu_scaler.peers.stream import WATCH
from keda_gpu_scaler.wire import fleet_pb2 as pb
from keda_gpu_scaler.wire.snapshot_codec import encode

NOW = 1_700_000_000.0


@contextmanager
def fake_agent(message: bytes) -> Iterator[int]:
    """Run an agent that sends this message to every watch; yield its port."""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            if details.method != WATCH:
                return None
            return grpc.unary_stream_rpc_method_handler(lambda request, context: iter((message,)))

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def update(node: str = "gpu-7", age: float = 0.5, wall: float = NOW, **more: Any) -> bytes:
    """Return an update whose snapshot was taken ``age`` seconds before ``wall`` on the clock of its node."""
    samples = (Sample(Device("GPU-a", 0, "NVIDIA L4"), memory_used_bytes=1),)
    snapshot = Snapshot(node, 1, 5.0, wall - age, "nvml", samples)
    message = pb.Update(instance="x", age_seconds=age, snapshot=encode(snapshot).encode(), **more)
    serialized: bytes = message.SerializeToString()
    return serialized
