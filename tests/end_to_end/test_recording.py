# SPDX-License-Identifier: Apache-2.0
"""Tests that a recording of engines is played as the engines were."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.wire import evaluation_pb2_grpc as evaluation_pb_grpc
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from tests import forked
from tests.apiserver import FakeApiServer
from tests.end_to_end.test_engines import Cluster, Pages
from tests.engines.vllm_pages import vllm_page
from tests.limits import WAIT_SECONDS
from tests.polling import pause
from tests.serving import Serving, refused_to_start

PORT = 8000


class RecordedCluster:
    """ai/llama with an engine in each pod, which ``record`` reaches through forwarded ports."""

    def __init__(self, folder: Path, server: FakeApiServer, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.server = server
        self.kubeconfig = server.kubeconfig(folder / "kubeconfig")
        self._stack = stack
        self.file = folder / "llama.jsonl.gz"

    def run(self, *pages: bytes | Callable[[], bytes], **metadata: str) -> None:
        self.server.scaled_object("llama", **metadata)  # type: ignore[arg-type]
        self.server.scale("llama", len(pages))
        for number, page in enumerate(pages):
            engine = self._stack.enter_context(Pages("127.0.0.1"))
            engine.page = page
            self.server.pod(f"llama-{number}", "gpu-1", address=f"10.0.0.{number + 1}")
            self.server.forwards["ai", f"llama-{number}", PORT] = engine.port

    def record(self, *arguments: str, duration: float = 2.0) -> str:
        """Record, and return what the command writes on standard error."""
        outcome = forked.run((*self.command, *arguments, "--duration", str(duration)), timeout=WAIT_SECONDS)
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stderr

    @property
    def command(self) -> tuple[str, ...]:
        kubeconfig = ("--kubeconfig", str(self.kubeconfig))
        return ("record", "--engines", "ai/llama", *kubeconfig, "--out", str(self.file), *FAST)


FAST = ("--scrape-interval", "0.2")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RecordedCluster]:
    with FakeApiServer() as server, contextlib.ExitStack() as stack:
        yield RecordedCluster(tmp_path, server, stack)


class Replayed:
    """An instance that replays a recording."""

    def __init__(self, file: Path, stack: contextlib.ExitStack) -> None:
        self.serving = stack.enter_context(Serving("--backend", f"replay:{file}", "--peers", "none"))

    def explain(self, is_expected: Callable[[Any], object], **metadata: str) -> Any:
        """Call Explain until the evaluation is as expected."""
        request = pb.ScaledObjectRef(name="llama", namespace="ai", scalerMetadata=metadata)
        with grpc.insecure_channel(f"127.0.0.1:{self.serving.port}") as channel:
            stub: Any = evaluation_pb_grpc.EvaluationsStub(channel)  # type: ignore[no-untyped-call]
            while not is_expected(evaluation := stub.Explain(request, timeout=WAIT_SECONDS)):
                assert self.serving.process.poll() is None, evaluation
                pause()
        return evaluation


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def test_a_recording_gives_the_value_that_the_engines_gave(
    cluster: RecordedCluster, stack: contextlib.ExitStack
) -> None:
    metadata = {"profile": "llm", "metricType": "saturation"}
    cluster.run(vllm_page(waiting=10), vllm_page(kv=0.4), **metadata)
    said = cluster.record()
    assert "of 2 pod(s)" in said
    evaluation = Replayed(cluster.file, stack).explain(
        lambda it: it.HasField("value") and it.with_value == 2, **metadata
    )
    assert (evaluation.value, evaluation.active) == (250.0, True)
    assert [(one.pod, one.value) for one in evaluation.observations] == [("llama-0", 200.0), ("llama-1", 50.0)]
    assert evaluation.workload.target == "Deployment llama"
    [asked] = evaluation.observations[0].attempts
    assert (asked.engine, asked.status, asked.failure) == (True, 200, "")
    assert asked.url.startswith("http://198.1")


def test_the_value_of_a_recording_is_the_value_of_a_live_instance(tmp_path: Path) -> None:
    counted = itertools.count(1)

    def working() -> bytes:
        tokens = 1000.0 * next(counted)
        return vllm_page(running=16, kv=0.4, waiting=3, tokens=tokens, token_times=tokens, token_time=0.02)

    with FakeApiServer() as server, contextlib.ExitStack() as stack:
        live = Cluster(tmp_path, server, stack)
        live.run(working, vllm_page(waiting=10, kv=0.9), vllm_page(running=3, kv=0.2))
        metadata = {"profile": "llm", "metricType": "saturation", "enginePort": str(live.port), "minCoverage": "1"}
        live.wait_for_value(pytest.approx(60 + 200 + 25), **metadata)
        for number, engine in enumerate(live.engines):
            same = stack.enter_context(Pages("127.0.0.1"))  # the kubelet connects to the pod's own loopback interface
            same.page = engine.page
            server.forwards["ai", f"llama-{number}", live.port] = same.port
        recorded = RecordedCluster(tmp_path, server, stack)
        recorded.record(*(f"--metadata={key}={value}" for key, value in metadata.items()))
        evaluation = Replayed(recorded.file, stack).explain(lambda it: it.HasField("value"), **metadata)
        assert evaluation.value == pytest.approx(live.value(**metadata))
        assert [one.value for one in evaluation.observations] == pytest.approx([60.0, 200.0, 25.0])


def test_counters_grow_as_fast_as_they_did(cluster: RecordedCluster, stack: contextlib.ExitStack) -> None:
    counted = itertools.count(1)

    def working() -> bytes:
        tokens = 1000.0 * next(counted)
        return vllm_page(running=16, kv=0.4, tokens=tokens, token_times=tokens, token_time=0.02)

    metadata = {"profile": "llm", "itlFloorMs": "5", "minCoverage": "1"}
    cluster.run(working, **metadata)
    cluster.record(duration=3.0)
    evaluation = Replayed(cluster.file, stack).explain(lambda it: it.HasField("value"), **metadata)
    assert evaluation.value == pytest.approx(115 * 0.875)


def test_masked_labels_do_not_change_the_value(cluster: RecordedCluster, stack: contextlib.ExitStack) -> None:
    metadata = {"profile": "llm", "metricType": "saturation"}
    cluster.run(vllm_page(waiting=10), **metadata)
    cluster.record("--mask-labels", duration=1.0)
    evaluation = Replayed(cluster.file, stack).explain(lambda it: it.HasField("value"), **metadata)
    assert evaluation.value == 200.0


def test_a_pod_that_refused_every_port_is_played_as_one_without_an_engine(
    cluster: RecordedCluster, stack: contextlib.ExitStack
) -> None:
    cluster.run(vllm_page(), profile="llm")
    del cluster.server.forwards["ai", "llama-0", PORT]
    cluster.record(duration=1.0)
    evaluation = Replayed(cluster.file, stack).explain(lambda it: it.fallback, profile="llm")
    assert evaluation.fallback.startswith("no pod has a known engine (llama-0: no engine is found: port ")
    assert {one.failure for one in evaluation.observations[0].attempts} == {"the connection is refused"}


def test_a_recording_of_engines_is_not_played_at_another_speed_or_beside_a_cluster(cluster: RecordedCluster) -> None:
    cluster.run(vllm_page(), profile="llm")
    cluster.record(duration=0.5)
    backend = ("--backend", f"replay:{cluster.file}")
    assert refused_to_start(*backend, "--replay-speed", "2") == (
        1,
        f"keda-gpu-scaler: --replay-speed: Invalid value: 2: must be 1, because {cluster.file} has engines, and their "
        "counters would grow at another speed",
    )
    status, said = refused_to_start(*backend, "--kubeconfig", str(cluster.kubeconfig))
    assert status == 1
    assert said.endswith("the recording has the workload and its engines; leave the flag out")
