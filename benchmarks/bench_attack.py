# SPDX-License-Identifier: Apache-2.0
"""Measures the answers to honest triggers while an instance is attacked in every way at once.

Run it with ``python -m benchmarks.bench_attack``. Twenty declared triggers name hostile pages, 2,000 invented names
are asked in turn and open streams, 600 connections are slow (HTTP and gRPC), and one peer forges snapshots. A second
instance without an attack is called in the same seconds: its delays are the floor, those of the machine with everything
that runs on it. The first row is the same instance before the attack. Name ways to attack as arguments ("invented",
"hostile", "slow", "forge") to measure only these.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, cast

import grpc

from benchmarks.attack_scene import HONEST, NAME, NAMESPACE, ROUTER, VALUE, router_metadata
from benchmarks.lab import START_SECONDS, Figure, Serve, in_milliseconds, percentiles, run_alone, until_value
from benchmarks.machine import HOME
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.free_ports import free_port

TITLE = "Answers to honest triggers during an attack: 20 hostile triggers, 2,000 names, 600 slow connections, a forger"
HOSTILE = 20
_SECONDS = 20.0
_CALLS_PER_SECOND = 20
_WARM_SECONDS = 10.0


@dataclass
class _Measured:
    """The delays of both instances, and the wrong and missing answers of the attacked one."""

    latencies: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    wrong: int = 0
    failed: int = 0
    rss: float = 0.0


def figures() -> Iterator[Figure]:
    """Yield the answers before the attack and during it."""
    with ExitStack() as stack:
        pages = stack.enter_context(_process("benchmarks.hostile_pages", str(HOSTILE)))
        good = stack.enter_context(_process("benchmarks.hostile_pages", "1")).readline().strip()
        refs = (_ref(), _router_ref(int(good)))
        ports = pages.readline().split()
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="attack-"))
        scene = stack.enter_context(_process("benchmarks.attack_scene", folder, good, *ports))
        kubeconfig = json.loads(scene.readline())["kubeconfig"]
        numbers = [free_port() for _ in range(2)]
        serve = stack.enter_context(_serve(kubeconfig, *numbers))
        floor = stack.enter_context(_serve(kubeconfig, *[free_port() for _ in range(2)]))
        for each in (serve, floor):
            each.wait_until_it_listens()
        stubs = (stack.enter_context(serve.stub()), stack.enter_context(floor.stub()))
        for stub in stubs:
            for ref in refs:
                until_value(stub, pb.GetMetricsRequest(scaledObjectRef=ref), pause_seconds=0.05)
        time.sleep(_WARM_SECONDS)
        honest = ((refs[0], VALUE), (refs[1], _value(stubs[1], refs[1])))
        idle = serve.memory().rss
        before = _measure(serve, stubs, honest)
        yield _figure("before", before, idle, serve, 0.0)
        kinds = ",".join(sys.argv[1:]) or "invented,hostile,slow,forge"
        if "forge" in kinds:
            scene.write("forge\n")
        attackers = stack.enter_context(
            _process("benchmarks.attackers", kinds, serve.address, *map(str, numbers), *ports)
        )
        time.sleep(_WARM_SECONDS)
        stream = stubs[0].StreamIsActive(_ref(), timeout=START_SECONDS)
        opened = next(iter(stream)).result
        cpu, began = serve.cpu_seconds(), time.monotonic()
        during = _measure(serve, stubs, honest)
        share = (serve.cpu_seconds() - cpu) / (time.monotonic() - began)
        yield _figure(f"attacked ({kinds}); its stream says {opened}", during, idle, serve, share)
        stream.cancel()
        attackers.close()


class _Pipes:
    """The standard input and output of a process, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._stdin, self._stdout = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)

    def readline(self) -> str:
        return self._stdout.readline()

    def write(self, text: str) -> None:
        self._stdin.write(text)
        self._stdin.flush()

    def close(self) -> None:
        self._stdin.close()


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[_Pipes]:
    command = (sys.executable, "-m", module, *arguments)
    process = subprocess.Popen(command, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pipes = _Pipes(process)
    try:
        yield pipes
    finally:
        pipes.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _serve(kubeconfig: str, pages: int, probes: int) -> Serve:
    ports = ("--metrics-port", str(pages), "--probe-port", str(probes))
    reach = ("--allow-endpoints", "127.0.0.0/8")
    return Serve(None, "--backend", "none", "--peers", "kubernetes", "--kubeconfig", kubeconfig, *ports, *reach)


def _ref() -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name=NAME, namespace=NAMESPACE, scalerMetadata=HONEST)


def _router_ref(port: int) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name=ROUTER, namespace=NAMESPACE, scalerMetadata=router_metadata(port))


def _value(stub: Any, ref: pb.ScaledObjectRef) -> float:
    answer = stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref), timeout=START_SECONDS)
    value: float = answer.metricValues[0].metricValueFloat
    return value


def _measure(serve: Serve, stubs: tuple[Any, Any], honest: Sequence[tuple[pb.ScaledObjectRef, float]]) -> _Measured:
    """Call two instances in turn, each time for another honest trigger."""
    measured, began = _Measured(), time.monotonic()
    call = -1
    while time.monotonic() - began < _SECONDS:
        call += 1
        for number, latencies in enumerate((measured.latencies, measured.floor)):
            time.sleep(max(0.0, began + (call + number / 2) / _CALLS_PER_SECOND - time.monotonic()))
            ref, right = honest[call % len(honest)]
            at = time.monotonic()
            try:
                value = _value(stubs[number], ref)
            except grpc.RpcError:
                measured.failed += number == 0
            else:
                measured.wrong += number == 0 and value != right
            latencies.append(time.monotonic() - at)
        if not call % _CALLS_PER_SECOND:
            measured.rss = max(measured.rss, serve.memory().rss)
    return measured


def _figure(what: str, measured: _Measured, idle: float, serve: Serve, share: float) -> Figure:
    return Figure(
        what,
        {
            **{key: in_milliseconds([value]) for key, value in percentiles(measured.latencies).items()},
            **{f"floor {key}": in_milliseconds([value]) for key, value in percentiles(measured.floor).items()},
            "right": f"{len(measured.latencies) - measured.wrong - measured.failed} of {len(measured.latencies)}",
            "wrong, without value": f"{measured.wrong}, {measured.failed}",
            "RSS": f"{measured.rss:.0f} MiB, {measured.rss / idle:.2f} of {idle:.0f}",
            "CPU": f"{share:.0%} of a core",
            "descriptors": str(len(os.listdir(f"/proc/{serve.pid}/fd"))),
            "load of the machine": f"{os.getloadavg()[0]:.1f}",
        },
    )


if __name__ == "__main__":
    run_alone(TITLE, figures())
