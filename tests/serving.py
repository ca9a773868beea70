# SPDX-License-Identifier: Apache-2.0
"""A real ``keda-gpu-scaler serve`` on loopback, in a process of its own."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from keda_gpu_scaler.wire.tls import ClientTls
from tests import forked
from tests.limits import WAIT_SECONDS
from tests.polling import pause

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
COMMAND = (sys.executable, "-m", "keda_gpu_scaler")
_SERVES = re.compile(r"serves ExternalScaler on port (\d+)")


def ref(**metadata: str) -> pb.ScaledObjectRef:
    # Without a cluster the replicas are unknown, and only an average can be reported.
    return pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata={"report": "average", **metadata})


class Serving:
    """Starts ``serve`` with these arguments and waits until it listens; ends it with SIGTERM.

    ``log`` holds the log's lines so far, each an object. ``tls`` is how its client knows it and is known. ``launcher``
    is a program that starts it, in front of its command.
    """

    process: "forked.Forked | subprocess.Popen[str]"

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        tls: ClientTls | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        ports = ("--port", "0", "--metrics-port", "0", "--probe-port", "0")
        self._arguments = ("serve", "--host", "127.0.0.1", *ports, "--sample-interval", "0.1", *arguments)
        self._launcher = launcher
        self._environment = {**os.environ, **(environment or {})}
        self._tls = tls
        self.log: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        if self._launcher:
            command = (*self._launcher, *COMMAND, *self._arguments)
            self.process = subprocess.Popen(command, env=self._environment, stderr=subprocess.PIPE, text=True)
        else:
            self.process = forked.Forked(self._arguments, self._environment)
        self._watchdog = threading.Timer(2 * WAIT_SECONDS, self.process.kill)
        self._watchdog.start()
        self.port = int(self.wait_for_log(_SERVES).group(1))
        address = f"127.0.0.1:{self.port}"
        if self._tls is None:
            self._channel = grpc.insecure_channel(address)
        else:
            self._channel = grpc.secure_channel(address, self._tls.credentials(), options=self._tls.options())
        self.stub: Any = pb_grpc.ExternalScalerStub(self._channel)  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        with self.process.stderr:
            self.process.stderr.read()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process.wait(WAIT_SECONDS)
        self._watchdog.cancel()

    def wait_for_log(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Find a line whose message matches, among those that came already or by reading on."""
        for entry in self.log:
            if found := pattern.search(entry["message"]):
                return found
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if found := pattern.search(self.log[-1]["message"]):
                return found
        raise AssertionError(f"ended without {pattern.pattern!r}: {self.log}")

    def wait_for_health(self, status: int) -> None:
        """Follow the health service until it says so."""
        watch = health_pb2_grpc.HealthStub(self._channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_SECONDS)
        next(answer for answer in watch if answer.status == status)
        watch.cancel()

    def value(self, **metadata: str) -> float:
        request = pb.GetMetricsRequest(scaledObjectRef=ref(**metadata))
        answer: float = self.stub.GetMetrics(request, timeout=WAIT_SECONDS).metricValues[0].metricValueFloat
        return answer

    def refusal(self, **metadata: str) -> tuple[grpc.StatusCode, str]:
        try:
            value = self.value(**metadata)
        except grpc.RpcError as error:
            return error.code(), error.details()
        raise AssertionError(f"answered {value}")

    def refusal_in_the_end(self, saying: str, **metadata: str) -> grpc.StatusCode:
        """Ask until the answer is an error that says this; return its code."""
        while True:
            try:
                self.value(**metadata)
            except grpc.RpcError as error:
                if saying in error.details():
                    return error.code()
            assert self.process.poll() is None, "the server has ended"
            pause()

    def value_in_the_end(self, **metadata: str) -> float:
        """Ask until there is a value; a server that never gives one is ended by the watchdog."""
        while True:
            with contextlib.suppress(grpc.RpcError):
                return self.value(**metadata)
            assert self.process.poll() is None, "the server has ended"
            pause()

    def is_active(self, **metadata: str) -> bool:
        active: bool = self.stub.IsActive(ref(**metadata), timeout=WAIT_SECONDS).result
        return active


def refused_to_start(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run ``serve`` that cannot start; return its exit status and what it said last on standard error."""
    ports = ("--metrics-port", "0", "--probe-port", "0")
    command = ("serve", "--host", "127.0.0.1", *ports, *arguments)
    outcome = forked.run(command, environment={**os.environ, **(environment or {})}, timeout=WAIT_SECONDS)
    return outcome.returncode, outcome.stderr.rstrip("\n").rpartition("\n")[2]


def recorded(folder: Path, *lines: str, name: str = "gpus.csv") -> str:
    """Write a recording; return the backend that plays it."""
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return f"replay:{path}"
