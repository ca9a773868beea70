# SPDX-License-Identifier: Apache-2.0
"""Tests of the status page, /metrics and Events of real processes."""

import contextlib
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests.apiserver import FakeApiServer
from tests.browser import Browser
from tests.free_ports import free_port
from tests.kubelet import FakeKubelet
from tests.limits import WAIT_SECONDS
from tests.polling import pause
from tests.serving import SERVING, Serving, recorded

RECORDING = (
    "timestamp, index, uuid, name, utilization.gpu [%]",
    "2026/01/01 00:00:00.000, 0, GPU-0, NVIDIA H100, 92 %",
    "2026/01/01 00:00:01.000, 0, GPU-0, NVIDIA H100, 92 %",
)


class Pair:
    """Two instances and a workload on the node of the second; KEDA asks the first."""

    def __init__(self, folder: Path, server: FakeApiServer, stack: contextlib.ExitStack) -> None:
        self.server = server
        kubelet = FakeKubelet(folder / "kubelet.sock")
        kubelet.start()
        stack.callback(kubelet.stop)
        kubelet.hold({"llama-0": ["GPU-0"]})
        server.scale("llama", 1)
        server.scaled_object("llama")
        server.pod("llama-0", "gpu-2")
        ports, self.metrics_port = (free_port(), free_port()), free_port()
        cluster = ("--kubeconfig", str(server.kubeconfig(folder / "kubeconfig")))
        peers = ("--peers", ",".join(f"127.0.0.1:{port}" for port in ports).join(("static:", "")))
        self.other = stack.enter_context(
            Serving(
                *("--port", str(ports[1]), "--backend", recorded(folder, *RECORDING), "--node-name", "gpu-2"),
                *("--pod-resources", str(kubelet.path), "--peers", "none", "--kubeconfig", "off"),
            )
        )
        self.other.wait_for_health(SERVING)
        self.asked = stack.enter_context(
            Serving(
                *("--port", str(ports[0]), "--metrics-port", str(self.metrics_port), "--backend", "none"),
                *("--node-name", "front", "--pod-resources", "off", "--stale-after", "1", *peers, *cluster),
            )
        )

    def ask(self) -> float | None:
        """Ask as KEDA does; None where the answer is an error."""
        ref = pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata={})
        try:
            answer = self.asked.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref), timeout=WAIT_SECONDS)
        except grpc.RpcError:
            assert self.asked.process.poll() is None, "the server has ended"
            return None
        value: float = answer.metricValues[0].metricValueFloat
        return value

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=WAIT_SECONDS) as answer:
            text: str = answer.read().decode()
            return text


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(FakeApiServer())
        yield Pair(tmp_path, server, stack)


def test_the_page_and_the_metrics_tell_of_peers_watches_and_what_keda_was_told(pair: Pair) -> None:
    assert "This instance got no request from KEDA" in pair.get("/")
    while pair.ask() != 92.0:
        pause()
    while "92 %</td><td>80 %" not in (page := pair.get("/")):
        pause()
    assert re.search(r"<th scope=rowgroup colspan=7>gpu-2 ", page)
    assert "<td>ai/llama-0</td>" in page
    assert "This instance follows 2 instances" in page
    text = pair.get("/metrics")
    assert "keda_gpu_scaler_peers_followed 2\n" in text
    assert 'keda_gpu_scaler_api_watches{resource="pods",state="watching"} 1\n' in text
    assert 'keda_gpu_scaler_api_watches{resource="scaledobjects.keda.sh",state="watching"} 1\n' in text
    counted = re.search(r'request_duration_seconds_count\{method="GetMetrics"\} (\d+)', text)
    assert counted is not None
    assert int(counted[1]) >= 1


def test_the_page_of_a_workload_shows_the_last_hour_and_the_pods(pair: Pair) -> None:
    while pair.ask() != 92.0:
        pause()
    while "llama-0</th><td>gpu-2</td><td>92 %</td><td>with value</td>" not in (
        page := pair.get("/workload?namespace=ai&name=llama")
    ):
        pause()
    assert "<title>ai/llama</title>" in page
    assert re.search(r"<path class=measured d=\"M3[0-9.]+ [0-9.]+", page)
    assert "<li>scope workload: " in page
    assert "<svg " in pair.get("/")
    with pytest.raises(urllib.error.HTTPError, match="404") as found:
        pair.get("/workload?namespace=ai&name=nope")
    assert "This instance got no request from KEDA about ai/nope" in found.value.read().decode()


def test_a_trigger_that_stops_being_answerable_is_an_event_of_its_scaled_object(pair: Pair) -> None:
    while pair.ask() != 92.0:
        pause()
    assert pair.server.events() == []
    pair.other.process.kill()
    while not pair.server.events():
        pair.ask()
        pause()
    [event] = pair.server.events()
    assert (event["type"], event["reason"]) == ("Warning", "GPUTriggerUnanswered")
    assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("ScaledObject", "llama")
    assert event["reportingInstance"] == "front"
    assert "keda_gpu_metric has no value: " in event["message"]
    assert "node gpu-2 last answered" in event["message"]
    while "<span class=bad>no value</span>" not in pair.get("/"):
        pause()


def test_a_browser_shows_a_running_instance_and_objects_to_nothing(pair: Pair) -> None:
    with Browser() as browser:
        while pair.ask() != 92.0:
            pause()
        browser.open(f"http://127.0.0.1:{pair.metrics_port}/")
        while ("rowheader", "ai/llama") not in (tree := browser.tree()):
            pause()
            browser.run("refresh()")
        assert ("heading", "keda-gpu-scaler on front") in tree
        assert browser.errors == []
