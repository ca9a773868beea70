# SPDX-License-Identifier: Apache-2.0
"""Tests of engines and demand with a real process, an API server and pages over HTTP."""

import contextlib
import http.server
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.apiserver import FakeApiServer
from tests.engines.vllm_pages import vllm_page
from tests.free_ports import free_port
from tests.limits import WAIT_SECONDS
from tests.polling import pause
from tests.serving import Serving

QUEUE = "inference_extension_flow_control_queue_size"


class Pages:
    """An HTTP server on one of loopback's addresses, whose page a test sets; None hangs up on whoever asks."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.page: bytes | Callable[[], bytes] | None = b""
        self.asked = 0
        pages = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                pages.asked += 1
                if pages.page is None:
                    self.connection.close()
                    return
                page = pages.page() if callable(pages.page) else pages.page
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    super().handle()

        self._server = http.server.ThreadingHTTPServer((address, port), Handler)
        self._server.daemon_threads = True
        self.address, self.port = address, self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "Pages":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Cluster:
    """ai/llama, its pods' engines, a source of demand, and the front end that KEDA asks."""

    def __init__(self, folder: Path, server: FakeApiServer, stack: contextlib.ExitStack) -> None:
        self.server = server
        self.stack = stack
        self.picker = stack.enter_context(Pages("127.0.0.1"))
        self.port = free_port()
        self.engines: list[Pages] = []
        flags = ("--backend", "none", "--kubeconfig", str(server.kubeconfig(folder / "kubeconfig")), "--peers", "none")
        paces = ("--scrape-interval", "0.1", "--demand-interval", "0.1", "--stale-after", "1")
        self.front_end = stack.enter_context(Serving(*flags, *paces, "--allow-endpoints", "127.0.0.0/8"))

    def run(self, *pages: bytes | Callable[[], bytes], annotated: bool = False) -> None:
        """Let the workload have a ready pod for each page, whose engine serves it."""
        self.server.scaled_object("llama")
        self.server.scale("llama", len(pages))
        for number, page in enumerate(pages):
            engine = self.stack.enter_context(Pages(f"127.0.0.{number + 2}", self.port))
            engine.page = page
            self.engines.append(engine)
            annotations = {"prometheus.io/port": str(self.port)} if annotated else None
            self.server.pod(f"llama-{number}", "gpu-1", address=engine.address, annotations=annotations)

    def queue(self, size: float) -> None:
        self.picker.page = f'# TYPE {QUEUE} gauge\n{QUEUE}{{inference_pool="llama"}} {size}\n'.encode()

    @property
    def demand(self) -> dict[str, str]:
        return {"demandEndpoint": f"http://localhost:{self.picker.port}/metrics", "demand": "epp"}

    def ref(self, **metadata: str) -> pb.ScaledObjectRef:
        return pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata={"profile": "llm", **metadata})

    def value(self, **metadata: str) -> float:
        request = pb.GetMetricsRequest(scaledObjectRef=self.ref(**metadata))
        value: float = self.front_end.stub.GetMetrics(request, timeout=WAIT_SECONDS).metricValues[0].metricValueFloat
        return value

    def wait_for_value(self, expected: Any, **metadata: str) -> None:
        """Call until the value is this one: the first call may come before the first scrape on a slow machine."""
        self._wait_until(lambda: self._value_or_error(**metadata), lambda answer: answer == expected)

    def wait_for_error(self, part: str, **metadata: str) -> None:
        """Call until the answer is an error that contains this."""
        self._wait_until(lambda: self._value_or_error(**metadata), lambda answer: part in str(answer))

    def wait_for_last_step(self, beginning: str, **metadata: str) -> None:
        """Call Explain until its last step begins like this."""
        self._wait_until(lambda: self.steps(**metadata)[-1], lambda step: str(step).startswith(beginning))

    def _value_or_error(self, **metadata: str) -> float | str:
        try:
            return self.value(**metadata)
        except grpc.RpcError as error:
            return str(error.details())

    def _wait_until(self, call: Callable[[], Any], is_expected: Callable[[Any], object]) -> Any:
        """Return the first answer that is as expected."""
        ends_at = time.monotonic() + WAIT_SECONDS
        while not is_expected(answer := call()):
            assert time.monotonic() < ends_at, answer
            pause()
        return answer

    def active(self, **metadata: str) -> bool:
        """Call until the activity is known: the first call may come before the first scrape on a slow machine."""
        known = self._wait_until(lambda: self._active_or_error(**metadata), lambda answer: isinstance(answer, bool))
        return known is True

    def _active_or_error(self, **metadata: str) -> bool | str:
        try:
            result: bool = self.front_end.stub.IsActive(self.ref(**metadata), timeout=WAIT_SECONDS).result
        except grpc.RpcError as error:
            return str(error.details())
        return result

    def steps(self, **metadata: str) -> list[str]:
        with grpc.insecure_channel(f"127.0.0.1:{self.front_end.port}") as channel:
            stub: Any = evaluation_pb_grpc.EvaluationsStub(channel)  # type: ignore[no-untyped-call]
            return list(stub.Explain(self.ref(**metadata), timeout=WAIT_SECONDS).steps)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with FakeApiServer() as server, contextlib.ExitStack() as stack:
        yield Cluster(tmp_path, server, stack)


