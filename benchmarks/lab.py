# SPDX-License-Identifier: Apache-2.0
"""Provides a node with fake GPUs, ``serve`` on it, and tables of figures.

Law: the benchmarks measure the shipped command in a process of its own. This module stops each process that it starts,
by its pid.
"""

import functools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import grpc

from benchmarks.machine import HOME, heading
from keda_gpu_scaler.core.aggregation import nearest_rank
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.fake_nvml import CALLS, GIB, Card, FakeNvml, Memory, compile_library
from tests.free_ports import free_port

PYTHON = (sys.executable,)
DEVICES = 8
NAMESPACES = 200
"""Of the workloads of a very large fleet."""
START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_STEAL = 7
_BYTECODE = tempfile.TemporaryDirectory(prefix="bytecode-")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a table: the name of the measurement, and its values with units."""

    what: str
    values: Mapping[str, str]


def report(title: str, figures: Iterable[Figure]) -> None:
    """Print figures as a table, each row as soon as it is measured."""
    print(f"\n{title}\n", flush=True)
    columns: tuple[str, ...] = ()
    for figure in figures:
        if tuple(figure.values) != columns:
            columns = tuple(figure.values)
            print(_row("", columns), flush=True)
        print(_row(figure.what, figure.values.values()), flush=True)


def run_alone(title: str, figures: Iterable[Figure]) -> None:
    """Run one benchmark for ``python -m benchmarks.bench_x``."""
    print(heading())
    report(title, figures)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the usual percentiles in seconds by nearest rank: each of them is a measured value."""
    return {
        "p50": nearest_rank(seconds, 50),
        "p90": nearest_rank(seconds, 90),
        "p99": nearest_rank(seconds, 99),
        "max": max(seconds),
    }


def in_milliseconds(seconds: Iterable[float]) -> str:
    """Format the median of several rounds and their range, as "1.2 ms (1.1 to 1.9)"."""
    values = [1e3 * each for each in seconds]
    middle = statistics.median(values)
    return f"{middle:.1f} ms" + (f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else "")


def stolen_since_now() -> Callable[[], str]:
    """Return a function for the share of CPU time that the host gave to other machines since now."""
    before = _cpu_ticks()

    def share() -> str:
        passed = [after - earlier for earlier, after in zip(before, _cpu_ticks(), strict=True)]
        return f"{passed[_STEAL] / max(1, sum(passed)):.0%}"

    return share


def request(target: int | str = 80) -> pb.GetMetricsRequest:
    """Return KEDA's request for the trigger with this target; each target is a trigger of its own."""
    return pb.GetMetricsRequest(scaledObjectRef=ref(target))


def namespace_of(number: int, namespaces: int) -> str:
    """Return the namespace of one of many workloads: they are spread over so many namespaces."""
    return "ai" if namespaces == 1 else f"team-{number % namespaces}"


def workload_request(number: int | str, namespace: str = "ai", **metadata: str) -> pb.GetMetricsRequest:
    """Return KEDA's request for one of many workloads, which are numbered from 1 and have short triggers."""
    scaled_object = pb.ScaledObjectRef(
        name=f"llama-{number}",
        namespace=namespace,
        scalerMetadata={"scalerAddress": "keda-gpu-scaler:6000", **metadata},
    )
    return pb.GetMetricsRequest(scaledObjectRef=scaled_object)


def ref(target: int | str = 80, **metadata: str) -> pb.ScaledObjectRef:
    """Return a ScaledObject with this target and further metadata of the trigger."""
    trigger = {
        "scalerAddress": "keda-gpu-scaler.keda.svc.cluster.local:6000",  # KEDA sends its own keys, too
        "metricType": "gpu_utilization",
        "targetValue": str(target),
        "activationThreshold": "50",
        "report": "average",  # without a cluster the number of replicas is not known
        **metadata,
    }
    return pb.ScaledObjectRef(name=f"llama-{target}", namespace="ai", scalerMetadata=trigger)


@contextmanager
def node(delay_microseconds: int = 0, *, gpm: bool = False, fields: bool = False) -> Iterator[FakeNvml]:
    """Provide a node with eight busy GPUs, with or without GPM and counters, with a delay for each driver call."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "compiled"
        fresh = Path(folder) / "node"
        compiled.mkdir()
        fresh.mkdir()
        fake = FakeNvml(fresh, compile_library(compiled))
        try:
            fake.devices = [
                Card(
                    f"GPU-00000000-0000-0000-0000-{index:012x}",
                    pci_bus_id=f"00000000:{0x19 + index:02X}:00.0",
                    utilisation=(40 + index, 20),
                    memory=Memory(used=20 * GIB, total=80 * GIB),
                    gpm=gpm,
                    fields=fields,
                )
                for index in range(DEVICES)
            ]
            for call in CALLS:
                fake.delay(call, delay_microseconds)
            yield fake
        finally:
            fake.close()


@functools.cache
def compiled_environment(python: tuple[str, ...] = PYTHON) -> Mapping[str, str]:
    """Return the environment of this process with compiled bytecode for all imports of ``serve``, as in an image.

    Without it each start compiles our modules again, and the memory of the compiler counts as resident memory.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": _BYTECODE.name, "PYTHONDONTWRITEBYTECODE": ""}
    imports = "import pynvml, keda_gpu_scaler.cli.serve, keda_gpu_scaler.agent, keda_gpu_scaler.devices.nvml.backend"
    subprocess.run([*python, "-c", imports], env=environment, cwd=HOME, check=True)
    return environment


