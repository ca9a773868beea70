# SPDX-License-Identifier: Apache-2.0
"""Measures the cost of scraping engines, and the time from a request to the activation.

Run it with ``python -m benchmarks.bench_engines``. A front end scrapes 500 pods of 50 workloads every two seconds; one
other process simulates them. It answers for each workload at KEDA's rate, 18 calls a minute. More workloads are scaled
to zero, each with a picker that is scraped twice a second and a stream that receives what is pushed.
"""

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import IO, Any, cast

import grpc

from benchmarks.lab import (
    START_SECONDS,
    Figure,
    Serve,
    in_milliseconds,
    percentiles,
    run_alone,
    stolen_since_now,
    until_value,
    workload_request,
)
from benchmarks.machine import HOME
from benchmarks.simulated_engines import PICKERS, engine_metadata, picker_metadata
from keda_gpu_scaler.wire import externalscaler_pb2 as pb

TITLE = "A front end that scrapes engines, pages of 38 KB, every 2 s; 10 pods a workload"
PODS, HOSTILE, ACTIVATIONS = 500, 50, 100
SOURCES = PICKERS
"""The number of workloads that are scaled to zero, each with its own source of demand."""
_SECONDS = 30.0
_CALLS_PER_SECOND = 15  # 50 workloads, 18 calls a minute each


class _Simulation:
    """The process with the simulated engines, inside a ``with`` block."""

    def __init__(self, pods: int, hostile: int = 0, scheme: str = "http") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="engines-")
        self._scheme = scheme
        program = (sys.executable, "-m", "benchmarks.simulated_engines")
        command = (*program, str(pods), str(hostile), self._folder.name, scheme)
        self._process = subprocess.Popen(command, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._stdin, stdout = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self.settings: dict[str, Any] = json.loads(stdout.readline())
        self.workloads = max(1, pods // 10)

    def __enter__(self) -> "_Simulation":
        return self

    def __exit__(self, *_: object) -> None:
        self._stdin.close()
        self._process.wait(20)
        self._folder.cleanup()

    def set_queue(self, picker: int, size: int) -> None:
        self._stdin.write(f"queue {picker} {size}\n")
        self._stdin.flush()

    def metadata(self) -> dict[str, str]:
        return engine_metadata(self.settings["port"], self._scheme)

    def flags(self) -> tuple[str, ...]:
        credentials = ("--endpoint-credentials", f"{self._folder.name}/credentials") if self._scheme == "https" else ()
        return ("--kubeconfig", self.settings["kubeconfig"], *credentials)

    def scaled_to_zero(self, picker: int) -> pb.ScaledObjectRef:
        metadata = picker_metadata(self.settings["port"], self._scheme, picker)
        return pb.ScaledObjectRef(name=f"llama-at-zero-{picker}", namespace="ai", scalerMetadata=metadata)


def figures() -> Iterator[Figure]:
    """Yield the cost of scraping, with and without hostile engines and TLS, and the time from a request to the push."""
    for pods, hostile, scheme in ((0, 0, "http"), (PODS, 0, "http"), (PODS, 0, "https"), (PODS, HOSTILE, "http")):
        with _Simulation(pods or 10, hostile, scheme) as simulation, _front_end(simulation) as serve:
            serve.wait_until_it_listens()
            yield _measure_scraping(simulation, serve, pods, hostile)
            for sources in (1, SOURCES) if pods and scheme == "http" else ():
                delays = list(_activation_delays(simulation, serve, sources))
                yield Figure(
                    f"{pods} pods, {hostile} of them hostile, {sources} workloads at zero: a request at one of the "
                    "pickers to the pushed true",
                    {key: in_milliseconds([value]) for key, value in percentiles(delays).items()},
                )


def _front_end(simulation: _Simulation) -> Serve:
    flags = ("--backend", "none", "--peers", "none", "--allow-endpoints", "127.0.0.0/8")
    return Serve(None, *flags, *simulation.flags())


def _measure_scraping(simulation: _Simulation, serve: Serve, pods: int, hostile: int) -> Figure:
    with serve.stub() as stub:
        if pods:
            for number in range(1, simulation.workloads + 1):
                _wait_for_value(stub, number, simulation)
        time.sleep(12)  # the default window of ten seconds is full
        stolen, cpu, began = stolen_since_now(), serve.cpu_seconds(), time.monotonic()
        latencies = []
        for call in range(int(_SECONDS * _CALLS_PER_SECOND) if pods else 0):
            due = began + call / _CALLS_PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))
            at = time.monotonic()
            _wait_for_value(stub, call % simulation.workloads + 1, simulation)
            latencies.append(time.monotonic() - at)
        if not pods:
            time.sleep(_SECONDS)
        share = (serve.cpu_seconds() - cpu) / (time.monotonic() - began)
    latency = {key: in_milliseconds([value]) for key, value in percentiles(latencies or [0.0]).items()}
    return Figure(
        f"{pods} pods by {simulation.metadata()['engineScheme']}, {hostile} of them hostile: "
        f"GetMetrics at {_CALLS_PER_SECOND if pods else 0}/s",
        {
            **latency,
            "CPU": f"{share:.1%} of a core",
            "RSS": f"{serve.memory().rss:.0f} MiB",
            "stolen by the host": stolen(),
        },
    )


class _Listener:
    """Listens to the stream of one workload that is scaled to zero, until the channel is closed."""

    def __init__(self, stub: Any, request: pb.ScaledObjectRef) -> None:
        self._pushed: list[tuple[float, bool]] = []
        self._changed = threading.Condition()
        self._stream = stub.StreamIsActive(request)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def wait_for_push(self, state: bool) -> float:
        """Return when this state was pushed, if it is the newest one, or wait for it."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._pushed) and self._pushed[-1][1] is state, START_SECONDS):
                raise TimeoutError("nothing was pushed")
            return self._pushed[-1][0]

    def close(self) -> None:
        self._stream.cancel()
        self._thread.join()

    def _listen(self) -> None:
        try:
            for answer in self._stream:
                with self._changed:
                    self._pushed.append((time.monotonic(), answer.result))
                    self._changed.notify()
        except grpc.RpcError:
            return


def _activation_delays(simulation: _Simulation, serve: Serve, sources: int) -> Iterator[float]:
    """Send requests to workloads that are scaled to zero, one after another, and yield the time until each push."""
    with serve.stub() as stub:
        listeners = [_Listener(stub, simulation.scaled_to_zero(picker)) for picker in range(sources)]
        for listener in listeners:
            listener.wait_for_push(False)
        for number in range(ACTIVATIONS):
            picker = number % sources
            time.sleep(random.random())  # noqa: S311 - at any moment of the interval
            requested = time.monotonic()
            simulation.set_queue(picker, 1)
            yield listeners[picker].wait_for_push(True) - requested
            simulation.set_queue(picker, 0)
            listeners[picker].wait_for_push(False)
        for listener in listeners:
            listener.close()


def _wait_for_value(stub: Any, workload: int, simulation: _Simulation) -> float:
    return until_value(stub, workload_request(workload, **simulation.metadata()))


if __name__ == "__main__":
    run_alone(TITLE, figures())
