# SPDX-License-Identifier: Apache-2.0
"""Shows whether a front end grows while everything around it is replaced (``benchmarks.soak``).

The instance and its cluster live ten times as fast as the clock (``--factor``): workloads, pods, addresses of engines
and nodes are replaced every few virtual seconds. KEDA calls in virtual time at its own pace, which is ten times its
pace in real time. The table has the memory, the descriptors, the tasks and the entries of the caches: before the load,
after the warm-up, at the end, and when the load has ended. The exit status is 1 when memory grew after the warm-up, or
when something stays open after the load.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, cast

import grpc

from benchmarks.lab import compiled_environment
from benchmarks.machine import HOME, heading
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.free_ports import free_port

TITLE = "A front end while workloads, pods, nodes and engines are replaced"
_CALLS_A_MINUTE = 18
_SAMPLE_SECONDS, _PAGE_SECONDS, _STREAM_SECONDS, _INVENTED_SECONDS = 60.0, 15.0, 30.0, 2.0  # virtual
_IDLE_SECONDS = 65 * 60.0  # virtual: longer than anything is kept, which is an hour for the histories of workloads
_SERVICE = "/externalscaler.ExternalScaler/"
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much a figure may grow: a share of it, and an amount."""

    share: float
    amount: float

    def allows(self, before: float, after: float) -> bool:
        """Whether the growth is within the noise."""
        return after <= before * (1 + self.share) + self.amount


_MEMORY: Mapping[str, Allowance] = {
    "RSS, MiB": Allowance(0.03, 2.0),
    "malloc, used, MiB": Allowance(0.03, 1.0),
    "Python blocks, thousands": Allowance(0.05, 10.0),
}
"""What must be as large in the last third as in the first."""
_OPEN: Mapping[str, Allowance] = dict.fromkeys(("descriptors", "threads", "tasks"), Allowance(0.0, 12.0))
"""What depends on the load, and must be as few after the load as before it."""
_EXPIRING = Allowance(0.0, 64.0)
"""The same for the caches that release what was not used for a while. Others are full after the warm-up."""


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: before the load, its medians in the first and in the last third, after the load, and a problem."""

    what: str
    start: float
    first: float
    last: float
    idle: float
    problem: str


def compare(
    start: Mapping[str, float], samples: Sequence[Mapping[str, float]], idle: Mapping[str, float]
) -> list[Line]:
    """Compare the first third of the samples with the last third, and the time before the load with the time after it.

    A cache that appears later counts from 0.
    """
    third = max(1, len(samples) // 3)
    lines = []
    for what in dict.fromkeys(key for sample in (*samples, idle) for key in sample):
        first, last = (
            statistics.median(sample.get(what, 0) for sample in part) for part in (samples[:third], samples[-third:])
        )
        before, after = start.get(what, 0), idle.get(what, 0)
        lines.append(Line(what, before, first, last, after, _problem(what, first, last, before, after)))
    return lines


def _problem(what: str, first: float, last: float, before: float, after: float) -> str:
    if what in _MEMORY:
        return "" if _MEMORY[what].allows(first, last) else "grows"
    left = _OPEN.get(what) or (_EXPIRING if what.startswith("expiring ") else None)
    return "" if left is None or left.allows(before, after) else "stays"


class _Process:
    """A process that answers lines, inside a ``with`` block."""

    def __init__(self, *command: str) -> None:
        self._title = command[0]
        self.process = subprocess.Popen(
            (sys.executable, "-m", *command),
            cwd=HOME,
            env=compiled_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stdin, self._stdout = cast("IO[str]", self.process.stdin), cast("IO[str]", self.process.stdout)

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        self.process.wait()

    def read(self) -> dict[str, Any]:
        """Return the next line."""
        line = self._stdout.readline()
        if not line:
            raise RuntimeError(f"{self._title} has ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, command: str) -> dict[str, Any]:
        """Return the answer to a line."""
        self._stdin.write(command + "\n")
        self._stdin.flush()
        return self.read()


@dataclass(slots=True)
class Soak:
    """The load, and what was measured."""

    factor: float
    address: str
    pages: str
    instance: _Process
    live: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    start: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, float]] = field(default_factory=list)
    _pending: set[asyncio.Task[None]] = field(default_factory=set)

    async def follow(self, world: _Process) -> None:
        """Keep the list of the existing ScaledObjects."""
        while True:
            self.live = (await asyncio.to_thread(world.read))["live"]

    async def sleep(self, virtual_seconds: float) -> None:
        """Wait for virtual seconds."""
        await asyncio.sleep(virtual_seconds / self.factor)

    async def call(self, channel: grpc.aio.Channel) -> None:
        """Call for each ScaledObject at KEDA's pace; each third call is GetMetrics."""
        async for number in self._ticks(lambda: 60 / _CALLS_A_MINUTE / max(1, len(self.live))):
            names = list(self.live)
            turn, at = divmod(number, max(1, len(names)))
            method = ("IsActive", "GetMetricSpec", "GetMetrics")[turn % 3]
            self._spawn(self._call(channel, method, _reference(names[at], self.live[names[at]])))

    async def call_invented(self, channel: grpc.aio.Channel) -> None:
        """Call for ScaledObjects that do not exist, each with another name."""
        async for number in self._ticks(lambda: _INVENTED_SECONDS):
            reference = _reference(f"invented-{number}", {"targetValue": str(number + 1)})
            self._spawn(self._call(channel, "GetMetrics", reference))

    async def _ticks(self, pause: Callable[[], float]) -> AsyncIterator[int]:
        """Yield numbers at a rate that does not depend on how long the calls take."""
        due = time.monotonic()
        for number in range(1 << 62):
            yield number
            due += pause() / self.factor
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def stream(self, channel: grpc.aio.Channel) -> None:
        """Open a stream for a ScaledObject, and cancel it after a while."""
        open_stream = channel.unary_stream(_SERVICE + "StreamIsActive")
        for number in range(1 << 30):
            names = list(self.live)
            name = names[number % len(names)]
            stream = open_stream(_reference(name, self.live.get(name, {})).SerializeToString())
            try:
                await self.sleep(_STREAM_SECONDS)
            finally:
                stream.cancel()

    async def read_pages(self) -> None:
        """Read the metrics and the status page as Prometheus and a person do."""
        while True:
            for path in ("/metrics", "/"):
                await asyncio.to_thread(_read, self.pages + path)
            await self.sleep(_PAGE_SECONDS)

    async def measure(self, *, seconds: float, is_kept: bool) -> None:
        """Measure every virtual minute for so many real seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await self.sleep(_SAMPLE_SECONDS)
            sample = await asyncio.to_thread(self.instance.ask, "measure")
            if is_kept:
                self.samples.append(sample)
            print(".", end="", file=sys.stderr, flush=True)

    async def _call(self, channel: grpc.aio.Channel, method: str, reference: pb.ScaledObjectRef) -> None:
        request = pb.GetMetricsRequest(scaledObjectRef=reference) if method == "GetMetrics" else reference
        try:
            await channel.unary_unary(_SERVICE + method)(request.SerializeToString(), timeout=10)
        except grpc.aio.AioRpcError as error:
            self.statuses[f"{method} {error.code().name}"] += 1
        else:
            self.statuses[f"{method} OK"] += 1


def _reference(name: str, metadata: Mapping[str, str]) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name=name, namespace="ai", scalerMetadata=metadata)


def _read(url: str) -> None:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - loopback
        response.read()


async def _run(soak: Soak, world: _Process, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run the load; return what is left after it."""
    soak.live = (await asyncio.to_thread(world.read))["live"]
    soak.start = await asyncio.to_thread(soak.instance.ask, "measure")
    async with grpc.aio.insecure_channel(soak.address) as channel:
        load = [
            asyncio.create_task(work)
            for work in (
                soak.follow(world),
                soak.call(channel),
                soak.call_invented(channel),
                soak.stream(channel),
                soak.read_pages(),
            )
        ]
        await soak.measure(seconds=60 * arguments.warm_up, is_kept=False)
        if arguments.trace:
            await asyncio.to_thread(soak.instance.ask, "trace")
        await soak.measure(seconds=60 * (arguments.minutes - arguments.warm_up), is_kept=True)
        if arguments.trace:
            for one in (await asyncio.to_thread(soak.instance.ask, "compare"))["grown"]:
                print(f"{one['grown_bytes']:>12,} of {one['bytes']:>12,} bytes  {one['count']:>7,}  {one['where']}")
        for task in load[1:]:
            task.cancel()
        left = {}
        await soak.sleep(_IDLE_SECONDS)
        for what in ("measure", "collect", "trim"):
            left[what] = await asyncio.to_thread(soak.instance.ask, what)
        load[0].cancel()
        if failed := [task for task in load if task.done() and not task.cancelled()]:
            failed[0].result()
    return left


