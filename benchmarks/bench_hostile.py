# SPDX-License-Identifier: Apache-2.0
"""Measures how much hostile pages of metrics delay the answers to other triggers.

Run it with ``python -m benchmarks.bench_hostile``. Two processes serve the pages, one of them the page of a
trigger whose answers are measured. Twenty other triggers name hostile pages, each at a port of its own, or two hundred
triggers with a selector each share one hostile page.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import grpc

from benchmarks.lab import START_SECONDS, Figure, Serve, in_milliseconds, percentiles, run_alone, stolen_since_now
from benchmarks.machine import HOME
from keda_gpu_scaler.wire import externalscaler_pb2 as pb

TITLE = "Answers to another trigger beside hostile pages, which are scraped every 2 s"
_SECONDS = 10.0
_CALLS_PER_SECOND = 20
_TRIGGERS = 20
_SELECTORS = 200


def figures() -> Iterator[Figure]:
    """Yield the delay of the other answers for each kind of page."""
    with _pages(1) as (good,), _pages(_TRIGGERS) as ports:
        for what, kind, triggers in (
            ("no hostile page", "good", 0),
            ("70,000 wanted lines", "wanted", _TRIGGERS),
            ("200 negated selectors on 70,000 lines", "negated", _SELECTORS),
            ("one byte a packet", "drip", _TRIGGERS),
            ("22 MB of labels", "labels", _TRIGGERS),
        ):
            yield _measure(what, good, [_hostile(ports, kind, number) for number in range(triggers)])


@contextmanager
def _pages(port_count: int) -> Iterator[list[int]]:
    command = (sys.executable, "-m", "benchmarks.hostile_pages", str(port_count))
    process = subprocess.Popen(command, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stdin, stdout = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
    try:
        yield [int(port) for port in stdout.readline().split()]
    finally:
        stdin.close()
        process.wait(20)


def _hostile(ports: list[int], kind: str, number: int) -> pb.GetMetricsRequest:
    if kind == "negated":
        metadata = {"engineMetric": f'depth{{queue!="{number}"}}', "targetValue": "1"}
        return _request(f"negated-{number}", f"http://127.0.0.1:{ports[0]}/negated", metadata)
    return _request(f"{kind}-{number}", f"http://127.0.0.1:{ports[number]}/{kind}", {"metricType": "queue_depth"})


def _request(name: str, url: str, metadata: dict[str, str]) -> pb.GetMetricsRequest:
    ref = pb.ScaledObjectRef(
        name=name, namespace="ai", scalerMetadata={**metadata, "engineEndpoint": url, "report": "average"}
    )
    return pb.GetMetricsRequest(scaledObjectRef=ref)


def _measure(what: str, port: int, hostile: list[pb.GetMetricsRequest]) -> Figure:
    flags = ("--backend", "none", "--peers", "none", "--kubeconfig", "off", "--allow-endpoints", "127.0.0.0/8")
    good = _request("good", f"http://127.0.0.1:{port}/good", {"metricType": "queue_depth"})
    with Serve(None, *flags) as serve:
        serve.wait_until_it_listens()
        with serve.stub() as stub:
            _wait_for_value(stub, good)
            futures = [stub.GetMetrics.future(request, timeout=START_SECONDS) for request in hostile]
            time.sleep(6)  # three intervals
            stolen, cpu, began = stolen_since_now(), serve.cpu_seconds(), time.monotonic()
            latencies = list(_latencies(stub, good, began))
            share = (serve.cpu_seconds() - cpu) / (time.monotonic() - began)
            for future in futures:
                future.cancel()
        memory = serve.memory().rss
    delays = {key: in_milliseconds([value]) for key, value in percentiles(latencies).items()}
    more = {"CPU": f"{share:.1%} of a core", "RSS": f"{memory:.0f} MiB", "stolen by the host": stolen()}
    return Figure(f"{what}, {len(hostile)} triggers", {**delays, **more})


def _latencies(stub: Any, request: pb.GetMetricsRequest, began: float) -> Iterator[float]:
    for call in range(int(_SECONDS * _CALLS_PER_SECOND)):
        time.sleep(max(0.0, began + call / _CALLS_PER_SECOND - time.monotonic()))
        at = time.monotonic()
        stub.GetMetrics(request, timeout=START_SECONDS)
        yield time.monotonic() - at


def _wait_for_value(stub: Any, request: pb.GetMetricsRequest) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            stub.GetMetrics(request, timeout=START_SECONDS)
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    run_alone(TITLE, figures())
