# SPDX-License-Identifier: Apache-2.0
"""What does it cost to scrape engines, and how soon is a request heard? ``python -m benchmarks.bench_engines``.

A front end scrapes 500 pods of 50 workloads every two seconds, for which one other process stands, and is asked about
each workload at KEDA's pace, 18 calls a minute. Beside them a workload sleeps whose picker is looked at twice a second.
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
    HOME,
    START_SECONDS,
    Figure,
    Serve,
    in_milliseconds,
    percentiles,
    run_alone,
    stolen_since_now,
    workload_request,
)
from keda_gpu_scaler.wire import externalscaler_pb2 as pb

TITLE = "A front end that scrapes engines, pages of 38 KB, every 2 s; 10 pods a workload"
PODS, HOSTILE, WAKES = 500, 50, 100
_SECONDS = 30.0
_CALLS_A_SECOND = 15  # 50 workloads, 18 calls a minute each


class _Crowd:
    """The other process, for as long as the ``with`` block."""

    def __init__(self, pods: int, hostile: int = 0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="engines-")
        command = (sys.executable, "-m", "benchmarks.engine_crowd", str(pods), str(hostile), self._folder.name)
        self._process = subprocess.Popen(command, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._hears, says = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self.told: dict[str, Any] = json.loads(says.readline())
        self.workloads = max(1, pods // 10)

    def __enter__(self) -> "_Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self._hears.close()
        self._process.wait(20)
        self._folder.cleanup()

    def let_wait(self, size: int) -> None:
        self._hears.write(f"queue {size}\n")
        self._hears.flush()

    def metadata(self) -> dict[str, str]:
        return {"profile": "llm", "enginePort": str(self.told["port"])}

    def waking(self) -> pb.ScaledObjectRef:
        url = f"http://127.0.0.1:{self.told['port']}/metrics"
        metadata = {**self.metadata(), "demandEndpoint": url, "demand": "epp", "demandHoldSeconds": "0"}
        return pb.ScaledObjectRef(name="llama-asleep", namespace="ai", scalerMetadata=metadata)


def figures() -> Iterator[Figure]:
    """The cost of scraping, what hostile engines do to others, and the time from a request to the push."""
    for pods, hostile in ((0, 0), (PODS, 0), (PODS, HOSTILE)):
        with _Crowd(pods or 10, hostile) as crowd, _front_end(crowd) as serve:
            serve.wait_until_it_listens()
            yield _scraped(crowd, serve, pods, hostile)
            if pods:
                delays = list(_wakes(crowd, serve))
                yield Figure(
                    f"{pods} pods, {hostile} of them hostile: a request at the picker to the pushed true",
                    {key: in_milliseconds([value]) for key, value in percentiles(delays).items()},
                )


def _front_end(crowd: _Crowd) -> Serve:
    flags = ("--backend", "none", "--peers", "none", "--kubeconfig", crowd.told["kubeconfig"])
    return Serve(None, *flags, "--allow-endpoints", "127.0.0.0/8")


def _scraped(crowd: _Crowd, serve: Serve, pods: int, hostile: int) -> Figure:
    with serve.stub() as stub:
        if pods:
            for number in range(1, crowd.workloads + 1):
                _answered(stub, number, crowd)
        time.sleep(12)  # the default window of ten seconds is full
        stolen, cpu, began = stolen_since_now(), serve.cpu_seconds(), time.monotonic()
        latencies = []
        for call in range(int(_SECONDS * _CALLS_A_SECOND) if pods else 0):
            due = began + call / _CALLS_A_SECOND
            time.sleep(max(0.0, due - time.monotonic()))
            at = time.monotonic()
            _answered(stub, call % crowd.workloads + 1, crowd)
            latencies.append(time.monotonic() - at)
        if not pods:
            time.sleep(_SECONDS)
        share = (serve.cpu_seconds() - cpu) / (time.monotonic() - began)
    told = {key: in_milliseconds([value]) for key, value in percentiles(latencies or [0.0]).items()}
    return Figure(
        f"{pods} pods, {hostile} of them hostile: GetMetrics at {_CALLS_A_SECOND if pods else 0}/s",
        {
            **told,
            "CPU": f"{share:.1%} of a core",
            "RSS": f"{serve.memory().rss:.0f} MiB",
            "stolen by the host": stolen(),
        },
    )


def _wakes(crowd: _Crowd, serve: Serve) -> Iterator[float]:
    """Let a request come to a workload that sleeps, and wait for the push; again and again."""
    pushed: list[tuple[float, bool]] = []
    news = threading.Condition()

    def listen(stream: Any) -> None:
        try:
            for answer in stream:
                with news:
                    pushed.append((time.monotonic(), answer.result))
                    news.notify()
        except grpc.RpcError:
            return

    def told(state: bool) -> float:
        with news:
            if not news.wait_for(lambda: bool(pushed) and pushed[-1][1] is state, START_SECONDS):
                raise TimeoutError("nothing was pushed")
            return pushed[-1][0]

    with serve.stub() as stub:
        stream = stub.StreamIsActive(crowd.waking())
        listener = threading.Thread(target=listen, args=(stream,))
        listener.start()
        told(False)
        for _ in range(WAKES):
            time.sleep(random.random())  # noqa: S311 - at any moment of the pace
            came = time.monotonic()
            crowd.let_wait(1)
            yield told(True) - came
            crowd.let_wait(0)
            told(False)
        stream.cancel()
        listener.join()


def _answered(stub: Any, workload: int, crowd: _Crowd) -> float:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            answer = stub.GetMetrics(workload_request(workload, **crowd.metadata()), timeout=START_SECONDS)
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            value: float = answer.metricValues[0].metricValueFloat
            return value


if __name__ == "__main__":
    run_alone(TITLE, figures())
