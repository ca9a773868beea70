# SPDX-License-Identifier: Apache-2.0
"""Measures the cost of a front end that answers for thousands of nodes.

Run it with ``python -m benchmarks.bench_fleet [NODES WORKLOADS]…``. A front end follows nodes of 8 devices each; one
other process simulates them. It answers for its workloads at KEDA's rate: 18 calls a minute for each, a third of them
GetMetrics. With sizes on the command line the calls have these proportions. Without them each call is GetMetrics, the
most expensive one, and the sizes end at 1,000 nodes and 500 workloads.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, cast

from benchmarks.lab import (
    NAMESPACES,
    START_SECONDS,
    Figure,
    Serve,
    in_milliseconds,
    namespace_of,
    node,
    percentiles,
    run_alone,
    stolen_since_now,
    until_value,
    workload_request,
)
from benchmarks.load import failed_calls, load
from benchmarks.machine import HOME

TITLE = "A front end that follows many nodes of 8 devices, each changing every second; 16 pods a workload"
NODES, WORKLOADS, DEVICES = 1000, 500, 8
ROUNDS = 3
CHANGES, CHANGES_OF_MANY = 100, 30
_CPU_SECONDS = 20.0
_IDLE_SECONDS = 10.0
_SYNC_SECONDS = 400.0
_CALLERS = 8
_SIZES = ((10, 5), (100, 50), (NODES, WORKLOADS))


class _Simulation:
    """The process with the simulated nodes, inside a ``with`` block."""

    def __init__(self, nodes: int, workloads: int, namespaces: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="simulation-")
        command = (
            sys.executable,
            "-m",
            "benchmarks.simulated_nodes",
            *map(str, (nodes, DEVICES, workloads, namespaces)),
            self._folder.name,
        )
        self._process = subprocess.Popen(command, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._stdin, self._stdout = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self.settings: dict[str, Any] = json.loads(self._stdout.readline())

    def __enter__(self) -> "_Simulation":
        return self

    def __exit__(self, *_: object) -> None:
        self._stdin.close()
        self._process.wait(20)
        self._folder.cleanup()

    def set_utilisation(self, number: int, percent: float) -> None:
        self._write(f"{number} {percent}")

    def sent(self) -> tuple[int, int]:
        """Return the bytes and the snapshots that all nodes have sent so far."""
        self._write("sent")
        sent_bytes, snapshots = json.loads(self._stdout.readline())
        return sent_bytes, snapshots

    def _write(self, line: str) -> None:
        self._stdin.write(line + "\n")
        self._stdin.flush()


def figures() -> Iterator[Figure]:
    """Yield the cost of a front end at several sizes, the delay of a change, and the cost of a follower for a node."""
    yield from figures_of(_SIZES, kind="workloads")
    yield from _measure_node()


def figures_of(sizes: Iterable[tuple[int, int]], *, kind: str) -> Iterator[Figure]:
    """Yield the cost of a front end, and the delay of a change, for each number of nodes and workloads.

    ``kind`` is the kind of load: "workloads" or "keda".
    """
    for nodes, workloads in sizes:
        with _Simulation(nodes, workloads, _namespaces(kind)) as simulation, _front_end(simulation) as serve:
            yield from _measure_front_end(simulation, serve, nodes, workloads, kind)


def _namespaces(kind: str) -> int:
    return NAMESPACES if kind == "keda" else 1


def _front_end(simulation: _Simulation) -> Serve:
    peers = "static:" + ",".join(simulation.settings["addresses"])
    flags = ("--backend", "none", "--peers", peers, "--kubeconfig", simulation.settings["kubeconfig"])
    return Serve(None, *flags, has_metrics=True)


def _measure_front_end(
    simulation: _Simulation, serve: Serve, nodes: int, workloads: int, kind: str
) -> Iterator[Figure]:
    size = f"{nodes:,} nodes, {workloads:,} workloads"
    serve.wait_until_it_listens()
    before, began = serve.memory(), time.monotonic()
    with serve.stub() as stub, ThreadPoolExecutor(_CALLERS) as callers:
        waits = [callers.submit(_wait_for_value, stub, number, kind) for number in range(1, workloads + 1)]
        for wait in waits:
            wait.result()
    known_after, cpu_until_known = time.monotonic() - began, serve.cpu_seconds()
    time.sleep(15)  # the default window of ten seconds is full
    rate = max(1, round(workloads * 18 / 60))
    calls = max(50, rate * 10)
    idle_share = serve.cpu_share(_IDLE_SECONDS)
    stolen, sent, cpu, at = stolen_since_now(), simulation.sent(), serve.cpu_seconds(), time.monotonic()
    loads = [
        load(serve.address, calls=calls, triggers=workloads, calls_per_second=rate, kind=kind) for _ in range(ROUNDS)
    ]
    passed, sent_after = time.monotonic() - at, simulation.sent()
    share = (serve.cpu_seconds() - cpu) / passed
    rounds = [percentiles(each.latencies_seconds) for each in loads]
    yield Figure(
        f"{size}: GetMetrics" + (f" at {rate}/s" if kind == "workloads" else f" in {rate} calls/s"),
        {
            **{key: in_milliseconds(each[key] for each in rounds) for key in rounds[0]},
            "failed calls": failed_calls(loads),
            "CPU": f"{share:.0%} of a core",
            "CPU without calls": f"{idle_share:.0%} of a core",
            "snapshots sent": f"{(sent_after[1] - sent[1]) / passed:.0f}/s",
            "RSS (before)": f"{serve.memory().rss:.0f} MiB ({before.rss:.0f})",
            "descriptors, threads": f"{serve.descriptors()}, {serve.threads()}",
            "all known after": f"{known_after:.1f} s, {cpu_until_known:.1f} s of CPU",
            "a node sends": f"{(sent_after[0] - sent[0]) / passed / nodes:.0f} B/s",
            "stolen by the host": stolen(),
            "load average": f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        },
    )
    ages, delays = serve.snapshot_ages(), _change_delays(simulation, serve, nodes, workloads, kind)
    for what, seconds in (
        ("age of the newest snapshot of each node", ages),
        ("from a change of a device to the answer that shows it", delays),
    ):
        yield Figure(
            f"{size}: {what}", {key: in_milliseconds([value]) for key, value in percentiles([*seconds]).items()}
        )


def _change_delays(simulation: _Simulation, serve: Serve, nodes: int, workloads: int, kind: str) -> Iterator[float]:
    with serve.stub() as stub:
        for number in range(CHANGES if nodes <= NODES else CHANGES_OF_MANY):
            chosen = random.randrange(nodes)  # noqa: S311 - any node
            workload = chosen % workloads + 1
            before = _wait_for_value(stub, workload, kind)
            changed = time.monotonic()
            simulation.set_utilisation(chosen, 20.0 if number % 2 else 70.0)
            while _wait_for_value(stub, workload, kind) == before:
                if time.monotonic() - changed > 10:
                    break  # the node had this utilisation already
                time.sleep(0.005)
            else:
                yield time.monotonic() - changed


def _wait_for_value(stub: Any, workload: int, kind: str) -> float:
    request = workload_request(workload, namespace_of(workload, _namespaces(kind)), windowSeconds="0")
    return until_value(stub, request, limit_seconds=_SYNC_SECONDS)


def _measure_node() -> Iterator[Figure]:
    """Yield the CPU time of a node for the instances that follow it."""
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
    numbers = [int(each) for each in sys.argv[1:]]
    given = [*zip(numbers[::2], numbers[1::2], strict=True)]
    run_alone(TITLE, figures_of(given, kind="keda") if given else figures())
