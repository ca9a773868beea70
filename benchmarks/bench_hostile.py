# SPDX-License-Identifier: Apache-2.0
"""Measures how much hostile pages of metrics delay the answers to other triggers.

Run it with ``python -m benchmarks.bench_hostile``. Two processes serve the pages, one of them the page of a
trigger whose answers are measured. Twenty other triggers name hostile pages, each at a port of its own, or two hundred
triggers with a selector each share the hostile pages. A second instance without hostile triggers is called in the same
seconds: its delays are the floor, those of the machine with everything that runs on it. Name kinds of pages as
arguments to measure only these.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from benchmarks.lab import (
    START_SECONDS,
    Figure,
    Serve,
    in_milliseconds,
    percentiles,
    run_alone,
    stolen_since_now,
    until_value,
)
from benchmarks.machine import HOME
from keda_gpu_scaler.wire import externalscaler_pb2 as pb

TITLE = "Answers to another trigger beside hostile pages, which are scraped every 2 s"
_SECONDS = 20.0
_CALLS_PER_SECOND = 20
_TRIGGERS = 20
_SELECTORS = 200


def figures() -> Iterator[Figure]:
    """Yield the delay of the other answers for each kind of page."""
    with _pages(1) as (good,), _pages(_TRIGGERS) as ports:
        for what, kind, triggers, page_count in (
            ("no hostile page", "good", 0, 1),
            ("70,000 wanted lines", "wanted", _TRIGGERS, _TRIGGERS),
            ("10,000 wanted lines with copies", "copies", _TRIGGERS, _TRIGGERS),
            ("1,000 wanted lines that change at each scrape", "changing", _TRIGGERS, _TRIGGERS),
            ("200 negated selectors on 70,000 lines of one page", "negated", _SELECTORS, 1),
            ("200 negated selectors on 70,000 lines of 20 pages", "negated", _SELECTORS, _TRIGGERS),
            ("200 negated selectors on 10,000 lines of 20 pages", "selected", _SELECTORS, _TRIGGERS),
            ("one byte a packet", "drip", _TRIGGERS, _TRIGGERS),
            ("22 MB of labels", "labels", _TRIGGERS, _TRIGGERS),
        ):
            if not sys.argv[1:] or kind in sys.argv[1:]:
                hostile = [_hostile(ports[:page_count], kind, number) for number in range(triggers)]
                yield _measure(what, good, hostile)


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
    metadata = {"metricType": "queue_depth"}
    if kind in ("negated", "selected"):
        metadata = {"engineMetric": f'depth{{queue!="{number}"}}', "targetValue": "1"}
    return _request(f"{kind}-{number}", f"http://127.0.0.1:{ports[number % len(ports)]}/{kind}", metadata)


def _request(name: str, url: str, metadata: dict[str, str]) -> pb.GetMetricsRequest:
    ref = pb.ScaledObjectRef(
        name=name, namespace="ai", scalerMetadata={**metadata, "engineEndpoint": url, "report": "average"}
    )
    return pb.GetMetricsRequest(scaledObjectRef=ref)


def _measure(what: str, port: int, hostile: list[pb.GetMetricsRequest]) -> Figure:
    flags = ("--backend", "none", "--peers", "none", "--kubeconfig", "off", "--allow-endpoints", "127.0.0.0/8")
    good = _request("good", f"http://127.0.0.1:{port}/good", {"metricType": "queue_depth"})
    with Serve(None, *flags) as serve, Serve(None, *flags) as floor:
        serve.wait_until_it_listens()
        floor.wait_until_it_listens()
        with serve.stub() as stub, floor.stub() as floor_stub:
            until_value(stub, good, pause_seconds=0.05)
            until_value(floor_stub, good, pause_seconds=0.05)
            futures = [stub.GetMetrics.future(request, timeout=START_SECONDS) for request in hostile]
            time.sleep(6)  # three intervals
            stolen, cpu, began = stolen_since_now(), serve.cpu_seconds(), time.monotonic()
            latencies, floor_latencies = _latencies((stub, floor_stub), good, began)
            share = (serve.cpu_seconds() - cpu) / (time.monotonic() - began)
            for future in futures:
                future.cancel()
        memory = serve.memory().rss
    delays = {key: in_milliseconds([value]) for key, value in percentiles(latencies).items()}
    floors = {f"floor {key}": in_milliseconds([value]) for key, value in percentiles(floor_latencies).items()}
    more = {"CPU": f"{share:.1%} of a core", "RSS": f"{memory:.0f} MiB", "stolen by the host": stolen()}
    return Figure(f"{what}, {len(hostile)} triggers", {**delays, **floors, **more})


def _latencies(stubs: tuple[Any, Any], request: pb.GetMetricsRequest, began: float) -> tuple[list[float], list[float]]:
    """Call two instances in turn and return the latencies of each."""
    latencies: tuple[list[float], list[float]] = ([], [])
    for call in range(int(_SECONDS * _CALLS_PER_SECOND)):
        for number, stub in enumerate(stubs):
            time.sleep(max(0.0, began + (call + number / 2) / _CALLS_PER_SECOND - time.monotonic()))
            at = time.monotonic()
            stub.GetMetrics(request, timeout=START_SECONDS)
            latencies[number].append(time.monotonic() - at)
    return latencies


if __name__ == "__main__":
    run_alone(TITLE, figures())