def _print(soak: Soak, left: Mapping[str, Mapping[str, float]]) -> bool:
    """Print the table; return whether there is a problem."""
    lines = compare(soak.start, soak.samples, left["measure"])
    titles = ("start", "first third", "last third", "idle", "collected", "trimmed")
    print(f"\n{'':<62}" + "".join(f"{title:>12}" for title in titles) + "  problem")
    for line in lines:
        rest = (left[what].get(line.what, 0) for what in ("collect", "trim"))
        values = (line.start, line.first, line.last, line.idle, *rest)
        print(f"{line.what:<62}" + "".join(f"{value:>12.1f}" for value in values) + f"  {line.problem or 'none'}")
    print("\n" + ", ".join(f"{count:,} {status}" for status, count in sorted(soak.statuses.items())))
    return any(line.problem for line in lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--minutes", type=float, default=30.0, help="real minutes, the warm-up included")
    parser.add_argument("--warm-up", type=float, default=8.0, help="real minutes until growth counts")
    parser.add_argument("--factor", type=float, default=10.0, help="virtual seconds in a second")
    parser.add_argument("--trace", action="store_true", help="print where memory grew; slow")
    return parser.parse_args()


def main() -> int:
    """Run the soak; return the exit status."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the processes are stopped, too
    print(heading())
    print(f"\n{TITLE}: {arguments.minutes * arguments.factor / 60:.1f} virtual hours in {arguments.minutes:g} minutes")
    port, metrics_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, contextlib.ExitStack() as stack:
        world = stack.enter_context(_Process("benchmarks.soak_world", str(arguments.factor), folder))
        kubeconfig = world.read()["kubeconfig"]
        flags = ("--host", "127.0.0.1", "--port", str(port), "--metrics-port", str(metrics_port), "--probe-port", "0")
        sources = ("--backend", "none", "--peers", "kubernetes:agents", "--kubeconfig", kubeconfig)
        command = ("serve", *flags, *sources, "--allow-endpoints", "127.0.0.0/8", "--log-level", "error")
        instance = stack.enter_context(_Process("benchmarks.soak_instance", str(arguments.factor), *command))
        _wait_for(port)
        soak = Soak(arguments.factor, f"127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}", instance)
        left = asyncio.run(_run(soak, world, arguments))
    return int(_print(soak, left))


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
