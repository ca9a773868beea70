# SPDX-License-Identifier: Apache-2.0
"""Measures what the expensive readings cost an agent: ``python -m benchmarks.bench_performance``."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from benchmarks.lab import Figure, Serve, node, ref, run_alone
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.fake_nvml import FakeNvml, Slice

TITLE = "`serve` with activity and traffic, 8 devices read once a second"
ROUNDS = 3
_SECONDS = 30.0
_SETTLE_SECONDS = 8.0
_SLICES = 7
_RPCS = 3000
_WATCH_MICROSECONDS = 20_000


@dataclass(frozen=True, slots=True)
class _Case:
    """A kind of node, and the metric of the trigger that needs a reading of it."""

    what: str
    metric: str
    has_gpm: bool = False
    has_fields: bool = False
    is_sliced: bool = False


_CASES = (
    _Case("basic readings alone", "gpu_utilization", has_gpm=True, has_fields=True),
    _Case("with GPM", "sm_active", has_gpm=True, has_fields=True),
    _Case("without GPM, with counters", "nvlink_throughput", has_fields=True),
    _Case("without GPM and counters: the bus is watched for 20 ms", "pcie_throughput"),
    _Case(f"{_SLICES} slices on each device, with GPM", "sm_active", has_gpm=True, is_sliced=True),
)


def figures() -> Iterator[Figure]:
    """Yield CPU time, memory and calls of the driver for each kind of node."""
    for case in _CASES:
        shares: list[float] = []
        memory: list[float] = []
        calls: list[float] = []
        by_rpcs: list[float] = []
        for _ in range(ROUNDS):
            with _node_of(case) as fake, Serve(fake) as serve:
                _wait_for_value(serve, case)
                time.sleep(_SETTLE_SECONDS)
                before = fake.calls()
                shares.append(serve.cpu_share(_SECONDS))
                calls.append((fake.calls() - before) * 60 / _SECONDS)
                memory.append(serve.memory().rss)
                by_rpcs.append(_calls_of_rpcs(serve, fake, case, calls[-1] / 60))
        yield Figure(
            case.what,
            {
                "CPU of one core": f"{100 * statistics.median(shares):.2f} %",
                "memory (RSS)": f"{statistics.median(memory):.1f} MiB",
                "calls a minute": f"{statistics.median(calls):,.0f}",
                f"more calls in {_RPCS:,} RPCs": f"{statistics.median(by_rpcs):,.0f}",
            },
        )


@contextmanager
def _node_of(case: _Case) -> Iterator[FakeNvml]:
    """Provide a node whose devices work, and whose counters go on with the time."""
    with node(gpm=case.has_gpm, fields=case.has_fields) as fake:
        for number, device in enumerate(fake.devices):
            if case.is_sliced:
                device.mig = True
                device.slices = [Slice(f"MIG-{number}-{slot}", instances=(7 + slot, 0)) for slot in range(_SLICES)]
        fake.delay("pcie throughput", _WATCH_MICROSECONDS)
        stopping = threading.Event()
        thread = threading.Thread(target=_count, args=(fake, case, stopping))
        thread.start()
        try:
            yield fake
        finally:
            stopping.set()
            thread.join()


def _count(fake: FakeNvml, case: _Case, stopping: threading.Event) -> None:
    last = time.monotonic()
    while not stopping.wait(0.2):
        passed, last = time.monotonic() - last, time.monotonic()
        for device in fake.devices:
            for slot in range(_SLICES) if case.is_sliced else (None,):
                device.run(passed, slot, graphics=80, sm=60, tensor=40, dram=20, nvlink_tx=1000, pcie_tx=100)


def _request(case: _Case) -> pb.GetMetricsRequest:
    return pb.GetMetricsRequest(scaledObjectRef=ref(80, metricType=case.metric, scope="node"))


def _wait_for_value(serve: Serve, case: _Case) -> None:
    serve.wait_until_it_listens()
    serve.wait_until_it_answers()
    with serve.stub() as stub:
        for _ in range(40):
            try:
                stub.GetMetrics(_request(case), timeout=5)
            except grpc.RpcError:  # no value yet
                time.sleep(0.25)
            else:
                return
    raise RuntimeError(f"{case.what}: {case.metric} has no value")


def _calls_of_rpcs(serve: Serve, fake: FakeNvml, case: _Case, calls_a_second: float) -> float:
    """Return how many calls of the driver were made during RPCs, beyond those that its readings make anyway."""
    before, started = fake.calls(), time.monotonic()
    with serve.stub() as stub:
        for _ in range(_RPCS):
            stub.GetMetrics(_request(case), timeout=5)
    return max(0.0, fake.calls() - before - calls_a_second * (time.monotonic() - started))


if __name__ == "__main__":
    run_alone(TITLE, figures())