def test_pods_are_scraped_one_by_one_and_added_up(cluster: Cluster) -> None:
    cluster.run(vllm_page(waiting=10), vllm_page(kv=0.4))
    cluster.wait_for_value(250.0, metricType="saturation", enginePort=str(cluster.port))
    steps = cluster.steps(metricType="saturation", enginePort=str(cluster.port))
    assert any(f"pod llama-0: 200 % by vllm at http://127.0.0.2:{cluster.port}/metrics" in step for step in steps)


def test_the_work_of_engines_is_measured_between_two_pages(cluster: Cluster) -> None:
    counted = itertools.count(1)

    def working() -> bytes:
        tokens = 1000.0 * next(counted)
        return vllm_page(running=16, kv=0.4, tokens=tokens, token_times=tokens, token_time=0.02)

    cluster.run(working, vllm_page(kv=0.1))
    metadata = {"enginePort": str(cluster.port), "itlFloorMs": "5", "minCoverage": "1"}
    # It works 1 - 5 / 20 of its time, and 1 - 5 / 50 at the target: 83 %. With half of the rest for the cache, 87.5 %.
    cluster.wait_for_value(pytest.approx(115 * 0.875), **metadata)
    steps = cluster.steps(**metadata)
    assert any("pod llama-0: 101 % by vllm" in step and "20 ms per token" in step for step in steps), steps
    assert any("pod llama-1: 0 % by vllm" in step for step in steps), "a cache in use without a request is no work"


def test_an_annotation_says_where_an_engine_is(cluster: Cluster) -> None:
    cluster.run(vllm_page(waiting=10), annotated=True)
    cluster.wait_for_value(200.0, metricType="saturation")


def test_an_engine_that_hangs_up_is_unknown_and_moves_nothing(cluster: Cluster) -> None:
    cluster.run(vllm_page(waiting=10), vllm_page(waiting=10))
    port = str(cluster.port)
    cluster.wait_for_value(400.0, metricType="saturation", enginePort=port, minCoverage="1")
    cluster.engines[1].page = None
    cluster.wait_for_last_step(
        "active: it is not known whether the workload is idle",
        metricType="saturation",
        enginePort=port,
        minCoverage="1",
    )
    cluster.wait_for_error(
        "no fresh reading of 1 of 2 ready pods", metricType="saturation", enginePort=port, minCoverage="1"
    )
    # Half of the pods have a value: it asks for four replicas, and the missing pod counts as idle for scaling up.
    cluster.wait_for_value(200.0, metricType="saturation", enginePort=port)


def test_a_queue_at_the_picker_wakes_what_sleeps_by_push(cluster: Cluster) -> None:
    cluster.queue(0)
    cluster.run()
    stream = cluster.front_end.stub.StreamIsActive(cluster.ref(**cluster.demand), timeout=WAIT_SECONDS)
    assert next(stream).result is False
    assert cluster.active(**cluster.demand) is False
    cluster.queue(1)
    assert next(stream).result is True
    assert cluster.active(**cluster.demand) is True
    stream.cancel()


def test_a_picker_that_breaks_down_neither_wakes_nor_puts_to_sleep(cluster: Cluster) -> None:
    cluster.picker.page = None
    cluster.run()
    assert cluster.active(**cluster.demand) is False
    cluster.run(vllm_page())
    while not cluster.active(enginePort=str(cluster.port), **cluster.demand):
        pause()
    cluster.wait_for_last_step(
        "active: it is not known whether the workload is idle: demand at http://localhost:",
        enginePort=str(cluster.port),
        **cluster.demand,
    )


def test_what_nobody_asks_about_is_not_scraped(cluster: Cluster) -> None:
    cluster.run(vllm_page(waiting=10))
    assert cluster.active(report="average", metricType="gpu_utilization", profile="triton-inference") in (True, False)
    assert cluster.engines[0].asked == 0


@pytest.mark.parametrize(
    ("url", "why"),
    [
        pytest.param("http://169.254.169.254/latest", "link-local or cloud metadata address", id="metadata"),
        pytest.param("http://[::ffff:169.254.169.254]/", "link-local or cloud metadata address", id="metadata in IPv6"),
        pytest.param("http://[fe80::1]/", "link-local or cloud metadata address", id="link-local"),
        pytest.param("http://192.0.2.1/", "leads to no Service and no watched pod", id="not listed"),
        pytest.param("http://no-such-host.invalid/", "cannot be resolved", id="a name that does not resolve"),
    ],
)
def test_a_url_that_must_not_be_asked_is_not(cluster: Cluster, url: str, why: str) -> None:
    cluster.run(vllm_page())
    cluster.wait_for_error(why, engineEndpoint=url)
