# SPDX-License-Identifier: Apache-2.0
"""What does it cost to answer for a thousand nodes? ``python -m benchmarks.bench_fleet``.

A front end follows 1,000 nodes of 8 devices each, which one other process stands for, and is asked about 500 workloads
of 16 pods each at KEDA's pace: 18 calls a minute for each, a third of them GetMetrics. Here every one of these calls is
GetMetrics, the dearest.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any, cast

import grpc

from benchmarks.lab import (
    HOME,
    START_SECONDS,
    Figure,
    Serve,
    in_milliseconds,
    node,
    percentiles,
    run_alone,
    stolen_since_now,
    workload_request,
)
from benchmarks.load import load

TITLE = "A front end that follows many nodes of 8 devices, each changing every second; 16 pods a workload"
NODES, WORKLOADS, DEVICES = 1000, 500, 8
ROUNDS = 3
CHANGES = 100
_CPU_SECONDS = 20.0
_SIZES = ((10, 5), (100, 50), (NODES, WORKLOADS))


class _Crowd:
    """The other process, for as long as the ``with`` block."""

    def __init__(self, nodes: int, workloads: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="crowd-")
        command = (sys.executable, "-m", "benchmarks.crowd", *map(str, (nodes, DEVICES, workloads)), self._folder.name)
        self._process = subprocess.Popen(command, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._hears, self._says = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self.told: dict[str, Any] = json.loads(self._says.readline())

    def __enter__(self) -> "_Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self._hears.close()
        self._process.wait(20)
        self._folder.cleanup()

    def let(self, number: int, percent: float) -> None:
        self._say(f"{number} {percent}")

    def bytes_sent(self) -> int:
        self._say("bytes")
        return int(self._says.readline())

    def _say(self, line: str) -> None:
        self._hears.write(line + "\n")
        self._hears.flush()


def figures() -> Iterator[Figure]:
    """The front end's cost at several sizes, how soon it knows of a change, and what a node pays for a follower."""
    for nodes, workloads in _SIZES:
        with _Crowd(nodes, workloads) as crowd, _front_end(crowd) as serve:
            yield from _of_front_end(crowd, serve, nodes, workloads)
    yield from _of_a_node()


def _front_end(crowd: _Crowd) -> Serve:
    peers = "static:" + ",".join(crowd.told["addresses"])
    return Serve(None, "--backend", "none", "--peers", peers, "--kubeconfig", crowd.told["kubeconfig"])


def _of_front_end(crowd: _Crowd, serve: Serve, nodes: int, workloads: int) -> Iterator[Figure]:
    size = f"{nodes:,} nodes, {workloads} workloads"
    serve.wait_until_it_listens()
    before = serve.memory()
    with serve.stub() as stub:
        began = time.monotonic()
        for number in range(1, workloads + 1):
            _answered(stub, number)
        known_after = time.monotonic() - began
    time.sleep(15)  # the default window of ten seconds is full
    stolen, sent, cpu, at = stolen_since_now(), crowd.bytes_sent(), serve.cpu_seconds(), time.monotonic()
    pace = max(1, round(workloads * 18 / 60))
    calls = max(50, pace * 10)
    loads = [
        load(serve.address, calls=calls, triggers=workloads, calls_per_second=pace, asked="workloads")
        for _ in range(ROUNDS)
    ]
    passed = time.monotonic() - at
    share = (serve.cpu_seconds() - cpu) / passed
    rounds = [percentiles(each.latencies_seconds) for each in loads]
    yield Figure(
        f"{size}: GetMetrics at {pace}/s",
        {
            **{key: in_milliseconds(each[key] for each in rounds) for key in rounds[0]},
            "CPU": f"{share:.0%} of a core",
            "RSS (before)": f"{serve.memory().rss:.0f} MiB ({before.rss:.0f})",
            "all known after": f"{known_after:.1f} s",
            "a node sends": f"{(crowd.bytes_sent() - sent) / passed / nodes:.0f} B/s",
            "stolen by the host": stolen(),
        },
    )
    delays = list(_changes(crowd, serve, nodes, workloads))
    yield Figure(
        f"{size}: from a change of a device to the answer that shows it",
        {key: in_milliseconds([value]) for key, value in percentiles(delays).items()},
    )


def _changes(crowd: _Crowd, serve: Serve, nodes: int, workloads: int) -> Iterator[float]:
    with serve.stub() as stub:
        for number in range(CHANGES):
            chosen = random.randrange(nodes)  # noqa: S311 - any node
            workload = chosen % workloads + 1
            before = _answered(stub, workload)
            changed = time.monotonic()
            crowd.let(chosen, 20.0 if number % 2 else 70.0)
            while _answered(stub, workload) == before:
                if time.monotonic() - changed > 5:
                    break  # the node did just that already
                time.sleep(0.005)
            else:
                yield time.monotonic() - changed


def _answered(stub: Any, workload: int) -> float:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            answer = stub.GetMetrics(workload_request(workload, windowSeconds="0"), timeout=START_SECONDS)
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            value: float = answer.metricValues[0].metricValueFloat
            return value


def _of_a_node() -> Iterator[Figure]:
    """What a node pays for each instance that follows it."""
    with node() as fake, Serve(fake) as serve:
        serve.wait_until_it_answers()
        time.sleep(5)
        shares = {}
        for followers in (0, 1, 4):
            fronts = [Serve(None, "--backend", "none", "--peers", f"static:{serve.address}") for _ in range(followers)]
            for front in fronts:
                front.__enter__()
                front.wait_until_it_listens()
                with front.stub() as stub:
                    request = workload_request(1, report="average", scope="fleet")
                    stub.GetMetrics(request, timeout=START_SECONDS)
            shares[followers] = serve.cpu_share(_CPU_SECONDS)
            for front in fronts:
                front.__exit__(None, None, None)
    yield Figure(
        "a node of 8 devices that stand still: CPU of its agent",
        {f"{followers} followers": f"{share:.2%} of a core" for followers, share in shares.items()},
    )


if __name__ == "__main__":
    run_alone(TITLE, figures())
