# SPDX-License-Identifier: Apache-2.0
"""Measures the latency of GetMetrics with ghz, or with a grpcio process if ghz is not installed.

Law: each figure names its client, because a client that is slower than the server measures itself.
``go install github.com/bojand/ghz/cmd/ghz@latest`` installs ghz. It is searched for on PATH, or at the path in the
environment variable GHZ.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field

import grpc
from google.protobuf.json_format import MessageToJson

from benchmarks.lab import NAMESPACES, namespace_of, request, workload_request
from benchmarks.machine import HOME
from keda_gpu_scaler.wire import externalscaler_pb2 as pb

CALLERS = 16
_SERVICE = "/externalscaler.ExternalScaler"
_METHOD = f"{_SERVICE}/GetMetrics"
_OTHER_METHODS = ("IsActive", "GetMetricSpec")
_OPEN_LOOP_CALLERS = 300
_REQUESTS: Mapping[str, Callable[[int | str], pb.GetMetricsRequest]] = {
    "triggers": request,
    "workloads": workload_request,
    "keda": lambda number: workload_request(number, namespace_of(int(number), NAMESPACES)),
}
_LIMIT_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Load:
    """The result of one round: the latency of each answered call, calls per second, and the failed calls by status.

    A server that gets more calls than it can answer refuses some of them: gRPC's core cancels new calls while a
    thousand wait, and those that waited for 30 s (src/core/server/server.cc).
    """

    client: str
    latencies_seconds: list[float]
    calls_per_second: float
    failed: Mapping[str, int] = field(default_factory=dict)


def load(
    address: str, *, calls: int, triggers: int, calls_per_second: int | None = None, kind: str = "triggers"
) -> Load:
    """Send ``calls`` calls over one connection, for triggers chosen at random (ghz) or in turn (grpcio).

    Args:
        address: where the server listens.
        calls: the number of calls.
        triggers: the number of different triggers.
        calls_per_second: calls start at this rate, even if earlier ones have not returned (open loop);
            by default each of 16 callers sends its next call after the answer (closed loop).
        kind: "triggers" of one workload, or one trigger for each of many "workloads". With "keda" two of three calls
            are IsActive and GetMetricSpec, and the latencies are those of GetMetrics; the client is grpcio.
    """
    ghz = os.environ.get("GHZ") or shutil.which("ghz")
    if ghz and kind != "keda":
        return _with_ghz(ghz, address, calls, triggers, calls_per_second, kind)
    numbers = (str(calls), str(triggers), str(calls_per_second or 0))
    command = [sys.executable, "-m", "benchmarks.load", address, *numbers, kind]
    client = subprocess.run(command, cwd=HOME, stdout=subprocess.PIPE, text=True, check=True, timeout=_LIMIT_SECONDS)
    return Load(**json.loads(client.stdout))


def failed_calls(loads: Iterable[Load]) -> str:
    """Return the failed calls of all rounds, by status, as "12 CANCELLED"; "none" if all were answered."""
    failed = sum((Counter(each.failed) for each in loads), Counter[str]())
    return ", ".join(f"{count} {status}" for status, count in failed.items()) or "none"


def _with_ghz(ghz: str, address: str, calls: int, triggers: int, calls_per_second: int | None, kind: str) -> Load:
    # ghz reads a file of a thousand requests again for each call; a template is cheaper.
    target = f"{{{{ randomInt 1 {1 + triggers} }}}}" if triggers > 1 else 1
    what = ("--insecure", "--proto", str(HOME / "proto" / "externalscaler.proto"), "--call", _METHOD[1:])
    data = ("--data", MessageToJson(_REQUESTS[kind](target)), "--format", "json")
    # With --async ghz drops the open calls at the end; with enough callers no call has to wait either.
    rate = ("--rps", str(calls_per_second), "-c", str(_OPEN_LOOP_CALLERS)) if calls_per_second else ("-c", str(CALLERS))
    bounds = ("-n", str(calls), "--connections", "1")
    command = [ghz, *what, *data, *rate, *bounds, address]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=_LIMIT_SECONDS).stdout
    result = json.loads(output)
    answered = [each["latency"] / 1e9 for each in result["details"] if each["status"] == "OK"]
    failed = {status: count for status, count in result["statusCodeDistribution"].items() if status != "OK"}
    return Load("ghz (Go)", answered, result["rps"], failed)


async def _with_grpcio(address: str, calls: int, triggers: int, calls_per_second: int, kind: str) -> Load:
    requests = [_REQUESTS[kind](1 + each).SerializeToString() for each in range(triggers)]
    latencies: list[float] = []
    failed: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(address) as channel:
        get_metrics = channel.unary_unary(_METHOD)
        others = [channel.unary_unary(f"{_SERVICE}/{method}") for method in _OTHER_METHODS] if kind == "keda" else []
        methods = [get_metrics, *others]
        await get_metrics(requests[0])

        async def call(number: int) -> None:
            method, started_call = methods[number % len(methods)], time.monotonic()
            request = requests[number // len(methods) % triggers]
            try:
                await method(request if method is get_metrics else _scaled_object(request))
            except grpc.aio.AioRpcError as error:
                failed[error.code().name] += 1
                return
            if method is get_metrics:
                latencies.append(time.monotonic() - started_call)

        async def caller(numbers: range) -> None:
            for number in numbers:
                await call(number)

        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            if not calls_per_second:
                for first in range(CALLERS):
                    group.create_task(caller(range(first, calls, CALLERS)))
            else:
                for number in range(calls):
                    await asyncio.sleep(started + number / calls_per_second - time.monotonic())
                    group.create_task(call(number))
        return Load("grpcio (Python)", latencies, calls / (time.monotonic() - started), dict(failed))


def _scaled_object(request: bytes) -> bytes:
    return pb.GetMetricsRequest.FromString(request).scaledObjectRef.SerializeToString()


if __name__ == "__main__":
    calls, triggers, rate = map(int, sys.argv[2:5])
    measured = asyncio.run(_with_grpcio(sys.argv[1], calls, triggers, rate, sys.argv[5]))
    print(json.dumps(asdict(measured)))
