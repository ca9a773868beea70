# SPDX-License-Identifier: Apache-2.0
"""How long does a caller wait for GetMetrics? Asked by ghz where there is one, else by a process with grpcio.

The law of this module: a client that is slower than the server measures itself, so every figure says who
measured. ``go install github.com/bojand/ghz/cmd/ghz@latest`` gives ghz; it is looked for on PATH, or where
the environment variable GHZ says.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import grpc
from google.protobuf.json_format import MessageToJson

from benchmarks.lab import HOME, request, workload_request
from keda_gpu_scaler.wire import externalscaler_pb2 as pb

CALLERS = 16
_METHOD = "/externalscaler.ExternalScaler/GetMetrics"
_ENOUGH = 300
_ASKED: Mapping[str, Callable[[int | str], pb.GetMetricsRequest]] = {
    "triggers": request,
    "workloads": workload_request,
}
_LIMIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one round: every call's latency, and calls answered per second; not one call failed."""

    client: str
    latencies_seconds: list[float]
    calls_per_second: float


def load(
    address: str, *, calls: int, triggers: int, calls_per_second: int | None = None, asked: str = "triggers"
) -> Load:
    """Ask ``calls`` times over one connection, for triggers chosen at random (ghz) or in turn (grpcio).

    Args:
        address: where the server listens.
        calls: how many in all.
        triggers: how many different ones are asked about.
        calls_per_second: calls start at this pace, whether or not earlier ones have returned (open loop);
            by default 16 callers each ask again as soon as they are answered (closed loop).
        asked: "triggers" of one workload, or one trigger of so many "workloads".
    """
    ghz = os.environ.get("GHZ") or shutil.which("ghz")
    if ghz:
        return _with_ghz(ghz, address, calls, triggers, calls_per_second, asked)
    numbers = (str(calls), str(triggers), str(calls_per_second or 0))
    command = [sys.executable, "-m", "benchmarks.load", address, *numbers, asked]
    client = subprocess.run(command, cwd=HOME, stdout=subprocess.PIPE, text=True, check=True, timeout=_LIMIT_SECONDS)
    return Load(**json.loads(client.stdout))


def _with_ghz(ghz: str, address: str, calls: int, triggers: int, calls_per_second: int | None, asked: str) -> Load:
    # A template costs ghz less than a file of a thousand requests, all of which it would read for every call.
    target = f"{{{{ randomInt 1 {1 + triggers} }}}}" if triggers > 1 else 1
    what = ("--insecure", "--proto", str(HOME / "proto" / "externalscaler.proto"), "--call", _METHOD[1:])
    data = ("--data", MessageToJson(_ASKED[asked](target)), "--format", "json")
    # With its --async ghz drops the calls that are open at the end; callers enough never hold up a call either.
    pace = ("--rps", str(calls_per_second), "-c", str(_ENOUGH)) if calls_per_second else ("-c", str(CALLERS))
    bounds = ("-n", str(calls), "--connections", "1")
    command = [ghz, *what, *data, *pace, *bounds, address]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=_LIMIT_SECONDS).stdout
    result = json.loads(output)
    answered = [each["latency"] / 1e9 for each in result["details"] if each["status"] == "OK"]
    if len(answered) != calls:
        raise RuntimeError(f"{calls - len(answered)} of {calls} calls failed: {result['statusCodeDistribution']}")
    return Load("ghz (Go)", answered, result["rps"])


async def _with_grpcio(address: str, calls: int, triggers: int, calls_per_second: int, asked: str) -> Load:
    requests = [_ASKED[asked](1 + each).SerializeToString() for each in range(triggers)]
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        ask = channel.unary_unary(_METHOD)
        await ask(requests[0])

        async def call(number: int) -> None:
            asked = time.monotonic()
            await ask(requests[number % triggers])
            latencies.append(time.monotonic() - asked)

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
        return Load("grpcio (Python)", latencies, calls / (time.monotonic() - started))


if __name__ == "__main__":
    calls, triggers, pace = map(int, sys.argv[2:5])
    measured = asyncio.run(_with_grpcio(sys.argv[1], calls, triggers, pace, sys.argv[5]))
    print(json.dumps(asdict(measured)))