class Serve:
    """``keda-gpu-scaler serve`` on a fake node, as a process inside a ``with`` block.

    Args:
        fake: the node; None if the flags set the backend.
        flags: more flags for ``serve``.
        python: the command of the interpreter; by default this one, without options.
        environment: more environment variables.
        log: where its log goes; by default to the terminal.
        has_metrics: whether it serves its own metrics, which take memory.
    """

    def __init__(
        self,
        fake: FakeNvml | None,
        *flags: str,
        python: tuple[str, ...] = PYTHON,
        environment: Mapping[str, str] | None = None,
        log: IO[str] | None = None,
        has_metrics: bool = False,
    ) -> None:
        self._log = log
        self._port = free_port()
        self._metrics_port = free_port() if has_metrics else 0
        metrics = ("--metrics-port", str(self._metrics_port))
        ports = ("--host", "127.0.0.1", "--port", str(self._port), *metrics, "--probe-port", "0")
        backend = ("--backend", "nvml", "--nvml-library", fake.library) if fake else ()
        self._command = [*python, "-m", "keda_gpu_scaler", "serve", *ports, *backend, "--log-level", "error", *flags]
        environments = (compiled_environment(python), fake.environment if fake else {}, environment or {})
        self._environment = {name: value for each in environments for name, value in each.items()}
        self.address = f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.started = time.monotonic()
        self._process = subprocess.Popen(self._command, env=self._environment, cwd=HOME, stderr=self._log)
        self.pid = self._process.pid
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended by itself."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End the process as a power failure does. ``__enter__`` starts it again, on the same port."""
        self._process.kill()
        self._process.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def wait_until_it_listens(self) -> None:
        """Return after the first connection. A gRPC channel that connects too early waits for its back-off."""
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except ConnectionRefusedError:
                if self._process.poll() is not None or time.monotonic() - self.started > START_SECONDS:
                    raise
                time.sleep(0.001)
            else:
                return

    @contextmanager
    def stub(self) -> Iterator[Any]:
        """Provide a client with its own connection."""
        with grpc.insecure_channel(self.address) as channel:
            yield pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]

    def wait_until_it_answers(self) -> None:
        """Return after the first value, which needs the first sample."""
        self.wait_until_it_listens()
        with self.stub() as stub:
            until_answered(stub)

    def call_triggers(self, triggers: int) -> None:
        """Call GetMetrics once for each of a number of triggers, with the targets from 1 on."""
        with self.stub() as stub:
            for target in range(1, 1 + triggers):
                stub.GetMetrics(request(target), timeout=START_SECONDS)

    def cpu_seconds(self) -> float:
        """Return the user and system time used so far."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / _TICKS_PER_SECOND

    def cpu_share(self, seconds: float) -> float:
        """Return the CPU seconds per second, measured over the next ``seconds``."""
        before, started = self.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / (time.monotonic() - started)

    def memory(self) -> "Resident":
        """Return the resident memory now."""
        return resident(str(self.pid))

    def descriptors(self) -> int:
        """Return the number of open files now."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def snapshot_ages(self) -> list[float]:
        """Return the age in seconds of the newest snapshot of each followed node."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=START_SECONDS) as page:
            lines = page.read().decode().splitlines()
        return [float(line.split()[-1]) for line in lines if line.startswith("keda_gpu_scaler_snapshot_age_seconds{")]

    def threads(self) -> int:
        """Return the number of threads now."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))


def until_answered(stub: Any) -> None:
    """Call GetMetrics until it returns a value; any error but a missing value ends it."""
    until_value(
        stub,
        request(),
        pause_seconds=0.001,
        is_temporary=lambda error: error.code() is grpc.StatusCode.UNAVAILABLE,
    )


def until_value(
    stub: Any,
    question: pb.GetMetricsRequest,
    *,
    pause_seconds: float = 0.01,
    limit_seconds: float = START_SECONDS,
    is_temporary: Callable[[Any], bool] = lambda error: True,
) -> float:
    """Call GetMetrics until it returns a value, and return it.

    Args:
        stub: the client.
        question: the request of KEDA.
        pause_seconds: the pause after an error.
        limit_seconds: after this time the last error is raised.
        is_temporary: whether to call again after an error.
    """
    deadline = time.monotonic() + limit_seconds
    while True:
        try:
            answer = stub.GetMetrics(question, timeout=START_SECONDS)
        except grpc.RpcError as error:
            if not is_temporary(error) or time.monotonic() > deadline:
                raise
            time.sleep(pause_seconds)
        else:
            value: float = answer.metricValues[0].metricValueFloat
            return value


@dataclass(frozen=True, slots=True)
class Resident:
    """A process's resident memory in MiB.

    ``anonymous`` is private memory that the process wrote. The rest of ``rss`` is files (code of libraries) that the
    page cache can drop. ``pss`` counts a page that n processes share as one n-th.
    """

    rss: float
    pss: float
    anonymous: float


def resident(pid: str) -> Resident:
    """Read smaps_rollup of a process; "self" is this one."""
    sizes = dict(
        line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.endswith(" kB")
    )
    return Resident(*(int(sizes[f"{name}:"]) / 1024 for name in ("Rss", "Pss", "Anonymous")))


def _row(what: str, cells: Iterable[str]) -> str:
    return f"{what:<66}" + "".join(f"  {cell:>26}" for cell in cells)


def _cpu_ticks() -> list[int]:
    # user, nice, system, idle, iowait, irq, softirq, steal; the time of guests is part of user.
    return [int(each) for each in Path("/proc/stat").read_text().split()[1:9]]
